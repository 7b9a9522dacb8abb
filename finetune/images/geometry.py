"""Where a model looks: the native evaluation crop, and the size at which training keeps images.

The evaluation crop follows timm's evaluation transform step by step on Pillow images; a test holds
the two equal. Sizes are (height, width).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from finetune.images.draws import Floats, Ints

MARGIN = 1.15
INTERPOLATIONS = tuple(name.lower() for name in Image.Resampling.__members__)


@dataclass(frozen=True)
class Geometry:
    """Input size, how it is cut out of an image, and with which filter images are resized."""

    size: tuple[int, int]
    crop_pct: float
    crop_mode: str
    interpolation: str
    fill: tuple[int, int, int] = (0, 0, 0)
    """Colour around an image that does not fill its box."""

    @property
    def scaled(self) -> tuple[int, int]:
        """The size that an image is brought to before the centre is cut out."""
        height, width = self.size
        return math.floor(height / self.crop_pct), math.floor(width / self.crop_pct)

    @property
    def filter(self) -> Image.Resampling:
        """Pillow's name for the interpolation."""
        return Image.Resampling[self.interpolation.upper()]

    def evaluation(self, image: Image.Image) -> Image.Image:
        """Return the native evaluation crop of an RGB image, exactly `size`."""
        resized = image.resize(self._resized(image.height, image.width)[::-1], self.filter)
        if (resized.height, resized.width) == self.size:
            return resized
        return self._center(resized)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        target = self.scaled
        if self.crop_mode == "squash":
            return target
        ratios = height / target[0], width / target[1]
        if self.crop_mode == "border":
            return round(height / max(ratios)), round(width / max(ratios))
        if target[0] != target[1]:
            return round(height / min(ratios)), round(width / min(ratios))
        # A square target: the shorter side is met exactly and the longer one is cut down.
        if height <= width:
            return target[0], int(target[0] * width / height)
        return int(target[0] * height / width), target[0]

    def _center(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        canvas = Image.new("RGB", (width, height), self.fill)
        canvas.paste(image, (_offset(width - image.width), _offset(height - image.height)))
        return canvas

    def kept(self, height: int, width: int) -> tuple[int, int]:
        """Return the size at which training keeps an image: never larger than it is."""
        margin = max(MARGIN, 1 / self.crop_pct)
        needed = [math.ceil(side * margin) for side in self.size]
        scale = min(1.0, max(needed[0] / height, needed[1] / width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def training(self, image: Image.Image) -> Image.Image:
        """Return the RGB image as training keeps it, its aspect ratio unchanged."""
        height, width = self.kept(image.height, image.width)
        if (height, width) == (image.height, image.width):
            return image
        return image.resize((width, height), self.filter)

    def views(self, sizes: Ints) -> Floats:
        """Return the boxes (batch, 4) that the evaluation crop shows of images of these sizes."""
        ratios = sizes / np.array(self.scaled, dtype=np.float64)
        if self.crop_mode == "border":
            ratios = ratios.max(axis=1, keepdims=True)
        elif self.crop_mode != "squash":
            ratios = ratios.min(axis=1, keepdims=True)
        shape = ratios * np.array(self.size)
        return np.concatenate([(sizes - shape) / 2, shape], axis=1)


def _offset(free: int) -> int:
    """Return where an image begins: half of what is missing, or what is cut away, rounded."""
    return free // 2 if free > 0 else -round(-free / 2)
