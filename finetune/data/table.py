"""Tables with one row for each sample: CSV, TSV, JSON lines, parquet."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune.data.base import ColumnSource, Raw
from finetune.data.columns import split_name
from finetune.data.files import Record, is_delimited, records
from finetune.data.paths import TABLES, claimant, existing
from finetune.errors import DataError, listed, nearest

if TYPE_CHECKING:
    from datasets import Dataset

_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")


class TableData(ColumnSource):
    """A table with a column of texts, of image files, or of image bytes.

    Image files are named relative to the table. `train`, `validation` and `test` may name further
    tables beside it; a column called `split` divides one table.
    """

    kind: Literal["table"] = "table"
    path: str
    """The file; its suffix says the format: .csv, .tsv, .jsonl, .ndjson, .parquet."""
    split: str | None = None
    """The column that names each row's split; a column `split` is found by itself."""
    encoding: str = "utf-8"
    """Of text files without a byte order mark."""

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any] | None:
        """Return the fields for a table file, there or not."""
        return {"path": text} if claimant(text) == "table" else None

    def read(self) -> Raw:
        """Return the table's splits; raise DataError if it cannot be read."""
        path = existing(self.path)
        main = _table(path, self.encoding)
        tables, notes = self._divided(main)
        for name in (self.train, self.validation, self.test):
            if isinstance(name, str) and Path(name).suffix.lower() in TABLES:
                beside = existing(str(path.parent / name))
                tables[name] = _table(beside, self.encoding)
        return Raw(
            tables,
            {"name": path.name},
            notes,
            self.mapping(),
            self.label_separator,
            folder=path.resolve().parent,
        )

    def _divided(self, table: Dataset) -> tuple[dict[str, Dataset], tuple[str, ...]]:
        """Return the parts by the split column, and a note; all rows as train without one."""
        column = self.split or ("split" if "split" in table.column_names else None)
        if column is None:
            return {"train": table}, ()
        if column not in table.column_names:
            raise DataError(
                f"data.split={column}: there is no column {column!r}; the columns are "
                f"{listed(table.column_names)}.{nearest(column, table.column_names)}"
            )
        rows: dict[str, list[int]] = {}
        for row, cell in enumerate(table[column]):
            name = split_name(str(cell))
            if name is None and self.split is None:
                return {"train": table}, ()  # a column that only happens to be called so
            rows.setdefault(name or str(cell), []).append(row)
        counts = ", ".join(f"{name} {len(numbers)}" for name, numbers in rows.items())
        note = f"Splits are those of the column {column!r}: {counts}."
        return {name: table.select(numbers) for name, numbers in rows.items()}, (note,)


def _table(path: Path, encoding: str) -> Dataset:
    """Return one file as a table; raise DataError where it is not what its suffix says."""
    from datasets import Dataset

    suffix = path.suffix.lower()
    if path.is_dir():
        raise DataError(f"{path.name} is a folder, not a table.")
    if suffix not in TABLES:
        raise DataError(f"{path.name} is no table: the suffixes are {', '.join(TABLES)}.")
    if suffix == ".parquet":
        return _parquet(path)
    columns = _columns(records(path, encoding))
    if not columns:
        raise DataError(f"{path.name} has no rows.")
    if is_delimited(path):
        columns = {name: _typed(cells) for name, cells in columns.items()}
    try:
        return Dataset.from_dict(columns)
    except (ValueError, TypeError) as error:  # as Arrow's own errors are
        mixed = listed(name for name, cells in columns.items() if not _is_one_kind(cells))
        raise DataError(
            f"{path.name} mixes kinds of values in one column ({mixed}): {error}. Make them alike, "
            "or remove the column if it is not needed."
        ) from error


def _is_one_kind(cells: list[Any]) -> bool:
    from datasets import Dataset

    try:
        Dataset.from_dict({"": cells})
    except (ValueError, TypeError):
        return False
    return True


def _columns(rows: Iterable[Record]) -> dict[str, list[Any]]:
    """Return rows as columns; what a row lacks is None."""
    columns: dict[str, list[Any]] = {}
    for count, row in enumerate(rows):
        for name in row:
            if name not in columns:
                columns[name] = [None] * count
        for name, cells in columns.items():
            cells.append(row.get(name))
    return columns


def _typed(cells: list[str]) -> list[Any]:
    """Return a column as numbers where all cells are numbers; empty cells become None.

    "007" stays text, and so do "NA" and "None", which are good names for a class.
    """
    filled = [cell.strip() for cell in cells if cell.strip()]
    kind: type[int] | type[float] | type[str] = str
    if filled and all(map(_WHOLE.fullmatch, filled)):
        kind = int
    elif filled and all(map(_NUMBER.fullmatch, filled)):
        kind = float
    return [kind(cell) if cell.strip() else None for cell in cells]


def _parquet(path: Path) -> Dataset:
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    from finetune.data.switches import quiet

    try:
        with quiet():
            return Dataset.from_parquet(str(path))
    except (DatasetGenerationError, ValueError, NotImplementedError) as error:
        raise DataError(f"{path.name} cannot be read as parquet: {error}.") from error
