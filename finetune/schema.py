"""The base of every value in a recipe: frozen, strict about keys, told apart by `kind`."""

from __future__ import annotations

import typing
from typing import Any

from pydantic import BaseModel, ConfigDict, WrapValidator, model_validator
from pydantic_core import PydanticCustomError


class Value(BaseModel):
    """A frozen value: unknown keys are refused, and a bool is no number."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _bool_is_no_number(cls, content: Any) -> Any:
        # pydantic would read epochs=true as 1. A validator of the fields would bar `kind` as tag.
        for name, value in content.items() if isinstance(content, dict) else ():
            field = cls.model_fields.get(name)
            if not isinstance(value, bool) or field is None:
                continue
            if {bool, Any}.isdisjoint((field.annotation, *typing.get_args(field.annotation))):
                raise PydanticCustomError(
                    "bool_is_no_number",
                    "{name}: {value} is not allowed here: give a value, not true or false",
                    {"name": name, "value": str(value)},
                )
        return content


class Noun(Value):
    """A value that is one variant of a union; its `kind` field is the tag."""

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any] | None:
        """Return the fields that the plain text `data=TEXT` stands for, or None if not ours."""
        return None


def accepts(protocol: type) -> WrapValidator:
    """Let any object that meets `protocol` stand where a union of values is declared."""

    def validate(value: Any, handler: Any) -> Any:
        if isinstance(value, protocol) and not isinstance(value, (Noun, str, dict)):
            return value
        return handler(value)

    return WrapValidator(validate)
