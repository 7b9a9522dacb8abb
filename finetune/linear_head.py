"""A linear head fitted on features by the task's own loss, its penalty chosen on validation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.errors import TrainingError
from finetune.protocols import Array, Target

CHUNK = 2**25
"""Outputs held at once while the loss of all samples is summed."""
ITERATIONS = 500
LOSS_TOLERANCE = 1e-6
"""The fit ends when an iteration lowers the loss by less than this share of it."""


@dataclass(frozen=True)
class Strength:
    """What one strength of regularisation gave."""

    c: float
    train_loss: float
    """Mean over the training split, without the penalty."""
    validation_loss: float


@dataclass(frozen=True)
class LinearHead:
    """A fitted linear head, for features as they come from the backbone."""

    weight: Tensor
    """(outputs, width), float32."""
    bias: Tensor
    """(outputs,), float32."""
    c: float
    """The strength that validation chose."""
    curve: tuple[Strength, ...]
    """All strengths tried, from the strongest penalty down."""

    def log(self) -> list[dict[str, float]]:
        """Return the curve as plain dicts."""
        return [asdict(point) for point in self.curve]


def fit_head(
    train: Array,
    train_targets: Array,
    validation: Array,
    validation_targets: Array,
    target: Target,
    strengths: Sequence[float],
    *,
    device: torch.device | None = None,
) -> LinearHead:
    """Fit a head for each strength, warm-started, and keep the one of least validation loss.

    Features are (samples, width) float32, targets as `target.encode` gives them. The mean of the
    task's own loss is minimised over all samples at once, with a penalty of |weights|²/(2 c n)
    on standardised features: multinomial logistic regression for classes, one against the rest for
    label sets, ridge regression for numbers. Weaker penalties are not tried once the validation
    loss has risen twice. Raises TrainingError if no fit is finite.
    """
    device = device or torch.device("cpu")
    seen = _Data.of(train, train_targets, device)
    unseen = _Data.of(validation, validation_targets, device)
    space = _Space.of(seen.features)
    seen.features = space.project(seen.features)
    unseen.features = space.project(unseen.features)
    weight = torch.zeros(seen.features.shape[1], target.num_outputs, device=device)
    bias = torch.zeros(target.num_outputs, device=device)
    curve: list[Strength] = []
    best, chosen, least = (weight, bias), 0.0, math.inf
    for c in sorted(strengths):
        penalty = 1 / (c * len(seen))
        weight, bias = _minimise(seen, target, weight, bias, penalty, space.variances)
        tried = Strength(c, seen.loss(target, weight, bias), unseen.loss(target, weight, bias))
        curve.append(tried)
        if tried.validation_loss < least:
            least, chosen, best = tried.validation_loss, c, (weight, bias)
        losses = [point.validation_loss for point in curve[-3:]]
        if len(losses) == 3 and losses[0] < losses[1] < losses[2]:
            break
    if not chosen:
        raise TrainingError(
            "No linear head could be fitted: the loss is not finite at any of "
            f"method.c={', '.join(f'{c:g}' for c in sorted(strengths))}."
        )
    return LinearHead(*space.unfold(*best), chosen, tuple(curve))


@dataclass
class _Data:
    """Features and targets of one split on the device."""

    features: Tensor
    targets: Tensor

    @classmethod
    def of(cls, features: Array, targets: Array, device: torch.device) -> _Data:
        return cls(
            torch.from_numpy(np.asarray(features, np.float32)).to(device),
            torch.from_numpy(np.asarray(targets)).to(device),
        )

    def __len__(self) -> int:
        return len(self.targets)

    def parts(self, outputs: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield as many samples at a time as memory should hold outputs of."""
        size = max(1, CHUNK // outputs)
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield self.features[part], {"label": self.targets[part]}

    def total_weight(self, target: Target) -> float:
        return float(target.weights({"label": self.targets}).sum())

    def loss(self, target: Target, weight: Tensor, bias: Tensor) -> float:
        """Return the mean loss of this split."""
        with torch.no_grad():
            total = sum(
                float(target.losses(features @ weight + bias, targets).sum())
                for features, targets in self.parts(len(bias))
            )
        return total / self.total_weight(target)


@dataclass(frozen=True)
class _Space:
    """Standardised features turned to their principal axes.

    Turning leaves the penalty as it is, and with the variance along each axis known the problem
    can be scaled so that it converges in tens of iterations instead of hundreds.
    """

    mean: Tensor
    scale: Tensor
    axes: Tensor
    """(width, rank)"""
    variances: Tensor
    """(rank,)"""

    @classmethod
    def of(cls, features: Tensor) -> _Space:
        mean = features.mean(0)
        deviation = features.std(0, correction=0)
        # A feature that never varies says nothing; its rounding noise is not to be enlarged.
        constant = deviation <= 1e-6 * features.abs().amax(0)
        scale = torch.where(constant, 0.0, 1 / deviation.clamp_min(1e-30))
        standard = (features - mean) * scale
        values, vectors = torch.linalg.eigh((standard.T @ standard).double() / len(features))
        kept = values > 1e-6 * values[-1].clamp_min(1e-12)
        return cls(mean, scale, vectors[:, kept].float(), values[kept].float())

    def project(self, features: Tensor) -> Tensor:
        """Return features along the axes, (samples, rank)."""
        return ((features - self.mean) * self.scale) @ self.axes

    def unfold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight (outputs, width) and bias that give the same outputs on raw features."""
        raw = (self.axes.double() @ weight.double()) * self.scale.double()[:, None]
        shifted = bias.double() - self.mean.double() @ raw
        return raw.T.float().contiguous().cpu(), shifted.float().cpu()


def _minimise(
    data: _Data, target: Target, weight: Tensor, bias: Tensor, penalty: float, variances: Tensor
) -> tuple[Tensor, Tensor]:
    """Return weight (rank, outputs) and bias of least penalised loss, from a warm start."""
    from scipy.optimize import minimize

    # About the inverse root of the curvature along each axis.
    step = (variances / weight.shape[1] + penalty).rsqrt()[:, None]
    total = data.total_weight(target)
    split = weight.numel()

    def unpack(vector: Any) -> tuple[Tensor, Tensor]:
        both = torch.from_numpy(vector).to(weight)
        return both[:split].view_as(weight) * step, both[split:].clone()

    def value_and_gradient(vector: Any) -> tuple[float, Any]:
        weight, bias = (part.requires_grad_() for part in unpack(vector))
        value, gradients = 0.0, [torch.zeros_like(weight), torch.zeros_like(bias)]
        for features, targets in data.parts(weight.shape[1]):
            loss = target.losses(torch.addmm(bias, features, weight), targets).sum() / total
            parts = torch.autograd.grad(loss, (weight, bias))
            gradients = [whole + part for whole, part in zip(gradients, parts, strict=True)]
            value += float(loss.detach())
        with torch.no_grad():
            value += float(weight.square().sum()) * penalty / 2
            by_weight = (gradients[0] + penalty * weight) * step
        return value, torch.cat([by_weight.reshape(-1), gradients[1]]).double().cpu().numpy()

    start = torch.cat([(weight / step).reshape(-1), bias]).double().cpu().numpy()
    options = {"maxiter": ITERATIONS, "ftol": LOSS_TOLERANCE, "gtol": 1e-6}
    found = minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
    return unpack(found.x)
