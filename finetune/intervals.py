"""95 % confidence intervals, each as quick as its metric allows.

    wilson       proportions (accuracy, recall): Wilson 1927
    paired       differences of proportions of the same samples: Bonett and Price 2012
    bootstrap    functions of means over samples (F1, log loss, RMSE): Efron 1981, bias-corrected
                 percentiles
    linearised   ranking metrics (AUROC, average precision) and the calibration error: the
                 infinitesimal jackknife, Jaeckel 1972, which is the bootstrap's limit without
                 resampling; DeLong et al. 1988
    grouped      any other function of the samples: the delete-a-group jackknife

A bound that cannot be had, as from a single sample, is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from finetune.protocols import Array

Interval: TypeAlias = "tuple[float | None, float | None]"
Combine: TypeAlias = Callable[[Array], Array]
"""From means of per-sample rows, (columns, any), to metrics, (any,) or (classes, any)."""

LEVEL = 0.95
RESAMPLES = 1000
GROUPS = 20
_CELLS = 2_000_000
"""Weights held at once while resampling."""


def wilson(hits: float, n: float) -> Interval:
    """Return Wilson's score interval of a proportion."""
    from scipy.stats import binomtest

    if not n:
        return None, None
    low, high = binomtest(round(hits), round(n)).proportion_ci(LEVEL, "wilson")
    return float(low), float(high)


def paired(gained: float, lost: float, n: int) -> Interval:
    """Return the interval of (gained - lost) / n, the difference of two proportions of n samples.

    Where few samples are told apart, a bootstrap would take them for all there can be.
    """
    from scipy.special import ndtri

    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    middle = up - down
    half = float(ndtri((1 + LEVEL) / 2)) * math.sqrt((up + down - middle**2) / (n + 2))
    return max(middle - half, -1.0), min(middle + half, 1.0)


def of_share(bounds: Interval, n: float) -> Interval:
    """Return the interval, or Wilson's of n or no hits in n where all resamples are 1 or all 0."""
    low, high = bounds
    return wilson(low * n, n) if low is not None and low == high and low in (0, 1) else bounds


def resamples(n: int, seed: int = 0) -> Iterator[Array]:
    """Yield how often each of n samples was drawn, as float32 (n, some resamples).

    There are 1000 resamples in all, and fewer, down to 200, for more than 100,000 samples.
    """
    generator = np.random.default_rng(seed)
    left = int(np.clip(100_000_000 // n, 200, RESAMPLES))
    while left:
        width = min(left, max(1, _CELLS // n))
        drawn = generator.integers(n, size=(width, n))
        counts = [np.bincount(row, minlength=n) for row in drawn]
        yield np.stack(counts, axis=1).astype(np.float32)
        left -= width


def bootstrap(statistics: Sequence[tuple[Any, Combine]]) -> list[Array]:
    """Return each statistic over the same resamples, last axis the resamples.

    A statistic is its per-sample rows, (n, columns) dense or sparse, and what makes the metric of
    their means.
    """
    if not statistics:
        return []
    n = statistics[0][0].shape[0]
    parts: list[list[Array]] = [[] for _ in statistics]
    with np.errstate(divide="ignore", invalid="ignore"):
        for counts in resamples(n):
            for part, (rows, combine) in zip(parts, statistics, strict=True):
                part.append(combine((rows.T @ counts) / n))
    return [np.concatenate(part, axis=-1) for part in parts]


def percentiles(value: float, replicates: Array) -> Interval:
    """Return bias-corrected percentiles of bootstrap replicates (resamples,), value included."""
    from scipy.special import ndtr, ndtri

    known = replicates[np.isfinite(replicates)]
    if len(known) < 2 or not math.isfinite(value):
        return None, None
    below = np.mean(known < value) + np.mean(known == value) / 2
    bias = ndtri(np.clip(below, 1 / len(known), 1 - 1 / len(known)))
    tail = ndtri((1 + LEVEL) / 2)
    low, high = np.quantile(known, ndtr(2 * bias + np.array([-tail, tail])))
    return float(min(low, value)), float(max(high, value))


def together(figure: Mapping[str, Any], comparisons: int) -> dict[str, Any]:
    """Return a figure whose interval holds beside those of so many comparisons (Bonferroni).

    For what was picked because it stood out among them. The interval is stretched as that of a
    normal distribution is.
    """
    from scipy.special import ndtri

    stretch = float(ndtri(1 - (1 - LEVEL) / 2 / comparisons) / ndtri((1 + LEVEL) / 2))
    ends = {end: figure[end] for end in ("low", "high") if figure[end] is not None}
    wide = {end: figure["value"] + stretch * (at - figure["value"]) for end, at in ends.items()}
    return {**figure, **wide}


def linearised(value: float, gradient: Array) -> tuple[float, float]:
    """Return the interval of a metric from its derivative by the weight of each sample, (n,)."""
    from scipy.special import ndtri

    half = float(ndtri((1 + LEVEL) / 2) * np.sqrt(np.square(gradient).sum()))
    return value - half, value + half


def linearised_share(value: float, gradient: Array) -> Interval:
    """Return that of a metric in [0, 1]: symmetric on the logit scale, so that it stays within."""
    from scipy.special import expit, logit

    if not 0 < value < 1:
        return value, value
    low, high = expit(linearised(logit(value), gradient / (value * (1 - value))))
    return float(low), float(high)


def grouped(statistic: Callable[[Array], float], value: float, n: int) -> Interval:
    """Return the jackknife interval over 20 groups; `statistic` is given the rows to keep."""
    from scipy.stats import t

    groups = min(GROUPS, n)
    if groups < 2:
        return None, None
    group = np.random.default_rng(0).permutation(n) % groups
    left_out = np.array([statistic(np.flatnonzero(group != g)) for g in range(groups)])
    error = math.sqrt((groups - 1) * np.var(left_out))
    half = float(t.ppf((1 + LEVEL) / 2, groups - 1)) * error
    return (value - half, value + half) if math.isfinite(half) else (None, None)
