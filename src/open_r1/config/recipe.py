"""A recipe: read once from its file (`RecipeFile`), then typed (`Recipe`)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..benchmarks import registry
from ..errors import RecipeError, suggest_nearest
from . import algorithms
from .defaults import COMMON_DEFAULTS, ENGINE_PRESENTATION_KEYS, JUDGING_KEYS, PRESENTATION_KEYS, TASK_DEFAULTS
from .overrides import apply_overrides, parse_overrides
from .schema import HF_SEED, SHARDED_TASKS, TASKS, TRAINERS, DataConfig, RunConfig
from .toy import DROPPED, shrink_recipe

# Safe; libyaml's is ten times as fast, which matters for hundreds of recipes.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(kw_only=True)
class RecipeFile:
    """A recipe's keys, read once and not checked yet.

    Args:
        path: its YAML file.
        task: one of `TASKS`.
        given: keys of the file, the overrides and our defaults.
        overrides: the command-line words among them, for the processes that read the file themselves.
        found: the recipes that it starts from and that were read so far, by their paths.
    """

    path: Path
    task: str
    given: dict[str, Any]
    overrides: list[str] = field(default_factory=list)
    found: dict[str, RecipeFile] = field(default_factory=dict, repr=False, compare=False)

    @property
    def run_dir(self) -> Path:
        return Path(self.given["output_dir"])

    @property
    def seed(self) -> int:
        return int(self.given.get("seed", HF_SEED))

    @property
    def command(self) -> str:
        """Path and overrides, as `open-r1 train` takes them."""
        return " ".join([str(self.path), *self.overrides])

    @property
    def processes(self) -> int:
        """One for each GPU the recipe asks for; one on CPU, at toy size, and if the engine uses all GPUs itself."""
        engine = self.given.get("engine") or {}
        if (engine.get("name") if isinstance(engine, dict) else engine) in ("vllm", "server"):
            return 1
        gpus = self.given.get("gpus", 0)
        return gpus if isinstance(gpus, int) and gpus > 0 and not self.given.get("toy") else 1

    @property
    def base(self) -> RecipeFile | None:
        """The recipe that makes this one's base model; None if the model is named in another way."""
        recipe = self.given.get("base_recipe")
        if recipe is None:
            return None
        made = self.find_upstream(recipe)
        return made if self.given.get("model_name_or_path") == str(made.run_dir / "model") else None

    def find_upstream(self, recipe: str) -> RecipeFile:
        """A recipe that this one starts from, with this one's seed."""
        if recipe not in self.found:
            self.found[recipe] = read_upstream(recipe, self.seed)
        return self.found[recipe]


@dataclass(kw_only=True)
class Recipe(RecipeFile):
    """A resolved recipe, whose keys are typed.

    Args:
        args: TRL's config of a trainer, or ours of another task; None where the libraries are not loaded.
        model: TRL's `ModelConfig`; None where no model takes part.
        data: what is read.
        run: where and how it runs.
    """

    args: Any
    model: Any
    data: DataConfig
    run: RunConfig

    @property
    def part(self) -> int | None:
        """Number of this job of an array; None if one job does all."""
        return self.args.part if self.task in SHARDED_TASKS and self.args.parts > 1 else None

    @property
    def upstream(self) -> list[RecipeFile]:
        """The recipes whose model or data this one starts from."""
        measured = self.args.benchmarks if self.task == "evaluate" else []
        held_out = [*self.data.eval_datasets, *(source for benchmark in measured for source in benchmark.datasets)]
        sources = [source.path for source in [*self.data.datasets, *held_out]]
        made = [self.find_upstream(path) for path in dict.fromkeys(sources) if is_recipe(path)]
        return ([self.base] if self.base else []) + made


def read_recipe(path: str | Path, overrides: list[str] | None = None) -> RecipeFile:
    """Read a recipe's file and put overrides and defaults in.

    Args:
        path: a YAML file; its parent folder names the task unless it has a `task` key.
        overrides: command-line words (`["--seed", "7", "--datasets.0.path", "rows.jsonl"]`).

    Raises:
        RecipeError: no such file, not YAML, no such task, algorithm or benchmark, or an override of nothing.
    """
    return _resolve(Path(path), read_yaml(Path(path)), list(overrides or []))


def read_upstream(recipe: str, seed: int) -> RecipeFile:
    """A recipe that another one starts from; it runs with the seed of the other one."""
    written = read_yaml(Path(recipe))
    words = [] if written.get("seed", HF_SEED) == seed else ["--seed", str(seed)]
    return _resolve(Path(recipe), written, words)


def _resolve(path: Path, written: dict[str, Any], words: list[str]) -> RecipeFile:
    named = parse_overrides(words)
    changes = dict(named)
    if "algorithm" in written:
        stated = algorithms.apply_algorithm(written["algorithm"], {}) | written
        written = algorithms.add_algorithm_rewards(written["algorithm"], stated)
    if changes.get("algorithm") is not None:
        written = algorithms.apply_algorithm(changes["algorithm"], written)
    task = find_task(path, written | {key: changes[key] for key in ("task",) if key in changes})
    if task == "evaluate":
        # All keys of each benchmark: `--benchmarks.0.k 4` finds its place, and the run stores what was measured.
        listed = {key: changes.pop(key) for key in ("benchmarks",) if key in changes}
        written = apply_overrides(written, listed)
        entries = written.get("benchmarks") or []
        written["benchmarks"] = [
            registry.find_benchmark(entry) for entry in (entries if isinstance(entries, list) else [entries])
        ]
    given = apply_overrides(written, changes)
    given = (COMMON_DEFAULTS if task in TRAINERS else {}) | TASK_DEFAULTS.get(task, {}) | given | {"task": task}
    given.setdefault("output_dir", derive_output_dir(path, task, named))
    file = RecipeFile(path=path, task=task, given=given, overrides=words)
    if given.get("base_recipe") and not given.get("toy") and "model_name_or_path" not in given:
        given["model_name_or_path"] = str(file.find_upstream(given["base_recipe"]).run_dir / "model")
    if given.get("toy"):
        # The command line overrides the toy size.
        kept = {key: value for key, value in changes.items() if key not in DROPPED}
        file.given = apply_overrides(shrink_recipe(given), kept)
    return file


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
    """`runs/<model>/<task>/<variant>`, with the overrides in the name: the same command is the same run."""
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


def find_run_dir(recipe: str, seed: int) -> Path:
    """The run directory of a recipe that another one starts from."""
    return read_upstream(recipe, seed).run_dir


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
