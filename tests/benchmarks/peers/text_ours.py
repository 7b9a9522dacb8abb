"""This toolkit on SST-2, through its recipes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from worker import Clock, Facts, Setup, timed

from finetune import (
    FeatureExtraction,
    Full,
    HubData,
    LanguageModeling,
    LoRA,
    Recipe,
    TextClassification,
    Train,
    Transformers,
    build,
    finetune,
)
from peers.ours import fresh_cache, run_folder, tick_with
from peers.prepare import language_model_folder


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
    finetune(sst2(setup, method=Full()), output=run_folder(setup, "full"))


def lora(setup: Setup, clock: Clock) -> None:
    """LoRA on queries and values."""
    tick_with(clock)
    finetune(sst2(setup, method=LoRA(rank=8, alpha=16)), output=run_folder(setup, "lora"))


def top_layer(setup: Setup, clock: Clock) -> None:
    """Fine-tuning of the top layer and the head alone."""
    tick_with(clock)
    value = sst2(setup, method=Full(train_layers=setup.top_layers))
    finetune(value, output=run_folder(setup, "top_layers"))


def top_layer_anew(setup: Setup, clock: Clock) -> None:
    """The same without room on the disk, so that nothing may be kept."""
    fresh_cache(setup)
    os.environ["FINETUNE_CACHE_GB"] = "0"
    tick_with(clock)
    value = sst2(setup, method=Full(train_layers=setup.top_layers))
    finetune(value, output=run_folder(setup, "top_layers_anew"))


def packed(setup: Setup, clock: Clock) -> None:
    """Speeches in samples of the full length, each on its own in them."""
    _speeches(setup, clock, packed=True)


def unpacked(setup: Setup, clock: Clock) -> None:
    """Each speech a sample, those of like length in one batch."""
    _speeches(setup, clock, packed=False)


def _speeches(setup: Setup, clock: Clock, packed: bool) -> None:
    value = Recipe(
        name="speeches",
        backbone=Transformers(name=str(language_model_folder(setup))),
        data=HubData(str(Path(setup.data) / "tinyshakespeare"), text="text"),
        task=LanguageModeling(packed=packed),
        method=Full(),
        train=Train(epochs=1, batch_size=setup.batch),
    )
    samples = build.job(value).samples["train"]
    speeches, output = len(samples.truth), run_folder(setup, f"packed-{packed}")

    def measure() -> Facts:
        shutil.rmtree(output, ignore_errors=True)
        training = finetune(value, output=output).result["training"]
        return {"samples_per_second": training["samples_per_second"] * speeches / len(samples)}

    clock.each(measure)


def features(setup: Setup, clock: Clock) -> None:
    """Features from the rows to the validated head, and the same again from what was kept."""
    from finetune import environment, extraction

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
        output = run_folder(setup, f"{method.kind}-{setup.epochs}-{seed}")
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
