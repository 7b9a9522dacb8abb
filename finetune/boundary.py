"""Activations at the frozen boundary, computed once and read back in every epoch.

Where only the top layers learn and every epoch sees the same inputs, the frozen layers below give
the same activations again and again. The last frozen part then returns the activation that was
kept, and the parts before it return zeros that take no memory, so that the model's own forward
runs unchanged. The training loop knows nothing of it: it is a source of batches like any other.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune import build, console, kept
from finetune.environment import autocast
from finetune.freezing import frozen_hashes
from finetune.protocols import Array, Source, Split
from finetune.relay import (
    ARGUMENT,
    Inputs,
    NoBoundary,
    NotKept,
    Relay,
    capture,
    filled,
    install,
    is_dense,
)

if TYPE_CHECKING:
    from finetune.job import Job

LAYOUT = 2


@contextmanager
def replayed(job: Job, device: torch.device, precision: str) -> Iterator[tuple[Job, str | None]]:
    """Lend the job for training, frozen layers computed once where that changes nothing else.

    With it comes a sentence on whether they are, or None where there is nothing to keep: all
    layers learn, augmentation changes the inputs, or the model is compiled. The job's own samples
    stay as they are, and its module is as it was when training ends.
    """
    train, augmentation = job.train, job.recipe.task.augmentation
    frozen = not all(p.requires_grad for p in job.module.parameters())
    if not frozen or train.compile or not (augmentation is None or augmentation.is_off):
        yield job, None
        return
    micro = min(train.micro_batch_size or train.batch_size, train.batch_size)
    sizes: dict[Split, int] = {"train": micro, "validation": train.eval_batch_size}
    sources = {split: (job.samples[split].source, size) for split, size in sizes.items()}
    key = {"inputs": repr(job.network.inputs), "data": job.splits.fingerprint}
    folder = build.cache_folder() / "boundary"
    try:
        if train.gradient_checkpointing:
            raise NotKept("gradient checkpointing computes them anew")
        relay, activations = cached(job.module, sources, folder, key, device, precision)
    except NoBoundary:
        yield job, None
        return
    except (NotKept, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        yield job, f"Frozen activations are not kept: {reason}."
        return
    try:
        own = {s: replace(job.samples[s], activations=read) for s, read in activations.items()}
        sentence = f"Activations of the frozen layers up to {relay.boundary} are kept on disk."
        yield replace(job, samples={**job.samples, **own}), sentence
    finally:
        relay.remove()


def cached(
    module: nn.Module,
    sources: Mapping[Split, tuple[Source, int]],
    folder: Path,
    key: Mapping[str, Any],
    device: torch.device,
    precision: str,
) -> tuple[Relay, dict[Split, Activations | TokenActivations]]:
    """Return the relay put into `module`, and for each source one of kept activations.

    Sources come with the batch size of their forward passes, and must give the same inputs at
    every epoch; that is for the caller to know, and is checked on a few samples only. `module` is
    already prepared by its method; with the relay it takes the batches of the new sources, and
    everything else as before. Raises what `install` does, or OSError where there is no room, the
    module as it was. Losses differ by rounding at most, and not where a forward has the batch size.
    """
    module.to(device)

    def read(source: Source, rows: Array, epoch: int = 0) -> Inputs:
        raw = source.read(rows, epoch)
        return source.finish({name: tensor.to(device) for name, tensor in raw.items()})

    def compute(source: Source, rows: Array) -> Tensor:
        with torch.no_grad(), autocast(device, precision):
            return capture(module, relay, read(source, rows))

    source = sources["train"][0]
    first = np.arange(min(kept.CHECKED, len(source)))
    inputs, again = read(source, first), read(source, first, 1)
    if not all(torch.equal(tensor, again[name]) for name, tensor in inputs.items()):
        raise NotKept("the inputs differ between epochs")
    with torch.no_grad(), autocast(device, precision):
        relay = install(module, inputs)
    shapes = {name: (tensor.shape[1:], tensor.dtype) for name, tensor in inputs.items()}
    whole = dict(key) | {
        "layout": LAYOUT,
        "weights": frozen_hashes(module),
        "boundary": relay.boundary,
        # Rounding can depend on both, and a resumed run must see the same numbers.
        "precision": precision,
        "device": device.type,
    }
    result: dict[Split, Activations | TokenActivations] = {}
    try:
        for split, (source, size) in sources.items():
            own = whole | {"split": split, "samples": len(source), "batch_size": size}
            if source.lengths is not None:
                args = folder, own, partial(compute, source), source.lengths, size
                result[split] = TokenActivations(source, *_stored_tokens(*args))
                continue
            stored, axes = _stored(folder, own, partial(compute, source), len(source), size)
            result[split] = Activations(source, stored, axes, shapes if is_dense(inputs) else None)
    except BaseException:
        relay.remove()
        raise
    return relay, result


@dataclass(frozen=True)
class Activations:
    """Batches of kept activations beside the inputs that the forward takes."""

    source: Source
    stored: Tensor
    """As they lie in memory, (samples, ...)."""
    axes: tuple[int, ...]
    """Where each axis of an activation is in `stored`: sums go by memory, so rounding does."""
    shapes: Mapping[str, tuple[torch.Size, torch.dtype]] | None
    """What the inputs look like where nothing above the boundary reads them; None if it may."""

    def __len__(self) -> int:
        return len(self.stored)

    lengths = None

    def read(self, indices: Array, epoch: int) -> Inputs:
        """Return the activations of these samples, and their inputs only if they are needed."""
        raw = self.source.read(indices, epoch) if self.shapes is None else {}
        return raw | {ARGUMENT: self.stored[torch.from_numpy(indices)].permute(self.axes)}

    def finish(self, raw: Inputs) -> Inputs:
        """Return what the forward takes; inputs that nothing reads are zeros without memory."""
        rest = dict(raw)
        activation = rest.pop(ARGUMENT)
        if self.shapes is None:
            rest = self.source.finish(rest)
        else:
            rest = {name: filled(activation, *like) for name, like in self.shapes.items()}
        return rest | {ARGUMENT: activation}


@dataclass(frozen=True)
class TokenActivations:
    """Batches of kept activations of tokens, beside the inputs that the forward takes."""

    source: Source
    stored: Tensor
    """As they lie in memory, (tokens of all samples, width)."""
    ends: Array
    """Where each sample ends, (samples,)."""

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> Array | None:
        """How long each sample is, as the inputs have it."""
        return self.source.lengths

    def read(self, indices: Array, epoch: int) -> Inputs:
        """Return inputs and activations (batch, longest, width); 0 where there is no token."""
        own = [self.stored[self.ends[i - 1] if i else 0 : self.ends[i]] for i in indices]
        activation = nn.utils.rnn.pad_sequence(own, batch_first=True)
        return self.source.read(indices, epoch) | {ARGUMENT: activation}

    def finish(self, raw: Inputs) -> Inputs:
        """Return what the forward takes."""
        rest = dict(raw)
        activation = rest.pop(ARGUMENT)
        return self.source.finish(rest) | {ARGUMENT: activation}


def _stored_tokens(
    folder: Path,
    key: Mapping[str, Any],
    compute: Callable[[Array], Tensor],
    lengths: Array,
    batch_size: int,
) -> tuple[Tensor, Array]:
    """Return the activations of all tokens and where each sample ends, read or computed.

    Raises OSError where there is no room, NotKept where an activation is not one of each token.
    """
    first, ends = np.arange(min(kept.CHECKED, len(lengths))), np.cumsum(lengths)
    sample = compute(first)
    if sample.ndim != 3 or sample.shape[1] != lengths[first].max():
        raise NotKept("the activations are not those of tokens")
    shape = (int(ends[-1]), sample.shape[2])
    count = math.prod(shape)

    def opened(path: Path, *, shared: bool = False) -> Tensor:
        return torch.from_file(str(path), shared, count, dtype=sample.dtype).view(shape)

    def tokens(part: Tensor, rows: Array) -> Tensor:
        return torch.cat([own[: lengths[row]] for own, row in zip(part, rows, strict=True)])

    with kept.held(folder, "activations", key) as path:
        if path.exists() and path.stat().st_size == count * sample.element_size():
            stored = opened(path)
            if kept.agree(stored[: ends[first[-1]]], tokens(sample, first)):
                os.utime(path)
                return stored, ends
        kept.make_room(folder, count * sample.element_size())
        with kept.written_aside(path) as aside:
            with aside.open("wb") as file:
                file.truncate(count * sample.element_size())
            stored = opened(aside, shared=True)
            order = np.argsort(-lengths, kind="stable")
            with console.Bar("computing frozen layers", len(lengths)) as bar:
                for start in range(0, len(order), batch_size):
                    rows = order[start : start + batch_size]
                    for row, own in zip(rows, compute(rows).cpu(), strict=True):
                        stored[ends[row] - lengths[row] : ends[row]] = own[: lengths[row]]
                    bar.advance(len(rows))
            del stored
        return opened(path), ends


def _stored(
    folder: Path,
    key: Mapping[str, Any],
    compute: Callable[[Array], Tensor],
    samples: int,
    batch_size: int,
) -> tuple[Tensor, tuple[int, ...]]:
    """Return the activations of all samples, and their axes, from the file or computed into it.

    Raises OSError where there is no room.
    """
    sample = compute(np.arange(min(kept.CHECKED, samples)))
    order = [0, *sorted(range(1, sample.ndim), key=lambda axis: -sample.stride()[axis])]
    axes = tuple(order.index(axis) for axis in range(sample.ndim))
    shape = (samples, *sample.permute(order).shape[1:])
    count = math.prod(shape)

    def opened(path: Path) -> Tensor:
        return torch.from_file(str(path), size=count, dtype=sample.dtype).view(shape)

    with kept.held(folder, "activations", key) as path:
        if path.exists() and path.stat().st_size == count * sample.element_size():
            stored = opened(path)
            if kept.agree(stored[: len(sample)].permute(axes), sample):
                os.utime(path)
                return stored, axes
        kept.make_room(folder, count * sample.element_size())
        with (
            kept.written_aside(path) as aside,
            aside.open("wb") as file,
            console.Bar("computing frozen layers", samples) as bar,
        ):
            for start in range(0, samples, batch_size):
                # The last batch is filled up: rounding may depend on how many there are.
                rows = np.arange(start, start + batch_size) % samples
                part = compute(rows)[: samples - start].permute(order).cpu().contiguous()
                file.write(part.reshape(-1).view(torch.uint8).numpy().data)
                bar.advance(len(part))
        return opened(path), axes
