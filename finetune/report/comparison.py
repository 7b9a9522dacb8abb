"""The report of a comparison: who is best, by how much, and what each costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune import wording
from finetune.report import page, plots
from finetune.report.page import Cell, Code, Figure, Headline, Section, Sentences, Table

if TYPE_CHECKING:
    from finetune.compare import Comparison
    from finetune.recipe import Recipe


def render(recipe: Recipe, found: Comparison) -> str:
    """Return the page as HTML."""
    name, best = found.metric.lstrip("-"), found.contenders[0]
    seeds = len(best.runs)
    mean = best.mean("test")
    rows = [(c.name, c.mean("test")) for c in found.contenders]
    text = "Mean over seeds on the test split, with 95 % t intervals."
    verdict, *more = found.verdict()
    headline = Headline(
        name=f"{wording.metric(name)} of {best.name}, mean over {seeds} seeds",
        value=wording.value(name, mean["value"]),
        range=wording.interval(name, mean),
        verdict=verdict,
        details=more,
        figure=Figure(plots.strip(name, rows), text, text),
    )
    sections = [
        _methods(found, name),
        _differences(found, name),
        _seeds(found, name),
        Section("Recipe", [Code(recipe.to_yaml())]),
    ]
    subtitle = f"{len(found.contenders)} ways to learn, {seeds} seeds each, equal budget"
    title = f"{recipe.name}: methods compared"
    return page.render(page.Page(title, subtitle, headline, sections))


def _methods(found: Comparison, name: str) -> Section:
    rows: list[list[Cell]] = []
    for contender in found.contenders:
        facts = contender.facts
        figures = (contender.mean(split) for split in ("validation", "test"))
        rows.append(
            [
                contender.name,
                *((wording.value(name, f["value"]), wording.interval(name, f)) for f in figures),
                wording.duration(facts["seconds"]),
                wording.size(facts["peak_memory_bytes"]),
                f"{facts['trainable_parameters']:,}",
                wording.size(facts["model_bytes"]),
            ]
        )
    head = ["method", "validation", "test", "time", "peak memory", "parameters that learn", "model"]
    lead = "Validation chooses; the test is told. Time is of a whole run, mean over seeds."
    return Section("Methods", [Table(head, rows)], lead)


def _differences(found: Comparison, name: str) -> Section:
    rows = [
        [f"{one.name} over {other.name}", wording.difference(name, gap)]
        for one, other, gap in found.pairs()
    ]
    if not rows:
        return Section("Differences", [])
    told = Sentences(["An interval that holds 0 is no evidence of a difference."])
    table = Table(["", "test, paired by seed"], rows, wide=False)
    return Section("Differences", [table, told])


def _seeds(found: Comparison, name: str) -> Section:
    head = ["method", *(run.path.name.rpartition("-")[2] for run in found.contenders[0].runs)]
    rows = [
        [c.name, *(wording.value(name, value) for value in c.values("test"))]
        for c in found.contenders
    ]
    return Section("Each seed", [Table(head, rows)], "The test metric of every run, by seed.")
