"""What the command line and scripts call: a recipe in, a run out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from finetune import console
from finetune.folder import opened, stop_signals
from finetune.recipe import Recipe
from finetune.run import Run


def finetune(recipe: Recipe, output: str | Path | None = None) -> Run:
    """Train as the recipe says and return the run; a broken-off run of the same folder goes on.

    Raises a FinetuneError for what a user can mend, Interrupted when asked to stop.
    """
    path = Path(output) if output else Path("runs") / f"{recipe.name}-{recipe.digest}"
    with opened(path, recipe) as folder:
        if folder.finished():
            console.say(f"{path} is finished: nothing was done. Its result:")
        else:
            _train(recipe, folder)
    run = Run.load(path, recipe)
    if console.is_main():
        run.show()
    return run


def _train(recipe: Recipe, folder: Any) -> None:
    from accelerate import Accelerator

    from finetune import build, environment, outcome, probe
    from finetune.freezing import Frozen
    from finetune.loop import Fit

    began = time.monotonic()
    environment.keep_freed_memory()
    precision = environment.precision(recipe.train.precision)
    accelerator = Accelerator(
        mixed_precision=precision, dynamo_backend="inductor" if recipe.train.compile else None
    )
    job = build.job(recipe)
    for note in job.notes:
        folder.say(note)
    frozen = Frozen.of(job.module)
    training: dict[str, Any] = {}
    with stop_signals(folder):
        if job.method.probe:
            training |= probe.fit(job, accelerator.device, precision)
        if job.method.descends:
            training |= Fit(job, folder, accelerator).run_all()
    frozen.check(job.module)
    result = outcome.describe(job, folder) | {"training": training}
    if accelerator.is_main_process:
        result["round_trip"] = outcome.save(job, folder)
    accelerator.wait_for_everyone()
    tested, predictions = outcome.test(job, folder, accelerator)
    if accelerator.is_main_process:
        cost = {
            "seconds": round(time.monotonic() - began, 3),
            "peak_memory_bytes": environment.peak_memory(),
        }
        outcome.publish(folder, job, result | tested | {"cost": cost}, predictions)
    accelerator.wait_for_everyone()
