"""What a search found: its trials, the best of them, and the run that was made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune import tables, wording
from finetune.recipe import Recipe
from finetune.run import Run
from finetune.search_space import Dimension


@dataclass(frozen=True)
class Trial:
    """One combination of values, and what came of it."""

    number: int
    values: dict[str, str]
    """The text of each key that is searched."""
    state: str
    """`complete`, `pruned` or `fail`, as Optuna says it."""
    figure: dict[str, Any]
    """The metric on validation, of a pruned trial its best so far; empty for a failed one."""
    epochs: int
    seconds: float
    reason: str = ""
    """Why it failed."""

    @property
    def texts(self) -> list[str]:
        """The values as overrides."""
        return [f"{key}={value}" for key, value in self.values.items()]


@dataclass(frozen=True)
class Search:
    """What a search found."""

    path: Path
    recipe: Recipe
    """The recipe without what was searched."""
    dimensions: tuple[Dimension, ...]
    metric: str
    """Starts with '-' where less is better."""
    trials: tuple[Trial, ...]
    """The best first, then pruned ones, then failed ones."""
    own: int | None
    """The trial with the recipe's own values, where they are within the ranges."""
    run: Run
    """The run of the best trial."""

    @property
    def best(self) -> Trial:
        """The trial that is best on validation."""
        return self.trials[0]

    def verdict(self) -> list[str]:
        """Return what was found in plain sentences."""
        name, best = self.metric.lstrip("-"), self.best
        tested = wording.figure(name, self.run.result["test"][name])
        sentences = [
            f"Take {' '.join(best.texts)} (trial {best.number}): {wording.metric(name)} "
            f"{wording.value(name, best.figure['value'])} on validation, {tested} on the test."
        ]
        own = next((t for t in self.trials if t.number == self.own), None)
        if own is best:
            sentences.append("These are the recipe's own values: the search found none better.")
        elif own is not None and own.figure:
            value = wording.value(name, own.figure["value"])
            sentences.append(f"The recipe's own values reached {value} on validation.")
        if failed := [t for t in self.trials if t.state == "fail"]:
            sentences.append(
                f"{len(failed)} of {len(self.trials)} trials failed, such as trial "
                f"{failed[0].number}: {failed[0].reason}"
            )
        others = [look for look in self.looks if look != self.run.path.name]
        alone = f"and for {', '.join(others)} when fewer were tried" if others else "alone"
        sentences.append(
            f"The best of {len(self.trials)} on validation is too good by its choice; the test "
            f"split was looked at for it {alone}, and chose nothing."
        )
        return sentences

    @property
    def looks(self) -> list[str]:
        """The trials whose runs were finished and tested: each was the best at a time."""
        return sorted(file.parent.name for file in self.path.glob("trial-*/result.json"))

    def plain(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "metric": self.metric,
            "space": [str(dimension) for dimension in self.dimensions],
            "best": self.best.number,
            "own": self.own,
            "test": self.run.result["test"][self.metric.lstrip("-")],
            "looks_at_test": self.looks,
            "trials": [vars(trial) for trial in sorted(self.trials, key=lambda t: t.number)],
            "verdict": self.verdict(),
        }

    def cells(self) -> list[list[str]]:
        """Return a row of a table for each trial."""
        name = self.metric.lstrip("-")
        return [
            [
                str(t.number),
                *t.values.values(),
                wording.figure(name, t.figure) if t.figure else wording.UNKNOWN,
                f"{t.epochs:,}",
                wording.duration(t.seconds),
                {"complete": "", "fail": "failed"}.get(t.state, t.state),
            ]
            for t in self.trials
        ]

    @property
    def head(self) -> list[str]:
        """The names of the columns of that table."""
        keys = [dimension.key for dimension in self.dimensions]
        return ["trial", *keys, "validation", "epochs", "time", ""]

    def show(self) -> None:
        """Print the trials and the verdict."""
        title = f"{wording.metric(self.metric)} on validation, {len(self.trials)} trials"
        tables.show(title, self.head, self.cells(), whole=[0])
        for sentence in self.verdict():
            tables.say(f"\n{sentence}")
        tables.say(f"\nbest    {self.path / 'best.yaml'}\nreport  {self.path / 'report.html'}")
