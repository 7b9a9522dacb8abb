"""The figures of the log, sent on to TensorBoard, W&B and their like by Accelerate's trackers.

They get the names of metrics.jsonl, `validation/accuracy` for what is nested there, and the number
of the update as step. A process that resumes a run begins a run of its own in a tracker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from finetune import console, explain, extras
from finetune.errors import SECRET, RecipeError, nearest, said

if TYPE_CHECKING:
    from finetune.folder import Folder
    from finetune.recipe import Recipe


def asked(track: str | Sequence[str]) -> list[str]:
    """Return the names of trackers in `track`: `tensorboard,wandb`, or a sequence of them.

    Raises RecipeError for a name that Accelerate has no tracker for, or whose package is missing.
    """
    names = track.split(",") if isinstance(track, str) else list(track)
    names = [name.strip() for name in names if name.strip()]
    if not names:
        return []
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS as KNOWN

    for name in names:
        if name not in KNOWN:
            raise RecipeError(
                f"track={name!r} is not known.{nearest(name, KNOWN)} Allowed: {', '.join(KNOWN)}; "
                "several with commas between."
            )
        if KNOWN[name].__module__ == "accelerate.tracking":  # else it was registered by a script
            extras.need(f"track={name}", [name])
    return list(dict.fromkeys(names))


@contextmanager
def tracked(names: Sequence[str], folder: Folder, recipe: Recipe) -> Iterator[None]:
    """Send all that `folder` logs to these trackers too.

    One that fails gets no more, which is said once; training goes on.
    """
    if not names or not console.is_main():
        yield
        return
    trackers = Trackers()
    for name in names:
        trackers.start(name, folder, recipe)
    folder.listeners.append(trackers.log)
    try:
        yield
    finally:
        folder.listeners.remove(trackers.log)
        trackers.finish()


class Trackers:
    """The trackers of one process that have not failed yet."""

    def __init__(self) -> None:
        self.going: dict[str, Any] = {}
        self.step = 0

    def start(self, name: str, folder: Folder, recipe: Recipe) -> None:
        """Begin a run under the name of the run folder, and tell the recipe."""
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind, run = LOGGER_TYPE_TO_CLASS[name], folder.path.resolve().name
        given = [name, str(folder.path)] if kind.requires_logging_directory else [recipe.name]
        options: dict[str, Any] = {}
        if name == "wandb":
            # What the terminal shows is no business of a tracker.
            options = {"name": run, "dir": str(folder.path), "settings": {"console": "off"}}

        def begin() -> None:
            self.going[name] = tracker = kind(*given, **options)
            tracker.start()
            tracker.store_init_configuration(_configuration(recipe))

        self._attempt(name, begin)

    def log(self, facts: Mapping[str, Any]) -> None:
        """Send one line of the log."""
        values: dict[str, float] = {}
        for name, fact in facts.items():
            nested = fact if isinstance(fact, Mapping) else {"": fact}
            values |= {f"{name}/{key}".rstrip("/"): value for key, value in nested.items()}
        self.step = int(values.get("update", self.step))
        for name, tracker in list(self.going.items()):
            self._attempt(name, partial(tracker.log, values, step=self.step))

    def finish(self) -> None:
        """End the runs."""
        for name, tracker in list(self.going.items()):
            self._attempt(name, tracker.finish)

    def _attempt(self, name: str, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # the code and the service are anybody's, and so are the errors
            self.going.pop(name, None)
            console.say(
                f"The tracker {name} failed and gets no more ({type(error).__name__}: "
                f"{said(error)}). Training goes on; metrics.jsonl has all figures."
            )


def _configuration(recipe: Recipe) -> dict[str, Any]:
    """Return the values of a recipe as trackers take them: numbers, truth values and texts."""

    def plain(value: Any) -> Any:
        is_text = isinstance(value, str) and not SECRET.search(value)
        return value if is_text or isinstance(value, (bool, int, float)) else explain.shown(value)

    return {key: plain(value) for key, value in explain.leaves(recipe).items()}
