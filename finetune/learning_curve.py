"""What more labels would be worth: the metric against the share of the training rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from finetune import console, tables, wording
from finetune.contender import Contender, gap, is_gain
from finetune.recipe import Recipe
from finetune.run import Run

SHARES = (Fraction(1, 8), Fraction(1, 4), Fraction(1, 2))


@dataclass(frozen=True)
class Curve:
    """One method on growing shares of the training rows, the last of them all rows."""

    method: str
    metric: str
    """Starts with '-' where less is better."""
    points: tuple[Contender, ...]
    """Named by their share; test and validation are the same for all."""

    @property
    def rows(self) -> list[int]:
        """Training rows of each point."""
        return [_trained(point) for point in self.points]

    def answer(self) -> str:
        """Return in plain words whether more labels would help."""
        name = self.metric.lstrip("-")
        *fewer, whole = self.points
        if not fewer or fewer[-1].name != "1/2":
            return (
                "Whether more labels would help is not known: half of the training rows do not "
                "fill one batch. Give a smaller train.batch_size."
            )
        change = gap(whole, fewer[-1])
        told = f"{wording.metric(name)} {wording.difference(name, change)} from half to all labels"
        if change["low"] is None:
            return f"Would more labels help? One seed shows no spread: {told}. Give seeds=0,1,2."
        if is_gain(self.metric, change):
            return (
                f"More labels would help: {told}. Twice as many may bring as much again, or less."
            )
        return (
            f"More labels would not clearly help: {told}. An interval that holds 0 is no evidence "
            "of a gain; its better end is what twice as many labels might bring at most."
        )

    def plain(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        *fewer, whole = self.points
        return {
            "method": self.method,
            "points": [
                {
                    "share": point.name,
                    "rows": rows,
                    "runs": [run.path.name for run in point.runs],
                    "validation": point.mean("validation"),
                    "test": point.mean("test"),
                }
                for point, rows in zip(self.points, self.rows, strict=True)
            ],
            "difference_to_all": {point.name: gap(whole, point) for point in fewer},
            "answer": self.answer(),
        }

    def cells(self) -> list[list[str]]:
        """Return a row of a table for each point: share, rows, validation, test."""
        name = self.metric.lstrip("-")
        return [
            [
                point.name,
                f"{rows:,}",
                *(wording.figure(name, point.mean(split)) for split in ("validation", "test")),
            ]
            for point, rows in zip(self.points, self.rows, strict=True)
        ]

    def show(self) -> None:
        """Print the points."""
        tables.show(f"Labels for {self.method}, as many updates each", HEAD, self.cells())


HEAD = ["labels", "rows", "validation", "test"]


def draw(
    plan: Recipe,
    whole: Contender,
    seeds: Sequence[int],
    run: Callable[[str, Recipe, int], Run],
) -> Curve:
    """Return the curve of one method, whose runs on all rows are there.

    Each seed draws rows of its own. Epochs grow as rows become fewer, so that all points get as
    many updates and the curve shows labels, not time. A share that fills no batch is left out.
    """
    points, train = [], plan.train
    data: Any = plan.data
    for share in SHARES:
        if plan.method.descends and round(share * _trained(whole)) < train.batch_size:
            console.say(f"{share} of the labels fill no batch of {train.batch_size}: left out.")
            continue
        longer = [
            f"data.share={float(share) * data.share}",
            f"train.epochs={round(train.epochs / share)}",
            f"train.patience={round(train.patience / share)}",
        ]
        fewer = plan.override(*longer)
        what = f", {share} of labels"
        runs = (run(what, fewer.override(f"data.share_seed={seed}"), seed) for seed in seeds)
        points.append(Contender(str(share), tuple(runs)))
    metric = whole.runs[0].result["metric"]
    return Curve(whole.name, metric, (*points, Contender("all", whole.runs)))


def _trained(contender: Contender) -> int:
    return int(contender.runs[0].result["data"]["rows"]["train"])
