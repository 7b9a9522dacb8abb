"""Text files read line by line, and CSV, TSV and JSON lines record by record, as they come."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from finetune.errors import DataError, listed

Record = dict[str, Any]

# The first gives its name to the file; the others are found in headers all the same.
_SEPARATORS = {".csv": ",;\t", ".tsv": "\t;,"}
PIPE = "-"
"""Stands for standard input where a path is asked for."""
_LONGEST_CELL = 1 << 27
_NOT_DECODED = re.compile("[\udc80-\udcff]")  # what surrogateescape makes of other bytes


def is_delimited(path: Path) -> bool:
    """Return whether the file is CSV or TSV by its suffix, so that all its cells are text."""
    return path.suffix.lower() in _SEPARATORS


def records(path: Path, encoding: str | None = None) -> Iterator[Record]:
    """Yield the rows of a CSV, TSV or JSON lines file as they are read; cells of CSV are text.

    Raises DataError, naming the line, where the file is not what its suffix says.
    """
    rows = lines(path, encoding)
    if is_delimited(path):
        yield from _delimited(path.name, rows, _SEPARATORS[path.suffix.lower()])
    else:
        yield from _json_lines(path.name, rows)


def lines(path: Path, encoding: str | None = None) -> Iterator[str]:
    """Yield the lines of a text file with their ends; see `decoded` for the encoding."""
    with path.open("rb") as file:
        codec = _codec(file.read(4), encoding or "utf-8")
    try:
        text = path.open(encoding=codec, errors="surrogateescape", newline="")
    except LookupError:
        raise DataError(f"data.encoding={codec} is not known; for example cp1252.") from None
    with text:
        yield from checked(path.name, codec, text, named=encoding is not None)


def piped() -> Iterator[str]:
    """Yield the lines of standard input, as they come."""
    codec = "utf-8"
    decoded = (line.decode(codec, "surrogateescape") for line in sys.stdin.buffer)
    for number, line in enumerate(checked("Standard input", codec, decoded)):
        yield line if number else line.removeprefix("\ufeff")


def checked(name: str, codec: str, rows: Iterable[str], *, named: bool = False) -> Iterator[str]:
    """Yield lines that were decoded with surrogates for what is not of the codec.

    Raises DataError naming the first such line, or the first with a null character, as binary files
    have; it tells of `data.encoding` if that could be `named`.
    """
    for number, line in enumerate(rows, 1):
        if _NOT_DECODED.search(line):
            way = ", or name its encoding: data.encoding=cp1252" if named else ""
            raise DataError(f"{name} is not {codec} (line {number}): save it as UTF-8{way}.")
        if "\0" in line:
            raise DataError(
                f"{name} has a null character (line {number}): it is no text file, is damaged, or "
                f"has another encoding than {codec}. Save it again as UTF-8."
            )
        yield line


def _codec(start: bytes, asked: str) -> str:
    """Return the encoding of a file by its first bytes: a byte order mark, or UTF-16 without it."""
    if start.startswith(b"\xef\xbb\xbf"):
        return "utf-8-sig"
    if start in (b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff"):
        return "utf-32"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    nulls = [byte == 0 for byte in start]
    if nulls == [False, True, False, True]:
        return "utf-16-le"
    return "utf-16-be" if nulls == [True, False, True, False] else asked


def _delimited(name: str, rows: Iterator[str], separators: str) -> Iterator[Record]:
    """Yield the rows of CSV or TSV; quoted cells may hold line breaks.

    Where the header is not divided by the first of the separators, another that divides it is
    taken.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))  # a document in one cell
    first = next(rows, "")
    cells = {mark: next(csv.reader([first], delimiter=mark), []) for mark in separators}
    separator = next((mark for mark in separators if len(cells[mark]) > 1), separators[0])
    reader = csv.reader(chain([first], rows), delimiter=separator, strict=True)
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
        raise DataError(
            f"{name}, line {reader.line_num}, cannot be read: {error}. A cell that begins with a "
            'quotation mark must end with one, and those inside it are doubled: "say ""yes""".'
        ) from error


def _json_lines(name: str, rows: Iterator[str]) -> Iterator[Record]:
    for number, line in enumerate(rows, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{name}, line {number}, is not JSON: {error}.") from None
        if not isinstance(record, dict):
            raise DataError(f'{name}, line {number}, is no JSON object such as {{"text": ...}}.')
        yield record
