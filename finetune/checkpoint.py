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

from safetensors.torch import load_file, save
from torch import Tensor

from finetune.errors import RunError

KEPT = 2
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """One complete, verified checkpoint."""

    folder: Path
    state: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return the tensors saved under `name`, or an empty dict if there were none."""
        path = self.file(name)
        return load_file(path) if path.exists() else {}

    def file(self, name: str) -> Path:
        """Return the file that holds the tensors saved under `name`."""
        return self.folder / f"{name}.safetensors"


class Checkpoints:
    """The checkpoints of one run, in `state/` of its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(
        self, step: int, tensors: Mapping[str, Mapping[str, Tensor] | Path], state: dict[str, Any]
    ) -> Checkpoint:
        """Write a checkpoint; a Path among `tensors` is an unchanged file, linked, not rewritten.

        Raises RunError when the disk is full or not writable; older checkpoints then stay.
        """
        aside = self.folder / f".writing-{step:09d}"
        final = self.folder / f"step-{step:09d}"
        try:
            if aside.exists():
                shutil.rmtree(aside)
            aside.mkdir(parents=True)
            hashes = {}
            for name, content in tensors.items():
                path = aside / f"{name}.safetensors"
                if isinstance(content, Path):
                    _link(content, path)
                elif content:
                    _write(path, save({k: v.contiguous() for k, v in content.items()}))
                else:
                    continue
                hashes[path.name] = _sha256(path)
            _write(aside / "state.json", json.dumps(state).encode())
            hashes["state.json"] = _sha256(aside / "state.json")
            _write(aside / MANIFEST, json.dumps(hashes, indent=1).encode())
            _flush(aside)
            if final.exists():
                shutil.rmtree(final)
            aside.rename(final)
            _flush(self.folder)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise RunError(
                f"The checkpoint of update {step} could not be written to {self.folder}: "
                f"{error.strerror}. Earlier checkpoints are kept: free some space or give another "
                "output=DIR, then run the same command again."
            ) from error
        if (reason := _damage(final)) is not None:
            raise RunError(
                f"The checkpoint {final} does not read back as it was written ({reason}): the disk "
                "may be failing. Earlier checkpoints are kept."
            )
        for old in self._folders()[:-KEPT]:
            shutil.rmtree(old)
        return Checkpoint(final, state)

    def latest(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest complete checkpoint, and a sentence for each damaged one skipped."""
        skipped = []
        for folder in reversed(self._folders()):
            reason = _damage(folder)
            if reason is None:
                state = json.loads((folder / "state.json").read_text("utf-8"))
                return Checkpoint(folder, state), skipped
            skipped.append(f"Checkpoint {folder.name} is damaged and was skipped: {reason}.")
        return None, skipped

    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.iterdir() if re.fullmatch(r"step-\d{9}", p.name))


def pack(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state dict into named tensors and a JSON value.

    Raises RunError where the optimizer keeps something that is neither.
    """
    tensors, plain = {}, {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                plain[f"{index}.{key}"] = value
    groups = {"state": plain, "param_groups": state["param_groups"]}
    try:
        json.dumps(groups)
    except TypeError as error:
        raise RunError(
            f"This optimizer keeps state that cannot be saved without pickle ({error}): choose "
            "another train.optimizer."
        ) from error
    return tensors, groups


def unpack(tensors: Mapping[str, Tensor], groups: Mapping[str, Any]) -> dict[str, Any]:
    """Return the optimizer's state dict from what `pack` made of it."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **groups["state"]}.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": groups["param_groups"]}


def _damage(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    try:
        hashes = json.loads((folder / MANIFEST).read_text("utf-8"))
        for name, digest in hashes.items():
            if _sha256(folder / name) != digest:
                return f"{name} does not match its hash"
    except (OSError, ValueError, AttributeError) as error:
        return f"{type(error).__name__} in its files"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _link(source: Path, path: Path) -> None:
    try:
        os.link(source, path)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, path)


def _flush(folder: Path) -> None:
    """Make the names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
