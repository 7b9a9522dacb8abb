"""Feature extraction: the backbone runs once for each sample, then a linear head is fitted.

The same features serve the `features` method and full fine-tuning that starts from a fitted head.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from finetune import build, console, kept
from finetune.environment import autocast
from finetune.errors import TrainingError
from finetune.freezing import digest
from finetune.linear_head import fit_head
from finetune.protocols import Array, Network, Source, Split, Splits
from finetune.samples import ahead

if TYPE_CHECKING:
    from finetune.job import Job

Pooled = Callable[[dict[str, Tensor]], Tensor]
"""From model inputs to one vector for each sample, (batch, width)."""

LAYOUT = 3
"""Part of every key: a change of what is kept makes earlier files unused."""


def extract(
    network: Network,
    source: Source,
    folder: Path,
    key: Mapping[str, Any],
    *,
    batch_size: int = 64,
    device: torch.device | None = None,
    precision: str = "no",
    pooled: Pooled | None = None,
) -> Array:
    """Return what the head sees of every sample, or what `pooled` gives, (samples, width), float32.

    Computed once, in evaluation mode, and kept in `folder`: the same weights (head excluded),
    precision and `key` are read back. `key` names what else the features depend on: preprocessing,
    data, split, pooling; also the "weights", where their hashes are known already. Raises
    TrainingError if a feature is not finite.
    """
    device = device or next(network.module.parameters()).device
    if not len(source):
        raise TrainingError("There is no sample to extract features from.")
    how = batch_size, device, precision, pooled
    whole = dict(key) | {
        "layout": LAYOUT,
        "weights": key["weights"] if "weights" in key else weights(network),
        "precision": precision,
        "device": device.type,
        "samples": len(source),
    }
    with kept.held(folder, "features", whole) as path:
        if (found := _read(path)) is not None:
            first = compute(network, source, min(kept.CHECKED, len(source)), *how)
            if kept.agree(torch.from_numpy(found[: len(first)]), torch.from_numpy(first)):
                return found
        features = compute(network, source, len(source), *how)
        bad = np.flatnonzero(~np.isfinite(features).all(1))
        if len(bad):
            raise TrainingError(
                f"{len(bad)} of {len(source)} samples have features that are not finite (the first "
                f"is row {bad[0]}). Try train.precision=no, or check the weights of the backbone."
            )
        try:
            kept.make_room(folder, features.nbytes)
            with kept.written_aside(path) as aside, aside.open("wb") as file:
                np.save(file, features)
        except OSError as error:
            console.say(f"The features could not be kept in {folder} ({error}).")
    return features


def compute(
    network: Network,
    source: Source,
    samples: int,
    batch_size: int,
    device: torch.device,
    precision: str,
    pooled: Pooled | None = None,
) -> Array:
    """Return the features of the first samples, (samples, width); a batch holds like lengths."""
    network.module.to(device).eval()
    pooled = pooled or network.features
    rows = np.arange(samples)
    if source.lengths is not None:
        rows = np.argsort(-source.lengths[:samples], kind="stable")

    def read(start: int) -> dict[str, Tensor]:
        return source.read(rows[start : start + batch_size], 0)

    starts, depth = range(0, samples, batch_size), 0 if device.type == "cpu" else 2
    parts = []
    with torch.inference_mode(), console.Bar("extracting features", samples) as bar:
        for raw in ahead(read, starts, depth):
            moved = {name: t.to(device, non_blocking=True) for name, t in raw.items()}
            with autocast(device, precision):
                features = pooled(source.finish(moved))
            parts.append(features.float().cpu().numpy())
            bar.advance(len(features))
    return np.concatenate(parts)[np.argsort(rows)]


def weights(network: Network) -> dict[str, str]:
    """Return hashes of all that the features of a network depend on in it: all but its head."""
    heads = tuple(f"{name}." for name in network.head())
    tensors = network.module.state_dict().items()
    return {name: digest(tensor) for name, tensor in tensors if not name.startswith(heads)}


def of_split(network: Network, source: Source, splits: Splits, split: Split, **how: Any) -> Array:
    """Return the features of a whole split, (samples, width); `how` goes to `extract`."""
    key = {"inputs": repr(network.inputs), "data": splits.fingerprint, "split": split}
    return extract(network, source, build.cache_folder() / "features", key, **how)


def _read(path: Path) -> Array | None:
    """Return kept features; None if there are none, or the file is damaged."""
    try:
        features: Array = np.load(path, allow_pickle=False)
        os.utime(path)
        return features
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        console.say(f"Kept features could not be read ({error}); they are computed again.")
        return None


def fit_probe(job: Job, device: torch.device, precision: str) -> dict[str, Any]:
    """Fit the head of `job` on the features of its training split and leave it in the network.

    The strength of the penalty is chosen on validation. Returns the strengths that were tried.
    """
    plain = build.open_split(job.recipe, job.network, job.splits, "train", augmented=False)
    sources: dict[Split, Source] = {"train": plain, "validation": job.samples["validation"].source}
    how = {"batch_size": job.train.eval_batch_size, "device": device, "precision": precision}
    train, validation = (
        of_split(job.network, source, job.splits, split, **how) for split, source in sources.items()
    )
    last: Any = job.network.module.get_submodule(job.network.head()[0])
    head = fit_head(
        train,
        job.samples["train"].truth,
        validation,
        job.samples["validation"].truth,
        job.target,
        job.method.probe,
        device=device,
        intercept=last.bias is not None,
    )
    job.network.set_head(head.weight, head.bias)
    return {"probe": {"c": head.c, "tried": head.curve}}
