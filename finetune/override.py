"""Overrides: `key=value` texts on top of a recipe.

A text is split at its first `=`. Scalars stay text until pydantic converts them by the field's
type, so `name=2024` stays a name and `precision=no` a word. A plain value for a union chooses the
variant: by its kind (`method=lora`), or by the one variant whose `from_text` claims it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from finetune import explain
from finetune.errors import SECRET, TOKEN_GIVEN, FinetuneError, RecipeError, nearest
from finetune.explain import Node
from finetune.schema import Noun, Value

V = TypeVar("V", bound=Value)


def apply(
    recipe: V, texts: Iterable[str] = (), values: Mapping[str, Any] | None = None
) -> tuple[V, dict[str, str]]:
    """Return the recipe with `values`, then `texts`, set on it, and where each value came from.

    The origins are "recipe" or "command line" for every key that is not at its default. Raises
    RecipeError, with every problem listed, for a key or value that is not allowed.
    """
    wrong: list[str] = []
    cls, root = type(recipe), explain.tree(recipe)
    touched: set[str] = set()
    pairs = _pairs(texts, wrong)
    for name, value in (values or {}).items():
        _attempt(wrong, touched, _set_value, cls, root, name, value)
    # Shorter keys first: `method=lora` makes room for `method.rank=16` wherever each stands.
    for key, text in sorted(pairs.items(), key=lambda pair: pair[0].count(".")):
        _attempt(wrong, touched, _set_text, cls, root, key, text)
    result = build(cls, root, wrong)
    return result, _origins(result, touched)


def build(cls: type[V], content: Any, wrong: Iterable[str] = ()) -> V:
    """Return the value that a tree stands for.

    Raises RecipeError in plain words for what is not allowed, after what was `wrong` already.
    """
    sentences = list(wrong)
    try:
        value = cls.model_validate(content)
    except ValidationError as error:
        sentences += explain.problems(error, cls, content)
    if sentences:
        raise RecipeError(joined(sentences))
    return value


def joined(sentences: list[str]) -> str:
    """Return one message for one or several problems."""
    if len(sentences) == 1:
        return sentences[0]
    return f"{len(sentences)} problems:\n" + "\n".join(f"- {s}" for s in sentences)


def _pairs(texts: Iterable[str], wrong: list[str]) -> dict[str, str]:
    """Return the texts as key and value, and append what is wrong with the others to `wrong`."""
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if SECRET.search(text):
            wrong.append(TOKEN_GIVEN)
        elif not equals or not key:
            wrong.append(f"{explain.shown(text)} is not an override; write key=value.")
        elif key in pairs:
            wrong.append(f"{key} is given twice: keep one of them.")
        else:
            pairs[key] = value
    return pairs


def _attempt(wrong: list[str], touched: set[str], setter: Any, *arguments: Any) -> None:
    try:
        touched |= setter(*arguments)
    except FinetuneError as error:
        wrong.append(str(error))


@dataclass(frozen=True)
class _Place:
    """Where a key leads: a field of a node, or an entry of a field that is a dict."""

    node: Node
    name: str
    field: FieldInfo
    entry: str = ""


def _locate(cls: type[Value], root: Node, key: str) -> _Place:
    owner, node, parts = cls, root, key.split(".")
    for depth, part in enumerate(parts):
        field, rest = owner.model_fields.get(part), ".".join(parts[depth + 1 :])
        prefix = ".".join(parts[:depth])
        if field is None:
            raise RecipeError(_unknown(cls, root, key, owner, prefix))
        if not rest:
            return _Place(node, part, field)
        here = ".".join(parts[: depth + 1])
        if explain.variants(field.annotation):
            child = explain.chosen(field, node.get(part))
            if child is None:
                raise RecipeError(_closed(here, key, field, node.get(part)))
            owner, node = child, node[part]
        elif any((get_origin(m) or m) is dict for m in explain.members(field.annotation)):
            return _Place(node, part, field, rest)
        else:
            raise RecipeError(f"Unknown key {key!r}: {here} is a plain value without keys.")
    raise AssertionError("a key has at least one part")


def _closed(here: str, key: str, field: FieldInfo, content: Any) -> str:
    """Return why nothing inside `here` can be set."""
    if content is None:
        what = f"{here} is not set"
    else:
        what = f"{here} is an object of a class from outside the toolkit, {type(content).__name__}"
    return (
        f"{key} cannot be set: {what}. Choose {here}= one of "
        f"{', '.join(explain.choices(field))} first."
    )


def _unknown(cls: type[Value], root: Node, key: str, owner: type[Value], prefix: str) -> str:
    if prefix and issubclass(owner, Noun):
        last = key[len(prefix) + 1 :]
        union = _locate(cls, root, prefix).field
        others = [
            explain.kind(v) for v in explain.variants(union.annotation) if last in v.model_fields
        ]
        if others:
            return (
                f"Unknown key {key!r}: {prefix} is {explain.kind(owner)}, and {last} belongs to "
                f"{' and '.join(others)}. Add {prefix}={others[0]} to choose it."
            )
    return explain.unknown(key, owner, prefix, list(explain.keys(cls, root)))


def _set_value(cls: type[Value], root: Node, name: str, value: Any) -> set[str]:
    """Set a Python value on a field of the root, and return the keys that this decided."""
    place = _locate(cls, root, name)
    if isinstance(value, str) and explain.choices(place.field):
        return _set_text(cls, root, name, value)
    root[name] = explain.node(value, place.field)
    return {name}


def _set_text(cls: type[Value], root: Node, key: str, text: str) -> set[str]:
    """Set a text by its dotted key, and return the keys that this decided."""
    parent, _, last = key.rpartition(".")
    if last == "kind" and parent:
        place = _locate(cls, root, parent)
        if not place.entry and _is_union(place.field):
            return _choose(parent, place, text, only_kind=True)
    place = _locate(cls, root, key)
    if place.entry:
        entries = place.node.get(place.name) or {}
        value = convert(key, text, _entry_type(place.field))
        place.node[place.name] = {**entries, place.entry: value}
        return {key}
    empty = text.lower() in ("", "none") and type(None) in explain.members(place.field.annotation)
    if _is_union(place.field) and not empty:
        return _choose(key, place, text)
    if explain.variants(place.field.annotation) and not empty:
        inner = explain.variants(place.field.annotation)[0]
        raise RecipeError(
            f"{key} takes no value of its own: set {key}.NAME, where NAME is one of "
            f"{', '.join(inner.model_fields)}."
        )
    place.node[place.name] = convert(key, text, place.field.annotation)
    return {key}


def annotation(recipe: Value, key: str) -> Any:
    """Return the type of what a dotted key sets; raise RecipeError, with the nearest, for none."""
    place = _locate(type(recipe), explain.tree(recipe), key)
    return _entry_type(place.field) if place.entry else place.field.annotation


def _is_union(field: FieldInfo) -> bool:
    return any(issubclass(v, Noun) for v in explain.variants(field.annotation))


def _entry_type(field: FieldInfo) -> Any:
    for member in explain.members(field.annotation):
        if get_origin(member) is dict:
            return get_args(member)[1]
    return Any


def _choose(key: str, place: _Place, text: str, only_kind: bool = False) -> set[str]:
    """Put the variant that `text` means at `place`; the same variant keeps its other fields."""
    nouns = {
        explain.kind(v): v for v in explain.variants(place.field.annotation) if issubclass(v, Noun)
    }
    name = text.lower().replace("_", "-")
    claims: dict[str, dict[str, Any]] = {}
    if name in nouns:
        claims[name] = {}
    elif not only_kind:
        offers = {k: noun.from_text(text) for k, noun in nouns.items()}
        claims = {k: fields for k, fields in offers.items() if fields is not None}
    if len(claims) != 1:
        raise RecipeError(_unclaimed(key, text, nouns, list(claims)))
    [(chosen, fields)] = claims.items()
    current = place.node.get(place.name)
    same = isinstance(current, dict) and current.get("kind") == chosen
    kept = current if isinstance(current, dict) and same else {}
    place.node[place.name] = {**kept, "kind": chosen, **fields}
    return {f"{key}.{name}" for name in (*fields, *(() if same else ("kind",)))}


def _unclaimed(key: str, text: str, nouns: Mapping[str, type[Noun]], claims: list[str]) -> str:
    """Return why a text chose no variant, or more than one, and how to spell the choice out."""
    given = explain.shown(text)
    why = f"could mean {' or '.join(claims)}." if claims else "is not known here."
    spellings = []
    for k in claims or nouns:
        required = [f" {key}.{n}=..." for n, f in nouns[k].model_fields.items() if f.is_required()]
        spellings.append(f"{key}.kind={k}{''.join(required)}" if required else f"{key}={k}")
    return f"{key}={given} {why}{nearest(text, nouns)} Write {', or '.join(spellings)}."


def convert(key: str, text: str, annotation: Any) -> Any:
    """Return what pydantic is to validate: the text, unless only its form tells what it holds."""
    kinds = explain.members(annotation)
    origins = [get_origin(k) or k for k in kinds]
    if type(None) in kinds and text.lower() in ("", "none", "null"):
        return None
    if Any in kinds:
        return _free(key, text)
    if dict in origins and text.startswith("{"):
        return _json(key, text)
    if any(o in (tuple, list, set, frozenset) for o in origins):
        if text.startswith("["):
            return _json(key, text)
        if str not in kinds or "," in text:
            return [part.strip() for part in text.split(",")] if text else []
    if int in kinds and float in kinds and text.lstrip("+-").isdigit():
        return int(text)
    return text


def _free(key: str, text: str) -> Any:
    """Return a text for a field of any type: a JSON value where it reads as one, else the text."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return json.loads(text, parse_constant=str)
    except ValueError:
        if text[:1] in ("{", "["):
            return _json(key, text)
        return text


def _json(key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise RecipeError(f"{key}: {explain.shown(text)} is not valid JSON: {error}.") from None


def _origins(recipe: Value, touched: set[str]) -> dict[str, str]:
    """Return where every value that is not at its default came from."""
    default, origins = explain.defaults(recipe), {}
    for key, value in explain.leaves(recipe).items():
        if any(key == t or key.startswith(f"{t}.") for t in touched):
            origins[key] = "command line"
        elif key not in default or default[key] != value:
            origins[key] = "recipe"
    return origins
