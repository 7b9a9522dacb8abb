"""Rows without labels, and the tables that they come from: read as they are needed, in two passes,
the first of which counts them and finds what cannot be read before anything is predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from finetune.data import cells
from finetune.data.columns import resolve
from finetune.data.files import records
from finetune.errors import DataError, listed, nearest

Record = dict[str, Any]
Read = Callable[[], Iterator[Record]]

_BATCH = 64


class Row(NamedTuple):
    """One input: what it is called, and its cells by canonical column."""

    name: str
    cells: Mapping[str, Any]


@dataclass(frozen=True)
class Stream:
    """Rows to predict, counted if they can be; each call of `read` begins anew."""

    count: int | None
    read: Callable[[], Iterator[Row]]
    notes: tuple[str, ...] = ()
    files: bool = True
    """Whether the names of rows are those of files."""


@dataclass(frozen=True)
class Ask:
    """Which canonical columns are wanted, and what a table may call them."""

    wanted: tuple[str, ...]
    given: Mapping[str, str] = field(default_factory=dict)
    """What the user says they are called."""
    usual: Mapping[str, str] = field(default_factory=dict)
    """What they were called in the data of the run; it need not be so here."""


def table(path: Path, ask: Ask) -> tuple[int, Mapping[str, Any], Read]:
    """Return how many rows a table has, the types of its wanted columns as far as the file says
    them, and how to read these columns under their canonical names.

    Raises DataError if it cannot be read or the columns are not there.
    """
    if path.suffix.lower() == ".parquet":
        return _parquet(path, ask)
    count, features = 0, dict[str, Any]()
    for record in records(path):
        count += 1
        for name, cell in record.items():
            if name not in features or isinstance(cell, dict):  # whose keys can be named too
                features[name] = cell if isinstance(cell, dict) else None
    chosen = _columns(path, features, ask, count)

    def read() -> Iterator[Record]:
        for record in records(path):
            yield {name: _cell(record, column) for name, column in chosen.items()}

    return count, {}, read


def _parquet(path: Path, ask: Ask) -> tuple[int, Mapping[str, Any], Read]:
    from datasets import Features
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            count, schema = file.metadata.num_rows, file.schema_arrow
    except (ArrowException, OSError) as error:
        raise DataError(f"{path.name} cannot be read as parquet: {error}.") from error
    features = Features.from_arrow_schema(schema)
    chosen = _columns(path, features, ask, count)
    whole = sorted({c if c in features else c.rpartition(".")[0] for c in chosen.values()})

    def read() -> Iterator[Record]:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH, columns=whole):
                for record in batch.to_pylist():
                    yield {name: _cell(record, column) for name, column in chosen.items()}

    types = {name: features[column] for name, column in chosen.items() if column in features}
    return count, types, read


def _cell(record: Record, column: str) -> Any:
    if column in record:
        return record[column]
    outer, _, key = column.rpartition(".")
    held = record.get(outer)
    return held.get(key) if isinstance(held, dict) else None


def _columns(path: Path, features: Mapping[str, Any], ask: Ask, count: int) -> dict[str, str]:
    if not count:
        raise DataError(f"{path.name} has no rows.")
    inner = cells.keys(features)
    there = {*features, *inner, *inner.values()}
    for name, column in ask.given.items():
        if column not in there:
            raise DataError(
                f"{name}={column}: {path.name} has no column {column!r}; the columns are "
                f"{listed([*features, *inner])}.{nearest(column, there)}"
            )
    usual = {name: column for name, column in ask.usual.items() if column in there}
    try:
        found = resolve(features, ask.wanted, {**usual, **ask.given})
    except DataError:
        words = " and ".join(f"the {name.removesuffix('s')}s" for name in ask.wanted)
        ways = " ".join(f"{name}=COLUMN" for name in ask.wanted)
        raise DataError(
            f"Which column of {path.name} holds {words}? The columns are "
            f"{listed([*features, *inner])}. Say it with {ways}."
        ) from None
    return {name: columns[0] for name, columns in found.items()}


def asked(wanted: Sequence[str], given: Mapping[str, str], data: Any) -> Ask:
    """Return what to look for in a table, for a run whose recipe has this `data`."""
    mapping = data.mapping() if hasattr(data, "mapping") else {}
    usual = {name: mapping[name] for name in wanted if isinstance(mapping.get(name), str)}
    return Ask(tuple(wanted), dict(given), usual)
