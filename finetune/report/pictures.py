"""Small pictures of image cells, to stand inside a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

from finetune.images.decode import Unreadable, open_image, read_bytes, to_rgb

SIDE = 224
"""Longest side of a picture, in pixels."""
SMALL = 64
"""Pictures up to this side are kept to the pixel."""


def thumbnail(cell: Mapping[str, Any]) -> tuple[str, bool]:
    """Return a `data:` address for an image cell and whether it is small; empty if unreadable."""
    try:
        image = to_rgb(open_image(read_bytes(cell)), lambda height, width: (SIDE, SIDE))
    except Unreadable:
        return "", False
    small = max(image.size) <= SMALL
    stream = io.BytesIO()
    if small:
        image.save(stream, "PNG")
    else:
        image.thumbnail((SIDE, SIDE))
        image.save(stream, "JPEG", quality=80)
    kind = "png" if small else "jpeg"
    content = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"data:image/{kind};base64,{content}", small
