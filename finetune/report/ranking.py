"""The report of a ranking of backbones: who leads, whether beyond chance, and what each costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune import wording
from finetune.report import page, plots
from finetune.report.page import Cell, Facts, Figure, Headline, Section, Sentences, Table

if TYPE_CHECKING:
    from finetune.rank import Ranking
    from finetune.recipe import Recipe


def render(recipe: Recipe, found: Ranking) -> str:
    """Return the page as HTML."""
    name, best = found.name, found.places[0]
    text = "Linear probes on frozen features, on validation rows, with 95 % intervals."
    rows = [(place.name, place.linear_probe) for place in found.places]
    verdict, *more = found.verdict()
    headline = Headline(
        name=f"{wording.metric(name)} of a linear probe on {best.name}",
        value=wording.value(name, best.linear_probe["value"]),
        range=wording.interval(name, best.linear_probe),
        verdict=verdict,
        good=not found.rivals,
        details=more,
        figure=Figure(plots.strip(name, rows), text, text),
    )
    subtitle = f"{len(found.places)} backbones, nothing trained"
    title = f"{recipe.name}: backbones ranked"
    sections = [_table(found, name), _leads(found, name), _how(recipe, found)]
    return page.render(page.Page(title, subtitle, headline, sections))


def _table(found: Ranking, name: str) -> Section:
    rows: list[list[Cell]] = [
        [
            place.name,
            *(
                (wording.value(name, figure["value"]), wording.interval(name, figure))
                for figure in (place.linear_probe, place.kNN)
            ),
            f"{place.logme:.4f}",
            f"{place.parameters:,}",
            f"{place.features_per_second:,.0f}",
            wording.UNKNOWN
            if place.training_memory_bytes is None
            else wording.size(place.training_memory_bytes),
            f"{place.rows:,}",
        ]
        for place in found.places
    ]
    head = [
        "backbone", "linear probe", "kNN", "LogME", "parameters", "rows per second",
        "memory of training", "training rows",
    ]  # fmt: skip
    lead = (
        "By the linear probe on validation. Its penalty and the neighbours' number were chosen on "
        "the same rows, for all backbones alike; LogME knows the training rows alone. The memory "
        "is estimated, for samples of full size."
    )
    return Section("Backbones", [Table(head, rows)], lead)


def _leads(found: Ranking, name: str) -> Section:
    best, *others = found.places
    rows = [
        [f"{best.name} over {place.name}" if place.rows == best.rows else f"the leader over "
         f"{place.name}, on {place.rows:,} rows", wording.difference(name, place.lead)]
        for place in others
    ]  # fmt: skip
    told = Sentences(
        [
            "An interval that holds 0 is no evidence of a difference. Each is wide enough to hold "
            "for all pairs of backbones at once (Bonferroni): the leader was picked from them."
        ]
    )
    table = Table(["", "paired by validation row"], rows, wide=False)
    return Section("Differences", [table, told])


def _how(recipe: Recipe, found: Ranking) -> Section:
    tried = found.places[0].linear_probe["n"]
    facts = {
        "task": recipe.task.kind.replace("-", " "),
        "training rows": f"{found.places[0].rows:,} of {found.available['train']:,}",
        "validation rows": f"{tried:,} of {found.available['validation']:,}",
        "test rows": "none were looked at",
    }
    return Section("What was looked at", [Facts(facts)])
