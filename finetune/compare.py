"""Which method suits this data: equal budget, several seeds, every run kept, one table."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune import child, console, learning_curve, tables, wording
from finetune.contender import Contender, gap, is_gain
from finetune.errors import RecipeError, TrainingError
from finetune.folder import write, write_json
from finetune.learning_curve import Curve
from finetune.recipe import Recipe
from finetune.report import comparison
from finetune.run import Run

CONTROL = "random weights"
"""Names the runs that start from no pretraining at all."""


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; the first contender has the best validation mean."""

    path: Path
    metric: str
    """Starts with '-' where less is better."""
    contenders: tuple[Contender, ...]

    lrs: tuple[float, ...] = ()
    """Learning rates that each method could choose from."""
    curve: Curve | None = None

    def clearly_better(self, one: Contender, other: Contender, split: str) -> bool:
        """Return whether `one` beats `other` beyond chance over seeds."""
        return is_gain(self.metric, gap(one, other, split))

    @property
    def taken(self) -> Contender:
        """The cheapest that validation cannot tell from the best; with one seed the best."""
        best, *others = (c for c in self.contenders if c.name != CONTROL)
        if len(best.runs) < 2:
            return best
        rivals = [c for c in others if not self.clearly_better(best, c, "validation")]
        return min([best, *rivals], key=lambda c: c.seconds)

    def verdict(self) -> list[str]:
        """Return what to take, in plain sentences; validation chooses, the test is only told."""
        best, *others = (c for c in self.contenders if c.name != CONTROL)
        name = self.metric.lstrip("-")
        sentences = []
        if len(best.runs) < 2:
            sentences.append(
                "One seed shows no spread: what is said here may be chance. Give seeds=0,1,2."
            )
        cheapest = self.taken
        test = wording.value(name, cheapest.mean("test")["value"])
        if cheapest is best:
            words = "is best on validation" if others else "is the only one"
            sentences.append(f"Take {best.name}: it {words}; its mean on the test is {test}.")
        else:
            sentences.append(
                f"Take {cheapest.name}: {best.name} is ahead on validation, but not beyond what "
                f"seeds make ({self._told(best, cheapest, 'validation')}), and takes "
                f"{best.seconds / cheapest.seconds:.1f} times as long. The mean of "
                f"{cheapest.name} on the test is {test}."
            )
        if len(self.lrs) > 1 and cheapest.lr in (min(self.lrs), max(self.lrs)):
            sentences.append(
                f"{cheapest.name} chose {cheapest.lr:g}, which is at the edge of lrs=: one beyond "
                "it may be better still."
            )
        for control in (c for c in self.contenders if c.name == CONTROL):
            told = self._told(cheapest, control, "test")
            told += f" of {cheapest.name} over the recipe from random ones"
            if len(best.runs) < 2:
                sentences.append(f"The pretrained weights: {told}.")
            elif self.clearly_better(cheapest, control, "test"):
                sentences.append(f"The pretrained weights pay: {told}.")
            else:
                sentences.append(f"The pretrained weights have not paid on this evidence: {told}.")
        if self.curve is not None:
            sentences.append(self.curve.answer())
        return sentences

    def _told(self, one: Contender, other: Contender, split: str) -> str:
        return wording.difference(self.metric.lstrip("-"), gap(one, other, split))

    def pairs(self) -> Iterator[tuple[Contender, Contender, dict[str, Any]]]:
        """Yield each two contenders with the difference on the test, paired by seed."""
        for one, other in itertools.combinations(self.contenders, 2):
            yield one, other, gap(one, other)

    def plain(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "metric": self.metric,
            "contenders": [
                {
                    "name": c.name,
                    "runs": [run.path.name for run in c.runs],
                    "validation": c.mean("validation"),
                    "test": c.mean("test"),
                    "test_rows": c.rows,
                    "lr": c.lr,
                }
                | c.facts
                for c in self.contenders
            ],
            "differences": [
                {"of": a.name, "to": b.name, "test": found} for a, b, found in self.pairs()
            ],
            "learning_curve": self.curve and self.curve.plain(),
            "verdict": self.verdict(),
        }

    def show(self) -> None:
        """Print the table, the differences and the verdict."""
        name = self.metric.lstrip("-")
        rows = [_cells(name, c) for c in self.contenders]
        seeds = len(self.contenders[0].runs)
        title = (
            f"{wording.metric(name)}, mean over {seeds} seeds with the 95 % t interval of the "
            f"seeds; test n = {self.contenders[0].rows:,}"
        )
        tables.show(title, HEAD, rows, right=range(3, len(HEAD)), whole=range(1, len(HEAD)))
        if chosen := [f"{c.name} {c.lr:g}" for c in self.contenders if c.lr is not None]:
            tables.say(f"Learning rates, chosen on validation: {', '.join(chosen)}.")
        gaps = [
            [f"{a.name} over {b.name}", wording.difference(name, found)]
            for a, b, found in self.pairs()
        ]
        if gaps:
            tables.show(f"Differences on the test, paired by seed. {wording.SEEDS}", ["", ""], gaps)
        if self.curve is not None:
            self.curve.show()
        for sentence in self.verdict():
            tables.say(f"\n{sentence}")
        tables.say(f"\nreport  {self.path / 'report.html'}")


HEAD = ["method", "val.", "test", "time", "memory", "learn", "model"]


def _cells(name: str, contender: Contender) -> list[str]:
    facts = contender.facts
    return [
        contender.name,
        wording.value(name, contender.mean("validation")["value"]),
        wording.figure(name, contender.mean("test")),
        f"{facts['seconds']:,.0f} s",
        wording.size(facts["peak_memory_bytes"]),
        wording.count(facts["trainable_parameters"]),
        wording.size(facts["model_bytes"]),
    ]


def compare(
    recipe: Recipe,
    methods: Sequence[Any] = ("features", "lora", "full"),
    seeds: Sequence[int] = (0, 1, 2),
    *,
    control: bool = False,
    lrs: Sequence[float] = (),
    curve: bool = False,
    output: str | Path | None = None,
) -> Comparison:
    """Fine-tune with each method and seed, all else as in the recipe, and compare the results.

    A seed is that of training (`train.seed`); the splits stay the same. Finished runs are not done
    again, broken-off ones go on. `control` adds the recipe's own method from random weights. Of
    `lrs` each method that learns by gradient descent takes the learning rate that is best on
    validation with the first seed. `curve` runs the method to take on shares of the training rows.
    Raises RecipeError for a method or seed that is not allowed, TrainingError or RunError where a
    run fails.
    """
    if recipe.hub.push:
        raise RecipeError(
            "compare pushes nothing: leave out hub.push, and push the run that you choose with "
            "`finetune push run=DIR repo=user/name`."
        )
    if not methods or not seeds:
        raise RecipeError("compare needs at least one method and one seed.")
    path = Path(output) if output else Path("runs") / f"compare-{recipe.name}-{recipe.digest}"
    plans = {_name(method): recipe.override(method=method) for method in methods}
    if control:
        plans[CONTROL] = recipe.override("backbone.weights=none")
    if curve:
        recipe.override("data.share=0.5")  # refused here, not after all runs
    started = set[str]()

    def run(name: str, what: str, plan: Recipe, seed: int) -> Run:
        folder = f"{name}{what}-{seed}".replace(", ", "-").replace(" ", "-").replace("/", "of")
        # The learning rate that was chosen has been run with the first seed.
        if folder not in started:
            started.add(folder)
            console.say(f"{name}{what}, seed {seed} (run {len(started)})")
        return child.run(plan.override(f"train.seed={seed}"), path / folder)

    contenders, tuned = [], {}
    for name, plan in plans.items():
        lr = _chosen_lr(name, plan, lrs, seeds[0], run)
        tuned[name] = plan if lr is None else plan.override(f"train.lr={lr}")
        runs = tuple(run(name, _at(lr), tuned[name], seed) for seed in seeds)
        contenders.append(Contender(name, runs, lr))
    metric = contenders[0].runs[0].result["metric"]
    sign = -1 if metric.startswith("-") else 1
    ranked = sorted(contenders, key=lambda c: -sign * c.mean("validation")["value"])
    # The control comes last: nobody would take it.
    ranked.sort(key=lambda c: c.name == CONTROL)
    found = Comparison(path, metric, tuple(ranked), tuple(lrs))
    if curve:
        taken = found.taken

        def on_fewer(what: str, plan: Recipe, seed: int) -> Run:
            return run(taken.name, _at(taken.lr) + what, plan, seed)

        drawn = learning_curve.draw(tuned[taken.name], taken, seeds, on_fewer)
        found = replace(found, curve=drawn)
    write_json(path / "compare.json", found.plain())
    write(path / "report.html", comparison.render(recipe, found))
    return found


def _name(method: Any) -> str:
    return method if isinstance(method, str) else str(method.kind)


def _at(lr: float | None) -> str:
    return "" if lr is None else f", lr {lr:g}"


def _chosen_lr(
    name: str,
    plan: Recipe,
    lrs: Sequence[float],
    seed: int,
    run: Callable[[str, str, Recipe, int], Run],
) -> float | None:
    """Return the learning rate that is best on validation; None where there is no choice.

    One at which training goes wrong is left out; raises TrainingError if that leaves none.
    """
    if not lrs or not plan.method.descends:
        return None
    values: dict[float, float] = {}
    for lr in lrs:
        try:
            tried = run(name, _at(lr), plan.override(f"train.lr={lr}"), seed)
        except TrainingError as error:
            console.say(f"{name} does not learn at {lr:g}: {error}")
            continue
        sign = -1 if tried.result["metric"].startswith("-") else 1
        values[lr] = sign * Contender(name, (tried,)).values("validation")[0]
    if not values:
        raise TrainingError(f"{name} learns at none of lrs={','.join(f'{lr:g}' for lr in lrs)}.")
    return max(values, key=lambda lr: values[lr])


def seeds_of(text: str) -> list[int]:
    """Return the seeds that `0,1,2` lists; raise RecipeError for anything else."""
    try:
        seeds = [int(word) for word in text.split(",")]
    except ValueError:
        seeds = [-1]
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise RecipeError(f"seeds={text!r} is not allowed; give whole numbers such as seeds=0,1,2.")
    return seeds


def lrs_of(text: str) -> list[float]:
    """Return the learning rates that `1e-4,1e-3` lists; raise RecipeError for anything else."""
    try:
        lrs = [float(word) for word in text.split(",")]
    except ValueError:
        lrs = [0.0]
    if not all(0 < lr < float("inf") for lr in lrs) or len(set(lrs)) < len(lrs):
        raise RecipeError(
            f"lrs={text!r} is not allowed; give different numbers above 0 such as lrs=1e-4,1e-3."
        )
    return lrs
