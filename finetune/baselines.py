"""What a model must beat: answers that need no model, scored like the model's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.job import Job


def scores(job: Job, predictions: Any = None) -> dict[str, dict[str, Any]]:
    """Return the scores of each baseline on the test split, such as `{"majority": scores}`.

    With the model's `predictions` they hold its paired `difference`.
    """
    target, truth = job.target, job.samples["test"].truth
    result = {}
    for name, answers in target.baselines(job.samples, job.splits.test).items():
        result[name] = target.scores(answers, truth, metrics=job.metrics)
        result[name].pop("per_class", None)
        if predictions is not None:
            result[name]["difference"] = target.difference(predictions, answers, truth)
    return result
