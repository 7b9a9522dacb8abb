"""All rows of a source in one numbering, so that choosing rows is arithmetic on integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from finetune.data.columns import SPLIT_NAMES
from finetune.errors import DataError, listed, nearest

if TYPE_CHECKING:
    from datasets import Dataset

Rows: TypeAlias = npt.NDArray[np.int64]


class Pool:
    """The splits of a source end to end; row numbers count through all of them."""

    def __init__(self, tables: Mapping[str, Dataset]) -> None:
        self.tables = dict(tables)
        sizes = [len(table) for table in self.tables.values()]
        self.starts = dict(zip(self.tables, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))

    def __len__(self) -> int:
        return sum(len(table) for table in self.tables.values())

    def named(self, split: str) -> str | None:
        """Return what the source calls this split, or None if it has none."""
        lowered = {name.lower(): name for name in reversed(self.tables)}
        return next((lowered[name] for name in SPLIT_NAMES[split] if name in lowered), None)

    def rows(self, expression: str) -> Rows:
        """Return the rows that `train`, `train[:80%]` or `train[:10]+extra` names, sorted.

        Raises DataError if it cannot be read or names no rows.
        """
        from datasets import ReadInstruction

        if expression in self.tables:
            pieces = [(expression, 0, len(self.tables[expression]))]
        else:
            try:
                absolute = ReadInstruction.from_spec(expression).to_absolute(
                    {name: len(table) for name, table in self.tables.items()}
                )
            except (ValueError, AssertionError) as error:
                raise DataError(self._unreadable(expression)) from error
            pieces = [(piece.splitname, piece.from_, piece.to) for piece in absolute]
        starts = self.starts
        rows = [np.arange(starts[name] + low, starts[name] + high) for name, low, high in pieces]
        found = np.unique(np.concatenate(rows)).astype(np.int64)
        if not len(found):
            raise DataError(f"{expression!r} names no rows; {self._sizes()}.")
        return found

    def origin(self, row: int) -> tuple[str, int]:
        """Return the source's split that this row is in, and its number there, from 0."""
        name = next(name for name in reversed(self.starts) if self.starts[name] <= row)
        return name, row - self.starts[name]

    def column(self, name: str) -> list[Any]:
        """Return the cells of all rows, None where a split has no such column."""
        cells: list[Any] = []
        for table in self.tables.values():
            # In one piece: row by row is a hundred times slower.
            cells += table[name][:] if name in table.column_names else [None] * len(table)
        return cells

    def with_column(self, name: str, values: Sequence[Any], drop: Sequence[str] = ()) -> Pool:
        """Return the pool with this column, one value for each row, in place of those in `drop`."""
        import pyarrow
        from datasets import Features

        # One type for all splits, or they could not stand under one another.
        schema = pyarrow.schema({name: pyarrow.array(values).type})
        feature = Features.from_arrow_schema(schema)[name]
        tables = {}
        for split, table in self.tables.items():
            gone = [column for column in {name, *drop} if column in table.column_names]
            start = self.starts[split]
            part = list(values[start : start + len(table)])
            tables[split] = table.remove_columns(gone).add_column(name, part, feature=feature)
        return Pool(tables)

    def take(self, rows: Rows, needed: Sequence[str]) -> Dataset:
        """Return these rows, in order; raise DataError where a needed column is not there."""
        from datasets import concatenate_datasets

        parts = []
        for name, table in self.tables.items():
            start = self.starts[name]
            mine = rows[(rows >= start) & (rows < start + len(table))]
            if not len(mine):
                continue
            for column in needed:
                if column not in table.column_names:
                    raise DataError(
                        f"The split {name!r} has no column for {column!r}; it has "
                        f"{listed(table.column_names)}. Leave it out, or give data.validation or "
                        "data.test as a share of the training rows."
                    )
            parts.append(table.select(mine - start))
        if len(parts) == 1:
            return parts[0]
        # Columns that differ from part to part cannot stand under one another.
        types = parts[0].features
        shared = [c for c in types if all(p.features.get(c) == types[c] for p in parts)]
        return concatenate_datasets([part.select_columns(shared) for part in parts])

    def _unreadable(self, expression: str) -> str:
        name = expression.split("[")[0].split("+")[0]
        if name not in self.tables:
            return f"There is no split {name!r}; {self._sizes()}.{nearest(name, self.tables)}"
        return (
            f"{expression!r} does not name rows; write a split, or a slice of one such as "
            f"'{name}[:80%]' or '{name}[1000:]', joined by '+'; {self._sizes()}."
        )

    def _sizes(self) -> str:
        sizes = ", ".join(f"{name!r} ({len(t)} rows)" for name, t in self.tables.items())
        return f"the data has {sizes}"
