"""From a name in a recipe to the function or class that it stands for.

A name is a key of a table, an entry point of an installed package, or `package.module:name`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

from ..errors import RecipeError, suggest_nearest


def locate(name: str, table: dict[str, str], key: str, kind: str, group: str | None = None) -> str:
    """The place of a named function, as `package.module:function`.

    >>> locate("correct", {"correct": "open_r1.filters.rules:correct"}, "filters", "filter")
    'open_r1.filters.rules:correct'

    Args:
        name: a name of the table or of an entry point, or the place itself.
        table: name -> place.
        key: the recipe's key, for the message.
        kind: what the name stands for, for the message.
        group: entry points of other packages to search where the table does not have the name.

    Raises:
        RecipeError: unknown name; suggests the nearest.
    """
    if ":" in name or name in table:
        return table.get(name, name)
    offered = {point.name: point.value for point in importlib.metadata.entry_points(group=group)} if group else {}
    if name in offered:
        return offered[name]
    raise RecipeError(f"{key}: there is no {kind} named {name!r}{suggest_nearest(name, [*table, *offered])}")


def import_place(place: str, at: str) -> Any:
    """The object at `package.module:name`.

    Args:
        place: as `locate` returns it.
        at: key and name in the recipe, for the message.

    Raises:
        RecipeError: the module or the name in it does not exist, or the module fails to import.
    """
    module, _, attribute = place.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"{at} cannot be imported ({error})") from error
