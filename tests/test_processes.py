"""Two processes learn what one does: started with `accelerate launch`, on the CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import launched
import numpy as np
import pytest
import toy
from safetensors.torch import load_file

from finetune import Run


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of what two processes left."""
    folder = tmp_path_factory.mktemp("two")
    # Without a GPU, accelerate launch starts several processes only when it is told --multi_gpu.
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
        *("--num_processes", "2", "--main_process_port", "0", "--num_cpu_threads_per_process", "1"),
        *(launched.__file__, str(folder)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=600)
    assert done.returncode == 0, done.stderr[:6000]
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of what one process left, this one."""
    folder = tmp_path_factory.mktemp("one")
    launched.main(folder)
    return folder


def test_there_were_two(two: Path) -> None:
    for name in launched.CASES:
        assert [(two / name / f"processes-{rank}").read_text() for rank in (0, 1)] == ["2", "2"]


@pytest.mark.parametrize("name", launched.ADDITIVE)
def test_they_learn_the_same_weights(one: Path, two: Path, name: str) -> None:
    alone = load_file(one / name / "weights-0.safetensors")
    together = load_file(two / name / "weights-0.safetensors")
    assert toy.difference(alone, together) <= 1e-6
    for here, there in zip(toy.log(one / name), toy.log(two / name), strict=True):
        assert here.keys() == there.keys()
        if "validation" in here:
            assert here["validation"] == pytest.approx(there["validation"], abs=1e-6)
            assert here["validation"]["accuracy"] == there["validation"]["accuracy"]
        else:
            assert here == pytest.approx(there, abs=1e-6)


def test_one_update_is_the_same_however_it_is_cut(one: Path, two: Path) -> None:
    # 1 process x 8, 2 processes x 4, accumulation 4 x 2, and 2 processes x accumulation 2 x 2.
    first, *others = [
        load_file(folder / name / "weights-0.safetensors")
        for folder in (one, two)
        for name in ("whole", "cut")
    ]
    for other in others:
        assert toy.difference(first, other) <= 1e-6


@pytest.mark.parametrize("name", launched.CASES)
def test_all_processes_end_with_the_same_weights(two: Path, name: str) -> None:
    first, second = (load_file(two / name / f"weights-{rank}.safetensors") for rank in (0, 1))
    assert toy.difference(first, second) == 0


def test_stopped_in_one_process_all_stop_and_go_on_to_the_same_bits(one: Path, two: Path) -> None:
    for folder in (one, two):
        broken, whole = (
            load_file(folder / name / "weights-0.safetensors")
            for name in ("interrupted", "uninterrupted")
        )
        assert toy.difference(broken, whole) == 0
        assert toy.log(folder / "interrupted") == toy.log(folder / "uninterrupted")


@pytest.mark.parametrize("name", ["whole", "last batch of one"])
def test_predictions_come_once_for_each_sample_in_order(one: Path, two: Path, name: str) -> None:
    # 13 samples: not divisible by two processes, nor by any batch.
    alone = np.load(one / name / "predictions-0.npz")
    for rank in (0, 1):
        together = np.load(two / name / f"predictions-{rank}.npz")
        for size in ("1", "4", "64"):
            assert together[size].shape == (13, 3)
            assert np.abs(together[size] - alone[size]).max() <= 1e-6


def test_the_whole_run_has_the_same_result(one: Path, two: Path) -> None:
    alone, together = (
        Run.load(folder / "finished", launched.CASES["whole"]) for folder in (one, two)
    )
    assert together.metrics == pytest.approx(alone.metrics, abs=1e-6)
    assert together.metrics["accuracy"] == alone.metrics["accuracy"]
    assert toy.difference(toy.weights(one / "finished"), toy.weights(two / "finished")) <= 1e-6
