"""Image inputs: from a table's image cells to what a vision model's forward takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.errors import BackboneError, Failure, nearest
from finetune.images import batch
from finetune.images.augmentation import Augmentation
from finetune.images.geometry import INTERPOLATIONS, Geometry
from finetune.images.render import Rendering, rendered
from finetune.images.sources import EvaluationSource, TrainingSource
from finetune.images.store import InMemory, open_images
from finetune.protocols import Source, Table


@dataclass(frozen=True)
class ImageInputs:
    """How a vision backbone wants its images, from its own configuration."""

    size: tuple[int, int]
    """Height and width of the model's input, in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    """`bicubic`, `bilinear`, ... as timm names it."""
    crop_pct: float
    crop_mode: str
    """`center`, `squash` or `border`, as in timm's data configuration."""
    forward_argument: str = "x"
    """The name of the images among the arguments of the module's forward."""
    columns: tuple[str, ...] = ("image",)

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise BackboneError(
                f"The backbone's interpolation {self.interpolation!r} is none of "
                f"{', '.join(INTERPOLATIONS)}.{nearest(self.interpolation, INTERPOLATIONS)} "
                "Correct it in the config.json that comes with its weights."
            )

    @cached_property
    def geometry(self) -> Geometry:
        """The native crop, on Pillow images."""
        red, green, blue = (round(255 * value) for value in self.mean)
        fill = (red, green, blue) if self.crop_mode == "border" else (0, 0, 0)
        return Geometry(self.size, self.crop_pct, self.crop_mode, self.interpolation, fill)

    @cached_property
    def _evaluation(self) -> Rendering:
        return Rendering(f"evaluation {self.geometry}", self.geometry.evaluation)

    def source(
        self,
        table: Table,
        cache: Path,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> Source:
        """Return training inputs if `augmentation` is given, else the native evaluation ones.

        All images are decoded on the way, once per machine; raises UnreadableInputs naming every
        image that cannot be.
        """
        cells, geometry = table[self.columns[0]], self.geometry
        if augmentation is None:
            return EvaluationSource(open_images(cells, self._evaluation, cache), self)
        rendering = Rendering(f"training {geometry}", geometry.training, geometry.kept)
        return TrainingSource(open_images(cells, rendering, cache), self, augmentation, seed)

    def read(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Source, dict[int, str]]:
        """Return the rows that can be used after the native crop, and by position the reasons why
        the others cannot be. Nothing is kept on disk. A cell may also be a Pillow image.
        """
        cells = [row[self.columns[0]] for row in rows]
        images, reasons = [], {}
        for result in rendered(cells, self._evaluation):
            if isinstance(result, Failure):
                reasons[result.row] = result.reason
            else:
                images.append(result)
        return EvaluationSource(InMemory(images), self), reasons

    def finish(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return normalised float32 images under the name that the model's forward uses."""
        return {self.forward_argument: batch.normalise(raw["image"], self.mean, self.std)}

    def blank(self, batch_size: int) -> dict[str, Tensor]:
        """Return black images, (batch_size, 3, height, width), for what counts sizes."""
        return {self.forward_argument: torch.zeros(batch_size, 3, *self.size)}
