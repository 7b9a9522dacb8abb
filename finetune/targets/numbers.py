"""One number for each row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from finetune import answers, labels, losses, mistakes
from finetune.errors import DataError
from finetune.mistakes import Evidence
from finetune.protocols import SPLITS, Array, Splits, Table
from finetune.targets.base import Answer, Rows, RowTarget, refuse_class_options

if TYPE_CHECKING:
    from finetune.recipe import Train


@dataclass(frozen=True)
class Numbers(RowTarget):
    """One number for each sample.

    The module learns (number - mean) / std of the training split, because heads and learning
    rates are made for outputs around 1. `rescale_head` folds both into the head that is saved,
    which then gives the original unit; `native` is the target of that saved module.
    """

    kind: ClassVar = "numbers"
    problem_type: ClassVar = "regression"
    constant: ClassVar = "mean"
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
        refuse_class_options(train, "a regression task, which has no classes")
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

    def _told(self, predictions: Array, rows: Rows, top_k: int) -> list[Answer]:
        return answers.numbers(predictions)

    def describe(self, truth: Array) -> dict[str, str]:
        """Return the least, the mean and the largest number."""
        values = np.asarray(truth, np.float64)
        facts = {"least": values.min(), "mean": values.mean(), "largest": values.max()}
        return {name: f"{float(value):.4g}" for name, value in facts.items()}

    def evidence(self, predictions: Array, truth: Array, most: int = 24) -> Evidence:
        """Return predicted and true numbers, and the largest errors."""
        given, true = predictions[:, 0], truth.reshape(len(truth), -1)[:, 0]
        return Evidence(mistakes.of_numbers(given, true, most), numbers=(given, true))
