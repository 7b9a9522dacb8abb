"""GPT-2 on Shakespeare's plays, training that goes on.

Expected: not measured.
Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners; the text from
Karpathy's char-rnn.
"""

from finetune import Full, LanguageModeling, Recipe, TextFiles, Train, Transformers

recipe = Recipe(
    name="gpt-shakespeare",
    backbone=Transformers(name="openai-community/gpt2", max_length=512),
    data=TextFiles(path="shakespeare.txt", sample_by="paragraph", validation=0.1, test=0.1),
    task=LanguageModeling(),
    method=Full(),
    train=Train(epochs=3, batch_size=16, lr=1e-4, warmup=0.1, weight_decay=0.1),
)
