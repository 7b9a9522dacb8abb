"""Checkpoints: whole or named as damaged, two kept, nothing that a pickle could hide in."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import finetune
from finetune import checkpoint
from finetune.checkpoint import Checkpoints
from finetune.errors import RunError
from finetune.state import pack, unpack


@pytest.fixture
def three(tmp_path: Path) -> Checkpoints:
    """Return a run's checkpoints after updates 1, 2 and 3 were saved."""
    checkpoints = Checkpoints(tmp_path / "state")
    for step in (1, 2, 3):
        save(checkpoints, step)
    return checkpoints


def save(checkpoints: Checkpoints, step: int) -> None:
    tensors = {"model": {"w": torch.full((3, 2), float(step)).T}, "average": {}}
    checkpoints.save(step, tensors, {"step": step})


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(p.name for p in checkpoints.folder.iterdir())


def test_the_newest_two_are_kept_and_the_newest_is_read_back(three: Checkpoints) -> None:
    assert names(three) == ["step-000000002", "step-000000003"]
    found, skipped = three.latest()
    assert found is not None
    assert found.state == {"step": 3}
    assert torch.equal(found.tensors("model")["w"], torch.full((2, 3), 3.0))
    assert found.tensors("average") == {}
    assert skipped == []


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "state").latest() == (None, [])


def flip(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def lie(folder: Path) -> None:
    (folder / "state.json").write_text('{"step": 99}')


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (flip, "model.safetensors does not match its hash"),
    "a file cut short": (cut, "model.safetensors does not match its hash"),
    "an altered state": (lie, "state.json does not match its hash"),
    "a lost file": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "a lost manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
    "an empty manifest": (lambda f: (f / "manifest.json").write_text("{}"), "state.json does not"),
    "a torn manifest": (lambda f: (f / "manifest.json").write_text('{"a'), "cannot be read"),
    "a list for a manifest": (lambda f: (f / "manifest.json").write_text("[]"), "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_named_and_skipped(three: Checkpoints, damage: str) -> None:
    spoil, reason = DAMAGES[damage]
    spoil(three.folder / "step-000000003")
    found, skipped = three.latest()
    assert found is not None
    assert found.state == {"step": 2}
    (sentence,) = skipped
    assert sentence.startswith("Checkpoint step-000000003 is damaged and was skipped: ")
    assert reason in sentence


def test_where_all_are_damaged_all_are_named(three: Checkpoints) -> None:
    for folder in three.folder.iterdir():
        cut(folder)
    found, skipped = three.latest()
    assert found is None
    assert [s.split()[1] for s in skipped] == ["step-000000003", "step-000000002"]


def test_what_damage_and_kills_leave_is_swept_up(three: Checkpoints) -> None:
    cut(three.folder / "step-000000003")
    (three.folder / ".writing").mkdir()
    (three.folder / ".writing" / "model.safetensors").write_bytes(b"half")
    # Training goes on from update 2, and comes by update 3 only later.
    save(three, 3)
    assert names(three) == ["step-000000002", "step-000000003"]
    assert three.latest()[0].state == {"step": 3}  # type: ignore[union-attr]
    cut(three.folder / "step-000000003")
    checkpoints = Checkpoints(three.folder)
    save(checkpoints, 2)
    assert names(checkpoints) == ["step-000000002"]


def test_an_older_one_goes_only_after_the_new_one_is_verified(
    three: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_damage", lambda folder: "a bit has flipped")
    with pytest.raises(RunError, match=r"does not read back as it was written .a bit has flipped"):
        save(three, 4)
    monkeypatch.undo()
    assert names(three) == ["step-000000002", "step-000000003", "step-000000004"]


def test_a_folder_that_cannot_be_written_keeps_what_it_has(three: Checkpoints) -> None:
    (three.folder / ".writing").write_text("a file where a folder should be")
    with pytest.raises(RunError, match=r"update 4 could not be written .* Earlier checkpoints are"):
        save(three, 4)
    assert three.latest()[0].state == {"step": 3}  # type: ignore[union-attr]


def test_nothing_but_safetensors_and_json(three: Checkpoints) -> None:
    for path in three.folder.rglob("*"):
        if path.suffix == ".json":
            json.loads(path.read_text("utf-8"))
        elif path.is_file():
            assert path.suffix == ".safetensors"
            with safe_open(path, "pt") as file:
                assert list(file.keys()) == ["w"]


def test_no_code_of_ours_writes_or_reads_a_pickle() -> None:
    # That nothing imports pickle is a test of the layers; torch would do it unasked.
    barred = {"torch.load", "torch.save", "torch.jit.load", "accelerator.save_state"}
    for path in Path(finetune.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in barred, path


def test_an_optimizers_state_goes_through_json_and_tensors() -> None:
    state = {
        "state": {0: {"step": torch.tensor(3.0), "momentum": None, "count": 2}},
        "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99), "params": [0]}],
    }
    tensors, plain = pack(state)
    back = unpack(tensors, json.loads(json.dumps(plain)))
    assert back["state"] == state["state"]
    assert back["param_groups"] == [{"lr": 0.1, "betas": [0.9, 0.99], "params": [0]}]


def test_an_optimizer_that_only_pickle_could_save_is_refused() -> None:
    state = {"state": {0: {"history": {1, 2}}}, "param_groups": []}
    with pytest.raises(
        RunError, match=r"cannot be saved without pickle .* another train.optimizer"
    ):
        pack(state)
