"""What the command line and scripts call: a recipe in, a run out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from finetune import console
from finetune.recipe import Recipe
from finetune.folder import opened, stop_signals, write_json


def finetune(recipe: Recipe, output: str | Path | None = None) -> Any:
    """Train as the recipe says and return the run; a broken-off run of the same folder goes on.

    Raises a FinetuneError for what a user can mend, Interrupted when asked to stop.
    """
    from accelerate import Accelerator

    from finetune import build, environment
    from finetune.loop import Fit, predict

    path = Path(output) if output else Path("runs") / f"{recipe.name}-{recipe.digest}"
    environment.keep_freed_memory()
    accelerator = Accelerator(
        mixed_precision=environment.precision(recipe.train.precision),
        dynamo_backend="inductor" if recipe.train.compile else None,
    )
    with opened(path, recipe) as folder:
        if folder.finished():
            console.say(f"{path} is finished; nothing was done.")
            return path
        job = build.job(recipe)
        for note in job.notes:
            folder.say(note)
        with stop_signals(folder):
            training = Fit(job, folder, accelerator).run_all()
        job.network.save(folder.model, job.target.classes)
        result: dict[str, Any] = {"training": training}
        for split in ("validation", "test"):
            samples = job.samples[split]
            predictions = predict(
                job.network.module, samples, job.target, accelerator, recipe.train.eval_batch_size
            )
            result[split] = job.target.scores(predictions, samples.targets)
        result["notes"] = folder.sentences
        result["peak_memory_bytes"] = environment.peak_memory()
        write_json(folder.path / "environment.json", environment.describe() | {"argv": sys.argv})
        write_json(folder.path / "result.json", result)
        print(result["training"], result["validation"].get("accuracy"), result["test"].get("accuracy"))
    return path
