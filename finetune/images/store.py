"""The pixel store: every image decoded once, on disk, shared by processes and by runs.

A store is a folder `pixels-<key>` with all pixels one after another (`pixels.bin`, uint8, height x
width x 3 each) and an index (`index.npy`: offset, height, width). It is written aside under a lock
and renamed when complete. The key covers the content of the images and what was done to them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from finetune.errors import DataError
from finetune.images.decode import Unreadable, open_image, printable, read_bytes, to_rgb
from finetune.images.draws import Ints
from finetune.images.progress import track

Pixels = npt.NDArray[np.uint8]
Failure = tuple[int, str, str]
"""Row, name of the file, and why it cannot be used."""

LAYOUT = 1
CHUNK = 256
DEFAULT_GIGABYTES = 20.0


@dataclass(frozen=True)
class Recipe:
    """How an image becomes the pixels that are kept."""

    name: str
    """Everything that the pixels depend on, as text: part of the store's key."""
    render: Callable[[Image.Image], Image.Image]
    draft: Callable[[Image.Image], None] | None = None
    """Told an image before it is decoded, so that a large JPEG can be decoded smaller."""

    def __call__(self, content: bytes) -> Pixels:
        """Return uint8 (height, width, 3); raise Unreadable."""
        image = open_image(content)
        if self.draft is not None:
            self.draft(image)
        return np.asarray(self.render(to_rgb(image)))


class UnreadableImages(DataError):
    """Images that cannot be used, all of them, found before training."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        self.failures = tuple(failures)
        lines = [
            f"  row {row}: {printable(name)}: {reason}"
            for row, name, reason in failures
        ]
        many = f"{len(failures)} images" if len(failures) > 1 else "1 image"
        super().__init__(
            f"{many} cannot be read:\n"
            + "\n".join(lines)
            + "\nRepair or remove them, or go on without them: data.on_error=skip"
        )


class Images(Protocol):
    """Decoded images by row."""

    sizes: Ints
    """(rows, 2) heights and widths."""

    def __len__(self) -> int: ...

    def fetch(self, rows: Ints) -> Sequence[Pixels]:
        """Return the pixels of these rows, (height, width, 3) each; one array if all are equal."""
        ...


class Mapped:
    """Images in a store, read through a memory map."""

    def __init__(self, folder: Path) -> None:
        index = np.load(folder / "index.npy")
        self.sizes: Ints = index[:, 1:]
        self._offsets = index[:, 0]
        flat = (
            np.memmap(folder / "pixels.bin", dtype=np.uint8, mode="r")
            if len(index)
            else None
        )
        self._flat = np.zeros(0, np.uint8) if flat is None else flat
        self._block: Pixels | None = None
        if len(index) and is_uniform(self.sizes):
            self._block = self._flat.reshape(len(index), *self.sizes[0], 3)

    def __len__(self) -> int:
        return len(self.sizes)

    def fetch(self, rows: Ints) -> Sequence[Pixels]:
        """Return the pixels of these rows."""
        if self._block is not None:
            return self._block[rows]
        images = []
        for row in rows.tolist():
            height, width = self.sizes[row].tolist()
            start = int(self._offsets[row])
            flat = self._flat[start : start + height * width * 3]
            images.append(flat.reshape(height, width, 3))
        return images


class Decoding:
    """Images decoded again each time they are asked for: what is left when the disk is full."""

    def __init__(self, cells: Sequence[Any], recipe: Recipe, sizes: Ints) -> None:
        self.sizes = sizes
        self._cells = cells
        self._recipe = recipe
        self._pool = ThreadPoolExecutor(_threads())

    def __len__(self) -> int:
        return len(self.sizes)

    def fetch(self, rows: Ints) -> Sequence[Pixels]:
        """Return the pixels of these rows."""
        images = list(self._pool.map(self._decode, rows.tolist()))
        return np.stack(images) if is_uniform(self.sizes) else images

    def _decode(self, row: int) -> Pixels:
        try:
            return self._recipe(read_bytes(self._cells[row]))
        except Unreadable as error:
            raise UnreadableImages(
                [(row, name_of(self._cells[row]), str(error))]
            ) from None


def is_uniform(sizes: Ints) -> bool:
    """Return whether all images are equally large."""
    return bool((sizes == sizes[:1]).all())


def open_images(cells: Sequence[Any], recipe: Recipe, cache: Path) -> Images:
    """Return the images of these cells, from the store under `cache` or decoded into it.

    Every image is decoded on the way, so that all broken ones are found: raises UnreadableImages.
    Past the disk limit only the sizes are kept, and each epoch decodes.
    """
    from filelock import FileLock

    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"pixels-{_key(cells, recipe)}"
    with FileLock(f"{folder}.lock"):
        if not (folder / "index.npy").exists():
            _build(cells, recipe, folder)
        os.utime(folder)
    if (folder / "pixels.bin").exists():
        return Mapped(folder)
    return Decoding(cells, recipe, np.load(folder / "index.npy")[:, 1:])


def find_failures(cells: Sequence[Any]) -> list[Failure]:
    """Return every cell that cannot be decoded, with its row, name and reason."""
    checked = Recipe("check", lambda image: image.resize((1, 1)))
    results = _decoded(cells, checked, "Checking images")
    return [result for result in results if isinstance(result, tuple)]


def name_of(cell: Any) -> str:
    """Return the file name of an image cell, as far as it has one."""
    return str((cell or {}).get("path") or "(bytes in the table)")


def _build(cells: Sequence[Any], recipe: Recipe, folder: Path) -> None:
    limit = disk_limit(folder.parent)
    aside = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    try:
        failures: list[Failure] = []
        index = np.zeros((len(cells), 3), dtype=np.int64)
        position = 0
        pixels = aside / "pixels.bin"
        with open(pixels, "wb") as file:
            for row, result in enumerate(_decoded(cells, recipe, "Decoding images")):
                if isinstance(result, tuple):
                    failures.append(result)
                    continue
                index[row] = position, *result.shape[:2]
                position += result.nbytes
                if position <= limit and not failures:
                    file.write(result.tobytes())
        if failures:
            raise UnreadableImages(failures)
        if position > limit:
            pixels.unlink()
        np.save(aside / "index.npy", index)
        os.rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _decoded(
    cells: Sequence[Any], recipe: Recipe, title: str
) -> Iterator[Pixels | Failure]:
    """Yield pixels or a failure for each cell, in order, decoding on all cores."""

    def decode(item: tuple[int, Any]) -> Pixels | Failure:
        row, cell = item
        try:
            return recipe(read_bytes(cell))
        except Unreadable as error:
            return row, name_of(cell), str(error)

    with ThreadPoolExecutor(_threads()) as pool:
        chunks = (pool.map(decode, chunk) for chunk in _chunks(cells))
        yield from track(
            (result for chunk in chunks for result in chunk), len(cells), title
        )


def _chunks(cells: Sequence[Any]) -> Iterable[list[tuple[int, Any]]]:
    for start in range(0, len(cells), CHUNK):
        yield list(enumerate(cells[start : start + CHUNK], start))


def _key(cells: Sequence[Any], recipe: Recipe) -> str:
    import PIL

    def digest(item: tuple[int, Any]) -> bytes:
        try:
            return hashlib.blake2b(read_bytes(item[1]), digest_size=16).digest()
        except Unreadable as error:
            return str(error).encode()

    total = hashlib.blake2b(digest_size=16)
    total.update(f"{LAYOUT} {recipe.name} Pillow {PIL.__version__}".encode())
    with ThreadPoolExecutor(_threads()) as pool:
        for chunk in _chunks(cells):
            total.update(b"".join(pool.map(digest, chunk)))
    return total.hexdigest()


def disk_limit(cache: Path) -> int:
    """Return how many bytes of pixels may be kept: FINETUNE_CACHE_GB, at most half the free disk."""
    given = os.environ.get("FINETUNE_CACHE_GB", "")
    try:
        gigabytes = float(given) if given else DEFAULT_GIGABYTES
    except ValueError:
        raise DataError(
            f"FINETUNE_CACHE_GB={given!r} is not a number of gigabytes; give one such as 20"
        ) from None
    return min(int(gigabytes * 1e9), shutil.disk_usage(cache).free // 2)


def _threads() -> int:
    return (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1
    )
