"""Overrides: keys of a recipe on the command line."""

from __future__ import annotations

import copy
from typing import Any

import yaml

from ..errors import RecipeError


def parse_overrides(words: list[str]) -> dict[str, Any]:
    """Command-line words as a mapping: `--key value`, `--key=value`, `--flag`, `--key v1 v2`, `--rewards.0.weight 2`.

    >>> parse_overrides(["--seed", "7", "--toy", "--rewards.0.weight=2", "--lora_target_modules", "q_proj", "v_proj"])
    {'seed': 7, 'toy': True, 'rewards.0.weight': 2, 'lora_target_modules': ['q_proj', 'v_proj']}

    Raises:
        RecipeError: a word before the first key.
    """
    changes: dict[str, Any] = {}
    key, values = None, []

    def close() -> None:
        if key is not None:
            changes[key] = True if not values else values[0] if len(values) == 1 else list(values)

    for word in words:
        if word.startswith("--"):
            close()
            key, _, value = word[2:].partition("=")
            key, values = key.replace("-", "_"), [_parse_value(value)] if "=" in word else []
        elif key is None:
            raise RecipeError(f"expected an override such as --seed 7, got {word!r}")
        else:
            values.append(_parse_value(word))
    close()
    return changes


def format_overrides(changes: dict[str, Any]) -> list[str]:
    """Overrides as the command-line words that `parse_overrides` reads."""
    return [f"--{key}={_format_value(value)}" for key, value in changes.items()]


def _format_value(value: Any) -> str:
    if isinstance(value, str) and _parse_value(value) == value:
        return value
    # Not JSON: YAML reads its 1e-05 as a text.
    written = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return written.removesuffix("...\n").strip()


def _parse_value(word: str) -> Any:
    """A word as YAML, unless it is only text that YAML would change: `Answer: yes`, `#### (.+)` or `no`."""
    try:
        value = yaml.safe_load(word)
    except yaml.YAMLError:
        return word
    certain = {dict: word.startswith("{"), type(None): word in ("null", "~"), bool: word.lower() in ("true", "false")}
    return value if certain.get(type(value), True) else word


def apply_overrides(written: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of `written` with `changes`; a dotted key reaches into lists (by index) and mappings."""
    given = copy.deepcopy(written)
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        place: Any = given
        for part in parents:
            place = _step_into(place, part, dotted)
        if isinstance(place, list):
            place[_index(place, last, dotted)] = value
        elif isinstance(place, dict):
            place[last] = value
        else:
            raise RecipeError(f"--{dotted}: {last!r} is inside a {type(place).__name__}, which has no keys")
    return given


def _step_into(place: Any, part: str, dotted: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, part, dotted)]
    if not isinstance(place, dict):
        raise RecipeError(f"--{dotted}: {part!r} is inside a {type(place).__name__}, which has no keys")
    if place.get(part) is None:
        place[part] = {}
    return place[part]


def _index(items: list, part: str, dotted: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise RecipeError(f"--{dotted}: {part!r} is not an index of a list with {len(items)} entries (0 is the first)")
    return int(part)
