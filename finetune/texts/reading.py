"""How rows become token sequences: one small value for each way, which a task names.

Each has the canonical `columns` that it reads, `problem` (why a row cannot be used, if so) and
`encode`. Nothing here knows a model; a tokenizer is one of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from finetune.errors import BackboneError
from finetune.texts.encoded import Encoded, Rows


class Reading(Protocol):
    """A way to read rows."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The canonical columns that it reads."""
        ...

    def problem(self, cells: Mapping[str, Any], tokenizer: Any, max_length: int) -> str | None:
        """Return why this row cannot be used; None if it can."""
        ...

    def encode(self, rows: Rows, tokenizer: Any, max_length: int) -> Encoded:
        """Return the samples of these rows, each of at most `max_length` tokens."""
        ...


PAIR = ("text", "text_pair")
"""What a tokenizer calls its arguments."""


@dataclass(frozen=True)
class Texts:
    """A text, or a pair of them, as one sequence; what is too long is cut off."""

    pair: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The text, and the second one of a pair."""
        return PAIR if self.pair else PAIR[:1]

    def problem(self, cells: Mapping[str, Any], tokenizer: Any, max_length: int) -> str | None:
        """Return why a row cannot be used: it has no text."""
        return empty_text(cells, self.columns)

    def encode(self, rows: Rows, tokenizer: Any, max_length: int) -> Encoded:
        """Return one sample for each row."""
        columns = [list(rows[name]) for name in self.columns]
        given, cut = _tokenised(
            tokenizer, max_length, dict(zip(self.columns, columns, strict=True))
        )
        encoded = Encoded()
        for row, names in enumerate(_inputs(given)):
            encoded.add(row, **names)
            encoded.cut(cut[row])
        return encoded


@dataclass(frozen=True)
class Words:
    """A list of words; of a long one overlapping windows, each word predicted by one of them.

    The column "word" tells which word begins at each token, -1 where none does. Of the windows that
    hold a word, the one counts that shows most of what is around it.
    """

    stride: int = 64
    """Tokens that two windows share."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The words."""
        return ("words",)

    def problem(self, cells: Mapping[str, Any], tokenizer: Any, max_length: int) -> str | None:
        """Return why a row cannot be used: it has no words."""
        words = cells.get("words")
        if not isinstance(words, (list, tuple)) or not words:
            return "there are no words"
        return None if all(isinstance(word, str) for word in words) else "a word is no text"

    def encode(self, rows: Rows, tokenizer: Any, max_length: int) -> Encoded:
        """Return one or more samples for each row."""
        space = " " if _spaced(tokenizer) else ""
        given = tokenizer(
            [[space * (n > 0) + word for n, word in enumerate(words)] for words in rows["words"]],
            is_split_into_words=True,
            truncation=True,
            max_length=max_length,
            stride=_stride(self.stride, max_length, tokenizer),
            return_overflowing_tokens=True,
        )
        mapping = given.pop("overflow_to_sample_mapping")
        encoded, best = Encoded(), dict[tuple[int, int], tuple[int, int, int]]()
        for window, names in enumerate(_inputs(given)):
            row, words = int(mapping[window]), given.word_ids(window)
            encoded.add(row, **names, word=[-1] * len(words))
            inside = [place for place, word in enumerate(words) if word is not None]
            for place in inside:
                if place > inside[0] and words[place - 1] == words[place]:
                    continue
                around = min(place - inside[0], inside[-1] - place)
                key = row, words[place]
                if key not in best or around > best[key][0]:
                    best[key] = around, window, place
        for (_, word), (_, window, place) in best.items():
            encoded.columns["word"][window][place] = word
        return encoded


@dataclass(frozen=True)
class Questions:
    """A question and a context; of a long context overlapping windows.

    The columns "start" and "end" tell which characters of the context a token stands for, -1
    outside the context.
    """

    stride: int = 128
    """Tokens of the context that two windows share."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The question and the context."""
        return ("question", "context")

    def problem(self, cells: Mapping[str, Any], tokenizer: Any, max_length: int) -> str | None:
        """Return why a row cannot be used: it lacks a text, or the question fills all there is."""
        if reason := empty_text(cells, self.columns):
            return reason
        count = len(tokenizer(cells["question"], add_special_tokens=False)["input_ids"])
        room = max_length - count - tokenizer.num_special_tokens_to_add(pair=True)
        if room >= 8:
            return None
        return (
            f"the question has {count} tokens, which leaves no room for the context in "
            f"{max_length}: shorten it, or raise backbone.max_length"
        )

    def encode(self, rows: Rows, tokenizer: Any, max_length: int) -> Encoded:
        """Return one or more samples for each row."""
        encoded = Encoded()
        # One row at a time: the stride may be no more than what its question leaves.
        for row, (question, context) in enumerate(
            zip(rows["question"], rows["context"], strict=True)
        ):
            count = len(tokenizer(question, add_special_tokens=False)["input_ids"])
            room = max_length - count - tokenizer.num_special_tokens_to_add(pair=True)
            given = tokenizer(
                [question],
                [context],
                truncation="only_second",
                max_length=max_length,
                stride=min(self.stride, room // 2),
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
            )
            given.pop("overflow_to_sample_mapping")
            offsets = given.pop("offset_mapping")
            for window, names in enumerate(_inputs(given)):
                inside = [part == 1 for part in given.sequence_ids(window)]
                spans = zip(inside, offsets[window], strict=True)
                starts, ends = zip(*(o if yes else (-1, -1) for yes, o in spans), strict=True)
                encoded.add(row, **names, start=list(starts), end=list(ends))
        return encoded


@dataclass(frozen=True)
class TextToText:
    """A text to read and the text to write; what is too long of either is cut off.

    The column "label" holds the tokens to write; rows without a target, as in prediction, have
    none.
    """

    prefix: str = ""
    """Put before each source, as T5 wants it: `translate German to English: `."""
    max_target_length: int = 128

    @property
    def columns(self) -> tuple[str, ...]:
        """The text to read and the text to write."""
        return ("source", "target")

    def problem(self, cells: Mapping[str, Any], tokenizer: Any, max_length: int) -> str | None:
        """Return why a row cannot be used: it lacks a text."""
        return empty_text(cells, tuple(name for name in self.columns if name in cells))

    def encode(self, rows: Rows, tokenizer: Any, max_length: int) -> Encoded:
        """Return one sample for each row."""
        sources = [self.prefix + source for source in rows["source"]]
        given, cut = _tokenised(tokenizer, max_length, {"text": sources})
        targets: Any = None
        if rows.get("target") is not None:
            written = {"text_target": list(rows["target"])}
            targets, more = _tokenised(tokenizer, self.max_target_length, written)
            cut = [one + other for one, other in zip(cut, more, strict=True)]
        encoded = Encoded()
        for row, names in enumerate(_inputs(given)):
            label = {} if targets is None else {"label": targets["input_ids"][row]}
            encoded.add(row, **names, **label)
            encoded.cut(cut[row])
        return encoded


def empty_text(cells: Mapping[str, Any], columns: Sequence[str]) -> str | None:
    """Return which of the columns holds no text; None if all do."""
    for name in columns:
        cell = cells.get(name)
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            return f"the {name.replace('_', ' ')} is empty"
        if not isinstance(cell, str):
            return f"the {name.replace('_', ' ')} is no text but {type(cell).__name__}"
    return None


def _inputs(given: Any) -> list[dict[str, Any]]:
    """Return what the model reads of each sample; masks are made when batches are filled up."""
    names = [name for name in given if name not in ("attention_mask", "special_tokens_mask")]
    return [
        dict(zip(names, cells, strict=True))
        for cells in zip(*(given[n] for n in names), strict=True)
    ]


def _tokenised(
    tokenizer: Any, max_length: int, columns: Mapping[str, list[str]]
) -> tuple[Any, list[int]]:
    """Return what the tokenizer gives, and how many tokens were cut off each row.

    `columns` are named as its arguments are.
    """
    given = tokenizer(**columns, verbose=False)
    cut = [max(0, len(ids) - max_length) for ids in given["input_ids"]]
    if long := [row for row, tokens in enumerate(cut) if tokens]:
        some = {name: [texts[row] for row in long] for name, texts in columns.items()}
        shorter = tokenizer(**some, truncation=True, max_length=max_length)
        for name, cells in shorter.items():
            for row, cell in zip(long, cells, strict=True):
                given[name][row] = cell
    return given, cut


def _spaced(tokenizer: Any) -> bool:
    """Return whether a word has other tokens after a space than it has alone, as in GPT-2."""

    def tokens(given: Any) -> Any:
        return tokenizer(given, is_split_into_words=not isinstance(given, str))["input_ids"]

    return bool(tokens("a b") != tokens(["a", "b"]) and tokens("a b") == tokens(["a", " b"]))


def _stride(wanted: int, max_length: int, tokenizer: Any) -> int:
    """Return the stride, at most half of what a window has room for."""
    room = max_length - int(tokenizer.num_special_tokens_to_add())
    if room < 2:
        raise BackboneError(
            f"backbone.max_length={max_length} leaves no room for words beside the tokens that "
            "the model adds itself. Give 8 or more."
        )
    return min(wanted, room // 2)
