"""Random numbers that are a function of (seed, epoch, sample): no state, no order, no batch.

Each sample has its own splitmix64 stream (Steele et al. 2014, doi:10.1145/2660193.2660195), and
those of a batch are computed at once. So the numbers of a sample do not depend on which samples
stand beside it, nor on how many processes share the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Bits = npt.NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mix(bits: Bits) -> Bits:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def uniforms(
    seed: int, epoch: int, indices: npt.NDArray[Any], count: int
) -> npt.NDArray[np.float64]:
    """Return (batch, count) numbers in [0, 1), the same for the same seed, epoch and index."""
    with np.errstate(over="ignore"):  # wrapping around 2**64 is the arithmetic that is meant
        key = _mix(np.array([seed], dtype=np.uint64) + _STEP)
        key = _mix((key ^ np.uint64(epoch)) + _STEP)
        keys = _mix((key ^ indices.astype(np.uint64)) + _STEP)
        steps = np.arange(1, count + 1, dtype=np.uint64) * _STEP
        bits = _mix(keys[:, None] + steps[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
