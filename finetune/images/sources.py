"""The two sources of image batches: the native evaluation crop, and augmented training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finetune.images import batch, draws
from finetune.images.augmentation import Augmentation
from finetune.images.draws import Draws, Ints
from finetune.images.geometry import Geometry
from finetune.images.store import Images, Recipe, is_uniform, open_images

if TYPE_CHECKING:
    from finetune.images.inputs import ImageInputs


def evaluation(
    inputs: ImageInputs, cells: Sequence[Any], cache: Path
) -> EvaluationSource:
    """Return the source of native evaluation inputs."""
    geometry = inputs.geometry
    recipe = Recipe(f"evaluation {geometry}", geometry.evaluation)
    return EvaluationSource(open_images(cells, recipe, cache), _Finish.of(inputs))


def training(
    inputs: ImageInputs,
    cells: Sequence[Any],
    cache: Path,
    augmentation: Augmentation,
    seed: int,
) -> TrainingSource:
    """Return the source of augmented training inputs."""
    geometry = inputs.geometry

    def draft(image: Image.Image) -> None:
        height, width = geometry.kept(image.height, image.width)
        image.draft("RGB", (width, height))

    recipe = Recipe(f"training {geometry}", geometry.training, draft)
    images = open_images(cells, recipe, cache)
    return TrainingSource(images, geometry, _Finish.of(inputs), augmentation, seed)


@dataclass
class _Finish:
    """Mean and standard deviation, ready on the device where they were last used."""

    argument: str
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, inputs: ImageInputs) -> _Finish:
        mean, std = (
            torch.tensor(values).view(3, 1, 1) for values in (inputs.mean, inputs.std)
        )
        return cls(inputs.forward_argument, mean, std)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if self.mean.device != device:
            self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self.mean, self.std


@dataclass
class EvaluationSource:
    """Images exactly as the backbone's own evaluation transform gives them."""

    images: Images
    _finish: _Finish

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Ints, epoch: int) -> dict[str, Tensor]:
        """Return uint8 images (batch, 3, height, width)."""
        return {"image": _stack(self.images.fetch(np.asarray(indices)))}

    def finish(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return normalised float32 images under the name that the model's forward uses."""
        image = raw["image"]
        return {
            self._finish.argument: batch.normalise(
                image, *self._finish.on(image.device)
            )
        }


@dataclass
class TrainingSource:
    """Augmented images; every random number is a function of seed, epoch and sample."""

    images: Images
    geometry: Geometry
    _finish: _Finish
    augmentation: Augmentation
    seed: int
    _batched: bool = field(init=False)

    def __post_init__(self) -> None:
        # Equal and not larger than the input: cropped and enlarged as a batch, on the device.
        sizes, target = self.images.sizes, np.array(self.geometry.size)
        self._batched = is_uniform(sizes) and bool((sizes[:1] <= target).all())

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Ints, epoch: int) -> dict[str, Tensor]:
        """Return uint8 images (batch, 3, h, w) and what was drawn for them.

        With MixUp or CutMix also the partners' images, "partner" and "share".
        """
        indices = np.asarray(indices, dtype=np.int64)
        raw = self._look(indices, epoch)
        if self.augmentation.mixup or self.augmentation.cutmix:
            mixing = draws.mixing(
                self.augmentation,
                self.geometry.size,
                len(self),
                self.seed,
                epoch,
                indices,
            )
            raw |= _tensors(mixing)
            partners = self._look(mixing["partner"], epoch)
            raw |= {f"partner_{name}": value for name, value in partners.items()}
        return raw

    def finish(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return augmented, normalised float32 images under the name that the forward uses."""
        pixels = self._augment(raw)
        if "partner" in raw:
            prefix = "partner_"
            theirs = {
                k.removeprefix(prefix): v
                for k, v in raw.items()
                if k.startswith(prefix)
            }
            pixels = batch.mix(pixels, self._augment(theirs), raw["mix"], raw["cut"])
        return {self._finish.argument: pixels}

    def _look(self, indices: Ints, epoch: int) -> dict[str, Tensor]:
        sizes = self.images.sizes[indices]
        geometry = self.geometry
        looks = draws.appearance(
            self.augmentation,
            geometry.size,
            geometry.views(sizes),
            sizes,
            self.seed,
            epoch,
            indices,
        )
        images = self.images.fetch(indices)
        if self._batched:
            return {"image": _stack(images)} | _tensors(looks)
        boxes = looks.pop("box")
        return {"image": self._cut(images, boxes)} | _tensors(looks)

    def _cut(self, images: Sequence[Any], boxes: Ints) -> Tensor:
        """Return each image's box at the input size, uint8 (batch, 3, height, width)."""
        from torchvision.transforms.v2 import functional

        result = torch.empty((len(boxes), 3, *self.geometry.size), dtype=torch.uint8)
        mode = "bicubic" if self.geometry.interpolation == "bicubic" else "bilinear"
        for place, (image, box) in enumerate(zip(images, boxes.tolist(), strict=True)):
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            cut = functional.crop(pixels, *box)
            result[place] = torch.nn.functional.interpolate(
                cut[None], size=self.geometry.size, mode=mode, antialias=True
            )[0]
        return result

    def _augment(self, raw: dict[str, Tensor]) -> Tensor:
        return batch.augment(
            raw,
            self.geometry.size,
            self.geometry.interpolation,
            self.augmentation.magnitude,
            *self._finish.on(raw["image"].device),
        )


def _stack(images: Sequence[Any]) -> Tensor:
    stacked = images if isinstance(images, np.ndarray) else np.stack(list(images))
    return torch.from_numpy(np.ascontiguousarray(stacked)).permute(0, 3, 1, 2)


def _tensors(arrays: Draws) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
