"""What a person sees while something runs: sentences and progress bars on standard error."""

from __future__ import annotations

import os
import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from finetune.errors import printable

console = Console(stderr=True, highlight=False)


def is_main() -> bool:
    """Whether this process speaks for all processes of the run."""
    return os.environ.get("RANK", "0") == "0"


def say(sentence: str) -> None:
    """Print one sentence; whatever it quotes is inert."""
    if is_main():
        console.print(printable(sentence), markup=False)


class Rate(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        """Return the rate, or nothing while it is unknown."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "")


class Bar:
    """A progress bar with rate and time left; it shows itself only after 2 seconds."""

    def __init__(self, what: str, total: int | None) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
            console=console,
            transient=True,
        )
        self.task = self.progress.add_task(what, total=total, facts="")
        self.facts: dict[str, Any] = {}
        self.began = time.monotonic()
        self.shown = False

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown:
            self.progress.stop()

    def advance(self, count: int, **facts: float) -> None:
        """Count `count` more items, and show these figures beside the bar."""
        self.facts.update(facts)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in self.facts.items())
        self.progress.update(self.task, advance=count, facts=shown)
        if not self.shown and is_main() and time.monotonic() - self.began > 2:
            self.shown = True
            self.progress.start()
