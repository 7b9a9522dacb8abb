"""Augmentation of image batches, from random numbers keyed by seed, epoch and sample."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, field_validator

from finetune.schema import Value

Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]


class Augmentation(Value):
    """What happens to training images; evaluation never sees it."""

    crop: Literal["none", "pad", "resized"] = "resized"
    """`pad` shifts by up to `pad` of the side; `resized` cuts out a box and enlarges it."""
    pad: Probability = 0.125
    """Largest shift of a `pad` crop, as a share of the side; what comes into view is black."""
    scale: tuple[Share, Share] = (0.35, 1.0)
    """Smallest and largest share of the area that a `resized` crop keeps."""
    ratio: tuple[PositiveFloat, PositiveFloat] = (0.75, 4 / 3)
    """Smallest and largest width / height of a `resized` crop before it is squared."""
    flip: Probability = 0.5
    """Probability of a left-right flip; 0 for digits, text and other things with a handedness."""
    rand_augment: NonNegativeInt = 0
    """Operations of RandAugment (Cubuk et al. 2019, arXiv:1909.13719) on each image."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """Strength of RandAugment, of 30."""
    mixup: NonNegativeFloat = 0.0
    """Alpha of MixUp (Zhang et al. 2017, arXiv:1710.09412); 0 is off."""
    cutmix: NonNegativeFloat = 0.0
    """Alpha of CutMix (Yun et al. 2019, arXiv:1905.04899); 0 is off. With MixUp: half each."""
    erasing: Probability = 0.0
    """Probability of random erasing (Zhong et al. 2017, arXiv:1708.04896), to the mean colour."""

    @field_validator("scale", "ratio")
    @classmethod
    def _smallest_first(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"the smaller comes first: ({value[1]}, {value[0]})")
        return value

    @property
    def is_off(self) -> bool:
        """Whether every epoch sees each image the same."""
        chances = (self.flip, self.rand_augment, self.mixup, self.cutmix, self.erasing)
        return self.crop == "none" and not any(chances)
