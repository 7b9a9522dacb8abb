"""Overrides: what each text does to a recipe, and what a wrong one is told."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from finetune import (
    Digits,
    Full,
    HubData,
    ImageClassification,
    ImageFolder,
    LoRA,
    Recipe,
    RecipeError,
    Timm,
    Train,
)
from finetune.override import apply
from finetune.protocols import Splits

RECIPE = Recipe(
    name="base",
    backbone=Timm(name="resnet18.a1_in1k", weights="none"),
    data=HubData("uoft-cs/cifar10", image="img", validation=0.02),
    task=ImageClassification(),
    method=Full(layer_decay=0.75),
    train=Train(epochs=3),
)


def message(*texts: str, recipe: Recipe = RECIPE) -> str:
    """Return what overriding says is wrong."""
    with pytest.raises(RecipeError) as caught:
        recipe.override(*texts)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("train.epochs=1", "train.epochs", 1),
        ("train.lr=3e-4", "train.lr", 3e-4),
        ("train.epochs = 1", "train.epochs", 1),
        ("train.precision=no", "train.precision", "no"),
        ("train.class_weights=none", "train.class_weights", "none"),
        ("name=2024", "name", "2024"),
        ("name=a=b", "name", "a=b"),
        ("name=true", "name", "true"),
        ("train.compile=true", "train.compile", True),
        ("train.micro_batch_size=8", "train.micro_batch_size", 8),
        ("train.micro_batch_size=none", "train.micro_batch_size", None),
        ("train.micro_batch_size=", "train.micro_batch_size", None),
        ("data.validation=0.1", "data.validation", 0.1),
        ("data.validation=train[:50]", "data.validation", "train[:50]"),
        ("data.validation=none", "data.validation", None),
        ("data.label=cat,dog", "data.label", ("cat", "dog")),
        ("data.label=cat", "data.label", "cat"),
        ("task.augmentation.scale=0.1, 0.9", "task.augmentation.scale", (0.1, 0.9)),
        ("task.augmentation.scale=[0.1, 0.9]", "task.augmentation.scale", (0.1, 0.9)),
        ("train.optimizer_args.momentum=0.9", "train.optimizer_args", {"momentum": 0.9}),
        ("train.optimizer_args.nesterov=True", "train.optimizer_args", {"nesterov": True}),
        ("train.optimizer_args.fused=none", "train.optimizer_args", {"fused": None}),
        ("train.optimizer_args.mode=max", "train.optimizer_args", {"mode": "max"}),
        ("train.optimizer_args.a.b=[1]", "train.optimizer_args", {"a.b": [1]}),
        ('train.optimizer_args={"momentum": 0.9}', "train.optimizer_args", {"momentum": 0.9}),
        ("metrics=f1_macro,top5", "metrics", ("f1_macro", "top5")),
        ("metrics=", "metrics", ()),
    ],
)
def test_one_text_sets_one_value(text: str, path: str, value: Any) -> None:
    found: Any = RECIPE.override(text)
    for part in path.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_another_variant_resets_the_noun_and_takes_keys_from_any_position() -> None:
    texts = ["method.rank=16", "method.options.use_dora=true", "method=lora", "train.epochs=1"]
    expected = LoRA(rank=16, options={"use_dora": True})
    for order in itertools.permutations(texts):
        changed = RECIPE.override(*order)
        assert changed.method == expected
        assert changed.train.epochs == 1
    assert RECIPE.method == Full(layer_decay=0.75)  # a recipe is a value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("method=lora", LoRA()),
        ("method.kind=lora", LoRA()),
        ("method=LORA", LoRA()),
        ("method=full", Full(layer_decay=0.75)),
        ("data=digits", Digits()),
        ("data=./photos", ImageFolder("./photos")),
        ("data=me/other", HubData("me/other", image="img", validation=0.02)),
        ("data.kind=hub", HubData("uoft-cs/cifar10", image="img", validation=0.02)),
        ("backbone=resnet50.a1_in1k", Timm(name="resnet50.a1_in1k", weights="none")),
        ("task=image-classification", ImageClassification()),
        ("task=image_classification", ImageClassification()),
    ],
)
def test_short_forms(text: str, expected: Any) -> None:
    noun = text.partition("=")[0].partition(".")[0]
    assert getattr(RECIPE.override(text), noun) == expected


def test_python_values_and_texts_together() -> None:
    changed = RECIPE.override("method.rank=4", "name=n", method=LoRA(alpha=2), data="digits")
    assert (changed.method, changed.data, changed.name) == (LoRA(rank=4, alpha=2), Digits(), "n")
    assert RECIPE.override() == RECIPE
    assert RECIPE.override(train=Train(epochs=9)).train.epochs == 9


class Pairs:
    """Data from outside the toolkit: it meets the protocol, and that is all."""

    def load(self, columns: Sequence[str]) -> Splits:
        """Return nothing: these tests load no data."""
        raise NotImplementedError


def test_custom_objects_survive_other_overrides() -> None:
    mine = Pairs()
    recipe = RECIPE.override(data=mine)
    assert recipe.override("train.epochs=1", "method=lora").data is mine
    said = message("data.shots=8", recipe=recipe)
    assert said == (
        "data.shots cannot be set: data is an object of a class from outside the toolkit, Pairs. "
        "Choose data= one of digits, hub, image-folder, intents, table, text-files first."
    )
    assert recipe.override("data=digits", "data.shots=8").data == Digits(shots=8)


def test_origins_name_what_is_not_at_its_default() -> None:
    changed, origins = apply(
        RECIPE, ["train.lr=1e-3", "method=lora", "method.rank=4", "train.optimizer_args.eps=1e-6"]
    )
    assert origins == {
        "name": "recipe",
        "backbone.kind": "recipe",
        "backbone.name": "recipe",
        "backbone.weights": "recipe",
        "data.kind": "recipe",
        "data.path": "recipe",
        "data.image": "recipe",
        "data.validation": "recipe",
        "task.kind": "recipe",
        "method.kind": "command line",
        "method.rank": "command line",
        "train.epochs": "recipe",
        "train.lr": "command line",
        "train.optimizer_args.eps": "command line",
    }
    assert changed.train.lr == 1e-3
    _, origins = apply(RECIPE, ["backbone=resnet50.a1_in1k"])
    assert origins["backbone.name"] == "command line"
    assert origins["backbone.kind"] == origins["backbone.weights"] == "recipe"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train.epoch=3", "Unknown key 'train.epoch'. Did you mean 'train.epochs'?"),
        ("epochs=3", "Unknown key 'epochs'. Did you mean 'train.epochs'?"),
        ("trian.lr=1", "Unknown key 'trian.lr'. Did you mean 'train.lr'?"),
        ("train.lr.x=1", "Unknown key 'train.lr.x': train.lr is a plain value without keys."),
        ("zzzz=1", "Unknown key 'zzzz'. The keys are name, backbone, data, task, method, train,"),
        ("method.rank=16", "method is full, and rank belongs to lora. Add method=lora"),
        ("method=loar", "method='loar' is not known here. Did you mean 'lora'? Write method=full,"),
        ("method.kind=loar", "method='loar' is not known here. Did you mean 'lora'?"),
        ("data=what?", "Write data=digits, or data.kind=hub data.path=..., or data.kind=image"),
        ("backbone=a b", "Write backbone.kind=timm backbone.name=..."),
        ("train=3", "train takes no value of its own: set train.NAME"),
        ("train.epochs=three", "train.epochs: 'three' is not allowed; give a whole number of 0 or"),
        ("train.epochs=true", "train.epochs: 'true' is not allowed; give a whole number"),
        ("train.epochs=1.5", "train.epochs: '1.5' is not allowed; give a whole number"),
        ("train.lr=0", "train.lr: '0' is not allowed; give a number above 0."),
        ("train.lr=nan", "train.lr: 'nan' is not allowed"),
        ("train.warmup=2", "give a number from 0 to 1."),
        ("train.ema=1", "give a number from 0 below 1."),
        ("train.compile=maybe", "give true or false."),
        ("train.schedule=cosin", "one of cosine, linear, step, constant. Did you mean 'cosine'?"),
        ("train.micro_batch_size=-3", "give a whole number above 0, or none."),
        ("task.augmentation.scale=1", "give 2 values with commas between them, each a number"),
        ("train.optimizer_args=a", "give a JSON object"),
        ("train.optimizer_args={a}", "is not valid JSON"),
        ("train.optimizer_args.a=[1", "is not valid JSON"),
        ("data.kind=image-folder", "data.path is required: give text ("),
        ("vit-cifar", "'vit-cifar' is not an override; write key=value."),
        ("=3", "'=3' is not an override; write key=value."),
    ],
)
def test_a_wrong_text_is_told_what_is_allowed(text: str, said: str) -> None:
    assert said in message(text)


def test_several_problems_are_told_at_once() -> None:
    said = message("train.epoch=1", "method=loar", "train.lr=-1", "train.lr=1", "train.warmup=x")
    assert said.startswith("5 problems:\n- ")
    for part in ("train.epochs", "lora", "train.lr is given twice", "train.warmup: 'x'"):
        assert part in said


def test_unknown_python_keyword() -> None:
    with pytest.raises(RecipeError, match=r"Unknown key 'metod'. Did you mean 'method'"):
        RECIPE.override(metod=LoRA())
    with pytest.raises(RecipeError, match=r"train: 3 is not allowed; give keys of it"):
        RECIPE.override(train=3)
    with pytest.raises(RecipeError, match=r"train.epochs: True is not allowed; give a whole"):
        RECIPE.override(train={"epochs": True})


@pytest.mark.parametrize(
    "text",
    [
        "name=hf_" + "aB3" * 11,
        "hf_" + "aB3" * 11,
        "hf_" + "aB3" * 11 + "=1",
        "data.path=https://me:" + "aB3" * 5 + "@host/x",
        "train.optimizer_args.token=ghp_" + "aB3" * 11,
    ],
)
def test_secrets_are_refused_and_not_repeated(text: str) -> None:
    said = message(text, "train.epoch=3")
    assert "looks like an access token" in said
    assert "aB3" not in said


def test_long_values_are_cut_in_messages() -> None:
    assert len(message("train.epochs=" + "9x" * 5000)) < 300
