"""Tables with a column of images: CSV, TSV, JSON lines, parquet."""

from __future__ import annotations

from typing import Any, Literal

from finetune.data.base import ColumnSource, Raw
from finetune.data.short_form import claimant


class TableData(ColumnSource):
    """A table with one row for each sample."""

    kind: Literal["table"] = "table"
    path: str
    """The file; its suffix says the format: .csv, .tsv, .jsonl, .ndjson, .parquet."""

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any] | None:
        """Return the fields for a table file, there or not."""
        return {"path": text} if claimant(text) == "table" else None

    def read(self) -> Raw:
        """Return the table's splits; raise DataError if it cannot be read."""
        from finetune.data import tables

        return tables.read(self.path)
