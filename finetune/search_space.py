"""Which fields of a recipe are searched, and over what: texts such as `train.lr=1e-5..1e-3:log`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, get_origin

from finetune import explain, override
from finetune.errors import RecipeError, nearest
from finetune.recipe import Recipe

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
FINITE = 10_000
"""Combinations up to which they are counted out."""
FIXED = {"data.shots", "data.share"}
"""The keys of the data that leave the rows that choose as they are."""


@dataclass(frozen=True)
class Between:
    """A number from `low` to `high`, both of them allowed."""

    key: str
    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __str__(self) -> str:
        return f"{self.key}={self.low:g}..{self.high:g}{':log' * self.log}"

    @property
    def values(self) -> list[Any] | None:
        """Return all values there are; None if they cannot be counted out."""
        if not self.whole or self.high - self.low >= FINITE:
            return None
        return list(range(int(self.low), int(self.high) + 1))

    def text(self, value: Any) -> str:
        """Return a value as a recipe holds it: four digits are enough."""
        if self.whole:
            return str(int(value))
        return repr(min(max(float(f"{value:.4g}"), self.low), self.high))

    def own(self, recipe: Recipe) -> Any:
        """Return the value that the recipe has itself, None where that is not in the range."""
        value = explain.leaves(recipe).get(self.key)
        known = isinstance(value, (int, float)) and self.low <= value <= self.high
        return value if known else None


@dataclass(frozen=True)
class OneOf:
    """One of several values, as texts."""

    key: str
    choices: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.key}={','.join(self.choices)}"

    @property
    def values(self) -> list[str]:
        """Return all values there are."""
        return list(self.choices)

    def text(self, value: Any) -> str:
        """Return a value as a recipe is given it."""
        return str(value)

    def own(self, recipe: Recipe) -> Any:
        """Return the value that the recipe has itself, None where it is none of these."""
        same = (v for v in self.choices if recipe.override(f"{self.key}={v}") == recipe)
        return next(same, None)


Dimension: TypeAlias = Between | OneOf


def read(recipe: Recipe, texts: Sequence[str]) -> tuple[Recipe, list[Dimension]]:
    """Return the recipe with what is fixed set on it, and what is searched, by key in order.

    Raises RecipeError for a key that is unknown or would change what trials are judged on, for a
    range that is not one, and if nothing is searched.
    """
    pairs = [_pair(text) for text in texts]
    if twice := {key for key, _ in pairs if [k for k, _ in pairs].count(key) > 1}:
        raise RecipeError(f"{min(twice)} is given twice: keep one of them.")
    open_ones = [(key, text) for key, text in pairs if _is_range(text) or _is_list(text)]
    fixed = [f"{key}={text}" for key, text in pairs if (key, text) not in open_ones]
    recipe = override.apply(recipe, fixed)[0]
    dimensions: list[Dimension] = []
    for key, text in sorted(open_ones):
        kind = override.annotation(recipe, key)
        if not _is_range(text) and _takes_several(kind):
            recipe = recipe.override(f"{key}={text}")
        else:
            dimensions.append(_dimension(recipe, key, text, kind))
    if not dimensions:
        raise RecipeError(
            "There is nothing to search: give a range such as train.lr=1e-5..1e-3:log, or values "
            "such as method.rank=4,8,16."
        )
    return recipe, dimensions


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not key or not equals:
        raise RecipeError(f"{explain.shown(text)} is not an override; write key=value.")
    return key, value


def _is_range(text: str) -> bool:
    # `..` also stands in paths such as ../photos.
    return ".." in text and not set("/\\") & set(text)


def _is_list(text: str) -> bool:
    return "," in text and text[:1] not in ("[", "{")


def _takes_several(kind: Any) -> bool:
    return any((get_origin(m) or m) in (tuple, list, set, frozenset) for m in explain.members(kind))


def _dimension(recipe: Recipe, key: str, text: str, kind: Any) -> Dimension:
    if key == "task" or (key.split(".")[0] == "data" and key not in FIXED):
        raise RecipeError(
            f"{key} cannot be searched: trials would be judged on other rows or by another metric. "
            f"Of the data, {' and '.join(sorted(FIXED))} can be."
        )
    found = _between(key, text, kind) if _is_range(text) else _one_of(key, text)
    ends: list[Any] = found.values or []
    if isinstance(found, Between):
        ends = [found.low, found.high]
    for end in ends:
        recipe.override(f"{key}={found.text(end)}")  # raises for what the field does not allow
    return found


def _between(key: str, text: str, kind: Any) -> Between:
    example = f"write {key}=LOW..HIGH or {key}=LOW..HIGH:log, such as train.lr=1e-5..1e-3:log"
    body, colon, how = text.partition(":")
    if colon and how != "log":
        raise RecipeError(f"{key}={text} is no range: {example}.{nearest(how, ['log'])}")
    match = re.fullmatch(rf"({NUMBER})\.\.({NUMBER})", body)
    if match is None:
        raise RecipeError(f"{key}={text} is no range of numbers: {example}.")
    members = explain.members(kind)
    if {int, float, Any}.isdisjoint(members):
        raise RecipeError(
            f"{key}={text}: {key} takes {explain.describe(kind)}, not a range. List the values to "
            f"try: {key}=a,b,c."
        )
    low, high = (float(end) for end in match.groups())
    written_whole = all(re.fullmatch(r"[-+]?\d+", end) for end in match.groups())
    whole = (int in members and float not in members) or (Any in members and written_whole)
    if whole and not written_whole:
        raise RecipeError(f"{key}={text}: {key} takes whole numbers, such as {key}=4..16.")
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise RecipeError(f"{key}={text}: the lower end comes first, {key}={high:g}..{low:g}.")
    if low == high:
        raise RecipeError(f"{key}={text} has one value. To set it for all: {key}={low:g}.")
    if colon and low <= 0:
        raise RecipeError(f"{key}={text}: with :log both ends are above 0.")
    return Between(key, low, high, bool(colon), whole)


def _one_of(key: str, text: str) -> OneOf:
    values = [value.strip() for value in text.split(",")]
    if "" in values:
        raise RecipeError(f"{key}={text} has an empty value: write {key}=a,b,c.")
    if len(set(values)) < len(values):
        raise RecipeError(f"{key}={text} has a value twice: keep one of them.")
    return OneOf(key, tuple(values))


def number_of_combinations(dimensions: Iterable[Dimension]) -> int | None:
    """Return how many combinations there are; None if they cannot be counted out."""
    sizes = [None if d.values is None else len(d.values) for d in dimensions]
    return None if None in sizes else math.prod(size for size in sizes if size)
