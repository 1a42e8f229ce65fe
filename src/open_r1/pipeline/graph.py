"""A pipeline's file: stages, each a recipe with overrides, wired by name into a graph."""

from __future__ import annotations

import graphlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..config.loading import resolve_recipe
from ..config.recipe import is_recipe, read_yaml
from ..config.schema import DATA_TASKS, TRAINERS
from ..errors import RecipeError, suggest_nearest
from .claim_checks import check_claims

ROOT = Path("runs/pipelines")
KEYS = ("title", "about", "seeds", "jobs", "stages", "table")
STAGE_KEYS = ("name", "recipe", "model", "data", "reward_model", "overrides", "step", "title")
SETTINGS = ("seeds", "jobs", "output_dir", "toy")  # command-line keys of the whole pipeline
# Kind of wire -> tasks whose result it carries.
WIRES: dict[str, tuple[str, ...]] = {
    "model": tuple(task for task in TRAINERS if task != "reward"),
    "data": DATA_TASKS,
    "reward_model": ("reward",),
}
FLAGS = ("from", "only", "dry_run", "overwrite")  # command-line keys of one start
OWN_KEYS = ("output_dir", "overwrite", "rejudge", "toy", "part", "parts")  # recipe keys that the pipeline sets
LABEL = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True)
class Stage:
    """One recipe of a pipeline.

    Args:
        name: of the stage; `measured.base` is the evaluation of `base` by the entry `measured`.
        recipe: path of the recipe's file.
        overrides: dotted key -> value.
        wires: kind of wire -> upstream stages, in the order of the recipe's sources; None keeps the recipe's source.
        step: number of the step in the paper.
        title: a few words.
        task: of the recipe; filled in by `read_pipeline`.
        benchmarks: names of an evaluation's benchmarks; filled in by `read_pipeline`.
    """

    name: str
    recipe: str
    overrides: dict[str, Any] = field(default_factory=dict)
    wires: dict[str, list[str | None]] = field(default_factory=dict)
    step: str | None = None
    title: str | None = None
    task: str = ""
    benchmarks: tuple[str, ...] = ()

    @property
    def inputs(self) -> dict[str, list[str]]:
        """Kind of wire -> names of upstream stages."""
        return {wire: [name for name in self.wires.get(wire, []) if name] for wire in WIRES}

    @property
    def upstream(self) -> list[str]:
        return [name for names in self.inputs.values() for name in names]


@dataclass(frozen=True)
class Pipeline:
    """A checked graph of stages.

    Args:
        path: of its file.
        title: title of its page.
        about: introduction of its page.
        seeds: every stage runs once for each; None stands for the recipe's own seed.
        jobs: number of stages that run side by side on one machine.
        stages: in the order of the file.
        table: claims that the results are compared with.
        dir: directory of its state, logs and page.
        toy: run every stage at toy size.
    """

    path: Path
    title: str
    about: str
    seeds: list[int | None]
    jobs: int
    stages: list[Stage]
    table: list[dict[str, Any]]
    dir: Path
    toy: bool = False

    def after(self, names: list[str]) -> set[str]:
        """Names of these stages and of all that depend on them."""
        found = set(names)
        for stage in sort_stages(self.stages):
            if found & set(stage.upstream):
                found.add(stage.name)
        return found


def is_pipeline(path: str) -> bool:
    """True if a file is a list of stages."""
    return Path(path).is_file() and is_recipe(path) and "stages" in read_yaml(Path(path))


def read_pipeline(path: Path, changes: dict[str, Any] | None = None) -> Pipeline:
    """Read a pipeline and check everything that needs no training library.

    Args:
        path: of the pipeline's file.
        changes: overrides: `seeds`, `jobs`, `output_dir`, `toy`, and `<stage>.<key>`.

    Raises:
        RecipeError: naming the stage, the key and what to do.
    """
    written = read_yaml(path)
    for key in written:
        if key not in KEYS:
            raise RecipeError(f"{path}: unknown key {key!r}{suggest_nearest(key, list(KEYS))}")
    settings = {key: (changes or {}).get(key) for key in SETTINGS}
    stages = [stage for i, entry in enumerate(_read_entries(written, path)) for stage in _expand_entry(entry, i)]
    stages = _apply_overrides(stages, {k: v for k, v in (changes or {}).items() if k not in SETTINGS})
    _check_names(stages)
    _check_overrides(stages)
    list(sort_stages(stages))
    toy = bool(settings["toy"])
    stages = _resolve_stages(stages)
    seeds = settings["seeds"] if settings["seeds"] is not None else written.get("seeds")
    jobs = settings["jobs"] if settings["jobs"] is not None else written.get("jobs", 1)
    if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
        raise RecipeError(f"jobs: expected the number of stages that run side by side, 1 or more, got {jobs!r}")
    table = written.get("table") or []
    benchmarks = {stage.name: stage.benchmarks for stage in stages if stage.benchmarks}
    check_claims(table, {stage.name: stage.task for stage in stages}, benchmarks)
    directory = settings["output_dir"] or ROOT / (path.stem + ("--toy" if toy else ""))
    title = str(written.get("title") or path.stem)
    return Pipeline(
        path, title, str(written.get("about") or ""), _read_seeds(seeds), jobs, stages, table, Path(directory), toy
    )


def sort_stages(stages: list[Stage]) -> Iterator[Stage]:
    """The stages, each after its upstream stages, else in the order of the file.

    Raises:
        RecipeError: the stages have a cycle.
    """
    try:
        graphlib.TopologicalSorter({stage.name: stage.upstream for stage in stages}).prepare()
    except graphlib.CycleError as error:
        cycle = " -> ".join(error.args[1])
        raise RecipeError(f"stages: these wait for one another: {cycle}; remove one of the wires") from error
    left, done = {stage.name: stage for stage in stages}, set[str]()
    while left:
        # `static_order` would not keep the order of the file.
        stage = next(stage for stage in left.values() if done.issuperset(stage.upstream))
        yield left.pop(stage.name)
        done.add(stage.name)


def _read_entries(written: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    stages = written.get("stages")
    if not isinstance(stages, list) or not stages:
        raise RecipeError(f"{path}: stages: expected a list, each entry with a `name` and a `recipe`, got {stages!r}")
    return stages


def _expand_entry(entry: Any, place: int) -> list[Stage]:
    """The stages of an entry: one, or one for each model that an evaluation names."""
    at = f"stages.{place}"
    if not isinstance(entry, dict):
        raise RecipeError(f"{at}: expected a mapping with `name` and `recipe`, got {entry!r}")
    for key in ("name", "recipe"):
        if not isinstance(entry.get(key), str):
            raise RecipeError(f"{at}: `{key}` is missing or is not a string")
    at = f"{at} ({entry['name']})"
    if not LABEL.fullmatch(entry["name"]):
        raise RecipeError(f"{at}: name: use small letters, digits and _ only")
    for key in entry:
        if key not in STAGE_KEYS:
            hint = suggest_nearest(key, list(STAGE_KEYS))
            raise RecipeError(f"{at}: unknown key {key!r}{hint}; the recipe's keys belong under `overrides`")
    overrides = entry.get("overrides") or {}
    if not isinstance(overrides, dict):
        raise RecipeError(f"{at}: overrides: expected a mapping of the recipe's keys to values, got {overrides!r}")
    wires = {wire: _read_names(entry[wire], f"{at}: {wire}") for wire in WIRES if entry.get(wire) is not None}
    stage = Stage(
        name=entry["name"],
        recipe=entry["recipe"],
        overrides=overrides,
        wires=wires,
        step=None if entry.get("step") is None else str(entry["step"]),
        title=entry.get("title"),
    )
    models = wires.get("model", [])
    if None in models:
        raise RecipeError(f"{at}: model: expected the name of a stage, got null")
    if not isinstance(entry.get("model"), list):
        return [stage]
    return [replace(stage, name=f"{stage.name}.{model}", wires=wires | {"model": [model]}) for model in models]


def _read_names(value: Any, at: str) -> list[str | None]:
    names = value if isinstance(value, list) else [value]
    if not names or not all(name is None or isinstance(name, str) for name in names):
        raise RecipeError(f"{at}: expected the name of a stage or a list of names, got {value!r}")
    return names


def _apply_overrides(stages: list[Stage], changes: dict[str, Any]) -> list[Stage]:
    """Apply overrides from the command line, `<stage>.<key>`."""
    for dotted, value in changes.items():
        # The name of an evaluation contains a dot.
        found = [stage for stage in stages if dotted.startswith(f"{stage.name}.")]
        found = found or [stage for stage in stages if dotted.startswith(f"{stage.name.partition('.')[0]}.")]
        if not found:
            known = [*SETTINGS, *FLAGS, *(stage.name for stage in stages)]
            hint = suggest_nearest(dotted.partition(".")[0], known)
            raise RecipeError(
                f"--{dotted}: a pipeline's overrides name a stage, as in --{stages[0].name}.seed 7{hint}"
            )
        for stage in found:
            head = stage.name if dotted.startswith(f"{stage.name}.") else stage.name.partition(".")[0]
            key = dotted.removeprefix(f"{head}.")
            changed = replace(stage, overrides=stage.overrides | {key: value})
            stages = [changed if other is stage else other for other in stages]
    return stages


def _check_names(stages: list[Stage]) -> None:
    names = [stage.name for stage in stages]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"stages: two stages are named {name!r}; rename one, and the wires that mean it")
    for stage in stages:
        for wire, given in stage.inputs.items():
            for name in given:
                if name not in names:
                    raise RecipeError(
                        f"stages ({stage.name}): {wire}: no stage is named {name!r}{suggest_nearest(name, names)}"
                    )


def _check_overrides(stages: list[Stage]) -> None:
    for stage in stages:
        for key in stage.overrides:
            if key in OWN_KEYS:
                raise RecipeError(
                    f"stages ({stage.name}): {key}: the pipeline sets this key; give --overwrite or --toy for the "
                    "whole pipeline, or with --only or --from for some stages"
                )


def _resolve_stages(stages: list[Stage]) -> list[Stage]:
    """Fill in tasks and benchmarks, and check that each wire carries what its stage can read."""
    resolved = {}
    for stage in sort_stages(stages):
        at = f"stages ({stage.name})"
        try:
            task, given = resolve_recipe(Path(stage.recipe), stage.overrides)
        except RecipeError as error:
            raise RecipeError(f"{at}: {error}") from error
        for wire, names in stage.inputs.items():
            for name in names:
                if resolved[name].task not in WIRES[wire]:
                    made = next((w for w, tasks in WIRES.items() if resolved[name].task in tasks), "nothing")
                    raise RecipeError(f"{at}: {wire}: {name} is a {resolved[name].task} stage, which makes {made}")
        benchmarks = tuple(benchmark["name"] for benchmark in given.get("benchmarks") or [])
        resolved[stage.name] = replace(stage, task=task, benchmarks=benchmarks)
        _check_wires(stage, task, given, at)
    return [resolved[stage.name] for stage in stages]


def _check_wires(stage: Stage, task: str, given: dict[str, Any], at: str) -> None:
    """Check that everything a stage starts from is wired: its fingerprint covers only what the graph names."""
    if stage.wires.get("model"):
        if task in ("select", "mix"):
            raise RecipeError(f"{at}: model: {task} does not use a model; wire `data` instead")
        if given.get("random_init"):
            raise RecipeError(f"{at}: model: {stage.recipe} makes its own model (random_init); remove one of the two")
    elif given.get("base_recipe"):
        raise RecipeError(
            f"{at}: {stage.recipe} starts from {given['base_recipe']}; make that a stage and wire it with `model:`"
        )
    sources = [source if isinstance(source, str) else source.get("path", "") for source in given.get("datasets") or []]
    wired = stage.wires.get("data", [])
    if len(wired) > len(sources):
        raise RecipeError(f"{at}: data: {len(wired)} stages for the {len(sources)} `datasets` of {stage.recipe}")
    for place, path in enumerate(sources):
        if is_recipe(path) and (wired[place : place + 1] or [None]) == [None]:
            raise RecipeError(f"{at}: datasets.{place} is made by {path}; make that a stage and wire it with `data:`")
    judges, places = stage.wires.get("reward_model", []), find_reward_models(given)
    if judges and not places:
        raise RecipeError(f"{at}: reward_model: {stage.recipe} has no reward named reward_model")
    if len(judges) > len(places):
        raise RecipeError(f"{at}: reward_model: {len(judges)} stages for {len(places)} such rewards of {stage.recipe}")


def find_reward_models(given: dict[str, Any]) -> list[int]:
    """Indices of the recipe's rewards that are reward models."""
    return [
        place
        for place, reward in enumerate(given.get("rewards") or [])
        if isinstance(reward, dict) and reward.get("name") == "reward_model"
    ]


def _read_seeds(value: Any) -> list[int | None]:
    if value is None:
        return [None]
    seeds = value if isinstance(value, list) else [value]
    if (
        value is True
        or not seeds
        or not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds)
    ):
        raise RecipeError(f"seeds: expected a list of whole numbers, got {value!r}")
    if len(set(seeds)) < len(seeds):
        raise RecipeError(f"seeds: {value!r} names one twice")
    return list(seeds)
