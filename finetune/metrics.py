"""The door to `evaluate`: our metrics as one `evaluate.Metric`, and the metrics of others.

Importing this takes seconds, as `evaluate` does, so a run that asks for no metric of others scores
with `finetune.scoring` alone, whose functions `Metric` computes too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
from datasets import Features, List, Value  # the words in which evaluate declares its columns

from finetune.errors import RecipeError
from finetune.intervals import grouped
from finetune.metric_entry import Kind
from finetune.metric_table import TABLE, decided
from finetune.protocols import Array
from finetune.scoring import arrays, check_names, score
from finetune.text_metrics import COUNTED

PINNED = re.compile(r"[0-9a-f]{40}|v?[0-9]+(\.[0-9]+)*")
"""A full commit hash, or a tag that reads as a version: what does not move as a branch does."""


class Metric(evaluate.Metric):  # type: ignore[misc]  # evaluate carries no types
    """One or several metrics of a kind of target; works offline and keeps no files.

    `Metric("accuracy", "auroc").compute(predictions=..., references=...)` gives plain numbers, as
    metrics of `evaluate` do, from probabilities (n, classes) and positions (n,); without names it
    computes all usual ones. What other kinds take is told in `finetune.metric_table` and
    `finetune.text_metrics`. With `intervals=True` each is `{"value", "low", "high", "n"}`. Raises
    RecipeError for a name that `kind` does not have.
    """

    def __init__(
        self,
        *names: str,
        kind: Kind = "classes",
        intervals: bool = False,
    ) -> None:
        self.kind, self.only, self.intervals = kind, names, intervals
        check_names(names, TABLE[kind])
        super().__init__(keep_in_memory=True, seed=0)

    def _info(self) -> evaluate.MetricInfo:
        probabilities, positions = List(Value("float64")), Value("int64")
        text = Value("string")
        predictions, references = {
            "classes": (probabilities, positions),
            "label_sets": (probabilities, List(positions)),
            "numbers": (Value("float64"), Value("float64")),
            "tags": (List(text), List(text)),
            "spans": (text, List(text)),
            "texts": (text, text),
            "tokens": (Value("float64"), Value("float64")),
        }[self.kind]
        return evaluate.MetricInfo(
            description=f"{', '.join(self.only) or 'All usual metrics'} ({self.kind})",
            citation="",
            inputs_description="predictions and references, first axis the samples",
            features=Features({"predictions": predictions, "references": references}),
        )

    def _build_data_dir(self) -> str:
        # Nothing is written, so no folder need be made in a cache that may be read-only.
        return ""

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        scores = score(self.kind, predictions, references, only=self.only, intervals=self.intervals)
        if self.intervals:
            return scores
        return {name: result["value"] for name, result in scores.items()}


def resolve(metrics: Iterable[Any], trust_remote_code: bool = False) -> list[Any]:
    """Return further metrics ready for `scores`: names of the table, and objects with `compute`.

    A metric of the hub is its author's code, which `evaluate` runs as it loads it. RecipeError is
    raised unless that was allowed and its revision is pinned; also for unknown names, other
    objects, and metrics that cannot be loaded.
    """
    return [_resolved(metric, trust_remote_code) for metric in metrics]


def _resolved(metric: Any, trust_remote_code: bool) -> Any:
    if not isinstance(metric, str):
        # No truth value here: a metric that holds no samples yet is false.
        if callable(getattr(metric, "compute", None)) and not isinstance(metric, type):
            return metric
        raise RecipeError(
            f"{metric!r} is no metric: give a name, 'user/name@revision', or an object of a class "
            "that derives from evaluate.Metric."
        )
    if "/" not in metric:
        check_names([metric], (name for table in TABLE.values() for name in table))
        return metric
    name, _, revision = metric.partition("@")
    if not trust_remote_code:
        raise RecipeError(
            f"The metric {metric!r} is code of its author that would run on this machine. Read it, "
            f"and if you trust it write trust_remote_code=true and {name}@<commit>."
        )
    if not PINNED.fullmatch(revision):
        raise RecipeError(
            f"The metric {metric!r} runs code, so its revision must be pinned: write {name}@ and "
            "the 40 hexadecimal digits of a commit, or a version tag such as v1.0."
        )
    from huggingface_hub import constants, snapshot_download

    try:
        # Not evaluate.load(name, revision=...): it takes a folder of this name in the working
        # directory first, and where the hub cannot be reached any revision that it finds cached.
        folder = snapshot_download(
            name,
            repo_type="space",
            revision=revision,
            allow_patterns=["*.py"],
            local_files_only=constants.HF_HUB_OFFLINE,
        )
        return evaluate.load(str(Path(folder) / f"{name.rpartition('/')[2]}.py"))
    except Exception as error:  # the code is anybody's, and so are its errors
        raise RecipeError(
            f"The metric {metric!r} could not be loaded ({type(error).__name__}: {error}). Check "
            "the name, the revision and the connection, or give the metric as an object."
        ) from error


def score_others(
    kind: Kind,
    predictions: Array,
    references: Array,
    metrics: Sequence[Any],
    ours: Mapping[str, Any],
    *,
    intervals: bool,
) -> dict[str, Any]:
    """Return the scores of metrics of others, under a name of their own where it is one of `ours`.

    Single numbers get a jackknife interval over 20 groups.
    """
    plain = kind in COUNTED  # lists of texts, which are no arrays
    true = references if plain else arrays(kind, predictions, references)[1]
    result: dict[str, Any] = {}
    for metric in metrics:
        inputs = {"predictions": predictions, "references": references}
        if not plain:
            inputs = _inputs(metric, kind, *arrays(kind, predictions, references))

        def compute(keep: Any, metric: Any = metric, inputs: Any = inputs) -> dict[str, Any]:
            return dict(metric.compute(**{n: _kept(cells, keep) for n, cells in inputs.items()}))

        for name, value in compute(slice(None)).items():
            value = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
            number = isinstance(value, (int, float)) and math.isfinite(value)
            figure = {"value": value if number or isinstance(value, list) else None}
            if intervals:
                low, high = None, None
                if number:
                    statistic = lambda keep, name=name: float(compute(keep)[name])  # noqa: E731
                    low, high = grouped(statistic, value, len(true))
                figure |= {"low": low, "high": high}
            prefix = f"{getattr(metric, 'name', type(metric).__name__)}_"
            taken = name in ours or name in result
            result[prefix + name if taken else name] = figure | {"n": len(true)}
    return result


def _kept(cells: Any, keep: Any) -> Any:
    """Return some rows of an array, or of a list."""
    if isinstance(cells, np.ndarray):
        return cells[keep]
    return cells[keep] if isinstance(keep, slice) else [cells[row] for row in keep]


def _inputs(metric: Any, kind: Kind, given: Array, true: Array) -> dict[str, Array]:
    """Return predictions as the metric declares them: scores if it takes floats, else decisions."""
    members = getattr(metric, "evaluation_modules", None)
    features = getattr(metric if members is None else members[0], "features", None) or {}
    features = features[0] if isinstance(features, list) else features
    key = "prediction_scores" if "prediction_scores" in features else "predictions"
    feature = features.get(key)
    inner = getattr(feature, "feature", feature)
    if kind != "numbers" and not str(getattr(inner, "dtype", "")).startswith("float"):
        given = decided(given, true)
    elif kind == "classes" and inner is feature and given.shape[1] == 2:
        given = given[:, 1]
    return {key: given, "references": true}
