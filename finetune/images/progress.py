"""A progress bar for long work on images, on standard error and only where somebody watches."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
PATIENCE_SECONDS = 2.0


def track(items: Iterable[T], total: int, title: str) -> Iterator[T]:
    """Yield `items`; after two seconds show how many of `total` are done, the rate, the time left.

    Only the first process of a machine shows it.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0" or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    started = time.monotonic()
    task = bar.add_task(title, total=total, rate="")
    try:
        for done, item in enumerate(items, 1):
            yield item
            seconds = time.monotonic() - started
            if seconds > PATIENCE_SECONDS:
                bar.start()
                bar.update(task, completed=done, rate=f"{done / seconds:.0f}/s")
    finally:
        bar.stop()
