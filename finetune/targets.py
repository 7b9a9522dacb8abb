"""What a run predicts, bound to its data: the encoding, the loss, the predictions, the scores.

Nothing here knows whether the inputs are images or texts. Losses are one number for each sample;
whoever adds them up divides by the sum of `weights`, so that a mean over a batch does not depend
on how the batch was cut.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from torch import Tensor, nn

from finetune import labels, losses
from finetune.errors import DataError, RecipeError
from finetune.protocols import SPLITS, Array, Network, Source, Splits, Table

if TYPE_CHECKING:
    from finetune.metric_table import Kind
    from finetune.recipe import Train


class _Target(ABC):
    """What the targets have in common."""

    kind: ClassVar[Kind]
    """The kind of predictions and references, as the table of metrics names it."""
    classes: tuple[str, ...] | None
    metric: str

    def __post_init__(self) -> None:
        """Take lists for tuples: a target that was kept as JSON reads back equal."""
        for name, value in vars(self).items():
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))

    @property
    def num_outputs(self) -> int:
        """One output for each class, or one number."""
        return 1 if self.classes is None else len(self.classes)

    @property
    def native(self) -> Self:
        """The target of the saved module: the same."""
        return self

    def rescale_head(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the head as it is: logits have no unit."""
        return weight, bias

    def labels(self, truth: Array, source: Source) -> Array:
        """Return the truth: each row is one sample."""
        return truth

    def weights(self, targets: dict[str, Tensor]) -> Tensor:
        """Return ones, (batch,), float32: every sample counts the same."""
        return losses.ones(targets)

    def infer(self, network: Network, module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Return the predictions of a batch, (batch, outputs), float32."""
        return self.predictions(network.outputs(module(**inputs)))

    @abstractmethod
    def predictions(self, outputs: Tensor) -> Tensor:
        """Return probabilities or numbers, (batch, outputs), float32."""

    def decode(self, kept: Array, source: Source) -> Array:
        """Return what was kept: each row is one sample."""
        return kept

    def scores(
        self,
        predictions: Array,
        targets: Array,
        *,
        intervals: bool = True,
        metrics: Sequence[Any] = (),
    ) -> dict[str, Any]:
        """Return all metrics of what `predictions` and `encode` give; see `Target.scores`."""
        from finetune.scoring import score

        names = [self.metric.lstrip("-"), *(m for m in metrics if isinstance(m, str))]
        given = (self.kind, predictions, targets)
        result = score(*given, self.classes or (), names, intervals=intervals)
        if others := [metric for metric in metrics if not isinstance(metric, str)]:
            from finetune.metrics import score_others

            result |= score_others(*given, others, result, intervals=intervals)
        return result

    def difference(self, predictions: Array, other: Array, targets: Array) -> dict[str, Any]:
        """Return by how much `predictions` exceed `other` in `metric`: `{"value", "low", ...}`."""
        from finetune.scoring import difference

        return difference(self.kind, self.metric.lstrip("-"), predictions, other, targets)


@dataclass(frozen=True)
class Classes(_Target):
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


@dataclass(frozen=True)
class LabelSets(_Target):
    """Any number of labels for each sample."""

    kind: ClassVar = "label_sets"
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


@dataclass(frozen=True)
class Numbers(_Target):
    """One number for each sample.

    The module learns (number - mean) / std of the training split, because heads and learning
    rates are made for outputs around 1. `rescale_head` folds both into the head that is saved,
    which then gives the original unit; `native` is the target of that saved module.
    """

    kind: ClassVar = "numbers"
    problem_type: ClassVar = "regression"
    mean: float = 0.0
    std: float = 1.0
    names: tuple[str, ...] | None = None
    """Where the data declares classes, as folders called 23 and 24 do: they are read as numbers."""
    metric: str = "-rmse"
    classes: None = None

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
        labels.read(splits)
        unscaled, encoded = cls(names=splits.classes), {}
        for split in SPLITS:
            with labels.told(split):
                encoded[split] = unscaled.encode(splits[split]).astype(np.float64)
        numbers = encoded["train"]
        if len(numbers) < 2 or np.ptp(numbers) == 0:
            only = f"only the number {numbers[0, 0]:g}" if len(numbers) else "no rows"
            raise DataError(f"In the train split: {only}. There is nothing to learn.")
        return replace(unscaled, mean=float(numbers.mean()), std=float(numbers.std()))

    def encode(self, table: Table) -> Array:
        """Return the numbers in their own unit, float32 (rows, 1); raise DataError for others."""
        cells = labels.column(table)
        if self.names is not None:
            index = labels.Index(self.names, True)
            cells = [self.names[index(value, row)] for row, value in enumerate(cells)]
        numbers = [labels.number(value, row) for row, value in enumerate(cells)]
        return np.asarray(numbers, dtype=np.float32).reshape(-1, 1)

    def losses(self, outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Return squared errors, in units of the variance of train, (batch,), float32."""
        values = outputs.float()
        return losses.mixed(
            lambda label: (values - (label.float() - self.mean) / self.std).square().mean(1),
            targets,
        )

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return numbers in the original unit, (batch, 1), float32."""
        return outputs.float() * self.std + self.mean

    def rescale_head(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the head (1, width), (1,) that gives the original unit."""
        return weight * self.std, bias * self.std + self.mean

    @property
    def native(self) -> Numbers:
        """The target of the saved module, whose outputs are in the original unit."""
        return replace(self, mean=0.0, std=1.0)
