"""From label cells as they come to class positions and numbers, with an error for what is none."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from finetune.errors import DataError, nearest
from finetune.protocols import SPLITS, Split, Splits, Table

SHOWN = 5
"""How many rows or classes a message names."""


def column(table: Table) -> list[Any]:
    """Return the labels of all rows as a list of Python values."""
    labels = table["label"][:]
    values: list[Any] = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    return values


@contextmanager
def told(split: str) -> Iterator[None]:
    """Say in which split a label could not be read."""
    try:
        yield
    except DataError as error:
        raise DataError(f"In the {split} split: {error}") from None


def _listed(items: Sequence[object]) -> str:
    more = len(items) - SHOWN
    return ", ".join(map(str, items[:SHOWN])) + (f" and {more} more" if more > 0 else "")


def read(splits: Splits, *, lists: bool = False) -> dict[Split, list[Any]]:
    """Return the labels of each split; raise DataError where one is missing, or `lists` are."""
    rows = {}
    for split in SPLITS:
        with told(split):
            rows[split] = column(splits[split])
            check_present(rows[split])
            if lists:
                check_lists(rows[split])
    return rows


def check_present(labels: Sequence[Any]) -> None:
    """Raise DataError naming the rows without a label: None, or not-a-number."""

    def missing(value: Any) -> bool:
        return value is None or (isinstance(value, (float, np.floating)) and math.isnan(value))

    rows = [row for row, value in enumerate(labels) if missing(value)]
    if rows:
        raise DataError(
            f"{len(rows)} of {len(labels)} rows have no label: row {_listed(rows)}, counted from "
            "0. Label these rows or remove them."
        )


def check_learned(counts: Sequence[int], trained: Sequence[int], classes: Sequence[str]) -> None:
    """Raise DataError if a class counted here has no sample in the training split."""
    every = zip(classes, counts, trained, strict=True)
    unseen = [f"{name!r} ({count} rows)" for name, count, known in every if count and not known]
    if unseen:
        raise DataError(
            f"classes that the training split has no sample of: {_listed(unseen)}. "
            "Add samples of them to the training split, or remove these rows."
        )


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    # A table with gaps in it turns whole numbers into floats.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def name_of(value: Any) -> str:
    """Return the class name that a label stands for: text as it is, 1.0 as '1', True as 'True'."""
    value = _plain(value)
    if isinstance(value, (str, int)):
        return str(value)
    raise DataError(
        f"the label {value!r} is no class: give a name or a whole number. Numbers to be predicted "
        "as such are a regression task; lists of labels are a multi-label task."
    )


def natural(names: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct names in natural order: '2' before '10', '-1' before '0'."""

    def key(name: str) -> tuple[Any, ...]:
        if re.fullmatch(r"-?[0-9]+", name):
            return (0, int(name), name)
        parts = re.findall(r"[0-9]+|[^0-9]+", name)
        return (1, [(int(part), "") if part[0] in "0123456789" else (-1, part) for part in parts])

    return tuple(sorted(set(names), key=lambda name: (*key(name), name)))


class Index:
    """Positions of labels in a list of classes, by name and, where `indexed`, by number."""

    def __init__(self, classes: Sequence[str], indexed: bool) -> None:
        self._by_name = {name: position for position, name in enumerate(classes)}
        self._indexed = indexed

    def __call__(self, value: Any, row: int) -> int:
        """Return the position of the label; raise DataError if it is unknown or out of range."""
        value, size = _plain(value), len(self._by_name)
        if self._indexed and isinstance(value, int):
            if 0 <= value < size:
                return int(value)
            raise DataError(
                f"row {row} has the label index {value}, but there are {size} classes: allowed "
                f"are 0 to {size - 1}."
            )
        name = name_of(value)
        if name not in self._by_name:
            raise DataError(
                f"row {row} has the label {name!r}, which is none of the {size} classes "
                f"({_listed(list(self._by_name))}).{nearest(name, self._by_name)}"
            )
        return self._by_name[name]


def check_lists(rows: Sequence[Any]) -> None:
    """Raise DataError unless every cell is a list of labels, possibly empty."""
    for row, cell in enumerate(rows):
        if isinstance(cell, (str, bytes)) or not isinstance(cell, (Sequence, np.ndarray)):
            raise DataError(
                f"row {row} has the label {cell!r}: a multi-label task needs a list of labels in "
                f"each row, such as [{cell!r}] for one and [] for none."
            )
        check_present(list(cell))


def is_multi_hot(rows: Sequence[Any]) -> bool:
    """Return whether lists are 0/1 vectors with a place for each class, not lists of labels.

    Read as lists of labels, rows of equally many 0 and 1 would repeat a label or all be the same.
    """
    values = [value for cell in rows for value in cell]
    if len({len(cell) for cell in rows}) != 1 or any(isinstance(value, str) for value in values):
        return False
    several = len(rows[0]) > 1 or all(isinstance(value, bool) for value in values)
    return several and all(_plain(value) in (0, 1) for value in values)


def number(value: Any, row: int) -> float:
    """Return a label as a finite float; raise DataError naming the row and the value otherwise."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        result = float(value)
    except (TypeError, ValueError):
        raise DataError(
            f"row {row} has the label {value!r}, which is not a number: a regression task needs "
            "one number in each row. Names and flags are a classification task."
        ) from None
    if not math.isfinite(result):
        raise DataError(
            f"row {row} has the label {value!r}, which is not a finite number. Remove such rows."
        )
    return result
