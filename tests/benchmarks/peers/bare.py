"""Bare PyTorch with everything tuned by hand: what any toolkit's loop is to be held against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from worker import Clock, Facts, Setup, timed

from finetune import environment

CPU = not torch.cuda.is_available()
DEVICE = torch.device("cpu" if CPU else "cuda")
INFERENCE_BATCH = 64


def training(setup: Setup, clock: Clock) -> None:
    """Full fine-tuning: images in memory, augmented as a batch."""
    model, layout = tuned_model(setup)
    model.train()
    images, labels = pixels(setup)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.05, fused=True)
    order = torch.randperm(len(images))
    for rows in order.split(setup.batch):
        inputs = crops(images[rows].to(DEVICE), setup.size).contiguous(memory_format=layout)
        with autocast():
            loss = F.cross_entropy(model(inputs), labels[rows].to(DEVICE))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.tick()


def inference(setup: Setup, clock: Clock) -> None:
    """Features of images that lie in memory at the size of the input."""
    model, layout = tuned_model(setup)
    model.eval()
    small, _ = pixels(setup)
    images = F.interpolate(small, size=setup.size)

    @torch.inference_mode()
    def run() -> None:
        features = []
        for part in images.split(INFERENCE_BATCH):
            inputs = normalise(part.to(DEVICE).float()).contiguous(memory_format=layout)
            with autocast():
                hidden = model.forward_features(inputs)
                features.append(model.forward_head(hidden, pre_logits=True).float().cpu())
        torch.cat(features)

    def measure() -> Facts:
        return {"samples_per_second": len(images) / timed(run)}

    run()
    clock.each(measure)


def tuned_model(setup: Setup) -> tuple[nn.Module, torch.memory_format]:
    """Return the model as it is quickest here, and the memory format of its inputs."""
    environment.keep_freed_memory()
    model = timm.create_model(setup.model, num_classes=10, **setup.img_size)
    if CPU:
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
    convolutional = not setup.model.startswith("vit")
    layout = torch.channels_last if convolutional else torch.contiguous_format
    return model.to(DEVICE, memory_format=layout), layout


def autocast() -> torch.autocast:
    """Return the context of a forward pass in bfloat16 where that is fast."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=environment.has_fast_bf16())


def pixels(setup: Setup) -> tuple[Tensor, Tensor]:
    """Return all images, uint8 (images, 3, 32, 32), and labels (images,)."""
    folder = Path(setup.scratch)
    images = torch.from_numpy(np.load(folder / "pixels.npy")[: setup.images])
    labels = torch.from_numpy(np.load(folder / "labels.npy")[: setup.images])
    return images.permute(0, 3, 1, 2).contiguous(), labels


def crops(images: Tensor, size: int) -> Tensor:
    """Return a random part of each image, perhaps mirrored, at this size and normalised."""
    batch, device = len(images), images.device
    area = torch.empty(batch, device=device).uniform_(0.35, 1.0)
    ratio = torch.empty(batch, device=device).uniform_(-0.2877, 0.2877).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    theta = torch.zeros(batch, 2, 3, device=device)
    theta[:, 0, 0] = width * (torch.randint(2, (batch,), device=device) * 2 - 1)
    theta[:, 1, 1] = height
    theta[:, 0, 2] = (1 - width) * torch.empty(batch, device=device).uniform_(-1, 1)
    theta[:, 1, 2] = (1 - height) * torch.empty(batch, device=device).uniform_(-1, 1)
    grid = F.affine_grid(theta, [batch, 3, size, size], align_corners=False)
    return normalise(F.grid_sample(images.float(), grid, align_corners=False))


def normalise(images: Tensor) -> Tensor:
    """Return values from 0 to 255 as values from -1 to 1."""
    return images.sub_(127.5).div_(127.5)
