"""Exactly one class for each row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from finetune import answers, calibration, labels, losses, mistakes
from finetune.errors import DataError
from finetune.mistakes import Evidence
from finetune.protocols import SPLITS, Array, Splits, Table
from finetune.targets.base import Answer, Rows, RowTarget

if TYPE_CHECKING:
    from finetune.recipe import Train


@dataclass(frozen=True)
class Classes(RowTarget):
    """Exactly one class for each sample."""

    kind: ClassVar = "classes"
    problem_type: ClassVar = "single_label_classification"
    classes: tuple[str, ...]
    indexed: bool = True
    """Whether whole numbers are positions in `classes`; else they are names like any other."""
    label_smoothing: float = 0.0
    focal: float = 0.0
    class_weights: tuple[float, ...] | None = None
    metric: str = "accuracy"
    temperature: float = 1.0
    """Divides the logits of what `answers` tells; fitted by `calibrated`."""

    @classmethod
    def of(cls, splits: Splits, train: Train) -> Classes:
        """Read the classes; raise DataError for fewer than two, or one that train has none of."""
        rows = labels.read(splits)
        with labels.told("train"):
            names = splits.classes or labels.natural(map(labels.name_of, rows["train"]))
            target = cls(names, splits.classes is not None, train.label_smoothing, train.focal)
            counts = target._counts(splits.train)
            there = [names[index] for index, count in enumerate(counts) if count]
            if len(there) < 2:
                only = f"one class only, {there[0]!r}" if there else "no rows"
                raise DataError(f"{only}. A classifier needs samples of at least two classes.")
        for split in SPLITS[1:]:
            with labels.told(split):
                labels.check_learned(target._counts(splits[split]), counts, names)
        if train.class_weights == "none":
            return target
        # By inverse frequency, 1 on average over the samples; 1 for an empty class.
        share = len(splits.train) / len(there)
        return replace(target, class_weights=tuple(share / n if n else 1.0 for n in counts))

    def _counts(self, table: Table) -> list[int]:
        return list(map(int, np.bincount(self.encode(table), minlength=self.num_outputs)))

    def encode(self, table: Table) -> Array:
        """Return class positions, int64 (rows,); raise DataError for an unknown label."""
        index = labels.Index(self.classes, self.indexed)
        positions = [index(value, row) for row, value in enumerate(labels.column(table))]
        return np.asarray(positions, dtype=np.int64)

    def losses(self, outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Return the cross-entropy of logits (batch, classes) as (batch,), float32.

        Class weights multiply it; the sum of losses over the sum of `weights` is torch's weighted
        mean.
        """
        logits = outputs.float()
        weight = losses.vector(self.class_weights, logits.device)
        how = (weight, self.label_smoothing, self.focal)
        return losses.mixed(lambda label: losses.cross_entropy(logits, label, *how), targets)

    def weights(self, targets: dict[str, Tensor]) -> Tensor:
        """Return what each sample counts in the mean of the losses, (batch,), float32."""
        weight = losses.vector(self.class_weights, targets["label"].device)
        if weight is None:
            return losses.ones(targets)
        return losses.mixed(lambda label: weight[label], targets)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return probabilities, (batch, classes), float32."""
        return outputs.float().softmax(1)

    def _told(self, predictions: Array, rows: Rows, top_k: int) -> list[Answer]:
        return answers.classes(self.classes, self.softened(predictions), top_k)

    def softened(self, predictions: Array) -> Array:
        """Return probabilities at the fitted temperature."""
        return calibration.of_classes(predictions, self.temperature)

    def calibrated(self, predictions: Array, truth: Array) -> Classes:
        """Return the target with the temperature that fits these rows best, if they are enough."""
        if len(truth) < calibration.ROWS:
            return self
        right = np.eye(self.num_outputs)[truth]
        fitted = calibration.temperature(predictions, right, calibration.of_classes)
        return replace(self, temperature=fitted)

    def average(self, truth: Array) -> Array:
        """Return how frequent each class is, (classes,)."""
        return np.bincount(truth, minlength=self.num_outputs) / len(truth)

    def vectors(self, truth: Array) -> Array:
        """Return 1 for the class of each row and 0 for the others, (rows, classes), float32."""
        return np.eye(self.num_outputs, dtype=np.float32)[truth]

    def tally(self, truth: Array) -> Array:
        """Return the rows of each class, (classes,)."""
        return np.bincount(truth, minlength=self.num_outputs)

    def evidence(self, predictions: Array, truth: Array, most: int = 24) -> Evidence:
        """Return the confusion, the certainty, the surest wrong answers and some right ones."""
        return Evidence(
            worst=mistakes.of_classes(predictions, truth, self.classes, most),
            right=mistakes.right_classes(predictions, truth, self.classes),
            confusion=mistakes.confusion(predictions, truth),
            certainty=(predictions.max(1), predictions.argmax(1) == truth),
        )
