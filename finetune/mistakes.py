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
    """Of what was predicted; None where there is none."""
    note: str = ""
    """Which part of the row it is about, or how far off it is."""


@dataclass(frozen=True)
class Evidence:
    """What predictions show beside their scores, as far as there is such a thing."""

    worst: Sequence[Mistake] = ()
    """The samples most wrong first."""
    confusion: Array | None = None
    """How often each class (row) was taken for each class (column)."""
    certainty: tuple[Array, Array] | None = None
    """The probability of each answer, and whether it is right."""
    certain_of: str = "the answers"
    """What these answers are, in words."""
    numbers: tuple[Array, Array] | None = None
    """Predicted and true numbers, (rows,) each."""


def confusion(predictions: Array, targets: Array) -> Array:
    """Return how often each class (row) was taken for each class (column), from probabilities."""
    return crossed(predictions.argmax(1), targets, predictions.shape[1])


def crossed(guess: Array, true: Array, classes: int) -> Array:
    """Return how often each class was true (row) where each was guessed (column), by position."""
    pairs = true.astype(np.int64) * classes + guess
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def confused(
    confusion: Array | None, classes: Sequence[str] | None, most: int = 10
) -> list[dict[str, Any]]:
    """Return the pairs of classes most often mixed up, as `{"true", "predicted", "count", "of"}`.

    `of` is how many samples the true class has. Empty where there is no `confusion`.
    """
    if confusion is None or classes is None:
        return []
    wrong = confusion - np.diag(np.diag(confusion))
    true, predicted = np.nonzero(wrong)
    order = np.argsort(-wrong[true, predicted], kind="stable")[:most]
    return [
        {
            "true": classes[true[i]],
            "predicted": classes[predicted[i]],
            "count": int(wrong[true[i], predicted[i]]),
            "of": int(confusion[true[i]].sum()),
        }
        for i in order
    ]


def of_numbers(given: Array, true: Array, most: int = 24) -> list[Mistake]:
    """Return the rows of largest absolute error first, from numbers (rows,)."""
    rows = np.argsort(-np.abs(given - true), kind="stable")[:most]
    return [Mistake(int(row), f"{true[row]:.4g}", f"{given[row]:.4g}") for row in rows]


def of_classes(
    predictions: Array, targets: Array, classes: Sequence[str], most: int = 24
) -> list[Mistake]:
    """Return the wrong rows by the probability that was given to the wrong answer."""
    guess, chance = predictions.argmax(1), predictions.max(1)
    wrong = np.flatnonzero(guess != targets)
    rows = wrong[np.argsort(-chance[wrong], kind="stable")][:most]
    return [Mistake(int(r), classes[targets[r]], classes[guess[r]], float(chance[r])) for r in rows]


def of_label_sets(
    predictions: Array, targets: Array, classes: Sequence[str], most: int = 24
) -> list[Mistake]:
    """Return of each wrong row the label that was most wrongly given or left out."""
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
