"""Image inputs: from a table's image cells to what a vision model's forward takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import BackboneError, nearest
from finetune.images.augmentation import Augmentation
from finetune.protocols import Source, Table

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.images.geometry import Geometry
    from finetune.images.render import Failure

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


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

    def source(
        self,
        table: Table,
        cache: Path,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> Source:
        """Return training inputs if `augmentation` is given, else the native evaluation ones.

        All images are decoded on the way, once per machine; raises UnreadableImages naming every
        image that cannot be.
        """
        from finetune.images import sources

        cells = table[self.columns[0]]
        if augmentation is None:
            return sources.evaluation(self, cells, cache)
        return sources.training(self, cells, cache, augmentation, seed)

    def read(self, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Tensor], dict[int, str]]:
        """Return the uint8 images of these rows after the native crop, (usable, 3, height, width),
        and by position the reasons why others cannot be used. Nothing is kept on disk.

        A cell may also be a Pillow image.
        """
        from finetune.images import sources

        return sources.read(self, [row[self.columns[0]] for row in rows])

    def finish(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return normalised float32 images under the name that the model's forward uses."""
        from finetune.images import sources

        return sources.finish(self, raw)

    def blank(self, batch_size: int) -> dict[str, Tensor]:
        """Return black images, (batch_size, 3, height, width), for what counts sizes."""
        import torch

        return {self.forward_argument: torch.zeros(batch_size, 3, *self.size)}

    def check(self, table: Table) -> list[Failure]:
        """Return row, file name and reason of every image that cannot be used; keep nothing."""
        from finetune.images.render import find_failures

        return find_failures(table[self.columns[0]])

    def usable(
        self, table: Table, cache: Path, *, augmentation: Augmentation | None = None
    ) -> tuple[list[int], list[Failure]]:
        """Return the rows whose images can be used, and the failures of the others.

        Decodes as `source` does, into the same store: a source of only those rows opens at once.
        """
        from finetune.images.render import UnreadableImages

        failures: tuple[Failure, ...] = ()
        try:
            self.source(table, cache, augmentation=augmentation)
        except UnreadableImages as error:
            failures = error.failures
        broken = {failure.row for failure in failures}
        return [row for row in range(len(table)) if row not in broken], list(failures)

    @property
    def geometry(self) -> Geometry:
        """The native crop, on Pillow images."""
        from finetune.images.geometry import Geometry

        red, green, blue = (round(255 * value) for value in self.mean)
        fill = (red, green, blue) if self.crop_mode == "border" else (0, 0, 0)
        return Geometry(self.size, self.crop_pct, self.crop_mode, self.interpolation, fill)
