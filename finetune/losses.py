"""Losses of each sample, with label smoothing, focal exponent, class weights and mixed targets."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(
    logits: Tensor, label: Tensor, weight: Tensor | None, smoothing: float, focal: float
) -> Tensor:
    """Return the loss of logits (batch, classes) and positions (batch,) as (batch,).

    The focal form is Lin et al. 2017, arXiv:1708.02002, summed over the smoothed target.
    """
    if not focal:
        return F.cross_entropy(logits, label, weight, reduction="none", label_smoothing=smoothing)
    classes = logits.shape[1]
    wanted = F.one_hot(label, classes).to(logits) * (1 - smoothing) + smoothing / classes
    log = logits.log_softmax(1)
    terms = -wanted * _focus(log, focal) * log
    return (terms if weight is None else terms * weight).sum(1)


def binary_cross_entropy(
    logits: Tensor, label: Tensor, weight: Tensor | None, smoothing: float, focal: float
) -> Tensor:
    """Return the mean over the labels of logits and 0/1 labels (batch, labels) as (batch,).

    `weight` (labels,) multiplies the loss of positives.
    """
    label = label.float() * (1 - smoothing) + smoothing / 2
    if not focal:
        return F.binary_cross_entropy_with_logits(
            logits, label, reduction="none", pos_weight=weight
        ).mean(1)
    yes, no = F.logsigmoid(logits), F.logsigmoid(-logits)
    positive = -label * _focus(yes, focal) * yes
    negative = -(1 - label) * _focus(no, focal) * no
    return ((positive if weight is None else positive * weight) + negative).mean(1)


def mixed(values: Callable[[Tensor], Tensor], targets: dict[str, Tensor]) -> Tensor:
    """Return values of the own label, shared with those of the partner where samples were mixed."""
    own = values(targets["label"])
    if "partner" not in targets:
        return own
    return torch.lerp(values(targets["partner"]), own, targets["share"].to(own))


def ones(targets: dict[str, Tensor]) -> Tensor:
    """Return the weights of samples that all count the same, (batch,)."""
    return torch.ones(len(targets["label"]), device=targets["label"].device)


@lru_cache(maxsize=16)
def vector(values: tuple[float, ...] | None, device: torch.device) -> Tensor | None:
    """Return `values` on `device`, moved there once and not in every step."""
    return None if values is None else torch.tensor(values, device=device)


def _focus(log: Tensor, exponent: float) -> Tensor:
    """Return (1 - p) ** exponent from log p; the floor keeps the gradient finite at p = 1."""
    return (-log.expm1()).clamp_min(torch.finfo(log.dtype).tiny).pow(exponent)
