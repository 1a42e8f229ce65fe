"""Where a model or a dataset comes from: every recipe, commit and seed, back to the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config.recipe import Recipe, find_run_dir, is_recipe
from ..errors import RecipeError
from ..system.files import find_commit, read_json, write_json

FILE = "lineage.json"  # of a run directory
Json = dict[str, Any]


def write_lineage(recipe: Recipe) -> None:
    """Keep in a run directory what it is made of, so that it still says so when other directories are gone.

    Args:
        recipe: of the run; the runs that it starts from are finished.
    """
    inputs = inputs_of(recipe.given, recipe.seed)
    upstream: dict[str, Json] = {}
    for run in inputs.values():
        found = read(Path(run))
        upstream |= found["upstream"] | {run: found["made"]}
    here = recipe.run_dir / FILE
    commits = read_json(here)["made"]["commits"] if here.is_file() else []
    made = {
        "file": str(recipe.path),
        "task": recipe.task,
        "seed": recipe.seed,
        # Of each start: a run may have been begun by one and ended by another.
        "commits": list(dict.fromkeys([*commits, find_commit() or "unknown"])),
        "inputs": inputs,
        "recipe": recipe.given,
    }
    write_json(here, {"run": str(recipe.run_dir), "made": made, "upstream": upstream})


def read(run_dir: Path) -> Json:
    """The lineage of a run: `run`, how it was `made`, and the same of each run `upstream`.

    Raises:
        RecipeError: the directory has none.
    """
    path = run_dir / FILE
    stages = sorted(str(one.relative_to(run_dir)) for one in run_dir.glob("*/*") if (one / FILE).is_file())
    if stages:
        raise RecipeError(f"{run_dir} is a pipeline's; name one of its stages: {', '.join(stages)}")
    if not path.is_file():
        raise RecipeError(f"{run_dir} has no {FILE}: it is no run directory, or was made before lineage was kept")
    return read_json(path)


def inputs_of(given: Json, seed: int) -> dict[str, str]:
    """Keys of a recipe -> directories of the runs whose model or data they name."""
    named: dict[str, str] = {"model": str(given.get("model_name_or_path") or "")}
    for kind in ("datasets", "eval_datasets"):
        for place, source in enumerate(given.get(kind) or []):
            named[f"{kind}.{place}"] = source if isinstance(source, str) else str(source.get("path", ""))
    for place, reward in enumerate(given.get("rewards") or []):
        if isinstance(reward, dict):
            named[f"rewards.{place}"] = str(reward.get("model", ""))
    found = {}
    for key, path in named.items():
        directory = find_run_dir(path, seed) if is_recipe(path) else Path(path).parent
        if path and (directory / FILE).is_file():
            found[key] = str(directory)
    return found


def format_lineage(run_dir: Path) -> str:
    """The lineage as a tree for the terminal, each run told once.

    Raises:
        RecipeError: the directory has none.
    """
    if (run_dir.parent / FILE).is_file():
        run_dir = run_dir.parent  # a model or dataset by its own folder
    found = read(run_dir)
    runs = found["upstream"] | {found["run"]: found["made"]}
    lines: list[str] = []
    seen: set[str] = set()

    def tell(run: str, key: str, depth: int) -> None:
        made, indent = runs[run], "    " * depth
        lines.append(f"{indent}{key}{': ' * bool(key)}{run}{' (above)' * (run in seen)}")
        if run in seen:
            return
        seen.add(run)
        about = f"{made['file']}, seed {made['seed']}, commit {', '.join(made['commits'])}"
        lines.append(f"{indent}  {made['task']} by {about}")
        named = made["recipe"].get("model_name_or_path")
        if named and "model" not in made["inputs"]:
            lines.append(f"{indent}    model: {named}")
        for place, source in enumerate(made["recipe"].get("datasets") or []):
            if f"datasets.{place}" not in made["inputs"]:
                lines.append(f"{indent}    datasets.{place}: {source if isinstance(source, str) else source['path']}")
        for key, upstream in made["inputs"].items():
            tell(upstream, key, depth + 1)

    tell(found["run"], "", 0)
    return "\n".join(lines)
