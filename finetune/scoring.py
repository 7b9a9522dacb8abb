"""Scores: the metrics of `finetune.metric_table` with their intervals, as plain dicts.

A metric that is not defined on the samples has the value None and a reason.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from finetune.errors import DataError, RecipeError, TrainingError, nearest
from finetune.intervals import (
    Interval,
    bootstrap,
    grouped,
    linearised,
    linearised_share,
    of_share,
    paired,
    percentiles,
    wilson,
)
from finetune.metric_entry import Entry, Kind, f1_of
from finetune.metric_table import TABLE, confusion
from finetune.protocols import Array
from finetune.text_metrics import COUNTED, tag_counts

_CHEAP = 2_000_000
"""Predicted numbers up to which a ranking metric costs little enough for every epoch."""

_RATED = {"classes": confusion, "label_sets": confusion, "tags": tag_counts}
"""How often each class is hit, guessed and there in each row, for kinds that have classes."""


def score(
    kind: Kind,
    predictions: Any,
    references: Any,
    classes: Sequence[str] = (),
    also: Iterable[str] = (),
    *,
    only: Sequence[str] = (),
    intervals: bool = True,
) -> dict[str, Any]:
    """Return `{"accuracy": {"value", "low", "high", "n"}, ..., "per_class": ...}` for a kind.

    `also` adds metrics by name to the usual ones, `only` replaces them. Without intervals a metric
    is `{"value", "n"}` and the table of classes is left out. Raises DataError for no samples,
    TrainingError for predictions that are not finite, RecipeError for an unknown name.
    """
    given, true = arrays(kind, predictions, references, classes)
    entries = _select(kind, given, also, only, every_epoch=not intervals)
    table = classes if intervals and not only else ()
    counts = _RATED[kind](given, true) if table else None
    bounds: dict[str, Interval] = {}
    per_class: dict[str, Any] = {}
    with _quiet():
        values = {name: float(entry.value(given, true)) for name, entry in entries.items()}
        if intervals:
            bounds, per_class = _bounds(entries, values, given, true, table, counts)
    result: dict[str, Any] = {}
    for name, value in values.items():
        known = math.isfinite(value)
        result[name] = {"value": value if known else None}
        if intervals:
            low, high = bounds.get(name, (None, None))
            result[name] |= {"low": low, "high": high}
        result[name] |= {"n": len(true)} | ({} if known else {"reason": entries[name].reason})
    return result | ({"per_class": per_class} if per_class else {})


def difference(
    kind: Kind, name: str, predictions: Any, other: Any, references: Any
) -> dict[str, Any]:
    """Return by how much `predictions` exceed `other` in a metric: `{"value", "low", "high", "n"}`.

    It is in the metric's own unit (negative is better for errors). Both are scored on the same
    resamples of the rows; proportions and ranking metrics have intervals of their own.
    """
    entry = TABLE[kind][name]
    ours, true = arrays(kind, predictions, references)
    theirs, _ = arrays(kind, other, references)

    def gap(keep: Any) -> float:
        return float(entry.value(ours[keep], true[keep]) - entry.value(theirs[keep], true[keep]))

    bounds: Interval = (None, None)
    with _quiet():
        value = gap(slice(None))
        if not math.isfinite(value):
            pass
        elif entry.proportion and entry.rows:
            change = entry.rows(ours, true) - entry.rows(theirs, true)
            bounds = paired(float((change > 0).sum()), float((change < 0).sum()), len(true))
        elif entry.rows:
            statistics = [(entry.rows(given, true), entry.combine) for given in (ours, theirs)]
            first, second = bootstrap(statistics)
            bounds = percentiles(value, first - second)
        elif entry.gradient:
            change = entry.gradient(ours, true) - entry.gradient(theirs, true)
            bounds = linearised(value, change)
        else:
            bounds = grouped(gap, value, len(true))
    known = value if math.isfinite(value) else None
    return {"value": known, "low": bounds[0], "high": bounds[1], "n": len(true)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings back: what is undefined is said in the result."""
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore")
        yield


def arrays(
    kind: Kind, predictions: Any, references: Any, classes: Sequence[str] = ()
) -> tuple[Array, Array]:
    """Return both in the types and shapes of their kind; raise what `score` raises.

    Of texts it is what `finetune.text_metrics` counts in each row, and nothing more to compare.
    """
    if kind in COUNTED:
        if not len(references):
            raise DataError("There are no samples to score.")
        counted = COUNTED[kind](predictions, references, classes)
        check_finite(np.isfinite(counted))
        return counted, np.zeros(len(counted))
    given = np.asarray(predictions, dtype=np.float64)
    true = np.asarray(references, dtype=np.float64 if kind == "numbers" else np.int64)
    if kind == "numbers":
        given, true = given.reshape(len(given), -1)[:, 0], true.reshape(len(true), -1)[:, 0]
    if not len(true):
        raise DataError("There are no samples to score.")
    check_finite(np.isfinite(given))
    return given, true


def check_finite(finite: Array) -> None:
    """Raise TrainingError unless rows are finite in all that they hold, (rows, ...)."""
    if bad := int((~finite).reshape(len(finite), -1).any(1).sum()):
        raise TrainingError(
            f"{bad} of {len(finite)} predictions are not finite numbers: the weights or the inputs "
            "are broken. Try a smaller train.lr, or train.precision=no."
        )


def check_names(names: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise RecipeError for a name that is none of the allowed metrics."""
    allowed = list(dict.fromkeys(allowed))
    for name in names:
        if name not in allowed:
            raise RecipeError(
                f"There is no metric {name!r} for this task: allowed are {', '.join(allowed)}."
                f"{nearest(name, allowed)} A metric of the hub is written 'user/name@revision'."
            )


def _select(
    kind: Kind, given: Array, also: Iterable[str], only: Sequence[str], *, every_epoch: bool
) -> dict[str, Entry]:
    """Return the metrics to compute; raise RecipeError for a name this kind does not have."""
    table, asked = TABLE[kind], [*also, *only]
    check_names(asked, table)

    def usual(name: str, entry: Entry) -> bool:
        if name == "top5_accuracy" and given.shape[1] <= 5:
            return False
        return not entry.asked and not (every_epoch and entry.gradient and given.size > _CHEAP)

    return {n: e for n, e in table.items() if n in asked or (not only and usual(n, e))}


def _bounds(
    entries: dict[str, Entry],
    values: dict[str, float],
    given: Array,
    true: Array,
    classes: Sequence[str],
    counts: Any,
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
        elif entry.gradient and entry.share:
            bounds[name] = linearised_share(value, entry.gradient(given, true))
        elif entry.gradient:  # an error, which is never below 0
            low, high = linearised(value, entry.gradient(given, true))
            bounds[name] = max(low, 0.0), high
        elif entry.rows:
            resampled[name] = (entry.rows(given, true), entry.combine)
        else:
            bounds[name] = grouped(
                lambda keep, function=entry.value: float(function(given[keep], true[keep])),  # type: ignore[misc]
                value,
                len(true),
            )
    replicates = bootstrap([*resampled.values(), *([(counts, f1_of)] if classes else [])])
    for name, replicate in zip(resampled, replicates, strict=False):
        bounds[name] = percentiles(values[name], replicate)
    bounds |= {n: of_share(b, len(true)) for n, b in bounds.items() if entries[n].share}
    return bounds, _per_class(counts, replicates[-1], classes) if classes else {}


def _per_class(counts: Any, replicates: Array, classes: Sequence[str]) -> dict[str, Any]:
    """Return precision, recall and F1 with intervals and the number of samples of each class."""
    totals = np.asarray(counts.sum(0), dtype=float).ravel()
    hits, guessed, there = np.split(totals, 3)
    either = guessed + there - hits
    f1 = f1_of(totals[:, None])[:, 0]

    def figure(value: float, n: float, bounds: Interval) -> dict[str, Any]:
        known = math.isfinite(value)
        low, high = bounds if known else (None, None)
        return {"value": float(value) if known else None, "low": low, "high": high, "n": int(n)}

    return {
        name: {
            "precision": figure(hits[i] / guessed[i], guessed[i], wilson(hits[i], guessed[i])),
            "recall": figure(hits[i] / there[i], there[i], wilson(hits[i], there[i])),
            "f1": figure(f1[i], either[i], of_share(percentiles(f1[i], replicates[i]), either[i])),
            "n": int(there[i]),
        }
        for i, name in enumerate(classes)
    }
