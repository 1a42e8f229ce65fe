"""Recipes: flat YAML onto TRL's config dataclasses plus ours.

A recipe is `recipes/<model>/<task>/<variant>.yaml`. Its keys are the field names of TRL's config for the task
(`SFTConfig`, `GRPOConfig`, `RLOOConfig`, `DPOConfig`, `RewardConfig`), of TRL's `ModelConfig`, and of the dataclasses
below. Whatever is wrong with a recipe is said here, before a model or a dataset is loaded.

Nothing heavy is imported until a recipe is resolved, so that the command line stays quick.
"""

from __future__ import annotations

import dataclasses
import os
import typing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..benchmarks import registry
from ..errors import RecipeError, suggest_nearest
from ..system.network import VLLM_SERVER
from . import algorithms, checks, schema
from .defaults import COMMON_DEFAULTS, TASK_DEFAULTS
from .overrides import apply_overrides, parse_overrides
from .recipe import Recipe, derive_output_dir, find_base_model, find_task, read_yaml
from .schema import ACCELERATE_CONFIGS, HF_SEED, SHARDED_TASKS, TRAINERS, DataConfig, RunConfig, find_args_class
from .toy import DROPPED, shrink_recipe


def array_part() -> dict[str, int]:
    """`part` and `parts` of this job of a Slurm array; nothing outside one, or with `parts` of one."""
    told = {key: os.environ.get(f"SLURM_ARRAY_TASK_{key}") for key in ("ID", "MIN", "STEP", "COUNT")}
    if told["ID"] is None or told["COUNT"] in (None, "1"):
        return {}
    first, step = int(told["MIN"] or 0), int(told["STEP"] or 1)
    return {"part": (int(told["ID"]) - first) // step, "parts": int(told["COUNT"])}


def count_planned_processes(path: str, overrides: list[str]) -> int:
    """One for each GPU the recipe is written for; one on a CPU, at toy size, and if the engine spreads by itself."""
    read = ("engine", "gpus", "toy")
    changes = {key: value for key, value in parse_overrides(overrides).items() if key.partition(".")[0] in read}
    given = apply_overrides(read_yaml(Path(path)), changes)
    engine = given.get("engine") or {}
    if (engine.get("name") if isinstance(engine, dict) else engine) in ("vllm", "server"):
        return 1
    gpus = given.get("gpus", 0)
    return gpus if isinstance(gpus, int) and gpus > 0 and not given.get("toy") else 1


def world_size() -> int:
    """Number of processes of this run, as the launcher announced it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def read_outline(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """A training's recipe before its libraries are loaded, which takes seconds: TRL's own keys are not checked.

    Args:
        path, overrides: as of `load_recipe`.

    Raises:
        RecipeError: as of `load_recipe`, but for those keys.
    """
    path = Path(path)
    task, given = resolve_recipe(path, parse_overrides(overrides or []))
    run, data = (
        _fill(of, {key: given[key] for key in given.keys() & {f.name for f in dataclasses.fields(of)}}, "recipe")
        for of in (RunConfig, DataConfig)
    )
    model = SimpleNamespace(model_name_or_path=given.get("model_name_or_path"))
    return Recipe(task=task, path=path, given=given, args=None, model=model, data=data, run=run)


def load_recipe(
    path: str | Path, overrides: list[str] | None = None, processes: int | None = None, planned: bool = False
) -> Recipe:
    """Read, merge, check and type a recipe.

    Args:
        path: a YAML file; its parent folder names the task unless it has a `task` key.
        overrides: command-line words (`["--seed", "7", "--datasets.0.path", "rows.jsonl"]`).
        processes: how many will run it, if not those of this launch; `args` is then left to them.
        planned: the recipe is only looked at, so this machine need not have its hardware; `args` is left out.

    Raises:
        RecipeError: unknown key, wrong type or impossible combination; names the key and the nearest valid one.
    """
    path = Path(path)
    task, given = resolve_recipe(path, parse_overrides(overrides or []))
    groups = _groups(task)
    values = _sort_into_groups(given, groups, path)
    run = _fill(RunConfig, values["run"], "recipe")
    data = _fill(DataConfig, values["data"], "recipe")
    model = _fill(groups["model"], values["model"], "recipe") if "model" in groups else None
    typed = _typed(groups["args"], values["args"], "recipe")
    processes = processes or world_size()
    checks.check_recipe(task, given | typed, run, data, model)
    if not planned:
        checks.check_machine(given | typed, run, model)
    if task in schema.RL_TASKS:
        checks.check_rl(given | typed, run, processes)
    recipe = Recipe(task=task, path=path, given=given, args=None, model=model, data=data, run=run)
    if task in SHARDED_TASKS:
        array = array_part() | typed
        if "part" in array and "parts" not in array:
            raise RecipeError(f"parts: part {array['part']} of how many? Add e.g. --parts 4")
        recipe.args = groups["args"](**array)
        checks.check_sharded_task(task, recipe.args, run, data)
        return recipe
    if planned or processes != world_size():
        return recipe
    _cpu_defaults(typed)
    if run.vllm_server_gpus and VLLM_SERVER in os.environ:
        typed["vllm_server_base_url"], port = os.environ[VLLM_SERVER].split()
        typed["vllm_group_port"] = int(port)
    try:
        recipe.args = groups["args"](**typed)
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"{path}: {groups['args'].__name__} refuses these values: {error}") from error
    return recipe


def resolve_recipe(path: Path, changes: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A recipe's task, and its keys with overrides and our defaults, none of them checked yet.

    Args:
        path: of the recipe.
        changes: dotted key -> value.
    """
    named = changes
    changes = dict(named)
    written = read_yaml(path)
    if "algorithm" in written:
        stated = algorithms.apply_algorithm(written["algorithm"], {}) | written
        written = algorithms.add_algorithm_rewards(written["algorithm"], stated)
    if changes.get("algorithm") is not None:
        written = algorithms.apply_algorithm(changes["algorithm"], written)
    task = find_task(path, written | {key: changes[key] for key in ("task",) if key in changes})
    if task == "evaluate":
        # Each by all of its keys, so that `--benchmarks.0.k 4` finds its place, and the run keeps what was measured.
        listed = {key: changes.pop(key) for key in ("benchmarks",) if key in changes}
        written = apply_overrides(written, listed)
        written["benchmarks"] = [registry.find_benchmark(entry) for entry in _as_list(written.get("benchmarks"))]
    given = apply_overrides(written, changes)
    given = (COMMON_DEFAULTS if task in TRAINERS else {}) | TASK_DEFAULTS.get(task, {}) | given | {"task": task}
    given.setdefault("output_dir", derive_output_dir(path, task, named))
    if given.get("base_recipe") and not given.get("toy"):
        given.setdefault("model_name_or_path", find_base_model(given["base_recipe"], int(given.get("seed", HF_SEED))))
    if given.get("toy"):
        # What the command line says outright stands.
        given = apply_overrides(shrink_recipe(given), {k: v for k, v in changes.items() if k not in DROPPED})
    return task, given


def _groups(task: str) -> dict[str, type]:
    """The dataclasses a recipe of this task fills. TRL's `ModelConfig` shares no field with the trainers' configs."""
    groups = {"run": RunConfig, "data": DataConfig}
    if task in ("select", "mix"):
        return groups | {"args": find_args_class(task)}
    import trl

    return groups | {"model": trl.ModelConfig, "args": find_args_class(task)}


def find_accelerate_config(name: str) -> Path:
    """The file of an accelerate config.

    Raises:
        RecipeError: there is none of that name.
    """
    path = ACCELERATE_CONFIGS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in ACCELERATE_CONFIGS.glob("*.yaml")))
        raise RecipeError(f"accelerate_config: there is no {path}; known: {known}")
    return path


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _sort_into_groups(given: dict[str, Any], groups: dict[str, type], path: Path) -> dict[str, dict[str, Any]]:
    fields = {name: {f.name for f in dataclasses.fields(cls) if f.init} for name, cls in groups.items()}
    known = sorted(set().union(*fields.values()))
    values: dict[str, dict[str, Any]] = {name: {} for name in groups}
    for key, value in given.items():
        owner = next((name for name in groups if key in fields[name]), None)
        if owner is None:
            raise RecipeError(f"{path}: unknown key {key!r}{suggest_nearest(key, known)}")
        values[owner][key] = value
    return values


def _fill(cls: type, values: dict[str, Any], where: str) -> Any:
    try:
        return cls(**_typed(cls, values, where))
    except ValueError as error:
        raise error if isinstance(error, RecipeError) else RecipeError(f"{where}: {error}") from error


def _typed(cls: type, values: dict[str, Any], where: str) -> dict[str, Any]:
    """Values checked and converted to the annotations of `cls` (YAML reads `1e-6` as a string)."""
    hints = typing.get_type_hints(cls)
    choices = {f.name: f.metadata.get("choices") for f in dataclasses.fields(cls)}
    typed = {}
    for key, value in values.items():
        at = key if where == "recipe" else f"{where}.{key}"
        inner = _dataclass_in(hints[key])
        typed[key] = _scalar(value, hints[key], at) if inner is None or value is None else _nested(inner, value, at)
        if choices[key] and typed[key] is not None and typed[key] not in choices[key]:
            raise RecipeError(f"{at}: {value!r} is not one of {', '.join(map(str, choices[key]))}")
    return typed


def _scalar(value: Any, hint: Any, at: str) -> Any:
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    options = typing.get_args(hint) or (hint,)
    if isinstance(value, str) and any(typing.get_origin(o) is list for o in options) and str not in options:
        value = [value]
    if value is False and at.endswith("_strategy"):
        value = "no"  # YAML reads a bare `no` as false
    # A number is never meant by true/false.
    wrong_bool = isinstance(value, bool) and not any(o in (bool, Any) for o in options)
    try:
        if wrong_bool:
            raise TypeError("true/false is not a number or a text")
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except (ValidationError, TypeError) as error:
        reason = error.errors()[0]["msg"].lower() if isinstance(error, ValidationError) else str(error)
        name = getattr(hint, "__name__", None) if not typing.get_args(hint) else None
        raise RecipeError(
            f"{at}: expected {name or str(hint).replace('typing.', '')}, got {value!r} ({reason})"
        ) from None


def _dataclass_in(hint: Any) -> tuple[type, bool] | None:
    """The dataclass that a key's value is read as, and whether the key holds a list of them."""
    for option in [hint, *typing.get_args(hint)]:
        items = typing.get_args(option) if typing.get_origin(option) is list else ()
        for cls, many in [(option, False), *((item, True) for item in items)]:
            if dataclasses.is_dataclass(cls) and cls.__module__.startswith("open_r1."):
                return cls, many
    return None


def _nested(inner: tuple[type, bool], value: Any, at: str) -> Any:
    cls, many = inner
    if many:
        if not isinstance(value, list):
            raise RecipeError(f"{at}: expected a list, got {value!r}")
        return [_entry(cls, item, f"{at}.{i}") for i, item in enumerate(value)]
    return _entry(cls, value, at)


def _entry(cls: type, item: Any, at: str) -> Any:
    first = dataclasses.fields(cls)[0].name
    if isinstance(item, str):
        item = {first: item}
    if not isinstance(item, dict):
        raise RecipeError(f"{at}: expected a mapping, got {item!r}")
    known = {f.name for f in dataclasses.fields(cls)}
    if "parameters" in known:
        # The own parameters of a reward, filter or engine stand beside its name in the recipe.
        own = known - {"parameters"}
        item = {k: v for k, v in item.items() if k in own} | {
            "parameters": {k: v for k, v in item.items() if k not in own}
        }
    for key in item:
        if key not in known:
            raise RecipeError(f"{at}: unknown key {key!r}{suggest_nearest(key, sorted(known))}")
    if first not in item and dataclasses.fields(cls)[0].default is dataclasses.MISSING:
        raise RecipeError(f"{at}: {first!r} is missing")
    return cls(**_typed(cls, item, at))


def _cpu_defaults(values: dict[str, Any]) -> None:
    """Without a GPU: tell transformers so, and leave TRL's bf16 default, which only slows a CPU down."""
    import torch

    if not torch.cuda.is_available():
        values.setdefault("use_cpu", True)
        values.setdefault("bf16", False)
