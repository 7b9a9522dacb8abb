"""What a column under a canonical name must hold, and how other forms of it become that.

===========================================================  ===================================
"image"                                                      `{"path", "bytes"}`, undecoded
"text", "text_pair", "question", "context", "source", "target"  a string
"words"                                                      a list of strings
"messages"                                                   a list of `{"role", "content", ...}`
"label"                                                      see `finetune.data.base`
===========================================================  ===================================
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import DataError, listed

if TYPE_CHECKING:
    from datasets import Dataset

TEXTS = ("text", "text_pair", "question", "context", "source", "target")
"""The canonical columns that hold one string in each row."""

_STRINGS = ("string", "large_string", "string_view")
_SPEAKERS = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}


def keys(features: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys of columns of dicts: `{"translation.de": "de"}`."""
    from datasets import Translation

    found: dict[str, str] = {}
    for column, feature in features.items():
        inner = feature.languages if isinstance(feature, Translation) else feature
        if isinstance(inner, (dict, list)) and set(inner) != {"bytes", "path"}:
            found |= {f"{column}.{key}": str(key) for key in inner}
    return found


def unfolded(table: Dataset, column: str) -> Dataset:
    """Return the table with the key `translation.de` of a column as a column of its own."""
    import pyarrow
    from datasets import Features
    from pyarrow import compute

    if column not in keys(table.features):
        return table
    outer, _, key = column.rpartition(".")
    inner = compute.struct_field(arrow(table, outer), [key])
    schema = pyarrow.schema({column: inner.type})
    return table.add_column(column, inner, feature=Features.from_arrow_schema(schema)[column])


def arrow(table: Dataset, column: str) -> Any:
    """Return one column as a chunked array of Arrow."""
    return table.select_columns([column]).with_format("arrow")[:][column]


def checked(table: Dataset, name: str, given: str, folder: Path | None) -> Dataset:
    """Return the table with the column `name` in its canonical form; `given` is what it was called.

    Raises DataError if it holds something else.
    """
    if name == "image":
        return _undecoded(table, given, folder)
    feature = table.features[name]
    if name in TEXTS and not holds(feature, name):
        raise DataError(told(name, given, feature, table.column_names))
    if name == "words" and not holds(feature, name):
        raise DataError(
            told(name, given, feature, table.column_names)
            + " JSON lines and parquet can hold lists."
        )
    if name in TEXTS and feature.dtype == "null":  # nothing but gaps, which are told by their rows
        from datasets import Value

        return table.cast_column(name, Value("string"))
    return _conversations(table, given) if name == "messages" else table


def holds(feature: Any, name: str) -> bool:
    """Return whether a column of this type can be the canonical one, gaps left aside."""
    if name in TEXTS:
        return getattr(feature, "dtype", "") in (*_STRINGS, "null")
    if name == "words":
        inner = getattr(feature, "feature", None)
        return getattr(inner, "dtype", "") in (*_STRINGS, "null")
    return True


def told(name: str, given: str, feature: Any, there: Any) -> str:
    """Return the sentence for a column that holds something else than it should."""
    wanted = {"words": "lists of words", "image": "images", "messages": "chats"}.get(name, "text")
    return (
        f"The column {given!r} holds {described(feature)}, not {wanted}: name a column that does "
        f"with data.{name}=COLUMN; the columns are {listed(there)}."
    )


def described(feature: Any) -> str:
    """Return the type of a column in words that follow "holds"."""
    if isinstance(feature, dict):
        return f"dicts with {listed(feature)}"
    inner = getattr(feature, "feature", None)
    if inner is not None:
        return f"lists of {described(inner)}"
    dtype = getattr(feature, "dtype", None)
    return dtype if isinstance(dtype, str) else type(feature).__name__


def _conversations(table: Dataset, given: str) -> Dataset:
    """Return the table with chats as lists of `{"role", "content"}`, also from `from`, `value`."""
    from datasets import List, Value

    feature = table.features["messages"]
    inner = getattr(feature, "feature", None)
    if isinstance(inner, dict) and {"role", "content"} <= set(inner):
        return table
    if not (isinstance(inner, dict) and {"from", "value"} <= set(inner)):
        raise DataError(
            told("messages", given, feature, table.column_names)
            + ' A chat is a list such as [{"role": "user", "content": "Hello"}].'
        )
    chats = [
        None if chat is None else [message(turn) for turn in chat] for chat in table["messages"][:]
    ]
    plain = List({"role": Value("string"), "content": Value("string")})
    return _replaced(table, "messages", chats, plain)


def _replaced(table: Dataset, name: str, cells: list[Any], feature: Any) -> Dataset:
    from datasets import Dataset, Features

    others = table.remove_columns(name)
    if others.column_names:
        return others.add_column(name, cells, feature=feature)
    return Dataset.from_dict({name: cells}, Features({name: feature}))


def message(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return one message of a chat with "role" and "content", also from "from" and "value"."""
    if not {"from", "value"} <= set(turn):
        return turn
    speaker = turn["from"]
    return {"role": _SPEAKERS.get(speaker, speaker), "content": turn["value"]}


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
        return _replaced(table, "image", cells, undecoded)
    is_cell = isinstance(feature, dict) and set(feature) == {"bytes", "path"}
    if isinstance(feature, Image) or is_cell or "binary" in str(getattr(feature, "dtype", "")):
        return table.cast_column("image", undecoded)
    raise DataError(
        f"The column {given!r} holds {getattr(feature, 'dtype', type(feature).__name__)}, not "
        f"images: give a column of file names or image bytes with data.image=COLUMN; the columns "
        f"are {listed(table.column_names)}."
    )
