"""Text inputs: from a table's rows to what a language model's forward takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.errors import Failure, UnreadableInputs
from finetune.protocols import Table
from finetune.texts import cache as kept
from finetune.texts.encoded import Encoded
from finetune.texts.language import Continuation
from finetune.texts.reading import Reading, TextToText
from finetune.texts.source import Special, TextSource


@dataclass(frozen=True)
class TextInputs:
    """How a language model wants its rows: its tokenizer, and the way of reading of the task."""

    tokenizer: Any
    reading: Reading
    max_length: int
    """Tokens of a sample at most."""
    decoder_start: int | None = None
    """Token that the decoder begins with, in a model with an encoder."""

    def __post_init__(self) -> None:
        prepare = getattr(self.reading, "prepare", None)
        if prepare is not None:
            prepare(self.tokenizer)

    def __repr__(self) -> str:
        """Return all that the encoding depends on: it is part of the keys of caches."""
        return f"TextInputs({self.tokenizer_hash}, {self.reading!r}, {self.max_length})"

    @cached_property
    def tokenizer_hash(self) -> str:
        """A hash over what the tokenizer makes of texts."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        content = sorted(self.tokenizer.get_vocab().items()) if backend is None else None
        parts = [
            type(self.tokenizer).__name__ if backend is None else backend.to_str(),
            json.dumps(content),
            str(self.tokenizer.chat_template),
            str(self.tokenizer.model_input_names),
        ]
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()

    @cached_property
    def special(self) -> Special:
        """The tokens that begin and fill up."""
        ids = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0
        return Special(next(i for i in ids if i is not None), self.decoder_start)

    @property
    def columns(self) -> tuple[str, ...]:
        """The canonical columns that the reading reads."""
        return self.reading.columns

    def source(
        self, table: Table, cache: Path, *, augmentation: Any = None, seed: int = 0
    ) -> TextSource:
        """Return the samples of all rows; tokenised once, and kept on disk for every run.

        Raises UnreadableInputs, naming every row that cannot be used.
        """
        # Whole columns: a row at a time, datasets takes longer than the tokenizer.
        columns = {name: table[name][:] for name in self.columns if name in table.column_names}
        failures = []
        for start in range(0, len(table), kept.CHUNK):
            part = [column[start : start + kept.CHUNK] for column in columns.values()]
            for row, values in enumerate(zip(*part, strict=True), start):
                cells = dict(zip(columns, values, strict=True))
                if reason := self.reading.problem(cells, self.tokenizer, self.max_length):
                    failures.append(Failure(row, "", reason))
        if failures:
            raise UnreadableInputs(failures, "row")
        loaded = kept.load(cache / "tokens", repr(self), columns, len(table), self._encode)
        return TextSource(
            loaded.columns(self.special),
            loaded.rows,
            len(table),
            self.special,
            self.tokenizer,
            loaded.cut,
        )

    def read(self, rows: Sequence[Mapping[str, Any]]) -> tuple[TextSource, dict[int, str]]:
        """Return the samples of the rows that can be used, and why the others cannot be."""
        reasons, used = {}, []
        for place, cells in enumerate(rows):
            reason = _halved(cells) or self.reading.problem(cells, self.tokenizer, self.max_length)
            if reason is None:
                used.append(cells)
            else:
                reasons[place] = reason
        names = [name for name in self.columns if all(name in cells for cells in used)]
        columns = {name: [cells[name] for cells in used] for name in names}
        # Each row is to have an answer of its own.
        apart = {"packed": False} if getattr(self.reading, "packed", False) else {}
        reading: Any = replace(self.reading, **apart) if apart else self.reading  # type: ignore[type-var]
        how = self.tokenizer, self.max_length
        encoded = reading.encode(columns, *how) if used else Encoded()
        return TextSource.of(encoded, len(used), self.special, self.tokenizer), reasons

    def _encode(self, columns: Mapping[str, Sequence[Any]]) -> Encoded:
        return self.reading.encode(columns, self.tokenizer, self.max_length)

    def blank(self, batch_size: int) -> dict[str, Tensor]:
        """Return tokens of the full length, (batch_size, max_length), that mean nothing."""
        tokens = torch.full((batch_size, self.max_length), int(self.special.pad == 0))
        given = {"input_ids": tokens}
        if isinstance(self.reading, Continuation) and self.reading.packed:
            given["position_ids"] = torch.arange(self.max_length).expand(batch_size, -1).clone()
        else:
            given["attention_mask"] = torch.ones_like(tokens)
        if "token_type_ids" in self.tokenizer.model_input_names:
            given["token_type_ids"] = torch.zeros_like(tokens)
        if isinstance(self.reading, TextToText):
            given["decoder_input_ids"] = tokens[:, : self.reading.max_target_length].clone()
        return given


def _halved(cells: Mapping[str, Any]) -> str | None:
    """Return that a character is cut in two, as in a text that was cut in UTF-16; None if none is.

    Tables cannot hold that; JSON lines and Python can, and tokenizers do not take it.
    """
    try:
        json.dumps(cells, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        return f"a character is cut in two ({error.object[error.start : error.end]!r})"
    return None
