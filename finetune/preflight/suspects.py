"""Labels that are probably wrong: confident learning, Northcutt et al. 2021, arXiv:1911.00068."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
    estimate: int
    """How many of all labels are wrong, as far as one can tell."""


def out_of_fold(features: Array, codes: Array, classes: int, seed: int = 0) -> Array:
    """Return the probabilities (rows, classes) of linear heads fitted on the other folds."""
    import torch
    from sklearn.model_selection import StratifiedKFold

    from finetune.linear_head import fit_head
    from finetune.targets import Classes

    target = Classes(tuple(map(str, range(classes))))
    found = np.zeros((len(codes), classes), np.float32)
    folds = min(FOLDS, int(np.bincount(codes).max()))
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for fit, held in splitter.split(features, codes):
        head = fit_head(features[fit], codes[fit], features[held], codes[held], target, [STRENGTH])
        outputs = torch.from_numpy(features[held]) @ head.weight.T + head.bias
        found[held] = outputs.softmax(1).numpy()
    return found


def ranked(probabilities: Array, codes: Array) -> Suspects:
    """Return the rows whose likeliest class is not their label, the least likely labels first.

    Those count as wrong in the estimate that are confidently of another class: its probability
    reaches the mean of it over the rows that are labelled so (section 3.1 of the paper).
    """
    rows, classes = np.arange(len(codes)), probabilities.shape[1]
    own, suggested = probabilities[rows, codes], probabilities.argmax(1)
    counts = np.bincount(codes, minlength=classes)
    bars = np.bincount(codes, own, minlength=classes) / np.maximum(counts, 1)
    confident = np.where((probabilities >= bars) & (counts > 0), probabilities, -1)
    wrong = (confident.max(1) >= 0) & (confident.argmax(1) != codes)
    order = np.argsort(own, kind="stable")
    order = order[suggested[order] != codes[order]]
    best = probabilities[order, suggested[order]]
    return Suspects(order, suggested[order], own[order], best, int(wrong.sum()))


def check(survey: Survey, found: Suspects) -> list[Finding]:
    """Return how many labels are probably wrong, the most suspicious as examples."""
    columns = found.rows, found.suggested, found.given, found.probability
    shown = zip(*(column[:SHOWN].tolist() for column in columns), strict=True)
    examples = tuple(
        Example((row,), f"{survey.classes[other]} {100 * chance:.0f} %, label {100 * given:.0f} %")
        for row, other, given, chance in shown
    )
    of = f"{len(survey):,} labels ({100 * found.estimate / len(survey):.1f} %)"
    what = f"About {found.estimate:,} of {of} look wrong to a linear probe on the features"
    return [Finding("warning" if found.estimate else "note", what, found.estimate, examples)]
