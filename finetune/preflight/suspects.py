"""Labels that may be wrong, by what a linear probe that has not seen them says.

The order is that of confident learning by self-confidence (Northcutt et al. 2021,
arXiv:1911.00068). Its estimate of how many labels are wrong is not given: where the probe is weak,
it counts the errors of the probe.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from finetune.errors import DataError
from finetune.preflight.finding import Example, Finding
from finetune.preflight.survey import Survey
from finetune.protocols import Array

FOLDS = 5
SHOWN = 48
"""Suspicious rows that are examples."""
STRENGTH = 0.1
"""Of the probe's head, as `method.c` has it: weak enough not to learn single wrong labels."""


@dataclass(frozen=True)
class Suspects:
    """Rows that a probe takes for another class, the most suspicious first."""

    rows: Array
    """(suspects,)"""
    suggested: Array
    """(suspects,) the class that each is taken for."""
    given: Array
    """(suspects,) the probability of the class that each is labelled as."""
    probability: Array
    """(suspects,) that of the suggested class."""


def out_of_fold(
    features: Array, codes: Array, classes: int, digests: Array, seed: int = 0
) -> Array:
    """Return the probabilities (rows, classes) of linear heads fitted on the other folds.

    Rows of equal digests (rows,) share a fold, as copies would vouch for each other. Raises
    DataError where no class has two rows that differ.
    """
    import torch
    from sklearn.model_selection import StratifiedKFold

    from finetune.linear_head import fit_head
    from finetune.targets import Classes

    target = Classes(tuple(map(str, range(classes))))
    found = np.zeros((len(codes), classes), np.float32)
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    folds = min(FOLDS, int(np.bincount(codes[first]).max()))
    if folds < 2:
        raise DataError("labels=true needs classes with more than one row each. Leave it out.")
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer rows than folds
        parts = list(splitter.split(first, codes[first]))
    for _, groups in parts:
        held = np.isin(group, groups)
        fit = ~held
        head = fit_head(features[fit], codes[fit], features[held], codes[held], target, [STRENGTH])
        outputs = torch.from_numpy(features[held]) @ head.weight.T + head.bias
        found[held] = outputs.softmax(1).numpy()
    return found


def ranked(probabilities: Array, codes: Array) -> Suspects:
    """Return the rows whose likeliest class is not their label, the least likely labels first."""
    own, suggested = probabilities[np.arange(len(codes)), codes], probabilities.argmax(1)
    order = np.argsort(own, kind="stable")
    order = order[suggested[order] != codes[order]]
    best = probabilities[order, suggested[order]]
    return Suspects(order, suggested[order], own[order], best)


def check(survey: Survey, found: Suspects) -> list[Finding]:
    """Return how many labels are in doubt, the most suspicious as examples."""
    columns = found.rows, found.suggested, found.given, found.probability
    shown = zip(*(column[:SHOWN].tolist() for column in columns), strict=True)
    examples = tuple(
        Example((row,), f"{survey.classes[other]} {100 * chance:.0f} %, label {100 * given:.0f} %")
        for row, other, given, chance in shown
    )
    count = len(found.rows)
    what = (
        f"A linear probe doubts {count:,} of {len(survey):,} labels; wrong ones are likeliest "
        "among the first"
    )
    return [Finding("warning" if count else "note", what, count, examples)]
