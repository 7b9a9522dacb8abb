"""Cheap answers from frozen features: nearest neighbours, and a linear probe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from finetune.linear_head import LinearHead, fit_head
from finetune.methods.base import STRENGTHS
from finetune.protocols import Array
from finetune.scoring import score
from finetune.targets.base import RowTarget

NEIGHBOURS = (1, 2, 5, 10, 20, 50, 100)
"""Numbers of neighbours to try."""


@dataclass(frozen=True)
class Known:
    """Rows whose truth is known."""

    features: Array
    """(rows, width), float32."""
    truth: Array
    """As `target.encode` gives it."""


def worth(target: RowTarget, predictions: Array, truth: Array) -> float:
    """Return the metric that chooses so that more is better; -inf where it is not defined."""
    name = target.metric.lstrip("-")
    value = score(target.kind, predictions, truth, only=[name], intervals=False)[name]["value"]
    if value is None:
        return -math.inf
    return -float(value) if target.metric.startswith("-") else float(value)


@dataclass(frozen=True)
class Neighbours:
    """The mean truth of the k nearest rows by the cosine of centred features.

    Of classes it is their share among the neighbours; all neighbours count alike.
    """

    target: RowTarget
    known: Known
    k: int

    @classmethod
    def fit(cls, target: RowTarget, train: Known, validation: Known) -> Neighbours:
        """Choose k on validation; of values that do equally well, the largest."""
        whole = cls(target, train, min(NEIGHBOURS[-1], len(train.truth)))
        tried = [k for k in NEIGHBOURS if k <= whole.k]
        answers = whole._means(validation.features, tried)
        worths = [worth(target, given, validation.truth) for given in answers]
        return cls(target, train, max(zip(worths, tried, strict=True))[1])

    @property
    def chosen(self) -> dict[str, Any]:
        """What validation chose."""
        return {"k": self.k}

    def predict(self, features: Array) -> Array:
        """Return probabilities or numbers, (rows, outputs), float32."""
        return self._means(features, [self.k])[0]

    def _means(self, features: Array, wanted: Sequence[int]) -> list[Array]:
        """Return the mean truth of the nearest rows, for each number of them that is wanted."""
        from sklearn.neighbors import NearestNeighbors

        centre = self.known.features.mean(0)
        search = NearestNeighbors(n_neighbors=max(wanted), algorithm="brute")
        search.fit(_directions(self.known.features - centre))
        nearest = search.kneighbors(_directions(features - centre), return_distance=False)
        total = np.zeros((len(features), self.target.num_outputs), np.float32)
        means = []
        for place in range(max(wanted)):
            total += self.target.vectors(self.known.truth[nearest[:, place]])
            if place + 1 in wanted:
                means.append(total / (place + 1))
        return means


def _directions(features: Array) -> Array:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    directions: Array = features / np.maximum(lengths, 1e-12)
    return directions


@dataclass(frozen=True)
class LinearProbe:
    """A linear head on frozen features, as method=features fits it."""

    target: RowTarget
    head: LinearHead

    @classmethod
    def fit(
        cls,
        target: RowTarget,
        train: Known,
        validation: Known,
        device: torch.device | None = None,
    ) -> LinearProbe:
        """Choose the strength of the penalty on validation; raise TrainingError if none fits."""
        known = train.features, train.truth, validation.features, validation.truth
        return cls(target, fit_head(*known, target, STRENGTHS, device=device))

    @property
    def chosen(self) -> dict[str, Any]:
        """What validation chose."""
        return {"c": self.head.c}

    def predict(self, features: Array) -> Array:
        """Return probabilities or numbers, (rows, outputs), float32."""
        outputs = torch.nn.functional.linear(
            torch.from_numpy(features), self.head.weight, self.head.bias
        )
        predictions: Array = self.target.predictions(outputs).numpy()
        return predictions
