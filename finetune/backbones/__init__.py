"""The backbone families; this union is their registry."""

from finetune.backbones.timm import Timm

AnyBackbone = Timm

__all__ = ["AnyBackbone", "Timm"]
