"""The backbone families; this union is their registry."""

from finetune.backbones.timm import Timm
from finetune.backbones.torch_model import TorchModel

AnyBackbone = Timm

__all__ = ["AnyBackbone", "Timm", "TorchModel"]
