"""Paths that a user gave: an error that helps where there is nothing."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from finetune.errors import DataError


def existing(text: str) -> Path:
    """Return the path that `text` names; raise DataError, naming the nearest, if there is none."""
    path = Path(text).expanduser()
    try:
        if path.exists():
            return path
    except (OSError, ValueError) as error:  # a name too long, a null character
        raise DataError(f"{text!r} is no path that can be opened: {error}.") from error
    raise DataError(
        f"There is no such path {text}{similar(text) or '.'} Give a folder of class folders, "
        "a table (.csv, .tsv, .jsonl, .parquet), a hub id such as uoft-cs/cifar10, or data=digits."
    )


def similar(text: str) -> str:
    """Return "; did you mean PATH?" for the nearest path that exists, or an empty string."""
    head, name = os.path.split(text.rstrip("/"))
    beside = Path(head or ".").expanduser()
    try:
        names = sorted(os.listdir(beside))
    except (OSError, ValueError):
        # Its folder is not there either: the first part that is missing is the one to mend.
        return similar(head) if head and head != text else ""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {os.path.join(head, close[0])}?" if close else ""
