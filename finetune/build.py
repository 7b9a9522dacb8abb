"""From a recipe to a job: the only module that joins the nouns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetune import environment, slices, wording
from finetune.errors import DataError, Failure, FinetuneError, RecipeError, UnreadableInputs
from finetune.job import Job
from finetune.protocols import SPLITS, Network, Source, Split, Splits, Target
from finetune.samples import Samples

if TYPE_CHECKING:
    from finetune.recipe import Recipe


def cache_folder() -> Path:
    """Return where decoded images and features are kept: FINETUNE_CACHE, else the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FINETUNE_CACHE") or Path(home) / "finetune")


def job(recipe: Recipe) -> Job:
    """Load the data and the model of a recipe and join them; the errors of each noun pass through.

    Everything random (the head, LoRA's matrices) follows `train.seed`.
    """
    train = recipe.train
    precision = environment.precision(train.precision)
    splits = recipe.data.load(recipe.task.columns)
    target = recipe.task.bind(splits, train)
    check_batch(recipe, splits)
    slices.cells([splits.test], recipe.slices, recipe.task.form.reading)
    metrics = further_metrics(recipe, splits, target)
    network = untrained(recipe, target)
    device = environment.device()
    choices = [f"precision {precision}", *network.tune_for(device, precision)]
    sources, splits = open_splits(recipe, network, splits)
    skipped: dict[str, int] = {split: len(rows) for split, rows in splits.left_out.items()}
    if empty := [split for split in splits.left_out if not len(sources[split])]:
        raise DataError(f"No input of the {empty[0]} split can be read: nothing is left of it.")
    check_batch(recipe, splits, sources["train"])
    samples = {split: Samples.of(target, sources[split], splits[split]) for split in SPLITS}
    module = recipe.method.prepare(network)
    if train.gradient_checkpointing:
        network.checkpoint_activations()
    notes = [
        *splits.notes,
        *(wording.left_out(n, split) for split, n in skipped.items()),
        *(
            f"In the {split} split {told}"
            for split in SPLITS
            if (told := getattr(sources[split], "cut", None))
        ),
        f"Chosen for this machine ({device.type}): {', '.join(choices)}.",
    ]
    return Job(recipe, splits, target, network, module, samples, skipped, metrics, notes)


def untrained(recipe: Recipe, target: Target) -> Network:
    """Return the model as training starts from it: what is random in it follows `train.seed`."""
    torch.manual_seed(recipe.train.seed)
    return recipe.backbone.build(target.num_outputs, target.classes, recipe.task.form)


def check_batch(recipe: Recipe, splits: Splits, source: Source | None = None) -> None:
    """Raise RecipeError if a batch is more than the training split.

    A row of text may be several samples, or a part of one: those are known from its `source`.
    A head that is fitted to all rows at once needs no batches.
    """
    if not recipe.method.descends or (source is None and recipe.task.form.reading is not None):
        return
    size, rows = recipe.train.batch_size, len(splits.train)
    count, what = (rows, "rows") if source is None else (len(source), "samples")
    what = "rows" if count == rows else what
    if size > count:
        raise RecipeError(
            f"train.batch_size={size} is more than the {count} {what} of the training split. "
            f"Allowed: 1 to {count}."
        )


def further_metrics(recipe: Recipe, splits: Splits, target: Target) -> list[Any]:
    """Return the recipe's further metrics; raise RecipeError for one that this task cannot use.

    Each is tried on the validation truth and guesses at it, not found wanting after training.
    """
    if not recipe.metrics:
        return []
    from finetune import metrics

    found = metrics.resolve(recipe.metrics, recipe.trust_remote_code)
    truth = target.encode(splits.validation)
    random = torch.Generator().manual_seed(recipe.train.seed)
    guesses = target.guesses(truth, random)
    for asked, metric in zip(recipe.metrics, found, strict=True):
        try:
            target.scores(guesses, truth, intervals=False, metrics=[metric])
        except FinetuneError:
            raise
        except Exception as error:  # the code is anybody's, and so are its errors
            raise RecipeError(
                f"The metric {asked!r} fails on {len(truth)} predictions of this task "
                f"({type(error).__name__}: {error}). Mend it, or leave it out of metrics."
            ) from error
    return found


def open_splits(
    recipe: Recipe,
    network: Network,
    splits: Splits,
    names: Sequence[Split] = SPLITS,
    *,
    augmented: bool = True,
) -> tuple[dict[Split, Source], Splits]:
    """Return the sources of splits, and the splits without unreadable rows.

    Raises UnreadableInputs, naming all of them in all splits, unless `data.on_error` is "skip".
    """
    sources: dict[Split, Source] = {}
    failures: list[Failure] = []
    noun = "input"
    for split in names:
        try:
            sources[split] = open_split(recipe, network, splits, split, augmented=augmented)
        except UnreadableInputs as error:
            failures += [f._replace(split=split) for f in error.failures]
            noun = error.noun
            splits = without(splits, split, {failure.row for failure in error.failures})
    if failures and getattr(recipe.data, "on_error", "raise") == "raise":
        raise UnreadableInputs(failures, noun)
    for split in (name for name in names if name not in sources):
        sources[split] = open_split(recipe, network, splits, split, augmented=augmented)
    return sources, splits


def without(splits: Splits, split: Split, broken: set[int]) -> Splits:
    """Return the splits without these rows of one of them, which are counted as left out."""
    table, gone = splits[split], set(splits.left_out.get(split, ()))
    numbers = [n for n in range(len(table) + len(gone)) if n not in gone]
    left_out = tuple(sorted(gone | {numbers[row] for row in broken}))
    kept = table.select([row for row in range(len(table)) if row not in broken])
    changed: dict[str, Any] = {split: kept, "left_out": {**splits.left_out, split: left_out}}
    return replace(splits, **changed)


def open_split(
    recipe: Recipe, network: Network, splits: Splits, split: Split, *, augmented: bool = True
) -> Source:
    """Return one split as model inputs: augmented for training, native for evaluation."""
    augmentation = recipe.task.augmentation if split == "train" and augmented else None
    return network.inputs.source(
        splits[split], cache_folder(), augmentation=augmentation, seed=recipe.train.seed
    )
