"""The fields of a value by dotted key, and plain words for what one of them takes."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from finetune.errors import SECRET, nearest
from finetune.schema import Noun, Value

Node = dict[str, Any]

_MISSING = object()


def members(annotation: Any) -> list[Any]:
    """Return the alternatives of a type, without the marks that `Annotated` adds."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return members(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [m for a in typing.get_args(annotation) for m in members(a)]
    return [annotation]


def variants(annotation: Any) -> list[type[Value]]:
    """Return the value classes among the alternatives of a type."""
    return [m for m in members(annotation) if isinstance(m, type) and issubclass(m, Value)]


def kind(cls: type[Value]) -> str:
    """Return the tag of a variant."""
    return str(cls.model_fields["kind"].default)


def reachable(cls: type[Value]) -> Iterator[type[Value]]:
    """Yield the class and every value class that its fields may hold."""
    yield cls
    for field in cls.model_fields.values():
        for variant in variants(field.annotation):
            yield from reachable(variant)


def tree(value: Value) -> Node:
    """Return a value as nested dicts; objects from outside the declared unions stay as they are."""
    return {
        name: node(getattr(value, name), field) for name, field in type(value).model_fields.items()
    }


def node(value: Any, field: FieldInfo) -> Any:
    """Return the content of one field as `tree` does."""
    return tree(value) if type(value) in variants(field.annotation) else value


def chosen(field: FieldInfo, content: Any) -> type[Value] | None:
    """Return the class that the content of a field belongs to, or None if it is no declared one."""
    if not isinstance(content, Mapping):
        return None
    options = variants(field.annotation)
    if len(options) == 1:
        return options[0]
    return next(
        (o for o in options if issubclass(o, Noun) and kind(o) == content.get("kind")), None
    )


def keys(cls: type[Value], content: Node, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key that can be given to this tree."""
    for name, field in cls.model_fields.items():
        yield prefix + name
        child = chosen(field, content.get(name))
        if child is not None:
            yield from keys(child, content[name], f"{prefix}{name}.")


def leaves(value: Value, prefix: str = "") -> dict[str, Any]:
    """Return the plain values of a value by dotted key."""
    found: dict[str, Any] = {}
    for name, field in type(value).model_fields.items():
        content = getattr(value, name)
        if type(content) in variants(field.annotation):
            found |= leaves(content, f"{prefix}{name}.")
        elif isinstance(content, dict):
            found |= {f"{prefix}{name}.{k}": v for k, v in content.items()}
        else:
            found[prefix + name] = content
    return found


def defaults(value: Value, prefix: str = "") -> dict[str, Any]:
    """Return what the leaves of a value would be if nothing but the required had been said."""
    found: dict[str, Any] = {}
    for name, field in type(value).model_fields.items():
        key, content = prefix + name, getattr(value, name)
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if type(content) not in variants(field.annotation):
            if not field.is_required():
                found[key] = default
        elif isinstance(default, Value) and type(default) is type(content):
            found |= leaves(default, f"{key}.")
        else:
            found |= defaults(content, f"{key}.")
            found.pop(f"{key}.kind", None)
    return found


def bounds(metadata: list[Any]) -> str:
    """Return the limits of a number in words, with a leading space."""
    limits: dict[str, Any] = {}
    for mark in metadata:
        for part in (mark, *getattr(mark, "metadata", ())):
            limits |= {n: getattr(part, n) for n in ("gt", "ge", "lt", "le") if hasattr(part, n)}
    words = {"gt": "above {}", "ge": "from {}", "lt": "below {}", "le": "to {}"}
    if "ge" in limits and len(limits) == 1:
        return f" of {limits['ge']} or more"
    return "".join(f" {words[n].format(limits[n])}" for n in words if n in limits)


def describe(annotation: Any, metadata: list[Any] | None = None) -> str:
    """Return what a type takes, in words that follow "give"."""
    if typing.get_origin(annotation) is Annotated:
        inner, *marks = typing.get_args(annotation)
        return describe(inner, [*marks, *(metadata or [])])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [describe(a, metadata) for a in typing.get_args(annotation)]
        return ", or ".join(dict.fromkeys(parts))
    return _describe_one(annotation, bounds(metadata or []))


def _describe_one(annotation: Any, limits: str) -> str:
    origin, inner = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin is Literal:
        choices = [str(choice) for choice in inner]
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    if origin is tuple and inner and Ellipsis not in inner:
        return f"{len(inner)} values with commas between them, each {describe(inner[0])}"
    if origin in (tuple, list, set, frozenset) or (inner and origin is not dict):
        each = f", each {describe(inner[0])}" if inner and inner[0] is not Any else ""
        return f"values with commas between them{each}"
    if isinstance(origin, type) and issubclass(origin, Noun):
        return kind(origin)
    if isinstance(origin, type) and issubclass(origin, Value):
        return f"keys of it ({', '.join(origin.model_fields)})"
    words = {
        bool: "true or false",
        int: f"a whole number{limits}",
        float: f"a number{limits}",
        str: "text",
        Path: "a path",
        dict: 'a JSON object such as {"name": 1}',
        type(None): "none",
    }
    return words.get(origin, "another value")


def shown(value: Any) -> str:
    """Return a value for a message: short, on one line, and never a secret."""
    text = repr(value)
    if SECRET.search(text):
        return "a secret (not shown)"
    return text if len(text) <= 120 else f"{text[:100]}… ({len(text)} characters)"


def problems(error: ValidationError, cls: type[Value], content: Any) -> list[str]:
    """Return pydantic's findings on a tree as sentences, one for each key."""
    found: dict[str, str] = {}
    for entry in error.errors(include_url=False):
        key, sentence = _sentence(entry, cls, content)
        found.setdefault(key, sentence)
    return list(found.values())


def _sentence(entry: Any, cls: type[Value], content: Any) -> tuple[str, str]:
    """Follow one finding to its key, and say what is wrong there."""
    field: FieldInfo | None = None
    owner, path, location = cls, list[str](), list(entry["loc"])
    if entry["type"] == "bool_is_no_number":
        location.append(entry["ctx"]["name"])
    while location:
        part = location.pop(0)
        if field is not None:
            inner = chosen(field, content)
            if inner is None:
                break
            if len(variants(field.annotation)) > 1:  # pydantic puts the tag before the field
                if not location:
                    break
                part = location.pop(0)
            owner = inner
        if part not in owner.model_fields:
            prefix = ".".join(path)
            return f"{prefix}.{part}", unknown(".".join([*path, part]), owner, prefix)
        path.append(part)
        field = owner.model_fields[part]
        content = content.get(part, _MISSING if entry["type"] == "missing" else entry["input"])
    key = ".".join(path)
    if entry["type"] in ("value_error", "assertion_error"):
        return key, ": ".join(filter(None, [key, str(entry["ctx"]["error"])]))
    if field is None:
        return key, f"{shown(content)} is not a {cls.__name__.lower()}."
    return key, _not_allowed(key, field, content)


def _not_allowed(key: str, field: FieldInfo, content: Any) -> str:
    allowed = describe(field.annotation, field.metadata)
    if any(issubclass(v, Noun) for v in variants(field.annotation)):
        allowed = f"one of the kinds {', '.join(choices(field))}"
        content = content.get("kind", content) if isinstance(content, Mapping) else content
    if content is _MISSING:
        about = f" ({field.description.rstrip('.')})" if field.description else ""
        return f"{key} is required: give {allowed}{about}."
    if isinstance(content, list) and all(isinstance(item, str) for item in content):
        content = ",".join(content)
    hint = nearest(content, choices(field)) if isinstance(content, str) else ""
    return f"{key}: {shown(content)} is not allowed; give {allowed}.{hint}"


def choices(field: FieldInfo) -> list[str]:
    """Return the names that a field chooses from: literals, and the kinds of a union."""
    found = [kind(v) for v in variants(field.annotation) if issubclass(v, Noun)]
    for member in members(field.annotation):
        if typing.get_origin(member) is Literal:
            found += [str(choice) for choice in typing.get_args(member)]
    return found


def unknown(key: str, owner: type[Value], prefix: str, every: list[str] | None = None) -> str:
    """Return the sentence for a key that `owner`, which stands at `prefix`, does not have."""
    here = f"{prefix}." if prefix else ""
    known = [here + name for name in owner.model_fields if name != "kind"]
    last = key.rpartition(".")[2]
    same = [k for k in every or [] if k.rpartition(".")[2] == last]
    hint = f" Did you mean {same[0]!r}?" if same else nearest(key, every or known)
    if hint:
        return f"Unknown key {key!r}.{hint}"
    where = f"{prefix} takes" if prefix else "The keys are"
    return f"Unknown key {key!r}. {where} {', '.join(known) or 'no keys'}."
