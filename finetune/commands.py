"""The sub-commands: what each says of itself, and which call of `finetune.api` it is.

Nothing but the standard library is imported before a command has to run, so `--help` is instant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune.recipe import Recipe

Values = dict[str, str]


@dataclass(frozen=True)
class Command:
    """One sub-command: what it says of itself, and what it calls."""

    story: str
    keys: Values
    """Its own keys and what each is; a key with a leading `*` must be given."""
    examples: tuple[str, ...]
    call: Callable[[Values, list[str]], None]
    overrides: str = ""
    """What further `key=value` may set; nothing if empty."""

    @property
    def names(self) -> dict[str, bool]:
        """The keys, and whether each must be given."""
        return {key.lstrip("*"): key.startswith("*") for key in self.keys}


def _resolved(own: Values, rest: list[str]) -> tuple[Recipe, dict[str, str]]:
    """Return the recipe with its overrides, and their origins, before anything slow is imported."""
    from finetune.override import apply
    from finetune.recipe import load

    return apply(load(own["recipe"]), rest)


def _finetune(own: Values, rest: list[str]) -> None:
    recipe, _ = _resolved(own, rest)
    from finetune import api

    more = {key: own[key] for key in ("output", "evidence", "track") if key in own}
    api.finetune(recipe, **more)


def _show(own: Values, rest: list[str]) -> None:
    recipe, origins = _resolved(own, rest)
    from finetune import api

    api.show(recipe, origins)


def _evaluate(own: Values, rest: list[str]) -> None:
    from finetune import api

    slices = own["slices"].split(",") if "slices" in own else ()
    api.evaluate(own["run"], own.get("data"), rest, slices, own.get("forgetting"))


def _predict(own: Values, rest: list[str]) -> None:
    from finetune import api

    api.predict(**own)


def _push(own: Values, rest: list[str]) -> None:
    from finetune import api

    api.push(**own)


def _export(own: Values, rest: list[str]) -> None:
    from finetune import api

    api.export(**own)


def _features(own: Values, rest: list[str]) -> None:
    recipe, _ = _resolved(own, rest)
    from finetune import api

    api.features(recipe, output=own["output"])


def _compare(own: Values, rest: list[str]) -> None:
    recipe, _ = _resolved(own, rest)
    from finetune import api

    api.compare(recipe, **{key: own[key] for key in own if key != "recipe"})


def _rank(own: Values, rest: list[str]) -> None:
    from finetune.recipe import load

    recipe = load(own["recipe"]) if "recipe" in own else None
    from finetune import api

    given = {key: own[key] for key in ("samples", "output") if key in own}
    api.rank(own["backbones"], rest, recipe, **given)


def _check(own: Values, rest: list[str]) -> None:
    from finetune.preflight.default import recipe_for

    recipe = recipe_for(own.pop("recipe", None), rest)
    from finetune import api

    api.check(recipe, **own)


def _search(own: Values, rest: list[str]) -> None:
    from finetune.recipe import load

    recipe = load(own["recipe"])
    from finetune import api

    api.search(recipe, rest, **{key: own[key] for key in own if key != "recipe"})


def _reproduce(own: Values, rest: list[str]) -> None:
    from finetune import api

    api.reproduce(**own)


def _recipes(own: Values, rest: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from finetune.recipe import names, story

    table = Table("recipe", "story", box=None, header_style="bold", pad_edge=False)
    for name in names():
        table.add_row(Text(name, no_wrap=True), Text(story(name)))
    Console(highlight=False).print(table)


def _schema(own: Values, rest: list[str]) -> None:
    import json

    from finetune.recipe import Recipe

    print(json.dumps(Recipe.model_json_schema(), indent=2))


_RECIPE = {
    "*recipe": "a shipped name, a .py or .yaml file, or a run folder",
}

_TEXTS = {
    "text": "texts",
    "text_pair": "second texts",
    "words": "lists of words",
    "question": "questions",
    "context": "texts with the answers",
    "source": "texts to be rewritten",
    "messages": "chats",
}

_ANY_KEY = """\
Any key of the recipe can be set: train.epochs=1, method=lora method.rank=16,
backbone=resnet50.a1_in1k, data=./photos. `finetune show` prints them all."""

COMMANDS = {
    "finetune": Command(
        "Fine-tune a pretrained model as a recipe says, and test the result.",
        {
            **_RECIPE,
            "output": "run folder; runs/NAME-DIGEST if not given",
            "evidence": "false leaves out the baselines that need the backbone's features",
            "track": "tensorboard, wandb or another tracker that Accelerate knows; several with "
            "commas between",
        },
        (
            "finetune finetune recipe=vit-digits",
            "finetune finetune recipe=vit-digits track=tensorboard",
            "finetune finetune recipe=vit-cifar method=lora method.rank=16 train.epochs=1",
            "finetune finetune recipe=convnext-imagefolder data=./photos output=runs/photos",
            "accelerate launch cli.py finetune recipe=vit-cifar",
        ),
        _finetune,
        overrides=_ANY_KEY,
    ),
    "evaluate": Command(
        "Measure a finished run again, on its own test split or on other data.",
        {
            "*run": "run folder, or user/name of one that was pushed",
            "data": "other data: a folder, table or hub id",
            "slices": "columns by whose values figures are told apart, with the worst slice named",
            "forgetting": "reference data: what a linear probe there has lost by fine-tuning",
        },
        (
            "finetune evaluate run=runs/photos",
            "finetune evaluate run=runs/photos data=./more_photos",
            "finetune evaluate run=runs/photos data=new.csv data.label=species",
            "finetune evaluate run=runs/photos data=new.csv slices=camera,place",
        ),
        _evaluate,
        overrides="""\
Any key of the data can be set: data.label=species, data.test='train[:100]'. Of other
data the test split counts; where it has one split only, all its rows do.""",
    ),
    "predict": Command(
        "Predict with a finished run.",
        {
            "*run": "run folder, or user/name of one that was pushed",
            "*inputs": "an image, a folder, a pattern, a table, a .txt file of paths; of texts the "
            "text itself, a table, a .txt file with one on each line; - for standard input",
            "output": "a .csv, .jsonl or .parquet file; the terminal if not given",
            "top_k": "how many of the likeliest classes are told; 5 if not given",
            "image": "the column of a table that holds the images; found if not given",
            **{name: f"likewise the column with the {what}" for name, what in _TEXTS.items()},
        },
        (
            "finetune predict run=runs/photos inputs=cat.jpg",
            "finetune predict run=runs/photos inputs='photos/*.jpg' top_k=3",
            "finetune predict run=runs/photos inputs=./new_photos output=labels.csv",
            "finetune predict run=runs/reviews inputs=new.csv text=review output=labels.csv",
        ),
        _predict,
    ),
    "push": Command(
        "Push the model of a finished run to the hub, with its card, in one commit.",
        {
            "*run": "run folder",
            "*repo": "user/name; made if there is none",
            "private": "true makes a private repository, and refuses a public one",
            "revision": "a branch; the main one if not given",
            "adapter_only": "true pushes the LoRA adapter alone",
        },
        (
            "finetune push run=runs/photos repo=me/photos",
            "finetune push run=runs/photos repo=me/photos private=true revision=v2",
        ),
        _push,
    ),
    "export": Command(
        "Write a finished run as a folder for others: as ONNX, or with LoRA merged.",
        {
            "*run": "run folder",
            "*format": "onnx, or merged for a run of method=lora",
            "output": "folder, new or empty; RUN/FORMAT if not given",
            "int8": "false writes no ONNX file with weights of 8 bits",
            "data": "where the data of the run is now, if it has moved",
        },
        (
            "finetune export run=runs/photos format=onnx",
            "finetune export run=runs/photos format=onnx int8=false output=./photos-onnx",
            "finetune export run=runs/reviews-lora format=merged",
        ),
        _export,
    ),
    "features": Command(
        "Write what the backbone of a recipe makes of each row of its data.",
        {**_RECIPE, "*output": "a .parquet file"},
        ("finetune features recipe=resnet-cifar-features data=./photos output=features.parquet",),
        _features,
        overrides=_ANY_KEY,
    ),
    "compare": Command(
        "Fine-tune with several methods and seeds on an equal budget, and compare.",
        {
            **_RECIPE,
            "methods": "methods by name; features,lora,full if not given",
            "seeds": "seeds of training; 0,1,2 if not given",
            "control": "true adds the recipe from random weights",
            "lrs": "learning rates of which each method takes the best on validation",
            "learning_curve": "true adds what 1/8, 1/4 and 1/2 of the labels would have given",
            "output": "folder of all runs; runs/compare-NAME-DIGEST if not given",
        },
        (
            "finetune compare recipe=vit-digits data.shots=10",
            "finetune compare recipe=convnext-imagefolder data=./photos methods=features,full",
            "finetune compare recipe=vit-digits lrs=3e-4,1e-3,3e-3 learning_curve=true",
        ),
        _compare,
        overrides=_ANY_KEY,
    ),
    "rank": Command(
        "Rank backbones for some data by frozen features of a part of it; nothing is trained.",
        {
            "*backbones": "two or more, with commas between them, each as backbone= takes it",
            "recipe": "as for finetune; if not given, data= says what is classified",
            "samples": "training rows of the largest part; 2000 if not given",
            "output": "folder of the report; runs/rank-NAME-DIGEST if not given",
        },
        (
            "finetune rank data=./photos backbones=resnet50.a1_in1k,vit_small_patch16_224,tiny-vit",
            "finetune rank data=reviews.csv data.text=review backbones=minilm,distilroberta-base",
            "finetune rank recipe=vit-cifar backbones=tiny-vit,./runs/other/model samples=5000",
        ),
        _rank,
        overrides=_ANY_KEY,
    ),
    "check": Command(
        "Say what is wrong with data before anything is learned from it.",
        {
            "recipe": "as for finetune; one that suits the data if not given",
            "labels": "true also ranks the labels that are probably wrong",
            "strict": "true ends with exit code 2 if a finding is serious",
            "output": "folder of the report; runs/check-NAME-DIGEST if not given",
        },
        (
            "finetune check data=./photos",
            "finetune check data=reviews.csv labels=true",
            "finetune check recipe=vit-cifar strict=true",
        ),
        _check,
        overrides=_ANY_KEY,
    ),
    "search": Command(
        "Try values of a recipe's fields, and take what is best on validation (needs Optuna).",
        {
            **_RECIPE,
            "trials": "how many are tried in all; 20 if not given",
            "output": "folder of the search; runs/search-NAME-DIGEST if not given",
        },
        (
            "finetune search recipe=vit-digits train.lr=1e-4..1e-2:log",
            "finetune search recipe=vit-cifar method=lora method.rank=4,8,16 "
            "train.lr=1e-4..3e-3:log trials=30",
        ),
        _search,
        overrides="""\
Any key of the recipe can be searched: train.lr=1e-5..1e-3:log between two numbers (:log by
its order of magnitude), method.rank=4,8,16 among values. One value sets a key for all
trials. The same command goes on where it stopped, with more trials= for longer.""",
    ),
    "reproduce": Command(
        "Run again, and pass or fail against what was recorded or what the recipe expects.",
        {
            "run": "a finished run",
            "recipe": "instead of it, a shipped recipe whose docstring expects a measured range",
            "output": "folder of the second run; a new one below runs/ if not given",
        },
        ("finetune reproduce run=runs/photos", "finetune reproduce recipe=vit-digits"),
        _reproduce,
    ),
    "recipes": Command("List the shipped recipes.", {}, ("finetune recipes",), _recipes),
    "show": Command(
        "Show what a recipe would do, and where each value comes from; nothing is trained.",
        _RECIPE,
        (
            "finetune show recipe=vit-cifar",
            "finetune show recipe=vit-cifar method=lora train.batch_size=64",
        ),
        _show,
        overrides=_ANY_KEY,
    ),
    "schema": Command(
        "Print the JSON schema of a recipe.", {}, ("finetune schema > recipe.schema.json",), _schema
    ),
}
