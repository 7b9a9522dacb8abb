"""What learns and what does not: the manifest, and proof that frozen weights have not moved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from finetune.errors import TrainingError


def manifest(module: nn.Module) -> dict[str, Any]:
    """Return the number of parameters, and the number and names of those that learn."""
    parameters = dict(module.named_parameters())
    learning = {name: p.numel() for name, p in parameters.items() if p.requires_grad}
    return {
        "total_parameters": sum(p.numel() for p in parameters.values()),
        "trainable_parameters": sum(learning.values()),
        "trainable": list(learning),
    }


def norm_parameters(module: nn.Module) -> set[str]:
    """Return the names of the parameters that norm layers of any kind hold."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, child in module.named_modules()
        if "norm" in type(child).__name__.lower()
        for name, _ in child.named_parameters(recurse=False)
    }


def tracks_statistics(module: nn.Module) -> bool:
    """Return whether this is a BatchNorm or its like: a layer whose buffers move in training."""
    return module._buffers.get("running_mean") is not None


def freeze_batch_norm(module: nn.Module) -> None:
    """Freeze scale and shift of every BatchNorm; `set_train_mode` then holds its statistics."""
    for child in module.modules():
        if tracks_statistics(child):
            child.requires_grad_(False)


def set_train_mode(module: nn.Module) -> None:
    """Switch to training, but hold frozen parts in evaluation mode.

    A part none of whose parameters learn keeps its BatchNorm statistics and applies no dropout;
    `module.train()` alone would move the statistics of frozen layers.
    """
    module.train()
    for _, part in held(module):
        part.eval()


def held(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield by name the largest parts that hold parameters of which none learns."""
    learns = [p.requires_grad for p in module.parameters()]
    if learns and not any(learns):
        yield prefix, module
        return
    for name, child in module.named_children():
        path = f"{prefix}.{name}" if prefix else name
        if tracks_statistics(child) and next(child.parameters(), None) is None:
            # A BatchNorm without scale and shift goes with the layers around it.
            if not all(learns):
                yield path, child
        else:
            yield from held(child, path)


def digest(tensor: Tensor) -> str:
    """Return a hash of the shape, type and bytes of a tensor, whatever its memory format."""
    data = tensor.detach().cpu().contiguous()
    hashed = hashlib.blake2b(f"{data.dtype}{tuple(data.shape)}".encode(), digest_size=16)
    hashed.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def frozen_hashes(module: nn.Module) -> dict[str, str]:
    """Return hashes of all that must not move: frozen parameters, and BatchNorm's statistics."""
    return {name: digest(tensor) for name, tensor in _frozen(module)}


def check_frozen(module: nn.Module, hashes: Mapping[str, str]) -> None:
    """Raise TrainingError naming the tensors whose hashes are no longer those taken before."""
    now = dict(chain(module.named_parameters(), module.named_buffers()))
    moved = [n for n, before in hashes.items() if n not in now or digest(now[n]) != before]
    if moved:
        shown = ", ".join(moved[:5]) + (f" and {len(moved) - 5} more" if moved[5:] else "")
        raise TrainingError(
            f"Frozen weights or BatchNorm statistics have moved in training: {shown}. The "
            "result is not what the method promises, so it is not saved. Code that changes "
            "the module outside the method, or calls train() on it, is the usual cause."
        )


def _frozen(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, p) for name, p in module.named_parameters() if not p.requires_grad)
    for outer, part in held(module):
        for inner, child in part.named_modules(prefix=outer):
            if tracks_statistics(child):
                for name, buffer in child.named_buffers(recurse=False):
                    yield f"{inner}.{name}" if inner else name, buffer
