"""RoBERTa-base on SST-2, low-rank adaptation (LoRA).

Expected: not measured; Hu et al. report an accuracy of 0.951 on GLUE's development set, with 60
epochs.
Source: Hu et al. 2021, LoRA, arXiv:2106.09685, table 2 and appendix D.1.
"""

from finetune import HubData, LoRA, Recipe, TextClassification, Train, Transformers

recipe = Recipe(
    name="roberta-lora",
    backbone=Transformers(name="FacebookAI/roberta-base", max_length=512),
    data=HubData(path="stanfordnlp/sst2", text="sentence", label="label"),
    task=TextClassification(),
    method=LoRA(rank=8, alpha=8, dropout=0.1),
    train=Train(epochs=3, batch_size=16, lr=5e-4, schedule="linear", warmup=0.06, weight_decay=0.1),
)
