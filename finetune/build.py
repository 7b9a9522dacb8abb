"""From a recipe to a job: the only module that joins the nouns."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from finetune import environment
from finetune.job import Job
from finetune.protocols import SPLITS, Network, Split, Splits, Target
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
    network = build_network(recipe, target)
    device = environment.device()
    choices = [f"precision {precision}", *network.tune_for(device, precision)]
    module = recipe.method.prepare(network)
    samples = {split: open_split(recipe, network, splits, target, split) for split in SPLITS}
    notes = [*splits.notes, f"Chosen for this machine ({device.type}): {', '.join(choices)}."]
    return Job(train, recipe.method, splits, target, network, module, samples, notes)


def build_network(recipe: Recipe, target: Target) -> Network:
    """Return the recipe's backbone with a head for `target`, seeded."""
    torch.manual_seed(recipe.train.seed)
    return recipe.backbone.build(target.num_outputs, target.classes)


def open_split(
    recipe: Recipe, network: Network, splits: Splits, target: Target, split: Split
) -> Samples:
    """Return one split ready for the model: augmented for training, native for evaluation."""
    augmentation = recipe.task.augmentation if split == "train" else None
    source = network.inputs.source(
        splits[split], cache_folder(), augmentation=augmentation, seed=recipe.train.seed
    )
    return Samples(source, target.encode(splits[split]))
