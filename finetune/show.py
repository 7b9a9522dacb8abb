"""The dry run: what a recipe would do, counted on a model without weights; nothing is trained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetune import build, environment, estimate, explain, tables, wording
from finetune.data.switches import nothing_fetched
from finetune.errors import BackboneError, DataError
from finetune.freezing import manifest
from finetune.protocols import SPLITS

if TYPE_CHECKING:
    from finetune.protocols import Network, Splits, Target
    from finetune.recipe import Recipe

Facts = dict[str, str]

NAMES_SHOWN = 8
"""Classes that are named."""


@dataclass(frozen=True)
class Outline:
    """A recipe as far as it can be made real without weights, and without fetching anything."""

    recipe: Recipe
    splits: Splits | None
    target: Target | None
    network: Network | None
    problems: tuple[str, ...]

    @property
    def num_outputs(self) -> int:
        """Width of the head; 2 while the data is not there to tell."""
        return self.target.num_outputs if self.target else 2


def show(recipe: Recipe, origins: Mapping[str, str]) -> None:
    """Print the recipe with the origin of each value, what it would do, and the model's layers.

    Data and configurations that would have to be fetched are named as missing. Raises what a run
    would raise at once: a RecipeError or BackboneError for what cannot work.
    """
    outlined = outline(recipe)
    values = explain.leaves(recipe)
    rows = [[key, _plain(value), origins.get(key, "")] for key, value in values.items()]
    unsaid = [place for place, row in enumerate(rows) if not row[2]]
    tables.show("The recipe", ["key", "value", "from"], rows, dim=unsaid)
    facts, layers = _data(outlined), list[list[str]]()
    if outlined.network is not None:
        model, layers = _model(outlined, outlined.network)
        facts |= model
    facts |= {"run folder": _folder(recipe)}
    tables.show("What it would do", ["", ""], [list(fact) for fact in facts.items()], whole=[0])
    if layers:
        header = ["layer", "parameters", "that learn", "learning rate"]
        tables.show("The layers, from the input to the head", header, layers, right=(1, 2, 3))
    notes = [*(outlined.splits.notes if outlined.splits else ()), *outlined.problems]
    for note in notes:
        tables.say(f"\n{wording.label(note, 1000)}")


def outline(recipe: Recipe) -> Outline:
    """Load the data if it is on this machine, and build the model on no device, without weights."""
    problems = []
    splits = target = network = None
    with nothing_fetched():
        try:
            splits = recipe.data.load(recipe.task.columns)
            target = recipe.task.bind(splits, recipe.train)
        except DataError as error:
            problems.append(f"About the data, of which a dry run fetches nothing: {error}")
        else:
            build.check_batch(recipe, splits)
        backbone: Any = recipe.backbone
        if hasattr(backbone, "without_weights"):
            backbone = backbone.without_weights()
        outputs = target.num_outputs if target else 2
        try:
            with torch.device("meta"):
                classes = target.classes if target else None
                network = backbone.build(outputs, classes, recipe.task.form)
        except BackboneError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            problems.append(f"About the model, of which a dry run fetches nothing: {error}")
    return Outline(recipe, splits, target, network, tuple(problems))


def _plain(value: Any) -> str:
    """Return a value of the recipe as it would be written on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(map(_plain, value)) or "none"
    return "none" if value is None else str(value) if isinstance(value, str) else f"{value}"


def _data(outlined: Outline) -> Facts:
    recipe, splits, train = outlined.recipe, outlined.splits, outlined.recipe.train
    if splits is None:
        return {"data": "not to be had here, see below: rows and classes are not known"}
    source = splits.source
    name = str(source.get("id") or source.get("name") or "")
    facts = {
        "data": name + (f" ({source['license']})" if source.get("license") else ""),
        "rows": ", ".join(f"{split} {len(splits[split]):,}" for split in SPLITS),
    }
    if outlined.target is None:
        return facts
    if classes := outlined.target.classes:
        names = ", ".join(wording.label(name, 30) for name in classes[:NAMES_SHOWN])
        more = len(classes) - NAMES_SHOWN
        facts["classes"] = f"{len(classes)}: {names}" + (f" and {more} more" if more > 0 else "")
    if recipe.method.probe:
        facts["head"] = f"fitted on frozen features, {len(recipe.method.probe)} strengths tried"
    if recipe.method.descends:
        per_epoch = math.ceil(len(splits.train) / train.batch_size)
        updates = per_epoch * train.epochs
        warm = round(train.warmup * updates)
        told = f"{per_epoch:,} an epoch, {updates:,} in all, {warm:,} of them warm-up"
        # Only when they are read is it known how many samples such rows are.
        whole = recipe.task.form.reading is None or recipe.task.form.head in ("row", "generate")
        facts["updates"] = told if whole else f"{told}, if each row is one sample"
    return facts


def _model(outlined: Outline, network: Network) -> tuple[Facts, list[list[str]]]:
    recipe, train = outlined.recipe, outlined.recipe.train
    device, precision = environment.device(), environment.precision(train.precision)
    choices = [f"precision {precision}", *network.tune_for(device, precision)]
    layers = network.layers()
    native = dict(network.module.named_parameters())
    size = min(train.micro_batch_size or train.batch_size, train.batch_size)
    if not recipe.method.descends:
        size = train.eval_batch_size
    with torch.device("meta"):
        inputs = network.inputs.blank(size)
        features = _features(network, inputs)
        module = recipe.method.prepare(network)
    if train.gradient_checkpointing:
        network.checkpoint_activations()
    learned = manifest(module)
    scales = recipe.method.lr_scales(network)
    rows = _layers(recipe, layers, native, module, scales)
    parts = estimate.memory(
        module,
        network,
        train,
        scales,
        device=device,
        precision=precision,
        batch_size=size,
        descends=recipe.method.descends,
    )
    trained, total = learned["trainable_parameters"], learned["total_parameters"]
    guessed = "" if outlined.target else ", until the data tells"
    return {
        "parameters": f"{trained:,} learn of {total:,} ({100 * trained / total:.3g} %)",
        "input": "; ".join(f"{name} {_shape(value.shape)}" for name, value in inputs.items()),
        "features": features,
        "outputs": _outputs(recipe, size, outlined.num_outputs) + guessed,
        "batch": _batch(recipe, size),
        "machine": f"{device.type}, {', '.join(choices)}",
        "peak memory": _memory(parts, device),
    }, rows


def _features(network: Network, inputs: dict[str, Any]) -> str:
    try:
        with torch.no_grad():
            return _shape(network.features(inputs).shape)
    except Exception:  # a model whose forward looks at values cannot run without them
        return "not known: the forward pass of this model looks at values"


def _outputs(recipe: Recipe, size: int, count: int) -> str:
    if recipe.task.form.head in ("generate", "continue"):
        return "how likely each token of the vocabulary is, for each token"
    return _shape((size, count) if recipe.task.form.head == "row" else (size, "tokens", count))


def _shape(sizes: Any) -> str:
    return " × ".join(map(str, sizes))


def _batch(recipe: Recipe, size: int) -> str:
    if not recipe.method.descends:
        return f"{size} samples per forward pass"
    whole = recipe.train.batch_size
    cut = "in one pass" if size == whole else f"in {math.ceil(whole / size)} passes of {size}"
    return f"{whole} samples an update, {cut}"


def _memory(parts: Mapping[str, int | None], device: torch.device) -> str:
    """Return the estimate in words, its parts by size."""
    known = {name: number for name, number in parts.items() if number is not None}
    if device.type == "cpu":
        known["libraries"] = environment.peak_memory()
    told = ", ".join(f"{name} {wording.size(number)}" for name, number in known.items())
    unknown = [name for name, number in parts.items() if number is None]
    without = f"; not counted: {', '.join(unknown)}" if unknown else ""
    return f"about {wording.size(sum(known.values()))} by estimate ({told}{without})"


def _layers(
    recipe: Recipe,
    layers: list[list[str]],
    native: Mapping[str, Any],
    module: Any,
    scales: Mapping[str, float],
) -> list[list[str]]:
    """Return name, size, learning size and rate of each layer, and of what the method adds."""
    now = {id(parameter): parameter for parameter in module.parameters()}
    rows = []
    for names in layers:
        mine = [native[name] for name in names]
        learning = [p for p in mine if id(p) in now and p.requires_grad]
        rate = max((scales.get(n, 1.0) for n in names if native[n].requires_grad), default=0.0)
        rows.append(_row(recipe, _named(names), mine, learning, rate))
    known = {id(parameter) for parameter in native.values()}
    added = [parameter for key, parameter in now.items() if key not in known]
    if added:
        learning = [parameter for parameter in added if parameter.requires_grad]
        rows.append(_row(recipe, f"added by {recipe.method.kind}", added, learning, 1.0))
    return rows


def _row(recipe: Recipe, name: str, every: Any, learning: Any, rate: float) -> list[str]:
    count = sum(parameter.numel() for parameter in learning)
    told = f"{recipe.train.lr * rate:.3g}" if recipe.method.descends else "fitted"
    total = sum(parameter.numel() for parameter in every)
    return [name, f"{total:,}", f"{count:,}" if count else "–", told if count else "–"]


def _named(names: list[str]) -> str:
    """Return what the parameters of a layer have in common, or their modules."""
    groups: dict[str, list[list[str]]] = {}
    for name in names:
        parts = name.split(".")
        groups.setdefault(parts[0], []).append(parts[:-1] or parts)
    return ", ".join(".".join(_shared(paths)) for paths in groups.values())


def _shared(paths: list[list[str]]) -> list[str]:
    """Return the parts with which all paths begin."""
    together = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return [parts[0] for parts in together]


def _folder(recipe: Recipe) -> str:
    path = Path("runs") / f"{recipe.name}-{recipe.digest}"
    if (path / "result.json").is_file():
        return f"{path} (finished already)"
    return f"{path} (begun already, to be resumed)" if path.exists() else str(path)
