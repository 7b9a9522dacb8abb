"""The evaluation inputs are those of timm's own transform, on every kind and shape of image."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.errors import BackboneError
from finetune.images.inputs import ImageInputs

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Rows:
    """A table of image cells."""

    column_names = ["image"]

    def __init__(self, images: list[Image.Image]) -> None:
        self.cells = []
        for image in images:
            file = io.BytesIO()
            image.save(file, "PNG")
            self.cells.append({"path": None, "bytes": file.getvalue()})

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, key: Any) -> Any:
        return self.cells if key == "image" else {"image": self.cells[key]}


def noise(height: int, width: int, channels: int = 3) -> Image.Image:
    random = np.random.default_rng(height * 1000 + width)
    pixels = random.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)


IMAGES = [
    noise(32, 32),
    noise(33, 47),
    noise(101, 67),
    noise(7, 90),
    noise(250, 31),
    noise(1, 1),
    noise(40, 41, 1),
    noise(45, 38, 4),
    noise(45, 38, 4).convert("P"),
]


@pytest.mark.parametrize(
    ("size", "crop_pct", "crop_mode", "interpolation"),
    [
        ((32, 32), 0.875, "center", "bicubic"),
        ((32, 32), 0.9, "center", "bilinear"),
        ((48, 48), 1.0, "center", "bicubic"),
        ((31, 31), 0.95, "center", "lanczos"),
        ((32, 32), 0.95, "squash", "bicubic"),
        ((33, 33), 1.0, "squash", "bilinear"),
        ((24, 40), 0.9, "center", "bicubic"),
        ((24, 41), 0.95, "squash", "nearest"),
        ((32, 32), 0.9, "border", "bicubic"),
        ((33, 20), 1.0, "border", "bilinear"),
        ((33, 33), 1.05, "border", "bicubic"),
    ],
)
def test_equal_to_timms_transform(
    tmp_path: Path, size: tuple[int, int], crop_pct: float, crop_mode: str, interpolation: str
) -> None:
    from timm.data import create_transform

    transform = create_transform(
        (3, *size),
        is_training=False,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        interpolation=interpolation,
        mean=MEAN,
        std=STD,
    )
    inputs = ImageInputs(size, MEAN, STD, interpolation, crop_pct, crop_mode)
    source = inputs.source(Rows(IMAGES), tmp_path)
    raw = source.read(np.arange(len(IMAGES)), 0)
    assert raw["image"].dtype == torch.uint8
    expected = torch.stack([transform(image.convert("RGB")) for image in IMAGES])
    assert torch.equal(source.finish(raw)["x"], expected)


def test_inputs_carry_the_name_of_the_forward_argument(tmp_path: Path) -> None:
    inputs = ImageInputs((8, 8), MEAN, STD, "bicubic", 1.0, "center", "pixel_values")
    source = inputs.source(Rows(IMAGES[:2]), tmp_path)
    assert list(source.finish(source.read(np.array([1]), 5))) == ["pixel_values"]
    assert len(source) == 2


def test_an_unknown_interpolation_is_refused() -> None:
    with pytest.raises(BackboneError, match=r"'bicubik' is none of .* Did you mean 'bicubic'"):
        ImageInputs((8, 8), MEAN, STD, "bicubik", 1.0, "center")
