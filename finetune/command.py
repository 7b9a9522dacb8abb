"""The command line: argv -> recipe -> one call of `finetune.api`. No logic of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

from finetune.commands import COMMANDS, Command, Values
from finetune.errors import SECRET, TOKEN_GIVEN, FinetuneError, RecipeError, nearest, printable


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
    if any(SECRET.search(argument) for argument in arguments):
        raise RecipeError(TOKEN_GIVEN)
    if name == "--version":
        from finetune import __version__

        print(f"finetune {__version__}")
    elif name in ("-h", "--help", "help"):
        print(usage(rest[0]) if rest and rest[0] in COMMANDS else overview())
    elif name not in COMMANDS:
        raise RecipeError(
            f"finetune has no command {name!r}.{nearest(name, COMMANDS)}"
            f"{' Is it for `finetune finetune`?' if '=' in name else ''} "
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

    text = Text.assemble(("error: ", "bold red"), printable(message))
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
