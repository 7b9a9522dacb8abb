"""Comparison of methods: what seeds make is told from what methods make."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_VIT
from scipy import stats

from finetune import child, finetune
from finetune.command import main
from finetune.compare import CONTROL, Comparison
from finetune.contender import Contender, gap, over_seeds
from finetune.errors import Interrupted, RecipeError, TrainingError
from finetune.learning_curve import Curve
from finetune.recipe import Recipe, load
from finetune.run import Run


def contender(
    name: str,
    values: list[float],
    seconds: float = 10.0,
    metric: str = "accuracy",
    rows: int = 100,
    lr: float | None = None,
    scored: int = 10_000,
) -> Contender:
    """Return finished runs with these values on validation and on the test."""
    figures = [{metric.lstrip("-"): {"value": value, "n": scored}} for value in values]
    runs = [
        Run(
            Path(f"{name}-{seed}"),
            load("vit-digits"),
            {
                "metric": metric,
                "validation": figure,
                "test": figure,
                "cost": {"seconds": seconds, "peak_memory_bytes": 1000},
                "parameters": {"trainable_parameters": 10},
                "data": {"rows": {"train": rows}},
            },
        )
        for seed, figure in enumerate(figures)
    ]
    return Contender(name, tuple(runs), lr)


def comparison(*contenders: Contender, metric: str = "accuracy") -> Comparison:
    return Comparison(Path("runs"), metric, contenders)


def test_the_mean_over_seeds_has_students_interval() -> None:
    values = [0.91, 0.93, 0.95, 0.9]
    found = over_seeds(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    assert over_seeds([0.5]) == {"value": 0.5, "low": None, "high": None, "n": 1}


def test_differences_are_paired_by_seed() -> None:
    # Far apart between seeds, and yet one is always better by about a point.
    good = contender("full", [0.91, 0.71, 0.51])
    bad = contender("lora", [0.90, 0.70, 0.499])
    found = comparison(good, bad)
    found_gap = gap(good, bad)
    test = stats.ttest_rel(good.values("test"), bad.values("test"))
    assert (found_gap["low"], found_gap["high"]) == pytest.approx(tuple(test.confidence_interval()))
    assert found.clearly_better(good, bad, "test")
    assert not found.clearly_better(bad, good, "test")


def test_the_cheapest_is_taken_where_seeds_explain_the_lead() -> None:
    found = comparison(
        contender("full", [0.92, 0.88, 0.93], seconds=90),
        contender("features", [0.90, 0.91, 0.89], seconds=10),
    )
    [sentence] = found.verdict()
    assert sentence.startswith("Take features: full is ahead on validation, but not beyond")
    assert "9.0 times as long" in sentence


def test_a_clear_lead_is_taken_and_less_may_be_better() -> None:
    found = comparison(
        contender("full", [0.11, 0.12, 0.13], 90, "-rmse"),
        contender("features", [0.31, 0.32, 0.33], 10, "-rmse"),
        contender(CONTROL, [0.5, 0.1, 0.2], 90, "-rmse"),
        metric="-rmse",
    )
    best, control = found.verdict()
    assert best == "Take full: it is best on validation; its mean on the test is 0.120."
    assert control.startswith("The pretrained weights have not paid on this evidence: -0.147")


def test_one_seed_says_that_it_shows_no_spread_and_takes_what_validation_likes() -> None:
    full, features = contender("full", [0.9], 90), contender("features", [0.6], 10)
    spread, take, control = comparison(full, features, contender(CONTROL, [0.5])).verdict()
    assert spread.startswith("One seed shows no spread")
    assert take.startswith("Take full: it is best on validation")
    assert (
        control == "The pretrained weights: +40.0 points of full over the recipe from random ones."
    )


def test_a_lead_that_is_the_same_in_all_seeds_is_known_to_a_row() -> None:
    # One row of 30 in each of three seeds, and then nine of them.
    features = contender("features", [27 / 30, 26 / 30, 25 / 30], seconds=10, scored=30)
    near = contender("full", [28 / 30, 27 / 30, 26 / 30], seconds=90, scored=30)
    told = comparison(near, features).verdict()[0]
    assert told.startswith("Take features: full is ahead on validation, but not beyond what seeds")
    assert gap(contender("a", [0.9, 0.1]), contender("b", [0.1, 0.2]))["low"] == -1
    few = contender("features", [18 / 30, 17 / 30, 16 / 30], seconds=10, scored=30)
    assert comparison(features, few).taken is features


def test_runs_are_kept_and_a_second_time_nothing_is_done(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [
        *("compare", "recipe=vit-digits", "data.shots=4", "methods=features", "seeds=0,1"),
        f"output={tmp_path / 'all'}",
    ]
    assert main(command) == 0
    told = capfd.readouterr().out
    assert "mean over 2 seeds" in told and "Take features: it is the only one" in told
    kept = json.loads((tmp_path / "all" / "compare.json").read_text("utf-8"))
    assert [c["runs"] for c in kept["contenders"]] == [["features-0", "features-1"]]
    assert "methods compared" in (tmp_path / "all" / "report.html").read_text("utf-8")
    results = list((tmp_path / "all").glob("*/result.json"))
    before = {path: path.stat().st_mtime_ns for path in results}
    assert len(before) == 2
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in results} == before
    # Another recipe in the same folder is refused by the run that is there.
    assert main([*command, "train.lr=0.1"]) == 2
    assert "train.lr: " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("seeds=0,0", "seeds='0,0' is not allowed; give whole numbers such as seeds=0,1,2"),
        ("seeds=a", "seeds='a' is not allowed"),
        ("lrs=1e-3,1e-3", "lrs='1e-3,1e-3' is not allowed; give different numbers above 0 such as"),
        ("lrs=0", "lrs='0' is not allowed"),
        ("lrs=fast", "lrs='fast' is not allowed"),
        ("learning_curve=1", "learning_curve='1' is not allowed; give learning_curve=true or"),
        ("control=yes", "control='yes' is not allowed; give control=true or false"),
        ("methods=loar", "method='loar' is not known here. Did you mean 'lora'?"),
    ],
)
def test_what_is_not_allowed_is_said(
    given: str, told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["compare", "recipe=vit-digits", given, f"output={tmp_path / 'x'}"]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def curve(half: list[float], whole: list[float], metric: str = "accuracy") -> Curve:
    points = contender("1/2", half, metric=metric, rows=50), contender("all", whole, metric=metric)
    return Curve("full", metric, points)


def test_more_labels_help_only_beyond_what_seeds_make() -> None:
    clear = curve([0.80, 0.81, 0.79], [0.90, 0.91, 0.90])
    assert clear.answer().startswith("More labels would help: Accuracy +10.3 points (")
    unclear = curve([0.80, 0.91, 0.79], [0.90, 0.81, 0.85])
    assert unclear.answer().startswith("More labels would not clearly help: Accuracy +2.0 points (")
    less = curve([0.5, 0.51, 0.52], [0.4, 0.41, 0.42], "-rmse")
    assert less.answer().startswith("More labels would help: RMSE -0.100 (")
    assert "One seed shows no spread: Accuracy +10.0 points" in curve([0.8], [0.9]).answer()
    assert (
        "half of the training rows do not" in Curve("full", "accuracy", clear.points[1:]).answer()
    )
    plain = clear.plain()
    assert [p["rows"] for p in plain["points"]] == [50, 100]
    assert plain["difference_to_all"]["1/2"] == gap(*reversed(clear.points))


def test_a_learning_rate_at_the_edge_is_told() -> None:
    full = contender("full", [0.9, 0.91], lr=1e-3)
    found = Comparison(Path("runs"), "accuracy", (full,), lrs=(1e-4, 1e-3))
    assert any("full chose 0.001, which is at the edge" in line for line in found.verdict())


@pytest.fixture
def within(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in this process what has one of its own, to save the start."""
    monkeypatch.setattr(child, "run", lambda recipe, folder: finetune(recipe, folder))


TINY = [*TINY_VIT, "data.shots=8", "train.epochs=2", "train.batch_size=40"]


def test_learning_rates_are_chosen_and_shares_of_labels_compared(
    tmp_path: Path, within: None, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "all"
    given = [*TINY, "methods=full", "seeds=3", "lrs=1e-5,1e-2", "learning_curve=true"]
    assert main(["compare", "recipe=vit-digits", *given, f"output={output}"]) == 0
    told = capfd.readouterr()
    assert "1/4 of the labels fill no batch of 40: left out." in told.err
    assert "Would more labels" in told.out or "More labels would" in told.out
    found = json.loads((output / "compare.json").read_text("utf-8"))
    [full] = found["contenders"]
    tried = {lr: output / f"full-lr-{lr}-3" for lr in ("1e-05", "0.01")}
    values = {
        lr: json.loads((path / "result.json").read_text("utf-8"))["validation"]["accuracy"]["value"]
        for lr, path in tried.items()
    }
    best = max(values, key=lambda lr: values[lr])
    assert (full["lr"], full["runs"]) == (float(best), [f"full-lr-{best}-3"])
    half, whole = found["learning_curve"]["points"]
    assert (half["rows"], whole["rows"]) == (40, 80)
    assert whole["runs"] == full["runs"]
    fewer = load(output / half["runs"][0])
    assert (fewer.data.share, fewer.data.share_seed) == (0.5, 3)  # type: ignore[union-attr]
    assert (fewer.train.seed, fewer.train.lr, fewer.train.epochs) == (3, full["lr"], 4)
    page = (output / "report.html").read_text("utf-8")
    assert "training rows" in page and "learning rate" in page


def test_a_learning_rate_at_which_nothing_is_learned_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.compare import compare

    def run(recipe: Recipe, folder: Path) -> Run:
        if recipe.train.lr > 1:
            raise TrainingError("The loss was not finite.")
        return contender("full", [0.9], lr=recipe.train.lr).runs[0]

    monkeypatch.setattr(child, "run", run)
    recipe, methods = load("vit-digits"), ["full", "features"]
    found = compare(recipe, methods, [0], lrs=[1e-3, 1e9], output=tmp_path)
    assert [(c.name, c.lr) for c in found.contenders] == [("full", 1e-3), ("features", None)]
    with pytest.raises(TrainingError, match="full learns at none of lrs=1e\\+08,1e\\+09"):
        compare(recipe, ["full"], [0], lrs=[1e8, 1e9], output=tmp_path)


def test_no_method_is_a_mistake() -> None:
    from finetune.compare import compare

    with pytest.raises(RecipeError, match="at least one method"):
        compare(load("vit-digits"), [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_who_stops_a_comparison_stops_its_run(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, saved = tmp_path / "ready", tmp_path / "saved"
    # A run that takes longer to save than Python leaves a child after Ctrl-C.
    story = f"""
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.5)
    pathlib.Path({str(saved)!r}).touch()
    sys.exit(75)
signal.signal({int(number)}, save)
pathlib.Path({str(ready)!r}).touch()
time.sleep(30)
"""
    monkeypatch.setattr(child, "START", story)

    def stop() -> None:
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop, daemon=True).start()
    # What a shell starts in the background ignores some of them.
    before = signal.default_int_handler
    was = signal.signal(number, before)
    with pytest.raises(Interrupted, match="Run the same command again"):
        child.run(load("vit-digits"), tmp_path / "run")
    assert saved.exists() and signal.getsignal(number) is before
    signal.signal(number, was)
