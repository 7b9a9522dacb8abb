"""Tables with one row for each sample: CSV, TSV, JSON lines, parquet."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune.data.base import ColumnSource, Raw
from finetune.data.names import split_name
from finetune.data.paths import existing
from finetune.data.short_form import TABLES, claimant
from finetune.data.wording import listed
from finetune.errors import DataError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")


class TableData(ColumnSource):
    """A table with a column of image files, or of image bytes.

    Files are named relative to the table. `train`, `validation` and `test` may name further
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
        main = _rows(path, self.encoding)
        tables, notes = self._divided(main)
        for name in (self.train, self.validation, self.test):
            if isinstance(name, str) and Path(name).suffix.lower() in TABLES:
                beside = existing(str(path.parent / name))
                tables[name] = _rows(beside, self.encoding)
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


def _rows(path: Path, encoding: str) -> Dataset:
    """Return one file as a table; raise DataError where it is not what its suffix says."""
    suffix = path.suffix.lower()
    if path.is_dir():
        raise DataError(f"{path.name} is a folder, not a table.")
    if suffix not in TABLES:
        raise DataError(f"{path.name} is no table: the suffixes are {', '.join(TABLES)}.")
    if suffix == ".parquet":
        return _parquet(path)
    text = _text(path, encoding)
    if not text.strip():
        raise DataError(f"{path.name} is empty.")
    if suffix in (".csv", ".tsv"):
        return _delimited(path.name, text, "\t" if suffix == ".tsv" else ",")
    return _json_lines(path.name, text)


def _text(path: Path, encoding: str) -> str:
    content = path.read_bytes()
    if content.startswith(b"\xef\xbb\xbf"):
        encoding = "utf-8-sig"
    elif content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    try:
        return content.decode(encoding)
    except LookupError:
        raise DataError(f"data.encoding={encoding} is not known; for example cp1252.") from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path.name} is not {encoding} (line {line}). Name its encoding, for example "
            "data.encoding=cp1252."
        ) from None


def _delimited(name: str, text: str, separator: str) -> Dataset:
    """Return a CSV or TSV text as a table; quoted cells may hold line breaks."""
    from datasets import Dataset

    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = next(reader)
        rows = []
        for row in reader:
            if len(row) > len(header):
                raise DataError(
                    f"{name}, line {reader.line_num}, has {len(row)} cells, but there are "
                    f"{len(header)} columns. Quote cells that hold {separator!r}."
                )
            if row:
                rows.append(row + [""] * (len(header) - len(row)))
    except csv.Error as error:
        raise DataError(f"{name}, line {reader.line_num}, cannot be read: {error}.") from error
    twice = [column for column, count in Counter(header).items() if count > 1]
    if twice:
        raise DataError(f"{name} has columns of the same name: {listed(twice)}. Rename one.")
    return Dataset.from_dict(
        {column: _typed([row[i] for row in rows]) for i, column in enumerate(header)}
    )


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


def _json_lines(name: str, text: str) -> Dataset:
    from datasets import Dataset

    rows = []
    # Not splitlines: JSON strings may hold line separators of Unicode.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{name}, line {number}, is not JSON: {error}.") from None
        if not isinstance(row, dict):
            raise DataError(f"{name}, line {number}: expected an object such as {{'image': ...}}.")
        rows.append(row)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    try:
        return Dataset.from_dict({c: [row.get(c) for row in rows] for c in columns})
    except (ValueError, TypeError) as error:  # as Arrow's own errors are
        raise DataError(f"{name} mixes kinds of values in one column: {error}.") from error


def _parquet(path: Path) -> Dataset:
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    from finetune.data.quiet import quiet

    try:
        with quiet():
            return Dataset.from_parquet(str(path))
    except (DatasetGenerationError, ValueError) as error:
        raise DataError(f"{path.name} cannot be read as parquet: {error}.") from error
