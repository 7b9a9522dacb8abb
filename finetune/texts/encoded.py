"""Token sequences of some rows, as a reading makes them and the cache keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

IGNORED = -100
"""The label of a token that does not count."""
FILLS = {"label": IGNORED, "word": -1, "start": -1, "end": -1}
"""What fills up shorter samples, by column; 0 where it is not said."""


@dataclass
class Encoded:
    """Samples of some rows: one sequence of whole numbers in each column, and each one's row."""

    columns: dict[str, list[Any]] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    cut_rows: int = 0
    """Rows of which something was cut off."""
    cut_tokens: int = 0
    """Tokens that were cut off in all."""

    def add(self, row: int, **sequences: Sequence[int]) -> None:
        """Add one sample."""
        self.rows.append(row)
        for name, sequence in sequences.items():
            self.columns.setdefault(name, []).append(sequence)

    def cut(self, tokens: int) -> None:
        """Count what was cut off one row."""
        self.cut_rows += tokens > 0
        self.cut_tokens += tokens

    def extend(self, other: Encoded, first: int) -> None:
        """Add the samples of further rows, which begin with the row `first`."""
        self.rows += [first + row for row in other.rows]
        for name, sequences in other.columns.items():
            self.columns.setdefault(name, []).extend(sequences)
        self.cut_rows += other.cut_rows
        self.cut_tokens += other.cut_tokens


Rows = Mapping[str, Sequence[Any]]
"""Columns of some rows, equally long."""
