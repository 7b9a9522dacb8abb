"""Optimizers by name, their parameter groups, and the learning rate as a function of the update."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import torch

from finetune.errors import RecipeError, nearest

if TYPE_CHECKING:
    from torch import nn

    from finetune.recipe import Train

WAYS = {"fused", "foreach", "capturable", "differentiable"}
"""Arguments of torch's optimizers that say how an update is computed; each excludes others."""


def build(module: nn.Module, train: Train, scales: dict[str, float]) -> torch.optim.Optimizer:
    """Return the optimizer over all parameters that learn.

    `scales` gives the learning rate of a parameter relative to `train.lr`. Parameters with one
    axis (norms, biases) and those the model names itself get no weight decay.
    """
    exempt = getattr(module, "no_weight_decay", set)
    spared = set(exempt()) if callable(exempt) else set()
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decay = 0.0 if parameter.ndim <= 1 or name in spared else train.weight_decay
            groups.setdefault((scales.get(name, 1.0), decay), []).append(parameter)
    parameters = [
        {"params": members, "weight_decay": decay, "lr": train.lr * scale, "scale": scale}
        for (scale, decay), members in sorted(groups.items(), key=lambda item: item[0])
    ]
    cls = optimizer_class(train.optimizer)
    args: dict[str, Any] = dict(train.optimizer_args)
    if cls is torch.optim.SGD:
        args.setdefault("momentum", 0.9)
    if cls in (torch.optim.AdamW, torch.optim.SGD) and not args.keys() & WAYS:
        args["fused"] = True  # one pass over memory instead of several
    try:
        optimizer: torch.optim.Optimizer = cls(parameters, lr=train.lr, **args)
    except (TypeError, ValueError) as error:
        allowed = ", ".join(inspect.signature(cls).parameters)
        raise RecipeError(
            f"train.optimizer={train.optimizer} does not take train.optimizer_args="
            f"{dict(train.optimizer_args)}: {error}. Its arguments: {allowed}."
        ) from error
    return optimizer


def optimizer_class(name: str) -> Any:
    """Return torch's or timm's optimizer of this name (any case); RecipeError if unknown."""
    native = {
        key.lower(): value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
    }
    # The base class; one that needs sparse gradients, one that needs a closure.
    for useless in ("optimizer", "sparseadam", "lbfgs"):
        native.pop(useless, None)
    wanted = name.lower()
    if wanted in ("adamw", "sgd"):
        return native[wanted]
    from finetune.backbones import timm

    # timm's first: where both have one (Muon), timm's takes parameters of any shape.
    found = timm.optimizer_class(wanted) or native.get(wanted)
    if found is None:
        names = sorted({*native, *timm.optimizer_names()})
        raise RecipeError(
            f"train.optimizer={name!r} is unknown.{nearest(wanted, names)} "
            f"Allowed: {', '.join(names)}."
        )
    return found


def rate(train: Train, update: int, updates: int) -> float:
    """Return the learning rate's share of its peak at `update` (from 0) of `updates`."""
    warm = round(train.warmup * updates)
    if update < warm:
        return (update + 1) / (warm + 1)
    done = (update - warm) / max(1, updates - warm)
    if train.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if train.schedule == "linear":
        return 1 - done
    if train.schedule == "step":
        return 0.1 ** ((done >= 0.5) + (done >= 0.75))
    return 1.0


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group from the head's."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]
