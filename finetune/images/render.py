"""One pass over image cells: each is decoded on some core, and every failure is collected."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from finetune.errors import Failure
from finetune.images.decode import Unreadable, open_image, read_bytes, to_rgb

Pixels = npt.NDArray[np.uint8]
R = TypeVar("R")

CHUNK = 256


@dataclass(frozen=True)
class Rendering:
    """How the content of a file becomes the pixels that are kept."""

    name: str
    """Everything that the pixels depend on, as text."""
    shape: Callable[[Image.Image], Image.Image]
    """From a decoded RGB image to the one that is kept."""
    wanted: Callable[[int, int], tuple[int, int]] | None = None
    """The height and width needed of an image, so that a large JPEG can be decoded smaller."""

    def __call__(self, cell: Any) -> Pixels:
        """Return uint8 (height, width, 3) of an image cell or a Pillow image; raise Unreadable."""
        image = cell if isinstance(cell, Image.Image) else open_image(read_bytes(cell))
        return np.asarray(self.shape(to_rgb(image, self.wanted)))


def rendered(cells: Sequence[Any], rendering: Rendering) -> Iterator[Pixels | Failure]:
    """Yield pixels or a failure for each cell, in order."""

    def render(row: int, cell: Any) -> Pixels | Failure:
        try:
            return rendering(cell)
        except Unreadable as error:
            return Failure(row, name_of(cell), str(error))

    return over_cells(render, cells)


def over_cells(function: Callable[[int, Any], R], cells: Sequence[Any]) -> Iterator[R]:
    """Yield `function(row, cell)` in order, computed by as many threads as there are cores.

    Decoding and hashing release the interpreter's lock. The work is handed out in chunks, so that
    only as many results wait as a chunk has.
    """
    with ThreadPoolExecutor(num_threads()) as pool:
        for start in range(0, len(cells), CHUNK):
            chunk = cells[start : start + CHUNK]
            yield from pool.map(function, range(start, start + len(chunk)), chunk)


def name_of(cell: Any) -> str:
    """Return the file name of an image cell, as far as it has one."""
    path = cell.get("path") if isinstance(cell, dict) else None
    return path or "bytes in the table"


def num_threads() -> int:
    """Return how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
