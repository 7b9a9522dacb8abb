"""Runs without a model: real data, targets and scores around predictions that are made up."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from finetune import Digits, ImageClassification, Recipe, Splits, Timm, baselines, mistakes
from finetune.job import Job
from finetune.protocols import SPLITS
from finetune.samples import Samples
from finetune.targets import Classes, LabelSets, Numbers

ENVIRONMENT = {
    "python": "3.11.7",
    "system": "Linux",
    "processor": "x86_64",
    "threads": 2,
    "gpus": [],
    "versions": {"finetune": "0.1.0", "torch": "2.10.0", "timm": "1.0.22"},
    "git_commit": None,
    "argv": ["finetune", "recipe=vit-digits"],
}
ORIGIN = {"name": "vit_tiny", "id": "timm/vit_tiny", "revision": "0123456789abcdef"}
RECIPE = Recipe(
    name="staged",
    backbone=Timm(name="vit_tiny_patch16_224.augreg_in21k"),
    data=Digits(),
    task=ImageClassification(),
)


@dataclass
class Rows:
    """A table in memory."""

    columns: dict[str, list[Any]]

    @property
    def column_names(self) -> list[str]:
        return list(self.columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        return {name: cells[key] for name, cells in self.columns.items()}


def picture(row: int, name: str | None = None, side: int = 24) -> dict[str, Any]:
    """Return an image cell of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (row * 37 % 256, 120, 200)).save(stream, "PNG")
    return {"path": name, "bytes": stream.getvalue()}


def job(
    target: Any,
    targets: dict[str, Any],
    recipe: Recipe = RECIPE,
    source: dict[str, Any] | None = None,
    path: str | None = None,
    origin: dict[str, Any] | None = None,
) -> Job:
    """Return a job over these encoded targets by split, each row with a small picture."""
    tables = {
        split: Rows({"image": [picture(row, path) for row in range(len(targets[split]))]})
        for split in SPLITS
    }
    splits = Splits(
        **tables,
        classes=target.classes,
        fingerprint="c0ffee" * 8,
        source={"name": "staged", "license": "cc0-1.0"} if source is None else source,
    )
    samples = {split: Samples(None, targets[split], targets[split]) for split in SPLITS}  # type: ignore[arg-type]
    network: Any = SimpleNamespace(origin=ORIGIN if origin is None else origin)
    return Job(recipe, splits, target, network, None, samples)  # type: ignore[arg-type]


def classes(
    names: Sequence[str] = ("cat", "dog", "owl"), n: int = 60, skill: float = 2.0, **options: Any
) -> tuple[Job, Any]:
    """Return a job of single labels, and predictions on its test split, better with `skill`."""
    random = np.random.default_rng(0)
    targets = {s: np.arange(n * (3 if s == "train" else 1)) % len(names) for s in SPLITS}
    logits = random.standard_normal((n, len(names))) + skill * np.eye(len(names))[targets["test"]]
    odds = np.exp(logits)
    predictions = (odds / odds.sum(1, keepdims=True)).astype(np.float32)
    return job(Classes(tuple(names)), targets, **options), predictions


def label_sets(names: Sequence[str] = ("red", "green", "blue"), n: int = 60) -> tuple[Job, Any]:
    """Return a job of label sets, and predictions on its test split."""
    random = np.random.default_rng(0)
    shape = (n, len(names))
    targets = {s: (random.random(shape) < 0.4).astype(np.float32) for s in SPLITS}
    logits = random.standard_normal(shape) + 3 * targets["test"] - 1.5
    return job(LabelSets(tuple(names)), targets), (1 / (1 + np.exp(-logits))).astype(np.float32)


def numbers(n: int = 60) -> tuple[Job, Any]:
    """Return a job of numbers, and predictions on its test split."""
    random = np.random.default_rng(0)
    targets = {s: random.normal(170, 10, (n, 1)).astype(np.float32) for s in SPLITS}
    noise = random.normal(0, 4, (n, 1)).astype(np.float32)
    return job(Numbers(), targets), targets["test"] + noise


def result(job: Job, predictions: Any, **changes: Any) -> dict[str, Any]:
    """Return what a run of this job writes to result.json, read back."""
    targets = job.samples["test"].truth
    scores = job.target.scores(predictions, targets)
    whole = {
        "name": job.recipe.name,
        "recipe_digest": job.recipe.digest,
        "task": job.recipe.task.kind,
        "method": job.recipe.method.kind,
        "metric": job.target.metric,
        "validation": scores,
        "test": scores,
        "looks_at_test": [
            {"time": "2026-01-02T03:04:05+00:00", "precision": "fp32", "batch_size": 64, "n": 60}
        ],
        "baselines": baselines.scores(job, predictions),
        "confused": mistakes.confused(
            job.target.evidence(predictions, targets).confusion, job.target.classes
        ),
        "training": {
            "epochs": 3,
            "updates": 18,
            "best_epoch": 2,
            "seconds": 12.345,
            "samples_per_second": 432.1,
            "micro_batch_size": 32,
        },
        "parameters": {"total_parameters": 5000, "trainable_parameters": 50, "trainable": ["head"]},
        "cost": {"seconds": 205.0, "peak_memory_bytes": 812_000_000},
        "data": {
            "fingerprint": job.splits.fingerprint,
            "source": dict(job.splits.source),
            "rows": {split: len(samples) for split, samples in job.samples.items()},
            "classes": job.target.classes,
            "skipped": {"train": 2},
        },
        "round_trip": {
            "rows": 8,
            "largest_difference": {"timm": 0.0, "transformers": 1.2e-7},
            "tolerance": 1e-5,
        },
        "notes": ["The test split is 60 rows drawn from train."],
    }
    read: dict[str, Any] = json.loads(json.dumps(whole | changes))
    return read


def folder(path: Path, job: Job) -> Path:
    """Fill a run folder with what a run has written before its report."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "recipe.yaml").write_text(job.recipe.to_yaml(), "utf-8")
    (path / "environment.json").write_text(json.dumps(ENVIRONMENT), "utf-8")
    lines = []
    for epoch in (1, 2, 3):
        for step in (1, 2, 3):
            update = 6 * (epoch - 1) + 2 * step
            facts = {"loss": 2 / update, "lr": 1e-3 / update, "seconds": 0.1 * update}
            lines.append({"epoch": epoch, "update": update} | facts)
        values = {job.target.metric.lstrip("-"): 0.3 * epoch, "log_loss": 1 / epoch}
        lines.append({"epoch": epoch, "validation": values, "seconds": 1.0})
    (path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines), "utf-8")
    return path
