"""A finished run measured again: on its own test split, figure for figure, or on other data."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune import build, console, environment, override, summary, tables, wording
from finetune import slices as sliced
from finetune.data import assemble
from finetune.data.base import DataSource
from finetune.errors import DataError, RecipeError
from finetune.folder import write_json
from finetune.loop import predict
from finetune.protocols import SPLITS, Split, Splits
from finetune.samples import Samples
from finetune.slices import Slices

if TYPE_CHECKING:
    from finetune.protocols import Table
    from finetune.recipe import Recipe
    from finetune.run import Run

SHOWN = 20
"""Classes, and figures that differ, shown in the terminal."""


@dataclass(frozen=True)
class Measured:
    """What a look at some rows gave."""

    scores: dict[str, Any]
    rows: str
    """Which rows these are, in words."""
    fingerprint: str
    own: bool
    """Whether these are, or are meant to be, the rows of the run's own test split."""
    differences: tuple[str, ...] = ()
    """Figures that are not those of the result, where `own`."""
    reasons: tuple[str, ...] = ()
    """What has changed since the run, where figures differ."""
    slices: Slices = field(default_factory=dict)
    """The metric that chooses on parts of the rows."""


def measure(
    run: Run, data: Any = None, overrides: Sequence[str] = (), slices: Sequence[str] = ()
) -> Measured:
    """Score the saved model on the run's own test split, or on `data`, and record the look.

    `data` is a short form as in `data=`, or an object that meets the protocol; `overrides` are
    further `data.key=value`. Of other data the test split counts, found by the same rules as for
    training; where the data has one split only, all its rows do. What was pushed keeps no record of
    who looked. The model runs in float32 with the batch size of the run, so that the same rows give
    the same figures. `slices` are columns by whose values the rows are also scored in parts. Raises
    DataError for rows that cannot be used or a column that is not there, RecipeError for a key that
    is not of the data.
    """
    recipe, splits, used = _rows(run, data, overrides)
    same = splits.fingerprint == run.result["data"]["fingerprint"]
    own = same or (data is None and not overrides)
    scores, parts, count = _scored(run, recipe, splits, used, slices, declared=same)
    name = splits.source.get("id") or splits.source.get("name") or "the data"
    which = "the test split" if used == ("test",) else "all rows, as there is one split only,"
    rows = f"{which} of {name}: {count:,} rows"
    measured = Measured(scores, rows, splits.fingerprint, own, slices=parts)
    if own:
        differences = tuple(changed_figures(run.result["test"], scores))
        reasons = tuple(_changes(run, same)) if differences else ()
        measured = replace(measured, differences=differences, reasons=reasons)
        if not run.pushed:
            _record(run, count, None if same else splits.fingerprint)
    return measured


def _rows(
    run: Run, data: Any, overrides: Sequence[str]
) -> tuple[Recipe, Splits, tuple[Split, ...]]:
    """Return the recipe with the data in it, its splits, and which of them to look at."""
    columns = run.recipe.task.columns
    if data is None and not overrides:
        try:
            return run.recipe, run.recipe.data.load(columns), ("test",)
        except DataError as error:
            raise DataError(f"{error} If the data of the run has moved: data=PATH") from error
    moved = with_data(run.recipe, data, overrides)
    recipe = with_data(_undivided(run.recipe), data, overrides)
    if moved.data != recipe.data:
        # The same data elsewhere is divided as the recipe says; other data may not have such rows.
        try:
            splits = moved.data.load(columns)
        except DataError:
            pass
        else:
            if splits.fingerprint == run.result["data"]["fingerprint"]:
                return moved, splits, ("test",)
    source = recipe.data
    if not isinstance(source, DataSource):
        return recipe, source.load(columns), ("test",)
    raw, used = source.read(), SPLITS
    if source.train not in raw.tables and "[" not in source.train:
        training = [name for name in raw.tables if name != "test"] or list(raw.tables)
        source = source.model_copy(update={"train": training[0]})
    if len(raw.tables) > 1 or source.test is not None:
        used = ("test",)
    splits = assemble.splits(raw, source, columns)
    if splits.fingerprint == run.result["data"]["fingerprint"]:
        used = ("test",)
    return recipe, splits, used


def _undivided(recipe: Recipe) -> Recipe:
    """Return the recipe without what it says of which rows train, validate and test."""
    if not isinstance(recipe.data, DataSource):
        return recipe
    fields = {
        name: recipe.data.__class__.model_fields[name]
        for name in ("train", *SPLITS, "shots", "share")
    }
    plain = {name: field.default for name, field in fields.items()}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=plain)})


def with_data(recipe: Recipe, data: Any, overrides: Sequence[str]) -> Recipe:
    """Return the recipe with other data; raise RecipeError for a key that is not of the data."""
    for text in overrides:
        if not text.startswith("data."):
            raise RecipeError(
                f"{text!r} cannot be set here: a finished run is measured as it is. Allowed are "
                "data= and the keys below it, such as data.label=COLUMN."
            )
    if data is None or isinstance(data, (str, Path)):
        texts = [f"data={data}"] if data is not None else []
        return override.apply(recipe, [*texts, *overrides])[0]
    return override.apply(recipe, overrides, {"data": data})[0]


def _scored(
    run: Run,
    recipe: Recipe,
    splits: Splits,
    used: Sequence[Split],
    slices: Sequence[str],
    *,
    declared: bool,
) -> tuple[dict[str, Any], Slices, int]:
    """Return scores of the saved model on the used splits together and in slices, and their rows.

    `declared` says that labels are those of the run's own data, not to be matched by name.
    """
    accelerator = environment.accelerator("no")
    network, target = run.network(), run.target()
    module = network.module.to(accelerator.device)
    sources, splits = build.open_splits(recipe, network, splits, used, augmented=False)
    given = [splits[split] for split in used if len(splits[split])]
    columns = sliced.cells(given, slices, recipe.task.form.reading)
    for split in used:
        if count := len(splits.left_out.get(split, ())):
            console.say(wording.left_out(count, split))
    predictions, targets = [], []
    for split in used:
        table = splits[split]
        if not len(table):
            continue
        encoded = target.encode(table) if declared else matched(run, table, splits.classes)
        labels = target.labels(encoded, sources[split])
        samples = Samples(sources[split], labels, encoded)
        how = samples, target, accelerator, recipe.train.eval_batch_size
        predictions.append(predict(network, module, *how, full_precision=True))
        targets.append(encoded)
    if not targets:
        raise DataError("No input of these rows can be read: there is nothing to measure.")
    further: list[Any] = []
    if recipe.metrics:
        from finetune import metrics

        further = metrics.resolve(recipe.metrics, recipe.trust_remote_code)
    answers, truth = np.concatenate(predictions), np.concatenate(targets)
    parts = sliced.scores(target, answers, truth, columns)
    return target.scores(answers, truth, metrics=further), parts, len(truth)


@dataclass(frozen=True)
class _Labels:
    """The label column of a table, under other labels."""

    labels: list[Any]

    def __getitem__(self, _: str) -> list[Any]:
        return self.labels


def matched(run: Run, table: Table, classes: tuple[str, ...] | None) -> Any:
    """Return the targets of other data, whose classes are matched to those of the run by name."""
    saved: Mapping[str, Any] = run.result["target"]
    if classes is None:
        try:  # numbers may be what classes are called: 1 to 5 are no positions of "1" to "5"
            called = {**saved, "indexed": False} if "indexed" in saved else saved
            return run.recipe.task.recall(called).encode(table)
        except DataError:
            targets = run.target().encode(table)
        first = wording.label(saved["classes"][0])
        console.say(f"The labels are numbers, taken as positions among the classes: 0 is {first}.")
        return targets

    def named(label: Any) -> Any:
        if isinstance(label, (list, tuple)):
            return [named(one) for one in label]
        return classes[label]

    labels: Any = _Labels([named(label) for label in table["label"]])
    # Of a regression, names are those of the training data; these are read as they stand.
    reset = {"names": None, "multi_hot": False}
    plain = {**saved, **{key: value for key, value in reset.items() if key in saved}}
    return run.recipe.task.recall(plain).encode(labels)


def changed_figures(before: Mapping[str, Any], scores: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each figure that is not the same to the last digit."""
    old, new = dict(leaves(before)), dict(leaves(json.loads(json.dumps(scores))))
    for key in old | new:
        if old.get(key) != new.get(key):
            yield f"{key}: {old.get(key)} in result.json, {new.get(key)} now"


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what nested mappings hold by dotted key."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from leaves(inner, f"{key}.{name}" if key else name)
    else:
        yield key, value


def _changes(run: Run, same: bool) -> Iterator[str]:
    """Yield what is not as it was when the run was tested."""
    if not same:
        yield "the data: its rows, or which of them are held out, have changed since"
    path = run.path / "environment.json"
    then = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    now = dict(leaves(environment.describe()))
    for key, value in leaves(then):
        if key in now and key != "git_commit" and now[key] != value:
            yield f"{key.removeprefix('versions.')}: {value} then, {now[key]} now"


def _record(run: Run, count: int, fingerprint: str | None) -> None:
    """Add this look at the test split to the result; say so if that cannot be done."""
    from filelock import FileLock, Timeout

    look: dict[str, Any] = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "precision": "fp32",
        "batch_size": run.recipe.train.eval_batch_size,
        "n": count,
        "command": "evaluate",
    }
    if fingerprint is not None:
        look["fingerprint"] = fingerprint
    path = run.path / "result.json"
    try:
        with FileLock(run.path / ".lock", timeout=10):
            result = json.loads(path.read_text("utf-8"))
            result["looks_at_test"] = [*result.get("looks_at_test", []), look]
            write_json(path, result)
    except (OSError, Timeout) as error:
        console.say(f"This look at the test split could not be recorded in {path}: {error}")
        return
    run.result["looks_at_test"] = result["looks_at_test"]


def show(run: Run, measured: Measured) -> None:
    """Print the figures, those of each class, and whether they are those of the result."""
    if measured.own:
        summary.show(run.result | {"test": measured.scores})
    else:
        rows = [
            [wording.metric(name), wording.value(name, f["value"]), wording.interval(name, f)]
            for name, f in measured.scores.items()
            if name != "per_class"
        ]
        tables.show(f"{run.result['name']} on {measured.rows}", ["", "", "95 % interval"], rows)
    _show_classes(measured.scores.get("per_class", {}))
    metric = run.target().metric
    sliced.show(measured.slices, metric, measured.scores[metric.lstrip("-")])
    if not measured.own:
        return
    if not measured.differences:
        tables.say("\nEvery test figure is that of result.json, to the last digit.")
        return
    first = [[line] for line in measured.differences[:SHOWN]]
    count = len(measured.differences)
    tables.show(f"{count} figures are not those of result.json, such as:", [""], first)
    why = measured.reasons or ("nothing that was recorded: the model's files may have changed",)
    tables.show("What has changed since:", [""], [[reason] for reason in why])


def _show_classes(per_class: Mapping[str, Any]) -> None:
    if not per_class:
        return

    def f1(name: str) -> float:
        value = per_class[name]["f1"]["value"]
        return -1.0 if value is None else float(value)

    names = list(per_class) if len(per_class) <= SHOWN else sorted(per_class, key=f1)[:SHOWN]
    rows = []
    for name in names:
        figures = per_class[name]
        cells = [wording.value(key, figures[key]["value"]) for key in ("precision", "recall", "f1")]
        rows.append([name, f"{figures['n']:,}", *cells, wording.interval("f1", figures["f1"])])
    title = f"The {SHOWN} weakest of {len(per_class)} classes" if len(per_class) > SHOWN else ""
    header = ["class", "n", "precision", "recall", "F1", "of F1, 95 %"]
    tables.show(title, header, rows, right=(1, 2, 3, 4))
