"""Whether what has nothing to do with the content tells the label: then a model may learn that."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from finetune import wording
from finetune.preflight.finding import Finding, Severity
from finetune.preflight.survey import Survey
from finetune.protocols import Array

FOLDS = 5
ROWS = 20_000
"""Training rows that are enough to tell."""
CLEAR, STRONG = 0.1, 0.5
"""Where the lower bound is from chance (0) to always right (1) for a warning, and for more."""


@dataclass(frozen=True)
class Probe:
    """How well one thing alone predicts the label."""

    of: str
    score: Mapping[str, Any]
    """Balanced accuracy: `{"value", "low", "high", "n"}`."""
    chance: float


def probes(
    survey: Survey, numbers: Mapping[str, Array], paths: Sequence[str] | None = None
) -> list[Probe]:
    """Return how well each of the `numbers`, (rows,) or (rows, any), and the paths tell the class.

    That is the balanced accuracy of a shallow tree, or for paths of naive Bayes over their parts,
    cross-validated on the training split. What never varies is left out, and so is all where rows
    have not exactly one class.
    """
    if survey.codes is None:
        return []
    rows = _drawn(survey)
    codes = survey.codes[rows]
    if len(np.unique(codes)) < 2:
        return []
    given = {
        name: np.asarray(n, np.float64).reshape(len(survey), -1) for name, n in numbers.items()
    }
    found = [
        Probe(name, *_scored(_tree(), columns[rows], codes))
        for name, columns in given.items()
        if (columns != columns[0]).any()
    ]
    if paths is not None and (parts := _parts([paths[row] for row in rows], survey.classes)):
        found.append(Probe("path", *_scored(*_bayes(parts), codes)))
    return found


def _drawn(survey: Survey) -> Array:
    """Return some rows of the training split, without classes too rare to be cross-validated."""
    assert survey.codes is not None
    train = np.flatnonzero(survey.split == 0)
    if len(train) > ROWS:
        train = np.sort(np.random.default_rng(0).choice(train, ROWS, replace=False))
    often = np.bincount(survey.codes[train], minlength=len(survey.classes)) >= FOLDS
    kept: Array = train[often[survey.codes[train]]]
    return kept


def _tree() -> Any:
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(
        max_leaf_nodes=32, min_samples_leaf=5, class_weight="balanced", random_state=0
    )


def _bayes(parts: Sequence[str]) -> tuple[Any, Any]:
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.naive_bayes import BernoulliNB

    hashed = HashingVectorizer(
        analyzer=str.split, n_features=2**12, alternate_sign=False, norm=None, binary=True
    )
    return BernoulliNB(fit_prior=False), hashed.transform(parts)


def _parts(paths: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Return the words of each path, without the names of classes; empty if they never vary.

    A number counts by how many digits it has: photos of one camera differ in nothing else.
    """
    named = {name.casefold() for name in classes}
    parts = []
    for path in paths:
        pure = PurePath(path.casefold())
        kept = " / ".join(part for part in (*pure.parent.parts, pure.stem) if part not in named)
        for name in named:
            kept = kept.replace(name, " ") if len(name) > 2 else kept
        counted = re.sub(r"\d+", lambda digits: f" #{len(digits[0])} ", kept + pure.suffix)
        parts.append(" ".join(re.findall(r"[^\W\d_]+|#\d+", counted)))
    return parts if len({*parts}) > 1 else []


def _scored(model: Any, columns: Any, codes: Array) -> tuple[dict[str, Any], float]:
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    from finetune.scoring import score

    names, positions = np.unique(codes, return_inverse=True)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    guess = cross_val_predict(model, columns, positions, cv=folds)
    certain = np.eye(len(names), dtype=np.float32)[guess]
    wanted = "balanced_accuracy"
    scores = score("classes", certain, positions, [str(n) for n in names], only=[wanted])
    return scores[wanted], 1 / len(names)


def check(found: Sequence[Probe]) -> list[Finding]:
    """Return what the probes say, each against chance."""
    findings = []
    for probe in found:
        low = probe.score["low"] if probe.score["low"] is not None else 0.0
        above = (low - probe.chance) / (1 - probe.chance)
        severity: Severity = "note"
        if above >= CLEAR:
            # A model does not see the path: it is a sign of different sources, no more.
            severity = "serious" if above >= STRONG and probe.of != "path" else "warning"
        figure = wording.value("balanced_accuracy", probe.score["value"])
        bounds = wording.interval("balanced_accuracy", probe.score)
        what = (
            f"The {probe.of} alone predicts the class with a balanced accuracy of {figure} "
            f"({bounds}); chance is {wording.value('accuracy', probe.chance)}"
        )
        findings.append(Finding(severity, what, int(probe.score["n"])))
    return findings
