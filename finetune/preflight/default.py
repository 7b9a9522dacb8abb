"""The recipe that `finetune check data=…` means where none is named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune.errors import RecipeError
from finetune.override import apply
from finetune.recipe import Recipe, load


def recipe_for(name: str | None, overrides: Sequence[str]) -> Recipe:
    """Return the recipe of that name, or else a small one that suits the data in the overrides.

    For images that is the shipped tiny ViT, for texts MiniLM. Raises RecipeError without either,
    DataError for data that cannot be read.
    """
    if name is not None:
        return apply(load(name), overrides)[0]
    keys = [text.partition("=")[0].strip() for text in overrides]
    if not {"data", "data.kind"} & {*keys}:
        raise RecipeError(
            "finetune check needs data= or recipe=. For example: finetune check data=./photos"
        )
    images, texts = (
        load(known).override(name="data") for known in ("vit-digits", "minilm-intents")
    )
    named = [text for text, key in zip(overrides, keys, strict=True) if key.split(".")[0] == "data"]
    suited = images if _has_images(apply(images, named)[0].data) else texts
    return apply(suited, overrides)[0]


def _has_images(data: Any) -> bool:
    from finetune.data.columns import ColumnNotFound, resolve

    raw = data.read()
    first = next(iter(raw.tables.values()))
    try:
        resolve(first.features, ["image"], raw.mapping)
    except ColumnNotFound:
        return False
    return True
