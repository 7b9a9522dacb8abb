"""One look at every image file: what it is, whether it can be read, and how it looks from afar."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from finetune.console import Bar
from finetune.errors import Failure
from finetune.images.decode import Unreadable, open_image, read_bytes, to_rgb
from finetune.images.render import name_of, over_cells
from finetune.preflight.finding import EXAMPLES, Example, Finding, rows
from finetune.preflight.survey import Survey
from finetune.protocols import Array, Table

SIDE = 8
"""Height and width of the thumbnails that are compared."""
ALIKE = 0.94
"""From which product of their vectors two images are nearly the same."""
ALIKE_SMALL = 0.99
"""The same for images hardly larger than their thumbnails, whose look from afar is all there is."""
FLAT = 2
"""Grey levels by which an image of one colour may differ."""
TINY = 16
"""So many times fewer pixels than the median make an image suspiciously small."""


@dataclass(frozen=True)
class Look:
    """What one image file is."""

    digest: int
    """Of its content."""
    size: int
    """In bytes."""
    width: int
    height: int
    kind: str
    """Format and mode, such as `JPEG RGB`."""
    path: str
    """Empty where the table holds the bytes alone."""
    contrast: int
    """Between the darkest and the brightest grey, 0 to 255."""
    thumbnail: Array
    """(SIDE, SIDE) grey, uint8."""


@dataclass(frozen=True)
class Looks:
    """Those of many images, the images the first axis of each array."""

    digest: Array
    size: Array
    width: Array
    height: Array
    kind: list[str]
    path: list[str]
    contrast: Array
    thumbnail: Array

    @classmethod
    def of(cls, looks: Sequence[Look]) -> Looks:
        """Return many looks as one."""
        numbers = {
            name: np.array([getattr(look, name) for look in looks])
            for name in ("size", "width", "height", "contrast")
        }
        return cls(
            digest=np.array([look.digest for look in looks], np.uint64),
            kind=[look.kind for look in looks],
            path=[look.path for look in looks],
            thumbnail=np.stack([look.thumbnail for look in looks]),
            **numbers,
        )

    def beside_content(self) -> dict[str, Array]:
        """Return what no model should learn from, (images,) or (images, any), by name."""
        return {
            "file size": self.size,
            "image size": np.stack([self.width, self.height, self.width / self.height], 1),
            "file type": np.unique(self.kind, return_inverse=True)[1],
        }

    @property
    def alike(self) -> float:
        """From which product of their vectors two of these images are nearly the same."""
        small = np.median(self.width * self.height) <= (2 * SIDE) ** 2
        return ALIKE_SMALL if small else ALIKE

    @property
    def vectors(self) -> Array:
        """(images, 2 SIDE (SIDE - 1)) what each pixel of a thumbnail differs from the next, of
        length 1; 0 where nothing differs.

        It is the difference hash (Krawetz 2013), across and down, with its numbers instead of their
        signs: the product of two is near 1 whatever the brightness, contrast, size or format.
        """
        grey = self.thumbnail.astype(np.float32)
        steps = [np.diff(grey, axis=axis).reshape(len(grey), -1) for axis in (1, 2)]
        across = np.concatenate(steps, 1)
        length = np.linalg.norm(across, axis=1, keepdims=True)
        unit: Array = np.where(length > SIDE, across / np.maximum(length, 1), 0)
        return unit


def look(table: Table) -> tuple[list[Look], list[Failure]]:
    """Return the looks of all images that can be read, in order, and why the others cannot be."""
    looks, failures = [], []
    with Bar("looking at images", len(table)) as bar:
        for seen in over_cells(_look, table["image"]):
            bar.advance(1)
            if isinstance(seen, Failure):
                failures.append(seen)
            else:
                looks.append(seen)
    return looks, failures


def _look(row: int, cell: object) -> Look | Failure:
    try:
        content = read_bytes(cell)  # type: ignore[arg-type]
        image = open_image(content)
        (width, height), kind = image.size, f"{image.format} {image.mode}"
        path = (cell.get("path") if isinstance(cell, dict) else None) or ""
        grey = to_rgb(image, lambda height, width: (4 * SIDE, 4 * SIDE)).convert("L")
    except Unreadable as error:
        return Failure(row, name_of(cell), str(error))
    thumbnail = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX))
    contrast = int(np.ptp(np.asarray(grey)))
    return Look(digest(content), len(content), width, height, kind, path, contrast, thumbnail)


def digests(table: Table) -> Iterator[int]:
    """Yield the digest of each image's content, in order; 0 for what cannot be read."""

    def one(_: int, cell: object) -> int:
        try:
            return digest(read_bytes(cell))  # type: ignore[arg-type]
        except Unreadable:
            return 0

    return over_cells(one, table["image"])


def digest(content: bytes) -> int:
    """Return 64 bits of the content's hash."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


def check(survey: Survey, looks: Looks) -> list[Finding]:
    """Return what sizes and kinds the images have, and those that stand out."""
    pixels = looks.width * looks.height
    order = np.argsort(pixels, kind="stable")
    least, middle, most = (order[i] for i in (0, len(order) // 2, -1))
    sizes = [f"{looks.width[i]} x {looks.height[i]}" for i in (least, middle, most)]
    said = f"{sizes[0]} to {sizes[2]}, median {sizes[1]}"
    if len(set(sizes)) == 1:
        said = f"all {sizes[0]}"
    kinds = Counter(looks.kind).most_common()
    told = ", ".join(f"{kind} ({count:,})" for kind, count in kinds)
    findings = [
        Finding("note", f"Size in pixels: {said}", len(survey)),
        Finding("note", f"Format and mode: {told}", len(survey)),
    ]
    small = np.flatnonzero(pixels * TINY <= np.median(pixels))
    blank = np.flatnonzero(looks.contrast <= FLAT)
    for found, what in ((small, f"{TINY} times smaller than the median"), (blank, "of one colour")):
        if len(found):
            shown = tuple(Example((int(row),)) for row in found[:EXAMPLES])
            said = f"{rows(len(found), len(survey), 'images')} {what}"
            findings.append(Finding("warning", said, len(found), shown))
    return findings
