"""What the command line and scripts call: a recipe in, a run out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune import console
from finetune.errors import RecipeError
from finetune.folder import opened
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


def evaluate(
    run: str | Path | Run,
    data: Any = None,
    overrides: Sequence[str] = (),
    slices: Sequence[str] = (),
    forgetting: Any = None,
) -> None:
    """Measure a finished run again, on its own test split or on `data`, and print what was found.

    Says whether the figures are those of the result to the last digit. `overrides` are further
    `data.key=value`, `slices` columns by whose values the rows are also told apart. `forgetting` is
    reference data, on which linear probes on the pretrained and on the fine-tuned backbone are
    compared. Raises what `Run.load` and `Run.evaluate` do.
    """
    from finetune import evaluation
    from finetune import forgetting as forgotten

    run = run if isinstance(run, Run) else Run.load(run)
    evaluation.show(run, evaluation.measure(run, data, overrides, slices))
    if forgetting is not None:
        forgotten.show(run, forgetting)


def predict(
    run: str | Path | Run,
    inputs: Any,
    output: str | Path | None = None,
    top_k: int | str = 5,
    **columns: str,
) -> None:
    """Predict with a finished run and write a table file, or print the first answers.

    `columns` says what a table calls the columns that the run reads: `image="photo"`. Raises
    DataError for inputs that are not there and for an output that is, RecipeError for a column that
    the run does not read; `Run.predict` returns what this writes.
    """
    from finetune import predictions

    run = run if isinstance(run, Run) else Run.load(run)
    predictions.run_command(run, inputs, output, top_k, columns)


def features(recipe: Recipe, output: str | Path) -> None:
    """Write what the backbone makes of each row to a parquet file: split, row, label, features.

    The pooled features are kept and read back as those of a run are. Raises DataError if the file
    is there already, and what reading the data and building the backbone raise.
    """
    from finetune import feature_table

    feature_table.write(recipe, output)


def compare(
    recipe: Recipe,
    methods: str = "features,lora,full",
    seeds: str = "0,1,2",
    control: str = "false",
    output: str | Path | None = None,
) -> None:
    """Fine-tune with several methods and seeds, and print what compares them.

    Raises RecipeError for a method, a seed or a switch that is not allowed.
    """
    from finetune import compare

    if control not in ("true", "false"):
        raise RecipeError(f"control={control!r} is not allowed; give control=true or false.")
    names, numbers = methods.split(","), compare.seeds_of(seeds)
    compare.compare(recipe, names, numbers, control=control == "true", output=output).show()


def show(recipe: Recipe, origins: Mapping[str, str] | None = None) -> None:
    """Print what a recipe would do, and where each value comes from; nothing is trained.

    `origins` are those of `override.apply`; what is not in them is at its default.
    """
    from finetune import show

    show.show(recipe, origins or {})


def _train(recipe: Recipe, folder: Any) -> None:
    from finetune import boundary, build, environment, extraction, outcome, wise
    from finetune.freezing import check_frozen, frozen_hashes
    from finetune.loop import Fit

    began = time.monotonic()
    environment.keep_freed_memory()
    precision = environment.precision(recipe.train.precision)
    accelerator = environment.accelerator(precision, compiled=recipe.train.compile)
    job = build.job(recipe)
    for note in job.notes:
        folder.say(note)
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
            training |= Fit(replayed, folder, accelerator).run()
    if averaged:
        training |= wise.interpolate(job, start, accelerator)
        folder.say(wise.sentence(training["wise"]))
    check_frozen(job.module, frozen)
    result = outcome.describe(job, folder) | {"training": training}
    if accelerator.is_main_process:
        result["round_trip"] = outcome.save(job, folder)
    accelerator.wait_for_everyone()
    tested, predictions, saved = outcome.test(job, folder, accelerator)
    if accelerator.is_main_process:
        cost = {
            "seconds": round(time.monotonic() - began + training.pop("earlier_seconds", 0.0), 3),
            "peak_memory_bytes": environment.peak_memory(),
        }
        result |= tested | {"cost": cost}
        outcome.publish(folder, job, result, predictions, saved)
    accelerator.wait_for_everyone()
