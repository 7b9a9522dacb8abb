"""The features of every row of a recipe's data, as a parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetune import build, console, environment, extraction
from finetune.data import writing
from finetune.protocols import SPLITS

if TYPE_CHECKING:
    from finetune.protocols import Array, Table
    from finetune.recipe import Recipe

CHUNK = 1024
"""Rows written at a time."""


def write(recipe: Recipe, output: str | Path) -> int:
    """Write split, row, label and the pooled features of each row; return how many rows.

    The features are float32 lists, in the order of the splits; rows count from 0 within each, and
    those left out as unreadable are missing. Raises DataError if `output` is no .parquet file, is
    there already, or cannot be written.
    """
    path = writing.check(output, (".parquet",))
    precision, device = environment.precision(recipe.train.precision), environment.device()
    splits = recipe.data.load(recipe.task.columns)
    for note in splits.notes:
        console.say(note)
    target = recipe.task.bind(splits, recipe.train)
    torch.manual_seed(recipe.train.seed)  # as a run does: random weights are then the same
    network = recipe.backbone.build(target.num_outputs, target.classes, recipe.task.form)
    network.tune_for(device, precision)
    sources, splits, skipped = build.open_splits(recipe, network, splits, augmented=False)
    for name, broken in skipped.items():
        console.say(f"{len(broken)} unreadable inputs were left out of the {name} split.")
    key = {"inputs": repr(network.inputs), "data": splits.fingerprint}
    computed = {
        split: extraction.extract(
            network,
            sources[split],
            build.cache_folder() / "features",
            {**key, "split": split},
            batch_size=recipe.train.eval_batch_size,
            device=device,
            precision=precision,
        )
        for split in SPLITS
    }
    labels = {split: _labels(splits[split], splits.classes) for split in SPLITS}
    example = next((label for label in labels["train"] if label != []), "")
    first = {"split": "", "row": 0, "label": example, "features": computed["train"][0]}
    written = 0
    with writing.Writer(path, first) as file:
        for split in SPLITS:
            for chunk in _chunks(split, labels[split], computed[split], skipped.get(split, set())):
                file.write(chunk)
                written += len(chunk)
    console.say(f"Wrote {len(first['features'])} features of each of {written:,} rows to {output}.")
    return written


def _labels(table: Table, classes: tuple[str, ...] | None) -> list[Any]:
    """Return the labels of all rows, by name where the data declares classes."""

    def named(label: Any) -> Any:
        if isinstance(label, (list, tuple)):
            return [named(one) for one in label]
        return label if classes is None else classes[label]

    return [named(label) for label in table["label"]]


def _chunks(
    split: str, labels: list[Any], computed: Array, left_out: set[int]
) -> Iterator[list[dict[str, Any]]]:
    """Yield rows for the file, some at a time."""
    numbers = [n for n in range(len(labels) + len(left_out)) if n not in left_out]
    whole = zip(numbers, labels, computed, strict=True)
    rows = ({"split": split, "row": n, "label": la, "features": f} for n, la, f in whole)
    while chunk := list(islice(rows, CHUNK)):
        yield chunk
