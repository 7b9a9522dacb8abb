"""Labels that are probably wrong, by confident learning (Northcutt et al. 2021, arXiv:1911.00068)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finetune.preflight.finding import EXAMPLES, Example, Finding
from finetune.preflight.survey import Survey
from finetune.protocols import Array

FOLDS = 5
STRENGTH = 0.1
"""Of the probe's head, as `method.c` has it: weak enough not to learn single wrong labels."""


@dataclass(frozen=True)
class Suspects:
    """Rows in doubt, the most suspicious first."""

    rows: Array
    """(suspects,)"""
    suggested: Array
    """(suspects,) the class that the probe takes each for."""
    given: Array
    """(suspects,) the probability of the class that each is labelled as."""
    probability: Array
    """(suspects,) that of the suggested class."""


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
    """Return the rows that are confidently of another class than their label.

    A class counts as confident where its probability reaches the mean over the rows labelled so.
    The order is by how much likelier the suggested class is than the given one.
    """
    rows, classes = probabilities.shape
    own = probabilities[np.arange(rows), codes]
    totals = np.bincount(codes, own, minlength=classes)
    counts = np.bincount(codes, minlength=classes)
    bars = np.where(counts > 0, totals / np.maximum(counts, 1), np.inf)
    confident = np.where(probabilities >= bars, probabilities, -1)
    suggested = confident.argmax(1)
    best = confident[np.arange(rows), suggested]
    doubtful = np.flatnonzero((best >= 0) & (suggested != codes))
    order = doubtful[np.argsort((own - best)[doubtful], kind="stable")]
    return Suspects(order, suggested[order], own[order], best[order])


def check(survey: Survey, found: Suspects) -> list[Finding]:
    """Return how many labels are in doubt, the worst of them as examples."""
    if not len(found.rows):
        return [Finding("note", "No label is in doubt", 0)]
    examples = tuple(
        Example((int(row),), f"{survey.classes[other]}? {chance:.0%} against {given:.0%}")
        for row, other, given, chance in zip(
            found.rows[: 2 * EXAMPLES],
            found.suggested,
            found.given,
            found.probability,
            strict=False,
        )
    )
    share = len(found.rows) / len(survey)
    what = (
        f"{len(found.rows):,} of {len(survey):,} labels ({share:.1%}) look wrong to a linear probe"
    )
    return [Finding("warning", what, len(found.rows), examples)]
