"""The curves of a training as a picture of its own, for the model card."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune import wording
from finetune.report.log import Log

STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "font.size": 9,
    "grid.alpha": 0.4,
    "legend.frameon": False,
    "text.parse_math": False,
}


def curves(log_path: Path, result: Mapping[str, Any]) -> bytes:
    """Return the loss, and on validation the metric that chooses, over the updates, as PNG.

    Empty where nothing was learned by gradient descent.
    """
    import matplotlib
    from matplotlib.figure import Figure

    log, name = Log.read(log_path), result["metric"].lstrip("-")
    if not log.loss[0]:
        return b""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that the font lacks does not matter
        figure = Figure(figsize=(8, 2.8), dpi=100, layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(*log.loss, label="train", linewidth=1)
        if "log_loss" in log.validation:
            left.plot(*log.validation["log_loss"], "o-", label="validation", markersize=3)
        left.set(ylabel="loss", xlabel="updates")
        left.legend()
        updates, values = log.validation.get(name, ([], []))
        percent = wording.is_percent(name)
        right.plot(updates, [v * (100 if percent else 1) for v in values], "o-", markersize=3)
        right.set(ylabel=f"{wording.metric(name)} on validation", xlabel="updates")
        if percent:
            right.yaxis.set_major_formatter("{x:g} %")
        stream = io.BytesIO()
        figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
