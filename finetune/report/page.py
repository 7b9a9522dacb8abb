"""A page as a value, and how it becomes one HTML file: no script, no network, nothing beside it.

A page is a headline and sections; a section is a list of blocks. Another kind of report is another
list of sections. All text is escaped by the template; only figures are markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from finetune.errors import printable

Cell: TypeAlias = str | tuple[str, str]
"""Text, or text and what stands lighter beside it."""


@dataclass(frozen=True)
class Figure:
    """An SVG element as `finetune.report.plots` draws it."""

    kind: ClassVar[str] = "figure"
    svg: str
    caption: str
    text: str
    """What it shows, for those who do not see it."""
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text; columns after the first are numbers unless said otherwise."""

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    wide: bool = True
    numeric: bool = True
    fold: str = ""
    """Under this title the table is folded away until it is asked for."""


@dataclass(frozen=True)
class Facts:
    """Names and what they stand for."""

    kind: ClassVar[str] = "facts"
    facts: Mapping[str, str]
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Sample:
    """One sample of the data: its picture as a `data:` address, or its text."""

    said: str
    """What was predicted."""
    true: str
    chance: str = ""
    picture: str = ""
    text: str = ""
    name: str = ""
    small: bool = False
    """Whether the picture has few pixels, which are then shown as such."""
    wrong: bool = True
    seen: str = ""
    """The picture as the model sees it, shaded by what its answer rests on."""
    words: Sequence[tuple[str, float]] = ()
    """The text in pieces, each with what it adds to the answer, from -1 to 1."""


@dataclass(frozen=True)
class Gallery:
    """Samples side by side."""

    kind: ClassVar[str] = "gallery"
    samples: Sequence[Sample]
    wide: bool = True


@dataclass(frozen=True)
class Code:
    """Text in a fixed-width font."""

    kind: ClassVar[str] = "code"
    text: str
    wide: bool = True


@dataclass(frozen=True)
class Sentences:
    """Plain sentences, one to a line."""

    kind: ClassVar[str] = "sentences"
    sentences: Sequence[str]
    wide: bool = True


Block: TypeAlias = Figure | Table | Facts | Gallery | Code | Sentences


@dataclass(frozen=True)
class Section:
    """A part of the page under its own title."""

    title: str
    blocks: Sequence[Block]
    lead: str = ""


@dataclass(frozen=True)
class Headline:
    """What the reader came for."""

    name: str
    """Of the metric."""
    value: str
    range: str = ""
    verdict: str = ""
    good: bool = True
    details: Sequence[str] = ()
    figure: Figure | None = None


@dataclass(frozen=True)
class Page:
    """A report."""

    title: str
    subtitle: str
    headline: Headline
    sections: Sequence[Section] = field(default_factory=list)


def render(page: Page) -> str:
    """Return the page as HTML; what is not printable in its texts is shown as escapes."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        if isinstance(value, Markup) or not isinstance(value, str):
            return value
        return printable(value)

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (Path(__file__).parent / "style.css").read_text("utf-8")
    # The two things that are markup: our own style sheet, and figures.
    environment.filters["figure"] = lambda block: Markup(block.svg)
    return environment.get_template("page.html").render(page=page, style=Markup(style)).lstrip()
