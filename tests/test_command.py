"""The command line: what it prints, how fast, and how it ends."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import finetune
from finetune import command, errors
from finetune.command import COMMANDS, main

CLI = Path(__file__).parent.parent / "cli.py"


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python cli.py` in a process of its own."""
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, str(CLI), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_instant_and_has_examples(name: str) -> None:
    # Processor time, so that a busy machine does not count; the wall clock shows no less.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(name, "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert "usage: finetune" in done.stdout
    assert f"finetune {name}" in done.stdout.partition("examples:")[2]
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3


def test_help_imports_only_the_standard_library() -> None:
    code = (
        "import sys; from finetune.command import main; main(['finetune', '--help']); main([]);"
        "print([m for m in sys.modules if m.partition('.')[0] in"
        " ('torch', 'numpy', 'pydantic', 'rich', 'yaml', 'timm', 'datasets')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_overview_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"], ["help"]):
        assert main(arguments) == 0
        shown = capsys.readouterr().out
        assert all(f"  {name} " in shown for name in COMMANDS)
    assert main(["help", "show"]) == 0
    assert "usage: finetune show recipe=... [key=value ...]" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"finetune {finetune.__version__}\n"


def test_recipes_lists_names_and_stories(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    shown = capsys.readouterr().out
    assert "vit-cifar              ViT-S/16 on CIFAR-10, full fine-tuning." in shown


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert "train" in json.loads(capsys.readouterr().out)["properties"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["finetun"], "no command 'finetun'. Did you mean 'finetune'? The commands are finetune,"),
        (["finetune"], "needs recipe=: a shipped name, a .py or .yaml file, or a run folder."),
        (["finetune", "recip=x"], "Is it what 'recip' is for?"),
        (["finetune", "recipe=x", "recipe=y"], "recipe is given twice"),
        (["finetune", "recipe="], "recipe= has no value. It is a shipped name"),
        (["finetune", "--recipe=x"], "without dashes: write recipe=VALUE"),
        (["finetune", "recipe=vit-digts"], "Did you mean 'vit-digits'?"),
        (["finetune", "recipe=vit-digits", "train.epoch=1"], "Did you mean 'train.epochs'?"),
        (["finetune", "train.lr=x", "recipe=vit-digits"], "train.lr: 'x' is not allowed"),
        (["finetune", "recipe=vit-digits", "method=loar"], "Did you mean 'lora'?"),
        (["show", "recipe=vit-digits", "vit"], "'vit' is not an override; write key=value."),
        (
            ["evaluate", "rnu=x"],
            "needs run=: run folder, or user/name of one that was pushed. Is it what 'rnu' is for?",
        ),
        (["predict", "run=x"], "finetune predict needs inputs=: an image, a folder"),
        (["predict", "run=x", "inputs=y", "ouput=z"], "has no key 'ouput'. Did you mean 'output'?"),
        (["recipes", "a=b"], "finetune recipes has no key 'a'. It takes no keys."),
    ],
)
def test_a_mistake_is_one_message_and_code_2(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert said in told.err
    assert list(tmp_path.iterdir()) == []  # nothing was written


def test_hostile_text_in_a_message_is_inert(tmp_path: Path) -> None:
    done = run("finetune", "recipe=[red]a[/red] [/bold]\x1b[31mx\x07\n<script>", cwd=tmp_path)
    assert done.returncode == 2
    assert "[red]a[/red] [/bold]" in done.stderr
    assert "\x1b" not in done.stderr
    assert "\x07" not in done.stderr


def test_a_secret_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    token = "hf_" + "aB3" * 11
    assert main(["finetune", "recipe=vit-digits", f"name={token}"]) == 2
    told = capsys.readouterr()
    assert "access token" in told.err
    assert token not in told.out + told.err


def call_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    """Run a command that raises `error` and return the exit code."""

    def fail(own: dict[str, str], rest: list[str]) -> None:
        raise error

    monkeypatch.setitem(COMMANDS, "fail", command.Command("Fail.", {}, ("finetune fail",), fail))
    return main(["fail"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.RecipeError("a"), 2),
        (errors.DataError("a"), 2),
        (errors.BackboneError("a"), 2),
        (errors.RunError("a"), 2),
        (errors.TrainingError("a"), 1),
        (errors.Interrupted("a"), 75),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert call_with(monkeypatch, error) == code
    assert "Traceback" not in capfd.readouterr().err


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        call_with(monkeypatch, ZeroDivisionError())


def test_a_reader_that_leaves_early_is_no_error() -> None:
    code = f"{sys.executable} {CLI} schema | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "{\n"
    assert done.returncode in (0, 141)
    assert done.stderr == ""


def test_own_keys_may_come_anywhere() -> None:
    own, rest = command.split("finetune", ["train.lr=1", "recipe=a", "method=lora", "output=b=c"])
    assert own == {"recipe": "a", "output": "b=c"}
    assert rest == ["train.lr=1", "method=lora"]
