"""Checkpoints that survive a kill at any instant: tensors as safetensors, the rest as JSON.

A checkpoint is a folder `step-<update>` with a manifest of SHA-256 hashes. It is written aside,
flushed, renamed, read back and verified before an older one is deleted; two are kept. Nothing is
pickled or unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune.errors import RunError

KEPT = 2
MANIFEST = "manifest.json"
STATE = "state.json"

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """One complete, verified checkpoint."""

    folder: Path
    state: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return the tensors saved under `name`, or an empty dict if there were none."""
        path = self.folder / f"{name}.safetensors"
        return load_file(path) if path.exists() else {}


class Checkpoints:
    """The checkpoints of one run, in `state/` of its folder; one process writes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, tensors: Mapping[str, Tensors], state: dict[str, Any]) -> Checkpoint:
        """Write the checkpoint of update `step`, and delete all but it and the one before.

        Raises RunError when the disk is full or not writable; older checkpoints then stay.
        """
        aside, final = self.folder / ".writing", self.folder / f"step-{step:09d}"
        try:
            if aside.exists():
                shutil.rmtree(aside)  # of a process that was killed
            aside.mkdir(parents=True)
            _fill(aside, tensors, state)
            if final.exists():
                shutil.rmtree(final)  # damaged: training has come here from an earlier one
            aside.rename(final)
            _flush(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise RunError(
                f"The checkpoint of update {step} could not be written to {self.folder}: "
                f"{getattr(error, 'strerror', None) or error}. Earlier checkpoints are kept: free "
                "some space or give another output=DIR, then run the same command again."
            ) from error
        if (reason := _damage(final)) is not None:
            raise RunError(
                f"The checkpoint {final} does not read back as it was written ({reason}): the disk "
                "may be failing. Earlier checkpoints are kept."
            )
        folders = self._folders()
        kept = [folder for folder in folders if folder.name <= final.name][-KEPT:]
        for folder in folders:
            if folder not in kept:
                shutil.rmtree(folder)
        return Checkpoint(final, state)

    def latest(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest complete checkpoint, and a sentence for each damaged one skipped."""
        skipped: list[str] = []
        for folder in reversed(self._folders()):
            reason = _damage(folder)
            if reason is None:
                state = json.loads((folder / STATE).read_text("utf-8"))
                return Checkpoint(folder, state), skipped
            skipped.append(f"Checkpoint {folder.name} is damaged and was skipped: {reason}.")
        return None, skipped

    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.iterdir() if re.fullmatch(r"step-\d{9}", p.name))


def _fill(folder: Path, tensors: Mapping[str, Tensors], state: dict[str, Any]) -> None:
    """Write all files of a checkpoint, the manifest last, and wait until the disk has them."""
    hashes = {}
    for name, content in tensors.items():
        if content:
            path = folder / f"{name}.safetensors"
            save_file({key: tensor.contiguous() for key, tensor in content.items()}, path)
            hashes[path.name] = _sha256(path)
    (folder / STATE).write_text(json.dumps(state), "utf-8")
    hashes[STATE] = _sha256(folder / STATE)
    (folder / MANIFEST).write_text(json.dumps(hashes, indent=1), "utf-8")
    for path in (*folder.iterdir(), folder):
        _flush(path)


def _damage(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    try:
        hashes = json.loads((folder / MANIFEST).read_text("utf-8"))
        for name in {STATE, *hashes}:
            if _sha256(folder / name) != hashes.get(name):
                return f"{name} does not match its hash"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"{MANIFEST} or a file that it names cannot be read ({error})"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Make the content of a file, or the names in a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
