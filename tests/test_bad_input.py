"""What bad input gets on the command line: a clear message, exit code 2, nothing overwritten."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.command import main

MODEL = ("backbone=test_vit", "backbone.weights=none", "backbone.img_size=32")
BASE = ("recipe=convnext-imagefolder", *MODEL, "train.batch_size=4", "output=run")


def draw(path: Path, number: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")


def table(path: Path, labels: list[str], header: str = "image,label") -> None:
    rows = [f"photos/cat/{i % 8}.png,{label}" for i, label in enumerate(labels)]
    path.write_text("\n".join([header, *rows]) + "\n")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, with data good and bad."""
    monkeypatch.chdir(tmp_path)
    for number in range(8):
        for folder in (
            "photos/cat", "photos/dog", "single/cat", "links/cat", "broken/cat", "broken/dog",
            "absent/train/cat", "absent/train/dog", "absent/val/cat", "absent/val/emu",
        ):  # fmt: skip
            draw(tmp_path / folder / f"{number}.png", number)
    (tmp_path / "empty").mkdir()
    (tmp_path / "links/dog").mkdir()
    (tmp_path / "links/dog/0.png").symlink_to(tmp_path / "photos/dog/0.png")
    (tmp_path / "broken/cat/2.png").write_bytes(b"")
    (tmp_path / "broken/dog/[red]\n<b>.png").write_bytes(b"no image")
    table(tmp_path / "good.csv", ["1.5", "2"] * 8)
    table(tmp_path / "word.csv", ["1.5", "2"] * 8 + ["tall"])
    table(tmp_path / "none.csv", ["cat", "dog"] * 8 + [""])
    table(tmp_path / "columns.csv", ["cat", "dog"] * 8, header="photo_of,kind")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    return tmp_path


CASES: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown recipe": (("recipe=vit-digit",), r"'vit-digit' .* Did you mean 'vit-digits'\?"),
    "unknown key": (("train.epoch=1",), r"'train.epoch'.* [Dd]id you mean '?train.epochs"),
    "unknown kind": (("method=lara",), r"method='lara'.* Did you mean 'lora'\?"),
    "unknown choice": (("train.schedule=cosin",), r"schedule.*'cosin'.*'cosine'"),
    "wrong type": (("train.epochs=many",), r"train.epochs.*'many'.*whole number"),
    "out of range": (("train.warmup=2",), r"train.warmup.*2"),
    "unknown backbone": (("backbone=tset_vit",), r"'tset_vit'.* Did you mean 'test_vit'\?"),
    "backbone path": (("backbone=./nowhere",), r"backbone='./nowhere' does not exist\."),
    "weights path": (("backbone.weights=./no.safetensors",), r"there is no file no\.safetens"),
    "unknown optimizer": (
        ("data=photos", "train.optimizer=adamv"), r"'adamv' is unknown\. Did you mean",
    ),
    "unknown metric": (
        ("data=photos", 'metrics=["acuracy"]'), r"'acuracy'.*Did you mean 'accuracy'",
    ),
    "metric of another task": (
        ("data=photos", 'metrics=["rmse"]'), r"no metric 'rmse' for this task",
    ),
    "missing path": (("data=./photo",), r"no such path ./photo; did you mean ./photos\?"),
    "empty folder": (("data=./empty",), r"holds no images in class folders"),
    "one class": (("data=./single",), r"one class only, 'cat'"),
    "class absent from train": (("data=./absent",), r"'emu'.*train"),
    "labels None": (("data=none.csv",), r"no label in column 'label': 'train' row 16"),
    "no number": (
        ("data=word.csv", "task=image-regression", "train.label_smoothing=0"),
        r"label 'tall', which is not a number",
    ),
    "image column missing": (("data=columns.csv",), r"'?photo_of'?.*"),
    "column mistyped": (("data=good.csv", "data.image=imgae"), r"imgae.*[Dd]id you mean 'image'"),
    "image size": (
        ("data=photos", "backbone.img_size=40"), r"img_size=40 is no multiple of .* 32 or 48",
    ),
    "batch too large": (
        ("data=photos", "train.batch_size=64"), r"batch_size=64 is more than the \d+ rows",
    ),
    "link out": (("data=./links",), r"[Ll]inks that lead out .*'?dog/0.png"),
    "not an image": (
        ("data=./broken",), r"2 images cannot be read:\n.*(2\.png.*\n.*\[red\]\\n<b>|\n.*2\.png)",
    ),
    "output below a file": (("data=photos", "output=good.csv/run"), r"good.csv/run cannot be writ"),
    "output of others": (("data=photos", "output=mine"), r"mine is not empty .*'notes.txt'"),
    "fp16 on a CPU": (("data=photos", "train.precision=fp16"), r"fp16 needs a GPU"),
    "no boolean": (("train.gradient_checkpointing=maybe",), r"gradient_checkpoint.*'maybe'"),
}  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("case", CASES)
def test_a_clear_message(case: str, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = CASES[case]
    keys = {argument.partition("=")[0] for argument in arguments}
    base = [argument for argument in BASE if argument.partition("=")[0] not in keys]
    before = contents(world)
    assert main(["finetune", *base, *arguments]) == 2
    told = capsys.readouterr()
    assert re.search(message, told.err), told.err
    assert told.err.count("error:") == 1
    assert "Traceback" not in told.err
    after = {path: content for path, content in contents(world).items() if path in before}
    assert after == before
    left = {path.relative_to(world).parts[0] for path in map(Path, contents(world).keys() - before)}
    assert left <= {"run"}


def test_a_run_that_failed_early_can_be_mended_in_place(world: Path) -> None:
    assert main(["finetune", *BASE, "data=./photo"]) == 2
    first = (world / "run/recipe.yaml").read_text()
    assert "./photo\n" in first
    assert main(["finetune", *BASE, "data=./empty"]) == 2
    assert (world / "run/recipe.yaml").read_text() != first


LABELS = ["../up", "<script>alert(1)</script>", "[/red]", "two\nlines", "a|b"]
NAMES = ["<img src=x>.png", "[red].png", "two\nlines.png", "..png", "a b.png"]


def test_hostile_names_are_inert(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = []
    for number in range(40):
        name = f"{number}{NAMES[number % 5]}"
        draw(world / "hostile" / name, number)
        rows.append({"image": f"hostile/{name}", "label": LABELS[number % 5]})
    (world / "hostile.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = {p.name for p in world.iterdir()}
    done = main(["finetune", *BASE, "data=hostile.jsonl", "train.epochs=1"])
    told = capsys.readouterr()
    assert done == 0, told.err
    assert {p.name for p in world.iterdir()} == before | {"run"}
    assert not (world.parent / "up").exists()
    config = json.loads((world / "run/model/config.json").read_text())
    assert sorted(config["label_names"]) == sorted(LABELS)
    result = json.loads((world / "run/result.json").read_text())
    assert result["data"]["classes"] == config["label_names"]
    page = (world / "run/report.html").read_text()
    assert "<script" not in page.lower()
    assert "<img src=x" not in page
    card = (world / "run/README.md").read_text()
    assert "<script>alert" not in card
    assert "two\nlines" not in card
    assert main(["finetune", *BASE, "data=hostile.jsonl", "train.epochs=1"]) == 0
