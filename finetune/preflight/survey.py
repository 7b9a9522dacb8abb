"""All rows of all splits in one numbering, with their labels, as every check wants them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import Any

import numpy as np

from finetune import labels, wording
from finetune.data.columns import TRUTH
from finetune.protocols import SPLITS, Array, Split, Splits


@dataclass(frozen=True)
class Survey:
    """The rows of the training split first, then those of validation and test."""

    splits: Splits
    columns: tuple[str, ...]
    """The canonical columns that a model would read."""
    split: Array
    """(rows,) the position in SPLITS."""
    truth: Array | None
    """(rows,) a number for each distinct label of any kind; None where there is no label."""
    classes: tuple[str, ...] = ()
    codes: Array | None = None
    """(rows,) positions in `classes`; None unless each row has exactly one class."""
    counts: Mapping[Split, Array] = field(default_factory=dict)
    """How often each class is there, (classes,) for each split; empty where there are none."""

    @classmethod
    def of(cls, splits: Splits, task: Any) -> Survey:
        """Return the survey of loaded splits; raise DataError for labels that cannot be read."""
        inputs = tuple(name for name in task.columns if name not in TRUTH)
        split = np.repeat(np.arange(len(SPLITS)), [len(splits[name]) for name in SPLITS])
        bare = cls(splits, inputs, split, None)
        if "label" not in task.columns or "label" not in splits.train.column_names:
            return bare
        cells = [cell for name in SPLITS for cell in labels.column(splits[name])]
        written = [json.dumps(cell, default=str) for cell in cells]
        truth = np.unique(np.array(written, dtype=object).astype(str), return_inverse=True)[1]
        classes, codes = splits.classes or (), None
        if getattr(task, "predicts", "") == "Classes":
            classes = splits.classes or labels.natural(map(labels.name_of, cells))
            index = labels.Index(classes, splits.classes is not None)
            codes = np.array([index(cell, row) for row, cell in enumerate(cells)], np.int64)
        counts = _counts(split, cells if codes is None else codes.tolist(), len(classes))
        return cls(splits, inputs, split, truth, classes, codes, counts)

    def __len__(self) -> int:
        return len(self.split)

    def size(self, split: Split) -> int:
        """Return how many rows a split has."""
        return len(self.splits[split])

    def cells(self, row: int) -> dict[str, Any]:
        """Return what the tables hold of a row."""
        name, number = self._where(row)
        found: dict[str, Any] = self.splits[name][number]
        return {column: found[column] for column in self.columns if column in found}

    def place(self, row: int) -> dict[str, Any]:
        """Return where a row is, what it is called and its label, as plain values.

        "row" counts within the split, rows that were left out too.
        """
        name, number = self._where(row)
        place: dict[str, Any] = {"split": name, "row": int(self._numbers[name][number])}
        place["name"] = name_of(self.cells(row))
        if self.codes is not None:
            place["label"] = self.classes[self.codes[row]]
        elif self.truth is not None:
            place["label"] = self.splits[name][number]["label"]
        return place

    @cached_property
    def _numbers(self) -> dict[Split, Array]:
        """The number of each row within its split, counting those that were left out."""
        gone = {name: self.splits.left_out.get(name, ()) for name in SPLITS}
        return {n: np.setdiff1d(np.arange(self.size(n) + len(gone[n])), gone[n]) for n in SPLITS}

    def _where(self, row: int) -> tuple[Split, int]:
        position = int(self.split[row])
        return SPLITS[position], row - int(np.searchsorted(self.split, position))


def name_of(cells: Mapping[str, Any]) -> str:
    """Return the end of the path of an image, or the beginning of a text; empty for bytes."""
    for cell in cells.values():
        if isinstance(cell, dict) and set(cell) == {"path", "bytes"}:
            parts = PurePath(cell["path"] or "").parts[-3:]
            return "/".join(part for part in parts if part != os.sep)
    return wording.excerpt(" / ".join(wording.excerpt(cell) for cell in cells.values()), 200)


def _counts(split: Array, cells: Sequence[Any], classes: int) -> dict[Split, Array]:
    """Return how often each class is there, where rows have one or a list of them."""
    if not classes:
        return {}
    lists = [cell if isinstance(cell, list) else [cell] for cell in cells]
    flat = np.array([code for codes in lists for code in codes], np.int64)
    home = np.repeat(split, list(map(len, lists)))
    return {
        name: np.bincount(flat[home == position], minlength=classes)
        for position, name in enumerate(SPLITS)
    }
