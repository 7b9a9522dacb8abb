"""BERT-base on SQuAD 1.1, the part of a paragraph that answers a question.

Expected: not measured; Devlin et al. report an exact match of 0.808 and an F1 of 0.885 on the
development set.
Source: Devlin et al. 2019, BERT, arXiv:1810.04805, section 4.2.
"""

from finetune import Full, HubData, QuestionAnswering, Recipe, Train, Transformers

recipe = Recipe(
    name="qa-squad",
    backbone=Transformers(name="google-bert/bert-base-uncased", max_length=384),
    data=HubData(path="rajpurkar/squad", question="question", context="context", label="answers"),
    task=QuestionAnswering(),
    method=Full(),
    train=Train(epochs=3, batch_size=32, lr=5e-5, schedule="linear", warmup=0.1, weight_decay=0.01),
)
