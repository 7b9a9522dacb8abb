"""The tasks; this union is their registry."""

from typing import Annotated

from pydantic import Field

from finetune.tasks.image import ImageClassification, ImageRegression, MultiLabelImageClassification

AnyTask = Annotated[
    ImageClassification | MultiLabelImageClassification | ImageRegression,
    Field(discriminator="kind"),
]

__all__ = ["AnyTask", "ImageClassification", "ImageRegression", "MultiLabelImageClassification"]
