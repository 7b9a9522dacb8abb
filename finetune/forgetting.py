"""What fine-tuning cost elsewhere: a linear probe on other data, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import build, environment, extraction, wording
from finetune.errors import RecipeError
from finetune.loop import predict
from finetune.methods import FeatureExtraction
from finetune.tables import say

if TYPE_CHECKING:
    from finetune.recipe import Recipe
    from finetune.run import Run


def measure(run: Run, data: Any) -> dict[str, Any]:
    """Return how well linear probes on both backbones do on the test split of reference data.

    `data` is what `data=` takes, with labels of the run's own kind. The heads are fitted on cached
    features. Keys are "metric", the figures "pretrained" and "finetuned", and their paired
    "difference". Raises RecipeError where the backbone was not pretrained, and what reading the
    data raises.
    """
    if getattr(run.recipe.backbone, "weights", None) == "none":
        raise RecipeError("This backbone began with random weights: it had nothing to forget.")
    short = isinstance(data, (str, Path))
    given = {} if short else {"data": data}
    plain = {"method": FeatureExtraction(), "metrics": (), "slices": ()} | given
    before = run.recipe.override(*[f"data={data}"] * short, **plain)
    saved: Any = before.backbone.saved(run.model)
    if getattr(saved, "head", None) == "keep":  # the reference data has classes of its own
        saved = saved.model_copy(update={"head": "fresh"})
    after = before.override(backbone=saved)
    target, truth, old = _probed(before)
    _, _, new = _probed(after)
    metric = target.metric.lstrip("-")
    scores = {"pretrained": target.scores(old, truth), "finetuned": target.scores(new, truth)}
    figures = {name: score[metric] for name, score in scores.items()}
    gap = target.difference(new, old, truth)
    return {"metric": target.metric, **figures, "difference": gap}


def _probed(recipe: Recipe) -> tuple[Any, Any, Any]:
    """Return the target, the truth of the test split, and what a linear probe says of it."""
    accelerator = environment.accelerator("no")
    job = build.job(recipe)
    extraction.fit_probe(job, accelerator.device, "no")
    module, samples = job.network.module.to(accelerator.device), job.samples["test"]
    how = samples, job.target, accelerator, recipe.train.eval_batch_size
    predictions = predict(job.network, module, *how, full_precision=True)
    return job.target, samples.truth, predictions


def sentence(found: Mapping[str, Any]) -> str:
    """Return what was found, in words."""
    name, gap = found["metric"].lstrip("-"), found["difference"]
    sign = -1 if found["metric"].startswith("-") else 1
    before, after = (wording.value(name, found[k]["value"]) for k in ("pretrained", "finetuned"))
    ends = sorted(sign * gap[end] for end in ("low", "high") if gap.get(end) is not None)
    if ends and ends[1] < 0:
        verdict = "Fine-tuning has cost what the backbone knew of these."
    elif ends and ends[0] > 0:
        verdict = "Fine-tuning has made the backbone better even there."
    else:
        verdict = "That may be chance: no forgetting is shown."
    return (
        f"Forgetting: a linear probe on the reference data has {wording.metric(name)} {before} on "
        f"the pretrained backbone and {after} on the fine-tuned one, n = "
        f"{found['finetuned']['n']:,}, a difference of {wording.difference(name, gap)}. {verdict}"
    )


def show(run: Run, data: Any) -> None:
    """Measure and print the sentence."""
    say(f"\n{sentence(measure(run, data))}")
