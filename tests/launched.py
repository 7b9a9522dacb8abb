"""What test_processes.py starts with `accelerate launch`: every case, in every process.

Runs with one process too: `python tests/launched.py FOLDER`.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import toy
from safetensors.torch import save_file
from toy import Stripes, stripes

import finetune
from finetune.loop import Fit, predict

SGD = {"optimizer": "sgd", "lr": 0.1}
CASES = {
    "whole": stripes(**SGD),
    "cut": stripes(micro_batch_size=2, **SGD),
    "adamw, average": stripes(ema=0.8, lr=1e-3),
    "class weights": stripes(class_weights="balanced", **SGD),
    # 57 rows in batches of 8: the last holds one, and nothing for a second process.
    "last batch of one": stripes(data=Stripes(train=57), **SGD),
    "dropout": stripes(toy.RANDOM),
    "interrupted": stripes(toy.RANDOM, epochs=3, save_seconds=0),
    "uninterrupted": stripes(toy.RANDOM, epochs=3),
}
ADDITIVE = ("whole", "cut", "adamw, average", "class weights", "last batch of one")
"""Those without dropout, whose random numbers follow the processes."""


class Interrupting(Fit):
    """Is sent SIGTERM, in its last process only, in the middle of an epoch."""

    def update(self, batch: Any, weight: Any) -> Any:
        if self.done == 11 and self.accelerator.is_last_process:
            signal.raise_signal(signal.SIGTERM)
        return super().update(batch, weight)


def interrupted(folder: Path) -> Fit:
    """Train until the request to stop, then go on."""
    recipe = CASES["interrupted"]
    try:
        toy.fit(recipe, folder, Interrupting)
    except finetune.Interrupted:
        return toy.fit(recipe, folder)
    raise AssertionError("nothing was interrupted")


def main(folder: Path) -> None:
    """Run all cases; every process leaves its weights, the first one its predictions too."""
    for name in CASES:
        path = folder / name
        fitted = interrupted(path) if name == "interrupted" else toy.fit(CASES[name], path)
        rank = fitted.accelerator.process_index
        if rank:
            assert not fitted.folder.checkpoints.latest()[1]
        fitted.accelerator.wait_for_everyone()
        save_file(fitted.module.state_dict(), path / f"weights-{rank}.safetensors")
        predictions = {
            str(size): predict(
                fitted.job.network,
                fitted.module,
                fitted.job.samples["test"],
                fitted.job.target,
                fitted.accelerator,
                size,
            )
            for size in (1, 4, 64)
        }
        np.savez(path / f"predictions-{rank}.npz", **predictions)
        (path / f"processes-{rank}").write_text(str(fitted.accelerator.num_processes))
    # All of it: saved, tested, published.
    finetune.finetune(CASES["whole"], folder / "finished", evidence=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
