"""Tasks over images: what is predicted differs, the images and their augmentation do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from finetune.images.augmentation import Augmentation
from finetune.protocols import ROW, Form
from finetune.schema import Noun

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from finetune.protocols import Array, Splits, Target

    Rows = Sequence[Mapping[str, Any]]


class ImageClassification(Noun):
    """One class for each image."""

    kind: Literal["image-classification"] = "image-classification"
    augmentation: Augmentation = Augmentation()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that this task reads."""
        return ("image", "label")

    @property
    def form(self) -> Form:
        """One output for each image."""
        return ROW

    def bind(self, splits: Splits, train: Any) -> Target:
        """Return the classes of `splits` as a target; raise DataError if there are fewer than 2."""
        from finetune.targets import Classes

        return Classes.of(splits, train)

    def recall(self, saved: Mapping[str, Any]) -> Target:
        """Return the target that a finished run was trained on."""
        from finetune.targets import Classes

        return Classes(**saved)

    def answers(
        self, target: Target, predictions: Array, rows: Rows, top_k: int
    ) -> list[dict[str, Any]]:
        """Return label, probability and the `top_k` likeliest classes of each row."""
        from finetune import answers

        return answers.classes(target.classes or (), predictions, top_k)


class MultiLabelImageClassification(Noun):
    """Any number of labels for each image."""

    kind: Literal["multi-label-image-classification"] = "multi-label-image-classification"
    augmentation: Augmentation = Augmentation()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that this task reads."""
        return ("image", "label")

    @property
    def form(self) -> Form:
        """One output for each image."""
        return ROW

    def bind(self, splits: Splits, train: Any) -> Target:
        """Return the label set of `splits` as a target; raise DataError if it is empty."""
        from finetune.targets import LabelSets

        return LabelSets.of(splits, train)

    def recall(self, saved: Mapping[str, Any]) -> Target:
        """Return the target that a finished run was trained on."""
        from finetune.targets import LabelSets

        return LabelSets(**saved)

    def answers(
        self, target: Target, predictions: Array, rows: Rows, top_k: int
    ) -> list[dict[str, Any]]:
        """Return the labels of each row with their probabilities, and its `top_k` likeliest."""
        from finetune import answers

        return answers.label_sets(target.classes or (), predictions, top_k)


class ImageRegression(Noun):
    """A number for each image."""

    kind: Literal["image-regression"] = "image-regression"
    augmentation: Augmentation = Augmentation()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that this task reads."""
        return ("image", "label")

    @property
    def form(self) -> Form:
        """One output for each image."""
        return ROW

    def bind(self, splits: Splits, train: Any) -> Target:
        """Return the range of `splits` as a target; raise DataError where a value is no number."""
        from finetune.targets import Numbers

        return Numbers.of(splits, train)

    def recall(self, saved: Mapping[str, Any]) -> Target:
        """Return the target that a finished run was trained on."""
        from finetune.targets import Numbers

        return Numbers(**saved)

    def answers(
        self, target: Target, predictions: Array, rows: Rows, top_k: int
    ) -> list[dict[str, Any]]:
        """Return the value of each row."""
        from finetune import answers

        return answers.numbers(predictions)
