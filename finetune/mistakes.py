"""Where a model errs: the confusion of classes, and the samples that it got most wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.protocols import Array


@dataclass(frozen=True)
class Mistake:
    """One sample and what was predicted of it, wrongly where it is not said to be right."""

    row: int
    true: str
    predicted: str
    probability: float | None = None
    """Of what was predicted; None where there is none."""
    note: str = ""
    """Which part of the row it is about, or how far off it is."""
    output: int | None = None
    """Which output of the model says so, where it is one of the row."""


@dataclass(frozen=True)
class Evidence:
    """What predictions show beside their scores, as far as there is such a thing."""

    worst: Sequence[Mistake] = ()
    """The samples most wrong first."""
    right: Sequence[Mistake] = ()
    """A few right answers in the same form, the surest first."""
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
    return [Mistake(int(row), f"{true[row]:.4g}", f"{given[row]:.4g}", output=0) for row in rows]


def of_classes(
    predictions: Array, targets: Array, classes: Sequence[str], most: int = 24
) -> list[Mistake]:
    """Return the wrong rows by the probability that was given to the wrong answer."""
    wrong = np.flatnonzero(predictions.argmax(1) != targets)
    rows = wrong[np.argsort(-predictions.max(1)[wrong], kind="stable")][:most]
    return [_answer(int(row), predictions, targets, classes) for row in rows]


def right_classes(
    predictions: Array, targets: Array, classes: Sequence[str], most: int = 4
) -> list[Mistake]:
    """Return the surest right answer of each of a few classes."""
    right = np.flatnonzero(predictions.argmax(1) == targets)
    order = right[np.argsort(-predictions.max(1)[right], kind="stable")]
    _, first = np.unique(targets[order], return_index=True)
    rows = order[np.sort(first)][:most]
    return [_answer(int(row), predictions, targets, classes) for row in rows]


def _answer(row: int, predictions: Array, targets: Array, classes: Sequence[str]) -> Mistake:
    guess = int(predictions[row].argmax())
    names = classes[targets[row]], classes[guess]
    return Mistake(row, *names, float(predictions[row, guess]), output=guess)


def of_label_sets(
    predictions: Array, targets: Array, classes: Sequence[str], most: int = 24
) -> list[Mistake]:
    """Return of each wrong row the label that was most wrongly given or left out."""
    errors = np.abs(predictions - targets)
    label, size = errors.argmax(1), errors.max(1)
    wrong = np.flatnonzero(((predictions >= 0.5) != (targets > 0.5)).any(1))
    rows = wrong[np.argsort(-size[wrong], kind="stable")][:most]
    return [_label_mistake(int(r), int(label[r]), predictions[r], classes) for r in rows]


def _label_mistake(row: int, label: int, chances: Array, classes: Sequence[str]) -> Mistake:
    given, missed = f"has {classes[label]}", f"no {classes[label]}"
    chance = float(chances[label])
    if chance >= 0.5:
        return Mistake(row, missed, given, chance, output=label)
    return Mistake(row, given, missed, 1 - chance, output=label)
