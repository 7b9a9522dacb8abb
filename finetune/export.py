"""A finished run as a folder for others: ONNX for other runtimes, or LoRA merged into its base.

What is exported is checked against the run's own model, and measured, on rows of the run's own
validation split; a folder appears only when all of that has passed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from finetune import (
    build,
    card,
    console,
    evaluation,
    export_card,
    extras,
    published,
    tables,
    wording,
)
from finetune import onnx_model as onnx
from finetune.errors import DataError, ExportError, RecipeError, RunError, nearest
from finetune.folder import told_if_full, write, write_json
from finetune.methods import lora
from finetune.protocols import Network, Splits, Target
from finetune.samples import Samples

if TYPE_CHECKING:
    from finetune.recipe import Recipe
    from finetune.run import Run

FORMATS = ("onnx", "merged")
TOKENIZER = "tokenizer.json"
ROWS = 8
"""Rows on which outputs are compared, one by one and all at once."""
TIMED = 32
"""Rows of the batch that is timed."""
TOLERANCE = 1e-4
"""Largest difference between outputs; of outputs above 10, a 100,000th of the largest."""

CPU = torch.device("cpu")


def export(
    run: Run,
    format: str,
    output: str | Path | None = None,
    int8: bool | None = None,
    data: Any = None,
) -> Path:
    """Write the run as a folder in this format, print what was measured, and return its path.

    `data` says where the run's data is now, if it has moved. Raises RecipeError for a format or an
    option that is not allowed and for a missing extra, RunError for a run or a folder that cannot
    be used, ExportError where the export does not answer as the run does.
    """
    if format not in FORMATS:
        raise RecipeError(
            f"format={format!r} is not known.{nearest(format, FORMATS)} "
            f"Allowed: {', '.join(FORMATS)}."
        )
    if output is None and run.pushed:
        raise RecipeError("A run that was pushed has no folder to write to: give output=DIR.")
    path = run.path / format if output is None else Path(output).expanduser()
    if format == "merged":
        if int8 is not None:
            raise RecipeError("int8= belongs to format=onnx; leave it out here.")
        _check_merged(run)
    else:
        extras.need("format=onnx", onnx.MODULES)
        _check_onnx(run)
    with _made(path) as folder:
        _copy(run, folder, weights=format == "merged")
        if format == "merged":
            _merged(run, folder, data)
        else:
            _onnx(run, folder, data, int8 is not False)
    console.say(f"Exported to {path}; README.md in it shows how it is used.")
    return path


def _check_onnx(run: Run) -> None:
    """Raise RunError for a run whose answers are not one pass of a model, or need Python code."""
    if run.recipe.task.form.head in ("generate", "continue"):
        raise RunError(
            f"format=onnx exports models that answer in one pass; {run.result['task']} writes "
            "token by token, with a cache, which this does not export. model/ loads with "
            "transformers as it is, and format=merged is for adapters."
        )
    if run.recipe.task.form.reading is not None and not (run.model / TOKENIZER).is_file():
        raise RunError(
            f"{run.model} has no {TOKENIZER}: the tokenizer of this model is Python code of "
            "transformers, without which nobody could give the ONNX file a text. Load model/ with "
            "transformers instead."
        )


def _check_merged(run: Run) -> None:
    """Raise RunError for a run without an adapter."""
    if run.result["method"] != "lora":
        raise RunError(
            f"format=merged is for runs of method=lora; this one is of "
            f"method={run.result['method']}, and its model/ is a plain model already: "
            f"{run.model} can be copied or loaded as it is."
        )
    if not (run.model / "adapter").is_dir():
        raise RunError(
            f"{run.model} has no adapter/ any more, which the merged model is to be compared "
            "with. Nothing was exported."
        )


@contextmanager
def _made(path: Path) -> Iterator[Path]:
    """Yield a folder that becomes `path` when all went well; RunError if something is there."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(
            f"output={path} is there already and not empty; nothing in it was touched. Give "
            "another output=DIR, or remove it."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-")
    except OSError as error:
        raise RunError(
            f"output={path} cannot be written ({error.strerror}). Give another output=DIR."
        ) from error
    with told_if_full(path), aside as scratch:
        folder = Path(scratch) / "export"
        folder.mkdir()
        yield folder
        os.replace(folder, path)


def _copy(run: Run, folder: Path, *, weights: bool) -> None:
    """Copy what lies in model/: configuration, preprocessing, labels, and the weights if wanted."""
    for file in run.model.iterdir():
        of_weights = file.name.endswith((".safetensors", ".safetensors.index.json"))
        if file.is_file() and published.of_model(file.name) and (weights or not of_weights):
            shutil.copyfile(file, folder / file.name)


@dataclass(frozen=True)
class _Rows:
    """The validation rows of a run as its model takes them."""

    samples: Samples
    target: Target
    recipe: Recipe
    splits: Splits

    @classmethod
    def of(cls, run: Run, network: Network, data: Any) -> _Rows:
        """Read them; raise DataError where they are not to be had."""
        recipe = run.recipe if data is None else evaluation.with_data(run.recipe, data, ())
        try:
            splits = recipe.data.load(recipe.task.columns)
        except DataError as error:
            raise DataError(f"{error} If the data of the run has moved: data=PATH") from error
        sources, splits = build.open_splits(
            recipe, network, splits, ("validation",), augmented=False
        )
        source, table, target = sources["validation"], splits.validation, run.target()
        if splits.fingerprint == run.result["data"]["fingerprint"]:
            truth = target.encode(table)
        else:
            console.say("The data has changed since the run: its validation split is another one.")
            truth = evaluation.matched(run, table, splits.classes)
        samples = Samples(source, target.labels(truth, source), truth)
        return cls(samples, target, recipe, splits)

    def inputs(self, rows: Any) -> dict[str, Tensor]:
        """Return the model inputs of these samples, on the CPU."""
        return self.samples.finish(self.samples.read(np.asarray(rows), 0), CPU).inputs

    def batches(self) -> list[dict[str, Tensor]]:
        """Return the rows to compare outputs on, one by one and all at once."""
        count = min(ROWS, len(self.samples))
        return [self.inputs([row]) for row in range(count)] + [self.inputs(range(count))]


def _outputs(network: Network, module: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return logits; of a head over a vocabulary those after the last token."""
    with torch.inference_mode():
        given = network.outputs(module(**inputs))
        return (given if isinstance(given, Tensor) else given.last()).float()


def _difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def _allowed(outputs: list[Tensor]) -> float:
    return TOLERANCE * max(1.0, max(float(each.abs().max()) for each in outputs) / 10)


def _merged(run: Run, folder: Path, data: Any) -> None:
    """Compare the merged model with the adapter on its base, and write the card."""
    network = run.network()
    rows = _Rows.of(run, network, data)
    target, form = rows.target, run.recipe.task.form
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.recipe.train.seed)  # a base of random weights follows it
        base = run.recipe.backbone.build(target.num_outputs, target.classes, form)
    adapted = lora.attached(base.module, run.model / "adapter")
    batches = rows.batches()
    ours = [_outputs(network, network.module.eval(), inputs) for inputs in batches]
    theirs = [_outputs(base, adapted, inputs) for inputs in batches]
    learned = rows.recipe.task.bind(rows.splits, rows.recipe.train)
    if learned != learned.native:  # the head that was saved has another unit
        width = target.num_outputs
        weight, bias = learned.rescale_head(torch.eye(width), torch.zeros(width))
        theirs = [each @ weight.T + bias for each in theirs]
    difference, allowed = _difference(ours, theirs), _allowed(ours)
    if not difference <= allowed:
        raise ExportError(
            f"The merged model's outputs differ by {difference:.1e} from those of the adapter on "
            f"its base, and at most {allowed:.0e} is allowed, so nothing was exported. The base "
            "may have changed since the run, or a file in model/ has."
        )
    said = (
        f"Merged from LoRA: on {len(ours) - 1} rows of the validation split the outputs are those "
        f"of the adapter on its base to {difference:.1e}."
    )
    write(folder / "README.md", export_card.of_merged(run, said))
    tables.say(said)


def _onnx(run: Run, folder: Path, data: Any, int8: bool) -> None:
    """Write, check and measure the ONNX files, and write what they need and the card."""
    network = run.network()
    network.module.cpu().eval()
    rows = _Rows.of(run, network, data)
    batches = rows.batches()
    expected = [_outputs(network, network.module, inputs) for inputs in batches]
    network.tune_for(CPU, "no")  # plain attention in float32: what every runtime has
    files = {"float32": folder / "model.onnx"}
    longest = np.resize(rows.samples.longest_first()[:2], 2)
    onnx.write(network, rows.inputs(longest), files["float32"])
    if int8:
        files["int8"] = folder / "model.int8.onnx"
        onnx.quantise(files["float32"], files["int8"])
    sessions = {name: onnx.Session(path) for name, path in files.items()}
    differences = {
        name: _difference(expected, [session(**inputs) for inputs in batches])
        for name, session in sessions.items()
    }
    if not differences["float32"] <= _allowed(expected):
        raise ExportError(
            f"The ONNX model's outputs differ by {differences['float32']:.1e} from PyTorch's on "
            f"rows of the validation split, and at most {_allowed(expected):.0e} is allowed, so "
            "nothing was exported. model/ of the run is untouched."
        )
    size = run.recipe.train.eval_batch_size
    head, lines, sentence = _measured(rows, files, sessions, differences, size)
    tables.show(f"{run.result['name']} as ONNX", head, lines, right=range(1, len(head)))
    tables.say(f"\n{sentence}")
    about = _about(run, network) | {"inputs": sessions["float32"].names}
    write_json(folder / export_card.ABOUT, about)
    code = export_card.snippet(run.result["task"], network.inputs.columns, about)
    text = export_card.of_onnx(run, code, f"{card.table(head, lines)}\n\n{sentence}")
    write(folder / "README.md", text)


def _about(run: Run, network: Network) -> dict[str, Any]:
    """Return what a reader of the ONNX file has to know: preprocessing, and labels in order."""
    inputs: Any = network.inputs
    target = run.target()
    facts: dict[str, Any] = {"task": run.result["task"], "labels": target.classes}
    for name in ("temperature", "thresholds"):  # fitted on validation, as `predict` uses them
        if (fitted := getattr(target, name, None)) is not None:
            facts[name] = fitted
    geometry = getattr(inputs, "geometry", None)
    if geometry is None:
        return facts | {"max_length": inputs.max_length}
    return facts | {
        "size": geometry.size,
        "resized": geometry.scaled,
        "crop_mode": geometry.crop_mode,
        "interpolation": geometry.interpolation,
        "fill": geometry.fill,
        "mean": inputs.mean,
        "std": inputs.std,
    }


def _measured(
    rows: _Rows,
    files: Mapping[str, Path],
    sessions: Mapping[str, onnx.Session],
    differences: Mapping[str, float],
    batch_size: int,
) -> tuple[list[str], list[list[str]], str]:
    """Return a table, head and lines, of size, speed and score, and what it says in a sentence."""
    samples, target = rows.samples, rows.target
    name, n = target.metric.lstrip("-"), len(samples.truth)
    timed = rows.inputs(range(min(TIMED, len(samples))))
    rates = onnx.rates(sessions, timed)
    sizes = {
        key: sum(part.stat().st_size for part in file.parent.glob(f"{file.name}*"))
        for key, file in files.items()
    }
    found = {
        key: onnx.predictions(session, samples, target, batch_size)
        for key, session in sessions.items()
    }
    scores = {
        key: target.scores(each, samples.truth, intervals=False) for key, each in found.items()
    }
    head = ["", "size", "rows/s", f"{wording.metric(name)}, validation", "outputs differ by"]
    lines = [
        [
            key,
            wording.size(sizes[key]),
            f"{rates[key]:,.0f}",
            wording.value(name, scores[key][name]["value"]),
            f"{differences[key]:.1e}",
        ]
        for key in files
    ]
    sentence = (
        f"Outputs are compared with PyTorch's on {min(ROWS, len(samples))} rows, speed is of "
        f"batches of {len(next(iter(timed.values())))} on {torch.get_num_threads()} threads, and "
        f"the validation split has n = {n:,}."
    )
    if "int8" in files:
        gap = target.difference(found["int8"], found["float32"], samples.truth)
        sentence = (
            f"{files['int8'].name} is {sizes['float32'] / sizes['int8']:.1f} times smaller and "
            f"{rates['int8'] / rates['float32']:.1f} times as fast as {files['float32'].name}; "
            f"{wording.metric(name)} changes by {wording.difference(name, gap) or wording.UNKNOWN} "
            f"(95 % interval in brackets). {sentence}"
        )
    return head, lines, sentence
