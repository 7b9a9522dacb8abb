"""What a run predicts, bound to its data: the encoding, the loss, the predictions, the scores.

Nothing here knows whether the inputs are images or texts. Losses are one number for each sample;
whoever adds them up divides by the sum of `weights`, so that a mean over a batch does not depend
on how the batch was cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from finetune import labels, losses
from finetune.errors import DataError, RecipeError
from finetune.protocols import SPLITS, Array, Splits, Table

if TYPE_CHECKING:
    from finetune.metric_table import Kind
    from finetune.recipe import Train


@dataclass(frozen=True)
class Classes:
    """Exactly one class for each sample."""

    problem_type: ClassVar = "single_label_classification"
    classes: tuple[str, ...]
    indexed: bool = True
    """Whether whole numbers are positions in `classes`; else they are names like any other."""
    label_smoothing: float = 0.0
    focal: float = 0.0
    class_weights: tuple[float, ...] | None = None
    metric: str = "accuracy"

    def __post_init__(self) -> None:
        """Take lists for tuples: a target that was kept as JSON reads back equal."""
        labels.settle(self)

    @classmethod
    def of(cls, splits: Splits, train: Train) -> Classes:
        """Read the classes; raise DataError for fewer than two, or one that train has none of."""
        for split in SPLITS:
            with labels.told(split):
                labels.check_present(labels.column(splits[split]))
        with labels.told("train"):
            names = splits.classes or labels.natural(
                map(labels.name_of, labels.column(splits.train))
            )
            target = cls(names, splits.classes is not None, train.label_smoothing, train.focal)
            counts = Counter(target.encode(splits.train).tolist())
            if len(counts) < 2:
                only = f"one class only, {names[min(counts)]!r}" if counts else "no rows"
                raise DataError(f"{only}. A classifier needs samples of at least two classes.")
        for split in SPLITS[1:]:
            with labels.told(split):
                here = Counter(target.encode(splits[split]).tolist())
                labels.check_learned(here, counts, names)
        if train.class_weights == "none":
            return target
        return replace(target, class_weights=labels.balanced(counts, len(names)))

    @property
    def num_outputs(self) -> int:
        """One logit for each class."""
        return len(self.classes)

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

    def scores(
        self,
        predictions: Array,
        targets: Array,
        *,
        intervals: bool = True,
        metrics: Sequence[Any] = (),
    ) -> dict[str, Any]:
        """Return all metrics of probabilities (rows, classes) and positions (rows,)."""
        return _scores("classes", predictions, targets, self.classes, intervals, metrics)

    def rescale_head(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the head as it is: logits have no unit."""
        return weight, bias

    @property
    def native(self) -> Classes:
        """The target of the saved module: the same."""
        return self


@dataclass(frozen=True)
class LabelSets:
    """Any number of labels for each sample."""

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

    def __post_init__(self) -> None:
        """Take lists for tuples: a target that was kept as JSON reads back equal."""
        labels.settle(self)

    @classmethod
    def of(cls, splits: Splits, train: Train) -> LabelSets:
        """Read the labels; raise DataError for none, or one that the training split has none of."""
        for split in SPLITS:
            with labels.told(split):
                labels.check_present(labels.column(splits[split]))
                labels.check_lists(labels.column(splits[split]))
        with labels.told("train"):
            rows = labels.column(splits.train)
            multi_hot = labels.is_multi_hot(rows)
            found = [labels.name_of(value) for row in rows for value in row]
            if multi_hot:
                found = [str(place) for place in range(len(rows[0]))]
            names = splits.classes or labels.natural(found)
            indexed = splits.classes is not None
            target = cls(names, indexed, multi_hot, train.label_smoothing, train.focal)
            counts = target._counts(splits.train)
            if not any(counts.values()):
                raise DataError("no row has any label. There is nothing to learn.")
        for split in SPLITS[1:]:
            with labels.told(split):
                here = target._counts(splits[split])
                labels.check_learned(here, counts, names)
                if split == "validation" and not any(here.values()):
                    raise DataError("no row has any label, so that no epoch can be chosen by it.")
        if train.class_weights == "none":
            return target
        size = len(splits.train)
        ratios = [max(size - count, 1) / count if count else 1.0 for count in counts.values()]
        return replace(target, class_weights=tuple(ratios))

    def _counts(self, table: Table) -> dict[int, int]:
        return dict(enumerate(self.encode(table).sum(0).astype(int).tolist()))

    @property
    def num_outputs(self) -> int:
        """One logit for each label."""
        return len(self.classes)

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

    def weights(self, targets: dict[str, Tensor]) -> Tensor:
        """Return ones, (batch,), float32: every sample counts the same."""
        return losses.ones(targets)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return the probability of each label, (batch, classes), float32."""
        return outputs.float().sigmoid()

    def scores(
        self,
        predictions: Array,
        targets: Array,
        *,
        intervals: bool = True,
        metrics: Sequence[Any] = (),
    ) -> dict[str, Any]:
        """Return all metrics of probabilities and 0/1 vectors, both (rows, classes)."""
        return _scores("label_sets", predictions, targets, self.classes, intervals, metrics)

    def rescale_head(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the head as it is: logits have no unit."""
        return weight, bias

    @property
    def native(self) -> LabelSets:
        """The target of the saved module: the same."""
        return self


@dataclass(frozen=True)
class Numbers:
    """One number for each sample.

    The module learns (number - mean) / std of the training split, because heads and learning
    rates are made for outputs around 1. `rescale_head` folds both into the head that is saved,
    which then gives the original unit; `native` is the target of that saved module.
    """

    problem_type: ClassVar = "regression"
    mean: float = 0.0
    std: float = 1.0
    names: tuple[str, ...] | None = None
    """Where the data declares classes, as folders called 23 and 24 do: they are read as numbers."""
    metric: str = "-rmse"

    def __post_init__(self) -> None:
        """Take lists for tuples: a target that was kept as JSON reads back equal."""
        labels.settle(self)

    @classmethod
    def of(cls, splits: Splits, train: Train) -> Numbers:
        """Read the numbers; raise DataError where one is none, or all of train are the same.

        Label smoothing, focal loss and class weights raise RecipeError: they need classes.
        """
        plain = {"label_smoothing": 0.0, "focal": 0.0, "class_weights": "none"}
        for key, value in plain.items():
            if getattr(train, key) != value:
                raise RecipeError(
                    f"train.{key}={getattr(train, key)} has no meaning for a regression task, "
                    f"which has no classes: leave it at {value}."
                )
        unscaled, encoded = cls(names=splits.classes), {}
        for split in SPLITS:
            with labels.told(split):
                labels.check_present(labels.column(splits[split]))
                encoded[split] = unscaled.encode(splits[split]).astype(np.float64)
        numbers = encoded["train"]
        if len(numbers) < 2 or np.ptp(numbers) == 0:
            only = f"only the number {numbers[0, 0]:g}" if len(numbers) else "no rows"
            raise DataError(f"In the train split: {only}. There is nothing to learn.")
        return replace(unscaled, mean=float(numbers.mean()), std=float(numbers.std()))

    @property
    def classes(self) -> None:
        """There are none."""
        return None

    @property
    def num_outputs(self) -> int:
        """One."""
        return 1

    def encode(self, table: Table) -> Array:
        """Return the numbers in their own unit, float32 (rows, 1); raise DataError for others."""
        cells = labels.column(table)
        if self.names is not None:
            cells = [self.names[labels.Index(self.names, True)(v, i)] for i, v in enumerate(cells)]
        numbers = [labels.number(value, row) for row, value in enumerate(cells)]
        return np.asarray(numbers, dtype=np.float32).reshape(-1, 1)

    def losses(self, outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Return squared errors, in units of the variance of train, (batch,), float32."""
        values = outputs.float()
        return losses.mixed(
            lambda label: (values - (label.float() - self.mean) / self.std).square().mean(1),
            targets,
        )

    def weights(self, targets: dict[str, Tensor]) -> Tensor:
        """Return ones, (batch,), float32: every sample counts the same."""
        return losses.ones(targets)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return numbers in the original unit, (batch, 1), float32."""
        return outputs.float() * self.std + self.mean

    def scores(
        self,
        predictions: Array,
        targets: Array,
        *,
        intervals: bool = True,
        metrics: Sequence[Any] = (),
    ) -> dict[str, Any]:
        """Return all metrics of predicted and true numbers, both (rows, 1)."""
        return _scores("numbers", predictions, targets, (), intervals, metrics)

    def rescale_head(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the head (1, width), (1,) that gives the original unit."""
        return weight * self.std, bias * self.std + self.mean

    @property
    def native(self) -> Numbers:
        """The target of the saved module, whose outputs are in the original unit."""
        return replace(self, mean=0.0, std=1.0)


def _scores(
    kind: Kind,
    predictions: Array,
    targets: Array,
    classes: Sequence[str],
    intervals: bool,
    metrics: Sequence[Any],
) -> dict[str, Any]:
    """Score with intervals through `evaluate`; without, and without metrics of others, directly."""
    if not intervals and all(isinstance(metric, str) for metric in metrics):
        # Every epoch: the same functions, without the seconds of evaluate's import and intervals.
        from finetune.scoring import score

        return score(kind, predictions, targets, classes, metrics, intervals=False)
    from finetune.metrics import scores

    return scores(kind, predictions, targets, classes, metrics, intervals=intervals)
