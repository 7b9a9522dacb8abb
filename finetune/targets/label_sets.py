"""Any number of labels for each row."""

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
class LabelSets(RowTarget):
    """Any number of labels for each sample."""

    kind: ClassVar = "label_sets"
    each: ClassVar = ("label", "labels")
    problem_type: ClassVar = "multi_label_classification"
    classes: tuple[str, ...]
    indexed: bool = True
    """Whether whole numbers are positions in `classes`; else they are names like any other."""
    multi_hot: bool = False
    """Whether a row is a vector of 0 and 1 with a place for each class, not a list of labels."""
    label_smoothing: float = 0.0
    focal: float = 0.0
    class_weights: tuple[float, ...] | None = None
    """What a positive counts against a negative, for each label."""
    metric: str = "macro_average_precision"
    temperature: float = 1.0
    """Divides the logits of what `answers` tells; fitted by `calibrated`."""
    thresholds: tuple[float, ...] | None = None
    """Probability from which each label counts as given in `answers`; 0.5 before `calibrated`."""

    @classmethod
    def of(cls, splits: Splits, train: Train) -> LabelSets:
        """Read the labels; raise DataError for none, or one that the training split has none of."""
        rows = labels.read(splits, lists=True)["train"]
        with labels.told("train"):
            multi_hot = labels.is_multi_hot(rows)
            found = [labels.name_of(value) for row in rows for value in row]
            if multi_hot:
                found = [str(place) for place in range(len(rows[0]))]
            names = splits.classes or labels.natural(found)
            indexed = splits.classes is not None
            target = cls(names, indexed, multi_hot, train.label_smoothing, train.focal)
            counts = target._counts(splits.train)
            if not any(counts):
                raise DataError("no row has any label. There is nothing to learn.")
        for split in SPLITS[1:]:
            with labels.told(split):
                here = target._counts(splits[split])
                labels.check_learned(here, counts, names)
                if split == "validation" and not any(here):
                    raise DataError("no row has any label, so that no epoch can be chosen by it.")
        if train.class_weights == "none":
            return target
        size = len(rows)
        ratios = (max(size - count, 1) / count if count else 1.0 for count in counts)
        return replace(target, class_weights=tuple(ratios))

    def _counts(self, table: Table) -> list[int]:
        return list(map(int, self.encode(table).sum(0)))

    def encode(self, table: Table) -> Array:
        """Return 0/1 vectors, float32 (rows, classes); raise DataError for an unknown label."""
        rows, size = labels.column(table), self.num_outputs
        labels.check_lists(rows)
        encoded = np.zeros((len(rows), size), dtype=np.float32)
        index = labels.Index(self.classes, self.indexed)
        for row, cell in enumerate(rows):
            if not self.multi_hot:
                encoded[row, [index(value, row) for value in cell]] = 1
            elif len(cell) == size and all(value in (0, 1) for value in cell):
                encoded[row] = cell
            else:
                raise DataError(
                    f"row {row} has the label {cell!r}, but the training split has vectors of 0 "
                    f"and 1 with a place for each of {size} classes."
                )
        return encoded

    def losses(self, outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Return the mean binary cross-entropy of logits (batch, classes), (batch,), float32."""
        logits = outputs.float()
        weight = losses.vector(self.class_weights, logits.device)
        how = (weight, self.label_smoothing, self.focal)
        return losses.mixed(lambda label: losses.binary_cross_entropy(logits, label, *how), targets)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return the probability of each label, (batch, classes), float32."""
        return outputs.float().sigmoid()

    def _told(self, predictions: Array, rows: Rows, top_k: int) -> list[Answer]:
        softened = calibration.of_labels(predictions, self.temperature)
        return answers.label_sets(self.classes, softened, top_k, self.thresholds)

    def softened(self, predictions: Array) -> Array:
        """Return probabilities at the fitted temperature, bent so that thresholds lie at 0.5."""
        softened = calibration.of_labels(predictions, self.temperature)
        return softened if self.thresholds is None else calibration.moved(softened, self.thresholds)

    def calibrated(self, predictions: Array, truth: Array) -> LabelSets:
        """Return the target with temperature and thresholds fitted on these rows, if enough."""
        if len(truth) < calibration.ROWS:
            return self
        fitted = calibration.temperature(predictions, truth, calibration.of_labels)
        softened = calibration.of_labels(predictions, fitted)
        return replace(self, temperature=fitted, thresholds=calibration.thresholds(softened, truth))

    def tally(self, truth: Array) -> Array:
        """Return the rows of each label, (classes,)."""
        count: Array = truth.sum(0)
        return count

    def evidence(self, predictions: Array, truth: Array, most: int = 24) -> Evidence:
        """Return the certainty of all labels, and the labels most wrongly given or left out."""
        return Evidence(
            worst=mistakes.of_label_sets(predictions, truth, self.classes, most),
            certainty=(predictions.ravel(), truth.ravel() > 0.5),
            certain_of="all labels",
        )
