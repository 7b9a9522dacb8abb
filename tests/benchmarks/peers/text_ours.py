"""This toolkit on SST-2, through its recipes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from worker import Clock, Facts, Setup, timed

from finetune import (
    FeatureExtraction,
    Full,
    HubData,
    LoRA,
    Recipe,
    TextClassification,
    Train,
    Transformers,
    finetune,
)
from peers.ours import fresh_cache, tick_with


def sst2(setup: Setup, **fields: Any) -> Recipe:
    """Return a recipe on SST-2; all that is not said is the default."""
    return Recipe(
        name="benchmark",
        backbone=Transformers(name="minilm"),
        data=HubData(str(Path(setup.data) / "sst2"), text="sentence", label="label"),
        task=TextClassification(),
        train=Train(epochs=setup.epochs, batch_size=setup.batch, schedule="linear", lr=1e-4),
        **fields,
    )


def full(setup: Setup, clock: Clock) -> None:
    """Full fine-tuning."""
    tick_with(clock)
    finetune(sst2(setup, method=Full()), output=_folder(setup, "full"))


def lora(setup: Setup, clock: Clock) -> None:
    """LoRA on queries and values."""
    tick_with(clock)
    finetune(sst2(setup, method=LoRA(rank=8, alpha=16)), output=_folder(setup, "lora"))


def top_layer(setup: Setup, clock: Clock) -> None:
    """Fine-tuning of the top layer and the head alone."""
    tick_with(clock)
    value = sst2(setup, method=Full(train_layers=setup.top_layers))
    finetune(value, output=_folder(setup, "top"))


def features(setup: Setup, clock: Clock) -> None:
    """Features from the rows to the validated head, and the same again from what was kept."""
    from finetune import build, environment, extraction

    environment.keep_freed_memory()
    value = sst2(setup, method=FeatureExtraction())
    precision = environment.precision(value.train.precision)

    def run() -> None:
        extraction.fit_probe(build.job(value), environment.device(), precision)

    def measure() -> Facts:
        fresh_cache(setup)
        return {"seconds": timed(run), "again": timed(run)}

    clock.each(measure)


def quality(setup: Setup, clock: Clock, method: Any, lr: float) -> None:
    """Whole runs, a seed each time they are asked for: accuracy on the test split."""
    seed = -1

    def measure() -> Facts:
        nonlocal seed
        seed += 1
        value = sst2(setup, method=method).override(f"train.seed={seed}", f"train.lr={lr}")
        output = _folder(setup, f"{method.kind}-{setup.epochs}-{seed}")
        shutil.rmtree(output, ignore_errors=True)
        run = finetune(value, output=output)
        return {"accuracy": run.metrics["accuracy"], "seconds": run.result["cost"]["seconds"]}

    clock.each(measure)


def full_quality(setup: Setup, clock: Clock) -> None:
    """Accuracy of full fine-tuning."""
    quality(setup, clock, Full(), 1e-4)


def lora_quality(setup: Setup, clock: Clock) -> None:
    """Accuracy of LoRA."""
    quality(setup, clock, LoRA(rank=8, alpha=16), 2e-3)


def _folder(setup: Setup, name: str) -> Path:
    return Path(setup.scratch) / "runs" / name
