"""Every metric there is, by kind of target; a new one is one entry here.

A metric is a function of predictions and references in float64, mostly scikit-learn's, and the
way to its interval.

    kind        predictions                   references
    classes     probabilities (n, classes)    positions (n,)
    label_sets  probabilities (n, classes)    0/1 vectors (n, classes)
    numbers     numbers (n,)                  numbers (n,)

Those of texts are in `finetune.text_metrics`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse import csr_array, hstack
from scipy.stats import pearsonr, rankdata, spearmanr
from sklearn import metrics

from finetune import text_metrics
from finetune.intervals import Combine
from finetune.metric_entry import Entry, Function, Kind, f1_of, mean_of
from finetune.protocols import Array

BINS = 15
"""Bins of the calibration error."""


def decided(given: Array, true: Array) -> Array:
    """Return the chosen class (n,), or for label sets the chosen labels (n, classes) as 0/1."""
    return given.argmax(1) if true.ndim == 1 else (given >= 0.5).astype(np.int64)


def _on_decisions(function: Callable[..., float], **options: object) -> Function:
    return lambda given, true: function(true, decided(given, true), **options)


def _hits(given: Array, true: Array) -> Any:
    """Return whether all of each sample is right, (n, 1)."""
    hit = (decided(given, true) == true).reshape(len(true), -1)
    return hit.all(1, keepdims=True).astype(float)


def _one_hot(given: Array, true: Array) -> Array:
    return true if true.ndim == 2 else np.equal(true[:, None], np.arange(given.shape[1]))


def confusion(given: Array, true: Array) -> Any:
    """Return for each sample and class whether it is hit, guessed, and there: (n, 3 classes)."""
    guess = decided(given, true)
    if true.ndim == 1:  # a few ones in a wide matrix
        guess, true = (
            csr_array((np.ones(len(given)), where, np.arange(len(given) + 1)), shape=given.shape)
            for where in (guess, true)
        )
    return hstack([csr_array(part) for part in (guess * true, guess, true)], format="csr")


def _micro_f1(means: Array) -> Any:
    return f1_of(np.stack([part.sum(0) for part in np.split(means, 3)]))[0]


def _matthews(means: Array) -> Any:
    """Return Gorodkin's coefficient (2004) from means of `confusion`."""
    hits, guessed, there = np.split(means, 3)
    both = hits.sum(0) - (guessed * there).sum(0)
    spread = np.sqrt((1 - (guessed**2).sum(0)) * (1 - (there**2).sum(0)))
    # As scikit-learn has it, 0 where all guesses or all references are equal.
    return np.divide(both, spread, out=np.zeros_like(both), where=spread > 1e-12)


def _mean_recall(means: Array) -> Any:
    hits, _, there = np.split(means, 3)
    return np.nanmean(hits / there, axis=0)


def _ranked(given: Array, true: Array) -> tuple[Array, Array]:
    """Return scores and 0/1 truth, one column for each class that is ranked against the rest."""
    truth = _one_hot(given, true).astype(np.int64)
    if true.ndim == 1:
        # The two columns of a binary task say the same; a missing class leaves no mean.
        return (given[:, 1:], truth[:, 1:]) if given.shape[1] == 2 else (given, truth)
    both = (truth.sum(0) > 0) & (truth.sum(0) < len(truth))
    return given[:, both], truth[:, both]


def _auroc(given: Array, true: Array) -> float:
    scores, truth = _ranked(given, true)
    if not truth.size or (truth.min(0) == truth.max(0)).any():
        return float("nan")
    return float(metrics.roc_auc_score(truth, scores, average="macro"))


def _auroc_gradient(given: Array, true: Array) -> Any:
    """Return DeLong's components: how often each sample is ranked rightly against the others."""
    scores, truth = _ranked(given, true)
    total = np.zeros(len(true))
    for score, there in zip(scores.T, truth.T.astype(bool), strict=True):
        ranks, positives, negatives = rankdata(score), there.sum(), (~there).sum()
        above = (ranks[there] - rankdata(score[there])) / negatives
        below = 1 - (ranks[~there] - rankdata(score[~there])) / positives
        total[there] += (above - above.mean()) / positives
        total[~there] += (below - below.mean()) / negatives
    return total / scores.shape[1]


def _with_positives(given: Array, true: Array) -> tuple[Array, Array]:
    some = true.any(0)
    return given[:, some], true[:, some]


def _average_precision(given: Array, true: Array) -> float:
    scores, truth = _with_positives(given, true)
    return float(metrics.average_precision_score(truth, scores)) if truth.size else float("nan")


def _average_precision_gradient(given: Array, true: Array) -> Any:
    """Return the derivative of the mean average precision by the weight of each sample.

    With T and R the true and all samples ranked at or above i, the precision at i is T/R. A weight
    at k counts in its own term, in R of all terms ranked at or below it, and in T if it is true.
    """
    scores, truth = _with_positives(given, true)
    total = np.zeros(len(true))
    for score, there in zip(scores.T, truth.T.astype(float), strict=True):
        order = np.argsort(-score, kind="stable")
        ordered, hit = score[order], there[order]
        # Equal scores share one rank: the last of them, and the first where sums run backwards.
        last = np.searchsorted(-ordered, -ordered, side="right") - 1
        first = np.searchsorted(-ordered, -ordered, side="left")
        ranked, hits = last + 1.0, np.cumsum(hit)[last]
        below_hits = np.cumsum((hit / ranked)[::-1])[::-1][first]
        below_ranked = np.cumsum((hit * hits / ranked**2)[::-1])[::-1][first]
        terms = hit * hits / ranked
        total[order] += (
            terms + hit * below_hits - below_ranked - hit * terms.sum() / hit.sum()
        ) / hit.sum()
    return total / scores.shape[1]


def _log_loss_rows(given: Array, true: Array) -> Any:
    own = np.take_along_axis(given, true[:, None], axis=1)
    return -np.log(np.maximum(own, np.finfo(float).eps))


def _brier_rows(given: Array, true: Array) -> Any:
    """Return squared distances to the truth; halved for two classes, as is the custom."""
    distances = np.square(given - _one_hot(given, true)).sum(1, keepdims=True)
    return distances / 2 if given.shape[1] == 2 else distances


def _calibration_rows(given: Array, true: Array) -> Array:
    """Return confidence minus hit, in the column of the confidence's bin; a bin for 1 itself.

    Naeini et al. 2015; the bins are those of torchmetrics, closed on the left.
    """
    confidence = given.max(1)
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1), confidence, side="right") - 1
    rows = np.zeros((len(true), BINS + 1))
    rows[np.arange(len(true)), bins] = confidence - (given.argmax(1) == true)
    return rows


def _calibration_error(given: Array, true: Array) -> Any:
    return np.abs(_calibration_rows(given, true).mean(0)).sum()


def _calibration_gradient(given: Array, true: Array) -> Any:
    """Take each bin's side of the diagonal as given; resampling would only move them apart."""
    rows = _calibration_rows(given, true)
    own = rows @ np.sign(rows.mean(0))
    return (own - own.mean()) / len(true)


def _moments(given: Array, true: Array) -> Array:
    x, y = given - given.mean(), true - true.mean()
    return np.stack([x, y, x * x, y * y, x * y], axis=1)


def _correlation(means: Array) -> Any:
    x, y, xx, yy, xy = means
    return (xy - x * y) / np.sqrt((xx - x * x) * (yy - y * y))


def _error_moments(given: Array, true: Array) -> Array:
    y = true - true.mean()
    return np.stack([np.square(given - true), y, y * y], axis=1)


def _explained(means: Array) -> Any:
    error, y, yy = means
    return 1 - error / (yy - y * y)


_MISSING = "not every class has samples, and samples of others, here"
_CONSTANT = "all predictions or all references are equal"
_NO_LABEL = "no label is there, and none was predicted"


def _f1(average: str, combine: Combine) -> Entry:
    f1 = _on_decisions(metrics.f1_score, average=average, zero_division=np.nan)
    return Entry(f1, share=True, rows=confusion, combine=combine, reason=_NO_LABEL)


def _macro_f1(means: Array) -> Any:
    return np.nanmean(f1_of(means), axis=0)


TABLE: dict[Kind, dict[str, Entry]] = {
    "classes": {
        "accuracy": Entry(_on_decisions(metrics.accuracy_score), proportion=True, rows=_hits),
        "top5_accuracy": Entry(
            lambda given, true: metrics.top_k_accuracy_score(
                true, given, k=5, labels=np.arange(given.shape[1])
            ),
            proportion=True,
            reason="there are no more than five classes",
        ),
        "macro_f1": Entry(
            _on_decisions(metrics.f1_score, average="macro"),
            share=True,
            rows=confusion,
            combine=_macro_f1,
        ),
        "micro_f1": Entry(_on_decisions(metrics.f1_score, average="micro"), proportion=True),
        "balanced_accuracy": Entry(
            _on_decisions(metrics.balanced_accuracy_score),
            share=True,
            rows=confusion,
            combine=_mean_recall,
        ),
        "auroc": Entry(_auroc, share=True, gradient=_auroc_gradient, reason=_MISSING),
        "log_loss": Entry(
            lambda given, true: metrics.log_loss(true, given, labels=np.arange(given.shape[1])),
            rows=_log_loss_rows,
        ),
        "ece": Entry(_calibration_error, gradient=_calibration_gradient),
        "brier": mean_of(_brier_rows),
        "matthews_correlation": Entry(
            _on_decisions(metrics.matthews_corrcoef),
            share=True,
            rows=confusion,
            combine=_matthews,
        ),
        "cohen_kappa": Entry(_on_decisions(metrics.cohen_kappa_score), asked=True),
    },
    "label_sets": {
        "micro_f1": _f1("micro", _micro_f1),
        "macro_f1": _f1("macro", _macro_f1),
        "subset_accuracy": Entry(
            _on_decisions(metrics.accuracy_score), proportion=True, rows=_hits
        ),
        "macro_average_precision": Entry(
            _average_precision,
            share=True,
            gradient=_average_precision_gradient,
            reason="no sample has any label here",
        ),
        "macro_auroc": Entry(
            _auroc,
            share=True,
            gradient=_auroc_gradient,
            reason="no label is both there and not there",
        ),
        "hamming_loss": Entry(_on_decisions(metrics.hamming_loss), asked=True),
    },
    "numbers": {
        "rmse": Entry(
            lambda given, true: metrics.root_mean_squared_error(true, given),
            rows=lambda given, true: np.square(given - true)[:, None],
            combine=lambda means: np.sqrt(means[0]),
        ),
        "mae": Entry(
            lambda given, true: metrics.mean_absolute_error(true, given),
            rows=lambda given, true: np.abs(given - true)[:, None],
        ),
        "r2": Entry(
            lambda given, true: metrics.r2_score(true, given, force_finite=False),
            rows=_error_moments,
            combine=_explained,
            reason="all references are equal",
        ),
        "pearson": Entry(
            lambda given, true: pearsonr(given, true).statistic if len(true) > 1 else np.nan,
            rows=_moments,
            combine=_correlation,
            reason=_CONSTANT,
        ),
        "spearman": Entry(
            lambda given, true: spearmanr(given, true).statistic if len(true) > 1 else np.nan,
            rows=lambda given, true: _moments(rankdata(given), rankdata(true)),
            combine=_correlation,
            reason=_CONSTANT,
        ),
        "median_absolute_error": Entry(
            lambda given, true: metrics.median_absolute_error(true, given), asked=True
        ),
    },
    **text_metrics.TABLE,
}
