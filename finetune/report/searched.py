"""The report of a search: what is best, and how each field that was searched matters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune import wording
from finetune.report import page, plots
from finetune.report.page import Block, Code, Figure, Headline, Section, Table
from finetune.search_space import Between, Dimension

if TYPE_CHECKING:
    from finetune.search_result import Search


def render(found: Search) -> str:
    """Return the page as HTML."""
    name, best = found.metric.lstrip("-"), found.best
    tested = found.run.result["test"][name]
    verdict, *more = found.verdict()
    headline = Headline(
        name=f"{wording.metric(name)} of trial {best.number} on the test",
        value=wording.value(name, tested["value"]),
        range=wording.interval(name, tested),
        verdict=verdict,
        details=more,
    )
    lead = (
        "Best first. Validation chose; a trial that was pruned stands with the best of its epochs."
    )
    sections = [
        Section("Fields", _fields(found, name)),
        Section("Trials", [Table(found.head, found.cells())], lead),
        Section("Best recipe", [Code(found.run.recipe.to_yaml())]),
    ]
    keys = ", ".join(str(dimension) for dimension in found.dimensions)
    subtitle = f"{len(found.trials)} trials over {keys}"
    return page.render(page.Page(f"{found.recipe.name}: search", subtitle, headline, sections))


def _axis(dimension: Dimension) -> dict[str, Any]:
    """Return how the values of a field stand on an axis."""
    if isinstance(dimension, Between):
        return {"ends": (dimension.low, dimension.high), "log": dimension.log}
    return {"choices": dimension.choices}


def _fields(found: Search, name: str) -> list[Block]:
    """Return a figure for each field: the metric on validation by its values."""
    shown = [trial for trial in found.trials if trial.figure]
    blocks: list[Block] = []
    for dimension in found.dimensions:
        key = dimension.key
        text = f"{wording.metric(name)} on validation by {key}; the best is filled."
        points = [
            (trial.values[key], float(trial.figure["value"]), trial is found.best)
            for trial in shown
        ]
        drawn = plots.searched(
            name,
            key,
            points,
            **_axis(dimension),
        )
        blocks.append(Figure(drawn, text, text))
    return blocks
