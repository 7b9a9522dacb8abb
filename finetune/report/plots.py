"""The figures of a report, each a function from numbers to an SVG element as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune import wording
from finetune.protocols import Array
from finetune.report.svg import ACCENT, INK, LINE, MUTED, PAPER, SECOND, THIRD, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NARROW = 4.4
"""Width in inches of a figure that takes half of the page, or all of a phone."""

Points = tuple[Sequence[float], Sequence[float]]


def strip(name: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Draw one metric of several answerers, each a dot with its interval; the first stands out."""
    percent = wording.is_percent(name)
    scale = 100 if percent else 1
    with drawing("strip", 3.7, 0.45 + 0.28 * len(rows)) as drawn:
        axes = drawn.axes()
        for place, (_, figure) in enumerate(rows):
            colour = ACCENT if place == 0 else MUTED
            _dot(axes, -place, figure, colour, scale)
        _names(axes, [label for label, _ in rows])
        if percent:
            axes.set_xlim(-2, 102)
            axes.xaxis.set_major_formatter("{x:.0f} %")
    return drawn.svg


def curves(
    lines: Mapping[str, Points], *, y: str, percent: bool = False, kept: float | None = None
) -> str:
    """Draw named lines over the updates; a ring marks the update whose weights were kept.

    A line of many points is drawn faint, with its moving mean over it.
    """
    colours = [ACCENT, SECOND, THIRD]
    with drawing(f"curves {y}", NARROW, 2.5) as drawn:
        axes = drawn.axes()
        for place, (name, (xs, ys)) in enumerate(lines.items()):
            x, values = np.asarray(xs), np.asarray(ys) * (100 if percent else 1)
            colour, noisy = colours[place % 3], name == "train" and len(xs) > 30
            marker = "o" if len(xs) <= 30 and name != "learning rate" else ""
            if noisy:
                axes.plot(x, values, color=colour, linewidth=0.8, alpha=0.35)
                x, values = _moving_mean(x, values)
            axes.plot(x, values, color=colour, label=name, marker=marker, markersize=3)
            if kept is not None and name == "validation" and kept in x:
                axes.plot(
                    kept, values[list(x).index(kept)], "o", color=colour, fillstyle="none",
                    markersize=9,
                )  # fmt: skip
        if len(lines) > 1:
            axes.legend(loc="best")
        if percent:
            axes.yaxis.set_major_formatter("{x:g} %")
        axes.set_xlabel("updates")
        axes.locator_params(axis="x", integer=True)
        axes.set_ylabel(y)
        axes.set_xlim(left=0)
    return drawn.svg


def _moving_mean(x: Array, values: Array) -> tuple[Array, Array]:
    """Return the mean of each stretch of a twentieth of the points, at its middle."""
    width = max(2, len(x) // 20)
    ones = np.ones(width) / width
    return np.convolve(x, ones, "valid"), np.convolve(values, ones, "valid")


def confusion(counts: Array, classes: Sequence[str]) -> str:
    """Draw a confusion matrix, true classes in rows, shaded by their share of the row."""
    from matplotlib.patches import Rectangle

    size = len(classes)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(min(0.5 * size + 0.4, 3.4), 0.27 * size + 0.8)
    with drawing("confusion", side + 1.0, side + 0.6) as drawn:
        axes = drawn.axes()
        for row, column in zip(*np.nonzero(counts), strict=True):
            share = float(shares[row, column])
            colour = ACCENT if row == column else SECOND
            axes.add_patch(
                Rectangle(
                    (column - 0.5, row - 0.5), 1, 1, facecolor=colour, edgecolor=PAPER,
                    linewidth=1, alpha=0.12 + 0.88 * share,
                )
            )  # fmt: skip
            axes.text(
                column, row, str(counts[row, column]), ha="center", va="center",
                fontsize=min(8.5, 4 + 40 / size), color=PAPER if share > 0.5 else INK,
            )  # fmt: skip
        names = [wording.label(name, 18) for name in classes]
        upright = (size > 6 and max(map(len, names)) > 3) or max(map(len, names)) > 10
        axes.set_xticks(range(size), names, rotation=90 if upright else 0)
        axes.set_yticks(range(size), names)
        axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.grid(False)
        axes.spines[:].set_visible(False)
    return drawn.svg


def per_class(name: str, figures: Mapping[str, Mapping[str, Any]], overall: float | None) -> str:
    """Draw a bar for each class with its interval, and a line at the value over all classes."""
    height = 0.6 + 0.23 * len(figures)
    with drawing(f"classes {name}", NARROW, max(height, 1.4)) as drawn:
        axes = drawn.axes()
        for place, figure in enumerate(figures.values()):
            if figure["value"] is None:
                continue
            axes.barh(-place, figure["value"], height=0.62, color=ACCENT, alpha=0.35, linewidth=0)
            _dot(axes, -place, figure, ACCENT, 1, marker="|")
        if overall is not None:
            axes.axvline(overall, color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
        _names(axes, list(figures))
        axes.set_xlim(0, 1.01)
        axes.set_xlabel(name)
    return drawn.svg


def reliability(confidence: Array, right: Array, bins: int = 10) -> str:
    """Draw how often predictions of each confidence are right, with Wilson intervals.

    Below it stands how many predictions each bin holds (Naeini et al. 2015).
    """
    from finetune.intervals import wilson

    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    with drawing("reliability", NARROW, 3.5) as drawn:
        top, below = drawn.figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        top.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
        for index in np.flatnonzero(counts):
            inside = place == index
            hits, n = int(right[inside].sum()), int(counts[index])
            low, high = wilson(hits, n)
            middle = float(confidence[inside].mean())
            top.plot([middle, middle], [low, high], color=ACCENT, linewidth=1.6, alpha=0.45)
            top.plot(middle, hits / n, "o", color=ACCENT, markersize=5)
        top.set(xlim=(0, 1), ylim=(-0.02, 1.02))
        top.set_ylabel("share that is right")
        below.bar(edges[:-1] + 0.5 / bins, counts, width=0.86 / bins, color=MUTED, alpha=0.5)
        below.set_xlabel("predicted probability")
        below.set_ylabel("samples")
        below.grid(axis="x", visible=False)
    return drawn.svg


def coverage(points: Sequence[Mapping[str, Any]]) -> str:
    """Draw the accuracy of the surest answers by the share of samples that they are."""
    with drawing("coverage", NARROW, 2.8) as drawn:
        axes = drawn.axes()
        shares = [point["coverage"] for point in points]
        for key, style in (("low", ":"), ("high", ":"), ("value", "-")):
            values = [point["accuracy"][key] for point in points]
            axes.plot(shares, values, style, color=ACCENT, linewidth=1 if style == ":" else 1.8)
        axes.set_xlabel("share of the samples that is answered")
        axes.set_ylabel("accuracy")
        axes.set_xlim(min(shares) - 0.02, 1.02)
    return drawn.svg


def learning_curve(name: str, rows: Sequence[int], figures: Sequence[Mapping[str, Any]]) -> str:
    """Draw a metric with its interval by the number of training rows, which doubles."""
    percent = wording.is_percent(name)
    scale = 100 if percent else 1
    with drawing("labels", NARROW, 2.8) as drawn:
        axes = drawn.axes()
        axes.set_xscale("log", base=2)
        for count, figure in zip(rows, figures, strict=True):
            if figure["low"] is not None:
                bounds = [scale * figure["low"], scale * figure["high"]]
                axes.plot([count, count], bounds, color=ACCENT, linewidth=2.2, alpha=0.55)
        values = [scale * figure["value"] for figure in figures]
        axes.plot(rows, values, "o-", color=ACCENT, markersize=6)
        axes.set_xticks(rows, [f"{count:,}" for count in rows])
        axes.minorticks_off()
        if percent:
            axes.yaxis.set_major_formatter("{x:g} %")
        axes.set_xlabel("training rows")
        axes.set_ylabel(wording.metric(name))
    return drawn.svg


def searched(
    name: str,
    key: str,
    points: Sequence[tuple[str, float, bool]],
    *,
    ends: tuple[float, float] = (0, 1),
    log: bool = False,
    choices: Sequence[str] = (),
) -> str:
    """Draw a metric by the value of one field: of trials its text, the metric, and if it is best.

    Numbers stand on a line between `ends`, `log` by their order of magnitude; `choices` side by
    side.
    """
    scale = 100 if wording.is_percent(name) else 1
    with drawing(f"search {key}", NARROW, 2.6) as drawn:
        axes = drawn.axes()
        if log:
            axes.set_xscale("log")
            ticks = [ends[0], (ends[0] * ends[1]) ** 0.5, ends[1]]
            axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
            axes.minorticks_off()
        for text, value, best in points:
            x = choices.index(text) if choices else float(text)
            fill = "full" if best else "none"
            axes.plot(x, scale * value, "o", color=ACCENT, markersize=6, fillstyle=fill)
        if choices:
            axes.set_xticks(range(len(choices)), [wording.label(c, 18) for c in choices])
            axes.set_xlim(-0.5, len(choices) - 0.5)
        else:  # nothing is seen of it, but the axis reaches from end to end
            axes.plot(ends, [scale * points[0][1]] * 2, linestyle="none")
        if wording.is_percent(name):
            axes.yaxis.set_major_formatter("{x:g} %")
        axes.set_xlabel(wording.label(key))
        axes.set_ylabel(wording.metric(name))
    return drawn.svg


def scatter(predicted: Array, true: Array, most: int = 2000) -> str:
    """Draw predicted against true numbers, with the line where both are equal."""
    chosen = np.linspace(0, len(true) - 1, min(len(true), most)).astype(int)
    ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
    with drawing("scatter", NARROW, 3.6) as drawn:
        axes = drawn.axes()
        axes.plot(ends, ends, color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
        axes.plot(
            true[chosen], predicted[chosen], "o", color=ACCENT, alpha=0.45, markersize=3.5,
            markeredgewidth=0,
        )  # fmt: skip
        axes.set_xlabel("true")
        axes.set_ylabel("predicted")
    return drawn.svg


def residuals(errors: Array) -> str:
    """Draw how predicted minus true numbers are spread."""
    with drawing("residuals", NARROW, 3.6) as drawn:
        axes = drawn.axes()
        bins = int(np.clip(np.sqrt(len(errors)), 5, 40))
        axes.hist(errors, bins=bins, color=ACCENT, alpha=0.5, rwidth=0.92)
        axes.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
        axes.set_xlabel("predicted minus true")
        axes.set_ylabel("samples")
        axes.grid(axis="x", visible=False)
    return drawn.svg


def _dot(
    axes: Axes, y: float, figure: Mapping[str, Any], colour: str, scale: float, marker: str = "o"
) -> None:
    """Draw a value and its interval on a horizontal line."""
    if figure.get("low") is not None and figure.get("high") is not None:
        bounds = [scale * figure["low"], scale * figure["high"]]
        axes.plot(bounds, [y, y], color=colour, linewidth=2.2, alpha=0.55)
    if figure.get("value") is not None:
        axes.plot(scale * figure["value"], y, marker, color=colour, markersize=6)


def _names(axes: Axes, names: Sequence[str]) -> None:
    """Write names at the rows 0, -1, -2, ..."""
    axes.set_yticks([-place for place in range(len(names))], [wording.label(n, 24) for n in names])
    axes.set_ylim(-len(names) + 0.4, 0.6)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_color(LINE)
