"""Predictions of a finished run: what is read, what is told of each input, and what is written."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from finetune import Run, answers, predictions
from finetune.command import main
from finetune.data import stream, writing
from finetune.errors import DataError, FinetuneError, RecipeError

DIGITS = load_digits().images


def picture(index: int) -> Image.Image:
    return Image.fromarray((DIGITS[index] * (255 / 16)).round().astype("uint8"))


def encoded(index: int) -> bytes:
    content = io.BytesIO()
    picture(index).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three digits in natural order, a broken one, and what is not meant."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, index in (("2.png", 0), ("10.png", 1), ("more/[red]\n1.PNG", 2)):
        (folder / name).write_bytes(encoded(index))
    (folder / "11.png").write_bytes(b"no image")
    (folder / "notes.md").write_text("x")
    (folder / ".hidden.png").write_bytes(encoded(3))
    return folder


NAMES = ["2.png", "10.png", "11.png", "more/[red]\n1.PNG"]


def test_a_folder_gives_one_row_for_each_image_in_natural_order(
    digits_run: Run, photos: Path
) -> None:
    rows = digits_run.predict(photos, top_k=3)
    assert [Path(row["input"]).relative_to(photos).as_posix() for row in rows] == NAMES
    assert [row["error"] is None for row in rows] == [True, True, False, True]
    assert "not an image" in rows[2]["error"]
    assert set(rows[0]) == {"input", "error", "label", "probability", "top"}
    assert rows[0]["top"][0] == {"label": rows[0]["label"], "probability": rows[0]["probability"]}
    assert len(rows[0]["top"]) == 3
    likely = [item["probability"] for item in rows[0]["top"]]
    assert likely == sorted(likely, reverse=True)


def test_answers_are_those_of_timm_alone_at_the_runs_temperature(
    digits_run: Run, photos: Path
) -> None:
    import timm
    import torch

    model = timm.create_model(f"local-dir:{digits_run.model}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    with Image.open(photos / "2.png") as image, torch.inference_mode():
        logits = model(transform(image.convert("RGB"))[None])[0]
    expected = (logits / digits_run.result["calibration"]["temperature"]).softmax(0)
    [row] = digits_run.predict([photos / "2.png"], top_k=10)
    assert int(row["label"]) == int(expected.argmax())
    given = {item["label"]: item["probability"] for item in row["top"]}
    for place, value in enumerate(expected.tolist()):
        assert given[str(place)] == pytest.approx(value, abs=1e-6)


def test_paths_bytes_and_pillow_images_in_memory(digits_run: Run, photos: Path) -> None:
    given = [
        str(photos / "2.png"),
        encoded(0),
        picture(0),
        {"path": None, "bytes": encoded(0)},
        photos / "not there.png",
        b"",
    ]
    rows = digits_run.predict(given)
    same = {(row["label"], row["probability"]) for row in rows[:4]}
    assert len(same) == 1
    assert [row["input"] for row in rows[1:4]] == ["input 1", "input 2", "input 3"]
    assert [row["error"] for row in rows[4:]] == ["No such file or directory", "empty, 0 bytes"]
    with pytest.raises(RecipeError, match="input 0 is a int: give paths, the bytes"):
        digits_run.predict([3])
    assert digits_run.predict([]) == []


def read_back(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    if path.suffix == ".parquet":
        from pyarrow import parquet

        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
        return rows
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["probability"] = float(row["probability"]) if row["probability"] else None
        row["top"] = json.loads(row["top"]) if row["top"] else None
    return [{name: cell or None for name, cell in row.items()} for row in rows]


@pytest.mark.parametrize("suffix", writing.SUFFIXES)
def test_a_file_holds_what_python_gets(
    digits_run: Run, photos: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    output = photos.parent / f"answers{suffix}"
    arguments = [f"run={digits_run.path}", f"inputs={photos}", f"output={output}", "top_k=2"]
    assert main(["predict", *arguments]) == 0
    rows = digits_run.predict(photos, top_k=2)
    assert read_back(output) == [{**dict.fromkeys(rows[0]), **row} for row in rows]
    said = capfd.readouterr()
    assert said.out == ""
    assert "Wrote 4 predictions" in said.err
    assert "1 inputs could not be read" in said.err
    assert "no images by their suffix were ignored" in said.err
    assert [path.name for path in photos.parent.iterdir() if path.is_file()] == [output.name]
    before = output.read_bytes()
    assert main(["predict", *arguments]) == 2
    assert "is there already and is not overwritten" in capfd.readouterr().err
    assert output.read_bytes() == before


def test_without_output_the_first_answers_are_shown(
    digits_run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for index in range(23):
        (tmp_path / f"{index}.png").write_bytes(encoded(index) if index != 1 else b"x")
    (tmp_path / "0[red].png").write_bytes(encoded(0))
    assert main(["predict", f"run={digits_run.path}", f"inputs={tmp_path}/*.png"]) == 0
    said = capfd.readouterr().out
    assert "0[red].png" in said
    assert "cannot be read:" in said
    assert "18.png" in said
    assert "19.png" not in said
    assert "and 4 more: output=FILE.csv" in said
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("result.json", r"The run in .* is damaged: its recipe.yaml or result.json cannot be read"),
        ("model/model.safetensors", "timm cannot build '.*': .*header"),
    ],
)
def test_a_damaged_run_is_called_so(digits_run: Run, tmp_path: Path, name: str, said: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(digits_run.path, folder)
    (folder / name).write_bytes(b"{\xff")
    with pytest.raises(FinetuneError, match=said):
        Run.load(folder).predict([encoded(0)])


def test_paths_from_the_root_and_others_in_one_list(
    digits_run: Run, photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    listing = photos / "list.txt"
    listing.write_text(f"2.png\n{photos / '10.png'}\n", "utf-8")
    assert main(["predict", f"run={digits_run.path}", f"inputs={listing}"]) == 0
    assert capfd.readouterr().out.count(".png") == 2


@pytest.mark.parametrize("suffix", writing.SUFFIXES)
def test_a_name_that_is_no_utf8_is_written_with_escapes(
    digits_run: Run, tmp_path: Path, suffix: str
) -> None:
    folder, output = tmp_path / "photos", tmp_path / f"out{suffix}"
    folder.mkdir()
    (folder / os.fsdecode(b"\xff.png")).write_bytes(encoded(0))
    assert predictions.write(digits_run, predictions.rows_of(digits_run, folder), output) == (1, 0)
    assert read_back(output)[0]["input"] == f"{folder}/\\udcff.png"


def test_paths_come_through_a_pipe(
    digits_run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = f"{photos / '10.png'}\n\n{photos / '11.png'}\n".encode()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines)))
    rows = digits_run.predict("-")
    assert [Path(row["input"]).name for row in rows] == ["10.png", "11.png"]
    assert [row["error"] is None for row in rows] == [True, False]


def table(folder: Path, suffix: str) -> Path:
    """Write a table of three images, the second of which is not there, and the last empty."""
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(encoded(0))
    (folder / "b, c.png").write_bytes(encoded(1))
    names = ["a.png", "gone.png", "b, c.png", None]
    path = folder / f"table{suffix}"
    if suffix == ".parquet":
        from datasets import Dataset

        Dataset.from_dict({"id": list("abcd"), "file_name": names}).to_parquet(path)
    elif suffix in (".jsonl", ".ndjson"):
        lines = [json.dumps({"id": i, "file_name": name}) for i, name in enumerate(names)]
        path.write_text("\ufeff" + "\n".join(lines), "utf-8")
    else:
        with path.open("w", encoding="utf-16", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",")
            writer.writerows([["id", "file_name"], *([i, name] for i, name in enumerate(names))])
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"])
def test_a_table_gives_one_row_for_each_of_its_own(
    digits_run: Run, tmp_path: Path, suffix: str
) -> None:
    rows = digits_run.predict(table(tmp_path / "there", suffix))
    assert [row["input"] for row in rows] == ["a.png", "gone.png", "b, c.png", "row 3"]
    reasons = [None, "No such file or directory", None, "the cell has neither a path nor bytes"]
    assert [row["error"] for row in rows] == reasons


def test_images_in_a_parquet_table(digits_run: Run, tmp_path: Path) -> None:
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    path = tmp_path / "bytes.parquet"
    cells = [{"path": None, "bytes": encoded(0)}, {"path": "b.png", "bytes": encoded(1)}]
    features = Features(picture=ImageFeature(decode=False), image=Value("string"))
    content = {"picture": cells, "image": ["x", "y"]}
    Dataset.from_dict(content, features=features).to_parquet(path)
    rows = digits_run.predict(path)
    assert [row["input"] for row in rows] == ["row 0", "b.png"]
    assert {row["error"] for row in rows} == {None}
    with pytest.raises(DataError, match=r"image=id: bytes\.parquet has no column 'id'"):
        predictions.rows_of(digits_run, path, {"image": "id"})


def test_a_text_file_lists_paths_beside_it(digits_run: Run, photos: Path) -> None:
    listing = photos / "list.txt"
    listing.write_text("10.png\n\nmore/none.png\r\n2.png\n", "utf-8")
    rows = digits_run.predict(listing)
    assert [row["input"] for row in rows] == ["10.png", "more/none.png", "2.png"]
    assert [row["error"] is None for row in rows] == [True, False, True]


def test_a_pattern_and_a_single_image(digits_run: Run, photos: Path) -> None:
    rows = digits_run.predict(str(photos / "**" / "*.PNG"))
    assert [Path(row["input"]).name for row in rows] == ["[red]\n1.PNG"]
    strange = photos / "[1]*.dat"  # a file of this name comes before what the pattern means
    strange.write_bytes(encoded(0))
    assert [row["error"] for row in digits_run.predict(strange)] == [None]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ("photoz", r"There is no such path .*photoz; did you mean .*photos\? Give an image"),
        ("photos/*.gif", "No file matches inputs="),
        ("empty", r"The folder .*empty holds no images\. It holds a table: inputs=.*t\.csv"),
        ("empty/t.csv", "t.csv has no rows"),
        ("bad.csv", r"bad\.csv, line 3, cannot be read"),
        ("bad.jsonl", r"bad\.jsonl, line 2, is not JSON"),
        ("list.jsonl", r"list\.jsonl, line 1, is no JSON object"),
        ("bad.parquet", r"bad\.parquet cannot be read as parquet"),
        ("latin.csv", r"latin\.csv is not utf-8 \(line 2\): save it as UTF-8\.$"),
        ("plain.csv", r"Which column of plain\.csv holds the images\? The columns are 'x', 'y'"),
        ("none.txt", r"none\.txt is empty: give one path on each line"),
    ],
)
def test_inputs_that_lead_to_nothing(photos: Path, inputs: str, said: str) -> None:
    here = photos.parent
    (here / "empty").mkdir()
    (here / "empty" / "t.csv").write_text("image\n")
    (here / "bad.csv").write_text('image,x\na.png,1\n"b.png"c,2\n')
    (here / "bad.jsonl").write_text('{"image": "a.png"}\n{"image"\n')
    (here / "list.jsonl").write_text('["a.png"]\n')
    (here / "bad.parquet").write_bytes(b"PAR1")
    (here / "latin.csv").write_bytes("image\ncaf\u00e9.png\n".encode("latin-1"))
    (here / "plain.csv").write_text("x,y\n1,2\n")
    (here / "none.txt").write_text("\n")
    with pytest.raises(DataError, match=said):
        stream.images(str(here / inputs))


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("a.cvs", r"'\.cvs' is none of \.csv, \.jsonl, \.parquet\. Did you mean '\.csv'\?"),
        ("a", r"'none' is none of"),
        ("no/a.csv", "there is no folder .*no. Make it first"),
    ],
)
def test_an_output_that_cannot_be(tmp_path: Path, output: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        writing.check(tmp_path / output)


@pytest.mark.parametrize("top_k", ["0", "two", "-1"])
def test_top_k_is_a_count(digits_run: Run, photos: Path, top_k: str) -> None:
    with pytest.raises(RecipeError, match=rf"top_k='{top_k}' is not allowed; give a whole number"):
        predictions.run_command(digits_run, photos, None, top_k, None)
    with pytest.raises(RecipeError, match="top_k=0 is not allowed"):
        digits_run.predict(photos, top_k=0)


def test_rows_are_read_as_they_are_needed(digits_run: Run) -> None:
    taken = 0

    def read() -> Iterator[stream.Row]:
        nonlocal taken
        while True:
            taken += 1
            yield stream.Row(f"{taken}", {"image": {"path": None, "bytes": encoded(0)}})

    told = predictions.answers(digits_run, stream.Stream(10**9, read))
    assert [next(told)["input"] for _ in range(40)] == [str(n) for n in range(1, 41)]
    assert taken == 2 * digits_run.recipe.train.eval_batch_size


@pytest.mark.parametrize("suffix", writing.SUFFIXES)
def test_a_full_disk_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from finetune.data.writing import Writer\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "from finetune.errors import DataError\n"
        "import random\n"
        "try:\n"
        "    with Writer(Path(sys.argv[1]), {'a': 'x', 'b': 0.5}) as file:\n"
        "        for _ in range(100):\n"
        "            file.write([{'a': str(random.random()), 'b': random.random()}] * 1000)\n"
        "            file.write({'a': str(random.random()), 'b': random.random()}\n"
        "                       for _ in range(1000))\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )
    output = tmp_path / f"a{suffix}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(output)], capture_output=True, text=True, check=True
    )
    assert "could not be written" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_no_file(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        writing.Writer(tmp_path / "a.csv", {"a": "x"}) as file,
    ):
        file.write([{"a": "y"}])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_is_told_of_classes_labels_and_numbers() -> None:
    given = np.array([[0.1, 0.6, 0.3], [0.4, 0.2, 0.4]], np.float32)
    told = answers.classes(("a", "b", "c"), given, 2)
    assert told[0] == {
        "label": "b",
        "probability": 0.6,
        "top": [{"label": "b", "probability": 0.6}, {"label": "c", "probability": 0.3}],
    }
    assert told[1]["label"] == "a"
    several = answers.label_sets(("a", "b", "c"), np.array([[0.5, 0.9, 0.49], [0, 0.1, 0]]), 1)
    assert [item["label"] for item in several[0]["labels"]] == ["b", "a"]
    assert several[0]["top"] == [{"label": "b", "probability": 0.9}]
    assert several[1] == {"labels": [], "top": [{"label": "b", "probability": 0.1}]}
    assert answers.numbers(np.array([[1.5]], np.float32)) == [{"value": 1.5}]


@pytest.mark.parametrize("suffix", writing.SUFFIXES)
def test_several_labels_in_a_file(
    digits_run: Run, photos: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    classes = digits_run.result["target"]["classes"]
    several = dataclasses.replace(
        digits_run,
        recipe=digits_run.recipe.override(task="multi-label-image-classification"),
        result=digits_run.result | {"target": {"classes": classes}},
    )
    rows = predictions.rows_of(several, photos)
    output = photos.parent / f"labels{suffix}"
    assert predictions.write(several, rows, output, 1) == (4, 1)
    read = output.read_text("utf-8") if suffix != ".parquet" else str(read_back(output))
    assert "labels" in read
    assert "top" in read
    predictions.show(several, rows, 2)
    assert "labels" in capfd.readouterr().out


def test_a_value_that_is_not_finite_is_an_error(digits_run: Run, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    run = dataclasses.replace(digits_run, path=tmp_path / "run")
    shutil.copytree(digits_run.path, run.path)
    weights = run.model / "model.safetensors"
    tensors = load_file(weights)
    tensors["head.bias"][3] = torch.nan
    save_file(tensors, weights, {"format": "pt"})
    [row] = run.predict([encoded(0)])
    assert row == {"input": "input 0", "error": "the model's output is not finite"}
