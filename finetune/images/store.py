"""The pixel store: every image decoded once, on disk, shared by processes and by runs.

A store is a folder `pixels-<key>` with all pixels one after another (`pixels.bin`, uint8, height x
width x 3 each) and an index (`index.npy`: offset, height, width). The key covers the content of
the images and what was done to them. A store is written aside under a lock and renamed when it is
complete. All stores together stay within FINETUNE_CACHE_GB (20 by default), and none takes more
than half of the free disk: the least recently used go first, and where there is no room only the
index is kept and every epoch decodes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from filelock import FileLock, Timeout

from finetune.console import Bar
from finetune.errors import DataError, Failure, UnreadableInputs
from finetune.images.decode import Unreadable, read_bytes
from finetune.images.draws import Ints
from finetune.images.render import (
    Pixels,
    Rendering,
    name_of,
    num_threads,
    over_cells,
    rendered,
)

LAYOUT = 1
"""Counts up when the same key would mean other pixels or other files."""
DEFAULT_GIGABYTES = 20.0

_opened: dict[Path, int] = {}
"""The stores that this process reads, and their bytes: never evicted by itself."""


Fetched: TypeAlias = "Pixels | list[Pixels]"
"""(batch, height, width, 3) where all are equally large, else (height, width, 3) each."""


class Images(Protocol):
    """Decoded images by row."""

    sizes: Ints
    """(rows, 2) heights and widths."""

    def __len__(self) -> int: ...

    def fetch(self, rows: Ints) -> Fetched:
        """Return the pixels of these rows."""
        ...


class InMemory:
    """Images that all have the same size, held."""

    def __init__(self, images: Sequence[Pixels]) -> None:
        self._block = np.stack(images) if images else np.zeros((0, 0, 0, 3), np.uint8)
        self.sizes: Ints = np.tile(self._block.shape[1:3], (len(self._block), 1))

    def __len__(self) -> int:
        return len(self._block)

    def fetch(self, rows: Ints) -> Fetched:
        """Return the pixels of these rows."""
        block: Pixels = self._block[rows]
        return block


class Mapped:
    """Images in a store, read through a memory map."""

    def __init__(self, folder: Path) -> None:
        index = np.load(folder / "index.npy")
        self.sizes: Ints = index[:, 1:]
        self._offsets = index[:, 0]
        self._flat = np.memmap(folder / "pixels.bin", dtype=np.uint8, mode="r")
        # Equal images lie one after another without gaps, so a batch is one indexing.
        self._block: Pixels | None = None
        if is_uniform(self.sizes):
            self._block = self._flat.reshape(len(index), *self.sizes[0], 3)
        _opened[folder] = len(self._flat)

    def __len__(self) -> int:
        return len(self.sizes)

    def fetch(self, rows: Ints) -> Fetched:
        """Return the pixels of these rows."""
        if self._block is not None:
            return self._block[rows]
        return [self._image(row) for row in rows.tolist()]

    def _image(self, row: int) -> Pixels:
        height, width = self.sizes[row].tolist()
        start = int(self._offsets[row])
        return self._flat[start : start + height * width * 3].reshape(height, width, 3)


class Decoding:
    """Images decoded again each time they are asked for: what is left when there is no room."""

    def __init__(self, cells: Sequence[Any], rendering: Rendering, sizes: Ints) -> None:
        self.sizes = sizes
        self._cells, self._rendering = cells, rendering
        self._pool = ThreadPoolExecutor(num_threads())

    def __len__(self) -> int:
        return len(self.sizes)

    def fetch(self, rows: Ints) -> Fetched:
        """Return the pixels of these rows; raise UnreadableInputs if a file was lost meanwhile."""
        images = list(self._pool.map(self._decode, rows.tolist()))
        return np.stack(images) if is_uniform(self.sizes) else images

    def _decode(self, row: int) -> Pixels:
        cell = self._cells[row]
        try:
            return self._rendering(cell)
        except Unreadable as error:
            raise UnreadableInputs([Failure(row, name_of(cell), str(error))], "image") from None


def is_uniform(sizes: Ints) -> bool:
    """Return whether all images are equally large, and there are any."""
    return len(sizes) > 0 and bool((sizes == sizes[:1]).all())


def open_images(cells: Sequence[Any], rendering: Rendering, cache: Path) -> Images:
    """Return the images of these cells, decoded into the store under `cache` if not yet there.

    All are decoded in one pass, so that all broken ones are found: raises UnreadableInputs. The
    others are then in a store of their own, and opening only them decodes nothing again.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        digests = _digests(cells)
        folder = cache / f"pixels-{_key(digests, rendering)}"
        with _lock(folder):
            if not folder.exists() or _could_be_kept(folder):
                _build(cells, digests, rendering, folder)
            os.utime(folder)
            failures = folder / "failures.json"
            if failures.exists():
                reasons = json.loads(failures.read_text("utf-8"))
                found = [Failure(i, name_of(cells[i]), why) for i, why in reasons]
                raise UnreadableInputs(found, "image")
            if (folder / "pixels.bin").exists():
                return Mapped(folder)
            return Decoding(cells, rendering, np.load(folder / "index.npy")[:, 1:])
    except OSError as error:
        raise DataError(
            f"The store of decoded images in {cache} cannot be used: "
            f"{error.strerror or error}. Make room or grant access there, or name another folder: "
            "FINETUNE_CACHE=PATH"
        ) from error


def _lock(folder: Path, timeout: float = -1) -> FileLock:
    """Return the lock of a store; with `timeout`, entering it raises Timeout after so long."""
    return FileLock(f"{folder}.lock", timeout)


def _could_be_kept(folder: Path) -> bool:
    """Return whether only the index is there although by now there is room for the pixels."""
    if (folder / "pixels.bin").exists() or not (folder / "index.npy").exists():
        return False
    return 0 < int(np.load(folder / "index.npy")[:, 1:].prod(axis=1).sum()) * 3 <= _room(folder)


def _build(cells: Sequence[Any], digests: list[bytes], rendering: Rendering, folder: Path) -> None:
    aside = folder.with_name(f".{folder.name}")
    for left in (aside, folder):  # by a process that was killed, or for want of room
        shutil.rmtree(left, ignore_errors=True)
    aside.mkdir()
    try:
        index, failures = _write(cells, rendering, aside)
        broken = {failure.row for failure in failures}
        kept = [row for row in range(len(cells)) if row not in broken]
        np.save(aside / "index.npy", index[kept])
        if failures:
            usable = folder.with_name(f"pixels-{_key([digests[i] for i in kept], rendering)}")
            with _lock(usable):
                if not usable.exists():
                    os.rename(aside, usable)
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            reasons = [(failure.row, failure.reason) for failure in failures]
            (aside / "failures.json").write_text(json.dumps(reasons), "utf-8")
        os.rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _evict(folder)


def _write(cells: Sequence[Any], rendering: Rendering, aside: Path) -> tuple[Ints, list[Failure]]:
    """Decode everything, write the pixels if there is room, and return index and failures."""
    failures: list[Failure] = []
    index = np.zeros((len(cells), 3), dtype=np.int64)
    position, room = 0, _room(aside)
    path = aside / "pixels.bin"
    with open(path, "wb", buffering=0) as file, Bar("decoding images", len(cells)) as bar:
        for row, result in enumerate(rendered(cells, rendering)):
            bar.advance(1)
            if isinstance(result, Failure):
                failures.append(result)
                continue
            index[row] = position, *result.shape[:2]
            position += result.nbytes
            if position <= room and not _written(file, result):
                room = -1
            if position > room:  # what is there already only takes up room
                file.truncate(0)
    if not 0 < position <= room:
        path.unlink()
    return index, failures


def _written(file: FileIO, pixels: Pixels) -> bool:
    """Return whether all of it could be written: a disk or quota that is nearly full takes part."""
    try:
        return file.write(pixels.tobytes()) == pixels.nbytes
    except OSError:
        return False


def _room(folder: Path) -> int:
    """Return how many bytes a new store may take beside those that this process reads."""
    free = shutil.disk_usage(folder.parent).free
    return min(disk_limit() - sum(_opened.values()), free // 2)


def _evict(fresh: Path) -> None:
    """Remove the least recently used stores until the rest fit, but none in use, and no `fresh`."""
    stores = []
    for folder in fresh.parent.glob("pixels-*/"):
        with suppress(FileNotFoundError):  # another process evicts as well
            stores.append((folder.stat().st_mtime, folder, _bytes(folder)))
    total = sum(size for _, _, size in stores)
    for _, folder, size in sorted(stores):
        if total <= disk_limit():
            return
        if folder != fresh and folder not in _opened:
            with suppress(Timeout), _lock(folder, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
                total -= size


def _bytes(folder: Path) -> int:
    with suppress(OSError):
        return (folder / "pixels.bin").stat().st_size
    return 0


def _digests(cells: Sequence[Any]) -> list[bytes]:
    """Return a hash of the content of each cell; of one that cannot be read, of the reason."""

    def digest(_: int, cell: Any) -> bytes:
        try:
            content = read_bytes(cell)
        except Unreadable as error:
            content = str(error).encode()
        return hashlib.blake2b(content, digest_size=16).digest()

    return list(over_cells(digest, cells))


def _key(digests: list[bytes], rendering: Rendering) -> str:
    import PIL

    what = f"{LAYOUT} {rendering.name} Pillow {PIL.__version__}".encode()
    return hashlib.blake2b(what + b"".join(digests), digest_size=16).hexdigest()


def disk_limit() -> int:
    """Return how many bytes all stores may take together; raise DataError if that is no number."""
    given = os.environ.get("FINETUNE_CACHE_GB", str(DEFAULT_GIGABYTES))
    try:
        return int(float(given) * 1e9)
    except (ValueError, OverflowError):
        raise DataError(
            f"FINETUNE_CACHE_GB={given!r} is no number of gigabytes. Give one, such as 20; "
            "0 keeps no pixels on disk."
        ) from None
