"""What a run directory was begun by, and whether another recipe may go on with it."""

from __future__ import annotations

from typing import Any

import yaml

from ..config.defaults import select_result_keys
from ..config.recipe import Recipe
from ..errors import RecipeError


def describe_changes(recipe: Recipe) -> str:
    """What the recipe that began the run directory computes otherwise; empty if nothing."""
    return "; ".join(f"{key}: {before!r} -> {now!r}" for key, (before, now) in find_changes(recipe).items())


def find_changes(recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """The keys in which a recipe and the one that began its run directory differ, with both values."""
    began = yaml.safe_load((recipe.run_dir / "recipe.yaml").read_text(encoding="utf-8"))
    before, now = (select_result_keys(given, bool(recipe.given.get("rejudge"))) for given in (began, recipe.given))
    return {k: (before.get(k), now.get(k)) for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)}


def refuse_another_recipe(recipe: Recipe) -> None:
    """An existing directory is continued, and its model used, only by the recipe that began it."""
    told = describe_changes(recipe)
    if told:
        began = yaml.safe_load((recipe.run_dir / "recipe.yaml").read_text(encoding="utf-8"))
        judged = recipe.task == "evaluate" and select_result_keys(began, True) == select_result_keys(
            recipe.given, True
        )
        advice = "--rejudge to judge the stored completions by this one, --overwrite" if judged else "--overwrite"
        raise RecipeError(
            f"output_dir: {recipe.run_dir} was begun by another recipe ({told}); add {advice} to start anew, or "
            "choose another --output_dir"
        )
