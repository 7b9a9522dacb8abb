"""What the command line and scripts call: a recipe in, a run out."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune import console, hub, override, tracking
from finetune.errors import RecipeError
from finetune.folder import opened
from finetune.hub import Hub
from finetune.recipe import Recipe
from finetune.run import Run


def finetune(
    recipe: Recipe,
    output: str | Path | None = None,
    evidence: bool | str | None = None,
    track: str | Sequence[str] = (),
) -> Run:
    """Train as the recipe says and return the run; a broken-off run of the same folder goes on.

    Without `evidence` the result stands beside baselines only that need no model: if not given, the
    environment variable FINETUNE_EVIDENCE says so by `false`. `track` names trackers, such as
    "tensorboard" or "wandb", that get the figures of the log too. Where `recipe.hub` names a
    repository, whether it can be pushed to is known before training. Raises a FinetuneError for
    what a user can mend, Interrupted when asked to stop.
    """
    given = os.environ.get("FINETUNE_EVIDENCE", "true") if evidence is None else evidence
    whole, trackers = _switch("evidence", given), tracking.asked(track)
    asked, recipe = recipe.hub, recipe.model_copy(update={"hub": Hub()})
    path = Path(output) if output else Path("runs") / f"{recipe.name}-{recipe.digest}"
    if asked.push and console.is_main():
        hub.check(asked, recipe)
    with opened(path, recipe) as folder:
        if folder.finished():
            console.say(f"{path} is finished: nothing was done. Its result:")
        else:
            _train(recipe, folder, whole, asked, trackers)
    run = Run.load(path, recipe)
    if console.is_main():
        run.show()
        if asked.push:
            hub.push(run, asked)
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


def push(
    run: str | Path | Run,
    repo: str,
    private: bool | str = False,
    revision: str | None = None,
    adapter_only: bool | str = False,
) -> str:
    """Push a finished run to the hub and return the address; raises what `Run.push` does.

    Switches may be words, "true" or "false".
    """
    given = {"push": repo, "private": private, "revision": revision, "adapter_only": adapter_only}
    asked = override.build(Hub, given)
    return hub.push(run if isinstance(run, Run) else Run.load(run), asked)


def export(
    run: str | Path | Run,
    format: str,
    output: str | Path | None = None,
    int8: str | None = None,
    data: Any = None,
) -> None:
    """Write a finished run as a folder for others: `onnx`, or `merged` for LoRA.

    Raises RecipeError for a value that is not allowed, and what `Run.load` and `Run.export` do.
    """
    switched = None if int8 is None else _switch("int8", int8)
    run = run if isinstance(run, Run) else Run.load(run)
    run.export(format, output, int8=switched, data=data)


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
    lrs: str = "",
    learning_curve: str = "false",
    output: str | Path | None = None,
) -> None:
    """Fine-tune with several methods and seeds, and print what compares them.

    Raises RecipeError for a method, a seed, a learning rate or a switch that is not allowed.
    """
    from finetune import compare

    compare.compare(
        recipe,
        methods.split(","),
        compare.seeds_of(seeds),
        control=_switch("control", control),
        lrs=compare.lrs_of(lrs) if lrs else (),
        curve=_switch("learning_curve", learning_curve),
        output=output,
    ).show()


def rank(
    backbones: str,
    overrides: Sequence[str] = (),
    recipe: Recipe | None = None,
    samples: int | str = 2000,
    output: str | Path | None = None,
) -> None:
    """Rank backbones for some data by what frozen features of a part of it are worth.

    `backbones` are names with commas between them; without a `recipe` they are classifiers of
    images or of texts, as the first of them reads, on the data that `overrides` name. Raises
    RecipeError for fewer than two backbones, an unknown one, or a number that is not allowed.
    """
    from finetune import rank

    plan = rank.plan(backbones, overrides, recipe)
    rank.rank(plan, samples=rank.samples_of(samples), output=output).show()


def check(
    recipe: Recipe,
    strict: str = "false",
    labels: str = "false",
    output: str | Path | None = None,
) -> None:
    """Say what is wrong with the data of a recipe, and write it to check.json and report.html.

    Raises RecipeError for a switch that is not allowed, DataError for serious findings if `strict`.
    """
    from finetune.preflight.check import check

    switches = {"strict": _switch("strict", strict), "labels": _switch("labels", labels)}
    check(recipe, **switches, output=output)


def reproduce(
    run: str | Path | None = None,
    recipe: str | None = None,
    output: str | Path | None = None,
) -> None:
    """Run a finished run or a shipped recipe again, and print whether it came out the same.

    Raises NotReproduced if it did not, RecipeError where there is nothing to hold it against.
    """
    from finetune import reproduce

    reproduce.reproduce(run, recipe, output).show()


def show(recipe: Recipe, origins: Mapping[str, str] | None = None) -> None:
    """Print what a recipe would do, and where each value comes from; nothing is trained.

    `origins` are those of `override.apply`; what is not in them is at its default.
    """
    from finetune import show

    show.show(recipe, origins or {})


def search(
    recipe: Recipe,
    texts: Sequence[str] = (),
    trials: str = "20",
    output: str | Path | None = None,
) -> None:
    """Search over fields of a recipe, and print the trials and the best.

    `texts` are overrides, some of them ranges such as "train.lr=1e-5..1e-3:log". Raises RecipeError
    for what cannot be searched, and without Optuna.
    """
    from finetune import search

    search.search(recipe, texts, search.trials_of(trials), output).show()


def _switch(name: str, given: bool | str) -> bool:
    """Return whether `given` is true; raise RecipeError if it is neither true nor false."""
    if given not in (True, False, "true", "false"):
        raise RecipeError(f"{name}={given!r} is not allowed; give {name}=true or false.")
    return given in (True, "true")


def _train(
    recipe: Recipe, folder: Any, evidence: bool, asked: Hub, trackers: Sequence[str]
) -> None:
    from finetune import baselines, build, environment, front_matter, outcome
    from finetune.preflight.check import brief
    from finetune.training import learn

    began = time.monotonic()
    environment.keep_freed_memory()
    precision = environment.precision(recipe.train.precision)
    accelerator = environment.accelerator(precision, compiled=recipe.train.compile)
    job = build.job(recipe)
    card = front_matter.check(job)
    if asked.push and accelerator.is_main_process:
        hub.check_card(asked, card)
    for note in job.notes:
        folder.say(note)
    if accelerator.is_main_process:
        for found in brief(job.splits, recipe.task):
            folder.say(f"Look at the data: {found}.")
    with tracking.tracked(trackers, folder, recipe):
        training = learn(job, folder, accelerator)
    result = outcome.describe(job, folder) | {"training": training}
    if accelerator.is_main_process:
        result["round_trip"] = outcome.save(job, folder)
    accelerator.wait_for_everyone()
    tested, predictions, saved = outcome.test(job, folder, accelerator)
    cost = {
        "seconds": round(time.monotonic() - began, 3),
        "peak_memory_bytes": environment.peak_memory(),
    }
    rungs = baselines.ladder(job, folder, accelerator, precision) if evidence else {}
    if accelerator.is_main_process:
        cost["evidence_seconds"] = round(time.monotonic() - began - cost["seconds"], 3)
        cost["seconds"] = round(cost["seconds"] + training.pop("earlier_seconds", 0.0), 3)
        result |= tested | {"cost": cost}
        outcome.publish(folder, job, result, predictions, rungs, saved if evidence else None)
    accelerator.wait_for_everyone()
