"""The shipped tiny ViT on handwritten digits: offline, in minutes.

Expected: not measured.
Source: the digits are Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits (UCI).
"""

from finetune import Augmentation, Digits, Full, ImageClassification, Recipe, Timm, Train

recipe = Recipe(
    name="vit-digits",
    backbone=Timm(name="tiny-vit"),
    data=Digits(),
    # A mirrored digit is another sign: shifts only.
    task=ImageClassification(augmentation=Augmentation(crop="pad", pad=0.0625, flip=0)),
    method=Full(layer_decay=0.85),
    train=Train(epochs=10, batch_size=32, lr=1e-3),
)
