"""What needs a GPU: `pytest -m gpu`; with two of them, `pytest -m multigpu`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import children
import launched
import numpy as np
import pytest
import torch
import toy
from safetensors.torch import load_file
from toy import RANDOM, Convolutions, fit, stripes

from finetune import finetune
from finetune.loop import Fit
from finetune.recipe import load

gpu = pytest.mark.gpu
SGD = {"optimizer": "sgd", "lr": 0.1}
SAME = 1e-5
"""Sums on a GPU may be taken in another order from one run to the next."""


@pytest.fixture(autouse=True)
def on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from accelerate.state import AcceleratorState

    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def losses(path: Path) -> list[float]:
    return [line["loss"] for line in toy.log(path) if "loss" in line]


@gpu
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("make", [RANDOM, Convolutions])
def test_it_learns_in_every_precision(tmp_path: Path, precision: str, make: Any) -> None:
    trained = fit(stripes(make, precision=precision, epochs=6, ema=0.8), tmp_path)
    assert trained.accelerator.device.type == "cuda"
    assert (trained.accelerator.scaler is not None) is (precision == "fp16")
    assert np.mean(losses(tmp_path)[-8:]) < np.mean(losses(tmp_path)[:8])
    for tensor in trained.module.state_dict().values():
        assert tensor.dtype in (torch.float32, torch.int64)


@gpu
def test_cutting_the_batch_changes_nothing(tmp_path: Path) -> None:
    whole = fit(stripes(**SGD), tmp_path / "whole")
    cut = fit(stripes(micro_batch_size=3, **SGD), tmp_path / "cut")
    assert toy.difference(whole.module.state_dict(), cut.module.state_dict()) < SAME


@gpu
def test_gradients_are_clipped_after_unscaling(tmp_path: Path) -> None:
    # Far above any gradient, far below any that is still multiplied by the scale of 65,536.
    clipped = fit(stripes(precision="fp16", clip_norm=100.0, **SGD), tmp_path / "clipped")
    free = fit(stripes(precision="fp16", clip_norm=0.0, **SGD), tmp_path / "free")
    assert toy.difference(clipped.module.state_dict(), free.module.state_dict()) < SAME
    held = fit(stripes(precision="fp16", clip_norm=1e-12, **SGD), tmp_path / "held")
    assert toy.difference(held.module.state_dict(), free.module.state_dict()) > 1e-3


class Stopping(Fit):
    """Is asked to stop in the middle of an epoch."""

    def update(self, batch: Any, weight: Any) -> Any:
        if self.done == 11:
            self.folder.stop_asked = True
        return super().update(batch, weight)


@gpu
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_stopped_run_goes_on(tmp_path: Path, precision: str) -> None:
    from finetune import Interrupted

    # Dropout: the random numbers of the GPU are part of the state, and so is the scale of fp16.
    recipe = stripes(RANDOM, epochs=3, precision=precision, ema=0.9)
    whole = fit(recipe, tmp_path / "whole")
    with pytest.raises(Interrupted):
        fit(recipe, tmp_path / "broken", Stopping)
    (saved,) = (tmp_path / "broken" / "state").glob("step-*")
    scaler = json.loads((saved / "state.json").read_text())["scaler"]
    assert (scaler is not None) is (precision == "fp16")
    assert set(load_file(saved / "random.safetensors")) == {"cpu", "cuda"}
    broken = fit(recipe, tmp_path / "broken")
    assert toy.difference(whole.module.state_dict(), broken.module.state_dict()) < SAME
    assert losses(tmp_path / "broken") == pytest.approx(losses(tmp_path / "whole"), abs=SAME)
    if scaler is not None:
        assert scaler["scale"] > 0
        end = broken.accelerator.scaler.state_dict()
        assert end == whole.accelerator.scaler.state_dict()


@gpu
def test_killed_it_goes_on(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from toy import *\nrecipe = stripes(RANDOM, epochs=3, save_seconds=0, precision='bf16')\n"
    )
    finetune(load(recipe), tmp_path / "whole")
    run = tmp_path / "broken"
    child = children.finetune(recipe, run)
    state = run / "state"
    assert child.when(lambda: (state / "step-000000012").exists(), signal.SIGKILL)
    assert child.code() == -signal.SIGKILL
    child = children.finetune(recipe, run)
    assert child.code() == 0, child.said()
    assert "Resuming after 1" in child.said()
    assert toy.difference(toy.weights(tmp_path / "whole"), toy.weights(run)) < SAME


@gpu
@pytest.mark.slow
def test_a_compiled_model_learns_the_same(tmp_path: Path) -> None:
    plain = fit(stripes(epochs=1, **SGD), tmp_path / "plain")
    compiled = fit(stripes(epochs=1, compile=True, **SGD), tmp_path / "compiled")
    assert toy.difference(plain.module.state_dict(), compiled.module.state_dict()) < 1e-4
    assert not any("_orig_mod" in name for name in compiled.state.best)


@gpu
def test_what_fits_is_found(tmp_path: Path) -> None:
    class Hungry(toy.Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training and len(x) > 2:
                # More than any card has: the allocator's own error.
                torch.empty(2**46, dtype=torch.uint8, device=x.device)
            return super().forward(x)

    trained = fit(stripes(Hungry, epochs=1, **SGD), tmp_path)
    assert trained.facts["micro_batch_size"] == 2


@pytest.mark.multigpu
def test_two_gpus_learn_what_one_does(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, how in ((one, ()), (two, ("--multi_gpu",))):
        folder.mkdir()
        processes = "2" if how else "1"
        command = [
            *(sys.executable, "-m", "accelerate.commands.launch", *how),
            *("--num_processes", processes, "--main_process_port", "0"),
            *(launched.__file__, str(folder)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=600)
        assert done.returncode == 0, done.stderr[:6000]
    for name in launched.CASES:
        ranks = [load_file(two / name / f"weights-{rank}.safetensors") for rank in (0, 1)]
        assert toy.difference(*ranks) == 0
        assert (two / name / "processes-1").read_text() == "2"
        if name in launched.ADDITIVE:
            alone = load_file(one / name / "weights-0.safetensors")
            assert toy.difference(alone, ranks[0]) < SAME
            for size in ("1", "4", "64"):
                found = [np.load(f / name / "predictions-0.npz")[size] for f in (one, two)]
                assert np.abs(found[0] - found[1]).max() < SAME
