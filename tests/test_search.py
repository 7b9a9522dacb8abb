"""Search over fields of a recipe: what is searched, what is chosen, and that it goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import optuna
import pytest
from conftest import TINY_VIT

from finetune import child, finetune, search, search_space
from finetune.command import main
from finetune.errors import RecipeError
from finetune.recipe import Recipe, load
from finetune.search_space import Between, OneOf

TINY = [*TINY_VIT, "data.shots=8", "train.epochs=3", "train.batch_size=40"]
LR = "train.lr=1e-5..1e-2:log"


@pytest.fixture
def recipe() -> Recipe:
    return load("vit-digits")


def test_ranges_and_lists_are_read_and_the_rest_is_set(recipe: Recipe) -> None:
    texts = ["train.lr=1e-5..1e-3:log", "method=lora", "method.rank=4,8,16", "train.epochs=2..5"]
    plain, found = search_space.read(recipe, [*texts, "train.warmup=0..0.5", "name=a"])
    assert found == [
        OneOf("method.rank", ("4", "8", "16")),
        Between("train.epochs", 2, 5, whole=True),
        Between("train.lr", 1e-5, 1e-3, log=True),
        Between("train.warmup", 0, 0.5),
    ]
    assert plain.name == "a" and plain.method.kind == "lora"
    assert plain.train == recipe.train
    assert list(map(str, found))[:3] == [texts[2], texts[3], "train.lr=1e-05..0.001:log"]


def test_a_comma_stays_where_a_field_takes_several_values(recipe: Recipe) -> None:
    texts = ["method=features", "method.c=0.1,1", "data.shots=4,8"]
    plain, found = search_space.read(recipe, texts)
    assert plain.method.c == (0.1, 1.0)  # type: ignore[union-attr]
    assert found == [OneOf("data.shots", ("4", "8"))]


def test_entries_of_dicts_and_kinds_are_searched(recipe: Recipe) -> None:
    texts = ["train.optimizer_args.eps=1e-8..1e-4:log", "method=full,norm-bias"]
    _, found = search_space.read(recipe, texts)
    assert [d.key for d in found] == ["method", "train.optimizer_args.eps"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train.lrr=1e-5..1e-3", "Unknown key 'train.lrr'. Did you mean 'train.lr'?"),
        ("method.rank=4,8", "method is full, and rank belongs to lora. Add method=lora"),
        ("train.lr=1e-3..1e-5", "the lower end comes first, train.lr=1e-05..0.001."),
        ("train.lr=1e-3..1e-3", "has one value. To set it for all: train.lr=0.001."),
        ("train.lr=1e-3..", "is no range of numbers: write train.lr=LOW..HIGH"),
        ("train.lr=1e-5..1e-3:lgo", "is no range: write train.lr=LOW..HIGH"),
        ("train.lr=1e-5..1e-3:lgo", "Did you mean 'log'?"),
        ("train.weight_decay=0..1:log", "with :log both ends are above 0"),
        ("train.lr=-1..1", "train.lr: '-1.0' is not allowed"),
        ("train.epochs=1.5..3", "takes whole numbers, such as train.epochs=4..16"),
        ("train.optimizer=1..2", "takes text, not a range. List the values to try"),
        ("method.layer_decay=0.5,1.5", "method.layer_decay: '1.5' is not allowed"),
        ("train.optimizer=sgd,adamw,sgd", "has a value twice: keep one of them"),
        ("train.optimizer=sgd,", "has an empty value"),
        ("method=full,loar", "Did you mean 'lora'?"),
        ("data.split_seed=0,1", "data.split_seed cannot be searched: trials would be judged on"),
        ("data.validation=0.1..0.2", "cannot be searched"),
        ("task=image-classification,image-regression", "task cannot be searched"),
        ("train.lr=1e-3", "There is nothing to search: give a range such as"),
        ("train.lr", "'train.lr' is not an override; write key=value."),
    ],
)
def test_what_cannot_be_searched_is_one_message(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "x"
    assert main(["search", "recipe=vit-digits", text, f"output={output}"]) == 2
    assert said in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("trials", ["0", "-1", "two"])
def test_a_number_of_trials_that_is_none(trials: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "recipe=vit-digits", LR, f"trials={trials}"]) == 2
    assert f"trials='{trials}' is not allowed" in capsys.readouterr().err


def test_nothing_is_pushed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "recipe=vit-digits", LR, "hub.push=me/digits"]) == 2
    assert "search pushes nothing: leave out hub.push" in capsys.readouterr().err


def test_a_key_twice(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"train\.lr is given twice"):
        search_space.read(recipe, [LR, "train.lr=1"])


def test_without_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["search", "recipe=vit-digits", LR]) == 2
    assert "is an extra: pip install optuna" in capsys.readouterr().err


def test_values_are_those_a_recipe_can_hold(recipe: Recipe) -> None:
    lr = Between("train.lr", 1e-5, 0.00123456, log=True)
    assert lr.text(0.000314159265) == "0.0003142"
    assert lr.text(0.00123456) == "0.00123456"  # never beyond an end
    assert lr.own(recipe) == recipe.train.lr
    assert lr.own(recipe.override("train.lr=1")) is None
    assert OneOf("method", ("lora", "full")).own(recipe) == "full"
    assert OneOf("method", ("lora", "features")).own(recipe) is None
    ranks, epochs = OneOf("method.rank", ("4", "8")), Between("train.epochs", 1, 3, whole=True)
    assert search_space.number_of_combinations([ranks, epochs]) == 6
    assert search_space.number_of_combinations([ranks, lr]) is None


@pytest.fixture
def within(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finish the best run in this process, to save the start of another."""
    monkeypatch.setattr(child, "run", lambda recipe, folder: finetune(recipe, folder))


def test_a_search_goes_on_and_only_the_best_sees_the_test(
    tmp_path: Path, within: None, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "all"
    command = ["search", "recipe=vit-digits", *TINY, LR, f"output={output}"]
    assert main([*command, "trials=2"]) == 0
    first = json.loads((output / "search.json").read_text("utf-8"))
    assert next(t["values"]["train.lr"] for t in first["trials"]) == "0.001"  # the recipe's own
    assert first["own"] == 0 and first["space"] == ["train.lr=1e-05..0.01:log"]
    capfd.readouterr()
    assert main([*command, "trials=3"]) == 0
    told = capfd.readouterr()
    assert "Trial 2 of 3" in told.err and "Trial 1 of" not in told.err
    found = json.loads((output / "search.json").read_text("utf-8"))
    assert found["trials"][:2] == first["trials"]
    values = [t["figure"]["value"] for t in found["trials"]]
    assert found["best"] == values.index(max(values))
    looked = {f"trial-{n:03d}" for n in {first["best"], found["best"]}}
    assert set(found["looks_at_test"]) == looked
    best = load(output / "best.yaml")
    assert best == load(output / f"trial-{found['best']:03d}")
    result = json.loads((output / f"trial-{found['best']:03d}/result.json").read_text("utf-8"))
    assert len(result["looks_at_test"]) == 1
    assert result["test"]["accuracy"] == found["test"]
    # The run that was finished is the trial that was chosen, not another training.
    assert result["training"]["epochs"] == 3
    chosen = found["trials"][found["best"]]["figure"]["value"]
    assert result["validation"]["accuracy"]["value"] == pytest.approx(chosen, abs=0.02)
    left = {path.parent.name for path in output.glob("trial-*/state")}
    assert left <= looked
    assert "vit-digits: search" in (output / "report.html").read_text("utf-8")
    other = ["search", "recipe=vit-digits", *TINY, "train.lr=1e-5..1e-3:log", f"output={output}"]
    assert main(other) == 2
    assert "holds another search, with train.lr=1e-05..0.01:log" in capfd.readouterr().err


def test_a_few_combinations_are_each_tried_once_and_a_failure_is_told(
    tmp_path: Path, within: None, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "all"
    plain = [*TINY_VIT, "data.shots=8", "train.epochs=1", "method=norm-bias"]
    command = ["search", "recipe=vit-digits", *plain]
    assert main([*command, "train.batch_size=40,90", f"output={output}"]) == 0
    told = capfd.readouterr()
    assert "There are 2 combinations" in told.err
    found = json.loads((output / "search.json").read_text("utf-8"))
    by = {t["values"]["train.batch_size"]: t for t in found["trials"]}
    assert by["90"]["state"] == "fail" and "more than the 80 rows" in by["90"]["reason"]
    assert found["best"] == by["40"]["number"]
    number = by["90"]["number"]
    assert f"1 of 2 trials failed, such as trial {number}: train.batch_size=90" in told.out


def test_a_trial_that_lags_is_pruned_and_a_broken_off_one_goes_on(tmp_path: Path) -> None:
    recipe = load("vit-digits").override(*TINY)
    plain, dimensions = search_space.read(recipe, [LR])
    ranges = search._distributions(dimensions)
    text = "\n".join([plain.to_yaml(), *map(str, dimensions)])
    study = search._study(tmp_path, text)
    for n in range(5):  # five that were perfect from the first epoch on
        study.add_trial(
            optuna.trial.create_trial(
                params={"train.lr": 1e-3 * (n + 1)},
                distributions=ranges,
                value=1.0,
                intermediate_values={1: 1.0, 2: 1.0, 3: 1.0},
            )
        )
    asked = study.ask(ranges)  # and a sixth that a kill has left
    again = search._next(study, ranges)
    assert (again.number, again.params) == (5, asked.params)
    study.pruner = search._pruner(dimensions)
    search._attempt(study, again, plain, dimensions, tmp_path, 6)
    trial = study.trials[5]
    assert trial.state.name == "PRUNED"
    assert list(trial.intermediate_values) == [1, 2]  # not on the first epoch
    assert trial.user_attrs["epochs"] == 2
    search._tidy(tmp_path, study.trials)
    assert not (tmp_path / "trial-005" / "state").exists()
    epochs = search_space.read(recipe, ["train.epochs=1..9"])[1]
    assert isinstance(search._pruner(epochs), optuna.pruners.NopPruner)


def test_a_folder_of_something_else_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").touch()
    assert main(["search", "recipe=vit-digits", LR, f"output={tmp_path}"]) == 2
    assert "is not empty and holds no search" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
