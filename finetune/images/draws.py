"""What will happen to each training image: boxes, flips, operations, partners, as numbers.

Everything random is decided here, on the CPU and in numpy; `batch.py` only carries it out.
Boxes are (top, left, height, width) in whole pixels and may reach over the image's edge.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from finetune.images import randaugment
from finetune.images.augmentation import Augmentation

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bits: TypeAlias = npt.NDArray[np.uint64]
Draws: TypeAlias = dict[str, npt.NDArray[Any]]

# Columns of a sample's uniform numbers; the operations of RandAugment take what follows.
FLIP, AREA, RATIO, TOP, LEFT = range(5)
ERASE, ERASE_AREA, ERASE_RATIO, ERASE_TOP, ERASE_LEFT = range(5, 10)
PARTNER, SHARE, WHICH, CUT_TOP, CUT_LEFT = range(10, 15)
OPERATIONS = 16

ERASED_AREA = (0.02, 1 / 3)
ERASED_RATIO = (0.3, 3.3)
_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mix(bits: Bits) -> Bits:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def uniforms(seed: int, epoch: int, indices: Ints, count: int) -> Floats:
    """Return (batch, count) numbers in [0, 1), the same for the same seed, epoch and index.

    Each sample has its own splitmix64 stream (Steele et al. 2014, doi:10.1145/2660193.2660195), so
    its numbers depend neither on the samples beside it nor on how many processes share the work.
    """
    with np.errstate(over="ignore"):  # wrapping around 2**64 is the arithmetic that is meant
        key = _mix(np.array([seed], dtype=np.uint64) + _STEP)
        key = _mix((key ^ np.uint64(epoch)) + _STEP)
        keys = _mix((key ^ indices.astype(np.uint64)) + _STEP)
        steps = np.arange(1, count + 1, dtype=np.uint64) * _STEP
        bits = _mix(keys[:, None] + steps[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def appearance(
    augmentation: Augmentation,
    target: tuple[int, int],
    views: Floats,
    sizes: Ints,
    seed: int,
    epoch: int,
    indices: Ints,
) -> Draws:
    """Return how each sample looks in this epoch, whatever it is mixed with.

    `sizes` is (batch, 2) heights and widths; `views` (batch, 4) the boxes that evaluation sees.
    """
    u = uniforms(seed, epoch, indices, OPERATIONS + 2 * augmentation.rand_augment)
    draws: Draws = {
        "box": _crop(augmentation, target, views, sizes, u),
        "flip": u[:, FLIP] < augmentation.flip,
    }
    if augmentation.rand_augment:
        draws["operation"] = (u[:, OPERATIONS::2] * len(randaugment.OPERATIONS)).astype(np.int64)
        draws["negative"] = u[:, OPERATIONS + 1 :: 2] < 0.5
    if augmentation.erasing:
        size = np.broadcast_to(np.array(target, dtype=np.int64), sizes.shape)
        # Drawn for all, used by some.
        box = _box(size, ERASED_AREA, ERASED_RATIO, u[:, ERASE_AREA : ERASE_LEFT + 1])
        box[u[:, ERASE] >= augmentation.erasing, 2:] = 0
        draws["erase"] = box
    return draws


def mixing(
    augmentation: Augmentation,
    target: tuple[int, int],
    num_samples: int,
    seed: int,
    epoch: int,
    indices: Ints,
) -> Draws:
    """Return each sample's partner, the share it keeps, and the box that its partner fills.

    The partner is drawn from the whole data set, not from the batch. A box of no area means
    MixUp; a box's share is exactly the area outside it.
    """
    from scipy.special import betaincinv

    u = uniforms(seed, epoch, indices, OPERATIONS)
    alphas = augmentation.mixup, augmentation.cutmix
    cut = u[:, WHICH] < 0.5 if all(alphas) else np.full(len(indices), augmentation.cutmix > 0)
    alpha = np.where(cut, alphas[1], alphas[0])
    share = betaincinv(alpha, alpha, u[:, SHARE])
    height, width = target
    side = np.where(cut, np.sqrt(1 - share), 0.0)
    box_height, box_width = np.rint(height * side), np.rint(width * side)
    top = np.floor(u[:, CUT_TOP] * (height - box_height + 1))
    left = np.floor(u[:, CUT_LEFT] * (width - box_width + 1))
    kept = 1 - box_height * box_width / (height * width)
    return {
        "partner": (u[:, PARTNER] * num_samples).astype(np.int64),
        "share": np.where(cut, kept, share).astype(np.float32),
        "cut": np.stack([top, left, box_height, box_width], axis=1).astype(np.int64),
        "mix": np.where(cut, 1.0, share).astype(np.float32),
    }


def _crop(
    augmentation: Augmentation, target: tuple[int, int], views: Floats, sizes: Ints, u: Floats
) -> Ints:
    if augmentation.crop == "resized":
        # The ratio is meant on the target's own shape, so that a square stays a square.
        squareness = target[1] / target[0]
        ratio = augmentation.ratio[0] * squareness, augmentation.ratio[1] * squareness
        return _box(sizes, augmentation.scale, ratio, u[:, AREA : LEFT + 1])
    views = views.copy()
    if augmentation.crop == "pad":
        shift = 2 * u[:, [TOP, LEFT]] - 1
        views[:, :2] += shift * augmentation.pad * views[:, 2:]
    box = np.rint(views).astype(np.int64)
    box[:, 2:] = np.maximum(box[:, 2:], 1)
    return box


def _box(sizes: Ints, area: tuple[float, float], ratio: tuple[float, float], u: Floats) -> Ints:
    """Draw boxes inside images of `sizes`: the area uniform, the ratio log-uniform over what fits.

    Where rejection sampling would try again and at last give up, the range of ratios is narrowed
    to those with which the area fits; only where none does, the area shrinks.
    """
    height, width = sizes[:, 0].astype(np.float64), sizes[:, 1].astype(np.float64)
    share = area[0] + u[:, 0] * (area[1] - area[0])
    low = np.clip(np.log(share * width / height), *np.log(ratio))
    high = np.clip(np.log(width / (share * height)), *np.log(ratio))
    aspect = np.exp(low + u[:, 1] * (high - low))
    box_width = np.sqrt(share * height * width * aspect)
    box_height = box_width / aspect
    fit = np.minimum(1.0, np.minimum(height / box_height, width / box_width))
    box_height = np.clip(np.rint(box_height * fit), 1, height)
    box_width = np.clip(np.rint(box_width * fit), 1, width)
    top = np.floor(u[:, 2] * (height - box_height + 1))
    left = np.floor(u[:, 3] * (width - box_width + 1))
    return np.stack([top, left, box_height, box_width], axis=1).astype(np.int64)
