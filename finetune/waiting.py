"""Calls that may never return, such as asking a network that is not there."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar, cast

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return what the call returns, or raise what it raises, or TimeoutError if it is too slow.

    Name look-up has no time limit of its own, hence the thread; a daemon holds up no exit.
    """
    results: queue.Queue[tuple[T | None, Exception | None]] = queue.Queue()

    def run() -> None:
        try:
            results.put((call(), None))
        except Exception as error:  # handed to the caller
            results.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} seconds") from None
    if error is not None:
        raise error
    return cast(T, result)
