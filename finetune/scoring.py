"""Scores: the metrics of `finetune.metric_table` with their intervals, as plain dicts.

`finetune.metrics` wraps them for `evaluate`; every epoch calls them here, which is quicker. A
metric that is not defined on the samples has the value None and a reason.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from finetune.errors import DataError, RecipeError, TrainingError, nearest
from finetune.intervals import Interval, bootstrap, grouped, linearised, percentiles, wilson
from finetune.metric_table import TABLE, Entry, Kind, confusion, f1_of
from finetune.protocols import Array

_CHEAP = 2_000_000
"""Predicted numbers up to which a ranking metric costs little enough for every epoch."""


def score(
    kind: Kind,
    predictions: Array,
    references: Array,
    classes: Sequence[str] = (),
    also: Iterable[str] = (),
    *,
    only: Sequence[str] | None = None,
    intervals: bool = True,
) -> dict[str, Any]:
    """Return `{"accuracy": {"value", "low", "high", "n"}, ..., "per_class": ...}` for a kind.

    `also` adds metrics by name to the usual ones, `only` replaces them. Without intervals a metric
    is `{"value", "n"}` and the table of classes is left out. Raises DataError for no samples,
    TrainingError for predictions that are not finite, RecipeError for an unknown name.
    """
    given, true = arrays(kind, predictions, references)
    entries = select(kind, given, also, only, every_epoch=not intervals)
    n = len(true)
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore")  # what is undefined is said in the result
        values = {name: float(entry.value(given, true)) for name, entry in entries.items()}
        result: dict[str, Any] = {}
        for name, value in values.items():
            known = math.isfinite(value)
            result[name] = {"value": value if known else None}
            if intervals:
                result[name] |= {"low": None, "high": None}
            result[name] |= {"n": n} if known else {"n": n, "reason": entries[name].reason}
        if not intervals:
            return result
        table = classes if only is None and kind != "numbers" else ()
        bounds, per_class = _bounds(entries, values, given, true, table)
    for name, (low, high) in bounds.items():
        result[name] |= {"low": low, "high": high}
    return result | ({"per_class": per_class} if per_class else {})


def arrays(kind: Kind, predictions: Any, references: Any) -> tuple[Array, Array]:
    """Return both in the types and shapes of their kind; raise what `score` raises."""
    given = np.asarray(predictions, dtype=np.float64)
    true = np.asarray(references, dtype=np.float64 if kind == "numbers" else np.int64)
    if kind == "numbers":
        given, true = given.reshape(len(given), -1)[:, 0], true.reshape(len(true), -1)[:, 0]
    if not len(true):
        raise DataError("There are no samples to score.")
    bad = int((~np.isfinite(given)).reshape(len(given), -1).any(1).sum())
    if bad:
        raise TrainingError(
            f"{bad} of {len(given)} predictions are not finite numbers: the weights or the inputs "
            "are broken. Try a smaller train.lr, or train.precision=no."
        )
    return given, true


def select(
    kind: Kind,
    given: Array,
    also: Iterable[str] = (),
    only: Sequence[str] | None = None,
    every_epoch: bool = False,
) -> dict[str, Entry]:
    """Return the metrics to compute; raise RecipeError for a name this kind does not have."""
    table = TABLE[kind]
    extra = list(also)
    for name in [*extra, *(only or ())]:
        if name not in table:
            raise RecipeError(
                f"There is no metric {name!r} for this task: allowed are {', '.join(table)}."
                f"{nearest(name, table)}"
            )
    if only is not None:
        return {name: table[name] for name in only}

    def usual(name: str, entry: Entry) -> bool:
        if name == "top5_accuracy" and given.shape[1] <= 5:
            return False
        return not entry.asked and not (every_epoch and entry.gradient and given.size > _CHEAP)

    return {name: e for name, e in table.items() if name in extra or usual(name, e)}


def _bounds(
    entries: dict[str, Entry],
    values: dict[str, float],
    given: Array,
    true: Array,
    classes: Sequence[str],
) -> tuple[dict[str, Interval], dict[str, Any]]:
    """Return the interval of each metric that has a value, and the table of classes."""
    bounds: dict[str, Interval] = {}
    resampled = {}
    for name, entry in entries.items():
        value = values[name]
        if not math.isfinite(value):
            continue
        if entry.proportion:
            bounds[name] = wilson(value * len(true), len(true))
        elif entry.gradient:
            bounds[name] = linearised(value, entry.gradient(given, true))
        elif entry.rows:
            resampled[name] = (entry.rows(given, true), entry.combine)
        else:
            bounds[name] = grouped(
                lambda keep, function=entry.value: float(function(given[keep], true[keep])),  # type: ignore[misc]
                value,
                len(true),
            )
    counts = confusion(given, true) if classes else None
    statistics = [*resampled.values()]
    if counts is not None:
        statistics.append((counts, f1_of))
    replicates = bootstrap(statistics)
    for name, replicate in zip(resampled, replicates, strict=False):
        bounds[name] = percentiles(values[name], replicate)
    if counts is None:
        return bounds, {}
    return bounds, _per_class(counts, replicates[-1], classes)


def _per_class(counts: Any, replicates: Array, classes: Sequence[str]) -> dict[str, Any]:
    """Return precision, recall and F1 with intervals and the number of samples of each class."""
    hits, guessed, there = np.split(np.asarray(counts.sum(0), dtype=float).ravel(), 3)
    f1 = f1_of(np.concatenate([hits, guessed, there])[:, None])[:, 0]

    def figure(value: float, n: float, bounds: Interval) -> dict[str, Any]:
        known = math.isfinite(value)
        low, high = bounds if known else (None, None)
        return {"value": float(value) if known else None, "low": low, "high": high, "n": int(n)}

    return {
        name: {
            "precision": figure(hits[i] / guessed[i], guessed[i], wilson(hits[i], guessed[i])),
            "recall": figure(hits[i] / there[i], there[i], wilson(hits[i], there[i])),
            "f1": figure(f1[i], guessed[i] + there[i] - hits[i], percentiles(f1[i], replicates[i])),
            "n": int(there[i]),
        }
        for i, name in enumerate(classes)
    }
