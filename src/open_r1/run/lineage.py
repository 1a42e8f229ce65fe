"""The lineage of a model or dataset: the recipe, commit and seed of every run that led to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config.recipe import Recipe, find_run_dir, is_recipe
from ..errors import RecipeError
from ..system.files import find_commit, read_json, write_json

FILE = "lineage.json"  # of a run directory
Json = dict[str, Any]


def write_lineage(recipe: Recipe) -> None:
    """Write lineage.json of a run, which holds its upstream runs too, so that their directories may be deleted.

    Args:
        recipe: of the run; its upstream runs are finished.
    """
    inputs = find_inputs(recipe.given, recipe.seed)
    upstream: dict[str, Json] = {}
    for run in inputs.values():
        found = read_lineage(Path(run))
        upstream |= found["upstream"] | {run: found["made"]}
    here = recipe.run_dir / FILE
    commits = read_json(here)["made"]["commits"] if here.is_file() else []
    made = {
        "file": str(recipe.path),
        "task": recipe.task,
        "seed": recipe.seed,
        # A resumed run may have a commit for each start.
        "commits": list(dict.fromkeys([*commits, find_commit() or "unknown"])),
        "inputs": inputs,
        "recipe": recipe.given,
    }
    write_json(here, {"run": str(recipe.run_dir), "made": made, "upstream": upstream})


def read_lineage(run_dir: Path) -> Json:
    """The lineage of a run: `run`, how it was `made`, and how each `upstream` run was made.

    Raises:
        RecipeError: the directory has no lineage.json.
    """
    path = run_dir / FILE
    stages = sorted(str(one.relative_to(run_dir)) for one in run_dir.glob("*/*") if (one / FILE).is_file())
    if stages:
        raise RecipeError(f"{run_dir} belongs to a pipeline; name one of its stages: {', '.join(stages)}")
    if not path.is_file():
        raise RecipeError(
            f"{run_dir} has no {FILE}: this is not a run directory, or an earlier version without lineage files "
            "wrote it"
        )
    return read_json(path)


def find_inputs(given: Json, seed: int) -> dict[str, str]:
    """Run directories that a recipe's model, datasets and rewards come from, by key.

    For example `{"model": "runs/tiny/sft/base"}` for `model_name_or_path: runs/tiny/sft/base/model`.
    """
    paths: dict[str, str] = {"model": str(given.get("model_name_or_path") or "")}
    for kind in ("datasets", "eval_datasets"):
        for place, source in enumerate(given.get(kind) or []):
            paths[f"{kind}.{place}"] = source if isinstance(source, str) else str(source.get("path", ""))
    for place, reward in enumerate(given.get("rewards") or []):
        if isinstance(reward, dict):
            paths[f"rewards.{place}"] = str(reward.get("model", ""))
    found = {}
    for key, path in paths.items():
        directory = find_run_dir(path, seed) if is_recipe(path) else Path(path).parent
        if path and (directory / FILE).is_file():
            found[key] = str(directory)
    return found


def format_lineage(run_dir: Path) -> str:
    """The lineage as an indented tree; a run that several others use is described once.

    Args:
        run_dir: a run directory, or its `model` or `data` folder.

    Raises:
        RecipeError: the directory has no lineage.json.
    """
    if (run_dir.parent / FILE).is_file():
        run_dir = run_dir.parent
    found = read_lineage(run_dir)
    runs = found["upstream"] | {found["run"]: found["made"]}
    lines: list[str] = []
    seen: set[str] = set()

    def add(run: str, key: str, depth: int) -> None:
        made, indent = runs[run], "    " * depth
        lines.append(f"{indent}{key}{': ' * bool(key)}{run}{' (above)' * (run in seen)}")
        if run in seen:
            return
        seen.add(run)
        commits = ", ".join(made["commits"])
        lines.append(f"{indent}  {made['task']} by {made['file']}, seed {made['seed']}, commit {commits}")
        model = made["recipe"].get("model_name_or_path")
        if model and "model" not in made["inputs"]:
            lines.append(f"{indent}    model: {model}")
        for place, source in enumerate(made["recipe"].get("datasets") or []):
            if f"datasets.{place}" not in made["inputs"]:
                lines.append(f"{indent}    datasets.{place}: {source if isinstance(source, str) else source['path']}")
        for key, upstream in made["inputs"].items():
            add(upstream, key, depth + 1)

    add(found["run"], "", 0)
    return "\n".join(lines)
