"""Photos in one folder for each class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune.data import card
from finetune.data.base import DataSource, Raw
from finetune.data.columns import split_name
from finetune.data.paths import IMAGES, TABLES, claimant, existing
from finetune.errors import DataError, listed

if TYPE_CHECKING:
    from datasets import Dataset

# What systems and editors leave behind; names that begin with a dot go the same way.
_CLUTTER = {
    *("__macosx", "__pycache__", "@eadir", "$recycle.bin", "lost+found"),
    *("thumbs.db", "desktop.ini"),
}
_HIDDEN = "Hidden or system files and folders were ignored"
_STRANGE = "Files in class folders that are no images by their suffix were ignored"
_STRAY = "Stray files and folders outside the class folders were ignored"
_EMPTY = "Folders without images were ignored"

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
        splits = scan.split_folders() or {"train": root}
        found = {name: scan.classes(folder) for name, folder in splits.items()}
        if scan.links:
            raise DataError(
                f"Links that lead out of the image folder are not followed: {listed(scan.links)}. "
                "Put the files there themselves, or remove the links."
            )
        if not any(found.values()):
            tables = [path for path in sorted(root.iterdir()) if path.suffix.lower() in TABLES]
            hints = [f"It holds tables: give one, such as data={tables[0]}."] if tables else []
            said = " ".join([f"{self.path} holds no images in class folders: {_SHAPE}.", *hints])
            raise DataError(" ".join([said, *scan.notes()]))
        read = {name: _table(rows) for name, rows in found.items() if rows}
        return Raw(read, {"name": root.resolve().name, **card.facts(root)}, scan.notes())


class _Scan:
    """One walk over a folder, and what it passed by."""

    def __init__(self, root: Path) -> None:
        self.root, self.inside = root, root.resolve()
        # Names as the keys of dicts, because a folder may be looked at twice.
        self.links: dict[str, None] = {}
        self.passed: defaultdict[str, dict[str, None]] = defaultdict(dict)

    def split_folders(self) -> dict[str, Path]:
        """Return the split folders by name: those that hold class folders, not images."""
        folders = [entry for entry in self._entries(self.root) if entry.is_dir()]
        named = {folder: split_name(folder.name) for folder in folders}
        found = {name: f for f, name in named.items() if name and self._holds_classes(f)}
        for folder in folders if found else ():
            if folder not in found.values():
                self._pass_by(_STRAY, folder)
        return found

    def classes(self, folder: Path) -> list[tuple[str, str]]:
        """Return (file, class) of all images in the class folders of `folder`, in order."""
        rows = []
        for entry in self._entries(folder):
            if entry.is_dir():
                images = [str(image) for image in self._images(entry, {self.inside})]
                rows += [(image, entry.name) for image in images]
                if not images:
                    self._pass_by(_EMPTY, entry)
            elif entry.suffix.lower() in IMAGES:
                self._pass_by(_STRAY, entry)
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
                self._pass_by(_STRANGE, entry)

    def _entries(self, folder: Path) -> list[Path]:
        """Return what is in a folder, sorted, without clutter and without links out of the root."""
        kept = []
        for entry in sorted(folder.iterdir(), key=lambda path: path.name):
            if entry.name.startswith(".") or entry.name.lower() in _CLUTTER:
                self._pass_by(_HIDDEN, entry)
            elif entry.is_symlink() and not entry.resolve().is_relative_to(self.inside):
                self.links[self._name(entry)] = None
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

    def _pass_by(self, why: str, path: Path) -> None:
        self.passed[why][self._name(path)] = None

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each kind of thing that was passed by."""
        reasons = [why for why in (_HIDDEN, _STRANGE, _STRAY, _EMPTY) if why in self.passed]
        return tuple(f"{why}: {listed(self.passed[why])}." for why in reasons)


def _table(rows: list[tuple[str, str]]) -> Dataset:
    from datasets import Dataset, Features, Image, Value

    names = [name for name, _ in rows]
    if odd := [name for name in names if name.encode(errors="replace").decode() != name]:
        raise DataError(
            f"File names that are not UTF-8 cannot be used: {listed(odd)}. Rename them."
        )
    return Dataset.from_dict(
        {"image": names, "label": [label for _, label in rows]},
        features=Features(image=Image(decode=False), label=Value("string")),
    )
