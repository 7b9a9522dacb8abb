"""The hub's data sets, by id or as a folder in the hub's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from finetune.data.base import ColumnSource, Raw
from finetune.data.quiet import quiet
from finetune.data.short_form import claimant


class HubData(ColumnSource):
    """A data set of the Hugging Face Hub, or a local folder laid out like one."""

    kind: Literal["hub"] = "hub"
    path: str
    """An id such as `uoft-cs/cifar10`, or a folder with parquet, arrow or csv files and a card."""
    config: str | None = None
    """The configuration, where the data set has several."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any] | None:
        """Return the fields for an id `org/name`, or for a folder with parquet or arrow files."""
        return {"path": text} if claimant(text) == "hub" else None

    def read(self) -> Raw:
        """Return the data set's splits; raise DataError if it cannot be had."""
        import datasets

        folder = Path(self.path).expanduser()
        with quiet():
            tables = datasets.load_dataset(str(folder), self.config)
        return Raw(dict(tables), {"name": folder.name}, (), self.mapping(), self.label_separator)
