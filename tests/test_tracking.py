"""Trackers: that they get what the log gets, and that none of them stops training."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy
from accelerate import tracking as accelerate_tracking

from finetune import RecipeError, finetune, tracking


def logged(path: Path) -> dict[int, dict[str, float]]:
    """Return the figures of a run's log by update, under the names that trackers have."""
    lines = map(json.loads, (path / "metrics.jsonl").read_text("utf-8").splitlines())
    found: dict[int, dict[str, float]] = {}
    update = 0
    for line in lines:
        update = line.get("update", update)
        values = line.pop("validation", {})
        found.setdefault(update, {}).update(line)
        found[update] |= {f"validation/{name}": value for name, value in values.items()}
    return found


def test_tensorboard_has_the_figures_of_the_log(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    finetune(toy.stripes(), tmp_path / "run", track="tensorboard")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    wanted = logged(tmp_path / "run")
    names = {name for values in wanted.values() for name in values}
    assert {"loss", "lr", "epoch", "seconds", "validation/accuracy"} <= names
    assert set(events.Tags()["scalars"]) == names
    for name in names - {"seconds", "epoch"}:  # which both kinds of lines have
        told = {event.step: event.value for event in events.Scalars(name)}
        expected = {step: values[name] for step, values in wanted.items() if name in values}
        assert told == pytest.approx(expected)


def kept(path: Path) -> Iterator[bytes]:
    """Yield the records of a file of W&B: a LevelDB log, in blocks of 32 KiB, after 7 bytes."""
    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 2**15 - place % 2**15
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


def test_wandb_has_the_figures_of_the_log_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    finetune(toy.stripes(), tmp_path / "run", track="wandb")
    [path] = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    told: dict[int, dict[str, float]] = {}
    records = [Record.FromString(data) for data in kept(path)]
    for record in records:
        if record.WhichOneof("record_type") == "history":
            every = record.history.item
            items = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in every}
            told[items.pop("_step")] = {k: v for k, v in items.items() if k[0] != "_"}
    assert told == logged(tmp_path / "run")
    [run] = [record.run for record in records if record.HasField("run")]
    assert (run.project, run.display_name) == ("stripes", "run")


def test_a_tracker_changes_neither_the_weights_nor_where_the_run_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = toy.stripes(toy.VIT)
    run = finetune(recipe, track=["tensorboard"])
    assert run.path == Path("runs") / f"stripes-{recipe.digest}"
    finetune(recipe, "plain")
    assert toy.outcome(run.path) == toy.outcome(tmp_path / "plain")


class Failing(accelerate_tracking.GeneralTracker):
    """A tracker of a script's own, whose service goes away."""

    name = "failing"
    requires_logging_directory = False
    calls = 0

    def __init__(self, run_name: str) -> None:
        super().__init__()

    @property
    def tracker(self) -> None:
        return None

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        Failing.calls += 1
        if Failing.calls == 3:
            raise ConnectionError("[red]gone")


@pytest.fixture
def failing() -> Iterator[None]:
    Failing.calls = 0
    accelerate_tracking.register_tracker_class(Failing)
    yield
    del accelerate_tracking.LOGGER_TYPE_TO_CLASS["failing"]


@pytest.mark.usefixtures("failing")
def test_a_tracker_that_fails_is_told_once_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finetune(toy.stripes(), tmp_path / "run", track="failing,tensorboard")
    said = " ".join(capsys.readouterr().err.split())
    told = "The tracker failing failed and gets no more (ConnectionError: [red]gone)."
    assert said.count(told) == 1
    assert Failing.calls == 3
    assert run.result["training"]["epochs"] == 2
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_a_tracker_that_cannot_begin_is_told_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = toy.stripes()
    toy.fit(recipe, tmp_path / "run")
    (tmp_path / "run" / "tensorboard").write_text("in the way")
    finetune(recipe, tmp_path / "run", track="tensorboard")
    assert capsys.readouterr().err.count("The tracker tensorboard failed") == 1


def test_an_unknown_tracker_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'tensorbord' is not known. Did you mean 'tensorboard'"):
        finetune(toy.stripes(), tmp_path / "run", track="tensorbord")
    assert not (tmp_path / "run").exists()
    assert tracking.asked(" ") == tracking.asked(()) == []
    assert tracking.asked("tensorboard, tensorboard") == ["tensorboard"]


def test_a_missing_package_is_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["finetune", "recipe=vit-digits", "track=wandb", f"output={tmp_path / 'run'}"]
    code = (
        "import sys; sys.modules['wandb'] = None\n"
        f"from finetune.command import main; sys.exit(main({command!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "300"},
        check=False,
    )
    assert done.returncode == 2
    assert "track=wandb needs the package wandb" in done.stderr
    assert "pip install 'finetune[wandb]'" in done.stderr
    assert not (tmp_path / "run").exists()
    for name, package in {"tensorboard": r"finetune\[tensorboard\]", "mlflow": "mlflow"}.items():
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(RecipeError, match=f"pip install '{package}'"):
            tracking.asked(name)


def test_a_secret_of_a_script_does_not_reach_a_tracker() -> None:
    token = "hf_" + "aB3" * 11
    recipe = toy.stripes().model_copy(update={"name": token})
    assert token not in str(tracking._configuration(recipe))
