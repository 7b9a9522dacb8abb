"""Commands in child processes that start in a blink: forked from one that has imported it all."""

from __future__ import annotations

import functools
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")


@functools.cache
def start_server() -> None:
    """Start the process that the children are forked from."""
    CONTEXT.set_forkserver_preload(["imported"])
    before = os.environ.get("PYTHONPATH")
    # It looks for what it preloads where any Python would, and silently goes without.
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _command(arguments: Sequence[str], output: Path, file_bytes: int | None) -> None:
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ["COLUMNS"] = "1000"
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    from finetune.command import main

    sys.exit(main(arguments))


class Child:
    """`finetune ARGUMENTS` in a process of its own; what it prints is added to a file."""

    def __init__(
        self, arguments: Sequence[str], output: Path, file_bytes: int | None = None
    ) -> None:
        start_server()
        self.output = output
        self.process = CONTEXT.Process(target=_command, args=(arguments, output, file_bytes))
        self.process.start()

    def when(self, condition: Callable[[], bool], number: int, after: float = 0.0) -> bool:
        """Send a signal when something is so, seconds later; False if it ended before."""
        while not condition():
            if not self.process.is_alive():
                return False
            time.sleep(0.0002)
        time.sleep(after)
        if not self.process.is_alive():
            return False
        assert self.process.pid is not None
        os.kill(self.process.pid, number)
        return True

    def code(self) -> int:
        """Wait for the end and return the exit code, negative for a signal."""
        self.process.join(300)
        assert self.process.exitcode is not None, "it hangs"
        return self.process.exitcode

    def said(self) -> str:
        return self.output.read_text("utf-8")


def finetune(recipe: Path, run: Path, file_bytes: int | None = None) -> Child:
    """Start `finetune finetune recipe=FILE output=DIR`."""
    arguments = ["finetune", f"recipe={recipe}", f"output={run}"]
    return Child(arguments, run.with_suffix(".said"), file_bytes)
