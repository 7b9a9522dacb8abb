"""The door to seqeval: which runs of tagged words are entities, and of what type.

Tags come in many forms. seqeval reads those with a prefix, as conlleval did (Tjong Kim Sang and
Buchholz 2000); `forms` brings the others to it.

    B- I- O, I- O, B- I- E- S- O   as they are; L- stands for E-, U- for S-
    names beside O                 equal neighbours are one entity: I-
    names without O                every word is one of its own, as parts of speech are: S-
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

OUTSIDE = "O"
_PREFIXED = re.compile(r"[BIESLU]-.+", re.DOTALL)
_SAME = {"L": "E", "U": "S"}


class Entity(NamedTuple):
    """A run of words that is one thing; `end` is the word after the last."""

    type: str
    start: int
    end: int


def forms(names: Sequence[str]) -> tuple[str, ...]:
    """Return the tags in the form that `found` reads, in the order of `names`."""
    others = [name for name in names if name != OUTSIDE]
    if all(_PREFIXED.fullmatch(name) for name in others):
        return tuple(_SAME.get(n[0], n[0]) + n[1:] if n != OUTSIDE else n for n in names)
    prefix = "S-" if len(others) == len(names) else "I-"
    return tuple(name if name == OUTSIDE else prefix + name for name in names)


def types(tags: Sequence[str]) -> tuple[str, ...]:
    """Return the distinct types of tags in the form that `found` reads, in their order."""
    return tuple(dict.fromkeys(tag[2:] for tag in tags if tag != OUTSIDE))


def found(tags: Sequence[str]) -> list[Entity]:
    """Return the entities of one sequence of tags, in order."""
    from seqeval.metrics.sequence_labeling import get_entities

    return [Entity(kind, start, last + 1) for kind, start, last in get_entities(list(tags))]
