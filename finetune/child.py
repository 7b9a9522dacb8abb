"""A run in a process of its own, so that its memory is its own and nothing before it matters."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.errors import Interrupted, RunError, TrainingError
from finetune.folder import write
from finetune.recipe import Recipe, load
from finetune.run import Run

START = "import sys; from finetune.command import main; sys.exit(main())"


def run(recipe: Recipe, folder: Path) -> Run:
    """Return the finished run of this recipe in `folder`: the one that is there, or a new one.

    A broken-off run goes on. Raises Interrupted if it was asked to stop, TrainingError if training
    went wrong, RunError if it failed otherwise; the run itself has said why.
    """
    if (folder / "result.json").is_file() and load(folder) == recipe:
        return Run.load(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    plan = folder.with_name(f"{folder.name}.yaml")
    write(plan, recipe.to_yaml())
    command = [sys.executable, "-c", START, "finetune", f"recipe={plan}", f"output={folder}"]
    code, asked = _waited(command)
    if not code:
        plan.unlink()
    if asked or code == Interrupted.exit_code:
        raise Interrupted("Stopped; what was done is kept. Run the same command again to go on.")
    if code:
        kind = TrainingError if code == TrainingError.exit_code else RunError
        raise kind(f"The run in {folder} has failed: see the message above.")
    return Run.load(folder)


def _waited(command: Sequence[str]) -> tuple[int, bool]:
    """Return the exit code of a command, and whether this process was asked to stop meanwhile.

    The command is asked in its place: left alone it would train on, or be killed before it saves.
    """
    # Of a group of its own: Ctrl-C is for it too, but asked twice it would not save.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, process_group=0)
    asked = False

    def pass_on(number: int, _: Any) -> None:
        nonlocal asked
        asked = True
        process.send_signal(number)

    # Python takes signals in the main thread alone.
    here = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if here else ()
    # What is ignored stays so, as under nohup.
    heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, pass_on) for number in heard}
    try:
        return process.wait(), asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
