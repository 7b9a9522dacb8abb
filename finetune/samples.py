"""A split ready for the model, and the order in which an epoch sees it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from finetune.errors import RecipeError
from finetune.protocols import Array, Batch, Source, Table, Target

T = TypeVar("T")
R = TypeVar("R")

WINDOW = 50
"""Batches whose samples are sorted by length together."""


@dataclass(frozen=True)
class Samples:
    """The inputs of a split with their labels, sample by sample, and the truth, row by row."""

    source: Source
    labels: Any
    """An array, or `Ragged` where samples have different lengths."""
    truth: Any
    """What predictions are scored against; the labels themselves where a row is one sample."""
    activations: Source | None = None
    """Read in place of `source` where frozen layers are computed already."""

    @classmethod
    def of(cls, target: Target, source: Source, table: Table) -> Samples:
        """Return the rows of `table`, which `source` reads, as samples of `target`."""
        truth = target.encode(table)
        return cls(source, target.labels(truth, source), truth)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def _read(self) -> Source:
        return self.source if self.activations is None else self.activations

    def read(self, indices: Array, epoch: int) -> Batch:
        """Return these samples on the CPU, a pure function of the arguments."""
        raw = self._read.read(indices, epoch)
        targets = {"label": torch.from_numpy(self.labels[indices])}
        if "partner" in raw:
            targets["partner"] = torch.from_numpy(self.labels[raw["partner"].numpy()])
            targets["share"] = raw["share"]
        return Batch(raw, targets)

    def order(self, sampling: str, seed: int, epoch: int, batch_size: int) -> Array:
        """Return the sample indices of one epoch, int64; see the function `order`."""
        return order(self.labels, sampling, seed, epoch, self.source.lengths, batch_size)

    def longest_first(self) -> Array:
        """Return all sample indices, the longest samples first where they differ in length."""
        return longest_first(self.source)

    def finish(self, batch: Batch, device: torch.device) -> Batch:
        """Return the batch on `device`, its inputs as the module's forward takes them."""
        moved = batch.to(device)
        return Batch(self._read.finish(moved.inputs), moved.targets)


def longest_first(source: Source) -> Array:
    """Return all sample indices of a source, the longest first where they differ in length."""
    if source.lengths is None:
        return np.arange(len(source))
    return np.argsort(-source.lengths, kind="stable")


def order(
    labels: Any,
    sampling: str,
    seed: int,
    epoch: int,
    lengths: Array | None = None,
    batch_size: int = 1,
) -> Array:
    """Return the sample indices of one epoch, int64: a pure function of the arguments.

    `balanced` draws as many samples, with replacement, every class equally often in expectation;
    it raises RecipeError where a sample is not of exactly one class. Where samples have `lengths`,
    (samples,), those of one batch are of like length.
    """
    random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    indices = _drawn(labels, sampling, random)
    return indices if lengths is None else _bucketed(indices, lengths, batch_size, random)


def _drawn(labels: Any, sampling: str, random: np.random.Generator) -> Array:
    if sampling == "balanced":
        if getattr(labels, "ndim", 0) != 1:
            raise RecipeError(
                "train.sampling=balanced needs samples of exactly one class each, and this task "
                "has others. Allowed here: shuffled. For rare labels there is "
                "train.class_weights=balanced."
            )
        _, position, counts = np.unique(labels, return_inverse=True, return_counts=True)
        chance = 1.0 / counts[position]
        return random.choice(len(labels), len(labels), p=chance / chance.sum())
    return random.permutation(len(labels))


def _bucketed(indices: Array, lengths: Array, size: int, random: np.random.Generator) -> Array:
    """Return shuffled indices so that each batch of `size` holds samples of like length.

    Each window of the shuffled order is sorted by length and cut into batches; then all whole
    batches are shuffled. The rest that makes no whole batch stays last, as the loop cuts it.
    """
    whole = len(indices) // size * size
    for start in range(0, whole, WINDOW * size):
        window = indices[start : min(start + WINDOW * size, whole)]
        window[:] = window[np.argsort(lengths[window], kind="stable")]
    batches = indices[:whole].reshape(-1, size)
    return np.concatenate([random.permutation(batches).ravel(), indices[whole:]])


class Ragged:
    """Rows of numbers of different lengths, kept end to end: `ragged[indices]` fills them up."""

    def __init__(self, flat: Array, ends: Array, fill: int) -> None:
        self.flat, self.ends, self.fill = flat, ends, fill

    @classmethod
    def of(cls, rows: Sequence[Any], fill: int, dtype: Any = np.int64) -> Ragged:
        """Return rows, each a sequence of numbers, with `fill` for what shorter ones lack."""
        flat = [np.asarray(row, dtype) for row in rows]
        ends = np.cumsum([len(row) for row in flat], dtype=np.int64)
        return cls(np.concatenate(flat) if flat else np.zeros(0, dtype), ends, fill)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> Array:
        """The length of each row, (rows,)."""
        return np.diff(self.ends, prepend=0)

    def row(self, index: int) -> Array:
        """Return one row, (length,)."""
        return self.flat[self.ends[index - 1] if index else 0 : self.ends[index]]

    def __getitem__(self, indices: Array) -> Array:
        """Return these rows, (len(indices), longest of them), filled up at the end."""
        rows = [self.row(int(index)) for index in indices]
        result = np.full((len(rows), max(map(len, rows), default=0)), self.fill, self.flat.dtype)
        for place, row in enumerate(rows):
            result[place, : len(row)] = row
        return result


def ahead(read: Callable[[T], R], items: Iterable[T], depth: int) -> Iterator[R]:
    """Yield `read(item)` in order, up to `depth` of them read in advance by a thread."""
    if depth == 0:
        yield from map(read, items)
        return
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def together(parts: Sequence[Tensor]) -> Tensor:
    """Return batches as one tensor, filled up with -1 to the widest in the second axis."""
    widest = max(part.shape[1] for part in parts)
    result = parts[0].new_full((sum(map(len, parts)), widest, *parts[0].shape[2:]), -1)
    start = 0
    for part in parts:
        result[start : start + len(part), : part.shape[1]] = part
        start += len(part)
    return result
