"""Which method suits this data: equal budget, several seeds, every run kept, one table."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune import console, tables, wording
from finetune.errors import Interrupted, RecipeError, RunError
from finetune.folder import write, write_json
from finetune.intervals import Interval
from finetune.recipe import Recipe, load
from finetune.report import comparison
from finetune.run import Run

CONTROL = "random weights"
"""Names the runs that start from no pretraining at all."""


@dataclass(frozen=True)
class Contender:
    """One way of learning the same data: its finished runs, a run for each seed."""

    name: str
    runs: tuple[Run, ...]

    def values(self, split: str) -> list[float]:
        """Return the metric that chooses, seed by seed."""
        name = self.runs[0].result["metric"].lstrip("-")
        return [float(run.result[split][name]["value"]) for run in self.runs]

    def mean(self, split: str) -> dict[str, Any]:
        """Return the mean over seeds with its t interval: `{"value", "low", "high", "n"}`."""
        return over_seeds(self.values(split))

    @property
    def seconds(self) -> float:
        """Mean seconds of a whole run."""
        return float(np.mean([run.result["cost"]["seconds"] for run in self.runs]))

    @property
    def facts(self) -> dict[str, Any]:
        """Return what it costs: seconds, memory, parameters that learn, bytes of the model."""
        first = self.runs[0]
        files = [path for path in first.model.rglob("*.safetensors") if path.is_file()]
        return {
            "seconds": self.seconds,
            "peak_memory_bytes": max(r.result["cost"]["peak_memory_bytes"] for r in self.runs),
            "trainable_parameters": first.result["parameters"]["trainable_parameters"],
            "model_bytes": sum(path.stat().st_size for path in files),
        }


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; the first contender has the best validation mean."""

    path: Path
    metric: str
    """Starts with '-' where less is better."""
    contenders: tuple[Contender, ...]

    def gap(self, one: Contender, other: Contender, split: str = "test") -> dict[str, Any]:
        """Return by how much `one` exceeds `other`, paired by seed, with its t interval."""
        pairs = zip(one.values(split), other.values(split), strict=True)
        return over_seeds([a - b for a, b in pairs])

    def clearly_better(self, one: Contender, other: Contender, split: str) -> bool:
        """Return whether `one` beats `other` beyond chance over seeds."""
        gap = self.gap(one, other, split)
        bound = gap["high"] if self.metric.startswith("-") else gap["low"]
        return bound is not None and (bound < 0 if self.metric.startswith("-") else bound > 0)

    def verdict(self) -> list[str]:
        """Return what to take, in plain sentences; validation chooses, the test is only told."""
        best, *others = (c for c in self.contenders if c.name != CONTROL)
        name = self.metric.lstrip("-")
        sentences = []
        if len(best.runs) < 2:
            sentences.append(
                "One seed shows no spread: what is said here may be chance. Give seeds=0,1,2."
            )
        rivals = [c for c in others if not self.clearly_better(best, c, "validation")]
        cheapest = min([best, *rivals], key=lambda c: c.seconds)
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
        for control in (c for c in self.contenders if c.name == CONTROL):
            gap = self._told(cheapest, control, "test")
            if self.clearly_better(cheapest, control, "test"):
                sentences.append(f"The pretrained weights pay: {gap} against random ones.")
            else:
                sentences.append(
                    f"The pretrained weights have not paid on this evidence: {gap} against random "
                    "ones."
                )
        return sentences

    def _told(self, one: Contender, other: Contender, split: str) -> str:
        return wording.difference(self.metric.lstrip("-"), self.gap(one, other, split))

    def pairs(self) -> Iterator[tuple[Contender, Contender, dict[str, Any]]]:
        """Yield each two contenders with the difference on the test, paired by seed."""
        for one, other in itertools.combinations(self.contenders, 2):
            yield one, other, self.gap(one, other)

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
                    "test_rows": _rows(c),
                }
                | c.facts
                for c in self.contenders
            ],
            "differences": [
                {"of": a.name, "to": b.name, "test": gap} for a, b, gap in self.pairs()
            ],
            "verdict": self.verdict(),
        }

    def show(self) -> None:
        """Print the table, the differences and the verdict."""
        name = self.metric.lstrip("-")
        rows = [_cells(name, c) for c in self.contenders]
        rows_tested = _rows(self.contenders[0])
        seeds = len(self.contenders[0].runs)
        title = (
            f"{wording.metric(name)}, mean over {seeds} seeds with the 95 % t interval of the "
            f"seeds; test n = {rows_tested:,}"
        )
        tables.show(title, HEAD, rows, right=range(3, len(HEAD)), whole=[0, 2])
        gaps = [
            [f"{a.name} over {b.name}", wording.difference(name, gap)] for a, b, gap in self.pairs()
        ]
        tables.show("Differences on the test, paired by seed", ["", ""], gaps)
        for sentence in self.verdict():
            tables.say(f"\n{sentence}")
        tables.say(f"\nreport  {self.path / 'report.html'}")


HEAD = ["method", "validation", "test", "time", "memory", "learn", "model"]


def _rows(contender: Contender) -> int:
    result = contender.runs[0].result
    return int(result["test"][result["metric"].lstrip("-")]["n"])


def _cells(name: str, contender: Contender) -> list[str]:
    facts = contender.facts
    return [
        contender.name,
        wording.value(name, contender.mean("validation")["value"]),
        wording.figure(name, contender.mean("test")),
        wording.duration(facts["seconds"]),
        wording.size(facts["peak_memory_bytes"]),
        wording.count(facts["trainable_parameters"]),
        wording.size(facts["model_bytes"]),
    ]


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean with Student's t interval: `{"value", "low", "high", "n"}`.

    One value has no interval; values without spread have one of no width.
    """
    mean = float(np.mean(values))
    bounds: Interval = (None, None)
    if len(values) > 1:
        from scipy.stats import t

        error = float(np.std(values, ddof=1)) / len(values) ** 0.5
        reach = float(t.ppf(0.975, len(values) - 1)) * error
        bounds = (mean - reach, mean + reach)
    return {"value": mean, "low": bounds[0], "high": bounds[1], "n": len(values)}


def compare(
    recipe: Recipe,
    methods: Sequence[Any] = ("features", "lora", "full"),
    seeds: Sequence[int] = (0, 1, 2),
    *,
    control: bool = False,
    output: str | Path | None = None,
) -> Comparison:
    """Fine-tune with each method and seed, all else as in the recipe, and compare the results.

    A seed is that of training (`train.seed`); the splits stay the same. Finished runs are not done
    again, broken-off ones go on. `control` adds the recipe's own method from random weights. Raises
    RecipeError for a method or seed that is not allowed, RunError where a run fails.
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
    contenders = []
    steps = itertools.count(1)
    for name, plan in plans.items():
        runs = []
        for seed in seeds:
            folder = path / f"{name.replace(' ', '-')}-{seed}"
            console.say(f"{name}, seed {seed} ({next(steps)} of {len(plans) * len(seeds)})")
            runs.append(_run(plan.override(f"train.seed={seed}"), folder))
        contenders.append(Contender(name, tuple(runs)))
    metric = contenders[0].runs[0].result["metric"]
    sign = -1 if metric.startswith("-") else 1
    ranked = sorted(contenders, key=lambda c: -sign * c.mean("validation")["value"])
    # The control comes last: nobody would take it.
    ranked.sort(key=lambda c: c.name == CONTROL)
    found = Comparison(path, metric, tuple(ranked))
    write_json(path / "compare.json", found.plain())
    write(path / "report.html", comparison.render(recipe, found))
    return found


def _name(method: Any) -> str:
    return method if isinstance(method, str) else str(method.kind)


def _run(recipe: Recipe, folder: Path) -> Run:
    """Return the finished run; it has a process of its own, so that its memory is its own."""
    if (folder / "result.json").is_file() and load(folder) == recipe:
        return Run.load(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    plan = folder.with_suffix(".yaml")
    write(plan, recipe.to_yaml())
    start = "import sys; from finetune.command import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "finetune", f"recipe={plan}", f"output={folder}"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL)
    if done.returncode == Interrupted.exit_code:
        raise Interrupted("Stopped; what was done is kept. Run the same command again to go on.")
    if done.returncode:
        raise RunError(f"The run in {folder} has failed: see the message above.")
    plan.unlink()
    return Run.load(folder)


def seeds_of(text: str) -> list[int]:
    """Return the seeds that `0,1,2` lists; raise RecipeError for anything else."""
    try:
        seeds = [int(word) for word in text.split(",")]
    except ValueError:
        seeds = [-1]
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise RecipeError(f"seeds={text!r} is not allowed; give whole numbers such as seeds=0,1,2.")
    return seeds
