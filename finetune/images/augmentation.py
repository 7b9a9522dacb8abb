"""Augmentation of image batches, from random numbers keyed by seed, epoch and sample."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt

from finetune.schema import Value


class Augmentation(Value):
    """What happens to training images; evaluation never sees it."""

    crop: Literal["none", "pad", "resized"] = "resized"
    """`pad` shifts by up to `pad` of the side; `resized` cuts out a box and enlarges it."""
    pad: float = 0.125
    scale: tuple[float, float] = (0.35, 1.0)
    """Smallest and largest share of the area that a `resized` crop keeps."""
    ratio: tuple[float, float] = (0.75, 4 / 3)
    """Smallest and largest width / height of a `resized` crop before it is squared."""
    flip: float = 0.5
    """Probability of a left-right flip; 0 for digits, text and other things with a handedness."""
    rand_augment: NonNegativeInt = 0
    """Operations of RandAugment (Cubuk et al. 2019, arXiv:1909.13719) on each image."""
    magnitude: NonNegativeInt = 9
    """Strength of RandAugment, of 30."""
    mixup: NonNegativeFloat = 0.0
    """Alpha of MixUp (Zhang et al. 2017, arXiv:1710.09412); 0 is off."""
    cutmix: NonNegativeFloat = 0.0
    """Alpha of CutMix (Yun et al. 2019, arXiv:1905.04899); 0 is off."""
    erasing: float = 0.0
    """Probability of random erasing (Zhong et al. 2017, arXiv:1708.04896)."""
