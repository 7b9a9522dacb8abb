"""What a text such as `data=TEXT` names, and the nearest to it where there is nothing."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Literal

from finetune.errors import DataError

IMAGES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".avif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2"),
}
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
TEXT = ".txt"
SHARDS = (".parquet", ".arrow")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


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
        "a table (.csv, .tsv, .jsonl, .parquet), a .txt file or a folder of them, a hub id such as "
        "uoft-cs/cifar10, or data=digits."
    )


def similar(text: str) -> str:
    """Return "; did you mean PATH?" for the nearest path that exists, or an empty string."""
    head, name = os.path.split(text.rstrip("/"))
    try:
        names = sorted(os.listdir(Path(head or ".").expanduser()))
    except (OSError, ValueError):
        # Its folder is not there either: the first part that is missing is the one to mend.
        return similar(head) if head and head != text else ""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {os.path.join(head, close[0])}?" if close else ""


def claimant(text: str) -> Literal["hub", "image-folder", "table", "text-files"] | None:
    """Return the kind of the only source that `text` names, or None if it names none."""
    try:
        path = Path(text).expanduser()
        if path.is_dir():
            if _has_shards(path):
                return "hub"
            return "text-files" if _has_only_texts(path) else "image-folder"
    except (OSError, RuntimeError):  # a name too long, ~ of nobody
        return None
    if path.suffix.lower() in TABLES:
        return "table"
    if path.suffix.lower() == TEXT:
        return "text-files"
    if path.exists() or text.startswith((".", "/", "~")) or text.endswith("/"):
        return "image-folder"
    if is_hub_id(text):
        return "hub"
    # A word that is nearly the name of something here was meant as a path.
    return "image-folder" if "/" in text or similar(text) else None


def is_hub_id(text: str) -> bool:
    """Return whether `text` has the form `org/name`."""
    return _HUB_ID.fullmatch(text) is not None


def _has_shards(folder: Path) -> bool:
    """Return whether parquet or arrow files lie in a folder or up to two folders below."""
    for here, folders, files in os.walk(folder):
        if any(name.lower().endswith(SHARDS) for name in files):
            return True
        if len(Path(here).relative_to(folder).parts) == 2:
            folders.clear()
    return False


def _has_only_texts(folder: Path) -> bool:
    """Return whether .txt files lie in a folder, at any depth, and neither images nor tables."""
    found = False
    for _, _, files in os.walk(folder):
        suffixes = {os.path.splitext(name)[1].lower() for name in files}
        if suffixes & {*IMAGES, *TABLES}:
            return False
        found = found or TEXT in suffixes
    return found
