"""What a finished run is to predict on, as rows: images by their paths, one after another.

Nothing is held but the names of the files of a folder.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from finetune.data.files import PIPE, lines, piped
from finetune.data.labels import natural
from finetune.data.paths import IMAGES, TABLES, similar
from finetune.data.rows import Ask, Row, Stream, table
from finetune.errors import DataError, RecipeError, listed

LISTS = (".txt", ".lst")
_ASK = Ask(("image",))


def images(text: str, ask: Ask = _ASK) -> Stream:
    """Return the images that a path or pattern names, in natural order or that of the table.

    `text` is an image, a folder (searched to any depth), a pattern such as `photos/*.jpg`, a text
    file with a path on each line, `-` for such lines on standard input, or a table, whose image
    column is named in `ask` or found by its type or name. Paths in a file are relative to it.
    Raises DataError where nothing is to be had.
    """
    if text == PIPE:
        return Stream(None, lambda: (_named(name) for name in _stripped(piped())))
    path = Path(text).expanduser()
    try:
        if path.is_dir():
            return _folder(path, text)
        if path.is_file():
            return _file(path, ask)
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


def image(value: Any, number: int, ask: Ask = _ASK) -> Row:
    """Return an image in memory as a row: a path, the bytes of a file, a Pillow image, or a dict
    with "path" or "bytes". Raises RecipeError for anything else.
    """
    name = f"input {number}"
    if isinstance(value, (str, Path)):
        return Row(str(value), {"image": {"path": str(value), "bytes": None}})
    if isinstance(value, (bytes, bytearray)):
        return Row(name, {"image": {"path": None, "bytes": bytes(value)}})
    if isinstance(value, dict):
        return Row(str(value.get("path") or name), {"image": value})
    if hasattr(value, "convert"):
        return Row(str(getattr(value, "filename", "") or name), {"image": value})
    raise RecipeError(
        f"{name} is a {type(value).__name__}: give paths, the bytes of files, or Pillow images."
    )


def _files(names: list[str], folder: Path | None = None, notes: tuple[str, ...] = ()) -> Stream:
    return Stream(len(names), lambda: (_named(name, folder) for name in names), notes)


def _named(name: str, folder: Path | None = None) -> Row:
    path = name if folder is None else str(folder / name)
    return Row(name, {"image": {"path": path, "bytes": None}})


def _stripped(lines: Iterable[str]) -> Iterator[str]:
    return (line.strip() for line in lines if line.strip())


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


def _file(path: Path, ask: Ask) -> Stream:
    suffix = path.suffix.lower()
    if suffix in LISTS:
        names = list(_stripped(lines(path)))
        if not names:
            raise DataError(f"{path.name} is empty: give one path on each line.")
        return _files(names, path.parent)
    return _table(path, ask) if suffix in TABLES else _files([str(path)])


def _table(path: Path, ask: Ask) -> Stream:
    count, _, records = table(path, ask)

    def read() -> Iterator[Row]:
        for number, record in enumerate(records()):
            name, image = _image(record["image"], path.parent)
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
