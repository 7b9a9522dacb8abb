"""The report of a comparison: who is best, by how much, and what each costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finetune import wording
from finetune.report import page, plots
from finetune.report.page import Block, Cell, Code, Figure, Headline, Section, Sentences, Table

if TYPE_CHECKING:
    from finetune.compare import Comparison
    from finetune.learning_curve import Curve
    from finetune.recipe import Recipe

CURVE = ("labels", "rows", "validation", "test")


def render(recipe: Recipe, found: Comparison) -> str:
    """Return the page as HTML."""
    name, taken = found.metric.lstrip("-"), found.taken
    seeds = len(taken.runs)
    mean = taken.mean("test")
    shown = sorted(found.contenders, key=lambda c: c is not taken)
    rows = [(c.name, c.mean("test")) for c in shown]
    text = "Mean over seeds on the test split, with 95 % t intervals."
    verdict, *more = found.verdict()
    headline = Headline(
        name=f"{wording.metric(name)} of {taken.name}, mean over {seeds} seeds",
        value=wording.value(name, mean["value"]),
        range=wording.interval(name, mean),
        verdict=verdict,
        details=more,
        figure=Figure(plots.strip(name, rows), text, text),
    )
    sections = [
        _methods(found, name),
        _differences(found, name),
        *([] if found.curve is None else [_labels(found.curve, name)]),
        _seeds(found, name),
        Section("Recipe", [Code(recipe.to_yaml())]),
    ]
    ways = f"{len(found.contenders)} ways to learn, {seeds} seeds each, equal budget"
    subtitle = " · ".join(filter(None, [getattr(recipe.backbone, "public_name", ""), ways]))
    title = f"{recipe.name}: methods compared"
    return page.render(page.Page(title, subtitle, headline, sections))


def _methods(found: Comparison, name: str) -> Section:
    rows: list[list[Cell]] = []
    for contender in found.contenders:
        chosen = [] if contender.lr is None else [f"{contender.lr:g}"]
        facts = contender.facts
        figures = (_figure(name, contender.mean(split)) for split in ("validation", "test"))
        rows.append(
            [
                contender.name,
                *figures,
                wording.duration(facts["seconds"]),
                wording.size(facts["peak_memory_bytes"]),
                f"{facts['trainable_parameters']:,}",
                wording.size(facts["model_bytes"]),
                *((chosen or [wording.UNKNOWN]) if found.lrs else []),
            ]
        )
    head = ["method", "validation", "test", "time", "peak memory", "parameters that learn", "model"]
    head += ["learning rate"] * bool(found.lrs)
    lead = "Validation chooses; the test is told. Time is of a whole run, mean over seeds."
    if found.lrs:
        lead += " Each method chose its learning rate with the first seed, on validation."
    return Section("Methods", [Table(head, rows)], lead)


def _differences(found: Comparison, name: str) -> Section:
    rows = [
        [f"{one.name} over {other.name}", wording.difference(name, gap)]
        for one, other, gap in found.pairs()
    ]
    if not rows:
        return Section("Differences", [])
    told = Sentences([f"An interval that holds 0 is no evidence of a difference. {wording.SEEDS}"])
    table = Table(["", "test, paired by seed"], rows, wide=False)
    return Section("Differences", [table, told])


def _labels(curve: Curve, name: str) -> Section:
    """Return the metric by the number of training rows."""
    text = f"{wording.metric(name)} on the test by training rows: means with 95 % t intervals."
    means = [point.mean("test") for point in curve.points]
    drawn = plots.learning_curve(name, curve.rows, means)
    lead = (
        f"{curve.method} on stratified shares of the training rows, which each seed draws anew; "
        "every point gets as many updates, and validation and test stay whole."
    )
    rows: list[list[Cell]] = [
        [p.name, f"{count:,}", *(_figure(name, p.mean(s)) for s in ("validation", "test"))]
        for p, count in zip(curve.points, curve.rows, strict=True)
    ]
    blocks: list[Block] = [Figure(drawn, text, text), Table(CURVE, rows, wide=False)]
    return Section("Labels", [*blocks, Sentences([curve.answer()])], lead)


def _figure(name: str, figure: Mapping[str, Any]) -> Cell:
    return wording.value(name, figure["value"]), wording.interval(name, figure)


def _seeds(found: Comparison, name: str) -> Section:
    head = ["method", *(run.path.name.rpartition("-")[2] for run in found.contenders[0].runs)]
    rows = [
        [c.name, *(wording.value(name, value) for value in c.values("test"))]
        for c in found.contenders
    ]
    return Section("Each seed", [Table(head, rows)], "The test metric of every run, by seed.")
