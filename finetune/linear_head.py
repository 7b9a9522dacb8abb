"""A linear head fitted on features by the task's own loss, its penalty chosen on validation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from finetune.errors import TrainingError
from finetune.protocols import Array, Target

CHUNK = 2**25
"""Outputs held at once while the loss of all samples is summed."""
ITERATIONS = 500
LOSS_TOLERANCE = 1e-7
"""The fit ends when an iteration lowers the mean loss by less."""


@dataclass(frozen=True)
class LinearHead:
    """A fitted linear head, for features as they come from the backbone."""

    weight: Tensor
    """(outputs, width), float32."""
    bias: Tensor
    """(outputs,), float32."""
    c: float
    """The strength that validation chose."""
    curve: list[dict[str, float]]
    """`{"c", "train_loss", "validation_loss"}` of all strengths tried, the strongest penalty first.

    Losses are means over the split, without the penalty.
    """


def fit_head(
    train: Array,
    train_targets: Array,
    validation: Array,
    validation_targets: Array,
    target: Target,
    strengths: Sequence[float],
    *,
    device: torch.device | None = None,
    intercept: bool = True,
) -> LinearHead:
    """Fit a head for each strength, warm-started, and keep the one of least validation loss.

    Features are (samples, width) float32, targets as `target.encode` gives them. The mean of the
    task's own loss is minimised over all samples at once, with a penalty of |weights|²/(2 c n)
    on standardised features: multinomial logistic regression for classes, one against the rest for
    label sets, ridge regression for numbers. Weaker penalties are not tried once the validation
    loss has risen twice. Without `intercept` the bias is 0, for heads that have none. Raises
    TrainingError if no fit is finite.
    """
    device = device or torch.device("cpu")
    seen = _Data(train, train_targets, target, device)
    unseen = _Data(validation, validation_targets, target, device)
    space = _Space.of(seen.features, centred=intercept)
    seen.features, unseen.features = space.project(seen.features), space.project(unseen.features)
    weight = torch.zeros(target.num_outputs, seen.features.shape[1], device=device)
    bias = torch.zeros(target.num_outputs, device=device)
    curve: list[dict[str, float]] = []
    best, chosen, least = (weight, bias), 0.0, math.inf
    for c in sorted(strengths):
        penalty = 1 / (c * len(train))
        weight, bias = _minimise(seen, weight, bias, penalty, space.variances, intercept)
        loss = unseen.loss(weight, bias)
        curve.append({"c": c, "train_loss": seen.loss(weight, bias), "validation_loss": loss})
        if loss < least:
            least, chosen, best = loss, c, (weight, bias)
        losses = [point["validation_loss"] for point in curve[-3:]]
        if len(losses) == 3 and losses[0] < losses[1] < losses[2]:
            break
    if not chosen:
        raise TrainingError(
            "No linear head could be fitted: the loss is not finite at any of "
            f"method.c={', '.join(f'{c:g}' for c in sorted(strengths))}."
        )
    return LinearHead(*space.unfold(*best), chosen, curve)


class _Data:
    """Features and targets of one split on the device."""

    def __init__(
        self, features: Array, targets: Array, target: Target, device: torch.device
    ) -> None:
        self.features = torch.from_numpy(np.asarray(features, np.float32)).to(device)
        self.label = torch.from_numpy(np.asarray(targets)).to(device)
        self.target = target
        self.total = float(target.weights({"label": self.label}).sum())

    def losses(self, weight: Tensor, bias: Tensor) -> Iterator[Tensor]:
        """Yield parts of the mean loss, each of as many samples as memory should hold."""
        size = max(1, CHUNK // len(bias))
        for start in range(0, len(self.label), size):
            part = slice(start, start + size)
            outputs = torch.nn.functional.linear(self.features[part], weight, bias)
            yield self.target.losses(outputs, {"label": self.label[part]}).sum() / self.total

    @torch.no_grad()
    def loss(self, weight: Tensor, bias: Tensor) -> float:
        """Return the mean loss."""
        return sum(map(float, self.losses(weight, bias)))


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
    def of(cls, features: Tensor, *, centred: bool) -> _Space:
        mean = features.mean(0) if centred else torch.zeros_like(features[0])
        deviation = (features - mean).square().mean(0).sqrt()
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
        raw = (weight.double() @ self.axes.double().T) * self.scale.double()
        shifted = bias.double() - raw @ self.mean.double()
        return raw.float().cpu(), shifted.float().cpu()


def _minimise(
    data: _Data,
    weight: Tensor,
    bias: Tensor,
    penalty: float,
    variances: Tensor,
    intercept: bool,
) -> tuple[Tensor, Tensor]:
    """Return weight (outputs, rank) and bias of least penalised loss, from a warm start."""
    # About the inverse root of the curvature along each axis.
    step = (variances / len(weight) + penalty).rsqrt()
    scaled, bias = (weight / step).requires_grad_(), bias.clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [scaled, bias],
        max_iter=ITERATIONS,
        tolerance_grad=1e-6,
        tolerance_change=LOSS_TOLERANCE,
        line_search_fn="strong_wolfe",
    )

    def value() -> float:
        """Return the penalised loss, and leave its gradient in the parameters."""
        weight, bias.grad = (scaled.detach() * step).requires_grad_(), None
        total = weight.detach().square().sum() * penalty / 2
        for loss in data.losses(weight, bias):
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        assert weight.grad is not None
        scaled.grad = (weight.grad + penalty * weight.detach()) * step
        if not intercept:
            bias.grad = torch.zeros_like(bias)
        return float(total)

    solver.step(value)  # type: ignore[no-untyped-call]
    return scaled.detach() * step, bias.detach()
