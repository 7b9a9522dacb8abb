"""Photos read as torchvision's own examples read them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from worker import Clock, Facts, Setup, timed


def torchvision_v2(setup: Setup, clock: Clock) -> None:
    """Pillow and transforms v2 in a DataLoader without processes of its own."""
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(setup.size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    photos = ImageFolder(Path(setup.data) / "hymenoptera" / "train", transform=transform)
    loader = DataLoader(photos, batch_size=setup.batch, shuffle=True, num_workers=0)

    def read() -> None:
        for _ in loader:
            pass

    def measure() -> Facts:
        return {"samples_per_second": len(photos) / timed(read)}

    clock.each(measure)
