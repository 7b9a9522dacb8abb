"""ViT-S/16 on CIFAR-10, low-rank adaptation (LoRA).

Expected: not measured.
Source: Hu et al. 2021, LoRA, arXiv:2106.09685; the weights as in vit-cifar.
"""

from finetune import LoRA
from recipes.vit_cifar import recipe as vit_cifar

recipe = vit_cifar.override("train.lr=1e-3", name="vit-cifar-lora", method=LoRA(rank=16, alpha=32))
