"""What a trained job leaves: the saved model, proof that it loads, the tested result, the pages."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from finetune import baselines, calibration, card, environment, gate, mistakes, report, slices
from finetune.folder import write, write_json
from finetune.freezing import manifest
from finetune.loop import predict
from finetune.report import picture

if TYPE_CHECKING:
    from accelerate import Accelerator

    from finetune.folder import Folder
    from finetune.job import Job
    from finetune.protocols import Array, Network


def save(job: Job, folder: Folder) -> dict[str, Any] | None:
    """Write `model/`, and return what the round-trip gate found; None if the backbone has none.

    Raises TrainingError if the saved model does not answer like the trained one.
    """
    network, target = job.network, job.target
    first = first_inputs(job)
    base = getattr(job.recipe.backbone, "public_name", "")
    network.module = job.method.finish(job.module, first, folder.model / "adapter", base)
    if target.native != target:
        network.set_head(*target.rescale_head(*network.get_head()))
    network.save(folder.model, target.classes, target.problem_type)
    if network.reloader is None:
        return None
    network.module.cpu().eval()
    samples, table = job.samples["test"], job.splits.test
    own = getattr(samples.source, "rows", None)
    rows, logits = [], []
    for index in range(min(gate.SAMPLES, len(samples))):
        # One at a time and on the CPU, as the fresh process does: else sums round otherwise.
        batch = samples.finish(samples.read(np.array([index]), 0), torch.device("cpu"))
        with torch.inference_mode():
            output = network.outputs(network.module(**batch.inputs))
            answer = output if isinstance(output, Tensor) else output.last()
        logits.append(answer[0].float().numpy())
        row = table[index if own is None else int(own[index])]
        tokens = {k: v.tolist() for k, v in batch.inputs.items() if not v.is_floating_point()}
        rows.append({name: row[name] for name in network.inputs.columns if name in row})
        rows[-1] |= {"inputs": tokens} if tokens else {}
    return gate.check(network.reloader, folder.model, rows, logits, target.classes)


def first_inputs(job: Job) -> dict[str, Tensor]:
    """Return the model inputs of a few test rows, on the device of the network's module."""
    samples = job.samples["test"]
    rows = np.arange(min(gate.SAMPLES, len(samples)))
    device = next(job.network.module.parameters()).device
    return samples.finish(samples.read(rows, 0), device).inputs


def test(
    job: Job, folder: Folder, accelerator: Accelerator
) -> tuple[dict[str, Any], Array, Network]:
    """Score the saved model, as loaded from `model/`, in float32.

    Returns the part of the result that says so, the predictions on the test split, and the model.
    This is the one look at the test split that a run takes.
    """
    target, train = job.target.native, job.train
    saved = job.recipe.backbone.saved(folder.model)
    network = saved.build(target.num_outputs, target.classes, job.recipe.task.form)
    module = network.module.to(accelerator.device)
    result: dict[str, Any] = {}
    predictions: dict[str, Array] = {}
    for split in ("validation", "test"):
        samples = job.samples[split]
        how = samples, target, accelerator, train.eval_batch_size
        predictions[split] = predict(network, module, *how, full_precision=True)
        result[split] = target.scores(predictions[split], samples.truth, metrics=job.metrics)
    fitted = target.calibrated(predictions["validation"], job.samples["validation"].truth)
    if fitted is not target:
        tested = result["test"], predictions["test"], job.samples["test"].truth
        result["target"] = asdict(cast(Any, fitted))
        result["calibration"] = calibration.told(fitted, *tested)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    look = {"time": now, "precision": "fp32", "batch_size": train.eval_batch_size}
    look |= {"n": len(job.samples["test"].truth)}
    result["looks_at_test"] = [*folder.earlier_looks(), look]
    return result, predictions["test"], network


def describe(job: Job, folder: Folder) -> dict[str, Any]:
    """Return what was learned from what, for the result."""
    recipe, splits = job.recipe, job.splits
    return {
        "name": recipe.name,
        "recipe_digest": recipe.digest,
        "task": recipe.task.kind,
        "method": recipe.method.kind,
        "backbone": dict(job.network.origin),
        "metric": job.target.metric,
        "target": asdict(cast(Any, job.target.native)),
        "data": {
            "fingerprint": splits.fingerprint,
            "source": dict(splits.source),
            "rows": {split: len(samples.truth) for split, samples in job.samples.items()},
            "classes": job.target.classes,
            "skipped": job.skipped,
            "padding": padding(job),
        },
        "parameters": manifest(job.module),
        "notes": folder.sentences,
    }


def padding(job: Job) -> dict[str, float]:
    """Return the share of padding in the batches of each split; nothing where none is padded."""
    train, shares = job.train, dict[str, float]()
    for split, samples in job.samples.items():
        share = getattr(samples.source, "padding", None)
        if share is None:
            continue
        if split == "train" and job.method.descends:
            size = train.batch_size
            order = samples.order(train.sampling, train.seed, 0, size)
        else:
            size, order = train.eval_batch_size, samples.longest_first()
        shares[split] = share(order, size)
    return shares


def publish(
    folder: Folder,
    job: Job,
    result: dict[str, Any],
    predictions: Array,
    rungs: Mapping[str, baselines.Rung],
    network: Network | None,
) -> None:
    """Write the pages that a person reads, and last the result, which ends the run.

    `rungs` are the baselines that the backbone gives without training, and `network` is the saved
    model, which gave the predictions on the test split and is explained where it is given.
    """
    surroundings = environment.describe() | {"argv": environment.arguments()}
    write_json(folder.path / "environment.json", surroundings)
    result["baselines"] = baselines.scores(job, predictions, rungs)
    columns = slices.cells([job.splits.test], job.recipe.slices)
    truth = job.samples["test"].truth
    result["slices"] = slices.scores(job.target.native, predictions, truth, columns)
    shown = job.target.evidence(predictions, truth)
    result["confused"] = mistakes.confused(shown.confusion, job.target.classes)
    text = card.text(job.recipe, job, result, surroundings)
    if drawn := picture.curves(folder.log_path, result):
        (folder.path / "curves.png").write_bytes(drawn)
    write(folder.path / "README.md", text)
    write(folder.model / "README.md", text.replace(f"{card.CURVES}\n\n", ""))
    report.write(folder.path, job, result, predictions, network)
    write_json(folder.path / "result.json", result)
