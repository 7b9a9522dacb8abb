"""YAML as a recipe uses it: YAML 1.2 words and numbers, no tags, no key twice."""

from __future__ import annotations

import re
from typing import Any

import yaml

from finetune.errors import RecipeError

_TAG = "tag:yaml.org,2002:"
_FLOAT = re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$")
_INT = re.compile(r"^[-+]?(0|[1-9]\d*)$")


class _Loader(yaml.SafeLoader):
    """The safe loader, in which `no` stays a word, `3e-4` is a number, and `1:30` is text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a node's mapping; raise RecipeError for a key that is no word or comes twice."""
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        if not all(isinstance(name, str) for name in names):
            raise RecipeError("keys are words; one here is a number, a list or a mapping.")
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise RecipeError(f"the key {twice[0]!r} comes twice in one mapping; keep one.")
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """The safe dumper, which quotes what either version of YAML would take for a number."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, p) for tag, p in resolvers if tag in (f"{_TAG}null", f"{_TAG}merge")]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(f"{_TAG}bool", re.compile(r"^([Tt]rue|[Ff]alse)$"), list("tTfF"))
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(f"{_TAG}int", _INT, list("-+0123456789"))
    _class.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+.0123456789"))


def read(text: str) -> dict[str, Any]:
    """Return the mapping that a YAML text holds; raise RecipeError if it holds none."""
    try:
        content = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"this is no YAML that can be read here: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError("a recipe in YAML is a mapping of keys such as name, backbone and data.")
    return content


def write(content: dict[str, Any]) -> str:
    """Return plain values as YAML, in their order, that `read` gives back unchanged."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text
