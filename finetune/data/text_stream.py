"""What a finished run is to predict on, as rows: texts from files, from a pipe, or from memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune.data import cells, files
from finetune.data.paths import TABLES, TEXT, similar
from finetune.data.rows import Ask, Row, Stream, table
from finetune.errors import DataError, FinetuneError, RecipeError


def texts(text: str, ask: Ask) -> Stream:
    """Return the texts that `text` names, in order.

    `text` is a .txt file with a text on each line, a table, whose columns are named in `ask` or
    found by their names, `-` for the lines of standard input, or the one text itself. Of these only
    a table can give rows of more than one text. An empty line is a row, which has no answer. Raises
    DataError where nothing is to be had.
    """
    if text == files.PIPE:
        return _lines(files.piped, None, ask)
    path = Path(os.path.expanduser(text))
    suffix = path.suffix.lower()
    if os.path.isfile(path):
        if suffix in TABLES:
            return _table(path, ask)
        if suffix != TEXT:
            raise DataError(
                f"inputs={text!r} is a file, but neither a .txt file with a text on each line nor "
                f"a table ({', '.join(TABLES)})."
            )
        count = sum(1 for _ in files.lines(path))
        if not count:
            raise DataError(f"{path.name} is empty: give one text on each line.")
        return _lines(lambda: files.lines(path), count, ask)
    if os.path.isdir(path):
        raise DataError(
            f"inputs={text!r} is a folder: give a .txt file with a text on each line, or a table "
            f"({', '.join(TABLES)})."
        )
    if suffix in (*TABLES, TEXT) and len(text.splitlines()) == 1:
        raise DataError(f"There is no such path {text}{similar(text) or '.'}")
    return Stream(1, lambda: iter([row(text, 0, ask)]), files=False)


def row(value: Any, number: int, ask: Ask) -> Row:
    """Return a text in memory as a row: a string, or a dict with a key for each column.

    Pairs may also be tuples, words a list, and a chat a list of messages. Raises RecipeError for
    anything else.
    """
    wanted = ask.wanted
    if isinstance(value, Mapping) and not set(wanted) - set(value):
        held = {name: value[name] for name in wanted}
    elif isinstance(value, tuple) and len(value) == len(wanted) > 1:
        held = dict(zip(wanted, value, strict=True))
    elif len(wanted) == 1 and not isinstance(value, Mapping):
        held = {wanted[0]: value}
    else:
        raise RecipeError(
            f"input {number} is {_shown(value)}: give a dict with {' and '.join(wanted)}."
        )
    return _row(held, number, f"input {number}", RecipeError)


def _lines(read: Callable[[], Iterator[str]], count: int | None, ask: Ask) -> Stream:
    if len(ask.wanted) > 1:
        raise DataError(
            f"A line is one text, but this run reads {' and '.join(ask.wanted)}: give a table "
            f"({', '.join(TABLES)}) with a column for each."
        )

    def rows() -> Iterator[Row]:
        for number, line in enumerate(read()):
            yield row(line.rstrip("\r\n"), number, ask)

    return Stream(count, rows, files=False)


def _table(path: Path, ask: Ask) -> Stream:
    count, types, records = table(path, ask)
    for name, feature in types.items():
        if not (cells.holds(feature, name) or cells.holds(feature, "text")):
            raise DataError(f"{path.name}: the {name} column holds {cells.described(feature)}.")

    def rows() -> Iterator[Row]:
        for number, record in enumerate(records()):
            yield _row(record, number, f"{path.name}, row {number} (counted from 0)", DataError)

    if not types:  # the file does not say of what type its cells are
        for _ in rows():
            pass
    return Stream(count, rows, files=False)


def _row(held: Mapping[str, Any], number: int, where: str, error: type[FinetuneError]) -> Row:
    """Return cells in their canonical form, named by the first of them; raise `error` if they have
    none, telling `where` they are. An empty text stays as it is.
    """
    try:
        canonical = {name: _canonical(name, cell) for name, cell in held.items()}
    except TypeError as odd:
        raise error(f"{where}: {odd}") from None
    first = next(iter(canonical.values()))
    if isinstance(held.get("words"), str):  # where its words are is told by its letters
        canonical["text"] = held["words"]
    if isinstance(first, list):
        first = " ".join(map(str, first)) if "words" in canonical else _last(first)
    return Row((first or "").strip() or f"row {number}", canonical)


def _canonical(name: str, cell: Any) -> Any:
    if name in cells.TEXTS:
        if cell is None or isinstance(cell, str):
            return cell
        if cell != cell:  # not-a-number stands for a gap
            return None
        raise TypeError(f"the {name} is {_shown(cell)}, not text.")
    if isinstance(cell, str):
        return cell.split() if name == "words" else [{"role": "user", "content": cell}]
    if cell is None:
        return []
    kind: type[Any] = str if name == "words" else Mapping
    if isinstance(cell, (list, tuple)) and all(isinstance(one, kind) for one in cell):
        return list(cell) if name == "words" else [cells.message(turn) for turn in cell]
    raise TypeError(f"the {name} are {_shown(cell)}, not a list of {name}.")


def _last(messages: list[Any]) -> str:
    return str(messages[-1].get("content") or "") if messages else ""


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dict with {', '.join(map(repr, value)) or 'nothing'}"
    return f"a {type(value).__name__}"
