"""The run folder: one writer, one recipe, and nothing of others overwritten."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from toy import Net, stripes

from finetune import Recipe
from finetune.errors import Interrupted, RunError
from finetune.folder import Folder, opened, write_json
from recipes.vit_digits import recipe as digits

SCRIPTED = stripes(Net)


def test_a_new_folder_notes_its_recipe(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run"
    with opened(path, digits) as folder:
        assert not folder.finished()
        assert folder.model == path / "model"
    assert Recipe.from_yaml((path / "recipe.yaml").read_text()) == digits


def test_the_same_recipe_may_go_on(tmp_path: Path) -> None:
    for recipe in (digits, SCRIPTED):
        for _ in range(2):
            with opened(tmp_path / recipe.name, recipe):
                pass


def test_a_kill_before_the_recipe_stood_there_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".recipe.yaml.writing").write_text("kind: ")
    with opened(tmp_path, digits):
        pass
    assert not (tmp_path / ".recipe.yaml.writing").exists()


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    with (
        opened(tmp_path, digits),
        pytest.raises(RunError, match="Another run is writing to .* now"),
        opened(tmp_path, digits),
    ):
        pass
    with opened(tmp_path, digits):
        pass


def test_another_recipe_is_refused_with_the_difference(tmp_path: Path) -> None:
    with opened(tmp_path, digits) as folder:
        folder.log(loss=1.0)
    other = digits.override("train.lr=0.5", "method=lora")
    with pytest.raises(RunError) as caught, opened(tmp_path, other):
        pass
    assert "train.lr: 0.001 -> 0.5" in str(caught.value)
    assert "method.kind: 'full' -> 'lora'" in str(caught.value)
    assert "output=DIR" in str(caught.value)
    assert Recipe.from_yaml((tmp_path / "recipe.yaml").read_text()) == digits


def test_a_run_that_never_learned_may_be_given_another_recipe(tmp_path: Path) -> None:
    other = digits.override("train.lr=0.5")
    for recipe in (digits, other):
        with opened(tmp_path, recipe):
            pass
    assert Recipe.from_yaml((tmp_path / "recipe.yaml").read_text()) == other


def test_another_script_is_refused(tmp_path: Path) -> None:
    for first, second in ((SCRIPTED, stripes(Net, lr=1.0)), (SCRIPTED, digits), (digits, SCRIPTED)):
        path = tmp_path / f"{first.digest}-{second.digest}"
        with opened(path, first) as folder:
            folder.log(loss=1.0)
        with pytest.raises(RunError, match="another recipe, one of them made in a script"):
            opened(path, second).__enter__()


def test_only_more_epochs_extend_a_finished_run(tmp_path: Path) -> None:
    with opened(tmp_path, digits) as folder:
        write_json(tmp_path / "result.json", {"looks_at_test": [{"n": 7}]})
        assert folder.finished()
        assert folder.earlier_looks() == []
    with opened(tmp_path, digits) as folder:
        assert folder.finished()
    with pytest.raises(RunError, match="train.epochs: 10 -> 2"):
        opened(tmp_path, digits.override("train.epochs=2")).__enter__()
    longer = digits.override("train.epochs=12")
    with opened(tmp_path, longer) as folder:
        assert not folder.finished()
        assert folder.earlier_looks() == [{"n": 7}]
    assert Recipe.from_yaml((tmp_path / "recipe.yaml").read_text()) == longer


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(RunError, match=r"is no run folder \(it holds 'thesis.tex'\)"):
        opened(tmp_path, digits).__enter__()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != ".lock") == ["thesis.tex"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "run", tmp_path / "file"):
        with pytest.raises(RunError, match="cannot be written to .* Give another output=DIR"):
            opened(path, digits).__enter__()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_whatever_meets_the_full_disk_says_so(tmp_path: Path, number: int) -> None:
    with pytest.raises(RunError, match="The disk is full"), opened(tmp_path, digits):
        raise OSError(number, os.strerror(number))


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), opened(tmp_path, digits):
        tmp_path.read_bytes()


def test_the_log_grows_by_lines_and_forgets_what_will_be_written_again(tmp_path: Path) -> None:
    with opened(tmp_path, digits) as folder:
        folder.cut_log(0)
        folder.log(update=1, loss=0.5)
        size = folder.flushed_log()
        folder.log(update=2, loss=0.25)
        folder.cut_log(size)
        assert json.loads(folder.log_path.read_text()) == {"update": 1, "loss": 0.5}
        folder.cut_log(10**6)
        assert folder.log_path.stat().st_size == size


def raise_signal(folder: Folder, number: signal.Signals) -> None:
    signal.raise_signal(number)


def let_it_wait(folder: Folder, number: signal.Signals) -> None:
    with folder.stops_between_updates():
        signal.raise_signal(number)
        assert folder.stop_asked


def ask_twice(folder: Folder, number: signal.Signals) -> None:
    with folder.stops_between_updates():
        signal.raise_signal(number)
        signal.raise_signal(number)
        pytest.fail("the second request did not stop it")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("how", [raise_signal, let_it_wait, ask_twice])
def test_a_request_to_stop_ends_the_run_with_its_own_exit_code(
    tmp_path: Path, number: signal.Signals, how: Callable[[Folder, signal.Signals], None]
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="run the same command again") as caught:  # noqa: SIM117
        with opened(tmp_path, digits) as folder:
            how(folder, number)
    assert caught.value.exit_code == 75
    assert signal.getsignal(number) is before
