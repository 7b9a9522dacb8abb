"""What a run started from and took: the data, the cost, the machine, the recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import wording
from finetune.protocols import SPLITS
from finetune.report.page import Block, Code, Facts, Section, Sentences, Table

if TYPE_CHECKING:
    from finetune.job import Job

MOST = 1000
"""Classes listed."""


def data(job: Job, result: Mapping[str, Any]) -> Section:
    """Return the rows of each split and class, and what was said about the data."""
    source, skipped = result["data"]["source"], result["data"].get("skipped", {})
    facts = {
        "data": source.get("id") or source.get("name") or "not named",
        "revision": source.get("revision") or "",
        "licence": source.get("license") or "not stated",
        "fingerprint": str(result["data"]["fingerprint"])[:16],
    }
    blocks: list[Block] = [
        Facts({name: wording.label(fact) for name, fact in facts.items() if fact})
    ]
    rows = {split: result["data"]["rows"].get(split, 0) for split in SPLITS}
    table = [["rows", *(f"{rows[split]:,}" for split in SPLITS)]]
    if any(skipped.values()):
        table.append(["left out: unreadable", *(f"{skipped.get(s, 0):,}" for s in SPLITS)])
    told = {split: job.target.describe(job.samples[split].truth) for split in SPLITS}
    table += [[name, *(told[split][name] for split in SPLITS)] for name in told["train"]]
    blocks.append(Table(["", *SPLITS], table, wide=False))
    counts: dict[str, Any] = {s: job.target.tally(job.samples[s].truth) for s in SPLITS}
    if job.target.classes is not None and counts["train"] is not None:
        blocks.append(classes(job.target.classes, counts))
    if result.get("notes"):
        blocks.append(Sentences(result["notes"]))
    return Section("Data", blocks)


def classes(names: Sequence[str], counts: Mapping[Any, Any]) -> Table:
    """Return how often each class is there in each split, folded away."""
    rows = [
        [wording.label(name), *(f"{int(counts[split][i]):,}" for split in SPLITS)]
        for i, name in enumerate(names[:MOST])
    ]
    more = f", the first {MOST:,} of them" if len(names) > MOST else ""
    return Table(["class", *SPLITS], rows, fold=f"How many of each of {len(names):,} classes{more}")


def run(path: Path, result: Mapping[str, Any]) -> list[Section]:
    """Return what the run took, where it ran, and the recipe that repeats it."""
    blocks: list[Block] = [Facts(_cost(result), "Cost")]
    if surroundings := _json(path / "environment.json"):
        blocks.append(Facts(_environment(surroundings), "Environment"))
    sections = [Section("The run", blocks)]
    recipe = path / "recipe.yaml"
    if recipe.is_file():
        lead = "As it was resolved; `finetune finetune recipe=recipe.yaml` runs it again."
        sections.append(Section("Recipe", [Code(recipe.read_text("utf-8"))], lead))
    return sections


def _cost(result: Mapping[str, Any]) -> dict[str, str]:
    training, cost, parameters = result["training"], result["cost"], result["parameters"]
    facts = {"whole run": wording.duration(cost["seconds"])}
    if "seconds" in training:
        facts["of it training"] = wording.duration(training["seconds"])
    facts["peak memory"] = wording.size(cost["peak_memory_bytes"])
    facts["parameters trained"] = f"{parameters['trainable_parameters']:,}"
    facts["parameters in all"] = f"{parameters['total_parameters']:,}"
    for number, look in enumerate(result.get("looks_at_test", ()), 1):
        when = str(look["time"]).replace("T", " ")[:16]
        said = f"{when}, {look['n']:,} rows in {look['precision']}, batches of {look['batch_size']}"
        facts[f"look {number} at the test split"] = said
    for library, gap in (result.get("round_trip") or {}).get("largest_difference", {}).items():
        facts[f"reloaded by {library}"] = f"logits within {gap:.1e}" if gap else "the same logits"
    return facts


def _environment(surroundings: Mapping[str, Any]) -> dict[str, str]:
    facts = {
        "Python": str(surroundings.get("python", "")),
        "system": f"{surroundings.get('system', '')} {surroundings.get('processor', '')}".strip(),
        "threads": str(surroundings.get("threads", "")),
        "GPU": ", ".join(surroundings.get("gpus", ())) or "none",
        **{str(k): str(v) for k, v in surroundings.get("versions", {}).items()},
        "commit": str(surroundings.get("git_commit") or "")[:12],
    }
    return {name: wording.label(fact) for name, fact in facts.items() if fact}


def _json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return content if isinstance(content, dict) else {}
