"""Tasks over images: what is predicted differs, the images and their augmentation do not."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar, Literal

from finetune.images.augmentation import Augmentation
from finetune.tasks.base import BaseTask


class ImageTask(BaseTask, ABC):
    """A task over images."""

    augmentation: Augmentation = Augmentation()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that this task reads."""
        return ("image", "label")


class ImageClassification(ImageTask):
    """One class for each image."""

    kind: Literal["image-classification"] = "image-classification"
    predicts: ClassVar[str] = "Classes"


class MultiLabelImageClassification(ImageTask):
    """Any number of labels for each image."""

    kind: Literal["multi-label-image-classification"] = "multi-label-image-classification"
    predicts: ClassVar[str] = "LabelSets"


class ImageRegression(ImageTask):
    """A number for each image."""

    kind: Literal["image-regression"] = "image-regression"
    predicts: ClassVar[str] = "Numbers"
