"""A split ready for the model, and the order in which an epoch sees it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from finetune.errors import RecipeError
from finetune.protocols import Array, Batch, Source

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Samples:
    """The inputs of a split and its encoded targets, row by row."""

    source: Source
    targets: Array

    def __len__(self) -> int:
        return len(self.targets)

    def read(self, indices: Array, epoch: int) -> Batch:
        """Return these samples on the CPU, a pure function of the arguments."""
        raw = self.source.read(indices, epoch)
        targets = {"label": torch.from_numpy(self.targets[indices])}
        if "partner" in raw:
            targets["partner"] = torch.from_numpy(self.targets[raw["partner"].numpy()])
            targets["share"] = raw["share"]
        return Batch(raw, targets)

    def finish(self, batch: Batch, device: torch.device) -> Batch:
        """Return the batch on `device`, its inputs as the module's forward takes them."""
        moved = batch.to(device)
        return Batch(self.source.finish(moved.inputs), moved.targets)


def order(targets: Array, sampling: str, seed: int, epoch: int) -> Array:
    """Return the sample indices of one epoch, int64: a pure function of the arguments.

    `balanced` draws as many samples, with replacement, every class equally often in expectation;
    it raises RecipeError where a sample is not of exactly one class.
    """
    random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    if sampling == "balanced":
        if targets.ndim != 1:
            raise RecipeError(
                "train.sampling=balanced needs samples of exactly one class each, and this task "
                "has others. Allowed here: shuffled. For rare labels there is "
                "train.class_weights=balanced."
            )
        _, position, counts = np.unique(targets, return_inverse=True, return_counts=True)
        chance = 1.0 / counts[position]
        return random.choice(len(targets), len(targets), p=chance / chance.sum())
    return random.permutation(len(targets))


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
