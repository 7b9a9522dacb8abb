"""WiSE-FT: the weights between pretrained and fine-tuned that do best on validation.

Wortsman et al. 2022, arXiv:2109.01903. The pretrained end has a linear head fitted on its features,
where the paper has a zero-shot one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from finetune import wording
from finetune.loop import predict

if TYPE_CHECKING:
    from accelerate import Accelerator

    from finetune.job import Job

ALPHAS = tuple(step / 10 for step in range(11))
"""Shares of the way from the pretrained weights to the fine-tuned ones."""

Weights = Mapping[str, Tensor]


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all that can be interpolated, BatchNorm's statistics included."""
    state = module.state_dict().items()
    return {name: t.detach().cpu().clone() for name, t in state if t.is_floating_point()}


def between(start: Weights, end: Weights, alpha: float) -> dict[str, Tensor]:
    """Return the weights at a share of the way; both ends, and what has not moved, are exact."""
    return {name: torch.lerp(start[name], end[name], alpha) for name in end}


def interpolate(job: Job, start: Weights, accelerator: Accelerator) -> dict[str, Any]:
    """Leave in the module the weights between `start` and its own that do best on validation.

    Of equals those nearest to `start`. Returns the share `alpha` and the figure of all that were
    tried, for the result.
    """
    target, samples, end = job.target, job.samples["validation"], weights(job.module)
    metric, sign = target.metric.lstrip("-"), -1 if target.metric.startswith("-") else 1
    curve = []
    for alpha in ALPHAS:
        job.module.load_state_dict(between(start, end, alpha), strict=False)
        how = samples, target, accelerator, job.train.eval_batch_size
        predictions = predict(job.network, job.module, *how, full_precision=True)
        value = target.scores(predictions, samples.truth, intervals=False)[metric]["value"]
        curve.append({"alpha": alpha, "value": value})
    known = [point for point in curve if point["value"] is not None] or curve[-1:]
    best = max(known, key=lambda point: sign * (point["value"] or 0.0))["alpha"]
    job.module.load_state_dict(between(start, end, best), strict=False)
    return {"wise": {"alpha": best, "metric": metric, "curve": curve}}


def sentence(found: Mapping[str, Any]) -> str:
    """Return what was chosen, in words."""
    name, curve = found["metric"], {point["alpha"]: point["value"] for point in found["curve"]}
    chosen, first, last = (wording.value(name, curve[a]) for a in (found["alpha"], 0.0, 1.0))
    return (
        f"WiSE-FT chose the weights {found['alpha']:g} of the way from the pretrained to the "
        f"fine-tuned ones: {wording.metric(name)} on validation {chosen}, at the ends {first} and "
        f"{last}."
    )
