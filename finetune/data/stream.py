"""Rows without labels, one after another: what a finished run is to predict.

Nothing is held but the names of the files of a folder: tables are read row by row, in two passes,
the first of which counts the rows and finds what cannot be read before anything is predicted.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from finetune.data.columns import resolve
from finetune.data.image_folder import IMAGES
from finetune.data.labels import natural
from finetune.data.paths import TABLES, similar
from finetune.data.table import lines, records
from finetune.errors import DataError, listed, nearest

LISTS = (".txt", ".lst")
_BATCH = 64


class Row(NamedTuple):
    """One input: what it is called, and its cells by canonical column."""

    name: str
    cells: Mapping[str, Any]


@dataclass(frozen=True)
class Stream:
    """Rows to predict, counted; each call of `read` begins anew."""

    count: int
    read: Callable[[], Iterator[Row]]
    notes: tuple[str, ...] = ()


def images(text: str, column: str | None = None) -> Stream:
    """Return the images that a path or pattern names, in natural order or that of the table.

    `text` is an image, a folder (searched to any depth), a pattern such as `photos/*.jpg`, a text
    file with a path on each line, or a table, whose image column is `column` or found by its type
    or name. Paths in a file are relative to it. Raises DataError where nothing is to be had.
    """
    path = Path(text).expanduser()
    try:
        if path.is_dir():
            return _folder(path, text)
        if path.is_file():
            return _file(path, column)
    except (OSError, ValueError) as error:  # no permission, a name too long, a null character
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"inputs={text!r} cannot be opened: {reason}.") from error
    if glob.has_magic(text):
        found = glob.glob(str(path), recursive=True)
        names = sorted((name for name in found if not os.path.isdir(name)), key=natural)
        if not names:
            raise DataError(f"No file matches inputs={text!r}. Write ** for folders of any depth.")
        return _files(names)
    raise DataError(
        f"There is no such path {text}{similar(text) or '.'} Give an image, a folder, a pattern "
        f"such as 'photos/*.jpg', a table ({', '.join(TABLES)}), or a .txt file of paths."
    )


def _files(names: list[str], folder: Path | None = None, notes: tuple[str, ...] = ()) -> Stream:
    def read() -> Iterator[Row]:
        for name in names:
            path = name if folder is None else str(folder / name)
            yield Row(name, {"image": {"path": path, "bytes": None}})

    return Stream(len(names), read, notes)


def _folder(folder: Path, text: str) -> Stream:
    """Return all images below a folder; hidden files and linked folders are passed by."""
    names, strange = list[str](), list[str]()
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        visible = [os.path.join(parent, name) for name in files if not name.startswith(".")]
        for name in visible:
            (names if Path(name).suffix.lower() in IMAGES else strange).append(name)
    if not names:
        tables = sorted(n for n in strange if Path(n).suffix.lower() in TABLES)
        hint = f" It holds a table: inputs={tables[0]}" if tables else ""
        raise DataError(f"The folder {text} holds no images.{hint}")
    note = f"Files that are no images by their suffix were ignored: {listed(sorted(strange))}."
    return _files(sorted(names, key=natural), notes=(note,) if strange else ())


def _file(path: Path, column: str | None) -> Stream:
    suffix = path.suffix.lower()
    if suffix in LISTS:
        names = [line.strip() for line in lines(path) if line.strip()]
        if not names:
            raise DataError(f"{path.name} is empty: give one path on each line.")
        return _files(names, path.parent)
    if suffix == ".parquet":
        return _parquet(path, column)
    return _text_table(path, column) if suffix in TABLES else _files([str(path)])


def _text_table(path: Path, column: str | None) -> Stream:
    count, names = 0, dict[str, None]()
    for record in records(path):
        count += 1
        names |= dict.fromkeys(record)
    chosen = _column(path, names, column, count)
    return _table(path, count, lambda: (record.get(chosen) for record in records(path)))


def _parquet(path: Path, column: str | None) -> Stream:
    from datasets import Features
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            count, schema = file.metadata.num_rows, file.schema_arrow
    except (ArrowException, OSError) as error:
        raise DataError(f"{path.name} cannot be read as parquet: {error}.") from error
    chosen = _column(path, Features.from_arrow_schema(schema), column, count)

    def cells() -> Iterator[Any]:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH, columns=[chosen]):
                yield from batch.column(0).to_pylist()

    return _table(path, count, cells)


def _table(path: Path, count: int, cells: Callable[[], Iterator[Any]]) -> Stream:
    def read() -> Iterator[Row]:
        for number, cell in enumerate(cells()):
            name, image = _image(cell, path.parent)
            yield Row(name or f"row {number}", {"image": image})

    return Stream(count, read)


def _image(cell: Any, folder: Path) -> tuple[str | None, dict[str, Any]]:
    """Return the name and the canonical image cell of what a table holds."""
    if isinstance(cell, bytes):
        return None, {"path": None, "bytes": cell}
    if isinstance(cell, str) and cell.strip():
        cell = {"path": cell}
    if not isinstance(cell, dict):
        cell = {}
    name, content = cell.get("path"), cell.get("bytes")
    return name, {"path": str(folder / name) if name else None, "bytes": content}


def _column(path: Path, features: Mapping[str, Any], given: str | None, count: int) -> str:
    if not count:
        raise DataError(f"{path.name} has no rows.")
    if given is not None and given not in features:
        raise DataError(
            f"image={given}: {path.name} has no column {given!r}; the columns are "
            f"{listed(features)}.{nearest(given, features)}"
        )
    try:
        return given or resolve(features, ["image"], {})["image"][0]
    except DataError:
        raise DataError(
            f"Which column of {path.name} holds the images? The columns are {listed(features)}. "
            "Say it with image=COLUMN."
        ) from None
