"""What a run leaves, for numbers and for label sets: the saved model speaks their language."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

from finetune import ImageRegression, MultiLabelImageClassification, Recipe, TableData, Timm, Train
from finetune import finetune as start
from finetune.methods import FeatureExtraction


def write(folder: Path, rows: int = 40) -> Path:
    """Write images of some brightness, and a table that tells it as a number and in words."""
    random = np.random.default_rng(0)
    lines = []
    for number in range(rows):
        level = int(random.integers(40, 216))
        pixels = random.integers(level - 40, level + 40, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        words = ["bright"] * (level > 128) + ["even"] * (level % 2 == 0)
        row = {"image": f"{number}.png", "level": 1000 + 10 * level, "words": words}
        lines.append(json.dumps(row) + "\n")
    (folder / "rows.jsonl").write_text("".join(lines))
    return folder / "rows.jsonl"


def recipe(table: Path, label: str, task: object) -> Recipe:
    return Recipe(
        name="tiny",
        backbone=Timm(name="test_vit", weights="none", img_size=32),
        data=TableData(str(table), label=label),
        task=task,
        method=FeatureExtraction(),
        train=Train(batch_size=8),
    )


def test_numbers(tmp_path: Path) -> None:
    run = start(recipe(write(tmp_path), "level", ImageRegression()), tmp_path / "run")
    assert run.result["round_trip"]["largest_difference"].keys() == {"timm", "transformers"}
    config = json.loads((run.model / "config.json").read_text())
    assert config["problem_type"] == "regression"
    assert "label_names" not in config
    classify = pipeline("image-classification", model=str(run.model), device="cpu")
    photo = str(tmp_path / "0.png")
    [told] = classify(photo)
    assert run.predict([photo])[0]["value"] == pytest.approx(told["score"], rel=1e-5)
    # In the unit of the data: brighter by 1 is 10 more.
    assert 1400 < told["score"] < 3200
    assert run.metrics["r2"] > 0.5
    assert run.evaluate()["rmse"]["value"] == pytest.approx(run.metrics["rmse"], rel=1e-5)


def test_label_sets(tmp_path: Path) -> None:
    task = MultiLabelImageClassification()
    run = start(recipe(write(tmp_path), "words", task), tmp_path / "run")
    config = json.loads((run.model / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    classify = pipeline("image-classification", model=str(run.model), device="cpu")
    photo = str(tmp_path / "0.png")
    told = {answer["label"]: answer["score"] for answer in classify(photo)}
    ours = {top["label"]: top["probability"] for top in run.predict([photo])[0]["top"]}
    assert ours == pytest.approx(told, abs=1e-5)
    assert set(told) == {"bright", "even"}
