"""What a finished run says in the terminal: the headline, what it cost, and where things lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from finetune import wording

MOST = 4
"""Metrics shown; all of them are in result.json and the report."""


def show(result: Mapping[str, Any], path: Path | None = None) -> None:
    """Print a result on standard output; where that is no terminal, without any colour codes.

    With the folder of the run, also what the training took and where things lie.
    """
    console = Console(highlight=False, soft_wrap=False)
    kinds = f"{result['task']}, {wording.method(result['method'])}"
    console.print()
    console.print(Text.assemble((wording.label(result["name"]), "bold"), f"  {kinds}"))
    console.print(_scores(result))
    if sentence := wording.verdict(result):
        console.print(Text(sentence, style="yellow"))
    if path is not None:
        console.print()
        console.print(_facts(result, path))


def _scores(result: Mapping[str, Any]) -> Table:
    """Return the metrics by split, then the baselines beside the test."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("")
    for split in ("validation", "test"):
        table.add_column(f"{split}, n = {_samples(result[split]):,}")
    main = result["metric"].lstrip("-")
    rest = [name for name in result["test"] if name not in (main, "per_class")]
    for name in [main, *rest][:MOST]:
        style = "bold" if name == main else ""
        cells = [
            wording.figure(name, result[split].get(name, {})) for split in ("validation", "test")
        ]
        table.add_row(Text(wording.metric(name), style=style), *(Text(c, style) for c in cells))
    for known, scores in result.get("baselines", {}).items():
        if main not in scores:
            continue
        table.add_row(Text(f"baseline: {known}"), "", Text(wording.figure(main, scores[main])))
        if gap := wording.difference(main, scores.get("difference") or {}):
            table.add_row(Text("  the model's difference"), "", Text(gap))
    return table


def _samples(scores: Mapping[str, Any]) -> int:
    return max((f["n"] for name, f in scores.items() if name != "per_class"), default=0)


def _facts(result: Mapping[str, Any], path: Path) -> Table:
    """Return what the run took, and where to go on from here."""
    training, cost, parameters = result["training"], result["cost"], result["parameters"]
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    time = wording.duration(cost["seconds"])
    if "seconds" in training:
        time += f", {wording.duration(training['seconds'])} of it training"
    if "samples_per_second" in training:
        time += f" at {training['samples_per_second']:,.0f} samples/s"
    learned, total = parameters["trainable_parameters"], parameters["total_parameters"]
    rows = {
        "time": time,
        "peak memory": wording.size(cost["peak_memory_bytes"]),
        "parameters": f"{learned:,} trained of {total:,} ({100 * learned / total:.3g} %)",
    }
    if skipped := {split: n for split, n in result["data"].get("skipped", {}).items() if n}:
        rows["left out"] = ", ".join(f"{n} of {split}" for split, n in skipped.items())
    rows |= {"model": f"{path / 'model'}", "report": f"{path / 'report.html'}"}
    rows["card"] = f"{path / 'README.md'}"
    for name, fact in rows.items():
        table.add_row(name, Text(wording.label(fact, 500), overflow="fold"))
    return table
