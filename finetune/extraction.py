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
from finetune.protocols import Array, Network, Source
from finetune.samples import ahead

if TYPE_CHECKING:
    from finetune.job import Job

LAYOUT = 2
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
    pooled: Callable[[dict[str, Tensor]], Tensor] | None = None,
) -> Array:
    """Return what the head sees of every sample, or what `pooled` gives, (samples, width), float32.

    Computed once, in evaluation mode, and kept in `folder`: the same weights (head excluded),
    precision and `key` are read back. `key` names what else the features depend on: preprocessing,
    data, split, pooling. Raises TrainingError if a feature is not finite.
    """
    device = device or next(network.module.parameters()).device
    network.module.to(device).eval()
    if not len(source):
        raise TrainingError("There is no sample to extract features from.")

    how = pooled or network.features, source, batch_size, device, precision
    heads = tuple(f"{name}." for name in network.head())
    tensors = network.module.state_dict().items()
    whole = dict(key) | {
        "layout": LAYOUT,
        "weights": {n: digest(t) for n, t in tensors if not n.startswith(heads)},
        "precision": precision,
        "device": device.type,
        "samples": len(source),
    }
    with kept.held(folder, "features", whole) as path:
        if (found := _read(path)) is not None:
            first = _computed(np.arange(min(kept.CHECKED, len(source))), *how)
            if kept.agree(torch.from_numpy(found[: len(first)]), torch.from_numpy(first)):
                return found
        features = _computed(np.arange(len(source)), *how)
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


def _computed(
    rows: Array,
    pooled: Callable[[dict[str, Tensor]], Tensor],
    source: Source,
    batch_size: int,
    device: torch.device,
    precision: str,
) -> Array:
    """Return the features of these samples; those of like length are computed together."""
    order = rows if source.lengths is None else rows[np.argsort(-source.lengths[rows])]
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    parts, depth = [], 0 if device.type == "cpu" else 2
    with torch.inference_mode(), console.Bar("extracting features", len(order)) as bar:
        for raw in ahead(lambda batch: source.read(batch, 0), batches, depth):
            moved = {name: t.to(device, non_blocking=True) for name, t in raw.items()}
            with autocast(device, precision):
                features = pooled(source.finish(moved))
            parts.append(features.float().cpu().numpy())
            bar.advance(len(features))
    together = np.concatenate(parts)
    result = np.empty_like(together)
    result[np.searchsorted(rows, order)] = together
    return result


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
    train, validation = (
        extract(
            job.network,
            source,
            build.cache_folder() / "features",
            {"inputs": repr(job.network.inputs), "data": job.splits.fingerprint, "split": split},
            batch_size=job.train.eval_batch_size,
            device=device,
            precision=precision,
        )
        for split, source in (("train", plain), ("validation", job.samples["validation"].source))
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
