"""Differences between a recipe and the one in its run directory."""

from __future__ import annotations

from typing import Any

import yaml

from ..config.defaults import select_result_keys
from ..config.recipe import Recipe
from ..errors import RecipeError


def describe_changes(recipe: Recipe) -> str:
    """The keys that differ from the recipe in the run directory, as `key: before -> now`; empty if none do."""
    return "; ".join(f"{key}: {before!r} -> {now!r}" for key, (before, now) in find_changes(recipe).items())


def find_changes(recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """Result-changing keys whose values differ from the recipe in the run directory, with both values."""
    rejudge = bool(recipe.given.get("rejudge"))
    before, now = (select_result_keys(keys, rejudge) for keys in (_read_stored_recipe(recipe), recipe.given))
    return {k: (before.get(k), now.get(k)) for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)}


def _read_stored_recipe(recipe: Recipe) -> dict[str, Any]:
    return yaml.safe_load((recipe.run_dir / "recipe.yaml").read_text(encoding="utf-8"))


def check_same_recipe(recipe: Recipe) -> None:
    """Check that the run directory was begun by this recipe, which alone may continue it or use its model.

    Raises:
        RecipeError: naming the keys that differ.
    """
    if changes := describe_changes(recipe):
        before, now = (select_result_keys(keys, rejudge=True) for keys in (_read_stored_recipe(recipe), recipe.given))
        rejudge = recipe.task == "evaluate" and before == now
        advice = "--rejudge to judge the stored completions by this one, --overwrite" if rejudge else "--overwrite"
        raise RecipeError(
            f"output_dir: {recipe.run_dir} was begun by another recipe ({changes}); add {advice} to start anew, or "
            "choose another --output_dir"
        )
