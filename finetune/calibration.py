"""Probabilities that mean what they say, and answers that are better withheld.

One temperature divides all logits, fitted on validation by likelihood: Guo et al. 2017,
arXiv:1706.04599.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from finetune.intervals import wilson
from finetune.protocols import Array

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Shares of the samples that are answered, the surest first."""
LEAST, LARGEST = 0.05, 20.0
"""Temperatures between which the best is looked for."""
ROWS = 50
"""Rows below which nothing is fitted: chance would be."""
FIGURES = ("ece", "brier", "log_loss", "macro_f1", "micro_f1")
"""Metrics that a temperature or thresholds can change."""

Soften = Callable[[Array, float], Array]


def of_classes(probabilities: Array, temperature: float) -> Array:
    """Return softmax(log p / T) of probabilities (rows, classes)."""
    from scipy.special import softmax

    softened: Array = softmax(_log(probabilities) / temperature, axis=1)
    return softened.astype(np.float32)


def of_labels(probabilities: Array, temperature: float) -> Array:
    """Return sigmoid(logit(p) / T) of the probability of each label, (rows, labels)."""
    from scipy.special import expit

    logits = _log(probabilities) - _log(1 - probabilities.astype(np.float64))
    softened: Array = expit(logits / temperature)
    return softened.astype(np.float32)


def temperature(probabilities: Array, right: Array, soften: Soften) -> float:
    """Return the temperature under which the truth is likeliest; 1 where none can be told.

    `right` holds 1 where a class or label is there and 0 elsewhere, as `probabilities` (rows,
    outputs) are laid out.
    """
    from scipy.optimize import minimize_scalar

    def loss(exponent: float) -> float:
        given = soften(probabilities, float(np.exp(exponent))).astype(np.float64)
        return -float(np.mean(_log(np.where(right > 0.5, given, 1 - given))))

    bounds = (np.log(LEAST), np.log(LARGEST))
    found = minimize_scalar(loss, bounds=bounds, method="bounded")
    # Where every answer is right, or hardly one, the best would be at an end and says nothing.
    inside = loss(bounds[0]) > 1e-6 and bounds[0] + 0.01 < found.x < bounds[1] - 0.01
    return round(float(np.exp(found.x)), 4) if inside and found.fun < loss(0.0) else 1.0


def thresholds(probabilities: Array, right: Array) -> tuple[float, ...]:
    """Return for each label the probability from which its F1 is best, (labels,); 0.5 for no hits.

    Between two samples the threshold lies in the middle.
    """
    chosen = []
    for given, there in zip(probabilities.T, right.T > 0.5, strict=True):
        order = np.argsort(-given, kind="stable")
        hits = np.cumsum(there[order])
        f1 = 2 * hits / (np.arange(1, len(given) + 1) + there.sum())
        # A threshold cannot part samples of equal probability.
        parts = np.append(np.diff(given[order]) < 0, True)
        best = int(np.argmax(np.where(parts, f1, -1.0)))
        if not hits[best]:
            chosen.append(0.5)
            continue
        below = given[order[best + 1]] if best + 1 < len(given) else 0.0
        chosen.append(round(float(given[order[best]] + below) / 2, 4))
    return tuple(chosen)


def moved(probabilities: Array, thresholds: Sequence[float]) -> Array:
    """Return probabilities (rows, labels) bent so that each label's threshold lies at 0.5."""
    limit = np.clip(np.asarray(thresholds, np.float64), 1e-6, 1 - 1e-6)
    above = 0.5 + 0.5 * (probabilities - limit) / (1 - limit)
    return np.where(probabilities >= limit, above, 0.5 * probabilities / limit).astype(np.float32)


def told(
    target: Any, before: Mapping[str, Any], predictions: Array, truth: Array
) -> dict[str, Any]:
    """Return the figures that a calibrated target changes on these rows, scored `before`."""
    softened = target.softened(predictions)
    after = target.scores(softened, truth)
    figures = {
        name: {"before": before[name], "after": after[name]}
        for name in FIGURES
        if name in after and after[name] != before[name]
    }
    shown = target.evidence(softened, truth)
    certain = coverage(*shown.certainty) if shown.confusion is not None else []
    return {"temperature": target.temperature, "figures": figures, "coverage": certain}


def coverage(certainty: Array, right: Array) -> list[dict[str, Any]]:
    """Return the accuracy of the surest answers alone: what abstaining from the others gives.

    Each has "coverage", "probability" from which an answer is given, and "accuracy" with its
    Wilson interval and n.
    """
    order = np.argsort(-certainty, kind="stable")
    hits = np.cumsum(right[order])
    found = []
    for share in COVERAGES:
        n = max(1, round(share * len(order)))
        low, high = wilson(hits[n - 1], n)
        accuracy = {"value": float(hits[n - 1] / n), "low": low, "high": high, "n": n}
        least = float(certainty[order[n - 1]])
        found.append({"coverage": share, "probability": least, "accuracy": accuracy})
    return found


def _log(probabilities: Array) -> Array:
    return np.log(np.clip(probabilities.astype(np.float64), 1e-12, None))
