"""The run folder: one writer while training, then a finished run that anyone can read."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from finetune import console, environment
from finetune.checkpoint import Checkpoints
from finetune.errors import Interrupted, RecipeError, RunError
from finetune.recipe import Recipe, difference

RESULT = "result.json"
EARLIER = "earlier_result.json"
"""The result before a run went on for more epochs: its looks at the test count on."""


class Folder:
    """A run folder being written by this process, or watched by one that is not the first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path / "state")
        self.sentences: list[str] = []
        self.listeners: list[Callable[[dict[str, Any]], None]] = []
        """Called with each line of the log, on the first process."""
        self.stop_asked = False
        self.stop_can_wait = False

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
            for listener in self.listeners:
                listener(facts)

    def flushed_log(self) -> int:
        """Wait until the disk has the log, and return its length in bytes for a checkpoint."""
        with self.log_path.open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def cut_log(self, size: int) -> None:
        """Forget the lines after `size` bytes: they will be written again."""
        if console.is_main() and self.log_path.exists():
            os.truncate(self.log_path, min(size, self.log_path.stat().st_size))

    def finished(self) -> bool:
        """Whether the run has its result."""
        return (self.path / RESULT).is_file()

    def earlier_looks(self) -> list[dict[str, Any]]:
        """Return the looks at the test split from before the run went on for more epochs."""
        path = self.path / EARLIER
        if not path.is_file():
            return []
        looks: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["looks_at_test"]
        return looks

    @contextmanager
    def stops_between_updates(self) -> Iterator[None]:
        """Let a request to stop wait until the loop meets it; elsewhere it acts at once."""
        self.stop_can_wait = True
        try:
            yield
        finally:
            self.stop_can_wait = False
        if self.stop_asked:
            raise KeyboardInterrupt


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

    Raises RunError if it is not writable or full, if another run holds it, or if it belongs to
    another recipe, with the difference; Interrupted on SIGTERM or Ctrl-C.
    """
    folder = Folder(path)
    with _stoppable(folder), told_if_full(path):
        if not console.is_main():
            environment.wait_for_everyone()
            yield folder
            return
        _refuse_others(path)
        with locked(path):
            _match(folder, recipe)
            environment.wait_for_everyone()  # the others must not see what was there before
            yield folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Make the folder and hold it; the system lets go of it however this process ends."""
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
        yield
    finally:
        lock.release()


RECIPE = "recipe.yaml"
BEFORE = {".lock", f".{RECIPE}.writing"}
"""What a folder may hold before its recipe: a kill may have come then."""


def _refuse_others(path: Path) -> None:
    """Raise RunError if the folder holds what is not of a run."""
    if not path.is_dir() or (path / RECIPE).exists():
        return
    if foreign := sorted({p.name for p in path.iterdir()} - BEFORE):
        raise RunError(
            f"{path} is not empty and is no run folder (it holds {foreign[0]!r}); nothing in it "
            "was touched. Give another output=DIR."
        )


def _match(folder: Folder, recipe: Recipe) -> None:
    """Check that the folder is new or belongs to this recipe; note the recipe in it."""
    saved, text = folder.path / RECIPE, _text(recipe)
    # A run that failed before it learned anything, say at a mistyped path, may begin again.
    if {p.name for p in folder.path.iterdir()} - BEFORE != {RECIPE} and saved.exists():
        _compare(folder, saved.read_text("utf-8"), recipe)
    write(saved, text)


def _compare(folder: Folder, text: str, recipe: Recipe) -> None:
    """Raise RunError unless the saved recipe is this one, or this one with fewer epochs."""
    advice = "Give another output=DIR, or leave output= out to get a folder of its own."
    if text.startswith(SCRIPT) or _text(recipe).startswith(SCRIPT):
        if text != _text(recipe):
            raise RunError(
                f"{folder.path} holds a run of another recipe, one of them made in a script, so "
                f"that what differs cannot be shown. {advice}"
            )
        return
    earlier = Recipe.from_yaml(text)
    epochs = recipe.train.epochs
    extended = earlier.train.model_copy(update={"epochs": epochs})
    longer = epochs > earlier.train.epochs
    if longer and earlier.model_copy(update={"train": extended}) == recipe:
        if folder.finished():
            os.replace(folder.path / RESULT, folder.path / EARLIER)
    elif changes := difference(earlier, recipe):
        lines = "\n".join(f"  {line}" for line in changes)
        raise RunError(f"{folder.path} holds a run of another recipe:\n{lines}\n{advice}")


SCRIPT = "# This recipe holds objects that only its script can make; digest "


def _text(recipe: Recipe) -> str:
    """Return the recipe as YAML, or a remark that only a script can make it again."""
    try:
        return recipe.to_yaml()
    except RecipeError:
        return f"{SCRIPT}{recipe.digest}\n"


@contextmanager
def _stoppable(folder: Folder) -> Iterator[None]:
    """Turn SIGTERM and Ctrl-C into Interrupted, at once or when the loop meets the request."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python takes signals in the main thread alone
        return

    def ask(*_: Any) -> None:
        if folder.stop_asked or not folder.stop_can_wait:
            raise KeyboardInterrupt  # asked twice: go now, the last checkpoint stays
        folder.stop_asked = True

    previous = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            "Stopped. Nothing that was saved is lost: run the same command again to go on."
        ) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def told_if_full(path: Path) -> Iterator[None]:
    """Turn the errors of a full disk, whichever file met it, into RunError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        told = [f"(os error {number})" in str(error) for number in NO_ROOM]
        if not any(told) and getattr(error, "errno", None) not in NO_ROOM:
            raise
        raise RunError(
            f"The disk is full: {error}. What {path} held is kept: free some space, then run the "
            "same command again."
        ) from error
