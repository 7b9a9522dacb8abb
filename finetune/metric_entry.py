"""What a metric is: its value, and the way to its interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from finetune.intervals import Combine
from finetune.protocols import Array

Kind: TypeAlias = Literal["classes", "label_sets", "numbers", "tags", "spans", "texts", "tokens"]
Function: TypeAlias = Callable[[Array, Array], Any]


@dataclass(frozen=True)
class Entry:
    """One metric: its value, and the way to its interval.

    Without any it is the jackknife over groups, which needs nothing but the value.
    """

    value: Function
    proportion: bool = False
    """The value is a share of the n samples."""
    share: bool = False
    """The value lies in 0 to 1, and at either end no resample of the rows moves it."""
    rows: Function | None = None
    """Per-sample rows (n, columns) whose means `combine` turns into the metric."""
    combine: Combine = lambda means: means[0]
    gradient: Function | None = None
    """The derivative of the value by the weight of each sample, (n,)."""
    reason: str = "it is not defined on these samples"
    """Said where the value is not a number."""
    asked: bool = False
    """Computed only where it is asked for by name."""


def mean_of(rows: Function, combine: Combine = lambda means: means[0], **options: Any) -> Entry:
    """Return a metric that is a function of means over the samples by its definition."""

    def value(given: Array, true: Array) -> Any:
        return combine(np.asarray(rows(given, true)).mean(0)[:, None])[0]

    return Entry(value, rows=rows, combine=combine, **options)


def f1_of(means: Array) -> Any:
    """Return the F1 of each class from means of hits, guesses and what is there, one below another.

    It is not a number for a class that is absent and was not guessed.
    """
    hits, guessed, there = np.split(means, 3)
    return 2 * hits / (guessed + there)
