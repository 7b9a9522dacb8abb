"""From an image cell to RGB pixels: what every kind of file is turned into.

The order is that of `transformers.pipeline`, so that a saved model sees what training saw:
EXIF rotation is applied, then Pillow converts to RGB. That means: greyscale is repeated; of
palettes and of images with alpha the colours are taken and the alpha is dropped; CMYK and YCbCr
are converted without a colour profile; of an animation the first frame counts. The one departure
is 16-bit and 32-bit greyscale, which Pillow would clip at 255: here it is scaled to 8 bits.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from finetune.errors import escaped

MAX_PIXELS = 64 * 1024 * 1024
# Not all that Pillow opens: some formats have no mark of their own, and EPS would start a program.
FORMATS = (
    "PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF", "ICO",
)  # fmt: skip
_ORIENTATION = 0x0112


class Unreadable(Exception):
    """This one image cannot be used; the message says why."""


def read_bytes(cell: Mapping[str, Any]) -> bytes:
    """Return the content of an image cell; raise Unreadable if there is none."""
    content = cell.get("bytes") if cell else None
    if content is None:
        path = cell.get("path") if cell else None
        if not path:
            raise Unreadable("the cell has neither a path nor bytes")
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError as error:
            raise Unreadable(error.strerror or type(error).__name__) from error
        except ValueError as error:  # a null character in the name
            raise Unreadable(str(error)) from error
    if not content:
        raise Unreadable("empty, 0 bytes")
    return bytes(content)


def open_image(content: bytes) -> Image.Image:
    """Return the image with only its header read; raise Unreadable if it is none or too large."""
    try:
        Image.init()
        known = [name for name in FORMATS if name in Image.OPEN]
        image = Image.open(io.BytesIO(content), formats=known)
    except UnidentifiedImageError:
        raise Unreadable(f"not an image, or none of {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise Unreadable(f"more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # decoders share no base for what they raise
        raise Unreadable(f"cannot be opened: {escaped(str(error))}") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Unreadable(f"{width} x {height} is more than {MAX_PIXELS:,} pixels")
    return image


def to_rgb(
    image: Image.Image, wanted: Callable[[int, int], tuple[int, int]] | None = None
) -> Image.Image:
    """Return the decoded, upright RGB image; raise Unreadable if its data is broken or cut short.

    With `wanted`, from the upright height and width to those that are needed, a JPEG may be
    decoded at 1/2, 1/4 or 1/8 of its size, but never smaller than that.
    """
    try:
        if wanted is not None and image.format in ("JPEG", "MPO"):
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
            size = wanted(width, height)[::-1] if turned else wanted(height, width)
            image.draft(None, size[::-1])
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):
            image = _eight_bits(image)
        if isinstance(image.info.get("transparency"), bytes):
            image = image.convert("RGBA")  # the same colours; Pillow warns of the direct way
        return image.convert("RGB")
    except Exception as error:  # decoders share no base for what they raise
        raise Unreadable(f"broken: {escaped(str(error) or type(error).__name__)}") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale deep greyscale: 65535 is white; floats run from 0 to 1 unless they reach higher."""
    values = np.asarray(image).astype(np.float64)
    top = float(values.max(initial=0.0))
    if image.mode == "F":
        white = 1.0 if top <= 1 else 255.0 if top <= 255 else 65535.0
    else:
        white = 65535.0 if image.mode.startswith("I;16") or top > 255 else 255.0
    return Image.fromarray(np.rint(values.clip(0, white) * (255 / white)).astype(np.uint8))
