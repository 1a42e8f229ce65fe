"""From a recipe's keys to TRL's config dataclasses and ours.

A recipe is `recipes/<model>/<task>/<variant>.yaml`. Its keys are the field names of TRL's config for the task
(`SFTConfig`, `GRPOConfig`, `RLOOConfig`, `DPOConfig`, `RewardConfig`), of TRL's `ModelConfig`, and of the dataclasses
in `schema` and `sharded_tasks`. A wrong recipe is refused here, before a model or a dataset is loaded.

TRL is imported only when a recipe is typed, to keep the command line quick.
"""

from __future__ import annotations

import dataclasses
import os
import typing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..errors import RecipeError, suggest_nearest
from ..system.network import VLLM_SERVER
from ..system.values import convert_value
from . import checks
from .overrides import format_overrides
from .recipe import Recipe, RecipeFile, read_recipe
from .schema import ACCELERATE_CONFIGS, RL_TASKS, SHARDED_TASKS, DataConfig, RunConfig
from .sharded_tasks import find_args_class


def array_part() -> dict[str, int]:
    """`part` and `parts` of this job of a Slurm array; nothing outside one, or with `parts` of one."""
    task = {key: os.environ.get(f"SLURM_ARRAY_TASK_{key}") for key in ("ID", "MIN", "STEP", "COUNT")}
    if task["ID"] is None or task["COUNT"] in (None, "1"):
        return {}
    first, step = int(task["MIN"] or 0), int(task["STEP"] or 1)
    return {"part": (int(task["ID"]) - first) // step, "parts": int(task["COUNT"])}


def world_size() -> int:
    """Number of processes of this run, which the launcher sets."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def load_recipe(
    path: str | Path, overrides: list[str] | None = None, processes: int | None = None, planned: bool = False
) -> Recipe:
    """Read and type a recipe.

    Args:
        path: a YAML file; its parent folder names the task unless it has a `task` key.
        overrides: command-line words (`["--seed", "7", "--datasets.0.path", "rows.jsonl"]`).
        processes, planned: see `type_recipe`.

    Raises:
        RecipeError: unknown key, wrong type or impossible combination; names the key and the nearest valid one.
    """
    return type_recipe(read_recipe(path, overrides), processes, planned)


def resolve_recipe(path: str | Path, changes: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A recipe's task and its keys with `changes` (dotted key -> value) and our defaults, not checked yet."""
    file = read_recipe(path, format_overrides(changes))
    return file.task, file.given


def outline_recipe(file: RecipeFile) -> Recipe:
    """A trainer's recipe without TRL, whose import takes seconds: TRL's own keys are not checked.

    Raises:
        RecipeError: one of our keys is wrong.
    """
    run, data = (
        build_config(
            cls, {key: file.given[key] for key in file.given.keys() & {f.name for f in dataclasses.fields(cls)}}
        )
        for cls in (RunConfig, DataConfig)
    )
    model = SimpleNamespace(model_name_or_path=file.given.get("model_name_or_path"))
    return Recipe(**_untyped(file), args=None, model=model, data=data, run=run)


def type_recipe(file: RecipeFile, processes: int | None = None, planned: bool = False) -> Recipe:
    """Check a recipe's keys and convert them to the types of their fields.

    Args:
        file: the recipe.
        processes: how many will run it (default: this launch's, or those it asks for if it is planned). For another
            number than this launch's a trainer's `args` are None: the processes that train make them.
        planned: the recipe is not run here: this machine need not have its hardware, and a trainer's `args` are None.

    Raises:
        RecipeError: unknown key, wrong type or impossible combination; names the key and the nearest valid one.
    """
    task, given, args_class = file.task, file.given, find_args_class(file.task)
    groups = {"run": RunConfig, "data": DataConfig, "args": args_class}
    if task not in ("select", "mix"):
        import trl

        groups["model"] = trl.ModelConfig  # shares no field with the trainers' configs
    values = _sort_into_groups(given, groups, file.path)
    run, data = build_config(RunConfig, values["run"]), build_config(DataConfig, values["data"])
    model = build_config(groups["model"], values["model"]) if "model" in groups else None
    args = build_config(args_class, _add_array_part(values["args"])) if task in SHARDED_TASKS else None
    typed = _convert_values(args_class, values["args"]) if args is None else vars(args)
    processes = processes or (file.processes if planned else world_size())
    checks.check_recipe(task, given | typed, run, data, model)
    if not planned:
        checks.check_machine(given | typed, run, model)
    if task in RL_TASKS:
        checks.check_rl(given | typed, run, processes)
    if task in SHARDED_TASKS:
        checks.check_sharded_task(task, args, run, data)
    elif not planned and processes == world_size():
        args = _build_trainer_args(file.path, args_class, typed, run)
    return Recipe(**_untyped(file), args=args, model=model, data=data, run=run)


def _untyped(file: RecipeFile) -> dict[str, Any]:
    return {f.name: getattr(file, f.name) for f in dataclasses.fields(RecipeFile)}


def _add_array_part(values: dict[str, Any]) -> dict[str, Any]:
    values = array_part() | values
    if "part" in values and "parts" not in values:
        raise RecipeError(f"parts: part {values['part']} of how many? Add e.g. --parts 4")
    return values


def _build_trainer_args(path: Path, cls: type, values: dict[str, Any], run: RunConfig) -> Any:
    """TRL's config of a trainer, with what this machine decides."""
    import torch

    if not torch.cuda.is_available():
        values.setdefault("use_cpu", True)
        values.setdefault("bf16", False)  # TRL's default, which only slows a CPU down
    if run.vllm_server_gpus and VLLM_SERVER in os.environ:
        values["vllm_server_base_url"], port = os.environ[VLLM_SERVER].split()
        values["vllm_group_port"] = int(port)
    try:
        return cls(**values)
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"{path}: {cls.__name__} refuses these values: {error}") from error


def find_accelerate_config(name: str) -> Path:
    """The file of an accelerate config.

    Raises:
        RecipeError: no file has that name.
    """
    path = ACCELERATE_CONFIGS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in ACCELERATE_CONFIGS.glob("*.yaml"))
        raise RecipeError(f"accelerate_config: there is no {path}{suggest_nearest(name, known)}")
    return path


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


def build_config(cls: type, values: dict[str, Any], at: str = "") -> Any:
    """A dataclass from values of a recipe, converted and checked.

    Args:
        cls: the dataclass; its method `check`, if it has one, holds the rules between its keys.
        values: field -> value.
        at: place in the recipe, as `datasets.0`; nothing for the recipe itself.

    Raises:
        RecipeError: wrong type or value; names the key.
    """
    made = cls(**_convert_values(cls, values, at))
    if hasattr(made, "check"):
        try:
            made.check()
        except RecipeError as error:
            raise RecipeError(f"{at}.{error}" if at else str(error)) from error
    return made


def _convert_values(cls: type, values: dict[str, Any], at: str = "") -> dict[str, Any]:
    """Values in the types of the fields of `cls`."""
    hints = typing.get_type_hints(cls, include_extras=True)
    choices = {f.name: f.metadata.get("choices") for f in dataclasses.fields(cls)}
    typed = {}
    for key, value in values.items():
        place = f"{at}.{key}" if at else key
        if value is False and key.endswith("_strategy"):
            value = "no"  # YAML reads a bare `no` as false
        inner = _find_dataclass(hints[key])
        if inner is None or value is None:
            typed[key] = convert_value(value, hints[key], place)
        else:
            typed[key] = _build_entries(*inner, value, place)
        if choices[key] and typed[key] is not None and typed[key] not in choices[key]:
            raise RecipeError(f"{place}: {value!r} is not one of {', '.join(map(str, choices[key]))}")
    return typed


def _find_dataclass(hint: Any) -> tuple[type, bool] | None:
    """The dataclass that a key's value is read as, and whether the key holds a list of them."""
    for option in [hint, *typing.get_args(hint)]:
        items = typing.get_args(option) if typing.get_origin(option) is list else ()
        for cls, many in [(option, False), *((item, True) for item in items)]:
            if dataclasses.is_dataclass(cls) and cls.__module__.startswith("open_r1."):
                return cls, many
    return None


def _build_entries(cls: type, many: bool, value: Any, at: str) -> Any:
    if not many:
        return _build_entry(cls, value, at)
    if not isinstance(value, list):
        raise RecipeError(f"{at}: expected a list, got {value!r}")
    return [_build_entry(cls, item, f"{at}.{i}") for i, item in enumerate(value)]


def _build_entry(cls: type, item: Any, at: str) -> Any:
    """A dataclass from a mapping; a mere text is its first field."""
    first, *_ = fields = dataclasses.fields(cls)
    if isinstance(item, str):
        item = {first.name: item}
    if not isinstance(item, dict):
        raise RecipeError(f"{at}: expected a mapping, got {item!r}")
    known = {f.name for f in fields}
    if "parameters" in known:
        # The parameters of a reward, filter or engine stand beside its name in the recipe.
        own = known - {"parameters"}
        item = {k: v for k, v in item.items() if k in own} | {
            "parameters": {k: v for k, v in item.items() if k not in own}
        }
    for key in item:
        if key not in known:
            raise RecipeError(f"{at}: unknown key {key!r}{suggest_nearest(key, sorted(known))}")
    if first.name not in item and first.default is dataclasses.MISSING:
        raise RecipeError(f"{at}: {first.name!r} is missing")
    return build_config(cls, item, at)
