"""The round-trip gate: what was saved is loaded without this toolkit and must answer the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import TrainingError
from finetune.images.decode import Unreadable, open_image, read_bytes, to_rgb
from finetune.protocols import Array

SAMPLES = 8
TOLERANCE = 1e-5
"""Of the largest logit, where that is above 1: a float32 of 60 is itself only good to 4e-6, and
transformers leaves weights where the file lies in memory, which changes the order of sums."""


def check(
    reloader: Path,
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    logits: Sequence[Array],
    classes: Sequence[str] | None,
) -> dict[str, Any]:
    """Compare the `logits` of each row with those of a fresh process that loads `folder`.

    `reloader` is a script that prints logits and labels for each library it knows. Returns the
    largest difference for each. Raises TrainingError if one is above 1e-5 (relative to the largest
    logit, where that is above 1), if a label differs, or if a library does not load the folder.
    """
    told = _told(reloader, folder, rows)
    tolerance = TOLERANCE * max(1.0, max(float(np.abs(row).max()) for row in logits))
    differences = {}
    for library, answer in told.items():
        if classes is not None and answer["labels"] != list(classes):
            raise TrainingError(
                f"The saved model, loaded by {library}, has the labels {answer['labels']}, and not "
                f"those of the data, {list(classes)}."
            )
        others = [np.asarray(row) for row in answer["logits"]]
        for mine, other in zip(logits, others, strict=True):
            if other.shape != mine.shape:
                raise TrainingError(
                    f"The saved model, loaded by {library}, gives outputs of shape {other.shape} "
                    f"for one row, and not {mine.shape}."
                )
        pairs = zip(others, logits, strict=True)
        differences[library] = max(float(np.abs(a - b).max()) for a, b in pairs)
        if not differences[library] <= tolerance:
            raise TrainingError(
                f"The saved model, loaded by {library} in a fresh process, gives logits that "
                f"differ by {differences[library]:.1e} from those of the trained one; "
                f"{tolerance:.1e} is allowed."
            )
    return {"rows": len(rows), "largest_difference": differences, "tolerance": tolerance}


def _told(reloader: Path, folder: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the script prints for the rows, by library."""
    with tempfile.TemporaryDirectory() as scratch:
        there = Path(scratch)
        written = [
            {name: _portable(cell, there / f"{name}-{index}") for name, cell in row.items()}
            for index, row in enumerate(rows)
        ]
        listing = there / "rows.json"
        listing.write_text(json.dumps(written), "utf-8")
        # -P, because beside the script lies a module that is called as the library is.
        done = subprocess.run(
            [sys.executable, "-P", str(reloader), str(folder.resolve()), str(listing)],
            capture_output=True,
            text=True,
            cwd=there,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
        )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise TrainingError(f"The saved model does not load in a fresh process: {reason}")
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def _portable(cell: Any, path: Path) -> Any:
    """Return an image cell as the path of a file, written out if it has none; others as they are.

    Deep greyscale is written in 8 bits, as the model sees it: Pillow itself would clip it.
    """
    if not isinstance(cell, Mapping) or "bytes" not in cell:
        return cell
    try:
        content = read_bytes(cell)
        image = open_image(content)
    except Unreadable as error:
        raise TrainingError(f"An image cannot be read any more: {error}.") from error
    if image.mode.startswith(("I", "F")):
        to_rgb(image).save(path, "PNG")
    elif cell.get("path") and not cell.get("bytes"):
        return str(Path(cell["path"]).resolve())
    else:
        path.write_bytes(content)
    return str(path)
