"""A finished run measured again: the same figures, or why not, and other data."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from finetune import Digits, ImageFolder, Run, evaluation
from finetune.command import main
from finetune.errors import DataError, RecipeError, RunError

DIGITS = load_digits()


@pytest.fixture
def run(digits_run: Run, tmp_path: Path) -> Run:
    """A copy of the run, to be changed."""
    folder = tmp_path / "run"
    shutil.copytree(digits_run.path, folder)
    return Run.load(folder)


def photos(folder: Path, split: str = "", classes: str = "37", count: int = 6) -> Path:
    """Write some digits of each class as class folders."""
    for name in classes:
        inside = folder / split / name
        inside.mkdir(parents=True)
        for index in np.flatnonzero(DIGITS.target == int(name))[:count]:
            pixels = (DIGITS.images[index] * (255 / 16)).round().astype("uint8")
            Image.fromarray(pixels).save(inside / f"{index}.png")
    return folder


def test_the_same_rows_give_the_same_figures(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    before = json.loads((run.path / "result.json").read_text("utf-8"))
    assert main(["evaluate", f"run={run.path}"]) == 0
    said = capfd.readouterr().out
    assert "Every test figure is that of result.json, to the last digit." in said
    assert "Accuracy" in said
    assert "class   n  precision" in said
    assert max(map(len, said.splitlines())) <= 80 + len(str(run.path))
    after = json.loads((run.path / "result.json").read_text("utf-8"))
    first, second = after.pop("looks_at_test")
    assert [first] == before.pop("looks_at_test")
    assert second["command"] == "evaluate"
    assert {key: second[key] for key in ("n", "precision", "batch_size")} == {
        key: first[key] for key in ("n", "precision", "batch_size")
    }
    assert after == before
    assert run.evaluate() == before["test"]
    assert len(run.result["looks_at_test"]) == 3


def test_figures_that_differ_are_told_with_the_reason(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    weights = run.model / "model.safetensors"
    tensors = load_file(weights)
    tensors["head.bias"] += 0.1 * tensors["head.bias"].new_tensor(range(10))
    save_file(tensors, weights, {"format": "pt"})
    measured = evaluation.measure(run)
    assert any(line.startswith("accuracy.value: ") for line in measured.differences)
    assert measured.reasons == ()
    evaluation.show(run, measured)
    said = capfd.readouterr().out
    assert "figures are not those of result.json" in said
    assert "the model's files may have changed" in said


def test_a_change_of_data_or_libraries_is_named(run: Run) -> None:
    run.result["data"]["fingerprint"] = "another"
    run.result["test"]["accuracy"]["value"] = 2.0
    path = run.path / "environment.json"
    surroundings = json.loads(path.read_text("utf-8"))
    surroundings["versions"]["timm"] = "0.1"
    path.write_text(json.dumps(surroundings), "utf-8")
    measured = evaluation.measure(run)
    assert measured.own
    assert measured.differences[0].startswith("accuracy.value: 2.0 in result.json, ")
    assert measured.reasons[0].startswith("the data: ")
    assert measured.reasons[1].startswith("timm: 0.1 then, ")
    assert run.result["looks_at_test"][-1]["fingerprint"] == measured.fingerprint


def test_a_look_that_cannot_be_recorded_is_said(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    (run.path / ".lock").unlink()
    (run.path / ".lock").mkdir()
    assert evaluation.measure(run).differences == ()
    assert "could not be recorded" in " ".join(capfd.readouterr().err.split())


def test_the_same_data_under_another_name_is_the_same(run: Run) -> None:
    measured = evaluation.measure(run, "digits")
    assert measured.own
    assert measured.differences == ()
    assert len(run.result["looks_at_test"]) == 2


def test_of_other_data_with_one_split_all_rows_count(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = photos(tmp_path / "photos")
    looks = list(run.result["looks_at_test"])
    measured = evaluation.measure(run, folder)
    assert not measured.own
    assert measured.rows == "all rows, as there is one split only, of photos: 12 rows"
    truth = {str(path): path.parent.name for path in folder.rglob("*.png")}
    hits = [answer["label"] == truth[answer["input"]] for answer in run.predict(folder)]
    accuracy = measured.scores["accuracy"]
    assert accuracy["value"] == np.mean(hits)
    assert accuracy["n"] == 12
    assert accuracy["low"] < accuracy["high"]
    assert {name: c["n"] for name, c in measured.scores["per_class"].items()} == {
        str(digit): 6 * (digit in (3, 7)) for digit in range(10)
    }
    assert run.result["looks_at_test"] == looks
    evaluation.show(run, measured)
    said = capfd.readouterr().out
    assert "vit-digits on all rows, as there is one split only, of photos: 12 rows" in said
    assert "result.json" not in said


def test_of_other_data_with_a_test_split_that_counts(run: Run, tmp_path: Path) -> None:
    photos(tmp_path / "photos", "train")
    photos(tmp_path / "photos", "test", count=4)
    measured = evaluation.measure(run, str(tmp_path / "photos"))
    assert measured.rows == "the test split of photos: 8 rows"
    assert run.evaluate(ImageFolder(str(tmp_path / "photos")))["accuracy"]["n"] == 8


def test_the_split_of_other_data_can_be_named(run: Run, tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    measured = evaluation.measure(run, str(folder), ["data.test=train[:2]"])
    assert measured.scores["accuracy"]["n"] == 2
    shared = evaluation.measure(run, None, ["data.test=0.5"])
    assert not shared.own
    assert shared.rows == "the test split of scikit-learn digits: 898 rows"


def test_any_object_with_data_is_measured(run: Run) -> None:
    class Shuffled:
        def load(self, columns: tuple[str, ...]) -> Any:
            splits = Digits().load(columns)
            return dataclasses.replace(
                splits, test=splits.test.select(range(20)), fingerprint="mine"
            )

    measured = evaluation.measure(run, Shuffled())
    assert measured.scores["accuracy"]["n"] == 20
    assert not measured.own


def test_the_rows_of_a_recipe_that_names_them_are_found_again(run: Run) -> None:
    recipe = run.recipe.override("data.train=train[:1000]", "data.test=train[1000:1200]")
    splits = recipe.data.load(recipe.task.columns)
    result = run.result | {"data": run.result["data"] | {"fingerprint": splits.fingerprint}}
    named = dataclasses.replace(run, recipe=recipe, result=result)
    assert evaluation.measure(named, "digits").own


def test_numbers_are_what_classes_are_called_before_they_are_positions(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = {"label": [2, 1]}
    result = run.result | {"target": {"classes": ["1", "2", "3"], "indexed": True}}
    named = dataclasses.replace(run, result=result)
    assert evaluation.matched(named, table, None).tolist() == [1, 0]  # type: ignore[arg-type]
    assert capfd.readouterr().err == ""
    result = run.result | {"target": {"classes": ["cat", "dog", "fox"], "indexed": True}}
    other = dataclasses.replace(run, result=result)
    assert evaluation.matched(other, table, None).tolist() == [2, 1]  # type: ignore[arg-type]
    said = " ".join(capfd.readouterr().err.split())
    assert "taken as positions among the classes: 0 is cat." in said


def test_what_was_pushed_is_measured_and_not_written_to(run: Run) -> None:
    for path in run.model.iterdir():
        path.rename(run.path / path.name)
    run.model.rmdir()
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert evaluation.measure(run).differences == ()
    with pytest.raises(RecipeError, match=r"no folder to write to: give output=DIR\.$"):
        run.export("onnx")
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_mistakes(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'train\.epochs=1' cannot be set here: a finished run"):
        evaluation.measure(run, None, ["train.epochs=1"])
    with pytest.raises(DataError, match="did you mean"):
        evaluation.measure(run, str(photos(tmp_path / "photos")) + "z")
    strange = photos(tmp_path / "strange")
    (strange / "7").rename(strange / "seven")
    with pytest.raises(DataError, match="the label 'seven', which is none of the 10 classes"):
        evaluation.measure(run, strange)
    broken = photos(tmp_path / "broken")
    (broken / "3" / "x.png").write_bytes(b"")
    with pytest.raises(DataError, match="empty, 0 bytes"):
        evaluation.measure(run, broken)
    skipped = evaluation.measure(run, str(broken), ["data.on_error=skip"])
    assert skipped.scores["accuracy"]["n"] == 12
    moved = dataclasses.replace(run, recipe=run.recipe.override(f"data={tmp_path}/gone"))
    with pytest.raises(DataError, match="If the data of the run has moved: data=PATH"):
        evaluation.measure(moved)
    with pytest.raises(RunError, match=r"no run folder: there is no recipe\.yaml in it\.$"):
        Run.load(tmp_path)
    with pytest.raises(RunError, match=r"in it; did you mean .*/run\?$"):
        Run.load(tmp_path / "rum")
