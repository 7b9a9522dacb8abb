"""From a source's names of columns and splits to the canonical ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data import cells
from finetune.errors import DataError, listed, nearest

if TYPE_CHECKING:
    from datasets import Dataset

Columns = tuple[str, ...]

ALIASES: dict[str, Columns] = {
    "image": (
        *("image", "img", "images", "photo", "picture", "pixel_values", "jpg", "png"),
        *("image_path", "img_path", "path", "filepath", "file_path"),
        *("file_name", "filename", "image_name", "file", "image_file"),
    ),
    "text": (
        *("text", "sentence", "sentence1", "premise", "question1", "content", "document"),
        *("review", "comment", "comment_text", "tweet", "utterance", "query", "question"),
        *("message", "body"),
    ),
    "text_pair": ("text_pair", "sentence2", "hypothesis", "question2", "pair"),
    "words": ("words", "tokens"),
    "question": ("question", "query"),
    "context": ("context", "passage", "paragraph"),
    "source": (
        *("source", "src", "input", "inputs", "input_text", "article", "document", "dialogue"),
        "text",
    ),
    "target": (
        *("target", "tgt", "output", "outputs", "target_text", "summary", "highlights"),
        "abstract",
    ),
    "messages": ("messages", "conversations", "conversation", "chat"),
    "label": (
        *("label", "labels", "class", "classes", "target", "category", "class_name"),
        *("label_name", "ner_tags", "tags", "tag", "answers", "intent", "sentiment", "y"),
    ),
}
"""The canonical columns, and the names that each goes by in the wild, the surest first."""

TRUTH = ("label", "target")
"""The canonical columns that hold what is to be predicted."""

SPLIT_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""What splits are called in the wild."""


class ColumnNotFound(DataError):
    """No column looks like a canonical one, and none was named."""

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        super().__init__(message)


def split_name(text: str) -> str | None:
    """Return the name to keep a split under (`Training` is `train`, `VAL` is `val`), or None."""
    name = text.strip().lower()
    if name in SPLIT_NAMES["train"]:
        return "train"
    return name if any(name in names for names in SPLIT_NAMES.values()) else None


def resolve(
    features: Mapping[str, Any], wanted: Sequence[str], given: Mapping[str, str | Columns]
) -> dict[str, Columns]:
    """Return the source's column or columns for each wanted canonical name.

    What is named may also be a key of a column of dicts, as `de` or `translation.de`; it then comes
    out in the second form. Raises DataError where a given name is not there, or none or several
    could be meant.
    """
    asked = {name: _given(features, name, given[name]) for name in wanted if name in given}
    every = [column for columns in asked.values() for column in columns]
    taken = set(every)
    if len(taken) < len(every):
        twice = next(column for column in every if every.count(column) > 1)
        names = " and ".join(f"data.{name}" for name in asked if twice in asked[name])
        raise DataError(f"{names} both name the column {twice!r}: give each a column of its own.")
    found: dict[str, Columns] = {}
    for name in wanted:
        free = {column: kind for column, kind in features.items() if column not in taken}
        found[name] = asked[name] if name in asked else (_found(features, free, name),)
        taken |= set(found[name])
    return found


def _given(features: Mapping[str, Any], name: str, given: str | Columns) -> Columns:
    inner = cells.keys(features)
    columns = []
    for column in (given,) if isinstance(given, str) else given:
        if column in features:
            columns.append(column)
            continue
        meant = [whole for whole, key in inner.items() if column in (whole, key)]
        if len(meant) != 1:
            there = [*features, *inner]
            raise DataError(
                f"data.{name}={column}: there is no column {column!r}; the columns are "
                f"{listed(there)}.{nearest(column, there)}"
            )
        columns += meant
    return tuple(columns)


def _found(features: Mapping[str, Any], free: Mapping[str, Any], name: str) -> str:
    typed = [column for column in free if _has_type(free[column], name)]
    if len(typed) == 1:
        return typed[0]
    lowered = {column.lower(): column for column in reversed(typed or list(free))}
    for alias in ALIASES.get(name, (name,)):
        if alias in lowered:
            return lowered[alias]
    if typed:
        raise DataError(
            f"Several columns could be the {name}: {listed(typed)}. "
            f"Say which, for example data.{name}={typed[0]}."
        )
    there = [*features, *cells.keys(features)]
    raise ColumnNotFound(
        name,
        f"No column looks like the {name}; the columns are {listed(there)}. "
        f"Say which holds it with data.{name}=COLUMN.{nearest(name, there)}",
    )


def _has_type(feature: Any, name: str) -> bool:
    from datasets import ClassLabel, Image

    if name == "image":
        return isinstance(feature, Image)
    inner = getattr(feature, "feature", feature)
    return name == "label" and isinstance(inner, ClassLabel)


def rename(table: Dataset, columns: Mapping[str, Columns], folder: Path | None) -> Dataset:
    """Return the table with single columns under their canonical names, and their content checked.

    A column that stood under a canonical name without being meant is kept as `<name>_original`;
    a column that this table lacks is left out. Images come undecoded, their files named relative to
    `folder`. Raises DataError where a column holds something else than its name says.
    """
    single = {name: held[0] for name, held in columns.items() if len(held) == 1}
    for column in single.values():
        if column not in table.column_names:
            table = cells.unfolded(table, column)
    single = {name: column for name, column in single.items() if column in table.column_names}
    # All at once, so that two columns can change places.
    names = {column: name for name, column in single.items()}
    for name in single:
        if name in table.column_names and name not in names:
            names[name] = f"{name}_original"
    if changes := {old: new for old, new in names.items() if old != new}:
        table = table.rename_columns(changes)
    for name, column in single.items():
        table = cells.checked(table, name, column, folder)
    return table
