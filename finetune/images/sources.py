"""The two sources of image batches: the native evaluation crop, and augmented training images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from finetune.images import batch, draws, randaugment
from finetune.images.augmentation import Augmentation
from finetune.images.draws import Draws, Ints
from finetune.images.store import Fetched, Images, is_uniform

if TYPE_CHECKING:
    from finetune.images.inputs import ImageInputs

PARTNER = "partner_"
"""Begins the names of what belongs to the image that is mixed in."""


class EvaluationSource:
    """Images exactly as the backbone's own evaluation transform gives them."""

    lengths = None

    def __init__(self, images: Images, inputs: ImageInputs) -> None:
        self.images = images
        self.finish = inputs.finish

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Ints, epoch: int) -> dict[str, Tensor]:
        """Return uint8 images (batch, 3, height, width)."""
        return {"image": batch.channels_first(np.asarray(self.images.fetch(np.asarray(indices))))}


class TrainingSource:
    """Augmented images; every random number is a function of seed, epoch and sample."""

    lengths = None

    def __init__(
        self, images: Images, inputs: ImageInputs, augmentation: Augmentation, seed: int
    ) -> None:
        self.images, self.inputs, self.geometry = images, inputs, inputs.geometry
        self.augmentation, self.seed = augmentation, seed
        # Equal and not larger than the input: cropped and enlarged as a batch, on the device.
        self._batched = is_uniform(images.sizes) and bool(
            (images.sizes[0] <= self.geometry.size).all()
        )
        self._margin = self._overhang() if self._batched else 0

    def _overhang(self) -> int:
        """Return by how many pixels a crop can reach over the edge of the image at most."""
        if self.augmentation.crop == "resized":
            return 0
        view = self.geometry.views(self.images.sizes[:1])[0]
        shift = self.augmentation.pad * view[2:] if self.augmentation.crop == "pad" else 0
        return int(max(0, np.ceil(np.max(shift - view[:2])) + 1))

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Ints, epoch: int) -> dict[str, Tensor]:
        """Return uint8 images (batch, 3, h, w) and what was drawn for them.

        With MixUp or CutMix also the partners' images, "partner" and "share".
        """
        indices = np.asarray(indices, dtype=np.int64)
        raw = self._look(indices, epoch)
        if self.augmentation.mixup or self.augmentation.cutmix:
            key = self.seed, epoch, indices
            mixing = draws.mixing(self.augmentation, self.geometry.size, len(self), *key)
            partners = self._look(mixing["partner"], epoch)
            raw |= _tensors(mixing) | {PARTNER + name: value for name, value in partners.items()}
        return raw

    def finish(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return augmented, normalised float32 images under the name that the forward uses."""
        pixels = self._augment(raw)
        if "partner" in raw:
            theirs = {k.removeprefix(PARTNER): v for k, v in raw.items() if k.startswith(PARTNER)}
            pixels = batch.mix(pixels, self._augment(theirs), raw["mix"], raw["cut"])
        return {self.inputs.forward_argument: pixels}

    def _look(self, indices: Ints, epoch: int) -> dict[str, Tensor]:
        """Return the images and how each looks in this epoch, whatever it is mixed with."""
        sizes, geometry = self.images.sizes[indices], self.geometry
        key = self.seed, epoch, indices
        views = geometry.views(sizes)
        looks = draws.appearance(self.augmentation, geometry.size, views, sizes, *key)
        images = self.images.fetch(indices)
        if self._batched:
            pixels = batch.channels_first(np.asarray(images))
        else:
            pixels = self._cut(images, looks.pop("box"))
        return {"image": pixels} | _tensors(looks)

    def _cut(self, images: Fetched, boxes: Ints) -> Tensor:
        """Return each image's box at the input size, uint8 (batch, 3, height, width)."""
        mode = "bicubic" if self.geometry.interpolation == "bicubic" else "bilinear"
        result = torch.empty((len(boxes), 3, *self.geometry.size), dtype=torch.uint8)
        for place, (image, box) in enumerate(zip(images, boxes.tolist(), strict=True)):
            cut = batch.channels_first(_crop(image, box, self.geometry.fill)[None])
            result[place] = torch.nn.functional.interpolate(
                cut, size=self.geometry.size, mode=mode, antialias=True
            )[0]
        return result

    def _augment(self, raw: dict[str, Tensor]) -> Tensor:
        if "box" in raw:
            pixels = batch.resample(
                raw["image"],
                raw["box"],
                raw["flip"],
                self.geometry.size,
                interpolation=self.geometry.interpolation,
                margin=self._margin,
                fill=self.geometry.fill,
            )
        else:
            pixels = batch.flipped(raw["image"], raw["flip"])
        if "operation" in raw:
            pixels = randaugment.apply(
                pixels.round().to(torch.uint8),
                raw["operation"],
                raw["negative"],
                self.augmentation.magnitude,
            )
        pixels = batch.normalise(pixels, self.inputs.mean, self.inputs.std)
        if "erase" in raw:
            pixels = pixels.masked_fill(batch.inside(raw["erase"], self.geometry.size), 0.0)
        return pixels


def _crop(image: Any, box: Sequence[int], fill: tuple[int, int, int]) -> Any:
    """Return a copy of the box (top, left, height, width) of an image (h, w, 3)."""
    top, left, height, width = box
    result = np.full((height, width, 3), fill, dtype=np.uint8)
    seen = image[max(top, 0) : top + height, max(left, 0) : left + width]
    down, right = max(-top, 0), max(-left, 0)
    result[down : down + seen.shape[0], right : right + seen.shape[1]] = seen
    return result


def _tensors(arrays: Draws) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
