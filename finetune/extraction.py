"""Feature extraction: the backbone runs once for each sample, then a linear head is fitted.

The same features serve the `features` method and full fine-tuning that starts from a fitted head.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune import console
from finetune.errors import TrainingError
from finetune.freezing import fingerprint
from finetune.linear_head import LinearHead, fit_head
from finetune.protocols import Array, Network, Source, Target
from finetune.samples import Samples, ahead

LAYOUT = 1
"""Part of every key: a change of what is kept makes earlier files unused."""

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def extract(
    network: Network,
    source: Source,
    folder: Path,
    key: Mapping[str, Any],
    *,
    batch_size: int = 64,
    device: torch.device | None = None,
    precision: str = "no",
) -> Array:
    """Return what the head sees of every sample, (samples, width), float32.

    Computed once, in evaluation mode, and kept in `folder`: the same weights (head excluded),
    precision and `key` are read back. `key` names what else the features depend on: preprocessing,
    data, split, pooling. Raises TrainingError if a feature is not finite.
    """
    from filelock import FileLock

    device = device or next(network.module.parameters()).device
    network.module.to(device)
    weights = fingerprint(network.module, network.head())
    whole = dict(key) | {
        "layout": LAYOUT,
        "weights": weights,
        "architecture": type(network.module).__name__,
        "precision": precision,
        "device": device.type,
        "samples": len(source),
    }
    text = json.dumps(whole, sort_keys=True, default=str)
    name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"features-{name}.safetensors"
    with FileLock(f"{path}.lock"):
        kept = _read(path, text)
        if kept is not None:
            return kept
        features = _compute(network, source, batch_size, device, precision)
        _write(path, text, features)
    return features


def _compute(
    network: Network, source: Source, batch_size: int, device: torch.device, precision: str
) -> Array:
    network.module.eval()
    rows = np.arange(len(source))

    def read(start: int) -> dict[str, Tensor]:
        return source.read(rows[start : start + batch_size], 0)

    batches = ahead(read, range(0, len(rows), batch_size), depth=0 if device.type == "cpu" else 2)
    result: Array | None = None
    done = 0
    with torch.inference_mode(), console.Bar("extracting features", len(rows)) as bar:
        for raw in batches:
            inputs = source.finish({k: v.to(device, non_blocking=True) for k, v in raw.items()})
            with autocast(device, precision):
                features = network.features(inputs).float().cpu().numpy()
            if result is None:
                result = np.empty((len(rows), features.shape[1]), np.float32)
            result[done : done + len(features)] = features
            done += len(features)
            bar.advance(len(features))
    if result is None:
        raise TrainingError("There is no sample to extract features from.")
    bad = np.flatnonzero(~np.isfinite(result).all(1))
    if len(bad):
        raise TrainingError(
            f"{len(bad)} of {len(rows)} samples have features that are not finite (the first is "
            f"row {bad[0]}). Try train.precision=no, or check the weights of the backbone."
        )
    return result


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Return the context of a forward pass in `no`, `bf16` or `fp16`."""
    if precision not in AUTOCAST:
        return contextlib.nullcontext()
    return torch.autocast(device.type, AUTOCAST[precision])


def _read(path: Path, key: str) -> Array | None:
    """Return kept features; None if there are none, or the file is damaged or another's."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, "numpy") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            os.utime(path)
            features: Array = file.get_tensor("features")
            return features
    except (SafetensorError, OSError) as error:
        console.say(f"Kept features could not be read ({error}); they are computed again.")
        return None


def _write(path: Path, key: str, features: Array) -> None:
    """Keep features: written aside, then renamed. Without room the run goes on without."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    descriptor, aside = tempfile.mkstemp(prefix=".features-", dir=path.parent)
    os.close(descriptor)
    try:
        save_file({"features": features}, aside, {"key": key})
        os.replace(aside, path)
    except (SafetensorError, OSError) as error:
        console.say(f"The features could not be kept in {path.parent} ({error}).")
    finally:
        Path(aside).unlink(missing_ok=True)


def linear_probe(
    network: Network,
    train: Samples,
    validation: Samples,
    target: Target,
    strengths: Sequence[float],
    folder: Path,
    key: Mapping[str, Any],
    *,
    batch_size: int = 64,
    device: torch.device | None = None,
    precision: str = "no",
) -> LinearHead:
    """Extract the features of both splits, fit a head on them, and put it into the network.

    `train` must come without augmentation.
    """
    splits = [
        extract(
            network, samples.source, folder, {**key, "split": split},
            batch_size=batch_size, device=device, precision=precision,
        )
        for split, samples in (("train", train), ("validation", validation))
    ]  # fmt: skip
    fitted = fit_head(
        splits[0], train.targets, splits[1], validation.targets, target, strengths, device=device
    )
    network.set_head(fitted.weight, fitted.bias)
    return fitted
