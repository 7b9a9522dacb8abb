"""From a source's names of columns and splits to the canonical ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import DataError, listed, nearest

if TYPE_CHECKING:
    from datasets import Dataset

Columns = tuple[str, ...]

# Names that columns go by in the wild, the surest first.
ALIASES: dict[str, Columns] = {
    "image": (
        *("image", "img", "images", "photo", "picture", "pixel_values", "jpg", "png"),
        *("image_path", "img_path", "path", "filepath", "file_path"),
        *("file_name", "filename", "image_name", "file", "image_file"),
    ),
    "label": (
        *("label", "labels", "class", "classes", "target", "category", "class_name"),
        *("label_name", "tags", "tag", "y"),
    ),
    "text": ("text", "sentence", "content", "document", "review", "question", "sentence1"),
    "text_pair": ("text_pair", "sentence2", "hypothesis", "pair"),
}


SPLIT_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""What splits are called in the wild."""


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

    Raises DataError where a given name is not there, or none or several could be meant.
    """
    return {name: _column(features, name, given.get(name)) for name in wanted}


def _column(features: Mapping[str, Any], name: str, given: str | Columns | None) -> Columns:
    there = list(features)
    if given is not None:
        asked = (given,) if isinstance(given, str) else given
        for column in asked:
            if column not in features:
                raise DataError(
                    f"data.{name}={column}: there is no column {column!r}; the columns are "
                    f"{listed(there)}.{nearest(column, there)}"
                )
        return asked
    typed = [column for column in there if _has_type(features[column], name)]
    if len(typed) == 1:
        return (typed[0],)
    lowered = {column.lower(): column for column in reversed(typed or there)}
    for alias in ALIASES.get(name, (name,)):
        if alias in lowered:
            return (lowered[alias],)
    if typed:
        raise DataError(
            f"Several columns could be the {name}: {listed(typed)}. "
            f"Say which, for example data.{name}={typed[0]}."
        )
    raise DataError(
        f"No column looks like the {name}; the columns are {listed(there)}. "
        f"Say which holds it with data.{name}=COLUMN.{nearest(name, there)}"
    )


def _has_type(feature: Any, name: str) -> bool:
    from datasets import ClassLabel, Image

    if name == "image":
        return isinstance(feature, Image)
    inner = getattr(feature, "feature", feature)
    return name == "label" and isinstance(inner, ClassLabel)


def rename(table: Dataset, columns: Mapping[str, Columns], folder: Path | None) -> Dataset:
    """Return the table with single columns under their canonical names, images undecoded.

    A column that stood under a canonical name without being meant is kept as `<name>_original`;
    a column that this table lacks is left out. Image files are named relative to `folder`.
    """
    for name, (column, *more) in columns.items():
        if more or column not in table.column_names:
            continue
        if column != name:
            if name in table.column_names:
                table = table.rename_column(name, f"{name}_original")
            table = table.rename_column(column, name)
        if name == "image":
            table = _undecoded(table, column, folder)
    return table


def _undecoded(table: Dataset, given: str, folder: Path | None) -> Dataset:
    """Return the table with image cells `{"path", "bytes"}`; raise DataError if they are none."""
    from datasets import Image, Value

    undecoded = Image(decode=False)
    feature = table.features["image"]
    if feature == undecoded:
        return table
    if isinstance(feature, Value) and feature.dtype in ("string", "large_string"):
        if folder is None:
            return table.cast_column("image", undecoded)
        cells = [
            {"path": None if name is None else str(folder / name), "bytes": None}
            for name in table["image"]
        ]
        return table.remove_columns("image").add_column("image", cells, feature=undecoded)
    is_cell = isinstance(feature, dict) and set(feature) == {"bytes", "path"}
    if isinstance(feature, Image) or is_cell or "binary" in str(getattr(feature, "dtype", "")):
        return table.cast_column("image", undecoded)
    raise DataError(
        f"The column {given!r} holds {getattr(feature, 'dtype', type(feature).__name__)}, not "
        f"images: give a column of file names or image bytes with data.image=COLUMN; the columns "
        f"are {listed(table.column_names)}."
    )
