"""Plain text: a .txt file, or a folder of them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune.data import card
from finetune.data.base import DataSource, Raw
from finetune.data.columns import split_name
from finetune.data.files import lines
from finetune.data.paths import TEXT, claimant, existing
from finetune.errors import DataError, listed

if TYPE_CHECKING:
    from datasets import Dataset

Way = Literal["line", "paragraph", "document"]

_WORDS = {"line": "Each line", "paragraph": "Each paragraph", "document": "Each file"}


class TextFiles(DataSource):
    """Plain text, without labels or with the folders of the files as classes.

    Files or folders called `train`, `validation` or `test` are those splits; `train`, `validation`
    and `test` may also name files beside the one given.
    """

    kind: Literal["text-files"] = "text-files"
    path: str
    """A .txt file, or a folder with .txt files at any depth."""
    sample_by: Way | None = None
    """What a row is; by default a line of a single file, and each file of a folder of several."""
    encoding: str = "utf-8"
    """Of files without a byte order mark."""

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any] | None:
        """Return the fields for a .txt file, there or not, or for a folder of them alone."""
        return {"path": text} if claimant(text) == "text-files" else None

    def read(self) -> Raw:
        """Return a table for each split with the column "text", and "label" by class folders.

        Raises DataError if there are no .txt files, or they cannot be read.
        """
        path = existing(self.path)
        notes: list[str] = []
        folder = path if path.is_dir() else None
        files = _files(folder, notes) if folder else {"train": [path]}
        for name in (self.train, self.validation, self.test):
            if isinstance(name, str) and Path(name).suffix.lower() == TEXT:
                files[name] = [existing(str(path.parent / name))]
        single = all(len(held) == 1 for held in files.values())
        way: Way = self.sample_by or ("line" if single else "document")
        tables = {name: self._table(held, way, folder) for name, held in files.items()}
        others = ", ".join(f"data.sample_by={name}" for name in _WORDS if name != way)
        notes.append(f"{_WORDS[way]} of {path.name} is a row ({others} would cut it otherwise).")
        source = {"name": path.resolve().name, **(card.facts(folder) if folder else {})}
        return Raw(tables, source, tuple(notes))

    def _table(self, files: list[Path], way: Way, root: Path | None) -> Dataset:
        from datasets import Dataset, Features, Value

        texts, labels = list[str](), list[str]()
        for file in files:
            cut = _cut((line.rstrip("\r\n") for line in lines(file, self.encoding)), way)
            texts += cut
            folders = file.relative_to(root).parts[:-1] if root else ()
            classes = folders[1:] if folders and split_name(folders[0]) else folders
            labels += classes[:1] * len(cut)
        columns = {"text": texts}
        if labels and len(labels) == len(texts):
            columns["label"] = labels
        return Dataset.from_dict(columns, Features({name: Value("string") for name in columns}))


def _cut(rows: Iterable[str], way: Way) -> list[str]:
    """Return lines as texts; blank ones only divide, and a file is one text even if it is blank."""
    if way == "line":
        return [row for row in rows if row.strip()]
    if way == "document":
        return ["\n".join(rows)]
    blocks = groupby(rows, key=lambda row: bool(row.strip()))
    return ["\n".join(block) for filled, block in blocks if filled]


def _files(root: Path, notes: list[str]) -> dict[str, list[Path]]:
    """Return the .txt files of each split, in natural order; all others are told in the notes."""
    from finetune.data.labels import natural

    inside = root.resolve()
    found, strange = dict[str, list[Path]](), list[str]()
    files = (file for file in root.rglob("*") if file.is_file())
    for file in sorted(files, key=lambda file: natural(file.relative_to(root).as_posix())):
        parts = file.relative_to(root).parts
        hidden = any(part.startswith(".") for part in parts)
        away = not file.resolve().is_relative_to(inside)
        if file.suffix.lower() != TEXT or hidden or away:
            strange.append("/".join(parts))
            continue
        found.setdefault(split_name(Path(parts[0]).stem) or "", []).append(file)
    if not found:
        raise DataError(f"{root} holds no {TEXT} files. Give the folder that does.")
    if strange:
        notes.append(
            f"What is no {TEXT} file, is hidden or leads out of the folder was ignored: "
            f"{listed(strange)}."
        )
    if "train" not in found and "" in found:
        found["train"] = found.pop("")
    if stray := found.pop("", []):
        names = listed(file.relative_to(root).as_posix() for file in stray)
        notes.append(f"Files outside the splits were ignored: {names}.")
    return found
