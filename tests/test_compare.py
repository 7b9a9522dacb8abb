"""Comparison of methods: what seeds make is told from what methods make."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from finetune.command import main
from finetune.compare import CONTROL, Comparison, Contender, over_seeds
from finetune.errors import RecipeError
from finetune.recipe import load
from finetune.run import Run


def contender(name: str, values: list[float], seconds: float = 10.0, metric: str = "accuracy"):
    """Return finished runs with these values on validation and on the test."""
    figures = [{metric.lstrip("-"): {"value": value, "n": 100}} for value in values]
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
            },
        )
        for seed, figure in enumerate(figures)
    ]
    return Contender(name, tuple(runs))


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
    gap = found.gap(good, bad)
    test = stats.ttest_rel(good.values("test"), bad.values("test"))
    assert (gap["low"], gap["high"]) == pytest.approx(tuple(test.confidence_interval()))
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


def test_one_seed_says_that_it_shows_no_spread() -> None:
    assert comparison(contender("full", [0.9])).verdict()[0].startswith("One seed shows no spread")


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


def test_no_method_is_a_mistake() -> None:
    from finetune.compare import compare

    with pytest.raises(RecipeError, match="at least one method"):
        compare(load("vit-digits"), [])
