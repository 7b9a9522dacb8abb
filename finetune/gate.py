"""The round-trip gate: what was saved is loaded without this toolkit and must answer the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import TrainingError
from finetune.job import Job
from finetune.protocols import Array

SAMPLES = 8
TOLERANCE = 1e-5


def check(job: Job, logits: Array, folder: Path) -> dict[str, Any]:
    """Compare `logits` (rows, outputs) of the first test rows with those of a fresh process.

    Returns the largest difference for each library. Raises TrainingError if one is above 1e-5
    (relative to the largest logit, where that is above 1) or if a label differs.
    """
    rows = [job.splits.test[index]["image"] for index in range(len(logits))]
    with tempfile.TemporaryDirectory() as scratch:
        files = [_as_file(cell, Path(scratch) / f"{i}") for i, cell in enumerate(rows)]
        script = str(job.network.reloader)
        done = subprocess.run(
            [sys.executable, "-I", script, str(folder.resolve()), *files],
            capture_output=True,
            text=True,
            cwd=scratch,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
        )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise TrainingError(f"The saved model does not load in a fresh process: {reason}")
    told = json.loads(done.stdout.splitlines()[-1])
    classes = job.target.classes
    if classes is not None and told["labels"] != list(classes):
        raise TrainingError(
            f"The saved model gives the labels {told['labels']}, not {list(classes)}."
        )
    scale = max(1.0, float(np.abs(logits).max()))
    differences = {
        name: float(np.abs(np.asarray(told[name]) - logits).max())
        for name in ("timm", "transformers")
    }
    for name, difference in differences.items():
        if not difference <= TOLERANCE * scale:
            raise TrainingError(
                f"The saved model, loaded by {name} in a fresh process, gives logits that differ "
                f"by {difference:.1e} from those of the trained one; {TOLERANCE:.0e} is allowed."
            )
    return {"images": len(rows), "largest_difference": differences, "tolerance": TOLERANCE}


def _as_file(cell: dict[str, Any], path: Path) -> str:
    """Return a path to the image of a cell, written out if it has none of its own."""
    if cell["bytes"] is None:
        return str(Path(cell["path"]).resolve())
    path.write_bytes(cell["bytes"])
    return str(path)
