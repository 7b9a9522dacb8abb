"""How good the model is where: classes, confusion, calibration, and its worst mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune import mistakes, wording
from finetune.protocols import Array
from finetune.protocols import Table as Rows
from finetune.report import plots
from finetune.report.page import Block, Cell, Figure, Gallery, Sample, Section, Table
from finetune.report.pictures import thumbnail

if TYPE_CHECKING:
    from finetune.job import Job
    from finetune.mistakes import Mistake

MATRIX = 30
"""Classes up to which the whole confusion matrix is drawn."""
BARS = 40
"""Classes up to which all have a bar; of more, the worst."""
SHOWN = 24
"""Mistakes shown."""


def sections(job: Job, result: Mapping[str, Any], predictions: Array) -> list[Section]:
    """Return what the predictions on the test split show; those without content stay empty."""
    classes, targets = job.target.classes, job.samples["test"].truth
    worst = mistakes.worst(predictions, targets, classes, SHOWN)
    gallery = Section(
        "Largest errors" if classes is None else "Worst mistakes",
        [Gallery(_samples(worst, job.splits.test))] if worst else [],
        "Test samples furthest from the truth."
        if classes is None
        else "Wrong answers of the test split, the surest first. Look for wrong labels, too.",
    )
    if classes is None:
        return [_numbers(predictions, targets), gallery]
    return [
        _per_class(result, targets.ndim == 1),
        _confusion(predictions, targets, classes),
        _calibration(result, predictions, targets),
        gallery,
    ]


def _numbers(predictions: Array, targets: Array) -> Section:
    given, true = predictions[:, 0], targets.reshape(len(targets), -1)[:, 0]
    agreement = "Predicted against true values; on the dashed line both are equal."
    spread = "How far predictions are off, and to which side."
    return Section(
        "Errors",
        [
            Figure(plots.scatter(given, true), agreement, agreement),
            Figure(plots.residuals(given - true), spread, spread),
        ],
    )


def _per_class(result: Mapping[str, Any], exclusive: bool) -> Section:
    """Return bars for each class, and the table behind them folded away."""
    table: Mapping[str, Any] = result["test"].get("per_class", {})
    if not table:
        return Section("Classes", [])
    known = {name: row for name, row in table.items() if row["f1"]["value"] is not None}
    shown = known
    lead = "How well each class does, with 95 % intervals; the dashed line is the mean."
    if len(known) > BARS:
        order = sorted(known, key=lambda name: float(known[name]["f1"]["value"]))
        shown = {name: known[name] for name in order[:BARS]}
        lead = f"The {BARS} classes of lowest F1 of {len(table)}; all are in the table."
    blocks: list[Block] = []
    explained = {
        "recall": "Recall: of the samples of a class, the share that is found.",
        "precision": "Precision: of the answers that name a class, the share that is right.",
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
    what = "all classes" if exclusive else "all labels"
    head = ["class" if exclusive else "label", "recall", "precision", "F1", "n"]
    blocks.append(Table(head, rows, fold=f"Table of {what}"))
    return Section("Classes" if exclusive else "Labels", blocks, lead)


def _cell(figure: Mapping[str, Any]) -> Cell:
    value, low, high = figure["value"], figure["low"], figure["high"]
    if value is None:
        return wording.UNKNOWN
    return f"{value:.3f}" if low is None else (f"{value:.3f}", f"({low:.2f} to {high:.2f})")


def _confusion(predictions: Array, targets: Array, classes: Sequence[str]) -> Section:
    """Return the matrix, where the classes are few enough, and the pairs most often mixed up."""
    blocks: list[Block] = []
    if targets.ndim != 1:
        return Section("Confusion", blocks)
    if len(classes) <= MATRIX:
        text = "True classes in rows, answers in columns; shaded by the share of the row."
        drawn = plots.confusion(mistakes.confusion(predictions, targets), classes)
        blocks.append(Figure(drawn, text, f"Confusion matrix. {text}", wide=len(classes) > 12))
    pairs = mistakes.confused(predictions, targets, classes)
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


def _calibration(result: Mapping[str, Any], predictions: Array, targets: Array) -> Section:
    """Return the reliability of the probabilities."""
    if targets.ndim == 1:
        confidence, right = predictions.max(1), predictions.argmax(1) == targets
        what = "the answers"
    else:
        confidence, right = predictions.ravel(), targets.ravel() > 0.5
        what = "all labels"
    text = f"Of {what} given with a probability, the share that is right; ideal is the dashed line."
    rows = [
        [wording.metric(name), wording.value(name, result["test"][name]["value"])]
        for name in ("ece", "brier", "log_loss")
        if name in result["test"]
    ]
    blocks: list[Block] = [Figure(plots.reliability(confidence, right), text, text)]
    if rows:
        blocks.append(Table(["", "test"], rows, "Lower is better for each", wide=False))
    return Section("Calibration", blocks, "Whether a probability means what it says.")


def _samples(worst: Sequence[Mistake], table: Rows) -> list[Sample]:
    """Return the mistakes with what the model saw of them."""
    columns = table.column_names
    samples = []
    for mistake in worst:
        row = table[mistake.row]
        picture, small = thumbnail(row["image"]) if "image" in columns else ("", False)
        path = row["image"].get("path") if "image" in columns and row["image"] else None
        chance = "" if mistake.probability is None else f"{100 * mistake.probability:.0f} % sure"
        samples.append(
            Sample(
                said=wording.label(mistake.predicted, 60),
                true=wording.label(mistake.true, 60),
                chance=chance,
                picture=picture,
                text=str(row["text"])[:500] if "text" in columns else "",
                name=wording.label(PurePath(path).name if path else f"test row {mistake.row}", 60),
                small=small,
            )
        )
    return samples
