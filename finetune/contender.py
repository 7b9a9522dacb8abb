"""One way of learning some data: its runs over seeds, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune import wording
from finetune.intervals import Interval
from finetune.run import Run


@dataclass(frozen=True)
class Contender:
    """One way of learning the same data: its finished runs, a run for each seed."""

    name: str
    runs: tuple[Run, ...]
    lr: float | None = None
    """The learning rate that validation chose for it, where there was a choice."""

    @property
    def metric(self) -> str:
        """The metric that chooses."""
        return str(self.runs[0].result["metric"].lstrip("-"))

    def values(self, split: str) -> list[float]:
        """Return the metric that chooses, seed by seed."""
        return [float(run.result[split][self.metric]["value"]) for run in self.runs]

    @property
    def is_share(self) -> bool:
        """Whether that metric is a share of the rows."""
        return wording.is_percent(self.metric)

    @property
    def rows(self) -> int:
        """Rows of the test split."""
        return int(self.runs[0].result["test"][self.metric]["n"])

    def mean(self, split: str) -> dict[str, Any]:
        """Return the mean over seeds with its t interval: `{"value", "low", "high", "n"}`.

        The interval of a share ends at 0 and 1.
        """
        found = over_seeds(self.values(split))
        return _within(found, 0.0) if self.is_share else found

    @property
    def seconds(self) -> float:
        """Mean seconds of a whole run."""
        return float(np.mean([run.result["cost"]["seconds"] for run in self.runs]))

    @property
    def facts(self) -> dict[str, Any]:
        """Return what it costs: seconds, memory, parameters that learn, bytes of the model."""
        first = self.runs[0]
        files = [path for path in first.model.rglob("*.safetensors") if path.is_file()]
        return {
            "seconds": self.seconds,
            "peak_memory_bytes": max(r.result["cost"]["peak_memory_bytes"] for r in self.runs),
            "trainable_parameters": first.result["parameters"]["trainable_parameters"],
            "model_bytes": sum(path.stat().st_size for path in files),
        }


def over_seeds(values: Sequence[float], least: float = 0.0) -> dict[str, Any]:
    """Return the mean with Student's t interval: `{"value", "low", "high", "n"}`.

    One value has no interval. The standard deviation counts as at least `least`.
    """
    mean = float(np.mean(values))
    bounds: Interval = (None, None)
    if len(values) > 1:
        from scipy.stats import t

        error = max(float(np.std(values, ddof=1)), least) / len(values) ** 0.5
        reach = float(t.ppf(0.975, len(values) - 1)) * error
        bounds = (mean - reach, mean + reach)
    return {"value": mean, "low": bounds[0], "high": bounds[1], "n": len(values)}


def gap(one: Contender, other: Contender, split: str = "test") -> dict[str, Any]:
    """Return by how much `one` exceeds `other`, paired by seed, with its t interval.

    A share of n rows is rounded to 1 / n: seeds that agree on it leave that much open.
    """
    pairs = zip(one.values(split), other.values(split), strict=True)
    rounded = 1 / one.runs[0].result[split][one.metric]["n"] if one.is_share else 0.0
    found = over_seeds([a - b for a, b in pairs], rounded / 6**0.5)
    return _within(found, -1.0) if one.is_share else found


def _within(figure: dict[str, Any], least: float) -> dict[str, Any]:
    """Return a figure whose interval ends where the values do, at `least` and at 1."""
    low, high = figure["low"], figure["high"]
    return figure if low is None else figure | {"low": max(low, least), "high": min(high, 1.0)}


def is_gain(metric: str, difference: Mapping[str, Any]) -> bool:
    """Return whether a difference is for the better beyond chance; `-metric` is better if less."""
    bound = difference["high"] if metric.startswith("-") else difference["low"]
    return bound is not None and (bound < 0 if metric.startswith("-") else bound > 0)
