"""The front matter of a model card: YAML that the hub reads, written by its own library.

Names from the data are quoted there, and no path of this machine gets in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finetune import wording
from finetune.errors import RecipeError

if TYPE_CHECKING:
    from finetune.job import Job
    from finetune.recipe import Recipe

LICENSES = (
    "afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsl-1.0 cc cc0-1.0 "
    "cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 "
    "cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 "
    "cc-by-nc-sa-4.0 cdla-permissive-2.0 creativeml-openrail-m eupl-1.2 gemma gpl gpl-2.0 gpl-3.0 "
    "isc lgpl lgpl-2.1 lgpl-3.0 llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 mit mpl-2.0 odbl "
    "odc-by openrail osl-3.0 pddl unlicense wtfpl zlib other"
)
"""Identifiers that the hub takes as a licence, between blanks; it refuses a card with any other."""
PIPELINES = {
    "multi-label-image-classification": "image-classification",
    "image-regression": "",
    "multi-label-text-classification": "text-classification",
    "text-regression": "text-classification",
    "text-to-text": "",
    "language-modeling": "text-generation",
    "chat": "text-generation",
}
"""The hub's name for what a task does, where it is not the task's own."""


def written(result: Mapping[str, Any], backbone: Mapping[str, Any]) -> str:
    """Return the YAML that the hub reads: what the model is, and its test metrics."""
    from huggingface_hub import ModelCardData

    source, task = result["data"]["source"], result["task"]
    pipeline = PIPELINES.get(task, task)
    library, licence = backbone.get("library"), _license(source, backbone)
    listed = licence is None or licence in LICENSES.split()
    data = ModelCardData(
        base_model=backbone.get("id"),
        datasets=[source["id"]] if source.get("id") else None,
        eval_results=_evaluations(result, pipeline or task),
        library_name=library,
        license=licence if listed else "other",
        license_name=None if listed else licence,
        metrics=[result["metric"].lstrip("-")],
        model_name=wording.label(result["name"]),
        pipeline_tag=pipeline or None,
        tags=[tag for tag in (task, library, result["method"], "finetune") if tag],
    )
    return str(data.to_yaml()).strip()


def _evaluations(result: Mapping[str, Any], task: str) -> list[Any]:
    """Return the metrics of the test split for the model index."""
    from huggingface_hub import EvalResult

    source, about = result["data"]["source"], result["data"]
    name = wording.label(source.get("title") or source.get("name") or source.get("id") or "data")
    known = {
        metric: figure
        for metric, figure in result["test"].items()
        if metric != "per_class" and isinstance(figure.get("value"), (int, float))
    }
    return [
        EvalResult(
            task_type=task,
            dataset_type=source.get("id") or re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"),
            dataset_name=name,
            dataset_split="test",
            dataset_revision=source.get("revision"),
            dataset_args={"fingerprint": about["fingerprint"]},
            metric_type=metric,
            metric_name=wording.metric(metric),
            metric_value=figure["value"],
            metric_args={key: figure.get(key) for key in ("n", "low", "high")},
        )
        for metric, figure in known.items()
    ]


def _license(*sources: Mapping[str, Any]) -> str | None:
    """Return the licence where data and backbone agree on one, or only one of them says any."""
    found = set()
    for source in sources:
        said = source.get("license")
        for one in said if isinstance(said, list) else [said]:
            if isinstance(one, str) and re.fullmatch(r"[a-z0-9.\-]+", one) and one != "unknown":
                found.add(one)
    return (found.pop() if len(found) == 1 else "other") if found else None


def check(job: Job) -> str:
    """Return the front matter of a job's card, with a figure that means nothing.

    Raises RecipeError if the hub's library cannot read it: better known before training than after.
    """
    from huggingface_hub import ModelCard
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    metric = job.target.metric
    result = {
        "name": job.recipe.name,
        "task": job.recipe.task.kind,
        "method": job.recipe.method.kind,
        "metric": metric,
        "data": {"source": dict(job.splits.source), "fingerprint": job.splits.fingerprint},
        "test": {metric.lstrip("-"): {"value": 0.5, "n": 1, "low": 0.0, "high": 1.0}},
    }
    try:
        text = f"---\n{written(result, origin(job.recipe, job))}\n---\n"
        data = ModelCard(text).data
        for name in (getattr(data, "base_model", None), *(getattr(data, "datasets", None) or ())):
            validate_repo_id(name)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"The model card of this run would not be valid: {error}") from error
    return text


def origin(recipe: Recipe, job: Job) -> dict[str, Any]:
    """Return where the model comes from, and how its library makes it; no local path is in it.

    `id` and `revision` are there only where the weights are the hub's own.
    """
    value = recipe.backbone
    weights = getattr(value, "weights", None)
    words = {"none": "random weights", "pretrained": "", None: ""}
    side = getattr(value, "img_size", None)
    size = {"img_size": side} if side else {}
    kind = getattr(value, "kind", "")
    return {
        "library": kind if kind in ("timm", "transformers") else None,
        "weights": words.get(weights, "weights of a local file"),
        "arguments": {**getattr(value, "args", {}), **size},
        **job.network.origin,
    }
