"""Labels: read as they stand, checked, and encoded as `finetune.data.base` says."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune.data.columns import Columns
from finetune.data.pool import Pool, Rows
from finetune.errors import DataError, listed

if TYPE_CHECKING:
    from datasets import Dataset


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key that puts "2" before "10" and keeps letters in order."""
    parts = re.split(r"(\d+)", name)
    # isdecimal, as int() refuses other digits such as superscripts.
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p] + [(2, 0, name)]


def read(pool: Pool, columns: Columns, separator: str | None) -> tuple[list[Any], Columns | None]:
    """Return the raw label of each row of the pool, None where there is none, and class names.

    Names are those of a ClassLabel, or of several 0/1 columns; None if the values must tell.
    """
    if len(columns) > 1:
        return _several(pool, columns)
    values: list[Any] = []
    names: Columns | None = None
    for table in pool.tables.values():
        if "label" not in table.column_names:
            values += [None] * len(table)
            continue
        names = names or _declared(table)
        values += table["label"][:]  # in one piece: row by row is a hundred times slower
    values = [_answers(_known(value, named=names is not None)) for value in values]
    if separator is not None:
        values = [_cut(value, separator) for value in values]
    return values, names


def _declared(table: Dataset) -> Columns | None:
    from datasets import ClassLabel

    feature = table.features["label"]
    inner = getattr(feature, "feature", feature)
    return tuple(inner.names) if isinstance(inner, ClassLabel) else None


def _known(value: Any, *, named: bool) -> Any:
    """Return the label, or None for what stands for no label."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, str) and not value.strip():
        return None
    if named and value == -1:
        return None
    return value


def _is_answer(value: Any) -> bool:
    return isinstance(value, dict) and {"text", "answer_start"} <= set(value)


def _answers(value: Any) -> Any:
    """Return SQuAD's answers as one dict of lists; anything else as it is."""
    if isinstance(value, list) and value and all(map(_is_answer, value)):
        return {key: [one[key] for one in value] for key in ("text", "answer_start")}
    if not _is_answer(value):
        return value
    lists = {key: value[key] for key in ("text", "answer_start")}
    return {key: cell if isinstance(cell, list) else [cell] for key, cell in lists.items()}


def _cut(value: Any, separator: str) -> list[str]:
    # An empty cell is a row without any of the labels.
    parts = [] if value is None else [part.strip() for part in str(value).split(separator)]
    return [part for part in parts if part]


def _several(pool: Pool, columns: Columns) -> tuple[list[Any], Columns | None]:
    series: list[list[Any]] = []
    for column in columns:
        cells: list[Any] = []
        for table in pool.tables.values():
            there = column in table.column_names
            cells += list(table[column]) if there else [None] * len(table)
        series.append([_known(cell, named=False) for cell in cells])
    for column, cells in zip(columns, series, strict=True):
        bad = next(
            (c for c in cells if c is not None and not isinstance(c, (bool, int, float))), None
        )
        if bad is not None:
            raise DataError(
                f"Several label columns hold 0 or 1 for each class, or numbers; column {column!r} "
                f"holds {bad!r}. Give one column with data.label=COLUMN."
            )
    rows = [None if None in row else list(row) for row in zip(*series, strict=True)]
    if all(row is None or set(row) <= {0, 1} for row in rows):
        return [None if r is None else [i for i, on in enumerate(r) if on] for r in rows], columns
    return [None if row is None else [float(value) for value in row] for row in rows], None


def encode(
    values: Sequence[Any], used: Rows, names: Columns | None, *, tags: bool = False
) -> tuple[list[Any], Columns | None]:
    """Return the labels as documented in `finetune.data.base`, and the classes if they have names.

    Rows that are not `used` may come out as None. Of `tags`, the one for no entity comes first.
    """
    sample = [values[row] for row in used]
    if names is not None or not sample or _is_answer(sample[0]):
        return list(values), names
    listed = isinstance(sample[0], (list, tuple))
    cells = [cell for row in sample for cell in row] if listed else sample
    if all(isinstance(cell, bool) for cell in cells) and cells and not listed:
        return [None if value is None else int(value) for value in values], ("false", "true")
    if all(isinstance(cell, (int, float)) for cell in cells) and (cells or not listed):
        return list(values), None
    if not all(isinstance(cell, str) for cell in cells):
        odd = next(cell for cell in cells if not isinstance(cell, str))
        raise DataError(
            f"A label is a name, a number, or a list of these; {odd!r} is a {type(odd).__name__}. "
            "Say which column holds the labels with data.label=COLUMN."
        )
    if not listed and _mostly_numbers(cells):
        return list(values), None
    classes = tuple(sorted(set(cells), key=lambda name: (not tags or name != "O", natural(name))))
    index = {name: position for position, name in enumerate(classes)}
    if listed:
        return [
            [index[c] for c in v if c in index] if v is not None else None for v in values
        ], classes
    return [index.get(value) for value in values], classes


def _mostly_numbers(cells: Sequence[str]) -> bool:
    """Return whether these look like decimal numbers with a few faults among them."""
    kinds = Counter(_kind_of_number(cell) for cell in set(cells))
    return kinds["decimal"] > 0 and kinds["none"] < kinds["decimal"] + kinds["whole"]


def _kind_of_number(cell: str) -> str:
    try:
        return "whole" if float(cell).is_integer() and "." not in cell else "decimal"
    except ValueError:
        return "none"


def unused(labels: Sequence[Any], rows: Rows, classes: Columns) -> list[str]:
    """Return a note naming the classes that none of these rows has."""
    cells = [labels[row] for row in rows]
    there = {c for cell in cells for c in (cell if isinstance(cell, list) else [cell])}
    names = [name for index, name in enumerate(classes) if index not in there]
    return [f"{len(names)} of {len(classes)} classes have no rows: {listed(names)}."] * bool(names)
