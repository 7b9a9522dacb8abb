"""Running again what was recorded or expected."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune import recipe as recipes
from finetune import reproduce
from finetune.command import main
from finetune.errors import NotReproduced, RecipeError
from finetune.reproduce import Claim, against_claims, against_run, claims
from finetune.run import Run

EXPECTED = {
    "minilm-intents": [Claim("accuracy", 0.792, 0.797, 3), Claim("macro_f1", 0.786, 0.798, 3)],
    "pretrain-tiny-vit": [Claim("accuracy", 0.824, 0.839, 3)],
    "vit-digits": [Claim("accuracy", 0.986, 0.994, 3)],
}


@pytest.mark.parametrize("name", recipes.names())
def test_every_shipped_recipe_expects_ranges_or_says_that_nothing_was_measured(name: str) -> None:
    if name in EXPECTED:
        assert claims(name) == EXPECTED[name]
    else:
        with pytest.raises(RecipeError, match=f"nothing to hold {name} against: it says: not meas"):
            claims(name)


@pytest.mark.parametrize(
    ("story", "said"),
    [
        ("A recipe.", "it says nothing of what to expect"),
        ("A recipe.\n\nExpected: an accuracy of 0.93 (Who 2020).", "it says: an accuracy of 0.93"),
        ("A recipe.\n\nExpected: beauty 0.1 to 0.2.", "it says: beauty"),
        ("A recipe.\n\nExpected: nothing.\nSource: accuracy 0.1 to 0.2.", "it says: nothing."),
    ],
)
def test_what_expects_no_range_is_refused(story: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f'"""{story}\n"""\nfrom recipes.vit_digits import recipe\n', "utf-8")
    with pytest.raises(RecipeError, match=r"reproduced: run=DIR") as caught:
        claims(str(file))
    assert said in str(caught.value)


def test_a_range_over_two_lines_and_in_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text('"""A.\n\nExpected: an RMSE of 1.25 to\n1.5 over 2 seeds.\n"""\n', "utf-8")
    assert claims(str(file)) == [Claim("rmse", 1.25, 1.5, 2)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either run=DIR or recipe=NAME"),
        (["run=a", "recipe=b"], "either run=DIR or recipe=NAME"),
        (["recipe=vit-cifar"], "it says: not measured. A recipe that can be"),
        (["recipe=vit-digts"], "Did you mean 'vit-digits'?"),
        (["recipe=."], "give run=. if it is a run"),
        (["run=nowhere"], "is no run folder"),
    ],
)
def test_mistakes_end_with_2_before_anything_runs(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(recipes.load("vit-digits").to_yaml(), "utf-8")
    assert main(["reproduce", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.yaml"]


def changed(run: Run, path: Path, value: float | None = None, **surroundings: Any) -> Run:
    """Return a copy of a run with another accuracy or in other surroundings."""
    shutil.copytree(run.path, path)
    file = path / "environment.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | surroundings), "utf-8")
    result = json.loads((run.path / "result.json").read_text("utf-8"))
    if value is not None:
        result["test"]["accuracy"]["value"] = value
    return Run(path, run.recipe, result)


def test_a_run_is_held_against_another(digits_run: Run, tmp_path: Path) -> None:
    figure = digits_run.result["test"]["accuracy"]
    same = against_run(digits_run, changed(digits_run, tmp_path / "same"))
    assert same.passed and "figure for figure" in same.verdict
    near = (figure["value"] + figure["high"]) / 2
    other = against_run(digits_run, changed(digits_run, tmp_path / "other", near))
    assert not other.passed
    assert "1 figures are others, though versions and device are the same" in other.verdict
    with pytest.raises(NotReproduced, match=r"test\.accuracy\.value"):
        other.show()
    moved = against_run(digits_run, changed(digits_run, tmp_path / "moved", near, python="2.7"))
    assert moved.passed
    assert "Reproduced, within the interval" in moved.verdict
    assert "python was" in moved.verdict and "is 2.7" in moved.verdict
    far = changed(digits_run, tmp_path / "far", figure["low"] - 0.01, python="2.7")
    outside = against_run(digits_run, far)
    assert not outside.passed and "outside the interval" in outside.verdict
    rows = changed(digits_run, tmp_path / "rows")
    rows.result["data"]["fingerprint"] = "x"
    assert "data is not what it was" in against_run(digits_run, rows).verdict


def test_a_run_is_held_against_what_its_recipe_expects(digits_run: Run) -> None:
    value = digits_run.metrics["accuracy"]
    inside = against_claims("x", [Claim("accuracy", value - 0.1, value, 6)], digits_run)
    assert inside.passed == (round(value, 6) <= value)
    rounded = Claim("accuracy", round(value, 2), round(value, 2), 2)
    assert against_claims("x", [rounded], digits_run).passed
    missed = against_claims("x", [rounded, Claim("macro_f1", 1.5, 2.0, 1)], digits_run)
    assert not missed.passed
    assert "Macro F1 is" in missed.verdict and "not 1.5 to 2.0, as x expects" in missed.verdict
    unknown = against_claims("x", [Claim("rmse", 0.0, 1.0, 1)], digits_run)
    assert not unknown.passed


def test_a_run_reproduces_itself_to_the_last_digit(
    digits_run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again"
    assert main(["reproduce", f"run={digits_run.path}", f"output={again}"]) == 0
    assert "Reproduced, figure for figure" in capfd.readouterr().out
    assert (again / "result.json").is_file()
    assert main(["reproduce", f"run={digits_run.path}", f"output={again}"]) == 2
    assert "holds a finished run" in capfd.readouterr().err
    # A run whose record was changed does not come out as it says.
    forged = changed(digits_run, tmp_path / "forged", 1.5)
    (forged.path / "result.json").write_text(json.dumps(forged.result), "utf-8")
    assert not against_run(Run.load(forged.path), Run.load(again)).passed


def test_a_second_run_takes_a_new_folder(
    digits_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = reproduce._new(digits_run.recipe, None)
    assert first.name == f"reproduce-vit-digits-{digits_run.recipe.digest}"
    first.mkdir(parents=True)
    assert reproduce._new(digits_run.recipe, None) == first  # broken off: it goes on
    (first / "result.json").touch()
    assert reproduce._new(digits_run.recipe, None).name == f"{first.name}-2"


def test_a_run_of_a_script_is_refused(digits_run: Run, tmp_path: Path) -> None:
    from finetune.folder import SCRIPT

    run = changed(digits_run, tmp_path / "run")
    (run.path / "recipe.yaml").write_text(f"{SCRIPT}abc\n", "utf-8")
    with pytest.raises(RecipeError, match="made in a script: run that script again"):
        reproduce.reproduce(run=run.path)
