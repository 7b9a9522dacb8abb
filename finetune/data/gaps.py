"""Rows that cannot be used as they lack a text or a label: named, or left out and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from finetune.data.cells import TEXTS, arrow
from finetune.data.columns import Columns
from finetune.data.pool import Pool, Rows
from finetune.errors import DataError
from finetune.protocols import Split

_SHOWN = 10


class Gap(NamedTuple):
    """What rows lack, in words that follow "have", and which rows of the pool those are."""

    lack: str
    rows: Rows


def find(pool: Pool, columns: Mapping[str, Columns], labels: Sequence[Any] | None) -> list[Gap]:
    """Return what the rows of the pool lack; `labels` holds one for each of them, None for none."""
    gaps = []
    for name, given in columns.items():
        if name in TEXTS:
            gaps.append(Gap(f"no {name} in column {given[0]!r}", _where(pool, name, _no_text)))
        elif name in ("words", "messages"):
            gaps.append(Gap(f"no {name} in column {given[0]!r}", _where(pool, name, _no_list)))
    if labels is not None:
        missing = [value is None or (isinstance(value, list) and None in value) for value in labels]
        where = ", ".join(columns["label"])
        gaps.append(Gap(f"no label in column {where!r}", np.flatnonzero(missing)))
        if "words" in columns:
            uneven = [
                words is not None and tags is not None and not _even(words, tags)
                for words, tags in zip(pool.column("words"), labels, strict=True)
            ]
            lack = f"not one tag in column {where!r} for each word"
            gaps.append(Gap(lack, np.flatnonzero(uneven)))
    return gaps


def _even(words: list[Any], tags: Any) -> bool:
    if not isinstance(tags, list):
        raise DataError(
            f"Each word needs a tag, in lists as long as those of the words, but a label is "
            f"{tags!r}. Say which column holds the lists of tags with data.label=COLUMN."
        )
    return len(words) == len(tags)


def _where(pool: Pool, name: str, lacks: Any) -> Rows:
    parts = [
        pool.starts[split] + np.flatnonzero(lacks(arrow(table, name)))
        for split, table in pool.tables.items()
        if name in table.column_names and len(table)
    ]
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)


def _no_text(column: Any) -> Any:
    """Return for each cell whether it holds nothing but white space."""
    from pyarrow import compute

    return compute.equal(compute.utf8_trim_whitespace(column), "").fill_null(True).to_numpy()


def _no_list(column: Any) -> Any:
    """Return for each cell whether it is an empty list, or one with a gap in it."""
    from pyarrow import compute

    empty = compute.equal(compute.list_value_length(column), 0).fill_null(True).to_numpy().copy()
    inner = compute.list_flatten(column).is_null().to_numpy()
    empty[compute.list_parent_indices(column).to_numpy()[inner]] = True
    return empty


def settle(
    pool: Pool, chosen: Mapping[Split, Rows], gaps: Sequence[Gap], on_error: str
) -> tuple[dict[Split, Rows], dict[Split, Rows], list[str]]:
    """Return the rows of each split that can be used, those that cannot, and a note on each gap.

    Raises DataError naming the latter unless `on_error` is "skip", or where a split has no others.
    """
    bad = np.unique(np.concatenate([np.zeros(0, np.int64), *(gap.rows for gap in gaps)]))
    said = [
        _sentence(pool, split, rows, gap.lack, mine)
        for split, rows in chosen.items()
        for gap in gaps
        if len(mine := np.intersect1d(rows, gap.rows))
    ]
    if said and on_error == "raise":
        ways = "Fill them in, or leave them out and have them counted: data.on_error=skip"
        raise DataError("\n".join([*said, ways]))
    kept = {split: np.setdiff1d(rows, bad) for split, rows in chosen.items()}
    for split, rows in kept.items():
        if not len(rows):
            raise DataError("\n".join([*said, f"Nothing is left of the {split} split."]))
    gone = {split: np.intersect1d(rows, bad) for split, rows in chosen.items()}
    return kept, gone, said


def _sentence(pool: Pool, split: Split, rows: Rows, lack: str, mine: Rows) -> str:
    places: dict[str, list[int]] = {}
    for name, number in map(pool.origin, mine.tolist()):
        places.setdefault(name, []).append(number)
    where = "; ".join(
        f"{name!r} row{'s' * (len(n) > 1)} {', '.join(map(str, n[:_SHOWN]))}"
        + (f" and {len(n) - _SHOWN} more" if len(n) > _SHOWN else "")
        for name, n in places.items()
    )
    return f"{len(mine)} of {len(rows)} {split} rows have {lack}: {where} (counted from 0)."


def numbered(
    chosen: Mapping[Split, Rows], gone: Mapping[Split, Rows]
) -> dict[Split, tuple[int, ...]]:
    """Return the rows that are gone from each split, numbered as if they still were in it."""
    numbers = {}
    for split, rows in gone.items():
        if len(rows):
            whole = np.union1d(chosen[split], rows)
            numbers[split] = tuple(np.searchsorted(whole, rows).tolist())
    return numbers
