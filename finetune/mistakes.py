"""Where a model errs: the confusion of classes, and the samples that it got most wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.protocols import Array


@dataclass(frozen=True)
class Mistake:
    """One sample whose prediction is wrong."""

    row: int
    true: str
    predicted: str
    probability: float | None = None
    """Of what was predicted; None where predictions are numbers."""


def confusion(predictions: Array, targets: Array) -> Array:
    """Return how often each class (row) was taken for each class (column), from probabilities."""
    classes = predictions.shape[1]
    pairs = targets.astype(np.int64) * classes + predictions.argmax(1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def confused(
    predictions: Array, targets: Array, classes: Sequence[str] | None, most: int = 10
) -> list[dict[str, Any]]:
    """Return the pairs of classes most often mixed up, as `{"true", "predicted", "count", "of"}`.

    `of` is how many samples the true class has. Empty unless each sample has exactly one class.
    """
    if classes is None or targets.ndim != 1:
        return []
    guess = predictions.argmax(1)
    wrong = guess != targets
    pairs, counts = np.unique(
        np.stack([targets[wrong], guess[wrong]], axis=1), axis=0, return_counts=True
    )
    there = np.bincount(targets, minlength=len(classes))
    order = np.argsort(-counts, kind="stable")[:most]
    return [
        {
            "true": classes[pairs[i][0]],
            "predicted": classes[pairs[i][1]],
            "count": int(counts[i]),
            "of": int(there[pairs[i][0]]),
        }
        for i in order
    ]


def worst(
    predictions: Array, targets: Array, classes: Sequence[str] | None, most: int = 24
) -> list[Mistake]:
    """Return the samples most wrong first: by the probability given to the wrong answer.

    Numbers go by their absolute error.
    """
    if classes is None:
        errors = np.abs(predictions[:, 0] - targets.reshape(len(targets), -1)[:, 0])
        rows = np.argsort(-errors, kind="stable")[:most]
        return [
            Mistake(int(r), f"{targets.reshape(-1)[r]:.4g}", f"{predictions[r, 0]:.4g}")
            for r in rows
        ]
    if targets.ndim == 1:
        guess, chance = predictions.argmax(1), predictions.max(1)
        wrong = np.flatnonzero(guess != targets)
        rows = wrong[np.argsort(-chance[wrong], kind="stable")][:most]
        return [
            Mistake(int(r), classes[targets[r]], classes[guess[r]], float(chance[r])) for r in rows
        ]
    # Of each sample, the label that was most wrongly given or left out.
    errors = np.abs(predictions - targets)
    label, size = errors.argmax(1), errors.max(1)
    wrong = np.flatnonzero(((predictions >= 0.5) != (targets > 0.5)).any(1))
    rows = wrong[np.argsort(-size[wrong], kind="stable")][:most]
    return [_label_mistake(int(r), classes[label[r]], predictions[r, label[r]]) for r in rows]


def _label_mistake(row: int, name: str, chance: float) -> Mistake:
    given, missed = (f"has {name}", f"no {name}")
    if chance >= 0.5:
        return Mistake(row, missed, given, float(chance))
    return Mistake(row, given, missed, float(1 - chance))
