"""How good the model is where: classes, confusion, calibration, and its worst mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune import mistakes, slices, wording
from finetune.protocols import Array
from finetune.report import gallery, plots, reasons
from finetune.report.page import Block, Cell, Figure, Gallery, Section, Sentences, Table

if TYPE_CHECKING:
    from finetune.job import Job
    from finetune.mistakes import Evidence
    from finetune.protocols import Network

MATRIX = 30
"""Classes up to which the whole confusion matrix is drawn."""
BARS = 40
"""Classes up to which all have a bar; of more, the worst."""
SHOWN = 24
"""Mistakes shown."""
WHEN = ("before", "after")


def sections(
    job: Job, result: Mapping[str, Any], predictions: Any, network: Network | None = None
) -> list[Section]:
    """Return what the predictions on the test split show; those without content stay empty.

    `network` made them, and where it is given, some are explained.
    """
    target = job.target
    shown = target.evidence(predictions, job.samples["test"].truth, SHOWN)
    sure = any(mistake.probability is not None for mistake in shown.worst)
    samples = [gallery.sample(m, job.splits.test, gallery.columns(job)) for m in shown.worst]
    worst = Section(
        "Worst mistakes" if sure else "Largest errors",
        [Gallery(samples)] if samples else [],
        "Wrong answers of the test split, the surest first. Look for wrong labels, too."
        if sure
        else "Test samples furthest from the truth.",
    )
    return [
        _numbers(*shown.numbers) if shown.numbers else Section("Errors", []),
        _per_class(result, *target.each),
        _slices(result),
        _confusion(shown.confusion, target.classes or ()),
        _calibration(result, shown),
        worst,
        reasons.section(job, network, shown, result["cost"]["seconds"]),
    ]


def _numbers(given: Array, true: Array) -> Section:
    agreement = "Predicted against true values; on the dashed line both are equal."
    spread = "How far predictions are off, and to which side."
    return Section(
        "Errors",
        [
            Figure(plots.scatter(given, true), agreement, agreement),
            Figure(plots.residuals(given - true), spread, spread),
        ],
    )


def _per_class(result: Mapping[str, Any], one: str, many: str) -> Section:
    """Return bars for each class, or what else has figures, and the table folded away."""
    table: Mapping[str, Any] = result["test"].get("per_class", {})
    if not table:
        return Section(many.capitalize(), [])
    known = {name: row for name, row in table.items() if row["f1"]["value"] is not None}
    shown = known
    lead = f"How well each {one} does, with 95 % intervals; the dashed line is the mean."
    if len(known) > BARS:
        order = sorted(known, key=lambda name: float(known[name]["f1"]["value"]))
        shown = {name: known[name] for name in order[:BARS]}
        lead = f"The {BARS} {many} of lowest F1 of {len(table)}; all are in the table."
    blocks: list[Block] = []
    explained = {
        "recall": f"Recall: of what there is of each {one}, the share that is found.",
        "precision": f"Precision: of the answers that name the {one}, the share that is right.",
    }
    for key, text in explained.items():
        figures = {name: row[key] for name, row in shown.items()}
        values = [row[key]["value"] for row in known.values() if row[key]["value"] is not None]
        mean = float(np.mean(values)) if values else None
        blocks.append(Figure(plots.per_class(key, figures, mean), text, text))
    rows: list[list[Cell]] = [
        [
            wording.label(name),
            *(_cell(row[k]) for k in ("recall", "precision", "f1")),
            f"{row['n']:,}",
        ]
        for name, row in table.items()
    ]
    head = [one, "recall", "precision", "F1", "n"]
    blocks.append(Table(head, rows, fold=f"Table of all {many}"))
    return Section(many.capitalize(), blocks, lead)


def _slices(result: Mapping[str, Any]) -> Section:
    """Return the metric that chooses on parts of the test split, and which is the weakest."""
    metric, found = result["metric"], result.get("slices", {})
    head = ["", "n", wording.metric(metric), "95 % interval"]
    blocks = [
        Table(
            head,
            [[wording.label(name, 60), *figures] for name, *figures in slices.rows(values, metric)],
            f"By {wording.label(column, 60)}",
            wide=False,
        )
        for column, values in found.items()
    ]
    told = slices.sentence(found, metric, result["test"][metric.lstrip("-")])
    return Section("Slices", blocks, told or "Parts of the test split, each with few rows.")


def _cell(figure: Mapping[str, Any]) -> Cell:
    value, low, high = figure["value"], figure["low"], figure["high"]
    if value is None:
        return wording.UNKNOWN
    return f"{value:.3f}" if low is None else (f"{value:.3f}", f"({low:.2f} to {high:.2f})")


def _confusion(counts: Array | None, classes: Sequence[str]) -> Section:
    """Return the matrix, where the classes are few enough, and the pairs most often mixed up."""
    blocks: list[Block] = []
    if counts is None:
        return Section("Confusion", blocks)
    if len(classes) <= MATRIX:
        text = "True classes in rows, answers in columns; shaded by the share of the row."
        drawn = plots.confusion(counts, classes)
        blocks.append(Figure(drawn, text, f"Confusion matrix. {text}", wide=len(classes) > 12))
    pairs = mistakes.confused(counts, classes)
    rows = [
        [
            f"{wording.label(pair['true'], 40)} → {wording.label(pair['predicted'], 40)}",
            f"{pair['count']}",
            f"{100 * pair['count'] / pair['of']:.1f} %",
        ]
        for pair in pairs
    ]
    if rows:
        head = ["true → predicted", "times", "of the class"]
        blocks.append(Table(head, rows, "Most often mixed up", wide=len(classes) > 12))
    return Section("Confusion", blocks)


def _calibration(result: Mapping[str, Any], shown: Evidence) -> Section:
    """Return the reliability of the probabilities."""
    lead = "Whether a probability means what it says."
    if shown.certainty is None:
        return Section("Calibration", [])
    what = shown.certain_of
    text = f"Of {what} given with a probability, the share that is right; ideal is the dashed line."
    blocks: list[Block] = [Figure(plots.reliability(*shown.certainty), text, text)]
    fitted = result.get("calibration")
    if fitted is None:
        return Section("Calibration", blocks, lead)
    rows = [
        [wording.metric(name), *(wording.figure(name, change[when]) for when in WHEN)]
        for name, change in fitted["figures"].items()
    ]
    also = " and a threshold for each label" if result["target"].get("thresholds") else ""
    title = f"On the test split, before and after a temperature of {fitted['temperature']:g}{also}"
    told = (
        "What was fitted on validation is used by the command predict; the model in model/ keeps "
        "its own probabilities."
    )
    blocks.append(Table(["", *WHEN], rows, title, wide=False))
    blocks.append(Sentences([told]))
    if fitted["coverage"]:
        text = "Accuracy where only the surest answers are given, by the share of rows answered."
        blocks.append(Figure(plots.coverage(fitted["coverage"]), text, text))
    return Section("Calibration", blocks, lead)
