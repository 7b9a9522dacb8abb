"""The report of a run: one HTML file that holds all it shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import folder
from finetune.report import background, evidence, outcome, page
from finetune.report.log import Log

if TYPE_CHECKING:
    from finetune.job import Job
    from finetune.protocols import Array, Network


def write(
    path: Path,
    job: Job,
    result: dict[str, Any],
    predictions: Array,
    network: Network | None = None,
) -> None:
    """Write `report.html` into the run folder `path`; it needs no network and runs no script.

    `predictions` are those on the test split, (rows, outputs). `network` is the saved model that
    made them; where it is given, the report shows what some of them rest on. The log, the recipe
    and the environment are read from the folder, as far as they are there.
    """
    log = Log.read(path / "metrics.jsonl")
    sections = [
        outcome.scores(result),
        *evidence.sections(job, result, predictions, network),
        outcome.training(result, log),
        background.data(job, result),
        *background.run(path, result),
    ]
    whole = page.Page(
        title=result["name"],
        subtitle=outcome.subtitle(job, result),
        headline=outcome.headline(result),
        sections=sections,
    )
    folder.write(path / "report.html", page.render(whole))
