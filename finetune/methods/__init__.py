"""The methods; this union is their registry."""

from typing import Annotated

from pydantic import Field

from finetune.methods.features import FeatureExtraction
from finetune.methods.full import Full, NormBias
from finetune.methods.lora import LoRA

AnyMethod = Annotated[Full | LoRA | FeatureExtraction | NormBias, Field(discriminator="kind")]

__all__ = ["AnyMethod", "FeatureExtraction", "Full", "LoRA", "NormBias"]
