"""What can go wrong, as a tree.

FinetuneError              any of the below; the command line prints it and exits with its code
├── RecipeError            an unknown recipe, key, value or type
├── DataError              a path, column, label or file that cannot be used
│   └── UnreadableInputs   rows that cannot be used, all of them, found before training
├── BackboneError          a model or weights that cannot be had
├── RunError               a run folder that is taken, changed, full or damaged
├── HubError               a repository on the hub that cannot be pushed to
├── ExportError            an export that does not answer as the run does, or cannot be made
├── TrainingError          a non-finite loss, a frozen weight that moved, memory that ran out
├── NotReproduced          a run that came out otherwise than recorded or expected
└── Interrupted            SIGTERM or Ctrl-C: the state is saved, the same command goes on
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple

SHOWN = 8
"""Names in a list that are written out."""

SECRET = re.compile(
    r"(?<![A-Za-z0-9])(hf_|sk-|ghp_|gho_|ghs_|github_pat_|api_org_)[A-Za-z0-9_-]{16,}"
    r"|://[^/\s:@]+:[^/\s@]+@"
)
"""What access tokens, and addresses with a password, look like."""
TOKEN_GIVEN = (
    "A value looks like an access token or a password; recipes are saved and shared. "
    "Put it into the environment variable HF_TOKEN, or use `hf auth login`."
)


class FinetuneError(Exception):
    """A mistake or a state of the world that the user can mend; the message says how."""

    exit_code = 2


class RecipeError(FinetuneError):
    """A recipe, key, value or type is not one of those allowed."""


class DataError(FinetuneError):
    """The data cannot be read, or cannot be learned from as it is."""


class Failure(NamedTuple):
    """A row whose input cannot be used: its number, its file if it is one, and why."""

    row: int
    name: str
    reason: str
    split: str = ""

    def __str__(self) -> str:
        row = f"{self.split} row {self.row}".strip()
        named = f"'{escaped(self.name)}': " if self.name else ""
        return f"{row}: {named}{self.reason}"


class UnreadableInputs(DataError):
    """Inputs that cannot be used, all of them, found before training."""

    def __init__(self, failures: Iterable[Failure], noun: str = "input") -> None:
        self.failures, self.noun = tuple(failures), noun
        lines = [f"  {failure}" for failure in self.failures]
        super().__init__(
            f"{len(lines)} {noun}{'s' * (len(lines) != 1)} cannot be read:\n"
            + "\n".join(lines)
            + "\nRepair or remove what is listed, or leave it out: data.on_error=skip"
        )


class BackboneError(FinetuneError):
    """A model or its weights cannot be had."""


class RunError(FinetuneError):
    """The run folder cannot be used as asked."""


class HubError(FinetuneError):
    """A repository on the hub cannot be pushed to; the run is whole, and can be pushed again."""


class TrainingError(FinetuneError):
    """Training went wrong; the last good state is kept."""

    exit_code = 1


class ExportError(FinetuneError):
    """What was exported does not answer as the run does, or the export cannot be made."""

    exit_code = 1


class NotReproduced(FinetuneError):
    """A recipe was run again, and its figures are not those recorded or expected."""

    exit_code = 1


class Interrupted(FinetuneError):
    """Training was asked to stop and has saved its state."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: run the same command again


def said(error: BaseException) -> str:
    """Return the first line of what an error says, or its type; nothing that opens doors is in it:
    no access token, no header that could not be sent, no query of a signed address.
    """
    text = getattr(error, "server_message", None) or str(error)  # the hub's words
    line = (text.strip() or type(error).__name__).splitlines()[0]
    line = re.sub(r"Bearer .*", "Bearer SECRET", line)
    line = re.sub(r"(://[^\s?'\"]*\?)[^\s'\"]*", r"\1SECRET", line)
    return SECRET.sub("SECRET", line)


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the closest allowed name, or an empty string."""
    close = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def escaped(text: str) -> str:
    """Return `text` with what is not printable as escapes, so that no name breaks a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def printable(text: str) -> str:
    """Return lines that are to be shown, with all but their ends that is not printable escaped."""
    return "\n".join(map(escaped, text.split("\n")))


def listed(names: Iterable[str]) -> str:
    """Return `'a', 'b' and 3 more`; quoted, so that line breaks and blanks in names show."""
    every = list(names)
    more = len(every) - SHOWN
    return ", ".join(map(repr, every[:SHOWN])) + (f" and {more} more" if more > 0 else "")
