"""How many samples a CPU's memory has room for: on a CPU, running out of it ends the process."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

if TYPE_CHECKING:
    from finetune.loop import Fit

SHARE = 0.125
"""Of the memory there is, what the activations of one backward pass may take. In all a pass takes
about twice that, and larger micro-batches are no quicker on a CPU."""


def memory() -> int:
    """Return the bytes of memory that this machine, or the container around us, has."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def make(fit: Fit) -> None:
    """On a CPU, take a micro-batch that memory has room for, unless the recipe gives one."""
    if fit.accelerator.device.type != "cpu" or fit.train.micro_batch_size:
        return
    two = fit.samples.finish(
        fit.samples.read(fit.samples.longest_first()[:2], 0), fit.accelerator.device
    )
    budget = SHARE * memory() / fit.accelerator.num_processes
    size = micro_batch(fit.module, two.inputs, fit.micro_batch_size, budget)
    if size < fit.micro_batch_size:
        fit.at.micro_batch_size = size
        fit.folder.say(
            f"A forward pass takes {size} samples, as many as memory has room for; the batch of "
            f"{fit.train.batch_size} per update stays."
        )


def micro_batch(module: nn.Module, two: Mapping[str, Tensor], wanted: int, budget: float) -> int:
    """Return `wanted`, halved until the activations of so many samples take `budget` bytes at most.

    `two` are the inputs of two samples; they go through the module twice.
    """
    module.eval()  # draws no random numbers and moves no statistics
    one = {name: tensor[:1].clone() for name, tensor in two.items()}
    # What does not grow with the samples, such as weights in another precision, drops out.
    each = _kept(module, two) - _kept(module, one)
    size = wanted
    while size > 1 and size * each > budget:
        size = math.ceil(size / 2)
    return size


def _kept(module: nn.Module, inputs: Mapping[str, Tensor]) -> int:
    """Return the bytes that a backward pass would need kept."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = module(**inputs)
    del outputs
    return sum(kept.values())
