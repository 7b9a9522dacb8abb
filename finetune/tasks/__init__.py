"""The tasks; this union is their registry."""

from typing import Annotated

from pydantic import Field

from finetune.tasks.image import ImageClassification, ImageRegression, MultiLabelImageClassification
from finetune.tasks.text import (
    ChatTuning,
    LanguageModeling,
    MultiLabelTextClassification,
    QuestionAnswering,
    TextClassification,
    TextRegression,
    TextToText,
    TokenClassification,
)

AnyTask = Annotated[
    ImageClassification
    | MultiLabelImageClassification
    | ImageRegression
    | TextClassification
    | MultiLabelTextClassification
    | TextRegression
    | TokenClassification
    | QuestionAnswering
    | TextToText
    | LanguageModeling
    | ChatTuning,
    Field(discriminator="kind"),
]

__all__ = [
    "AnyTask",
    "ChatTuning",
    "ImageClassification",
    "ImageRegression",
    "LanguageModeling",
    "MultiLabelImageClassification",
    "MultiLabelTextClassification",
    "QuestionAnswering",
    "TextClassification",
    "TextRegression",
    "TextToText",
    "TokenClassification",
]
