"""Tables for people, on standard output: tidy at 80 columns, and inert whatever a cell holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from finetune.errors import printable
from finetune.wording import label

LONGEST = 400
"""Characters of a cell that are shown."""


def show(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Iterable[int] = (),
    whole: Iterable[int] = (),
    dim: Iterable[int] = (),
) -> None:
    """Print one table; without names of columns there is no header.

    `right` are the columns set to the right, `whole` those never broken over lines, `dim` the rows
    that matter less.
    """
    header = any(columns)
    table = Table(
        box=None, pad_edge=False, header_style="dim", show_header=header, padding=(0, 2, 0, 0)
    )
    right, whole, dim = set(right), set(whole), set(dim)
    for place, name in enumerate(columns):
        table.add_column(
            Text(name),
            justify="right" if place in right else "left",
            no_wrap=place in whole,
            overflow="fold",
        )
    for place, cells in enumerate(rows):
        style = "dim" if place in dim else ""
        table.add_row(*(Text(label(cell, LONGEST) if cell else "", style) for cell in cells))
    console = Console(highlight=False)
    console.print()
    if title:
        console.print(Text(label(title, LONGEST), style="bold"))
    console.print(table)


def say(sentence: str) -> None:
    """Print one sentence under a table; whatever it quotes is inert."""
    Console(highlight=False).print(Text(printable(sentence)))
