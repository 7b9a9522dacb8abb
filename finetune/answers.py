"""What is told of one row: a prediction in the form of its task, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.protocols import Array

Answer = dict[str, Any]

THRESHOLD = 0.5
"""Probability from which a label of several counts as given, as in the metrics."""


def classes(names: Sequence[str], probabilities: Array, top_k: int) -> list[Answer]:
    """Return for each row of probabilities (rows, classes) its label and the likeliest `top_k`."""
    answers = []
    for row in probabilities:
        ranked = _ranked(names, row)
        answers.append({**ranked[0], "top": ranked[:top_k]})
    return answers


def label_sets(
    names: Sequence[str],
    probabilities: Array,
    top_k: int,
    thresholds: Sequence[float] | None = None,
) -> list[Answer]:
    """Return for each row the labels that reach their threshold, and the likeliest `top_k`.

    Thresholds are 0.5 if not given.
    """
    limits = dict(zip(names, thresholds or [THRESHOLD] * len(names), strict=True))
    answers = []
    for row in probabilities:
        ranked = _ranked(names, row)
        given = [label for label in ranked if label["probability"] >= limits[label["label"]]]
        answers.append({"labels": given, "top": ranked[:top_k]})
    return answers


def numbers(values: Array) -> list[Answer]:
    """Return the number of each row of values (rows, 1)."""
    return [{"value": _short(value)} for value in values[:, 0]]


def _ranked(names: Sequence[str], row: Array) -> list[Answer]:
    order = np.argsort(-row, kind="stable")
    return [{"label": names[i], "probability": _short(row[i])} for i in order]


def _short(number: Any) -> float:
    """Return a float32 as the shortest float that means it, not with digits it does not have."""
    return float(str(np.float32(number)))
