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

SIDE = 16
"""Height and width of the thumbnails that are compared."""
ALIKE = 0.98
"""From which correlation of their thumbnails two images are nearly the same."""
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
    thumbnail: Array

    @classmethod
    def of(cls, looks: Sequence[Look]) -> Looks:
        """Return many looks as one."""
        size, width, height = (
            np.array([getattr(look, name) for look in looks])
            for name in ("size", "width", "height")
        )
        digest = np.array([look.digest for look in looks], np.uint64)
        kinds, paths = [look.kind for look in looks], [look.path for look in looks]
        thumbnails = np.stack([look.thumbnail for look in looks])
        return cls(digest, size, width, height, kinds, paths, thumbnails)

    def beside_content(self) -> dict[str, Array]:
        """Return what no model should learn from, (images,) or (images, any), by name."""
        return {
            "file size": self.size,
            "image size": np.stack([self.width, self.height, self.width / self.height], 1),
            "file type": np.unique(self.kind, return_inverse=True)[1],
        }

    @property
    def vectors(self) -> Array:
        """(images, SIDE²) thumbnails less their mean, of length 1; 0 where they are of one colour.

        The product of two is the correlation of their greys, whatever brightness and contrast.
        """
        flat = self.thumbnail.reshape(len(self.thumbnail), -1).astype(np.float32)
        flat -= flat.mean(1, keepdims=True)
        length = np.linalg.norm(flat, axis=1, keepdims=True)
        # Grey levels that differ by a rounding error say nothing.
        return np.where(length > SIDE, flat / np.maximum(length, 1), 0).astype(np.float32)


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
    return Look(digest(content), len(content), width, height, kind, path, thumbnail)


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
    blank = np.flatnonzero(~looks.vectors.any(1))
    for found, what in ((small, f"{TINY} times smaller than the median"), (blank, "of one colour")):
        if len(found):
            shown = tuple(Example((int(row),)) for row in found[:EXAMPLES])
            said = f"{rows(len(found), len(survey), 'images')} {what}"
            findings.append(Finding("warning", said, len(found), shown))
    return findings
