"""Packages that only some of the toolkit needs, and how to install them where they are missing."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from finetune.errors import RecipeError


def need(what: str, modules: Iterable[str], install: str) -> None:
    """Raise RecipeError, saying how to install it, where `what` needs a module that is missing.

    `install` is what pip is to be given: `finetune[onnx]`.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise RecipeError(
                f"{what} needs the package {name}, which cannot be imported ({error}). "
                f"Install it with: pip install '{install}'"
            ) from error
