"""ResNet-50 on CIFAR-10, a linear head on frozen features.

Expected: not measured.
Source: Kornblith et al. 2019, Do Better ImageNet Models Transfer Better?, arXiv:1805.08974;
weights of Wightman et al. 2021, ResNet strikes back, arXiv:2110.00476.
"""

from finetune import FeatureExtraction, HubData, ImageClassification, Recipe, Timm

recipe = Recipe(
    name="resnet-cifar-features",
    backbone=Timm(name="resnet50.a1_in1k"),
    data=HubData(path="uoft-cs/cifar10", image="img", label="label", validation=0.1),
    task=ImageClassification(),
    method=FeatureExtraction(),
)
