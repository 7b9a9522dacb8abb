"""Photos in one folder for each class."""

from __future__ import annotations

from typing import Any, Literal

from finetune.data.base import DataSource, Raw
from finetune.data.short_form import claimant


class ImageFolder(DataSource):
    """A folder of class folders with images, with or without folders for the splits above them."""

    kind: Literal["image-folder"] = "image-folder"
    path: str
    """The folder."""

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any] | None:
        """Return the fields for a folder without data files, or for any other path."""
        return {"path": text} if claimant(text) == "image-folder" else None

    def read(self) -> Raw:
        """Return one table for each split folder; raise DataError if there are no images."""
        from finetune.data import scan

        return scan.image_folder(self.path)
