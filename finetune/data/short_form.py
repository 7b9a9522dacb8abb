"""Which source a plain `data=TEXT` stands for: one answer, so that never two claim a text."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import Literal

from finetune.data.paths import similar

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
SHARDS = (".parquet", ".arrow")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")

Claimant = Literal["hub", "image-folder", "table"]


def claimant(text: str) -> Claimant | None:
    """Return the kind of the only source that `text` names, or None if it names none."""
    try:
        path = Path(text).expanduser()
        if path.is_dir():
            return "hub" if has_shards(path) else "image-folder"
    except (OSError, RuntimeError):  # a name too long, ~ of nobody
        return None
    if path.suffix.lower() in TABLES:
        return "table"
    if path.exists() or text.startswith((".", "/", "~")) or text.endswith("/"):
        return "image-folder"
    if is_hub_id(text):
        return "hub"
    # A word that is nearly the name of something here was meant as a path.
    return "image-folder" if "/" in text or similar(text) else None


def is_hub_id(text: str) -> bool:
    """Return whether `text` has the form `org/name`."""
    return _HUB_ID.fullmatch(text) is not None


def has_shards(folder: Path) -> bool:
    """Return whether parquet or arrow files lie in `folder` or up to two folders below."""
    files = chain(folder.glob("*"), folder.glob("*/*"), folder.glob("*/*/*"))
    return any(path.suffix.lower() in SHARDS for path in files)
