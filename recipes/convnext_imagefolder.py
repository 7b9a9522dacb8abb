"""ConvNeXt-T on any folder of class folders with photos.

Expected: not measured; it depends on the photos.
Source: Liu et al. 2022, A ConvNet for the 2020s, arXiv:2201.03545.
"""

from finetune import Full, ImageClassification, ImageFolder, Recipe, Timm, Train

recipe = Recipe(
    name="convnext-imagefolder",
    backbone=Timm(name="convnext_tiny.fb_in22k", drop_path=0.1),
    data=ImageFolder(path="./photos"),
    task=ImageClassification(),
    method=Full(layer_decay=0.8),
    train=Train(epochs=10, batch_size=32, lr=3e-4, label_smoothing=0.1),
)
