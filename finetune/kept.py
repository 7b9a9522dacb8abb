"""Files that keep what is slow to compute: one for each key, written once, read by every run."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from finetune.images.store import disk_limit

CHECKED = 8
"""Samples that are computed again when a file is read back: a key cannot hold a model's code."""


@contextmanager
def held(folder: Path, name: str, key: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the path of the file that keeps what belongs to `key`, which no other process has."""
    from filelock import FileLock

    text = json.dumps(key, sort_keys=True, default=str)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"
    with FileLock(f"{path}.lock"):
        yield path


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield another path, which becomes `path` only if all goes well."""
    aside = path.with_name(f".{path.name}.writing")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def agree(kept: Tensor, fresh: Tensor) -> bool:
    """Return whether values that were kept are those computed now, but for rounding."""
    if kept.shape != fresh.shape:
        return False
    fresh = fresh.float().cpu()
    return bool((kept.float() - fresh).norm() <= 0.02 * fresh.norm())


def make_room(folder: Path, size: int) -> None:
    """Remove the files used least recently until `size` bytes more are within the limit.

    That is FINETUNE_CACHE_GB, and half of the free disk. Who reads a removed file keeps it open.
    Raises OSError where even then there is no room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    allowed = min(disk_limit(), shutil.disk_usage(folder).free // 2)
    if size > allowed:
        needed = f"they need {size / 1e9:.3g} GB, and {allowed / 1e9:.3g} GB are allowed"
        raise OSError(errno.ENOSPC, needed)
    files = [path for path in folder.glob("[!.]*") if path.suffix != ".lock"]
    total = size
    for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        total += path.stat().st_size
        if total > disk_limit():
            path.unlink(missing_ok=True)
