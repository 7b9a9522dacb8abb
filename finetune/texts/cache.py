"""Tokens on disk: a table is tokenised once for each tokenizer and way of reading."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune import console, kept
from finetune.protocols import Array
from finetune.samples import Ragged
from finetune.texts.encoded import Encoded
from finetune.texts.source import Special, fill

LAYOUT = 2
"""Part of every key: a change of what is kept makes earlier files unused."""
CHUNK = 1000
"""Rows tokenised at a time."""
CHECKED = 8
"""Rows that are tokenised again when tokens are read back: a key cannot hold a library's code."""

Encode = Callable[[Mapping[str, Sequence[Any]]], Encoded]


@dataclass(frozen=True)
class Loaded:
    """Samples as arrays that lie in a file."""

    arrays: Mapping[str, Array]
    """By column: all samples end to end, and where each ends under "ends <column>"."""
    rows: Array
    cut: tuple[int, int]
    """Rows of which something was cut off, and tokens in all."""

    def columns(self, special: Special) -> dict[str, Ragged]:
        """Return the columns, sample by sample."""
        return {
            name: Ragged(flat, self.arrays[f"ends {name}"], fill(name, special))
            for name, flat in self.arrays.items()
            if f"ends {name}" in self.arrays
        }


def load(
    folder: Path, reading: str, columns: Mapping[str, Any], count: int, encode: Encode
) -> Loaded:
    """Return the samples of `count` rows, read back or tokenised now and kept in `folder`.

    `reading` tells what the tokens depend on beside the columns. Where there is no room on the
    disk they are held in memory, and that is said.
    """
    key = {"layout": LAYOUT, "reading": reading, "content": _content(columns, count)}
    with kept.held(folder, "tokens", key) as path:
        found = _read(path)
        if found is not None and _as_now(found, columns, count, encode):
            return found
        fresh = _tokenise(columns, count, encode)
        try:
            kept.make_room(folder, sum(array.nbytes for array in fresh.arrays.values()))
            with kept.written_aside(path) as aside:
                _write(aside, fresh)
        except OSError as error:
            console.say(f"The tokens could not be kept in {folder} ({error}).")
            return fresh
        return _read(path) or fresh


def _content(columns: Mapping[str, Any], count: int) -> str:
    """Return a hash over all cells."""
    content = hashlib.blake2b(digest_size=16)
    for name, column in sorted(columns.items()):
        content.update(f"\0{name}\0".encode())
        for start in range(0, count, CHUNK):
            content.update(json.dumps(list(column[start : start + CHUNK])).encode())
    return content.hexdigest()


def _tokenise(columns: Mapping[str, Any], count: int, encode: Encode) -> Loaded:
    whole = Encoded()
    with console.Bar("reading texts", count) as bar:
        for start in range(0, count, CHUNK):
            part = {name: list(column[start : start + CHUNK]) for name, column in columns.items()}
            whole.extend(encode(part), start)
            bar.advance(min(CHUNK, count - start))
    return _arrays(whole)


def _arrays(encoded: Encoded) -> Loaded:
    arrays = {}
    for name, sequences in encoded.columns.items():
        ragged = Ragged.of(sequences, 0, np.int32)
        arrays[name], arrays[f"ends {name}"] = ragged.flat, ragged.ends
    rows = np.asarray(encoded.rows, np.int64)
    return Loaded(arrays, rows, (encoded.cut_rows, encoded.cut_tokens))


def _as_now(found: Loaded, columns: Mapping[str, Any], count: int, encode: Encode) -> bool:
    """Return whether the first rows give the same tokens now."""
    some = min(CHECKED, count)
    fresh = _arrays(encode({name: list(column[:some]) for name, column in columns.items()}))
    # Packed samples hold further rows: what is there now must begin what was kept.
    for name, flat in fresh.arrays.items():
        if name.startswith("ends ") or name not in found.arrays:
            continue
        if not np.array_equal(found.arrays[name][: len(flat)], flat):
            return False
    return fresh.arrays.keys() == found.arrays.keys()


def _write(path: Path, loaded: Loaded) -> None:
    from safetensors.numpy import save_file

    told = {"cut": json.dumps(loaded.cut)}
    save_file({**loaded.arrays, "rows": loaded.rows}, path, told)


def _read(path: Path) -> Loaded | None:
    """Return kept tokens as a memory map; None if there are none, or the file is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:  # torch's tensors stay in the file, numpy's would not
            arrays = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
            told = file.metadata()
        os.utime(path)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        console.say(f"Kept tokens could not be read ({error}); the texts are read again.")
        return None
    rows = arrays.pop("rows")
    cut_rows, cut_tokens = json.loads(told["cut"])
    return Loaded(arrays, rows, (cut_rows, cut_tokens))
