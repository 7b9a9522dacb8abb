"""Killed, stopped, damaged, out of disk: the same command goes on, bit for bit."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import children
import pytest
import toy
from children import Child

from finetune import RunError, finetune
from finetune.checkpoint import Checkpoints
from finetune.recipe import load
from recipes.vit_digits import recipe as digits

CASES = {
    # Dropout, drop path and MixUp everywhere but in the convolutions; BatchNorm there.
    "AdamW, average": "RANDOM, ema=0.9",
    "SGD": "RANDOM, optimizer='sgd', lr=0.05",
    "Muon, bf16, convolutions": "Convolutions, optimizer='muon', precision='bf16', ema=0.8",
    "AdamW, ViT": "VIT, micro_batch_size=3",
}
UPDATES = 24


def recipe_file(folder: Path, case: str, save_seconds: float = 0.0) -> Path:
    path = folder / "recipe.py"
    path.write_text(
        "from toy import *\n"
        f"recipe = stripes({CASES[case]}, epochs=3, save_seconds={save_seconds})\n"
    )
    return path


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Return the outcome of a case that nothing disturbed; each is run once."""
    known: dict[str, dict[str, Any]] = {}

    def outcome(case: str) -> dict[str, Any]:
        if case not in known:
            folder = tmp_path_factory.mktemp("unbroken")
            finetune(load(recipe_file(folder, case, save_seconds=60)), folder / "run")
            known[case] = toy.outcome(folder / "run")
        return known[case]

    return outcome


def lines(run: Path) -> int:
    log = run / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def writing(run: Path) -> bool:
    return (run / "state" / ".writing").exists()


def trained(run: Path) -> bool:
    return (run / "state" / f"step-{UPDATES:09d}").exists()


def kill(recipe: Path, run: Path, condition: Callable[[], bool], after: float = 0.0) -> None:
    """Start the command and kill it at some instant."""
    child = children.finetune(recipe, run)
    assert child.when(condition, signal.SIGKILL, after), child.said()
    assert child.code() == -signal.SIGKILL


def kill_after(recipe: Path, run: Path, least: int, seconds: float = 0.0) -> None:
    """Kill the command seconds after its log has some lines."""
    kill(recipe, run, lambda: lines(run) >= least, seconds)


def kill_in_a_write(recipe: Path, run: Path, least: int) -> None:
    """Kill the command while it writes a checkpoint, once the log has some lines."""
    for _ in range(20):
        kill(recipe, run, lambda: lines(run) >= least and writing(run))
        if writing(run):
            return
    pytest.fail("no kill fell into a write")


@pytest.mark.parametrize("case", list(CASES)[:3])
def test_killed_anywhere_it_ends_with_the_same_bits(
    tmp_path: Path, case: str, unbroken: Callable[[str], dict[str, Any]]
) -> None:
    recipe, run = recipe_file(tmp_path, case), tmp_path / "run"
    kill_after(recipe, run, 5)
    kill_in_a_write(recipe, run, 12)
    if not trained(run):
        kill(recipe, run, lambda: trained(run))
    assert not (run / "result.json").exists()
    last = children.finetune(recipe, run)
    assert last.code() == 0, last.said()
    assert toy.outcome(run) == unbroken(case)
    assert last.said().count("Resuming after") == last.said().count("Chosen for this") - 1


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Child]:
    """Return a run that SIGTERM stopped in the middle of an epoch, and the child that ran it."""
    folder = tmp_path_factory.mktemp("stopped")
    recipe, run = recipe_file(folder, "AdamW, average"), folder / "run"
    child = children.finetune(recipe, run)
    # While it lives, held still, nobody else may write.
    assert child.when(lambda: lines(run) >= 11, signal.SIGSTOP)
    with pytest.raises(RunError, match="Another run is writing to"):
        finetune(load(recipe), run)
    assert child.when(lambda: True, signal.SIGTERM)
    assert child.when(lambda: True, signal.SIGCONT)
    child.code()
    return folder, child


@pytest.fixture
def half(stopped: tuple[Path, Child], tmp_path: Path) -> Iterator[Path]:
    """Return a copy of the stopped run's folder to go on with."""
    shutil.copytree(stopped[0], tmp_path, dirs_exist_ok=True)
    yield tmp_path


def goes_on(half: Path) -> list[str]:
    """Run the same command to the end in this process; return what it noted."""
    finetune(load(half / "recipe.py"), half / "run")
    notes: list[str] = json.loads((half / "run" / "result.json").read_text())["notes"]
    return notes


def test_sigterm_saves_and_exits_with_its_own_code(
    stopped: tuple[Path, Child], half: Path, unbroken: Callable[[str], dict[str, Any]]
) -> None:
    _, child = stopped
    assert child.process.exitcode == 75
    assert "the state is saved. Run the same command again to go on." in child.said()
    notes = goes_on(half)
    assert any(note.startswith("Resuming after 1") for note in notes)
    assert toy.outcome(half / "run") == unbroken("AdamW, average")


def test_ctrl_c_does_the_same(half: Path, unbroken: Callable[[str], dict[str, Any]]) -> None:
    run = half / "run"
    child = children.finetune(half / "recipe.py", run)
    assert child.when(lambda: lines(run) >= 16, signal.SIGINT)
    assert child.code() == 75
    goes_on(half)
    assert toy.outcome(run) == unbroken("AdamW, average")


@pytest.mark.parametrize("damaged", [1, 2])
def test_damaged_checkpoints_are_named_and_done_without(
    half: Path, damaged: int, unbroken: Callable[[str], dict[str, Any]]
) -> None:
    folders = sorted((half / "run" / "state").glob("step-*"), reverse=True)
    assert len(folders) == 2
    for folder in folders[:damaged]:
        path = folder / "optimizer.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
    notes = goes_on(half)
    for folder in folders[:damaged]:
        assert f"Checkpoint {folder.name} is damaged and was skipped" in " ".join(notes)
    assert toy.outcome(half / "run") == unbroken("AdamW, average")


def test_a_full_disk_stops_the_run_and_loses_nothing(
    half: Path, unbroken: Callable[[str], dict[str, Any]]
) -> None:
    state = half / "run" / "state"
    before = sorted(p.name for p in state.iterdir())
    child = children.finetune(half / "recipe.py", half / "run", file_bytes=20_000)
    assert child.code() == 2, child.said()
    assert "could not be written" in child.said()
    assert "free some space" in child.said()
    assert "Traceback" not in child.said()
    assert sorted(p.name for p in state.iterdir()) == before
    assert Checkpoints(state).latest()[1] == []
    goes_on(half)
    assert toy.outcome(half / "run") == unbroken("AdamW, average")


def test_a_disk_too_full_for_the_model_is_told_too(tmp_path: Path) -> None:
    # Feature extraction writes no checkpoint.
    recipe, run = tmp_path / "recipe.py", tmp_path / "run"
    recipe.write_text(
        "from toy import *\nfrom finetune import FeatureExtraction\n"
        "recipe = stripes(method=FeatureExtraction())\n"
    )
    child = children.finetune(recipe, run, file_bytes=20_000)
    assert child.code() == 2, child.said()
    assert "The disk is full" in child.said()
    assert "Traceback" not in child.said()
    assert not (run / "result.json").exists()
    child = children.finetune(recipe, run)
    assert child.code() == 0, child.said()


def test_a_checkpoint_of_another_model_is_refused(half: Path) -> None:
    recipe = load(half / "recipe.py")
    smaller = recipe.override(backbone=recipe.backbone.__class__(toy.Convolutions, "head", (8, 8)))
    text = (half / "run" / "recipe.yaml").read_text()
    (half / "run" / "recipe.yaml").write_text(text.replace(recipe.digest, smaller.digest))
    with pytest.raises(RunError, match="does not fit the model of this recipe: .* tensors differ"):
        finetune(smaller, half / "run")


def test_no_file_of_a_run_holds_a_pickle(half: Path) -> None:
    goes_on(half)
    for path in (half / "run").rglob("*"):
        if path.is_file():
            assert path.suffix not in {".pt", ".pth", ".bin", ".pkl", ".pickle"}
            start = path.read_bytes()[:2]
            assert start not in {b"PK", *(bytes([0x80, n]) for n in range(2, 6))}, path


def test_a_finished_run_does_nothing(half: Path, capfd: pytest.CaptureFixture[str]) -> None:
    goes_on(half)
    stamps = {p: p.stat().st_mtime_ns for p in half.rglob("*") if p.is_file()}
    capfd.readouterr()
    finetune(load(half / "recipe.py"), half / "run")
    assert "is finished: nothing was done" in " ".join(capfd.readouterr().err.split())
    changed = {
        p.name for p in half.rglob("*") if p.is_file() and stamps.get(p) != p.stat().st_mtime_ns
    }
    assert changed <= {".lock", "recipe.yaml"}


def test_more_epochs_extend_a_finished_run(tmp_path: Path) -> None:
    short = digits.override(
        "data.shots=4", "train.epochs=1", "train.batch_size=8", backbone=toy.VIT
    )
    first = toy.fit(short, tmp_path)
    assert (first.facts["epochs"], first.done) == (1, 5)
    second = toy.fit(short.override("train.epochs=2"), tmp_path)
    assert "Resuming after 5 of 10 updates." in second.folder.sentences
    assert (second.facts["epochs"], second.done) == (2, 10)
    epochs = [line["epoch"] for line in toy.log(tmp_path) if "validation" in line]
    assert epochs == [1, 2]


@pytest.mark.slow
def test_twenty_kills(
    tmp_path: Path,
    unbroken: Callable[[str], dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Five random kills in each of four runs, the second and fourth of them inside a write.

    Two of the runs save after every update, two now and then, so that kills lose updates too.
    """
    chance = random.Random(time.time_ns())
    table = []
    for case in CASES:
        wanted = unbroken(case)
        folder = tmp_path / str(len(table))
        folder.mkdir()
        recipe, run = (
            recipe_file(folder, case, save_seconds=len(table) // 6 % 2 / 10),
            folder / "run",
        )
        for number in range(5):
            least = min(lines(run) + chance.randrange(6), UPDATES)
            if number % 2:
                kill_in_a_write(recipe, run, least)
            else:
                kill_after(recipe, run, least, chance.random() * 0.05)
            found, skipped = Checkpoints(run / "state").latest()
            assert skipped == []  # what a kill leaves is whole or has no name yet
            step = found.folder.name if found else "none"
            where = "inside a write" if writing(run) else "elsewhere"
            table.append(f"{case:25} {lines(run):2} lines logged, {where:14}, newest {step}")
        child = children.finetune(recipe, run)
        assert child.code() == 0, child.said()
        assert toy.outcome(run) == wanted, case
        table.append(f"{case:25} finished with the weights, metrics and log of the unbroken run")
    with capsys.disabled():
        print("\n" + "\n".join(table))
    assert sum("inside a write" in line for line in table) >= 5
