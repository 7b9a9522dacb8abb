"""Small pictures of image cells, to stand inside a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune.images.decode import Unreadable, open_image, read_bytes, to_rgb
from finetune.protocols import Array

SIDE = 224
"""Longest side of a picture, in pixels."""
SMALL = 64
"""Pictures up to this side are kept to the pixel."""
ORANGE, BLUE = (232.0, 89.0, 12.0), (25.0, 105.0, 200.0)


def thumbnail(cell: Mapping[str, Any]) -> tuple[str, bool]:
    """Return a `data:` address for an image cell and whether it is small; empty if unreadable."""
    try:
        image = to_rgb(open_image(read_bytes(cell)), lambda height, width: (SIDE, SIDE))
    except Unreadable:
        return "", False
    small = max(image.size) <= SMALL
    if not small:
        image.thumbnail((SIDE, SIDE))
    return _address(image, "PNG" if small else "JPEG"), small


def overlay(pixels: Array, figures: Array) -> str:
    """Return a `data:` address of a grey picture that figures colour: orange above 0, blue below.

    `pixels` are uint8 (height, width, 3) and `figures` (height, width), of any unit.
    """
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    side = SIDE / max(figures.shape)
    size = round(side * figures.shape[1]), round(side * figures.shape[0])
    # What single pixels say is noise: shown is what their surroundings say together.
    smooth = gaussian_filter(figures.astype(np.float32), max(figures.shape) / 28)
    share = np.clip(smooth / (np.quantile(np.abs(smooth), 0.99) or 1.0), -1, 1)
    large = np.asarray(Image.fromarray(share).resize(size, Image.Resampling.BILINEAR))
    kept = Image.Resampling.NEAREST if max(figures.shape) <= SMALL else Image.Resampling.BILINEAR
    grey = Image.fromarray(pixels).convert("L").resize(size, kept)
    paper = 0.6 * np.asarray(grey, np.float32)[..., None] + 0.4 * 200
    strength = (0.85 * np.abs(large))[..., None]
    colour = np.where((large > 0)[..., None], ORANGE, BLUE)
    mixed = (1 - strength) * paper + strength * colour
    return _address(Image.fromarray(mixed.round().astype(np.uint8)), "JPEG")


def _address(image: Any, kind: str) -> str:
    stream = io.BytesIO()
    image.save(stream, kind, **({"quality": 80} if kind == "JPEG" else {}))
    content = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{content}"
