"""BERT-base on SST-2, full fine-tuning.

Expected: not measured; Devlin et al. report an accuracy of 0.935 on the hidden test set.
Source: Devlin et al. 2019, BERT, arXiv:1810.04805, section 4.1 and appendix A.3.
"""

from finetune import Full, HubData, Recipe, TextClassification, Train, Transformers

recipe = Recipe(
    name="bert-sst2",
    backbone=Transformers(name="google-bert/bert-base-uncased"),
    data=HubData(path="stanfordnlp/sst2", text="sentence", label="label"),
    task=TextClassification(),
    method=Full(),
    train=Train(epochs=3, batch_size=32, lr=2e-5, schedule="linear", warmup=0.1, weight_decay=0.01),
)
