"""The features of every row as a parquet file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_VIT

from finetune import DataError, Recipe, api, build
from finetune.command import main
from finetune.recipe import load
from recipes.vit_digits import recipe as vit_digits

TINY = vit_digits.override(*TINY_VIT, "train.precision=no", "data.shots=10")


def rows_of(path: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    table = parquet.read_table(path)
    assert str(table.schema.field("features").type.value_type) == "float"
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def test_every_row_of_every_split_has_its_features(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "features.parquet"
    api.features(TINY, output)
    rows = rows_of(output)
    job = build.job(TINY)
    assert [(row["split"], row["row"]) for row in rows] == [
        (split, row) for split in job.samples for row in range(len(job.samples[split]))
    ]
    test = [row for row in rows if row["split"] == "test"]
    labels = [str(label) for label in job.splits.test["label"]]
    assert [row["label"] for row in test] == labels
    source = job.samples["test"].source
    job.network.module.eval()
    with torch.inference_mode():
        inputs = source.finish(source.read(np.arange(len(test)), 0))
        expected = job.network.features(inputs).numpy()
    assert np.allclose([row["features"] for row in test], expected, atol=1e-5)
    assert f"Wrote 48 features of each of {len(rows)} rows" in capfd.readouterr().err


def test_the_second_time_they_are_read_from_the_cache(tmp_path: Path) -> None:
    cache = Path(os.environ["FINETUNE_CACHE"]) / "features"

    def kept() -> dict[Path, int]:
        return {path: path.stat().st_ino for path in cache.rglob("*") if path.stat().st_size}

    api.features(TINY, tmp_path / "one.parquet")
    before = kept()
    assert len(before) >= 3
    api.features(TINY, tmp_path / "two.parquet")
    assert kept() == before
    assert rows_of(tmp_path / "one.parquet") == rows_of(tmp_path / "two.parquet")


def folder(root: Path, count: int = 6) -> Recipe:
    from PIL import Image

    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (9, 9, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return TINY.override("data.shots=none").override(
        f"data={root}", "data.on_error=skip", "train.batch_size=2"
    )


def test_rows_that_cannot_be_read_are_missing(tmp_path: Path) -> None:
    recipe = folder(tmp_path / "photos")
    broken = tmp_path / "photos" / "a" / "0.png"
    broken.write_bytes(b"broken")
    splits = recipe.data.load(recipe.task.columns)
    paths = {s: [cell["path"] for cell in splits[s]["image"]] for s in ("train", "validation")}
    paths["test"] = [cell["path"] for cell in splits.test["image"]]
    output = tmp_path / "f.parquet"
    arguments = [f"data={tmp_path / 'photos'}", "data.on_error=skip", "train.batch_size=2"]
    assert main(["features", "recipe=vit-digits", *TINY_VIT, *arguments, f"output={output}"]) == 0
    found = [(row["split"], row["row"]) for row in rows_of(output)]
    expected = [(s, n) for s in paths for n, p in enumerate(paths[s]) if p != str(broken)]
    assert found == expected
    assert {row["label"] for row in rows_of(output)} == {"a", "b"}


def test_an_output_that_is_there_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'\.csv' is none of \.parquet"):
        api.features(TINY, tmp_path / "features.csv")
    (tmp_path / "f.parquet").write_text("mine")
    with pytest.raises(DataError, match="is there already and is not overwritten"):
        api.features(TINY, tmp_path / "f.parquet")
    assert (tmp_path / "f.parquet").read_text() == "mine"


def test_several_labels_and_numbers(tmp_path: Path) -> None:
    folder(tmp_path / "photos")
    images = sorted((tmp_path / "photos").rglob("*.png"))
    lines = ["image,label,value"]
    for number, image in enumerate(images):
        tags = ("x", "y", "x|y", "")[number % 4]
        lines.append(f"{image.relative_to(tmp_path)},{tags},{number / 2}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    one = TINY.override("data.shots=none").override(
        f"data={tmp_path}/t.csv", "data.label=value", "task=image-regression", "train.batch_size=2"
    )
    api.features(one, tmp_path / "numbers.parquet")
    labels = {row["label"] for row in rows_of(tmp_path / "numbers.parquet")}
    assert labels == {number / 2 for number in range(12)}


def listing(root: Path, labels: list[str]) -> Path:
    """Return a table of the photos of `folder`, in the order of their names."""
    images = sorted((root / "photos").rglob("*.png"))
    cells = zip(images, labels, strict=True)
    lines = ["image,label", *(f"{image.relative_to(root)},{label}" for image, label in cells)]
    path = root / "t.csv"
    path.write_text("\n".join(lines))
    return path


def test_rows_without_a_label_and_unreadable_ones_are_numbered_together(tmp_path: Path) -> None:
    recipe = folder(tmp_path / "photos")
    path = listing(tmp_path, ["", *("xy" * 6)[1:]])
    (tmp_path / "photos" / "a" / "2.png").write_bytes(b"broken")
    parts = ["data.train=train[:6]", "data.validation=train[6:9]", "data.test=train[9:]"]
    recipe = recipe.override(f"data={path}", "data.on_error=skip", *parts)
    assert build.job(recipe).skipped == {"train": 2}
    api.features(recipe, tmp_path / "f.parquet")
    found = [(row["split"], row["row"]) for row in rows_of(tmp_path / "f.parquet")]
    assert found[:4] == [("train", number) for number in (1, 3, 4, 5)]
    assert found[4:] == [(split, n) for split in ("validation", "test") for n in range(3)]


def test_features_need_no_labels(tmp_path: Path) -> None:
    recipe = folder(tmp_path / "photos")
    path = listing(tmp_path, [""] * 12)
    content = [line.rpartition(",")[0] for line in path.read_text().splitlines()]
    path.write_text("\n".join(content))
    api.features(recipe.override(f"data={path}"), tmp_path / "f.parquet")
    rows = rows_of(tmp_path / "f.parquet")
    assert len(rows) == 12
    assert set(rows[0]) == {"split", "row", "features"}


def test_texts_become_sentence_embeddings(tmp_path: Path) -> None:
    import tiny_texts
    from transformers import AutoModel, AutoTokenizer

    folder = tiny_texts.folder(tmp_path / "model", "bert")
    texts = [" ".join(tiny_texts.SENTENCES[0].split()[: 1 + n % 9]) + f" {n}" for n in range(30)]
    rows = [{"text": text, "label": "ab"[n % 2]} for n, text in enumerate(texts)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    output = tmp_path / "features.parquet"
    words = [f"backbone={folder}", f"data={tmp_path / 'rows.jsonl'}", "train.precision=no"]
    assert main(["features", "recipe=bert-sst2", *words, "data.text=text", f"output={output}"]) == 0
    found = rows_of(output)
    assert len(found) == 30
    splits = build.job(load("bert-sst2").override(*words, "train.batch_size=2")).splits
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    given = tokenizer(list(splits.train["text"]), padding=True, return_tensors="pt")
    with torch.inference_mode():
        states, mask = model(**given).last_hidden_state, given["attention_mask"][..., None]
        mean = (states * mask).sum(1) / mask.sum(1)
    trained = [row["features"] for row in found if row["split"] == "train"]
    assert np.allclose(trained, mean.numpy(), atol=1e-5)
