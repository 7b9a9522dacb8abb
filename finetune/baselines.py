"""What a model must beat: answers that need no input, scored like the model's own."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.protocols import Array, Target

if TYPE_CHECKING:
    from finetune.job import Job
    from finetune.metric_table import Entry, Kind


def constant(job: Job) -> Array:
    """Return the same prediction for every test row, (rows, outputs), learned from train alone.

    For classes and label sets it is their frequencies, so that the most frequent class is the
    answer and the probabilities are honest; for numbers it is the mean.
    """
    known = job.samples["train"].targets
    if known.ndim == 1:
        answer = np.bincount(known, minlength=job.target.num_outputs) / len(known)
    else:
        answer = known.astype(np.float64).mean(0)
    rows = len(job.samples["test"])
    return np.broadcast_to(answer.astype(np.float32), (rows, len(answer)))


def majority(job: Job, predictions: Array | None = None) -> dict[str, dict[str, Any]]:
    """Return `{"majority": scores}` on the test split; for numbers the key is "mean".

    With the model's `predictions`, (rows, outputs), the scores hold its paired `difference`.
    """
    answers, targets = constant(job), job.samples["test"].targets
    scores = job.target.scores(answers, targets, metrics=job.metrics)
    scores.pop("per_class", None)
    if predictions is not None:
        scores["difference"] = paired(job.target, predictions, answers, targets)
    return {"mean" if job.target.classes is None else "majority": scores}


def paired(target: Target, predictions: Array, other: Array, targets: Array) -> dict[str, Any]:
    """Return by how much `predictions` exceed `other` in the metric that chooses.

    `{"value", "low", "high", "n"}`, in the metric's own unit (negative is better for errors). Both
    are scored on the same bootstrap resamples of the rows (Efron 1981); ranking metrics take the
    infinitesimal jackknife instead.
    """
    from finetune.intervals import LEVEL, bootstrap, grouped, percentiles
    from finetune.metric_table import TABLE
    from finetune.scoring import arrays

    kind, name = kind_of(target.classes, targets), target.metric.lstrip("-")
    entry = TABLE[kind][name]
    ours, true = arrays(kind, predictions, targets)
    theirs, _ = arrays(kind, other, targets)

    def gap(keep: Any) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is undefined is said in the result
            first, second = (entry.value(given[keep], true[keep]) for given in (ours, theirs))
        return float(first - second)

    value = gap(slice(None))
    low: float | None
    high: float | None
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None, "n": len(true)}
    rows = _rows(name, entry)
    if rows is not None:
        statistics = [(rows(given, true), entry.combine) for given in (ours, theirs)]
        first, second = bootstrap(statistics)
        low, high = percentiles(value, first - second)
    elif entry.gradient is not None:
        from scipy.special import ndtri

        influence = entry.gradient(ours, true) - entry.gradient(theirs, true)
        half = float(ndtri((1 + LEVEL) / 2) * np.sqrt(np.square(influence).sum()))
        low, high = value - half, value + half
    else:
        low, high = grouped(gap, value, len(true))
    return {"value": value, "low": low, "high": high, "n": len(true)}


def kind_of(classes: Sequence[str] | None, targets: Array) -> Kind:
    """Return the kind of target, as the table of metrics names it."""
    if classes is None:
        return "numbers"
    return "classes" if targets.ndim == 1 else "label_sets"


def _rows(name: str, entry: Entry) -> Any:
    """Return the function to per-sample rows whose means make the metric, if there is one."""
    from finetune.metric_table import decided

    if name == "accuracy":
        return lambda given, true: (decided(given, true) == true)[:, None].astype(np.float64)
    return entry.rows
