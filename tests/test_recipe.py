"""Recipes as values: shipped ones, files, saved ones, and what a broken one is told."""

from __future__ import annotations

import ast
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest

from finetune import Digits, ImageClassification, LoRA, Recipe, RecipeError, Timm, Train
from finetune import recipe as recipes
from finetune.explain import defaults, keys, leaves, tree

SHIPPED = recipes.names()


@pytest.fixture
def plain() -> Recipe:
    """Return a small recipe."""
    return Recipe(
        name="plain", backbone=Timm(name="tiny-vit"), data=Digits(), task=ImageClassification()
    )


def test_shipped_names() -> None:
    expected = {"vit-digits", "vit-cifar", "vit-cifar-lora", "resnet-cifar-features"}
    assert expected | {"convnext-imagefolder", "pretrain-tiny-vit"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_has_a_story_and_reads_back(name: str, tmp_path: Path) -> None:
    recipe = recipes.load(name)
    assert recipe.name == name
    assert recipes.load(name.replace("-", "_")) == recipe
    assert 0 < len(recipes.story(name)) <= 90
    path = Path(recipes.__file__).parent.parent / "recipes" / f"{name.replace('-', '_')}.py"
    told = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    assert "\nExpected: " in told
    assert "\nSource: " in told
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), "utf-8")
    for spec in (tmp_path, tmp_path / "recipe.yaml", str(tmp_path)):
        again = recipes.load(spec)
        assert again == recipe
        assert again.digest == recipe.digest
        assert recipes.difference(recipe, again) == []


def possible(value: Any, draw: random.Random) -> str | None:
    """Return another text for a field that now holds `value`, or None where this cannot tell."""
    if isinstance(value, bool):
        return draw.choice(["true", "false"])
    if isinstance(value, int):
        return str(draw.randint(1, 9))
    if isinstance(value, float):
        return repr(draw.uniform(0.01, 0.99))
    return None


def texts(recipe: Recipe, draw: random.Random) -> Iterator[str]:
    """Yield some overrides of the numbers and switches of a recipe."""
    for key, value in leaves(recipe).items():
        text = possible(value, draw)
        if text is not None and draw.random() < 0.3:
            yield f"{key}={text}"
    yield f"train.optimizer_args.odd={draw.choice(['no', '3e-4', '010', '1:30', 'null', 'é'])}"
    words = ["no", "2024", "3e-4", "0x1F", "1_000", "a: b", "# x", "é\tb", "-"]
    yield f"name={draw.choice(words)}"


@pytest.mark.parametrize("name", SHIPPED)
def test_any_overrides_save_read_back_and_explain_themselves(name: str) -> None:
    recipe = recipes.load(name)
    for seed in range(20):
        given = list(texts(recipe, random.Random(f"{name} {seed}")))
        changed = recipe.override(*given)
        random.Random(seed).shuffle(given)
        assert recipe.override(*given) == changed
        assert Recipe.from_yaml(changed.to_yaml()) == changed
        assert Recipe.model_validate_json(changed.model_dump_json()) == changed
        told = {line.partition(":")[0] for line in recipes.difference(recipe, changed)}
        assert told <= {text.partition("=")[0] for text in given}
        assert (changed.digest == recipe.digest) == (changed == recipe)


def test_every_key_that_is_offered_can_be_given() -> None:
    for name in SHIPPED:
        recipe = recipes.load(name)
        known = set(keys(Recipe, tree(recipe)))
        assert {key for key in defaults(recipe) if "args" not in key} <= known
        for key, value in leaves(recipe).items():
            if isinstance(value, (int, float)) and key in known:
                assert recipe.override(f"{key}={str(value).lower()}") == recipe


def test_recipe_from_a_python_file(tmp_path: Path, plain: Recipe) -> None:
    path = tmp_path / "my_recipe.py"
    path.write_text(
        "from recipes.vit_digits import recipe as base\n"
        "recipe = base.override('train.epochs=1', name='mine')\n"
    )
    recipe = recipes.load(path)
    assert (recipe.name, recipe.train.epochs) == ("mine", 1)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("recipe = 3", "has no variable `recipe` that is a Recipe"),
        ("recipe = ", "does not run: SyntaxError"),
        ("import no_such_module", "does not run: ModuleNotFoundError: No module named"),
        (
            "from finetune import Train\nTrain(epoch=1)",
            "Unknown key 'epoch'. Did you mean 'epochs'",
        ),
        (
            "from finetune import Train\nTrain(lr=-1)",
            "lr: -1 is not allowed; give a number above 0",
        ),
        ("from recipes.vit_digits import recipe as r\nr.override('train.lr=x')", "train.lr: 'x'"),
    ],
)
def test_a_broken_python_file(source: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text(source)
    with pytest.raises(RecipeError) as caught:
        recipes.load(path)
    assert said in str(caught.value)
    assert "broken.py" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a recipe in YAML is a mapping"),
        ("- a", "a recipe in YAML is a mapping"),
        ("a: [", "this is no YAML"),
        ("name: a\nname: b", "the key 'name' comes twice"),
        ("? [a, b]\n: c", "keys are words"),
        ("? {a: b}\n: c", "keys are words"),
        ("name: !!python/object/apply:os.system [id]", "this is no YAML"),
        ("name: a", "backbone is required: give one of the kinds timm"),
        ("nane: a", "Unknown key 'nane'. Did you mean 'name'"),
    ],
)
def test_broken_yaml(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        recipes.load(tmp_path / "a.yaml")
    assert said in str(caught.value)
    assert str(tmp_path / "a.yaml") in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("epochs: 5", "epochs: true", "train.epochs: True is not allowed; give a whole number"),
        ("epochs: 5", "epoch: 5", "Unknown key 'train.epoch'. Did you mean 'train.epochs'"),
        ("kind: full", "kind: fulll", "method: 'fulll' is not allowed; give one of the kinds full"),
        ("kind: full", "rank: 3", "method: {'rank': 3, "),
        ("precision: auto", "precision: on", "'on' is not allowed; give one of auto, no, bf16"),
        ("flip: 0.5", "flips: 0.5", "Unknown key 'task.augmentation.flips'. Did you mean 'task."),
        ("img_size: null", "img_size: x", "backbone.img_size: 'x' is not allowed"),
    ],
)
def test_a_wrong_value_in_yaml(before: str, after: str, said: str, plain: Recipe) -> None:
    text = plain.to_yaml()
    assert before in text
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(text.replace(before, after))
    assert said in str(caught.value)


def test_yaml_words_are_not_guessed(plain: Recipe) -> None:
    text = plain.to_yaml().replace("precision: auto", "precision: no").replace("0.0005", "5e-4")
    recipe = Recipe.from_yaml(text.replace("name: plain", "name: 1:30"))
    assert (recipe.train.precision, recipe.train.lr, recipe.name) == ("no", 5e-4, "1:30")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("vit-digts", "Did you mean 'vit-digits'? `finetune recipes` lists the shipped ones"),
        ("no/such/folder", "is neither a recipe's name nor a file"),
        ("__init__", "is neither a recipe's name nor a file"),
        ("os", "is neither a recipe's name nor a file"),
        ("a.txt", "is not a .py or .yaml file"),
        (".", "has no recipe.yaml"),
    ],
)
def test_an_unknown_recipe(
    spec: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").touch()
    with pytest.raises(RecipeError) as caught:
        recipes.load(spec)
    assert said in str(caught.value)


class Mine:
    """Data from outside the toolkit."""

    def load(self, columns: Any) -> Any:
        """Return nothing: these tests load no data."""
        raise NotImplementedError


def test_a_recipe_with_an_object_runs_but_cannot_be_saved(plain: Recipe) -> None:
    recipe = plain.override(data=Mine())
    with pytest.raises(RecipeError, match=r"cannot be saved as YAML: data is .* class Mine"):
        recipe.to_yaml()
    assert recipe.digest == plain.override(data=Mine()).digest != plain.digest
    with pytest.raises(RecipeError, match="metrics is an object"):
        plain.override(metrics=(Mine(),)).to_yaml()


def test_difference(plain: Recipe) -> None:
    assert recipes.difference(plain, plain.override("train.epochs=1", "method=lora")) == [
        "method.kind: 'full' -> 'lora'",
        "train.epochs: 5 -> 1",
    ]
    assert recipes.difference(plain, plain.override(method=LoRA(rank=2))) == [
        "method.kind: 'full' -> 'lora'",
        "method.rank: unset -> 2",
    ]


def test_digest_is_the_same_in_every_process(plain: Recipe) -> None:
    code = "from finetune.recipe import load; print(load('vit-cifar').digest)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == recipes.load("vit-cifar").digest
    assert len(plain.digest) == 8
    assert plain.digest != plain.override("train.seed=1").digest


def test_schema_names_every_variant_and_explains_fields() -> None:
    schema = json.loads(json.dumps(Recipe.model_json_schema()))
    assert {"Full", "LoRA", "FeatureExtraction", "NormBias", "Timm", "Digits"} <= set(
        schema["$defs"]
    )
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Train"]["properties"]["warmup"]["description"]


def test_a_value_is_frozen_and_strict() -> None:
    with pytest.raises(pydantic.ValidationError):
        Train().epochs = 3
    with pytest.raises(pydantic.ValidationError, match="epochs: True is not allowed here"):
        Train(epochs=True)
    with pytest.raises(pydantic.ValidationError):
        Train(epoch=3)  # type: ignore[call-arg]
