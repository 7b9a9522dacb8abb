"""The door to matplotlib: figures as SVG that stands inside a page and takes the page's colours.

Colours are names of the page's own variables, so a figure follows light and dark; text stays text,
in the page's font. Names from the data are drawn as they are: no markup, no mathematics.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins that matplotlib takes for colours, and the variable that each becomes.
INK, MUTED, LINE, PAPER = "#010203", "#010204", "#010205", "#010206"
ACCENT, SECOND, THIRD = "#010207", "#010208", "#010209"
_VARIABLES = {
    INK: "ink", MUTED: "muted", LINE: "line", PAPER: "paper",
    ACCENT: "accent", SECOND: "second", THIRD: "third",
}  # fmt: skip

STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.constrained_layout.use": True,
}


class Drawing:
    """A figure being drawn; `svg` is what it became."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.svg = ""

    def axes(self, *place: int, **options: Any) -> Axes:
        """Return axes at a place of the figure's grid, as matplotlib counts."""
        added: Axes = self.figure.add_subplot(*place, **options)
        return added


@contextmanager
def drawing(name: str, width: float, height: float) -> Iterator[Drawing]:
    """Yield an empty drawing of this size in inches; at the end its `svg` is set.

    `name` keeps the identifiers of one figure apart from those of the others on the page.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}), warnings.catch_warnings():
        # The page has its own fonts: one glyph more or less in matplotlib's does not matter.
        warnings.simplefilter("ignore")
        drawn = Drawing(Figure(figsize=(width, height)))
        yield drawn
        stream = io.StringIO()
        drawn.figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
        drawn.svg = _inline(stream.getvalue())


def _inline(text: str) -> str:
    """Return the SVG element without what only a file needs, with the page's colours and font."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>\s*", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    box = re.search(r'viewBox="0 0 ([\d.]+) [\d.]+"', text)
    width = float(box.group(1)) if box else 0.0
    opening = re.sub(r' (width|height|version|xmlns(:\w+)?)="[^"]*"', "", text.partition(">")[0])
    # A large figure is not squeezed into a phone: there it is moved sideways under the finger.
    least = f" min-width: {width:.0f}px;" if width > 400 else ""
    text = f'{opening} style="max-width: {1.5 * width:.0f}px;{least}">' + text.partition(">")[2]
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r"font: (?:\w+ )*([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, f"var(--{variable})")
    return text.strip()
