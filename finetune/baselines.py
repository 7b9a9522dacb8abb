"""What a model must beat: answers that need no input, scored like the model's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.protocols import Array

if TYPE_CHECKING:
    from finetune.job import Job


def constant(job: Job) -> Array:
    """Return the same prediction for every test row, (rows, outputs), learned from train alone.

    For classes and label sets it is their frequencies, so that the most frequent class is the
    answer and the probabilities are honest; for numbers it is the mean.
    """
    known = job.samples["train"].truth
    if known.ndim == 1:
        answer = np.bincount(known, minlength=job.target.num_outputs) / len(known)
    else:
        answer = known.astype(np.float64).mean(0)
    rows = len(job.samples["test"])
    return np.broadcast_to(answer.astype(np.float32), (rows, len(answer)))


def majority(job: Job, predictions: Array | None = None) -> dict[str, dict[str, Any]]:
    """Return `{"majority": scores}` on the test split; for numbers the key is "mean".

    With the model's `predictions`, (rows, outputs), the scores hold its paired `difference`.
    """
    answers, targets = constant(job), job.samples["test"].truth
    scores = job.target.scores(answers, targets, metrics=job.metrics)
    scores.pop("per_class", None)
    if predictions is not None:
        scores["difference"] = job.target.difference(predictions, answers, targets)
    return {"mean" if job.target.classes is None else "majority": scores}
