"""Rows that are nearly the same: all pairs of vectors that point the same way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finetune.protocols import Array

BLOCK, WIDTH = 256, 16384
"""Rows compared at a time, and with how many."""
MOST = 2_000_000
"""Pairs after which no more are sought: by then, everything is like everything."""


@dataclass(frozen=True)
class Pairs:
    """Two rows each that belong together."""

    rows: Array
    """(pairs, 2), the smaller number first."""
    alike: Array
    """(pairs,) how much, at most 1."""
    exact: bool = False
    """Whether they are equal."""
    complete: bool = True
    """Whether these are all there are."""


def close(vectors: Array, least: float) -> Pairs:
    """Return all pairs of float32 vectors (rows, width), of length 1 or 0, whose product is `least`
    or more.

    Exact. Rows are sorted along their principal axis, and only those are compared whose distance
    there is not already too large; blocks of products leave it to the matrix multiplication.
    """
    if len(vectors) < 2:
        return Pairs(np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
    axis = np.linalg.eigh(np.cov(vectors, rowvar=False))[1][:, -1].astype(np.float32)
    along = vectors @ axis
    order = np.argsort(along, kind="stable")
    vectors, along = vectors[order], along[order]
    reach = np.sqrt(2 - 2 * least) + 1e-5
    found, alike, count = [], [], 0
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        end = int(np.searchsorted(along, along[start + len(block) - 1] + reach, "right"))
        for left in range(start, end, WIDTH):
            products = block @ vectors[left : min(left + WIDTH, end)].T
            here, there = np.nonzero(products >= least)
            later = there + left > here + start
            here, there = here[later], there[later]
            found.append(np.stack([order[here + start], order[there + left]], 1))
            alike.append(products[here, there])
            count += len(here)
        if count > MOST:
            break
    pairs = np.sort(np.concatenate([np.zeros((0, 2), np.int64), *found]), axis=1)
    told = np.concatenate([np.zeros(0, np.float32), *alike])
    by_row = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return Pairs(pairs[by_row], told[by_row], complete=count <= MOST)


def equal(digests: Array) -> Pairs:
    """Return of each group of equal digests (rows,) the first row with each of the others."""
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    first = order[np.repeat(begins, np.diff(np.r_[begins, len(order)]))]
    rows = np.stack([first, order], 1)[first != order]
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    return Pairs(rows, np.ones(len(rows), np.float32), exact=True)
