"""What a model must beat, scored like the model's own answers: a ladder of ever more effort.

At its foot stand answers that need no model; above them what the pretrained backbone gives without
training: nearest neighbours, a linear probe, or the pretrained model itself. Validation makes
every choice, and each looks at the test split once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finetune import build, extraction
from finetune.errors import BackboneError, DataError, TrainingError
from finetune.loop import predict
from finetune.probes import Known, LinearProbe, Neighbours
from finetune.targets.base import RowTarget

if TYPE_CHECKING:
    from accelerate import Accelerator

    from finetune.folder import Folder
    from finetune.job import Job
    from finetune.protocols import Network, Source, Split


SETBACKS = (BackboneError, DataError, TrainingError, OSError, MemoryError, RuntimeError)
"""What may keep a baseline from being had; memory that runs out on a GPU is a RuntimeError."""


@dataclass(frozen=True)
class Rung:
    """Answers on the test split, and what was chosen on validation for them."""

    predictions: Any
    chosen: Mapping[str, Any] = field(default_factory=dict)


def scores(
    job: Job, predictions: Any = None, rungs: Mapping[str, Rung] | None = None
) -> dict[str, dict[str, Any]]:
    """Return the scores of each baseline on the test split, such as `{"majority": scores}`.

    `rungs` come on top of the baselines that need no model. With the model's `predictions` they
    hold its paired `difference`; what validation chose is under `chosen`.
    """
    target, truth = job.target, job.samples["test"].truth
    plain = target.baselines(job.samples, job.splits.test)
    every = {name: Rung(answers) for name, answers in plain.items()} | dict(rungs or {})
    result = {}
    for name, rung in every.items():
        result[name] = target.scores(rung.predictions, truth, metrics=job.metrics)
        result[name].pop("per_class", None)
        if predictions is not None:
            result[name]["difference"] = target.difference(predictions, rung.predictions, truth)
        if rung.chosen:
            result[name]["chosen"] = dict(rung.chosen)
    return result


def ladder(job: Job, folder: Folder, accelerator: Accelerator, precision: str) -> dict[str, Rung]:
    """Return what the pretrained backbone gives without training; what cannot be had is said.

    It is k nearest neighbours and a linear probe where a row has features of its own (no probe for
    a run that is one itself), and the pretrained model where its head is pretrained. The features
    are those of `finetune.extraction`, kept on disk. Every process of a run calls this.
    """
    rungs: dict[str, Rung] = {}
    try:
        network = build.untrained(job.recipe, job.target)
        network.tune_for(accelerator.device, precision)
        network.module.to(accelerator.device)
        rungs |= _on_features(job, network, precision)
        if network.head_is_pretrained:
            how = job.samples["test"], job.target.native, accelerator, job.train.eval_batch_size
            answers = predict(network, network.module, *how, full_precision=True)
            rungs["pretrained"] = Rung(answers)
    except SETBACKS as error:  # the run itself is done, and stays so
        folder.say(f"Not all baselines could be had: {error}")
    return rungs


def _on_features(job: Job, network: Network, precision: str) -> Iterator[tuple[str, Rung]]:
    """Yield the rungs that read features of rows, by name."""
    target, device = job.target, next(network.module.parameters()).device
    if job.recipe.task.form.head != "row" or not isinstance(target, RowTarget):
        return
    plain = build.open_split(job.recipe, network, job.splits, "train", augmented=False)
    sources: dict[Split, Source] = {
        "train": plain, **{s: job.samples[s].source for s in ("validation", "test")}
    }  # fmt: skip
    how = {"batch_size": job.train.eval_batch_size, "device": device, "precision": precision}
    train, validation, test = (
        Known(extraction.of_split(network, x, job.splits, s, **how), job.samples[s].truth)
        for s, x in sources.items()
    )
    nearest = Neighbours.fit(target, train, validation)
    yield "kNN", Rung(nearest.predict(test.features), nearest.chosen)
    if job.method.descends:
        probe = LinearProbe.fit(target, train, validation, device)
        yield "linear probe", Rung(probe.predict(test.features), probe.chosen)
