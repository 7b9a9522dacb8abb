"""One hash over what the rows hold, wherever they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.protocols import Split

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 1000


def fingerprint(
    tables: Mapping[Split, Dataset], columns: Sequence[str], classes: Sequence[str] | None
) -> str:
    """Return the SHA-256 over splits, row order, and the canonical columns of every row.

    Images count by their bytes or the content of their file, never by path or time.
    """
    total = hashlib.sha256()

    def add(content: bytes) -> None:
        # The length keeps "ab", "c" apart from "a", "bc".
        total.update(len(content).to_bytes(8, "little") + content)

    add(json.dumps([list(columns), list(classes) if classes is not None else None]).encode())
    for split, table in tables.items():
        add(f"{split} {len(table)}".encode())
        for batch in table.select_columns(list(columns)).iter(_BATCH):
            for column in columns:
                for cell in batch[column]:
                    add(_content(cell))
    return total.hexdigest()


def _content(cell: Any) -> bytes:
    if isinstance(cell, dict) and set(cell) == {"bytes", "path"}:
        if cell["bytes"] is not None:
            return bytes(cell["bytes"])
        try:
            return hashlib.sha256(Path(cell["path"]).read_bytes()).digest()
        except (OSError, TypeError, ValueError):
            return b"unreadable"  # the check of the images names it
    return json.dumps(cell, sort_keys=True, default=str).encode()
