"""The result of a run as parts of a page: the headline, the scores, the course of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finetune import wording
from finetune.report import plots
from finetune.report.log import Log
from finetune.report.page import Block, Cell, Facts, Figure, Headline, Section, Table

if TYPE_CHECKING:
    from finetune.job import Job


def subtitle(job: Job, result: Mapping[str, Any]) -> str:
    """Return what was learned from what, in one line."""
    name = job.network.origin.get("name")
    source = result["data"]["source"]
    parts = [
        result["task"].replace("-", " "),
        wording.method(result["method"]) + (f" of {wording.label(name)}" if name else ""),
        wording.label(source.get("id") or source.get("name") or ""),
    ]
    return " · ".join(part for part in parts if part)


def headline(result: Mapping[str, Any]) -> Headline:
    """Return the main metric on the test split, and whether it beats the baselines."""
    name = result["metric"].lstrip("-")
    figure = result["test"][name]
    bounds = wording.interval(name, figure)
    doubt = wording.verdict(result)
    looks = len(result.get("looks_at_test", ()))
    details = []
    if looks > 1:
        details.append(
            f"The test split has been looked at {looks} times; what was chosen in between makes "
            "this figure too good."
        )
    return Headline(
        name=f"{wording.metric(name)} on the test split",
        value=wording.value(name, figure["value"]),
        range=(f"95 % interval {bounds}, " if bounds else "") + f"n = {figure['n']:,}",
        verdict=doubt or _gain(result, name),
        good=not doubt,
        details=details,
        figure=_strip(result, name),
    )


def _gain(result: Mapping[str, Any], name: str) -> str:
    """Return by how much the model beats the best of its baselines, in a sentence."""
    reached = {
        known: scores
        for known, scores in result.get("baselines", {}).items()
        if scores.get(name, {}).get("value") is not None
    }
    if not reached:
        return ""
    sign = -1 if result["metric"].startswith("-") else 1
    known = max(reached, key=lambda known: sign * reached[known][name]["value"])
    gap = wording.difference(name, reached[known].get("difference") or {})
    other = wording.value(name, reached[known][name]["value"])
    which = "baseline" if len(reached) == 1 else "best baseline"
    return (
        f"Clearly better than the {which}: {wording.baseline(known)} reaches {other}"
        f"{gap and f', a difference of {gap}'}."
    )


def _strip(result: Mapping[str, Any], main: str) -> Figure | None:
    """Return a drawing of the model beside its baselines."""
    if result["test"][main].get("value") is None:
        return None
    answers = [
        ("test", result["test"][main]),
        ("validation", result["validation"].get(main, {})),
        *((k, other[main]) for k, other in result.get("baselines", {}).items() if main in other),
    ]
    text = f"{wording.metric(main)} with 95 % intervals, beside what the model must beat."
    return Figure(plots.strip(main, answers), text, text)


def scores(result: Mapping[str, Any]) -> Section:
    """Return all metrics on both splits beside the baselines."""
    main, baselines = result["metric"].lstrip("-"), result.get("baselines", {})
    names = [name for name in result["test"] if name != "per_class"]
    rows = [
        [
            wording.metric(name),
            *(_cell(name, result[split].get(name, {})) for split in ("test", "validation")),
            *(_cell(name, other.get(name, {})) for other in baselines.values()),
        ]
        for name in sorted(names, key=lambda name: name != main)
    ]
    counts = {split: result["data"]["rows"].get(split, 0) for split in ("test", "validation")}
    head = ["", *(f"{split}, n = {n:,}" for split, n in counts.items())]
    head += [f"baseline: {wording.label(name)}" for name in baselines]
    return Section(
        "Scores",
        [Table(head, rows)],
        "Each with its 95 % interval. Validation chose the weights, so its figures are a little "
        "too good; the test split chose nothing.",
    )


def _cell(name: str, figure: Mapping[str, Any]) -> Cell:
    bounds, value = wording.interval(name, figure), wording.value(name, figure.get("value"))
    return (value, f"({bounds})") if bounds else value


def training(result: Mapping[str, Any], log: Log) -> Section:
    """Return the learning curves, and for a fitted head the penalties that were tried."""
    blocks: list[Block] = []
    best = log.epochs.get(result["training"].get("best_epoch", 0))
    if log.loss[0]:
        lines = {"train": log.loss}
        if "log_loss" in log.validation:
            lines["validation"] = log.validation["log_loss"]
        text = "Loss in training, with augmentation, as a moving mean; and on validation."
        blocks.append(Figure(plots.curves(lines, y="loss", kept=best), text, text))
    name = result["metric"].lstrip("-")
    if name in log.validation:
        title = wording.metric(name)
        text = f"{title} on validation after each epoch; the ring marks the weights that were kept."
        line, percent = {"validation": log.validation[name]}, wording.is_percent(name)
        drawn = plots.curves(line, y=title, percent=percent, kept=best)
        blocks.append(Figure(drawn, text, text))
    if log.lr[0]:
        text = "Learning rate of the head; lower layers may follow at a share of it."
        drawn = plots.curves({"learning rate": log.lr}, y="learning rate")
        blocks.append(Figure(drawn, text, text))
    if tried := result["training"].get("probe", {}).get("tried"):
        rows = [
            [f"{t['c']:g}", f"{t['train_loss']:.4f}", f"{t['validation_loss']:.4f}"] for t in tried
        ]
        text = "The linear head: loss by the strength of its penalty; validation chose."
        blocks.append(Table(["C", "train", "validation"], rows, text, wide=False))
    if wise := result["training"].get("wise"):
        chosen = {wise["alpha"]: "chosen"}
        rows = [
            [f"{p['alpha']:g}", wording.value(name, p["value"]), chosen.get(p["alpha"], "")]
            for p in wise["curve"]
        ]
        text = "WiSE-FT: how far from the pretrained weights (0) to the fine-tuned ones (1)."
        blocks.append(
            Table(["way", f"{wording.metric(name)} on validation", ""], rows, text, wide=False)
        )
    if facts := _course(result["training"]):
        blocks.append(Facts(facts))
    return Section("Training", blocks)


def _course(training: Mapping[str, Any]) -> dict[str, str]:
    facts = {}
    if "epochs" in training:
        facts["epochs"] = f"{training['epochs']:,}"
        facts["best epoch"] = f"{training['best_epoch']:,}"
        facts["updates"] = f"{training['updates']:,}"
        facts["time"] = wording.duration(training["seconds"])
        facts["samples per second"] = f"{training['samples_per_second']:,.0f}"
        facts["samples per forward pass"] = f"{training['micro_batch_size']:,}"
    if "probe" in training:
        facts["C of the linear head"] = f"{training['probe']['c']:g}"
    return facts
