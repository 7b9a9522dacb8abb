"""Activations at the frozen boundary, computed once and read back in every epoch.

Where only the top layers learn and every epoch sees the same inputs, the frozen layers below give
the same activations again and again. The last frozen part then returns the activation that was
kept, and the parts before it return zeros that take no memory, so that the model's own forward
runs unchanged. The training loop knows nothing of it: it is a source of batches like any other.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune import console
from finetune.extraction import autocast
from finetune.freezing import digest, still
from finetune.protocols import Array, Source
from finetune.relay import ARGUMENT, Inputs, capture, filled, install, is_dense, is_deterministic

LAYOUT = 1
CHECKED = 8
"""Samples on which a replayed forward is compared with the real one, and two epochs are."""


def cached(
    module: nn.Module,
    source: Source,
    folder: Path,
    key: Mapping[str, Any],
    *,
    batch_size: int = 64,
    device: torch.device | None = None,
    precision: str = "no",
    limit_bytes: int | None = None,
) -> tuple[Source, str]:
    """Return a source of kept activations, or `source` itself, and a sentence that says which.

    `source` must give the same inputs at every epoch (no augmentation); that is for the caller to
    know, and is checked on a few samples only. `module` is already prepared by its method;
    it is changed so that it takes the batches of the new source, and everything else as before.
    The cache is left out, with the reason, where the model has no single boundary, where the part
    below is random, or where the activations need more than `limit_bytes` (half the free disk).
    Losses differ by rounding at most, and not where a forward has `batch_size` samples.
    """
    device = device or next(module.parameters()).device
    module.to(device)
    if any(
        getattr(part, name, False)
        for part in module.modules()
        for name in ("grad_checkpointing", "gradient_checkpointing")
    ):
        return source, "Frozen activations are not kept: gradient checkpointing computes them anew."

    def read(rows: Array, epoch: int = 0) -> Inputs:
        raw = source.read(rows, epoch)
        return source.finish({name: tensor.to(device) for name, tensor in raw.items()})

    first = np.arange(min(CHECKED, len(source)))
    inputs, again = read(first), read(first, 1)
    if not all(torch.equal(inputs[name], again[name]) for name in inputs):
        return source, "Frozen activations are not kept: the inputs differ between epochs."
    with torch.no_grad(), autocast(device, precision):
        relay = install(module, inputs)
        if relay is None:
            return source, "Frozen activations are not kept: the model has no frozen boundary."
        if not is_deterministic(module, relay, inputs):
            relay.remove()
            return source, "Frozen activations are not kept: dropout acts in the frozen part."
        sample = capture(module, relay, inputs)
    form = _Form.of(sample, len(source))
    whole = dict(key) | asdict(form) | {
        "layout": LAYOUT,
        "weights": _frozen_weights(module),
        "boundary": relay.boundary,
        "architecture": type(module).__name__,
        # Rounding can depend on both, and a resumed run must see the same numbers.
        "batch_size": batch_size,
        "precision": precision,
        "device": device.type,
    }  # fmt: skip
    text = json.dumps(whole, sort_keys=True, default=str)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"boundary-{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"

    def compute(rows: Array) -> Tensor:
        with torch.no_grad(), autocast(device, precision):
            return capture(module, relay, read(rows))

    try:
        kept = _kept(path, form, compute, batch_size, limit_bytes)
    except OSError as error:
        relay.remove()
        return source, f"Frozen activations are not kept: {error.strerror}."
    shapes = {name: (tensor.shape[1:], tensor.dtype) for name, tensor in inputs.items()}
    sentence = f"Activations of the frozen layers up to {relay.boundary} are kept on disk."
    return Activations(source, kept, form, shapes if is_dense(inputs) else None), sentence


@dataclass(frozen=True)
class Activations:
    """Batches of kept activations beside the inputs that the forward takes."""

    source: Source
    kept: Tensor
    form: _Form
    shapes: Mapping[str, tuple[torch.Size, torch.dtype]] | None
    """What the inputs look like where nothing above the boundary reads them; None if it may."""

    def __len__(self) -> int:
        return len(self.kept)

    def read(self, indices: Array, epoch: int) -> Inputs:
        """Return the activations of these samples, and their inputs only if they are needed."""
        raw = self.source.read(indices, epoch) if self.shapes is None else {}
        stored = self.kept[torch.from_numpy(np.asarray(indices))]
        return raw | {ARGUMENT: self.form.decode(stored)}

    def finish(self, raw: Inputs) -> Inputs:
        """Return what the forward takes; inputs that nothing reads are zeros without memory."""
        activation = raw[ARGUMENT]
        if self.shapes is None:
            rest = {name: tensor for name, tensor in raw.items() if name != ARGUMENT}
            return self.source.finish(rest) | {ARGUMENT: activation}
        return {
            name: filled(activation, shape, dtype) for name, (shape, dtype) in self.shapes.items()
        } | {ARGUMENT: activation}


@dataclass(frozen=True)
class _Form:
    """How the activations of all samples lie in a file."""

    shape: tuple[int, ...]
    dtype: str
    order: tuple[int, ...]
    """The axes from the slowest in memory to the quickest: sums go by it, and so does rounding."""

    @classmethod
    def of(cls, sample: Tensor, samples: int) -> _Form:
        inner = sorted(range(1, sample.ndim), key=lambda axis: -sample.stride()[axis])
        shape = (samples, *(sample.shape[axis] for axis in inner))
        return cls(shape, str(sample.dtype).removeprefix("torch."), (0, *inner))

    @property
    def bytes(self) -> int:
        dtype: torch.dtype = getattr(torch, self.dtype)
        return math.prod(self.shape) * dtype.itemsize

    def encode(self, activation: Tensor) -> Any:
        stored = activation.permute(self.order).cpu().contiguous()
        return stored.reshape(-1).view(torch.uint8).numpy().data

    def decode(self, stored: Tensor) -> Tensor:
        return stored.permute([self.order.index(axis) for axis in range(stored.ndim)])

    def open(self, path: Path) -> Tensor:
        size, dtype = math.prod(self.shape), getattr(torch, self.dtype)
        return torch.from_file(str(path), size=size, dtype=dtype).view(self.shape)


def _kept(
    path: Path, form: _Form, compute: Callable[[Array], Tensor], batch_size: int, limit: int | None
) -> Tensor:
    """Return all activations, from the file or computed into it, written aside and renamed.

    Raises OSError where there is no room.
    """
    from filelock import FileLock

    with FileLock(f"{path}.lock"):
        if path.exists() and path.stat().st_size == form.bytes:
            os.utime(path)
            return form.open(path)
        free = shutil.disk_usage(path.parent).free // 2 if limit is None else limit
        if form.bytes > free:
            needed = f"they need {form.bytes / 1e9:.3g} GB, and {free / 1e9:.3g} GB are allowed"
            raise OSError(errno.ENOSPC, needed)
        descriptor, aside = tempfile.mkstemp(prefix=".boundary-", dir=path.parent)
        samples = form.shape[0]
        try:
            with (
                os.fdopen(descriptor, "wb") as file,
                console.Bar("computing frozen layers", samples) as bar,
            ):
                for start in range(0, samples, batch_size):
                    # The last batch is filled up: rounding may depend on how many there are.
                    rows = np.arange(start, start + batch_size)
                    count = min(batch_size, samples - start)
                    file.write(form.encode(compute(rows % samples)[:count]))
                    bar.advance(count)
            os.replace(aside, path)
        finally:
            Path(aside).unlink(missing_ok=True)
    return form.open(path)


def _frozen_weights(module: nn.Module) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    for name, tensor in still(module):
        hashed.update(f"{name} {digest(tensor)}\n".encode())
    return hashed.hexdigest()
