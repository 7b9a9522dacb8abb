"""The command line: argv -> recipe -> one call of `finetune.api`. No logic of its own.

Nothing but the standard library is imported before a command has to run, so `--help` is instant.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune.errors import FinetuneError, RecipeError, nearest

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

    api.finetune(recipe, output=own.get("output"))


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


def _features(own: Values, rest: list[str]) -> None:
    recipe, _ = _resolved(own, rest)
    from finetune import api

    api.features(recipe, output=own["output"])


def _compare(own: Values, rest: list[str]) -> None:
    recipe, _ = _resolved(own, rest)
    from finetune import api

    api.compare(recipe, **{key: own[key] for key in own if key != "recipe"})


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
        {**_RECIPE, "output": "run folder; runs/NAME-DIGEST if not given"},
        (
            "finetune finetune recipe=vit-digits",
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
            "*run": "run folder",
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
            "*run": "run folder",
            "*inputs": "an image, a folder, a pattern, a table, a .txt file of paths; of texts the "
            "text itself, a table, a .txt file with one on each line, or - for standard input",
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
            "output": "folder of all runs; runs/compare-NAME-DIGEST if not given",
        },
        (
            "finetune compare recipe=vit-digits data.shots=10",
            "finetune compare recipe=convnext-imagefolder data=./photos methods=features,full",
        ),
        _compare,
        overrides=_ANY_KEY,
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


def overview() -> str:
    """Return the help of the whole command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.story}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "finetune: transfer learning as recipes.",
            "",
            "usage: finetune COMMAND key=value ...",
            "",
            *lines,
            "",
            "finetune COMMAND --help shows the keys and examples of one; --version the version.",
        ]
    )


def usage(name: str) -> str:
    """Return the help of one sub-command."""
    command = COMMANDS[name]
    words = [f"{k}=..." if must else f"[{k}=...]" for k, must in command.names.items()]
    words += ["[key=value ...]"] * bool(command.overrides)
    lines = [command.story, "", " ".join(["usage: finetune", name, *words])]
    if command.keys:
        width = max(map(len, command.names))
        told = zip(command.names, command.keys.values(), strict=True)
        lines += ["", *(f"  {key:<{width}}  {what}" for key, what in told)]
    if command.overrides:
        lines += ["", command.overrides]
    return "\n".join([*lines, "", "examples:", *(f"  {line}" for line in command.examples)])


def split(name: str, arguments: Iterable[str]) -> tuple[Values, list[str]]:
    """Return the sub-command's own keys with their values, and the overrides among arguments.

    Raises RecipeError for a key that is unknown, given twice, or missing.
    """
    command, own, rest = COMMANDS[name], dict[str, str](), list[str]()
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument.startswith("-"):
            plain = argument.lstrip("-").partition("=")[0]
            raise RecipeError(
                f"finetune {name} takes key=value, without dashes: write {plain}=VALUE. "
                f"`finetune {name} --help` shows examples."
            )
        if key not in command.names or not equals:
            rest.append(argument)
        elif key in own:
            raise RecipeError(f"{key} is given twice: keep one of them.")
        elif not value:
            raise RecipeError(f"{key}= has no value. It is {_meaning(command, key)}.")
        else:
            own[key] = value
    if rest and not command.overrides:
        key = rest[0].partition("=")[0]
        takes = ", ".join(f"{k}=" for k in command.names) or "no keys"
        raise RecipeError(
            f"finetune {name} has no key {key!r}.{nearest(key, command.names)} It takes {takes}."
        )
    for key, must in command.names.items():
        if must and key not in own:
            close = next(
                (r.partition("=")[0] for r in rest if nearest(r.partition("=")[0], [key])), ""
            )
            hint = f" Is it what {close!r} is for?" if close else ""
            raise RecipeError(
                f"finetune {name} needs {key}=: {_meaning(command, key)}.{hint} "
                f"For example: {command.examples[0]}"
            )
    return own, rest


def _meaning(command: Command, key: str) -> str:
    return command.keys.get(key) or command.keys[f"*{key}"]


def _run(arguments: Sequence[str]) -> None:
    name, *rest = arguments
    if name == "--version":
        from finetune import __version__

        print(f"finetune {__version__}")
    elif name in ("-h", "--help", "help"):
        print(usage(rest[0]) if rest and rest[0] in COMMANDS else overview())
    elif name not in COMMANDS:
        raise RecipeError(
            f"finetune has no command {name!r}.{nearest(name, COMMANDS)} "
            f"The commands are {', '.join(COMMANDS)}."
        )
    elif {"-h", "--help"} & set(rest):
        print(usage(name))
    else:
        own, overrides = split(name, rest)
        COMMANDS[name].call(own, overrides)
    sys.stdout.flush()


def _say(message: str) -> None:
    """Print an error to stderr; labels and paths in it are inert."""
    from rich.text import Text

    from finetune.console import console

    inert = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in message)
    text = Text.assemble(("error: ", "bold red"), inert)
    console.print(text, soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, or that of the error that was printed."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _run(arguments or ["--help"])
    except FinetuneError as error:
        _say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _say("stopped by Ctrl-C.")
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has gone: nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0
