"""Where a model is weak: its figures on parts of the rows, by the values of a column."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune import tables, wording
from finetune.errors import DataError, RecipeError, listed, nearest
from finetune.intervals import together
from finetune.protocols import Array, Target

LEAST = 10
"""Rows that a slice needs to be called the worst."""
MOST = 30
"""Values of a column that have a slice of their own; the rarer ones share "other"."""
BINS = 4
"""Slices of a column of many different numbers, equally full."""

Slices = dict[str, dict[str, dict[str, Any]]]
"""By column and value, the chosen metric: `{"value", "low", "high", "n"}`."""


def scores(
    target: Target, predictions: Any, truth: Any, columns: Mapping[str, Sequence[Any]]
) -> Slices:
    """Return the metric that chooses on each slice of the rows, with its interval.

    `columns` are cells by name, one for each row of `truth`: words, numbers or truth values.
    """
    metric = target.metric.lstrip("-")
    return {
        name: {
            value: target.scores(predictions[rows], truth[rows])[metric]
            for value, rows in _parts(cells).items()
        }
        for name, cells in columns.items()
    }


def cells(tables: Sequence[Any], names: Sequence[str], reading: Any = None) -> dict[str, list[Any]]:
    """Return columns of tables that stand under one another.

    Raises DataError for one that is not there or has no plain cells, and RecipeError where the
    `reading` of the task packs rows into samples.
    """
    if names and getattr(reading, "packed", False):
        raise RecipeError(
            "slices= cannot tell packed texts apart, which share samples. Train with "
            "task.packed=false, and each text has figures of its own."
        )
    found = {}
    for name in names:
        for table in tables:
            if name not in table.column_names:
                raise DataError(
                    f"slices={name}: there is no such column.{nearest(name, table.column_names)} "
                    f"The columns are {listed(table.column_names)}."
                )
        found[name] = [cell for table in tables for cell in table[name]]
        for cell in found[name]:
            if not isinstance(cell, (str, int, float, bool, type(None))):
                raise DataError(
                    f"slices={name}: its cells are no words or numbers but {type(cell).__name__}. "
                    "Name a column of plain values."
                )
    return found


def worst(slices: Slices, metric: str) -> tuple[str, str, dict[str, Any]] | None:
    """Return column, value and figure of the weakest slice that has enough rows, if there is one.

    `metric` starts with '-' where less is better.
    """
    sign = -1 if metric.startswith("-") else 1
    return min(_large(slices), key=lambda slice: sign * slice[2]["value"], default=None)


def _large(slices: Slices) -> list[tuple[str, str, dict[str, Any]]]:
    """Return column, value and figure of all slices that could be the worst."""
    return [
        (name, value, figure)
        for name, values in slices.items()
        for value, figure in values.items()
        if figure["n"] >= LEAST and figure["value"] is not None
    ]


def sentence(slices: Slices, metric: str, overall: Mapping[str, Any]) -> str | None:
    """Return which slice is the worst, in words, and whether it may be chance."""
    found = worst(slices, metric)
    if found is None:
        return None
    name, value, figure = found
    plain = metric.lstrip("-")
    bounds = wording.interval(plain, figure)
    told = (
        f"Worst slice: {wording.label(name, 60)} = {wording.label(value, 60)} with "
        f"{wording.value(plain, figure['value'])}"
        f"{f' ({bounds})' if bounds else ''}, n = {figure['n']:,}; all rows together have "
        f"{wording.value(plain, overall['value'])}."
    )
    # The worst of many is low by chance alone.
    among = len(_large(slices))
    wide = together(figure, among)
    if wide["low"] is not None and wide["low"] <= overall["value"] <= wide["high"]:
        among_all = f", widened as it is the worst of {among}," if among > 1 else ""
        told += f" That may be chance: its interval{among_all} holds the figure of all rows."
    return told


def rows(values: Mapping[str, Mapping[str, Any]], metric: str) -> list[list[str]]:
    """Return value, n, figure and interval of the slices of one column, the weakest first."""
    plain, sign = metric.lstrip("-"), -1 if metric.startswith("-") else 1
    known = {v: math.inf if f["value"] is None else sign * f["value"] for v, f in values.items()}
    return [
        [v, f"{f['n']:,}", wording.value(plain, f["value"]), wording.interval(plain, f)]
        for v, f in sorted(values.items(), key=lambda item: known[item[0]])
    ]


def show(slices: Slices, metric: str, overall: Mapping[str, Any]) -> None:
    """Print a table for each column, the weakest slice first, and the sentence on the worst."""
    header = ["", "n", wording.metric(metric), "95 % interval"]
    for name, values in slices.items():
        tables.show(f"By {name}", header, rows(values, metric), right=(1, 2))
    if told := sentence(slices, metric, overall):
        tables.say(f"\n{told}")


def _parts(cells: Sequence[Any]) -> dict[str, Array]:
    """Return the rows of each slice, by its name."""
    numbers = [c for c in cells if isinstance(c, (int, float)) and not isinstance(c, bool)]
    if len(numbers) > 0.5 * len(cells) and len(set(numbers)) > MOST:
        names = _binned(cells)
    else:
        words = ["missing" if cell is None else str(cell) for cell in cells]
        common = Counter(words).most_common()
        own = {word for word, _ in common[: MOST if len(common) > MOST + 1 else len(common)]}
        names = [word if word in own else "other" for word in words]
    values = np.array(names, dtype=object)
    return {value: np.flatnonzero(values == value) for value in dict.fromkeys(sorted(names))}


def _binned(cells: Sequence[Any]) -> list[str]:
    """Return the name of each number's bin; bins are equally full."""
    numbers = np.array([c if isinstance(c, (int, float)) else math.nan for c in cells], dtype=float)
    known = numbers[np.isfinite(numbers)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)))
    places = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, len(edges) - 2)
    return [
        f"{edges[place]:g} to {edges[place + 1]:g}" if math.isfinite(number) else "missing"
        for number, place in zip(numbers, places, strict=True)
    ]
