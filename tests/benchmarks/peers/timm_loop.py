"""A loop of timm's own parts, its loader, transforms, optimizer and loss, as in its train.py."""

from __future__ import annotations

import os
from contextlib import nullcontext

import timm
import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.utils import AverageMeter
from worker import Clock, Setup

from peers.prepare import png_folder


def defaults(setup: Setup, clock: Clock) -> None:
    """As train.py does it where nothing is said: float32 and 4 loader processes."""
    train(setup, clock, workers=4, bf16=False, channels_last=False)


def tuned(setup: Setup, clock: Clock) -> None:
    """With `--amp --amp-dtype bfloat16 --channels-last` and as many loader processes as cores."""
    train(setup, clock, workers=os.cpu_count() or 1, bf16=True, channels_last=True)


def train(setup: Setup, clock: Clock, *, workers: int, bf16: bool, channels_last: bool) -> None:
    """Train one epoch, without the colour jitter that no other peer has."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = timm.create_model(setup.model, num_classes=10, **setup.img_size)
    model.to(device, memory_format=layout).train()
    config = resolve_data_config({"input_size": (3, setup.size, setup.size)}, model=model)
    loader = create_loader(
        create_dataset("", root=str(png_folder(setup)), split="train", is_training=True),
        input_size=config["input_size"],
        batch_size=setup.batch,
        is_training=True,
        color_jitter=0.0,
        interpolation="random",
        mean=config["mean"],
        std=config["std"],
        num_workers=workers,
        device=device,
    )
    optimizer = create_optimizer_v2(model, opt="adamw", lr=5e-4, weight_decay=0.05)
    loss_of, mean_loss = LabelSmoothingCrossEntropy(0.1), AverageMeter()
    for inputs, targets in loader:
        with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
            loss = loss_of(model(inputs.contiguous(memory_format=layout)), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mean_loss.update(loss.item(), len(inputs))
        clock.tick()
