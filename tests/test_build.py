"""From a recipe to a job: unreadable inputs, seeds, batches and further metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
import torch
from datasets import Features, Value
from PIL import Image

from finetune import ImageClassification, ImageFolder, Recipe, Timm, Train, build
from finetune.errors import RecipeError, UnreadableInputs


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with three splits of 12, 4 and 4 photos in two classes."""
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"


def recipe(photos: Path, *texts: str, **fields: Any) -> Recipe:
    return Recipe(
        name="tiny",
        backbone=Timm(name="test_vit", weights="none", img_size=32),
        data=ImageFolder(str(photos)),
        task=ImageClassification(),
        train=Train(batch_size=4, precision="no"),
    ).override(*texts, **fields)


def test_a_job_joins_them(photos: Path) -> None:
    job = build.job(recipe(photos))
    assert {split: len(samples) for split, samples in job.samples.items()} == {
        "train": 12,
        "validation": 4,
        "test": 4,
    }
    assert job.target.classes == ("cat", "dog")
    assert job.skipped == {}
    assert job.metrics == []
    assert job.notes[-1] == "Chosen for this machine (cpu): precision no, plain attention."


def test_unreadable_images_of_all_splits_are_listed_together(photos: Path) -> None:
    (photos / "train/cat/1.png").write_bytes(b"")
    (photos / "train/dog/5.png").write_bytes(b"not an image")
    (photos / "test/dog/0.png").write_bytes(b"")
    with pytest.raises(UnreadableInputs) as caught:
        build.job(recipe(photos))
    message = str(caught.value)
    assert message.startswith("3 images cannot be read:\n")
    named = {"cat/1.png": "train row 1", "dog/5.png": "train row 11", "dog/0.png": "test row 2"}
    for name, row in named.items():
        assert f"  {row}: '{photos / row.split()[0] / name}': " in message
    assert "data.on_error=skip" in message


def test_or_left_out_and_counted(photos: Path) -> None:
    whole = build.job(recipe(photos))
    (photos / "train/cat/1.png").write_bytes(b"")
    (photos / "test/dog/0.png").write_bytes(b"")
    job = build.job(recipe(photos, "data.on_error=skip"))
    assert job.skipped == {"train": 1, "test": 1}
    assert [len(job.samples[s]) for s in ("train", "validation", "test")] == [11, 4, 3]
    assert job.samples["train"].truth.tolist() == [0] * 5 + [1] * 6
    assert job.samples["test"].truth.tolist() == [0, 0, 1]
    assert "1 unreadable input was left out of the test split." in job.notes
    # What remains are the same pixels as before.
    kept = whole.samples["test"].source.read(np.array([0, 1, 3]), 0)["image"]
    assert torch.equal(job.samples["test"].source.read(np.arange(3), 0)["image"], kept)
    assert len(job.splits.test) == 3


def test_a_batch_larger_than_what_is_left(photos: Path) -> None:
    with pytest.raises(RecipeError, match=r"batch_size=13 is more than the 12 rows.* 1 to 12"):
        build.job(recipe(photos, "train.batch_size=13"))
    build.job(recipe(photos, "train.batch_size=13", "method=features"))
    (photos / "train/cat/1.png").write_bytes(b"")
    with pytest.raises(RecipeError, match=r"batch_size=12 is more than the 11 rows"):
        build.job(recipe(photos, "train.batch_size=12", "data.on_error=skip"))


def test_all_that_is_random_follows_the_seed(photos: Path) -> None:
    one, same, other = (
        build.job(recipe(photos, "method=lora", f"train.seed={seed}")).module.state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    head = "base_model.model.head.modules_to_save.default.weight"
    assert not torch.equal(one[head], other[head])


class Largest(evaluate.Metric):
    """The largest probability, which only two classes have below 1.01."""

    def _info(self) -> evaluate.MetricInfo:
        cell = Value("int64")
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="",
            features=Features({"predictions": cell, "references": cell}),
        )  # fmt: skip

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        if self.config_name == "broken":
            raise KeyError("no such column")
        return {"largest": float(max(predictions))}


def test_further_metrics_are_tried_before_training(photos: Path) -> None:
    good = Largest()
    assert build.job(recipe(photos, metrics=("accuracy", good))).metrics[1] is good
    for metric, message in (
        ("acuracy", r"no metric 'acuracy'.*Did you mean 'accuracy'"),
        ("rmse", r"no metric 'rmse' for this task"),
        (Largest(config_name="broken"), r"fails on 4 predictions of this task \(KeyError"),
        ("someone/theirs@v1", r"trust_remote_code=true"),
    ):
        with pytest.raises(RecipeError, match=message):
            build.job(recipe(photos, metrics=(metric,)))
