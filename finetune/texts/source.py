"""Token sequences as a source of batches, filled up to the longest of each batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.protocols import Array
from finetune.samples import Ragged
from finetune.texts.encoded import FILLS, Encoded

INPUTS = ("input_ids", "token_type_ids", "position_ids")
"""Columns that the model reads; the others are for the target."""


@dataclass(frozen=True)
class Special:
    """What a tokenizer and a model's decoder begin and fill up with."""

    pad: int
    """Token that fills up."""
    decoder_start: int | None = None
    """Token that the decoder begins with, in a model with an encoder."""


class TextSource:
    """The samples of a table: sequences of tokens, and what targets need to know of each token."""

    def __init__(
        self,
        columns: Mapping[str, Ragged],
        rows: Array,
        table_rows: int,
        special: Special,
        tokenizer: Any,
        cut: tuple[int, int] = (0, 0),
    ) -> None:
        self.columns, self.rows, self.table_rows = dict(columns), rows, table_rows
        self.special, self.tokenizer = special, tokenizer
        self.cut_rows, self.cut_tokens = cut

    @classmethod
    def of(cls, encoded: Encoded, table_rows: int, special: Special, tokenizer: Any) -> TextSource:
        """Return a source of samples in memory."""
        columns = {
            name: Ragged.of(sequences, fill(name, special), np.int32)
            for name, sequences in encoded.columns.items()
        }
        cut = encoded.cut_rows, encoded.cut_tokens
        rows = np.asarray(encoded.rows, np.int64)
        return cls(columns, rows, table_rows, special, tokenizer, cut)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> Array:
        """Tokens of each sample, (samples,); where there is a label to write, its tokens too."""
        lengths = self.columns["input_ids"].lengths if len(self) else np.zeros(0, np.int64)
        if self.special.decoder_start is not None and "label" in self.columns:
            lengths = lengths + self.columns["label"].lengths
        return lengths

    def read(self, indices: Array, epoch: int) -> dict[str, Tensor]:
        """Return tokens (batch, longest), and which of them are none: "attention_mask".

        Packed samples have positions instead of a mask: each document begins at 0.
        """
        raw = {
            name: torch.from_numpy(self.columns[name][indices].astype(np.int64))
            for name in INPUTS
            if name in self.columns
        }
        if "position_ids" not in raw:
            lengths = torch.from_numpy(self.columns["input_ids"].lengths[indices])
            places = torch.arange(raw["input_ids"].shape[1])
            raw["attention_mask"] = (places < lengths[:, None]).long()
        if self.special.decoder_start is not None:
            raw |= self._decoder(indices)
        return raw

    def _decoder(self, indices: Array) -> dict[str, Tensor]:
        """Return what the decoder reads: the label moved on by one, after the token it begins with.

        Without labels that is the first token alone.
        """
        first = torch.full((len(indices), 1), self.special.decoder_start or 0)
        if "label" not in self.columns:
            return {"decoder_input_ids": first}
        label = torch.from_numpy(self.columns["label"][indices].astype(np.int64))
        before = label[:, :-1].masked_fill(label[:, :-1] == FILLS["label"], self.special.pad)
        return {"decoder_input_ids": torch.cat([first, before], 1)}

    def finish(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what the forward takes: it is all there."""
        return raw

    def text(self, ids: Array) -> list[str]:
        """Return the texts of token ids (texts, tokens); -1 and special tokens are left out."""
        filled = np.where(ids < 0, self.special.pad, ids).astype(np.int64)
        texts: list[str] = self.tokenizer.batch_decode(filled, skip_special_tokens=True)
        return texts

    def padding(self, order: Array, batch_size: int) -> float:
        """Return the share of padding among the tokens of batches of this size, in this order."""
        names = ("input_ids", "label") if self.special.decoder_start is not None else ("input_ids",)
        columns = [self.columns[name].lengths[order] for name in names if name in self.columns]
        starts = range(0, len(order), batch_size)
        batches = [lengths[i : i + batch_size] for lengths in columns for i in starts]
        filled = sum(int(batch.max()) * len(batch) for batch in batches)
        return 1 - sum(int(batch.sum()) for batch in batches) / filled if filled else 0.0

    @property
    def cut(self) -> str | None:
        """What was cut off rows that are too long, in words; None if nothing was."""
        if not self.cut_rows:
            return None
        share = self.cut_tokens / (self.cut_tokens + int(self.lengths.sum()))
        return (
            f"{self.cut_rows:,} of {self.table_rows:,} rows are too long: the last "
            f"{self.cut_tokens:,} of their tokens are cut off ({share:.1%} of all)."
        )


def fill(name: str, special: Special) -> int:
    """Return what fills up a column."""
    return special.pad if name == "input_ids" else FILLS.get(name, 0)
