"""Whether every class is there, and often enough."""

from __future__ import annotations

import numpy as np

from finetune.errors import listed
from finetune.preflight.finding import Example, Finding
from finetune.preflight.survey import Survey
from finetune.protocols import SPLITS

UNEVEN, VERY_UNEVEN = 10, 100
"""How many times as many training rows the largest class may have as the smallest."""


def check(survey: Survey) -> list[Finding]:
    """Return classes that a split lacks, and how unevenly the training rows are spread."""
    if not survey.counts:
        return []
    counts = np.stack([survey.counts[split] for split in SPLITS])
    there = counts.any(0)
    findings = []
    for split, own in zip(SPLITS, counts, strict=True):
        missing = [survey.classes[i] for i in np.flatnonzero(there & (own == 0))]
        if missing:
            what = "no class can be learned from no rows" if split == "train" else "not measured"
            findings.append(
                Finding(
                    "serious",
                    f"{len(missing)} of {there.sum()} classes have no {split} row ({what}): "
                    f"{listed(missing)}",
                    len(missing),
                    tuple(Example(note=name) for name in missing),
                )
            )
    if len(unused := np.flatnonzero(~there)):
        names = listed(survey.classes[i] for i in unused)
        findings.append(Finding("note", f"Classes without any row: {names}", len(unused)))
    return findings + _imbalance(survey)


def _imbalance(survey: Survey) -> list[Finding]:
    counts = survey.counts["train"]
    known = np.flatnonzero(counts)
    if len(known) < 2:
        return []
    most, least = known[counts[known].argmax()], known[counts[known].argmin()]
    ratio = counts[most] / counts[least]
    if ratio < UNEVEN:
        return []
    few = int((counts[known] * UNEVEN <= counts[most]).sum())
    return [
        Finding(
            "serious" if ratio >= VERY_UNEVEN else "warning",
            f"The training rows are uneven: {survey.classes[most]!r} has {counts[most]:,}, "
            f"{survey.classes[least]!r} has {counts[least]:,}. Read macro F1, not accuracy; "
            "train.class_weights=balanced or train.sampling=balanced may help",
            few,
        )
    ]
