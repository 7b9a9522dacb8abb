"""A small problem in memory, for tests of training: noisy stripes, and modules that learn them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune import Augmentation, Full, ImageClassification, Recipe, Splits, Timm, Train, build
from finetune.backbones import TorchModel
from finetune.environment import accelerator, precision
from finetune.folder import opened
from finetune.loop import Fit

CLASSES = ("across", "down", "plain")
SIDE = 8
TIMES = {"seconds", "samples_per_second", "peak_memory_bytes", "time"}


@dataclass(frozen=True)
class Stripes:
    """Images of 8 x 8 pixels in three classes, the first of them rarest."""

    train: int = 61
    validation: int = 23
    test: int = 13

    def load(self, columns: tuple[str, ...]) -> Splits:
        tables = [self.table(n, i) for i, n in enumerate((self.train, self.validation, self.test))]
        return Splits(*tables, classes=CLASSES, fingerprint=repr(self))

    def table(self, rows: int, seed: int) -> Any:
        from datasets import Dataset, Features, Image, Value
        from PIL import Image as Pillow

        random = np.random.default_rng(seed)
        labels = np.minimum(np.arange(rows) % 7, 2)
        cells = []
        for label in labels:
            wave = np.sin(np.arange(SIDE) * 2.1 + random.uniform(0, 6)) * 90
            stripes = (wave[:, None], wave[None, :], np.zeros((1, 1)))[label]
            pixels = 128 + stripes + random.normal(0, 20, (SIDE, SIDE))
            stream = io.BytesIO()
            Pillow.fromarray(pixels.clip(0, 255).astype("uint8")).save(stream, "PNG")
            cells.append({"path": None, "bytes": stream.getvalue()})
        features = Features(image=Image(decode=False), label=Value("int64"))
        return Dataset.from_dict({"image": cells, "label": labels.tolist()}, features)


class DropPath(nn.Module):
    """Drops the whole branch of a sample now and then."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand(len(x), 1) > 0.2) if self.training else x


class Net(nn.Module):
    """A stem, a residual branch and a head."""

    def __init__(self, num_outputs: int, *, random: bool = False, most: int = 10**6) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 24), nn.LayerNorm(24))
        self.branch = nn.Sequential(nn.Linear(24, 24), nn.GELU())
        if random:
            self.branch.extend([nn.Dropout(0.2), DropPath()])
        self.head = nn.Linear(24, num_outputs)
        self.most = most

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) > self.most:
            raise torch.OutOfMemoryError(f"Tried to hold {len(x)} samples")
        hidden = self.stem(x)
        return self.head(hidden + self.branch(hidden))


class Convolutions(nn.Module):
    """Convolutions in the memory format that half precision likes, BatchNorm, dropout."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.2),
            nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(16, num_outputs)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


RANDOM = partial(Net, random=True)
VIT = Timm(
    name="vit_tiny_patch16_224",
    weights="none",
    img_size=SIDE,
    drop_path=0.1,
    dropout=0.1,
    args={
        "patch_size": 2,
        "depth": 2,
        "embed_dim": 24,
        "num_heads": 2,
        "class_token": False,
        "global_pool": "avg",
    },
)


def stripes(
    make: Callable[[int], nn.Module] | Timm = Net,
    /,
    method: Any = None,
    data: Stripes = Stripes(),
    **train: Any,
) -> Recipe:
    """Return a recipe that takes a second; further keywords are fields of `Train`."""
    return Recipe(
        name="stripes",
        backbone=make if isinstance(make, Timm) else TorchModel(make, "head", size=(SIDE, SIDE)),
        data=data,
        task=ImageClassification(augmentation=Augmentation(crop="pad", mixup=0.4)),
        method=method or Full(),
        train=Train(**({"epochs": 2, "batch_size": 8, "lr": 5e-3, "precision": "no"} | train)),
    )


def fit(recipe: Recipe, path: Path, kind: type[Fit] = Fit) -> Fit:
    """Train as `finetune` does, but leave out all that comes after; return what trained."""
    with opened(path, recipe) as folder:
        hold = accelerator(precision(recipe.train.precision), compiled=recipe.train.compile)
        fitted = kind(build.job(recipe), folder, hold)
        fitted.facts = fitted.run()
    return fitted


def weights(path: Path) -> dict[str, Tensor]:
    """Return the weights that a run saved."""
    from safetensors.torch import load_file

    return load_file(path / "model" / "model.safetensors")


def log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log, without what the clock says."""
    lines = map(json.loads, (path / "metrics.jsonl").read_text("utf-8").splitlines())
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the largest difference between two sets of weights."""
    assert one.keys() == other.keys()
    return max(float((one[k].double() - other[k].double()).abs().max()) for k in one)


def outcome(path: Path) -> dict[str, Any]:
    """Return all that an unbroken and a resumed run must have alike, hashes for tensors."""
    from finetune.freezing import digest

    result = json.loads((path / "result.json").read_text("utf-8"))
    training = {k: v for k, v in result["training"].items() if k not in TIMES}
    return {
        "weights": {name: digest(tensor) for name, tensor in weights(path).items()},
        "log": log(path),
        "training": training,
        "validation": result["validation"],
        "test": result["test"],
    }
