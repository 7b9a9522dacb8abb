"""Tables with one row for each sample: CSV, TSV, JSON lines, parquet."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune.data.base import ColumnSource, Raw
from finetune.data.columns import split_name
from finetune.data.paths import TABLES, claimant, existing
from finetune.errors import DataError, listed, nearest

if TYPE_CHECKING:
    from datasets import Dataset

Record = dict[str, Any]

_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_NOT_DECODED = re.compile("[\udc80-\udcff]")  # what surrogateescape makes of other bytes
_SEPARATORS = {".csv": ",", ".tsv": "\t"}


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
    if suffix in _SEPARATORS:
        columns = {name: _typed(cells) for name, cells in columns.items()}
    try:
        return Dataset.from_dict(columns)
    except (ValueError, TypeError) as error:  # as Arrow's own errors are
        raise DataError(f"{path.name} mixes kinds of values in one column: {error}.") from error


def records(path: Path, encoding: str | None = None) -> Iterator[Record]:
    """Yield the rows of a CSV, TSV or JSON lines file as they are read; cells of CSV are text.

    Raises DataError, naming the line, where the file is not what its suffix says.
    """
    separator = _SEPARATORS.get(path.suffix.lower())
    rows = lines(path, encoding)
    yield from _delimited(path.name, rows, separator) if separator else _json_lines(path.name, rows)


def lines(path: Path, encoding: str | None = None) -> Iterator[str]:
    """Yield the lines of a text file; a byte order mark decides over `encoding`, by default UTF-8.

    Raises DataError for an unknown encoding, and for bytes that are not of it.
    """
    with path.open("rb") as file:
        start = file.read(3)
    if start == b"\xef\xbb\xbf":
        codec = "utf-8-sig"
    elif start.startswith((b"\xff\xfe", b"\xfe\xff")):
        codec = "utf-16"
    else:
        codec = encoding or "utf-8"
    try:
        text = path.open(encoding=codec, errors="surrogateescape", newline="")
    except LookupError:
        raise DataError(f"data.encoding={codec} is not known; for example cp1252.") from None
    with text:
        for number, line in enumerate(text, 1):
            if _NOT_DECODED.search(line):
                way = ", or name its encoding: data.encoding=cp1252" if encoding else ""
                raise DataError(
                    f"{path.name} is not {codec} (line {number}): save it as UTF-8{way}."
                )
            yield line


def _delimited(name: str, rows: Iterator[str], separator: str) -> Iterator[Record]:
    """Yield the rows of CSV or TSV; quoted cells may hold line breaks."""
    reader = csv.reader(rows, delimiter=separator, strict=True)
    try:
        header = next(reader, [])
        twice = [column for column, count in Counter(header).items() if count > 1]
        if twice:
            raise DataError(f"{name} has columns of the same name: {listed(twice)}. Rename one.")
        for row in reader:
            if len(row) > len(header):
                raise DataError(
                    f"{name}, line {reader.line_num}, has {len(row)} cells, but there are "
                    f"{len(header)} columns. Quote cells that hold {separator!r}."
                )
            if row:
                yield dict(zip_longest(header, row, fillvalue=""))
    except csv.Error as error:
        raise DataError(f"{name}, line {reader.line_num}, cannot be read: {error}.") from error


def _json_lines(name: str, rows: Iterator[str]) -> Iterator[Record]:
    for number, line in enumerate(rows, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{name}, line {number}, is not JSON: {error}.") from None
        if not isinstance(record, dict):
            raise DataError(f'{name}, line {number}, is no JSON object such as {{"image": ...}}.')
        yield record


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
    except (DatasetGenerationError, ValueError) as error:
        raise DataError(f"{path.name} cannot be read as parquet: {error}.") from error
