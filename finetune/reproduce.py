"""Run again what was recorded or expected, and say whether it came out the same."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune import child, evaluation, tables, wording
from finetune.errors import NotReproduced, RecipeError, RunError
from finetune.folder import EARLIER, RECIPE, SCRIPT
from finetune.recipe import Recipe, docstring, load
from finetune.run import Run


@dataclass(frozen=True)
class Claim:
    """A range of a test metric that a recipe's docstring expects, at so many decimals."""

    metric: str
    low: float
    high: float
    digits: int

    def holds(self, value: float | None) -> bool:
        """Return whether a value, rounded as the range is, lies within it."""
        return value is not None and self.low <= round(value, self.digits) <= self.high


@dataclass(frozen=True)
class Reproduction:
    """How a second run compares with what was recorded or expected."""

    run: Run
    """The second run."""
    passed: bool
    verdict: str
    rows: tuple[tuple[str, str, str], ...]
    """Metric, recorded or expected, and now."""

    def show(self) -> None:
        """Print the figures and the verdict; raise NotReproduced if they are others."""
        tables.show("", ["test", "recorded or expected", "now"], self.rows)
        tables.say(f"\nrun  {self.run.path}")
        if not self.passed:
            raise NotReproduced(self.verdict)
        tables.say(self.verdict)


def reproduce(
    run: str | Path | None = None,
    recipe: str | None = None,
    output: str | Path | None = None,
) -> Reproduction:
    """Run a finished run, or a shipped recipe, again and compare.

    Against a run every figure counts where versions and device are the same, else the 95 %
    interval of the metric that chooses; against a recipe the ranges that its docstring expects.
    Raises RecipeError unless one of both is given, and for a recipe that expects no range.
    """
    if (run is None) == (recipe is None):
        raise RecipeError("reproduce needs either run=DIR or recipe=NAME.")
    if run is not None:
        saved = Path(run) / RECIPE
        if saved.is_file() and saved.read_text("utf-8").startswith(SCRIPT):
            raise RecipeError(f"The recipe of {run} was made in a script: run that script again.")
        before = Run.load(run)
        return against_run(before, child.run(before.recipe, _new(before.recipe, output)))
    assert recipe is not None
    again = load(recipe)
    expected = claims(recipe)
    return against_claims(recipe, expected, child.run(again, _new(again, output)))


def _new(recipe: Recipe, output: str | Path | None) -> Path:
    """Return a folder without a finished run; one that was broken off goes on."""
    if output is not None:
        if (Path(output) / "result.json").is_file():
            raise RunError(f"{output} holds a finished run. Give another output=DIR.")
        return Path(output)
    first = Path("runs") / f"reproduce-{recipe.name}-{recipe.digest}"
    later = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(p for p in itertools.chain([first], later) if not (p / "result.json").is_file())


_NAMES = {name.lower(): metric for metric, name in wording.NAMES.items()}
_CLAIM = re.compile(
    rf"\b(?P<name>{'|'.join(map(re.escape, sorted(_NAMES, key=len, reverse=True)))})"
    r" (?:of )?(?:\d+\.\d+ \(95 % interval )?(?P<low>\d+\.\d+) to (?P<high>\d+\.\d+)\b"
)


def claims(spec: str) -> list[Claim]:
    """Return the ranges that a recipe's docstring expects of the test: `accuracy 0.79 to 0.80`.

    Raises RecipeError where it says "not measured", or no range.
    """
    path = Path(spec).expanduser()
    if path.is_dir():
        raise RecipeError(f"{spec} is a folder: give run={spec} if it is a run.")
    story = "" if path.suffix in (".yaml", ".yml") else docstring(spec)
    found = re.search(r"^Expected: (.*?)(?=^Source:|^\s*$|\Z)", story, re.M | re.S)
    text = " ".join(found[1].split()) if found else ""
    ranges = [
        Claim(
            _NAMES[m["name"]],
            float(m["low"]),
            float(m["high"]),
            max(len(m[end].partition(".")[2]) for end in ("low", "high")),
        )
        for m in _CLAIM.finditer(text.lower())
    ]
    if text.startswith("not measured") or not ranges:
        said = f"it says: {text}" if text else "it says nothing of what to expect."
        raise RecipeError(
            f"There is nothing to hold {spec} against: {said} A recipe that can be reproduced has "
            "in its docstring a range that was measured, such as 'Expected: test accuracy 0.986 "
            "to 0.994 over 5 seeds'. A finished run can always be reproduced: run=DIR."
        )
    return ranges


def against_claims(spec: str, expected: list[Claim], again: Run) -> Reproduction:
    """Hold a run against what its recipe expects: every range counts."""
    tested = again.result["test"]
    rows, missed = [], []
    for claim in expected:
        value = tested.get(claim.metric, {}).get("value")
        told = f"{claim.low:.{claim.digits}f} to {claim.high:.{claim.digits}f}"
        now = wording.UNKNOWN if value is None else f"{value:.{claim.digits}f}"
        rows.append((wording.metric(claim.metric), told, now))
        if not claim.holds(value):
            missed.append(f"{wording.metric(claim.metric)} is {now} and not {told}")
    if missed:
        verdict = f"Not reproduced: {'; '.join(missed)}, as {spec} expects."
    else:
        verdict = f"Reproduced: every figure is within the range that {spec} expects."
    return Reproduction(again, not missed, verdict, tuple(rows))


def against_run(before: Run, again: Run) -> Reproduction:
    """Hold a run against an earlier one of the same recipe."""
    name = before.result["metric"].lstrip("-")
    old, new = before.result["test"], again.result["test"]
    rows = [
        (wording.metric(m), wording.figure(m, f), wording.figure(m, new.get(m, {})))
        for m, f in old.items()
        if m != "per_class"
    ]
    splits = ("validation", "test")
    lines = list(
        evaluation.changed_figures(
            {split: before.result[split] for split in splits},
            {split: again.result[split] for split in splits},
        )
    )
    changed = list(_changed(before, again))
    low, high, value = old[name].get("low"), old[name].get("high"), new[name].get("value")
    passed = False
    if before.result["data"]["fingerprint"] != again.result["data"]["fingerprint"]:
        verdict = "Not reproduced: the data is not what it was, or its splits are others."
    elif not lines:
        passed = True
        verdict = "Reproduced, figure for figure: validation and test are those recorded."
    elif not changed:
        verdict = (
            f"Not reproduced: {len(lines)} figures are others, though versions and device are the "
            f"same, such as {lines[0]}."
        )
    else:
        passed = None not in (low, high, value) and low <= value <= high
        told = f"{wording.metric(name)} is {wording.value(name, value)}, and the 95 % interval"
        told += f" recorded {wording.interval(name, old[name]) or 'is not known'}"
        verdict = (
            f"{'Reproduced, within' if passed else 'Not reproduced, outside'} the interval: {told}."
            f" Figure for figure cannot be asked: {'; '.join(changed)}."
        )
    return Reproduction(again, passed, verdict, tuple(rows))


def _changed(before: Run, again: Run) -> Iterator[str]:
    """Yield what else than the recipe may make figures differ."""
    then, now = (dict(evaluation.leaves(_surroundings(run))) for run in (before, again))
    if then.get("gpus"):
        yield "sums on a GPU come in no fixed order"
    for key in then | now:
        if then.get(key) != now.get(key):
            name = key.removeprefix("versions.").replace("_", " ")
            yield f"{name} was {then.get(key, 'not recorded')} and is {now.get(key, 'absent')}"
    if (before.path / EARLIER).is_file():
        yield "the recorded run went on for more epochs after its first end"


def _surroundings(run: Run) -> Mapping[str, Any]:
    path = run.path / "environment.json"
    content: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return {key: value for key, value in content.items() if key != "argv"}
