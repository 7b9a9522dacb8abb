"""A run in a process of its own, so that its memory is its own and nothing before it matters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
    done = subprocess.run(command, stdout=subprocess.DEVNULL)
    if done.returncode == Interrupted.exit_code:
        raise Interrupted("Stopped; what was done is kept. Run the same command again to go on.")
    if done.returncode:
        kind = TrainingError if done.returncode == TrainingError.exit_code else RunError
        raise kind(f"The run in {folder} has failed: see the message above.")
    plan.unlink()
    return Run.load(folder)
