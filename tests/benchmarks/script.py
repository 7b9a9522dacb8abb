"""The command line of a benchmark: which parts, on which data, into which table of results."""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common import (
    Group,
    Measured,
    arguments,
    machine,
    measure,
    once,
    say,
    section,
    update,
)
from worker import Setup

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "shared" / "data"
RESULTS = HERE / "RESULTS.md"
HEAD = """
# Results

Written by `vision.py` and `text.py` in this folder; see [README.md](README.md) for what is compared
and how. Figures are medians over the rounds, with the lowest and the highest; a ratio is taken
within each round, because then both of its figures met the same machine. In the parts on images,
weights are random.
"""

Part = tuple[Callable[[Setup, Any], list[Group]], str]
"""What is measured, and the sentence on it."""


@dataclass(frozen=True)
class Script:
    """A benchmark of several parts."""

    path: str
    story: str
    parts: Mapping[str, Part]
    setup: Setup
    """Of every part; data and scratch are put in."""
    scale: Callable[[int], Any]
    """How much is measured in so many rounds."""
    quick: Any
    rounds: int = 7
    prefix: str = ""
    """Of the parts' sections in the results."""

    def main(self) -> int:
        """Measure the parts that were asked for; return 1 if one misses its target."""
        parser = argparse.ArgumentParser(
            description=self.story, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("what", nargs="*", help="parts, data=PATH, results=PATH")
        parser.add_argument("--rounds", type=int, default=self.rounds, help="over all peers")
        parser.add_argument("--quick", action="store_true", help="a few steps, to see it run")
        asked = parser.parse_intermixed_args()
        names, paths = arguments(asked.what)
        if unknown := {*names} - {*self.parts} | {*paths} - {"data", "results"}:
            parser.error(f"unknown: {', '.join(sorted(unknown))}. Parts: {', '.join(self.parts)}")
        data = Path(paths.get("data", DATA)).resolve()
        if not data.is_dir():
            parser.error(f"there is no folder {data}: give data=PATH")
        results = None if asked.quick and "results" not in paths else paths.get("results", RESULTS)
        scale = self.quick if asked.quick else self.scale(asked.rounds)
        passed = True
        for name in names or self.parts:
            with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
                setup = replace(self.setup, data=str(data), scratch=scratch)
                passed &= all(group.passes() for group in self.run(name, setup, scale, results))
        return 0 if passed or asked.quick else 1

    def run(
        self, name: str, setup: Setup, scale: Any, results: Path | str | None
    ) -> list[Measured]:
        """Measure one part, print its section, and put it into the results."""
        whole = f"{self.prefix}{name}"
        say(f"{whole}: preparing")
        groups, story = self.parts[name]
        facts = once("prepare:machine", setup)
        began = datetime.datetime.now(datetime.UTC)
        measured = [measure(group, group.rounds or scale.rounds) for group in groups(setup, scale)]
        minutes = (datetime.datetime.now(datetime.UTC) - began).total_seconds() / 60
        asked = [word for word in sys.argv[1:] if not word.startswith(("data=", "results="))]
        command = ["python", f"tests/benchmarks/{Path(self.path).name}", *asked]
        told = {
            "date": f"{began:%Y-%m-%d %H:%M} UTC, {minutes:.0f} minutes",
            "command": f"`{shlex.join(command)}`",
            **machine(facts),
        }
        text = section(whole, story.format(**vars(scale)), told, measured)
        print(text, flush=True)
        if results is not None:
            update(Path(results), HEAD, whole, text)
        return measured
