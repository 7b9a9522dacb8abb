"""Tasks over texts: each says what is predicted, and how rows are read as tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from pydantic import NonNegativeInt, PositiveInt

from finetune.protocols import Form
from finetune.tasks.base import BaseTask


class TextTask(BaseTask, ABC):
    """A task over texts, which are not augmented."""

    augmentation: ClassVar[None] = None
    head: ClassVar[Literal["row", "token", "span", "generate", "continue"]]

    @property
    @abstractmethod
    def reading(self) -> Any:
        """How rows become samples."""

    @property
    def form(self) -> Form:
        """The head that is needed, and how rows become samples."""
        return Form(self.head, self.reading)


class RowTask(TextTask, ABC):
    """A task over whole texts, or pairs of them."""

    head: ClassVar[Literal["row"]] = "row"
    pair: bool = False
    """Whether a row is two texts, `text` and `text_pair`."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that this task reads."""
        return ("text", "text_pair", "label") if self.pair else ("text", "label")

    @property
    def reading(self) -> Any:
        """Each row is one sample, cut to the length that the model takes."""
        from finetune.texts.reading import Texts

        return Texts(pair=self.pair)


class TextClassification(RowTask):
    """One class for each text, or pair of texts."""

    kind: Literal["text-classification"] = "text-classification"
    predicts: ClassVar[str] = "Classes"


class MultiLabelTextClassification(RowTask):
    """Any number of labels for each text, or pair of texts."""

    kind: Literal["multi-label-text-classification"] = "multi-label-text-classification"
    predicts: ClassVar[str] = "LabelSets"


class TextRegression(RowTask):
    """A number for each text, or pair of texts, such as how alike they are."""

    kind: Literal["text-regression"] = "text-regression"
    predicts: ClassVar[str] = "Numbers"


class TokenClassification(TextTask):
    """A tag for each word: names in a text, parts of speech."""

    kind: Literal["token-classification"] = "token-classification"
    predicts: ClassVar[str] = "Tags"
    head: ClassVar[Literal["token"]] = "token"
    stride: NonNegativeInt = 64
    """By how many tokens the windows of a long row overlap."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that this task reads."""
        return ("words", "label")

    @property
    def reading(self) -> Any:
        """Long rows are several samples that overlap."""
        from finetune.texts.reading import Words

        return Words(stride=self.stride)


class QuestionAnswering(TextTask):
    """The part of a context that answers a question, or none of it (SQuAD 1 and 2)."""

    kind: Literal["question-answering"] = "question-answering"
    predicts: ClassVar[str] = "Spans"
    head: ClassVar[Literal["span"]] = "span"
    stride: NonNegativeInt = 128
    """By how many tokens the windows of a long context overlap."""
    max_answer_length: PositiveInt = 30
    """In tokens."""
    n_best: PositiveInt = 20
    """How many first and last tokens of each window are combined."""
    null_threshold: float = 0.0
    """By how much, in logits, no answer must be likelier than the best to be taken."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that this task reads."""
        return ("question", "context", "label")

    @property
    def reading(self) -> Any:
        """Long contexts are several samples that overlap, each with the question."""
        from finetune.texts.reading import Questions

        return Questions(stride=self.stride)

    @property
    def options(self) -> dict[str, Any]:
        """How the best answer is chosen."""
        names = ("max_answer_length", "n_best", "null_threshold")
        return {name: getattr(self, name) for name in names}


class TextToText(TextTask):
    """A text made from a text: a translation, a summary."""

    kind: Literal["text-to-text"] = "text-to-text"
    predicts: ClassVar[str] = "Generated"
    head: ClassVar[Literal["generate"]] = "generate"
    prefix: str = ""
    """Put before each source, as T5 wants it: `translate English to German: `."""
    max_target_length: PositiveInt = 128
    """Tokens of a target, in training."""
    num_beams: PositiveInt = 4
    """Beams of the search at evaluation and prediction; 1 is greedy."""
    max_new_tokens: PositiveInt = 128
    """Tokens written at most."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that this task reads."""
        return ("source", "target")

    @property
    def reading(self) -> Any:
        """Each row is one sample with the tokens of its target."""
        from finetune.texts.reading import TextToText

        return TextToText(prefix=self.prefix, max_target_length=self.max_target_length)

    @property
    def options(self) -> dict[str, Any]:
        """How the text is searched."""
        return {"num_beams": self.num_beams, "max_new_tokens": self.max_new_tokens}


class LanguageModeling(TextTask):
    """The next token of plain texts: training that goes on."""

    kind: Literal["language-modeling"] = "language-modeling"
    predicts: ClassVar[str] = "NextToken"
    head: ClassVar[Literal["continue"]] = "continue"
    packed: bool = True
    """Whether texts are put together to samples of full length, each text on its own in them."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that this task reads."""
        return ("text",)

    @property
    def reading(self) -> Any:
        """Every token is predicted from those before it."""
        from finetune.texts.language import Continuation

        return Continuation(packed=self.packed)


class ChatTuning(TextTask):
    """The answers in chats: only what the assistant says is learned."""

    kind: Literal["chat"] = "chat"
    predicts: ClassVar[str] = "NextToken"
    head: ClassVar[Literal["continue"]] = "continue"
    packed: bool = False
    """Whether chats are put together to samples of full length, each chat on its own in them."""
    template: str | None = None
    """A chat template by name, or None for the model's own."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that this task reads."""
        return ("messages",)

    @property
    def reading(self) -> Any:
        """The tokens of the assistant's turns are predicted from all before them."""
        from finetune.texts.language import Chats

        return Chats(packed=self.packed, template=self.template)
