"""RoBERTa-base on WNUT 17, names of rare and new things in noisy texts.

Expected: not measured; the shared task's best system reached an entity F1 of 0.419.
Source: Derczynski et al. 2017, Results of the WNUT2017 Shared Task, W17-4418.
"""

from finetune import Full, HubData, Recipe, TokenClassification, Train, Transformers

recipe = Recipe(
    name="ner-wnut17",
    backbone=Transformers(name="FacebookAI/roberta-base"),
    data=HubData(path="leondz/wnut_17", words="tokens", label="ner_tags"),
    task=TokenClassification(),
    method=Full(),
    train=Train(epochs=5, batch_size=16, lr=5e-5, schedule="linear", warmup=0.1, weight_decay=0.01),
)
