"""Rows that are there twice, exactly or nearly, in one split, across splits, with other labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from finetune.preflight import neighbours
from finetune.preflight.finding import EXAMPLES, Example, Finding, Severity, rows
from finetune.preflight.neighbours import Pairs
from finetune.preflight.survey import Survey
from finetune.protocols import SPLITS, Array

MANY = 0.01
"""The share of a split from which duplicates move its figures."""


def exact(survey: Survey, digests: Array, noun: str) -> list[Finding]:
    """Return the rows of equal digests (rows,): leaks between splits, conflicts, repetitions."""
    pairs = neighbours.equal(digests)
    return [
        *_leaks(survey, pairs, noun, "also in"),
        *_conflicts(survey, pairs, noun, "the same as another but labelled otherwise"),
        *_repeated(survey, pairs, noun, "the same as another of them"),
    ]


def near(survey: Survey, digests: Array, vectors: Array, least: float, noun: str) -> list[Finding]:
    """Return the rows, not of equal digest, whose unit vectors (rows, width) have a product of
    `least` or more.
    """
    first = np.sort(np.unique(digests, return_index=True)[1])
    found = neighbours.close(vectors[first], least)
    pairs = replace(found, rows=first[found.rows])
    return [
        *_leaks(survey, pairs, noun, "nearly the same as one in"),
        *_conflicts(survey, pairs, noun, "nearly the same as another but labelled otherwise"),
        *_repeated(survey, pairs, noun, "nearly the same as another of them"),
    ]


def _leaks(survey: Survey, pairs: Pairs, noun: str, relation: str) -> list[Finding]:
    """Return for each two splits how many rows of the later have their like in the earlier."""
    homes = survey.split[pairs.rows]
    findings = []
    for one, other in ((0, 2), (0, 1), (1, 2)):
        between = (homes == (one, other)).all(1)
        count, size = len(np.unique(pairs.rows[between, 1])), survey.size(SPLITS[other])
        if count:
            severity: Severity = "serious" if pairs.exact or count >= MANY * size else "warning"
            what = _counted(pairs, count, size, f"{SPLITS[other]} {noun}")
            shown = _shown(pairs, between)
            findings.append(Finding(severity, f"{what} {relation} {SPLITS[one]}", count, shown))
    return findings


def _conflicts(survey: Survey, pairs: Pairs, noun: str, relation: str) -> list[Finding]:
    """Return how many rows have their like under another label."""
    if survey.truth is None:
        return []
    labels = survey.truth[pairs.rows]
    differ = labels[:, 0] != labels[:, 1]
    if not differ.any():
        return []
    # Of equal rows, each pair is one with the first: all of a group contradict each other.
    groups = np.isin(pairs.rows[:, 0], pairs.rows[differ, 0])
    count = len(np.unique(pairs.rows[groups if pairs.exact else differ]))
    many = pairs.exact and count >= MANY * len(survey)
    what = f"{_counted(pairs, count, len(survey), noun)} {relation}"
    return [Finding("serious" if many else "warning", what, count, _shown(pairs, differ))]


def _repeated(survey: Survey, pairs: Pairs, noun: str, relation: str) -> list[Finding]:
    """Return for each split how many rows only repeat another of it."""
    homes = survey.split[pairs.rows]
    findings = []
    for position, split in enumerate(SPLITS):
        within = (homes == position).all(1)
        count, size = len(np.unique(pairs.rows[within, 1])), survey.size(split)
        if count:
            many = pairs.exact and count >= MANY * size
            what = f"{_counted(pairs, count, size, f'{split} {noun}')} {relation}"
            shown = _shown(pairs, within)
            findings.append(Finding("warning" if many else "note", what, count, shown))
    return findings


def _counted(pairs: Pairs, count: int, of: int, noun: str) -> str:
    return ("" if pairs.complete else "at least ") + rows(count, of, noun)


def _shown(pairs: Pairs, chosen: Array) -> tuple[Example, ...]:
    """Return the pairs most alike as examples, no row in two of them."""
    places = np.flatnonzero(chosen)
    examples: list[Example] = []
    used: set[int] = set()
    for place in places[np.argsort(-pairs.alike[places], kind="stable")]:
        pair = tuple(pairs.rows[place].tolist())
        if len(examples) < EXAMPLES and used.isdisjoint(pair):
            used |= set(pair)
            likeness = float(pairs.alike[place])
            examples.append(Example(pair, f"{likeness:.3f}" if likeness < 0.9995 else ""))
    return tuple(examples)
