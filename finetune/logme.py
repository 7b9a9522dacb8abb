"""LogME: how well features explain targets, without training a network on them.

You et al. 2021, LogME: Practical Assessment of Pre-trained Models for Transfer Learning,
arXiv:2102.11005. Targets are linear in the features, the weights Gaussian with precision alpha,
the noise Gaussian with precision beta; the score is the evidence at its maximum over both, which
the fixed-point iteration of the paper finds.
"""

from __future__ import annotations

import numpy as np

from finetune.protocols import Array

ROUNDS = 200
TOLERANCE = 1e-5
"""Relative change of alpha / beta at which the fixed point is reached."""


def logme(features: Array, targets: Array) -> float:
    """Return the log evidence for each row, a mean over the targets; more is better.

    `features` are (rows, width), `targets` (rows, outputs): of classes 1 for the true one. Targets
    that are the same in all rows are left out.
    """
    rows, width = features.shape
    left, singular, _ = np.linalg.svd(features.astype(np.float64), full_matrices=False)
    kept = singular > singular.max(initial=0) * 1e-7
    left, squares = left[:, kept], np.square(singular[kept])
    wanted = targets.astype(np.float64)[:, np.ptp(targets, axis=0) > 0]
    along = np.square(left.T @ wanted)
    outside = np.maximum(np.square(wanted).sum(0) - along.sum(0), 0.0)
    parts = zip(along.T, outside, strict=True)
    return float(np.mean([_evidence(rows, width, squares, *part) for part in parts]) / rows)


def _evidence(rows: int, width: int, squares: Array, along: Array, outside: float) -> float:
    """Return the log evidence at the fixed point of alpha and beta.

    `squares` are the squared singular values, (rank,), `along` the squared parts of the target
    along them, and `outside` what of it no feature explains.
    """
    tiny, largest = np.finfo(float).tiny, squares.max(initial=0.0) or 1.0
    alpha = beta = 1.0
    for _ in range(ROUNDS):
        # Without signal, or without noise, it would run away.
        ratio = float(np.clip(alpha / beta, 1e-12 * largest, 1e12 * largest))
        rest = ratio / (squares + ratio)
        length = (along * squares / np.square(squares + ratio)).sum()
        residual = (along * np.square(rest)).sum() + outside
        alpha = max((1 - rest).sum(), tiny) / max(length, tiny)
        beta = max(rows - len(squares) + rest.sum(), tiny) / max(residual, tiny)
        if abs(alpha / beta - ratio) <= TOLERANCE * ratio:
            break
    spread = alpha + beta * squares
    length = (along * squares * np.square(beta / spread)).sum()
    residual = (along * np.square(alpha / spread)).sum() + outside
    determinant = np.log(spread).sum() + (width - len(squares)) * np.log(alpha)
    return float(
        rows / 2 * np.log(beta / (2 * np.pi))
        + width / 2 * np.log(alpha)
        - (beta * residual + alpha * length + determinant) / 2
    )
