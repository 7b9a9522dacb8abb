"""Figures of parts of the rows."""

from __future__ import annotations

import csv
import html
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_VIT
from test_evaluate import photos

from finetune import Run, evaluation, finetune, slices
from finetune.command import main
from finetune.data import TableData
from finetune.errors import DataError, RecipeError
from finetune.texts.language import Continuation
from recipes.vit_digits import recipe as digits


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of digits taken by two cameras."""
    place = tmp_path_factory.mktemp("table")
    folder = photos(place / "photos", count=30)
    path = place / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "camera", "brightness"])
        for number, image in enumerate(sorted(folder.rglob("*.png"))):
            camera = ["old", "new"][number % 2]
            writer.writerow([image.relative_to(place), image.parent.name, camera, number / 7])
    return path


def test_the_worst_slice_is_named(
    digits_run: Run, table: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [f"run={digits_run.path}", f"data={table}", "slices=camera,brightness"]
    assert main(["evaluate", *words]) == 0
    said = " ".join(capfd.readouterr().out.split())
    assert "By camera" in said
    measured = evaluation.measure(digits_run, table, slices=["camera", "brightness"])
    cameras, bins = measured.slices["camera"], measured.slices["brightness"]
    lowest = min(figure["value"] for part in (cameras, bins) for figure in part.values())
    column, value, figure = slices.worst(measured.slices, "accuracy")
    assert figure["value"] == lowest
    assert f"Worst slice: {column} = {value} with " in said
    assert [figure["n"] for figure in cameras.values()] == [30, 30]
    assert [figure["n"] for figure in bins.values()] == [15] * 4
    for part in (cameras, bins):
        mean = np.mean([figure["value"] for figure in part.values()])
        assert mean == pytest.approx(measured.scores["accuracy"]["value"])


def test_a_column_that_is_not_there_is_told(
    digits_run: Run, table: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", f"run={digits_run.path}", f"data={table}", "slices=camra"]) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "slices=camra: there is no such column. Did you mean 'camera'?" in said
    assert main(["evaluate", f"run={digits_run.path}", f"data={table}", "slices=image"]) == 2
    assert "slices=image: its cells are no words or numbers" in capfd.readouterr().err


def test_a_slice_that_differs_by_chance_is_said_to() -> None:
    found = {"place": {"a": {"value": 0.8, "low": 0.6, "high": 0.95, "n": 20}}}
    overall = {"value": 0.9}
    told = slices.sentence(found, "accuracy", overall)
    assert told is not None and told.endswith("its interval holds the figure of all rows.")
    # Alone it would be beyond chance; the worst of 25 is not.
    weak = {"value": 0.7, "low": 0.48, "high": 0.86, "n": 20}
    assert "chance" not in (slices.sentence({"place": {"a": weak}}, "accuracy", overall) or "")
    fair = {f"b{n}": {"value": 0.91, "low": 0.7, "high": 0.97, "n": 20} for n in range(24)}
    told = slices.sentence({"place": {"a": weak, **fair}}, "accuracy", overall)
    assert told is not None and "widened as it is the worst of 25, holds the figure" in told
    small = {"place": {"a": {"value": 0.1, "low": 0.0, "high": 0.9, "n": 3}}}
    assert slices.sentence(small, "accuracy", overall) is None


def test_a_hostile_value_is_inert_in_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    figure = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 20}
    slices.show({"a\x1b[2J": {"[red]\x1b[31mold\u202e" + "x" * 99: figure}}, "accuracy", figure)
    said = capfd.readouterr().out
    assert "\x1b" not in said and "\u202e" not in said
    assert "Worst slice: a\\x1b[2J = [red]\\x1b[31mold\\u202ex" in " ".join(said.split())


def test_rare_values_share_a_slice_and_none_is_missing() -> None:
    cells = [*(f"value {n}" for n in range(40) for _ in range(2 if n < 30 else 1)), None]
    parts = slices._parts(cells)
    assert len(parts) == slices.MOST + 1
    assert len(parts["other"]) == 11
    numbers = [*np.linspace(0, 1, 100), None]
    assert {name: len(rows) for name, rows in slices._parts(numbers).items()} == {
        "0 to 0.25": 25,
        "0.25 to 0.5": 25,
        "0.5 to 0.75": 25,
        "0.75 to 1": 25,
        "missing": 1,
    }


def test_report_and_card_of_a_run_name_the_worst_slice(table: Path, tmp_path: Path) -> None:
    data = TableData(path=str(table), test=0.5)
    recipe = digits.override(
        *TINY_VIT, "train.epochs=1", "train.batch_size=8", "slices=camera", data=data
    )
    run = finetune(recipe, tmp_path / "run")
    found = run.result["slices"]
    assert set(found["camera"]) == {"old", "new"}
    told = slices.sentence(found, "accuracy", run.result["test"]["accuracy"])
    assert told is not None
    report = html.unescape((run.path / "report.html").read_text("utf-8"))
    assert "By camera" in report and told in report
    card = (run.path / "README.md").read_text("utf-8")
    assert "Worst slice" in card and told.split(": ")[1].split(" with ")[0] in card
    with pytest.raises(DataError, match="slices=camra: there is no such column"):
        finetune(recipe.override("slices=camra"), tmp_path / "wrong")


def test_packed_texts_cannot_be_told_apart() -> None:
    with pytest.raises(RecipeError, match="task.packed=false"):
        slices.cells([], ["place"], Continuation(packed=True))
