"""Photos in one folder for each class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune.data import card
from finetune.data.base import DataSource, Raw
from finetune.data.names import split_name
from finetune.data.paths import existing
from finetune.data.short_form import TABLES, claimant
from finetune.data.wording import listed
from finetune.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

IMAGES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".avif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2"),
}
# What systems and editors leave behind; names that begin with a dot go the same way.
_CLUTTER = {"__macosx", "__pycache__", "@eadir", "$recycle.bin", "lost+found"}
_CLUTTER_FILES = {"thumbs.db", "desktop.ini"}

_SHAPE = "expected FOLDER/cat/1.jpg, FOLDER/dog/2.jpg, or the same below FOLDER/train, FOLDER/val"


class ImageFolder(DataSource):
    """A folder of class folders with images, with or without folders for the splits above them."""

    kind: Literal["image-folder"] = "image-folder"
    path: str
    """The folder. Below a class folder, images may lie at any depth."""

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any] | None:
        """Return the fields for a folder without data files, or for any other path."""
        return {"path": text} if claimant(text) == "image-folder" else None

    def read(self) -> Raw:
        """Return one table for each split folder, classes as strings.

        Raises DataError if the folder is not there, holds no images in class folders, or has links
        that lead out of it.
        """
        root = existing(self.path)
        if not root.is_dir():
            raise DataError(
                f"{self.path} is a file. Give a folder of class folders, or a table "
                "(.csv, .tsv, .jsonl, .parquet)."
            )
        scan = _Scan(root)
        splits = scan.split_folders()
        found = {name: scan.classes(folder) for name, folder in splits.items()}
        if not splits:
            found = {"train": scan.classes(root)}
        scan.refuse_links()
        if not any(found.values()):
            tables = [path for path in sorted(root.iterdir()) if path.suffix.lower() in TABLES]
            hint = f" It holds tables: give one, such as data={tables[0]}." if tables else ""
            raise DataError(
                f"{self.path} holds no images in class folders: {_SHAPE}.{hint}{scan.sentence()}"
            )
        read = {name: _table(rows) for name, rows in found.items() if rows}
        return Raw(read, {"name": root.resolve().name, **card.facts(root)}, scan.notes())


class _Scan:
    """One walk over a folder, and what it passed by."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.inside = root.resolve()
        self.clutter: list[str] = []
        self.strange: list[str] = []
        self.stray: list[str] = []
        self.empty: list[str] = []
        self.links: list[str] = []

    def split_folders(self) -> dict[str, Path]:
        """Return the split folders by name: those that hold class folders, not images."""
        found = {}
        for folder in self._entries(self.root):
            name = split_name(folder.name)
            if name is not None and folder.is_dir() and self._holds_classes(folder):
                found[name] = folder
        if found:
            for entry in self._entries(self.root):
                if entry.is_dir() and entry not in found.values():
                    self.stray.append(entry.name)
        return found

    def classes(self, folder: Path) -> list[tuple[str, str]]:
        """Return (file, class) of all images in the class folders of `folder`, in order."""
        rows = []
        for entry in self._entries(folder):
            if entry.is_dir():
                images = list(self._images(entry, {self.inside}))
                rows += [(str(image), entry.name) for image in images]
                if not images:
                    self.empty.append(self._name(entry))
            elif entry.suffix.lower() in IMAGES:
                self.stray.append(self._name(entry))
        return rows

    def _images(self, folder: Path, seen: set[Path]) -> Iterator[Path]:
        real = folder.resolve()
        if real in seen or real in self.inside.parents:  # a link to a folder above itself
            return
        for entry in self._entries(folder):
            if entry.is_dir():
                yield from self._images(entry, seen | {real})
            elif entry.suffix.lower() in IMAGES:
                yield entry
            else:
                self.strange.append(self._name(entry))

    def _entries(self, folder: Path) -> list[Path]:
        """Return what is in a folder, sorted, without clutter and without links out of the root."""
        kept = []
        for entry in sorted(folder.iterdir(), key=lambda path: path.name):
            name = entry.name.lower()
            if name.startswith(".") or name in (_CLUTTER if entry.is_dir() else _CLUTTER_FILES):
                self.clutter.append(self._name(entry))
            elif entry.is_symlink() and not entry.resolve().is_relative_to(self.inside):
                self.links.append(self._name(entry))
            else:
                kept.append(entry)
        return kept

    def _holds_classes(self, folder: Path) -> bool:
        entries = self._entries(folder)
        return any(entry.is_dir() for entry in entries) and not any(
            entry.suffix.lower() in IMAGES for entry in entries
        )

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def refuse_links(self) -> None:
        """Raise DataError if links lead out of the folder."""
        if self.links:
            raise DataError(
                f"Links that lead out of the image folder are not followed: "
                f"{listed(dict.fromkeys(self.links))}. Put the files there themselves, or remove "
                "the links."
            )

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each kind of thing that was passed by."""
        told = (
            ("Hidden or system files and folders were ignored", self.clutter),
            (
                "Files in class folders that are no images by their suffix were ignored",
                self.strange,
            ),
            ("Stray files and folders outside the class folders were ignored", self.stray),
            ("Folders without images were ignored", self.empty),
        )
        # A folder may be looked at twice.
        unique = ((what, list(dict.fromkeys(names))) for what, names in told)
        return tuple(f"{what}: {listed(names)}." for what, names in unique if names)

    def sentence(self) -> str:
        """Return the notes as the end of a message."""
        return "".join(f" {note}" for note in self.notes())


def _table(rows: list[tuple[str, str]]) -> Dataset:
    from datasets import Dataset, Features, Image, Value

    odd = [name for name, _ in rows if not _is_text(name)]
    if odd:
        raise DataError(
            f"File names that are not UTF-8 cannot be used: {listed(odd)}. Rename them."
        )
    return Dataset.from_dict(
        {
            "image": [{"path": name, "bytes": None} for name, _ in rows],
            "label": [label for _, label in rows],
        },
        features=Features(image=Image(decode=False), label=Value("string")),
    )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
