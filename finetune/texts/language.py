"""Reading for language models: plain text and chats, packed to the full length or one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.errors import RecipeError, nearest
from finetune.texts.encoded import IGNORED, Encoded, Rows
from finetune.texts.reading import empty_text

TEMPLATES = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% if m['role'] == 'assistant' %}"
        "{% generation %}{{ m['content'] + '<|im_end|>' + (eos_token or '') }}"
        "{% endgeneration %}{{ '\n' }}"
        "{% else %}{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "simple": (
        "{% for m in messages %}{{ m['role'] + ':\n' }}"
        "{% if m['role'] == 'assistant' %}"
        "{% generation %}{{ m['content'] + (eos_token or '') }}{% endgeneration %}{{ '\n' }}"
        "{% else %}{{ m['content'] + '\n\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
    ),
}
"""Chat templates by name, for models that have none."""


@dataclass(frozen=True)
class Continuation:
    """Plain text, each token to be told from those before it in the same document.

    Packed, all documents follow one another, each with the token that ends it, in samples of the
    full length, but for the last of each thousand documents: positions begin anew with each
    document, and none sees another. Else each document is a sample, and what is too long is cut
    off.
    """

    packed: bool = True

    @property
    def columns(self) -> tuple[str, ...]:
        """The text."""
        return ("text",)

    def problem(self, cells: Mapping[str, Any], tokenizer: Any, max_length: int) -> str | None:
        """Return why a row cannot be used: it has no text."""
        return empty_text(cells, self.columns)

    def encode(self, rows: Rows, tokenizer: Any, max_length: int) -> Encoded:
        """Return samples; packed, they are of the row that each one begins with."""
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        given = tokenizer(list(rows["text"]), verbose=False)["input_ids"]
        documents = [ids if ids[-1:] == end else [*ids, *end] for ids in given]
        encoded = Encoded()
        if not self.packed:
            for row, ids in enumerate(documents):
                _add(encoded, row, ids[:max_length], [*ids[1:], IGNORED][:max_length])
                encoded.cut(max(0, len(ids) - max_length))
            return encoded
        pack = _Pack(encoded, max_length)
        for row, ids in enumerate(documents):
            labels, done = [*ids[1:], IGNORED], 0
            while done < len(ids):
                size = min(pack.room, len(ids) - done)
                pack.put(row, ids[done : done + size], labels[done : done + size])
                done += size
        pack.close()
        return encoded


@dataclass(frozen=True)
class Chats:
    """Conversations in the model's own template; only what the assistant says is learned.

    Packed, whole conversations share a sample, and none sees another. What is too long is cut off.
    """

    packed: bool = False
    template: str | None = None
    """`chatml` or `simple`; the model's own if not given, `simple` where it has none."""

    def __post_init__(self) -> None:
        if self.template is not None and self.template not in TEMPLATES:
            raise RecipeError(
                f"task.template={self.template!r} is not known.{nearest(self.template, TEMPLATES)} "
                f"Allowed: {', '.join(TEMPLATES)}; leave it out for the model's own."
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The messages, each with role and content."""
        return ("messages",)

    def problem(self, cells: Mapping[str, Any], tokenizer: Any, max_length: int) -> str | None:
        """Return why a row cannot be used: it is no conversation, or the assistant is silent."""
        messages = cells.get("messages")
        if not isinstance(messages, (list, tuple)) or not messages:
            return "there are no messages"
        if not all(isinstance(m, Mapping) and {"role", "content"} <= m.keys() for m in messages):
            return "a message lacks its role or content"
        if not all(isinstance(m["content"], str) for m in messages):
            return "the content of a message is no text"
        if not any(m["role"] == "assistant" for m in messages):
            return "no message is the assistant's"
        return None

    def prepare(self, tokenizer: Any) -> None:
        """Give the tokenizer, and so the saved model, the template that it is trained with."""
        if self.template is not None or tokenizer.chat_template is None:
            tokenizer.chat_template = TEMPLATES[self.template or "simple"]

    def encode(self, rows: Rows, tokenizer: Any, max_length: int) -> Encoded:
        """Return samples; packed, they are of the row that each one begins with."""
        self.prepare(tokenizer)
        encoded = Encoded()
        pack = _Pack(encoded, max_length)
        for row, messages in enumerate(rows["messages"]):
            ids, said = _conversation(list(messages), tokenizer)
            following = zip(ids[1:], said[1:], strict=True)
            labels = [*(i if yes else IGNORED for i, yes in following), IGNORED]
            encoded.cut(max(0, len(ids) - max_length))
            ids, labels = ids[:max_length], labels[:max_length]
            if not self.packed:
                _add(encoded, row, ids, labels)
                continue
            if len(ids) > pack.room:
                pack.close()
            pack.put(row, ids, labels)
        pack.close()
        return encoded


class _Pack:
    """One sample being filled with documents."""

    def __init__(self, encoded: Encoded, size: int) -> None:
        self.encoded, self.size = encoded, size
        self._begin()

    def _begin(self) -> None:
        self.row: int | None = None
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.positions: list[int] = []

    @property
    def room(self) -> int:
        """How many tokens there is room for."""
        return self.size - len(self.ids)

    def put(self, row: int, ids: Sequence[int], labels: Iterable[int]) -> None:
        """Add a document or a part of one; a full sample is closed."""
        self.row = row if self.row is None else self.row
        self.ids += ids
        self.labels += labels
        self.positions += range(len(ids))
        if not self.room:
            self.close()

    def close(self) -> None:
        """End the sample."""
        if self.row is not None:
            _add(self.encoded, self.row, self.ids, self.labels, position_ids=self.positions)
        self._begin()


def _add(
    encoded: Encoded, row: int, ids: Sequence[int], labels: Sequence[int], **more: Sequence[int]
) -> None:
    encoded.add(row, input_ids=ids, label=labels, **more)


def _conversation(messages: list[Any], tokenizer: Any) -> tuple[list[int], list[bool]]:
    """Return the tokens of a conversation, and which of them the assistant says."""
    if "{% generation" in tokenizer.chat_template or "{%- generation" in tokenizer.chat_template:
        given = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return list(given["input_ids"]), [bool(m) for m in given["assistant_masks"]]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    spans = []
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = tokenizer.apply_chat_template(
            messages[:turn], tokenize=False, add_generation_prompt=True
        )
        after = tokenizer.apply_chat_template(messages[: turn + 1], tokenize=False)
        if not (after.startswith(before) and whole.startswith(after.rstrip())):
            raise RecipeError(
                "The chat template of this model writes a conversation otherwise once it goes on, "
                "so what the assistant says cannot be told apart. Give task.template=chatml."
            )
        spans.append((len(before), len(after)))
    given = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    said = [
        any(first <= start and end <= last for first, last in spans) and end > start
        for start, end in given["offset_mapping"]
    ]
    return list(given["input_ids"]), said
