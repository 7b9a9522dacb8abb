"""ViT-S/16 on CIFAR-10, full fine-tuning.

Expected: not measured.
Source: Steiner et al. 2021, How to train your ViT?, arXiv:2106.10270.
"""

from finetune import Full, HubData, ImageClassification, Recipe, Timm, Train

recipe = Recipe(
    name="vit-cifar",
    backbone=Timm(name="vit_small_patch16_224.augreg_in21k"),
    data=HubData(path="uoft-cs/cifar10", image="img", label="label", validation=0.02),
    task=ImageClassification(),
    method=Full(layer_decay=0.75),
    train=Train(epochs=3, batch_size=512, lr=3e-4, warmup=0.1),
)
