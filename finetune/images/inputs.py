"""Image inputs: from a table's image cells to what a vision model's forward takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.images.augmentation import Augmentation
from finetune.protocols import Source, Table

if TYPE_CHECKING:
    from finetune.images.geometry import Geometry
    from finetune.images.store import Failure


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

    def check(self, table: Table) -> list[Failure]:
        """Return row, file name and reason of every image that cannot be used."""
        from finetune.images.store import find_failures

        return find_failures(table[self.columns[0]])

    @property
    def geometry(self) -> Geometry:
        """The native crop, on Pillow images."""
        from finetune.images.geometry import Geometry

        fill = tuple(round(255 * value) for value in self.mean)
        return Geometry(
            self.size, self.crop_pct, self.crop_mode, self.interpolation, fill
        )


def usable(table: Table, column: str = "image") -> tuple[list[int], list[Any]]:
    """Return the rows whose image can be used, and the failures of all others."""
    from finetune.images.store import find_failures

    failures = find_failures(table[column])
    broken = {row for row, _, _ in failures}
    return [row for row in range(len(table)) if row not in broken], failures
