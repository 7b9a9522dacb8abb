"""RandAugment (Cubuk et al. 2019, arXiv:1909.13719) on batches: one call for each kind of change.

The fourteen operations and their strengths are those of torchvision; images that drew the same
operation and direction are changed together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

OPERATIONS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness",
    "color", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize",
)  # fmt: skip
_SIGNED = range(1, 10)
STRONGEST = 30


def apply(images: Tensor, operations: Tensor, negative: Tensor, magnitude: int) -> Tensor:
    """Return uint8 images (batch, 3, h, w) after their operations (batch, n), one after another."""
    strength = magnitude / STRONGEST
    signed = (operations >= _SIGNED.start) & (operations < _SIGNED.stop)
    codes = (operations * 2 + (negative & signed)).tolist()  # one wait for the device, not many
    for step in range(operations.shape[1]):
        groups: dict[int, list[int]] = {}
        for place, code in enumerate(row[step] for row in codes):
            groups.setdefault(code, []).append(place)
        result = images.clone()
        for code, places in groups.items():
            name = OPERATIONS[code // 2]
            if name != "identity":
                chosen = torch.tensor(places, device=images.device)
                sign = -1.0 if code % 2 else 1.0
                result[chosen] = _operate(name, images[chosen], strength, sign)
        images = result
    return images


def _operate(name: str, images: Tensor, strength: float, sign: float) -> Tensor:
    from torchvision.transforms.v2 import functional

    height, width = images.shape[-2:]
    if name in ("posterize", "solarize", "autocontrast", "equalize"):
        plain: dict[str, Callable[[], Any]] = {
            "posterize": lambda: functional.posterize(images, 8 - round(strength * 4)),
            "solarize": lambda: functional.solarize(images, 255 * (1 - strength)),
            "autocontrast": lambda: functional.autocontrast(images),
            "equalize": lambda: functional.equalize(images),
        }
        return torch.as_tensor(plain[name]())
    if name in ("brightness", "color", "contrast", "sharpness"):
        adjust = getattr(functional, "adjust_saturation" if name == "color" else f"adjust_{name}")
        return torch.as_tensor(adjust(images, 1.0 + sign * 0.9 * strength))
    geometry: dict[str, Any] = {
        "angle": 0.0,
        "translate": [0, 0],
        "scale": 1.0,
        "shear": [0.0, 0.0],
    }
    if name == "rotate":
        geometry["angle"] = -sign * 30.0 * strength
    elif name == "translate_x":
        geometry["translate"] = [int(sign * 150.0 / 331.0 * width * strength), 0]
    elif name == "translate_y":
        geometry["translate"] = [0, int(sign * 150.0 / 331.0 * height * strength)]
    else:
        degrees = math.degrees(math.atan(sign * 0.3 * strength))
        geometry["shear"] = [degrees, 0.0] if name == "shear_x" else [0.0, degrees]
        geometry["center"] = [0, 0]
    return torch.as_tensor(functional.affine(images, **geometry))
