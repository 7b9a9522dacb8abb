"""The two sources of image batches: the native evaluation crop, and augmented training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from finetune.images import batch, draws, randaugment
from finetune.images.augmentation import Augmentation
from finetune.images.decode import Unreadable, open_image, read_bytes, to_rgb
from finetune.images.draws import Draws, Ints
from finetune.images.geometry import Geometry
from finetune.images.render import Pixels, Rendering, over_cells
from finetune.images.store import Fetched, Images, is_uniform, open_images

if TYPE_CHECKING:
    from finetune.images.inputs import ImageInputs


def evaluation(inputs: ImageInputs, cells: Sequence[Any], cache: Path) -> EvaluationSource:
    """Return the source of native evaluation inputs."""
    geometry = inputs.geometry
    rendering = Rendering(f"evaluation {geometry}", geometry.evaluation)
    return EvaluationSource(open_images(cells, rendering, cache), _Finish.of(inputs))


def training(
    inputs: ImageInputs, cells: Sequence[Any], cache: Path, augmentation: Augmentation, seed: int
) -> TrainingSource:
    """Return the source of augmented training inputs."""
    geometry = inputs.geometry
    rendering = Rendering(f"training {geometry}", geometry.training, geometry.kept)
    images = open_images(cells, rendering, cache)
    return TrainingSource(images, geometry, _Finish.of(inputs), augmentation, seed)


def read(inputs: ImageInputs, cells: Sequence[Any]) -> tuple[dict[str, Tensor], dict[int, str]]:
    """Return the usable ones of these images, and by position the reasons against the others."""
    crop = inputs.geometry.evaluation

    def render(_: int, cell: Any) -> Pixels | str:
        try:
            # An image that is open already is one of Pillow's.
            given = cell if hasattr(cell, "convert") else open_image(read_bytes(cell))
            return np.asarray(crop(to_rgb(given)))
        except Unreadable as error:
            return str(error)

    results = list(over_cells(render, cells))
    images = [result for result in results if not isinstance(result, str)]
    reasons = {i: result for i, result in enumerate(results) if isinstance(result, str)}
    return ({"image": _stack(images)} if images else {}), reasons


def finish(inputs: ImageInputs, raw: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return normalised float32 images under the name that the model's forward uses."""
    return _Finish.of(inputs)(raw)


@dataclass
class _Finish:
    """Mean and standard deviation, ready on the device where they were last used."""

    argument: str
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, inputs: ImageInputs) -> _Finish:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (inputs.mean, inputs.std))
        return cls(inputs.forward_argument, mean, std)

    def __call__(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return images as they are, normalised."""
        image = raw["image"]
        return {self.argument: batch.normalise(image, *self.on(image.device))}

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
        return self._finish(raw)


@dataclass
class TrainingSource:
    """Augmented images; every random number is a function of seed, epoch and sample."""

    images: Images
    geometry: Geometry
    _finish: _Finish
    augmentation: Augmentation
    seed: int
    _batched: bool = field(init=False)
    _margin: int = field(init=False)

    def __post_init__(self) -> None:
        # Equal and not larger than the input: cropped and enlarged as a batch, on the device.
        sizes, target = self.images.sizes, np.array(self.geometry.size)
        self._batched = is_uniform(sizes) and bool((sizes[0] <= target).all())
        self._margin = self._overhang() if self._batched else 0

    def _overhang(self) -> int:
        """Return by how many pixels a crop can reach over the edge of the image at most."""
        if self.augmentation.crop == "resized":
            return 0
        size = self.images.sizes[:1]
        view = self.geometry.views(size)[0]
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
            theirs = {k.removeprefix(prefix): v for k, v in raw.items() if k.startswith(prefix)}
            pixels = batch.mix(pixels, self._augment(theirs), raw["mix"], raw["cut"])
        return {self._finish.argument: pixels}

    def _look(self, indices: Ints, epoch: int) -> dict[str, Tensor]:
        sizes, geometry = self.images.sizes[indices], self.geometry
        key = self.seed, epoch, indices
        views = geometry.views(sizes)
        looks = draws.appearance(self.augmentation, geometry.size, views, sizes, *key)
        images = self.images.fetch(indices)
        if self._batched:
            return {"image": _stack(images)} | _tensors(looks)
        boxes = looks.pop("box")
        return {"image": self._cut(images, boxes)} | _tensors(looks)

    def _cut(self, images: Fetched, boxes: Ints) -> Tensor:
        """Return each image's box at the input size, uint8 (batch, 3, height, width)."""
        mode = "bicubic" if self.geometry.interpolation == "bicubic" else "bilinear"
        result = torch.empty((len(boxes), 3, *self.geometry.size), dtype=torch.uint8)
        for place, (image, box) in enumerate(zip(images, boxes.tolist(), strict=True)):
            cut = torch.from_numpy(_crop(image, box, self.geometry.fill))
            result[place] = torch.nn.functional.interpolate(
                cut.permute(2, 0, 1)[None], size=self.geometry.size, mode=mode, antialias=True
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
        pixels = batch.normalise(pixels, *self._finish.on(pixels.device))
        if "erase" in raw:
            pixels = pixels.masked_fill(batch.inside(raw["erase"], self.geometry.size), 0.0)
        return pixels


def _crop(image: Any, box: Sequence[int], fill: tuple[int, int, int]) -> Any:
    """Return a copy of the box (top, left, height, width) of an image (h, w, 3)."""
    top, left, height, width = box
    seen = image[max(top, 0) : top + height, max(left, 0) : left + width]
    if seen.shape[:2] == (height, width):
        return np.array(seen)
    result = np.empty((height, width, 3), dtype=np.uint8)
    result[:] = fill
    down, right = max(-top, 0), max(-left, 0)
    result[down : down + seen.shape[0], right : right + seen.shape[1]] = seen
    return result


def _stack(images: Fetched) -> Tensor:
    stacked = images if isinstance(images, np.ndarray) else np.stack(list(images))
    return torch.from_numpy(np.ascontiguousarray(stacked)).permute(0, 3, 1, 2)


def _tensors(arrays: Draws) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
