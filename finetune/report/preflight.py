"""The report of a check: what is wrong with the data, with the rows that show it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune import wording
from finetune.protocols import SPLITS
from finetune.report import background, page, plots
from finetune.report.page import (
    Block,
    Code,
    Figure,
    Gallery,
    Headline,
    Sample,
    Section,
    Sentences,
    Table,
)
from finetune.report.pictures import thumbnail

if TYPE_CHECKING:
    from finetune.preflight.finding import Finding
    from finetune.preflight.result import Preflight
    from finetune.recipe import Recipe


def render(recipe: Recipe, found: Preflight) -> str:
    """Return the page as HTML."""
    serious, warnings = len(found.of("serious")), len(found.of("warning"))
    headline = Headline(
        name="Serious findings",
        value=str(serious),
        range=f"and {warnings} to be looked at",
        verdict="Mend these first." if serious else "Nothing that makes results wrong was found.",
        good=not serious,
        details=[finding.what for finding in found.of("serious")],
    )
    sections = [
        _findings(found),
        *(_examples(found, f) for f in found.findings if any(e.rows for e in f.examples)),
        _shortcuts(found),
        _data(found),
        Section("Recipe", [Code(recipe.to_yaml())]),
    ]
    rows = ", ".join(f"{found.survey.size(split):,} {split}" for split in SPLITS)
    name = found.survey.splits.source.get("name") or found.survey.splits.source.get("id") or ""
    title = f"{wording.label(name)}: data checked" if name else "Data checked"
    subtitle = f"{rows} rows, {wording.duration(found.seconds)}"
    return page.render(page.Page(title, subtitle, headline, sections))


def _findings(found: Preflight) -> Section:
    rows = [[f.severity, f.what] for f in found.findings]
    return Section("Findings", [Table(["", "finding"], rows, numeric=False)])


def _examples(found: Preflight, finding: Finding) -> Section:
    """Return the rows that show a finding, those that belong together next to each other."""
    samples = []
    for number, example in enumerate(finding.examples, 1):
        together = f"pair {number}" if len(example.rows) > 1 else ""
        samples += [_sample(found, row, together, example.note) for row in example.rows]
    return Section(finding.what, [Gallery(samples)])


def _sample(found: Preflight, row: int, *notes: str) -> Sample:
    place, cells = found.survey.place(row), found.survey.cells(row)
    image = cells.pop("image", None)
    picture, small = thumbnail(image) if image else ("", False)
    where = ", ".join([f"{place['split']} row {place['row']}", *filter(None, notes)])
    labelled = "label" in place
    return Sample(
        said=wording.label(place["label"], 60) if labelled else where,
        true="",
        chance=where if labelled else "",
        picture=picture,
        text="\n".join(wording.excerpt(cell) for cell in cells.values()),
        name=wording.label(place["name"], 60) if image and place["name"] else "",
        small=small,
    )


def _shortcuts(found: Preflight) -> Section:
    """Return how well what is not the content predicts the label."""
    if not found.probes:
        return Section("Shortcuts", [])
    text = (
        "Balanced accuracy of telling the class from this alone, cross-validated on the training "
        "rows, with 95 % intervals. Chance is the last row."
    )
    chance: dict[str, Any] = {"value": found.probes[0].chance}
    rows = [*((probe.of, probe.score) for probe in found.probes), ("chance", chance)]
    lead = "What has nothing to do with the content should say nothing about the class."
    figure = Figure(plots.strip("balanced_accuracy", rows), text, text)
    return Section("Shortcuts", [figure], lead)


def _data(found: Preflight) -> Section:
    survey = found.survey
    counts = [[f"{survey.size(split):,}" for split in SPLITS]]
    blocks: list[Block] = [Table([*SPLITS], counts, wide=False)]
    if survey.counts:
        blocks.append(background.classes(survey.classes, survey.counts))
    if survey.splits.notes:
        blocks.append(Sentences(survey.splits.notes))
    return Section("Data", blocks)
