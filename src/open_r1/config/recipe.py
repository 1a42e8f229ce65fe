"""A recipe file: reading it, and its resolved form."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import RecipeError, suggest_nearest
from .defaults import ENGINE_PRESENTATION_KEYS, JUDGING_KEYS, PRESENTATION_KEYS
from .overrides import parse_overrides
from .schema import HF_SEED, SHARDED_TASKS, TASKS, DataConfig, RunConfig

# Safe; libyaml's is ten times as fast, which hundreds of recipes make seconds.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class Recipe:
    """A resolved recipe: `given` is what was written (file, overrides, our defaults); the rest is typed from it.

    `args` is TRL's config of a trainer, or this module's of a data task; `model` is None where no model takes part.
    """

    task: str
    path: Path
    given: dict[str, Any]
    args: Any
    model: Any
    data: DataConfig
    run: RunConfig

    @property
    def run_dir(self) -> Path:
        return Path(self.given["output_dir"])

    @property
    def seed(self) -> int:
        return int(self.given.get("seed", HF_SEED))

    @property
    def base(self) -> tuple[str, list[str]] | None:
        """The recipe that makes this one's base model, and its overrides; None if the model is named otherwise."""
        if self.run.base_recipe is None:
            return None
        words = override_seed(self.run.base_recipe, self.seed)
        made = find_base_model(self.run.base_recipe, self.seed)
        return (self.run.base_recipe, words) if self.model.model_name_or_path == made else None

    @property
    def part(self) -> int | None:
        """Number of this job of an array; None if one job does all."""
        return self.args.part if self.task in SHARDED_TASKS and self.args.parts > 1 else None

    @property
    def upstream(self) -> list[tuple[str, list[str]]]:
        """The recipes whose model or data this one starts from, with their overrides."""
        measured = self.args.benchmarks if self.task == "evaluate" else []
        held_out = [*self.data.eval_datasets, *(source for benchmark in measured for source in benchmark.datasets)]
        sources = [source.path for source in [*self.data.datasets, *held_out]]
        made = [(path, override_seed(path, self.seed)) for path in dict.fromkeys(sources) if is_recipe(path)]
        return ([self.base] if self.base else []) + made


def read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        known = sorted(str(p) for p in Path("recipes").glob("*/*/*.yaml"))
        raise RecipeError(f"no recipe at {path}{suggest_nearest(str(path), known)}")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), LOADER)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} must be a mapping of keys to values, got {type(content).__name__}")
    return content


def derive_output_dir(path: Path, task: str, changes: dict[str, Any]) -> str:
    """`runs/<model>/<task>/<variant>`, with the overrides in the name, so that the same command means the same run."""
    shown = PRESENTATION_KEYS | {f"engine.{key}" for key in ENGINE_PRESENTATION_KEYS}
    if task == "evaluate":  # the completions are the same
        shown = shown | JUDGING_KEYS
    named = {k: v for k, v in changes.items() if k not in shown}
    suffix = "".join(f"--{k}={v}" for k, v in sorted(named.items()) if k != "toy") + (
        "--toy" if "toy" in named else ""
    )
    suffix = re.sub(r"[^\w.=+-]+", "_", suffix)
    if len(suffix) > 120:
        import hashlib

        suffix = "--" + hashlib.sha256(suffix.encode()).hexdigest()[:12]
    model = path.resolve().parent.parent.name
    return str(Path("runs") / model / task / (path.stem + suffix))


def override_seed(recipe: str, seed: int) -> list[str]:
    """What a run starts from is made with its own seed."""
    return [] if read_yaml(Path(recipe)).get("seed", HF_SEED) == seed else ["--seed", str(seed)]


def find_run_dir(recipe: str, seed: int) -> Path:
    """The run directory of a recipe that another one starts from."""
    path, changes = Path(recipe), parse_overrides(override_seed(recipe, seed))
    written = read_yaml(path)
    return Path(written.get("output_dir") or derive_output_dir(path, find_task(path, written), changes))


def find_base_model(base_recipe: str, seed: int) -> str:
    return str(find_run_dir(base_recipe, seed) / "model")


def is_recipe(path: str) -> bool:
    """True if a source is named by the recipe that makes it."""
    return Path(path).suffix in (".yaml", ".yml")


def find_task(path: Path, given: dict[str, Any]) -> str:
    task = given.get("task") or path.resolve().parent.name
    if task not in TASKS:
        raise RecipeError(
            f"{path}: the folder of a recipe names its task (recipes/<model>/<task>/<variant>.yaml), and {task!r} is "
            f"not one of {', '.join(TASKS)}; move the file or set `task:`"
        )
    return task
