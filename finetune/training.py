"""What a method does to a job's weights: a head that is fitted first, then descent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from finetune import boundary, environment, extraction, wise
from finetune.freezing import check_frozen, frozen_hashes
from finetune.loop import Fit

if TYPE_CHECKING:
    from accelerate import Accelerator

    from finetune.folder import Folder
    from finetune.job import Job


def learn(
    job: Job,
    folder: Folder,
    accelerator: Accelerator,
    watch: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Train the job's module and return the facts for the result; a broken-off training goes on.

    `watch` is told of every epoch its number and the metric on validation, more being better.
    Raises TrainingError if a loss is not finite or a frozen weight has moved.
    """
    precision = environment.precision(job.train.precision)
    frozen = frozen_hashes(job.module)
    training: dict[str, Any] = {}
    if job.method.probe:
        written = {*job.network.layers()[-1]}
        frozen = {name: kept for name, kept in frozen.items() if name not in written}
        training |= extraction.fit_probe(job, accelerator.device, precision)
    averaged = getattr(job.method, "wise", False)
    start = wise.weights(job.module) if averaged else {}
    if job.method.descends:
        with boundary.replayed(job, accelerator.device, precision) as (replayed, sentence):
            if sentence:
                folder.say(sentence)
            training |= Fit(replayed, folder, accelerator, watch).run()
    if averaged:
        training |= wise.interpolate(job, start, accelerator)
        folder.say(wise.sentence(training["wise"]))
    check_frozen(job.module, frozen)
    return training
