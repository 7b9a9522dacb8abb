"""`python cli.py finetune recipe=vit-cifar` from empty caches, against a hub on this machine."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from datasets import ClassLabel, Dataset, Features, Image
from hub_server import ROOT, SHA, environment, served
from PIL import Image as Pillow

from finetune.recipe import load

DATA = "uoft-cs/cifar10"
CLASSES = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
]  # fmt: skip
CARD = """---
license: unknown
pretty_name: Cifar10
configs:
- config_name: plain_text
  data_files:
  - split: train
    path: plain_text/train-*
  - split: test
    path: plain_text/test-*
---
"""
SMALL = (
    "backbone=test_vit.r160_in1k",
    "backbone.img_size=32",
    "train.epochs=1",
    "train.batch_size=16",
)


def photos(count: int) -> Dataset:
    """Return rows as CIFAR-10 has them: a mean colour tells the class, noise the rest."""
    random = np.random.default_rng(count)
    cells = []
    for number in range(count):
        noise = random.integers(0, 156, (32, 32, 3)) + np.array([10 * (number % 10), 0, 50])
        stream = io.BytesIO()
        Pillow.fromarray(noise.astype(np.uint8)).save(stream, "PNG")
        cells.append({"path": f"{number}.png", "bytes": stream.getvalue()})
    features = Features(img=Image(), label=ClassLabel(names=CLASSES))
    labels = [number % 10 for number in range(count)]
    return Dataset.from_dict({"img": cells, "label": labels}, features)


def dataset(folder: Path, train: int, test: int) -> Path:
    (folder / "plain_text").mkdir(parents=True)
    for split, count in (("train", train), ("test", test)):
        path = folder / "plain_text" / f"{split}-00000-of-00001.parquet"
        photos(count).to_parquet(str(path))
    (folder / "README.md").write_text(CARD)
    return folder


def model(folder: Path, name: str) -> Path:
    """Write random weights as the repository of `name` lays them out."""
    torch.manual_seed(0)
    classes = timm.get_pretrained_cfg(name).num_classes
    module = timm.create_model(name, pretrained=False, num_classes=classes)
    timm.models.save_for_hf(module, str(folder), safe_serialization=True)
    return folder


def run(endpoint: str, home: Path, launcher: tuple[str, ...], *overrides: str) -> dict[str, Any]:
    """Run the command in `home` and return its result."""
    home.mkdir()
    command = [*launcher, str(ROOT / "cli.py"), "finetune", "recipe=vit-cifar", *overrides]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=home, env=environment(endpoint, home)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [folder] = (home / "runs").iterdir()
    digest = load("vit-cifar").override(*overrides).digest
    assert folder.name == f"vit-cifar-{digest}"
    classify = json.loads((folder / "model" / "config.json").read_text())
    assert classify["label_names"] == CLASSES
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    assert result["data"]["source"]["id"] == DATA
    assert result["data"]["source"]["revision"] == SHA
    assert result["backbone"]["revision"] == SHA
    assert result["round_trip"]["largest_difference"].keys() == {"timm", "transformers"}
    return result


ALONE = (sys.executable,)
TWO = (
    sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
)  # fmt: skip


def test_the_command_on_a_small_model(tmp_path: Path) -> None:
    name = "test_vit.r160_in1k"
    repositories = {
        f"datasets/{DATA}": dataset(tmp_path / "data", 100, 20),
        timm.get_pretrained_cfg(name).hf_hub_id: model(tmp_path / "model", name),
    }
    with served(repositories) as endpoint:
        result = run(endpoint, tmp_path / "home", ALONE, *SMALL)
    assert result["data"]["rows"] == {"train": 98, "validation": 2, "test": 20}
    assert result["backbone"] == {"name": name, "id": f"timm/{name}", "revision": SHA}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [ALONE, TWO], ids=["python", "accelerate"])
def test_the_exact_command(launcher: tuple[str, ...], tmp_path: Path) -> None:
    name = "vit_small_patch16_224.augreg_in21k"
    repositories = {
        f"datasets/{DATA}": dataset(tmp_path / "data", 530, 40),
        f"timm/{name}": model(tmp_path / "model", name),
    }
    home = tmp_path / "home"
    with served(repositories) as endpoint:
        result = run(endpoint, home, launcher)
    [told] = home.glob("runs/*/environment.json")
    assert json.loads(told.read_text())["processes"] == (1 if launcher == ALONE else 2)
    assert result["data"]["rows"] == {"train": 519, "validation": 11, "test": 40}
    assert result["training"]["updates"] == 6
    assert result["test"]["accuracy"]["n"] == 40
