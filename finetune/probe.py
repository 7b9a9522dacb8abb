"""The linear probe of a job: a head fitted on frozen features, in the native head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune import build, extraction
from finetune.samples import Samples

if TYPE_CHECKING:
    import torch

    from finetune.job import Job


def fit(job: Job, device: torch.device, precision: str) -> dict[str, Any]:
    """Fit the head of `job` on the features of its training split and leave it in the network.

    The strength of the penalty is chosen on validation. Returns the strengths that were tried.
    """
    plain = build.open_split(job.recipe, job.network, job.splits, "train", augmented=False)
    head = extraction.linear_probe(
        job.network,
        Samples(plain, job.samples["train"].targets),
        job.samples["validation"],
        job.target,
        job.method.probe,
        build.cache_folder() / "features",
        {"inputs": repr(job.network.inputs), "data": job.splits.fingerprint},
        batch_size=job.train.eval_batch_size,
        device=device,
        precision=precision,
    )
    return {"probe": {"c": head.c, "tried": head.log()}}
