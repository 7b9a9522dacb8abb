"""Peers measured in turn, their medians and ratios, and the tables that hold them."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from worker import Facts, Setup

WORKER = Path(__file__).with_name("worker.py")
COLUMNS = {
    "samples_per_second": "samples/s",
    "accuracy": "accuracy",
    "seconds": "seconds",
    "again": "seconds, second run",
    "peak_memory": "peak memory, MB",
}
UNITS = {"peak_memory": 1e-6}


@dataclass(frozen=True)
class Peer:
    """One row of a table: `MODULE:FUNCTION` in the folder `peers`."""

    name: str
    function: str
    rounds: int | None = None
    """Measured only in so many rounds; in all if not given."""


@dataclass(frozen=True)
class Ratio:
    """A figure of one peer over a figure of another, taken in each round."""

    what: str
    over: tuple[str, str]
    """The peer's function, and the figure."""
    under: tuple[str, str]
    needed: float | None = None
    """The least median that passes."""


@dataclass(frozen=True)
class Group:
    """Peers that are measured in turn on one setup."""

    title: str
    setup: Setup
    peers: Sequence[Peer]
    ratios: Sequence[Ratio]
    check: Callable[[], str] | None = None
    """Called at the end; returns a sentence for the section."""
    rounds: int | None = None
    """Measured in so many rounds, whatever the others are."""


class Worker:
    """A peer's process."""

    def __init__(self, peer: Peer, setup: Setup) -> None:
        self.peer = peer
        scratch = Path(setup.scratch)
        name = re.sub(r"\W+", "-", f"{setup.model}-{peer.function}")
        self.errors = scratch / f"{name}.log"
        settings = {
            "HF_HOME": str(scratch / "huggingface"),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "FINETUNE_CACHE": str(scratch / "cache"),
        }
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(WORKER), peer.function, json.dumps(asdict(setup))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=scratch,
                env=os.environ | settings,
            )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()

    def answer(self) -> Facts:
        """Return the next line of the peer; raise RuntimeError with its last words if it ended."""
        line = self.process.stdout.readline()
        if not line:
            told = self.errors.read_text("utf-8", "replace").strip().splitlines()
            raise RuntimeError(f"{self.peer.name} ended early:\n" + "\n".join(told[-15:]))
        return json.loads(line)

    def measure(self) -> Facts:
        """Let the peer measure once."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.answer()


@dataclass
class Measured:
    """What each peer of a group gave, round by round."""

    group: Group
    rounds: dict[str, list[Facts]] = field(default_factory=dict)

    def series(self, function: str, figure: str) -> list[float]:
        """Return one figure of one peer, round by round."""
        return [facts[figure] for facts in self.rounds[function]]

    def ratio(self, ratio: Ratio) -> list[float]:
        """Return a ratio, round by round."""
        pairs = zip(self.series(*ratio.over), self.series(*ratio.under), strict=False)
        return [over / under for over, under in pairs]

    def passes(self) -> bool:
        """Return whether every ratio with a target reaches it."""
        return all(
            statistics.median(self.ratio(ratio)) >= ratio.needed
            for ratio in self.group.ratios
            if ratio.needed is not None
        )


def measure(group: Group, rounds: int) -> Measured:
    """Start every peer, then measure them in turn, `rounds` times."""
    measured = Measured(group, {peer.function: [] for peer in group.peers})
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(peer, group.setup)) for peer in group.peers]
        for worker in workers:
            worker.answer()
        for turn in range(rounds):
            say(f"  {group.title}: round {turn + 1} of {rounds}")
            for worker in workers:
                if worker.peer.rounds is None or turn < worker.peer.rounds:
                    measured.rounds[worker.peer.function].append(worker.measure())
    return measured


def once(function: str, setup: Setup) -> Facts:
    """Return what a peer measures in a process that ends then."""
    with Worker(Peer(function, function), setup) as worker:
        worker.answer()
        return worker.measure()


def section(name: str, story: str, facts: Mapping[str, str], groups: Iterable[Measured]) -> str:
    """Return one part of the results as Markdown."""
    lines = [f"## {name}", "", story, ""]
    lines += [f"- {key}: {value}" for key, value in facts.items()]
    for measured in groups:
        lines += ["", f"### {measured.group.title}", "", *_figures(measured)]
        lines += ["", *_ratios(measured)]
        if measured.group.check is not None:
            lines += ["", measured.group.check()]
    return "\n".join(lines) + "\n"


def _figures(measured: Measured) -> list[str]:
    seen = {key for rounds in measured.rounds.values() for facts in rounds for key in facts}
    columns = [key for key in COLUMNS if key in seen]
    rows = [["peer", *(COLUMNS[key] for key in columns)]]
    for peer in measured.group.peers:
        cells = [peer.name]
        for key in columns:
            given = [facts[key] for facts in measured.rounds[peer.function] if key in facts]
            cells.append(spread([UNITS.get(key, 1) * value for value in given]))
        rows.append(cells)
    return table(rows)


def _ratios(measured: Measured) -> list[str]:
    rows = [["ratio, taken in each round", "median (range)", "needed", ""]]
    for ratio in measured.group.ratios:
        values = measured.ratio(ratio)
        needed, verdict = "", ""
        if ratio.needed is not None:
            needed = f"{ratio.needed:g}"
            verdict = "pass" if statistics.median(values) >= ratio.needed else "**miss**"
        rows.append([ratio.what, spread(values), needed, verdict])
    return table(rows)


def spread(values: Sequence[float]) -> str:
    """Return `median (lowest to highest)`, or nothing where nothing was measured."""
    if not values:
        return ""
    middle, low, high = (_short(v) for v in (statistics.median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table whose columns also line up in a terminal."""
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(cells)} |")
    ruler = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return [lines[0], f"| {' | '.join(ruler)} |", *lines[1:]]


def update(path: Path, head: str, name: str, text: str) -> None:
    """Put the section `name` into a file of sections, and leave the others as they are."""
    old = path.read_text("utf-8") if path.exists() else ""
    parts = re.split(r"(?m)^(?=## )", old)
    sections = {part[3:].partition("\n")[0]: part.strip() for part in parts if part[:3] == "## "}
    sections[name] = text.strip()
    path.write_text("\n\n".join([head.strip(), *sections.values()]) + "\n", "utf-8")


def machine(facts: Facts) -> dict[str, str]:
    """Return device and versions in words, from what `peers.prepare` tells of them."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return {"device": facts["device"], "versions": f"Python {facts['python']}, {versions}"}


def say(sentence: str) -> None:
    """Tell a person what happens, beside the results on standard output."""
    print(sentence, file=sys.stderr, flush=True)


def arguments(texts: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the plain words, and what was given as `key=value`."""
    plain = [text for text in texts if "=" not in text]
    return plain, dict(text.split("=", 1) for text in texts if "=" in text)
