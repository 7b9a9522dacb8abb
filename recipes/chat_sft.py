"""A small chat model on instructions with answers, low-rank adaptation (LoRA).

Expected: not measured.
Source: Wang et al. 2023, Self-Instruct, arXiv:2212.10560; Hu et al. 2021, LoRA, arXiv:2106.09685.
"""

from finetune import ChatTuning, HubData, LoRA, Recipe, Train, Transformers

recipe = Recipe(
    name="chat-sft",
    backbone=Transformers(name="HuggingFaceTB/SmolLM2-135M-Instruct", max_length=1024),
    data=HubData(path="HuggingFaceH4/no_robots", messages="messages", validation=0.05),
    task=ChatTuning(),
    method=LoRA(rank=16, alpha=32),
    train=Train(epochs=2, batch_size=16, lr=2e-4, warmup=0.05, weight_decay=0.0),
)
