"""Tables written row by row: CSV, JSON lines or parquet, complete or not there at all."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from finetune.errors import DataError, nearest

SUFFIXES = (".csv", ".jsonl", ".parquet")


def check(output: str | Path, suffixes: tuple[str, ...] = SUFFIXES) -> Path:
    """Return the path of a file that can be written; DataError if not, or if it is there."""
    path = Path(output).expanduser()
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise DataError(
            f"output={output}: the suffix says the format, and {suffix or 'none'!r} is none of "
            f"{', '.join(suffixes)}.{nearest(suffix, suffixes)}"
        )
    if path.exists():
        raise DataError(
            f"output={output} is there already and is not overwritten: remove it, or give another."
        )
    if not path.parent.is_dir():
        raise DataError(f"output={output}: there is no folder {path.parent}. Make it first.")
    if not os.access(path.parent, os.W_OK):
        raise DataError(f"output={output}: the folder {path.parent} cannot be written to.")
    return path


class Writer:
    """A table file that appears under its name only when all of it is written.

    `example` is a row with every column, none of whose values is None or an empty list: the
    columns and their types are those of it. CSV cells that are lists hold JSON.
    """

    def __init__(self, path: Path, example: Mapping[str, Any]) -> None:
        self.path, self.names = path, list(example)
        self._aside = path.with_name(f".{path.name}.writing")
        self._example = dict(example)
        self._file: Any = None

    def __enter__(self) -> Writer:
        try:
            if self.path.suffix.lower() == ".parquet":
                from pyarrow import Table, parquet

                self._schema = Table.from_pylist([self._example]).schema
                self._file = parquet.ParquetWriter(self._aside, self._schema)
            else:
                self._file = self._aside.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise self._failed(error) from error
        if self.path.suffix.lower() == ".csv":
            self._csv = csv.writer(self._file)
            self._csv.writerow(self.names)
        return self

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows; a column that a row lacks is empty. Raises DataError if the disk is full."""
        suffix = self.path.suffix.lower()
        whole = [[_utf8(row.get(name)) for name in self.names] for row in rows]
        try:
            if suffix == ".csv":
                self._csv.writerows([_flat(cell) for cell in cells] for cells in whole)
            elif suffix == ".jsonl":
                records = (dict(zip(self.names, cells, strict=True)) for cells in whole)
                self._file.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
            else:
                self._write_arrow([dict(zip(self.names, cells, strict=True)) for cells in whole])
        except OSError as error:
            raise self._failed(error) from error

    def _write_arrow(self, records: list[dict[str, Any]]) -> None:
        from pyarrow import Table

        self._file.write_table(Table.from_pylist(records, schema=self._schema))

    def _failed(self, error: OSError) -> DataError:
        return DataError(
            f"{self.path} could not be written ({error.strerror or error}); nothing is kept of it."
        )

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._file.close()
            if kind is None:
                check(self.path)  # what came in between is not overwritten either
                self._aside.replace(self.path)
        except OSError as error:
            if kind is None:
                raise self._failed(error) from error
        finally:
            self._aside.unlink(missing_ok=True)


def _utf8(cell: Any) -> Any:
    """Return a cell with escapes for what is no UTF-8, such as the name of a file can hold."""
    return cell.encode("utf-8", "backslashreplace").decode() if isinstance(cell, str) else cell


def _flat(cell: Any) -> Any:
    return json.dumps(cell, ensure_ascii=False) if isinstance(cell, (list, dict)) else cell
