"""The run folder: one writer while training, then a finished run that anyone can read."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune import console
from finetune.checkpoint import Checkpoints
from finetune.errors import RecipeError, RunError
from finetune.recipe import Recipe, difference


class Folder:
    """A run folder being written by this process, or watched by one that is not the first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path / "state")
        self.stop_asked = False
        self.sentences: list[str] = []

    @property
    def log_path(self) -> Path:
        """The log, one JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def model(self) -> Path:
        """The folder of the saved model."""
        return self.path / "model"

    def say(self, sentence: str) -> None:
        """Print a sentence and keep it for the result."""
        self.sentences.append(sentence)
        console.say(sentence)

    def log(self, **facts: Any) -> None:
        """Add one line to the log."""
        if console.is_main():
            with self.log_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(facts) + "\n")

    @property
    def log_bytes(self) -> int:
        """Length of the log in bytes, which a checkpoint keeps."""
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def truncate_log(self, size: int) -> None:
        """Forget the lines after `size` bytes: they will be written again."""
        if console.is_main() and self.log_path.exists():
            os.truncate(self.log_path, size)

    def finished(self) -> bool:
        """Whether the run has its result."""
        return (self.path / "result.json").is_file()


def write(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    aside = path.with_name(f".{path.name}.writing")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON."""
    write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def opened(path: Path, recipe: Recipe) -> Iterator[Folder]:
    """Open a run folder for writing: new, to be resumed, or to be extended by more epochs.

    Raises RunError if it is not writable, if another run holds it, or if it belongs to another
    recipe; in the last case the message shows the difference.
    """
    folder = Folder(path)
    if not console.is_main():
        yield folder
        return
    from filelock import FileLock, Timeout

    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(
            f"Another run is writing to {path} now. Wait for it, stop it, or give another "
            "output=DIR."
        ) from error
    except OSError as error:
        raise RunError(
            f"The run folder {path} cannot be written to ({error.strerror}). Give another "
            "output=DIR."
        ) from error
    try:
        _match(folder, recipe)
        yield folder
    finally:
        lock.release()


def _match(folder: Folder, recipe: Recipe) -> None:
    """Check that the folder is new or belongs to this recipe; note the recipe in it."""
    saved = folder.path / "recipe.yaml"
    text = _text(recipe)
    if saved.exists() and saved.read_text("utf-8").startswith(SCRIPT):
        if saved.read_text("utf-8") != text:
            raise RunError(
                f"{folder.path} holds a run of another recipe, made in a script. Give another "
                "output=DIR, or leave output= out to get a folder of its own."
            )
    elif saved.exists():
        earlier = Recipe.from_yaml(saved.read_text("utf-8"))
        extended = earlier.train.model_copy(update={"epochs": recipe.train.epochs})
        longer = recipe.train.epochs > earlier.train.epochs
        if longer and earlier.model_copy(update={"train": extended}) == recipe:
            (folder.path / "result.json").unlink(missing_ok=True)
        elif changes := difference(earlier, recipe):
            raise RunError(
                f"{folder.path} holds a run of another recipe:\n"
                + "\n".join(f"  {line}" for line in changes)
                + "\nGive another output=DIR, or leave output= out to get a folder of its own."
            )
    elif foreign := [p.name for p in folder.path.iterdir() if p.name != ".lock"]:
        raise RunError(
            f"{folder.path} is not empty and is no run folder (it holds {foreign[0]!r}); nothing "
            "in it was touched. Give another output=DIR."
        )
    write(saved, text)


SCRIPT = "# This recipe holds objects that only its script can make; digest "


def _text(recipe: Recipe) -> str:
    """Return the recipe as YAML, or a remark that only a script can make it again."""
    try:
        return recipe.to_yaml()
    except RecipeError:
        return f"{SCRIPT}{recipe.digest}\n"


@contextmanager
def stop_signals(folder: Folder) -> Iterator[None]:
    """Turn SIGTERM and Ctrl-C into a request that the loop meets before its next update."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python takes signals in the main thread alone
        return

    def ask(number: int, _: Any) -> None:
        if folder.stop_asked and number == signal.SIGINT:
            sys.exit(130)  # asked twice: go now, the last checkpoint stays
        folder.stop_asked = True

    previous = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
