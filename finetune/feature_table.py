"""The features of every row of a recipe's data, as a parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetune import build, console, environment, extraction, wording
from finetune.data import writing
from finetune.data.columns import TRUTH, ColumnNotFound
from finetune.errors import RecipeError
from finetune.protocols import SPLITS

if TYPE_CHECKING:
    from finetune.protocols import Array, Split, Splits, Table, Target
    from finetune.recipe import Recipe

CHUNK = 1024
"""Rows written at a time."""


def write(recipe: Recipe, output: str | Path) -> int:
    """Write split, row, label and the pooled features of each row; return how many rows.

    The features are float32 lists, in the order of the splits; rows count from 0 within each, and
    those left out as unreadable are missing. Data without labels gives no column "label". Raises
    DataError if `output` is no .parquet file, is there already, or cannot be written.
    """
    path = writing.check(output, (".parquet",))
    splits, target = _loaded(recipe)
    for note in splits.notes:
        console.say(note)
    features, splits = computed(recipe, splits, target)
    for name, rows in splits.left_out.items():
        console.say(wording.left_out(len(rows), name))
    first: dict[str, Any] = {"split": "", "row": 0}
    labelled = target is not None and "label" in recipe.task.columns
    if labelled:
        labels = _labels(splits.train, splits.classes)
        first["label"] = next((label for label in labels if label != []), "")
    first["features"] = features["train"][0]
    written = 0
    with writing.Writer(path, first) as file:
        for split in SPLITS:
            for chunk in _chunks(splits, split, features[split], labelled=labelled):
                file.write(chunk)
                written += len(chunk)
    console.say(f"Wrote {len(first['features'])} features of each of {written:,} rows to {output}.")
    return written


def computed(
    recipe: Recipe, splits: Splits, target: Target | None
) -> tuple[dict[Split, Array], Splits]:
    """Return the pooled features of each split, (rows, width) float32, kept and read back as those
    of a run are, and the splits without unreadable rows.

    Raises RecipeError if a row is not one sample, and what building the backbone raises.
    """
    precision, device = environment.precision(recipe.train.precision), environment.device()
    torch.manual_seed(recipe.train.seed)  # as a run does: random weights are then the same
    outputs, classes = (target.num_outputs, target.classes) if target else (1, None)
    network = recipe.backbone.build(outputs, classes, recipe.task.form)
    network.tune_for(device, precision)
    sources, splits = build.open_splits(recipe, network, splits, augmented=False)
    if any(len(sources[split]) != len(splits[split]) for split in SPLITS):
        raise RecipeError(
            f"With task={recipe.task.kind} a row is not one sample, and has no features of its "
            "own. Take a task that reads rows one by one, such as task=text-classification."
        )
    key = {"inputs": repr(network.inputs), "data": splits.fingerprint}
    # What a text model's head sees is not yet the embedding that its pooled states are.
    pooled = getattr(network, "embeddings", None)
    if pooled is not None:
        key["pooling"] = getattr(network, "embedding", "")
    features = {
        split: extraction.extract(
            network,
            sources[split],
            build.cache_folder() / "features",
            {**key, "split": split},
            batch_size=recipe.train.eval_batch_size,
            device=device,
            precision=precision,
            pooled=pooled,
        )
        for split in SPLITS
    }
    return features, splits


def _loaded(recipe: Recipe) -> tuple[Splits, Target | None]:
    """Return the data and its target, None where the data has no labels: features need none."""
    columns = recipe.task.columns
    try:
        splits = recipe.data.load(columns)
    except ColumnNotFound as error:
        if error.name not in TRUTH:
            raise
        return recipe.data.load([name for name in columns if name not in TRUTH]), None
    return splits, recipe.task.bind(splits, recipe.train)


def _labels(table: Table, classes: tuple[str, ...] | None) -> list[Any]:
    """Return the labels of all rows, by name where the data declares classes."""

    def named(label: Any) -> Any:
        if isinstance(label, (list, tuple)):
            return [named(one) for one in label]
        return label if classes is None else classes[label]

    return [named(label) for label in table["label"]]


def _chunks(
    splits: Splits, split: Split, computed: Array, *, labelled: bool
) -> Iterator[list[dict[str, Any]]]:
    """Yield rows for the file, some at a time."""
    table, gone = splits[split], set(splits.left_out.get(split, ()))
    numbers = [n for n in range(len(table) + len(gone)) if n not in gone]
    rows: Iterator[dict[str, Any]] = ({"split": split, "row": number} for number in numbers)
    if labelled:
        labels = _labels(table, splits.classes)
        rows = ({**row, "label": label} for row, label in zip(rows, labels, strict=True))
    whole = ({**row, "features": f} for row, f in zip(rows, computed, strict=True))
    while chunk := list(islice(whole, CHUNK)):
        yield chunk
