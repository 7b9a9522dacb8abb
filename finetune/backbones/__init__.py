"""The backbone families; this union is their registry."""

from typing import Annotated

from pydantic import Field

from finetune.backbones.timm import Timm
from finetune.backbones.torch_model import TorchModel
from finetune.backbones.transformers import Transformers

AnyBackbone = Annotated[Timm | Transformers, Field(discriminator="kind")]

__all__ = ["AnyBackbone", "Timm", "TorchModel", "Transformers"]
