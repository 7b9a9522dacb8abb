"""How figures and names are written for people: in the terminal, the report and the card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from finetune.errors import escaped

NAMES = {
    "accuracy": "Accuracy",
    "top5_accuracy": "Top-5 accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "subset_accuracy": "All labels right",
    "macro_f1": "Macro F1",
    "micro_f1": "Micro F1",
    "auroc": "AUROC",
    "macro_auroc": "Macro AUROC",
    "macro_average_precision": "Mean average precision",
    "log_loss": "Log loss",
    "ece": "Calibration error (ECE)",
    "brier": "Brier score",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "matthews_correlation": "Matthews correlation",
    "f1": "F1",
    "answerable_exact_match": "Exact match, with an answer",
    "answerable_f1": "F1, with an answer",
    "unanswerable_accuracy": "No answer, rightly",
    "bleu": "BLEU",
    "chrf": "chrF",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
}
BASELINES = {
    "majority": "always the most frequent answer",
    "mean": "always the training mean",
    "beginning": "always the beginning of the context",
    "no answer": "always that there is none",
    "constant": "always the same text",
    "copy": "the source as it is",
    "unigram": "tokens by how frequent each is",
    "kNN": "nearest neighbours by frozen features",
    "linear probe": "a linear head on frozen features",
    "pretrained": "the model before training",
}
"""What the baselines are, in words."""

LADDER = {
    "kNN": "kNN on frozen features",
    "linear probe": "The linear probe on frozen features",
    "pretrained": "The pretrained model, before any training,",
}
"""Those that know the backbone, at the beginning of a sentence."""

METHODS = {
    "full": "full fine-tuning",
    "lora": "LoRA",
    "features": "feature extraction",
    "norm-bias": "norm and bias tuning",
}

SEEDS = "Intervals are of the seeds: other test rows would move figures further."
"""Said where runs are compared over seeds on the same test rows."""

UNKNOWN = "\N{EN DASH}"
"""Written where a figure is not defined."""


def metric(name: str) -> str:
    """Return the name of a metric as it is written; the sign of the choosing one is dropped."""
    plain = name.lstrip("-")
    return NAMES.get(plain) or label(plain.replace("_", " ").capitalize(), 60)


def label(name: object, longest: int = 80) -> str:
    """Return a name from the data on one line, what is not printable as escapes, and not long."""
    text = escaped(str(name)) or "(empty)"
    return text if len(text) <= longest else text[: longest - 1] + "…"


def excerpt(cell: object, longest: int = 500) -> str:
    """Return the text of a cell in short: words side by side, turns of a chat below each other.

    It may hold anything; who shows it escapes it.
    """
    if isinstance(cell, (list, tuple)):
        turns = [turn for turn in cell if isinstance(turn, Mapping)]
        lines = [f"{turn.get('role')}: {turn.get('content')}" for turn in turns]
        text = "\n".join(lines) if lines else " ".join(map(str, cell))
    else:
        text = str(cell)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def method(kind: str) -> str:
    """Return a method's kind in words."""
    return METHODS.get(kind, kind)


def baseline(name: str) -> str:
    """Return a baseline with what it does: `mean (always the training mean)`."""
    return f"{label(name)} ({BASELINES[name]})" if name in BASELINES else label(name)


def is_percent(name: str) -> bool:
    """Return whether a metric is written in percent."""
    return name.endswith(("accuracy", "exact_match"))


def value(name: str, number: Any) -> str:
    """Return a metric's value as text: `97.2 %`, `0.134`."""
    if not isinstance(number, (int, float)):
        return UNKNOWN
    if is_percent(name):
        return f"{100 * number:.1f} %"
    return f"{round(number, 3) + 0.0:.3f}" if abs(number) < 10 else f"{number:.4g}"


def interval(name: str, figure: Mapping[str, Any]) -> str:
    """Return the bounds of a figure without a unit: `95.1 to 98.4`; empty if there are none.

    Where both are the same, as where all seeds agree, they say nothing either.
    """
    low, high = figure.get("low"), figure.get("high")
    if low is None or high is None or math.isclose(low, high):
        return ""
    return " to ".join(value(name, bound).removesuffix(" %") for bound in (low, high))


def figure(name: str, given: Mapping[str, Any]) -> str:
    """Return a value with its interval, where it has one: `97.2 % (95.1 to 98.4)`."""
    bounds = interval(name, given)
    return value(name, given.get("value")) + (f" ({bounds})" if bounds else "")


def difference(name: str, figure: Mapping[str, Any]) -> str:
    """Return a difference with its interval: `+86.1 points (83.0 to 89.2)`."""
    if figure.get("value") is None:
        return ""
    scale, digits, unit = (100, 1, " points") if is_percent(name) else (1, 3, "")
    low, high = figure.get("low"), figure.get("high")
    bounds = (
        f" ({scale * low:+.{digits}f} to {scale * high:+.{digits}f})"
        if low is not None and high is not None
        else ""
    )
    return f"{scale * figure['value']:+.{digits}f}{unit}{bounds}"


def duration(seconds: float) -> str:
    """Return seconds as text: `48 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(number: float) -> str:
    """Return bytes as text: `812 MB`, `1.2 GB`, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:.3g} {unit}" if number < 100 else f"{number:.0f} {unit}"


def count(number: float) -> str:
    """Return a large count as text: `950`, `12.4 k`, `2.7 M`."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if number >= scale:
            return f"{number / (1e3 if unit == 'k' else scale):.3g} {unit}"
    return f"{number:.0f}"


def clearly_better(metric_name: str, model: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether the model beats a baseline beyond chance, in the metric that chooses.

    `model` and `other` are scores on the same samples. The paired difference decides where
    `other` holds it, else intervals that do not meet.
    """
    name, sign = metric_name.lstrip("-"), -1 if metric_name.startswith("-") else 1
    gap = other.get("difference") or {}
    if gap.get("value") is not None:
        bound = gap["low"] if sign > 0 else gap["high"]
        return bound is not None and sign * bound > 0
    ours, theirs = model.get(name, {}), other.get(name, {})
    worst, best = ("low", "high") if sign > 0 else ("high", "low")
    bounds = ours.get(worst), theirs.get(best)
    if bounds[0] is None or bounds[1] is None:
        return False
    return bool(sign * bounds[0] > sign * bounds[1])


def verdict(result: Mapping[str, Any]) -> str:
    """Return a plain sentence if the model is not clearly better than a baseline, else nothing.

    Of several such baselines it is about the best.
    """
    name, less = result["metric"].lstrip("-"), result["metric"].startswith("-")
    unbeaten = {
        known: scores
        for known, scores in result.get("baselines", {}).items()
        if name in scores and not clearly_better(result["metric"], result["test"], scores)
    }
    if not unbeaten:
        return ""

    def order(known: str) -> float:
        reached = unbeaten[known][name]["value"]
        return math.inf if reached is None else reached if less else -reached

    known = min(unbeaten, key=order)
    ours, theirs = result["test"][name]["value"], unbeaten[known][name]["value"]
    against = f"{value(name, theirs)} against {value(name, ours)}"
    gap = unbeaten[known].get("difference") or {}
    by = difference(name, gap)
    bound = gap.get("low" if less else "high")
    worse = bound is not None and (bound > 0 if less else bound < 0)
    if known not in LADDER:
        how = "Clearly worse" if worse else "Not clearly better"
        return (
            f"{how} than the baseline {baseline(known)}: {metric(name)} {value(name, ours)} "
            f"against {value(name, theirs)}{by and f', difference {by}'}. "
            "On this evidence, fine-tuning has not paid off yet."
        )
    inner = by.replace(" (", ", ").rstrip(")")
    return (
        f"{LADDER[known]} {'does better' if worse else 'is not clearly beaten'}: {against}"
        f"{inner and f' (difference {inner})'}. On this evidence, {method(result['method'])} was "
        f"not worth it.{' Take method=features.' if known == 'linear probe' else ''}"
    )


def left_out(count: int, split: str) -> str:
    """Return how many inputs of a split cannot be read."""
    inputs = "unreadable input was" if count == 1 else "unreadable inputs were"
    return f"{count:,} {inputs} left out of the {split} split."
