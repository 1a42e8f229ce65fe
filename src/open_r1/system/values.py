"""Values from YAML or the command line, converted to the type that a field or parameter declares."""

from __future__ import annotations

import types
import typing
from typing import Any

from ..errors import RecipeError

BOUND_ERRORS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")


def convert_value(value: Any, hint: Any, at: str) -> Any:
    """A value in the type of its annotation (YAML reads `1e-6` as a text).

    A text in `Annotated` describes the allowed values, and becomes the message where a bound is broken:

    >>> convert_value(0, Annotated[int, Ge(1), "1 or more"], "shard_rows")
    RecipeError: shard_rows: 1 or more, got 0

    Args:
        value: as YAML has it.
        hint: the annotation.
        at: key, for the message.

    Raises:
        RecipeError: another type, a value out of bounds, or none of the choices of a `Literal`.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    options = list_options(hint)
    plain = [typing.get_args(option)[0] if hasattr(option, "__metadata__") else option for option in options]
    if isinstance(value, str) and any(typing.get_origin(option) is list for option in plain) and str not in plain:
        value = [value]
    expected = " | ".join(getattr(o, "__name__", str(o)) if not typing.get_args(o) else str(o) for o in plain)
    expected = expected.replace("typing.", "").replace("NoneType", "None")
    if isinstance(value, bool) and not any(o in (bool, Any) for o in plain):
        raise RecipeError(f"{at}: expected {expected}, got {value!r} (true/false is not a number or a text)")
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        found = error.errors()[0]
    choices = [choice for o in plain if typing.get_origin(o) is typing.Literal for choice in typing.get_args(o)]
    allowed = [text for o in options for text in getattr(o, "__metadata__", ()) if isinstance(text, str)]
    if choices:
        raise RecipeError(f"{at}: {value!r} is not one of {', '.join(map(str, choices))}")
    if allowed and found["type"] in BOUND_ERRORS:
        raise RecipeError(f"{at}: {allowed[0]}, got {value!r}")
    raise RecipeError(f"{at}: expected {expected}, got {value!r} ({found['msg'].lower()})")


def list_options(hint: Any) -> list[Any]:
    """The members of a union; of another annotation, itself."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return list(typing.get_args(hint)) if union else [hint]
