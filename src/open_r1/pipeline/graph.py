"""A pipeline's file: stages, each a recipe with its overrides, wired by name into a graph."""

from __future__ import annotations

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
SETTINGS = ("seeds", "jobs", "output_dir", "toy")  # of the whole pipeline, on the command line
# What takes a stage's result, and the tasks that yield it.
WIRES: dict[str, tuple[str, ...]] = {
    "model": tuple(task for task in TRAINERS if task != "reward"),
    "data": DATA_TASKS,
    "reward_model": ("reward",),
}
FLAGS = ("from", "only", "dry_run", "overwrite")  # of one start, on the command line
OWN_KEYS = ("output_dir", "overwrite", "rejudge", "toy", "part", "parts")  # which a pipeline sets itself
LABEL = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True)
class Stage:
    """One recipe of a pipeline.

    Args:
        name: of the stage; `measured.base` is the evaluation of `base` by a stage `measured`.
        recipe: its file.
        overrides: dotted key -> value.
        wires: what takes a result -> the stages it comes from, in the order of the recipe's sources; None leaves a
            source as the recipe has it.
        step: the paper's number of it.
        title: a few words.
        task: of the recipe; filled in by `read`, as are the names of its `benchmarks`.
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
        """Names of the stages it takes something from."""
        return {wire: [name for name in self.wires.get(wire, []) if name] for wire in WIRES}

    @property
    def upstream(self) -> list[str]:
        return [name for names in self.inputs.values() for name in names]


@dataclass(frozen=True)
class Pipeline:
    """A checked graph of stages.

    Args:
        path: its file.
        title: of its page.
        about: what a reader of its page should know first.
        seeds: every stage is run once for each; None stands for the recipes' own.
        jobs: stages that run side by side on one machine.
        stages: in the order of the file.
        table: claims that its results are set against.
        dir: where its state, logs and page lie.
        toy: every stage at toy size.
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
        """These stages and all that depend on them."""
        found = set(names)
        for stage in sort_stages(self.stages):
            if found & set(stage.upstream):
                found.add(stage.name)
        return found


def is_pipeline(path: str) -> bool:
    """True if a file is a list of stages."""
    return Path(path).is_file() and is_recipe(path) and "stages" in read_yaml(Path(path))


def read_pipeline(path: Path, changes: dict[str, Any] | None = None) -> Pipeline:
    """Read a pipeline and check all that can be checked without its recipes' libraries.

    Args:
        path: of the file.
        changes: overrides: `seeds`, `jobs`, `output_dir`, `toy`, and `<stage>.<key>`.

    Raises:
        RecipeError: naming the stage, the key and what to do.
    """
    written = read_yaml(path)
    for key in written:
        if key not in KEYS:
            raise RecipeError(f"{path}: unknown key {key!r}{suggest_nearest(key, list(KEYS))}")
    settings = {key: (changes or {}).get(key) for key in SETTINGS}
    stages = [stage for i, entry in enumerate(_entries(written, path)) for stage in _expanded(entry, i)]
    stages = _overridden(stages, {k: v for k, v in (changes or {}).items() if k not in SETTINGS})
    _check_names(stages)
    _check_overrides(stages)
    list(sort_stages(stages))
    toy = bool(settings["toy"])
    stages = _resolved(stages)
    seeds = settings["seeds"] if settings["seeds"] is not None else written.get("seeds")
    jobs = settings["jobs"] if settings["jobs"] is not None else written.get("jobs", 1)
    if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
        raise RecipeError(f"jobs: a number of stages that run side by side, 1 or more, got {jobs!r}")
    table = written.get("table") or []
    benchmarks = {stage.name: stage.benchmarks for stage in stages if stage.benchmarks}
    check_claims(table, {stage.name: stage.task for stage in stages}, benchmarks)
    directory = settings["output_dir"] or ROOT / (path.stem + ("--toy" if toy else ""))
    title = str(written.get("title") or path.stem)
    return Pipeline(
        path, title, str(written.get("about") or ""), _seeds(seeds), jobs, stages, table, Path(directory), toy
    )


def sort_stages(stages: list[Stage]) -> Iterator[Stage]:
    """The stages, each after those it takes something from; in the order of the file otherwise.

    Raises:
        RecipeError: some of them wait for one another.
    """
    left, done = {stage.name: stage for stage in stages}, set[str]()
    while left:
        free = next((stage for stage in left.values() if done.issuperset(stage.upstream)), None)
        if free is None:
            raise RecipeError(f"stages: these wait for one another: {' <- '.join(_cycle(left))}; cut one of the wires")
        yield left.pop(free.name)
        done.add(free.name)


def _cycle(left: dict[str, Stage]) -> list[str]:
    """Names along a circle of stages; there is one among those that wait."""
    seen = [next(iter(left))]
    while True:
        name = next(name for name in left[seen[-1]].upstream if name in left)
        if name in seen:
            return [*seen[seen.index(name) :], name]
        seen.append(name)


def _entries(written: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    stages = written.get("stages")
    if not isinstance(stages, list) or not stages:
        raise RecipeError(f"{path}: stages: a list of stages, each with a `name` and a `recipe`, got {stages!r}")
    return stages


def _expanded(entry: Any, place: int) -> list[Stage]:
    """The stage of an entry; or one for each model, where an evaluation names several."""
    at = f"stages.{place}"
    if not isinstance(entry, dict):
        raise RecipeError(f"{at}: expected a mapping with `name` and `recipe`, got {entry!r}")
    for key in ("name", "recipe"):
        if not isinstance(entry.get(key), str):
            raise RecipeError(f"{at}: `{key}` is missing, or no text")
    at = f"{at} ({entry['name']})"
    if not LABEL.fullmatch(entry["name"]):
        raise RecipeError(f"{at}: name: small letters, digits and _ only")
    for key in entry:
        if key not in STAGE_KEYS:
            hint = suggest_nearest(key, list(STAGE_KEYS))
            raise RecipeError(f"{at}: unknown key {key!r}{hint}; keys of the recipe belong under `overrides`")
    overrides = entry.get("overrides") or {}
    if not isinstance(overrides, dict):
        raise RecipeError(f"{at}: overrides: a mapping of the recipe's keys to values, got {overrides!r}")
    wires = {wire: _names(entry[wire], f"{at}: {wire}") for wire in WIRES if entry.get(wire) is not None}
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
        raise RecipeError(f"{at}: model: the name of a stage")
    if not isinstance(entry.get("model"), list):
        return [stage]
    return [replace(stage, name=f"{stage.name}.{model}", wires=wires | {"model": [model]}) for model in models]


def _names(value: Any, at: str) -> list[str | None]:
    names = value if isinstance(value, list) else [value]
    if not names or not all(name is None or isinstance(name, str) for name in names):
        raise RecipeError(f"{at}: the name of a stage, or a list of names, got {value!r}")
    return names


def _overridden(stages: list[Stage], changes: dict[str, Any]) -> list[Stage]:
    """The stages with overrides from the command line, `<stage>.<key>`."""
    for dotted, value in changes.items():
        # An evaluation's name has a dot itself.
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
            raise RecipeError(f"stages: two are named {name!r}; a name is what the others are wired by")
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
                    f"stages ({stage.name}): {key}: a pipeline chooses the directories of its stages; --overwrite and "
                    "--toy are of the whole pipeline, with --only or --from of some stages"
                )


def _resolved(stages: list[Stage]) -> list[Stage]:
    """The stages with their tasks and benchmarks; checks that each can take what it is wired to."""
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
                    yields = next((w for w, tasks in WIRES.items() if resolved[name].task in tasks), "nothing")
                    raise RecipeError(
                        f"{at}: {wire}: {name} is a stage of {resolved[name].task}, which yields {yields}"
                    )
        benchmarks = tuple(benchmark["name"] for benchmark in given.get("benchmarks") or [])
        resolved[stage.name] = replace(stage, task=task, benchmarks=benchmarks)
        _check_wires(stage, task, given, at)
    return [resolved[stage.name] for stage in stages]


def _check_wires(stage: Stage, task: str, given: dict[str, Any], at: str) -> None:
    """All that a stage starts from must be the graph's, or else its address would not tell what it is made of."""
    if stage.wires.get("model"):
        if task in ("select", "mix"):
            raise RecipeError(f"{at}: model: {task} has no use for a model; wire data instead")
        if given.get("random_init"):
            raise RecipeError(f"{at}: model: {stage.recipe} makes its own model (random_init); remove one of the two")
    elif given.get("base_recipe"):
        raise RecipeError(
            f"{at}: {stage.recipe} starts from {given['base_recipe']}; make that a stage, and wire it with `model:`"
        )
    sources = [source if isinstance(source, str) else source.get("path", "") for source in given.get("datasets") or []]
    wired = stage.wires.get("data", [])
    if len(wired) > len(sources):
        raise RecipeError(f"{at}: data: {len(wired)} stages for the {len(sources)} `datasets` of {stage.recipe}")
    for place, path in enumerate(sources):
        if is_recipe(path) and (wired[place : place + 1] or [None]) == [None]:
            raise RecipeError(f"{at}: datasets.{place} is made by {path}; make that a stage, and wire it with `data:`")
    judges, places = stage.wires.get("reward_model", []), find_reward_models(given)
    if judges and not places:
        raise RecipeError(f"{at}: reward_model: none of the rewards of {stage.recipe} is named reward_model")
    if len(judges) > len(places):
        raise RecipeError(f"{at}: reward_model: {len(judges)} stages for {len(places)} such rewards of {stage.recipe}")


def find_reward_models(given: dict[str, Any]) -> list[int]:
    """Places of the rewards that a reward model gives."""
    return [
        place
        for place, reward in enumerate(given.get("rewards") or [])
        if isinstance(reward, dict) and reward.get("name") == "reward_model"
    ]


def _seeds(value: Any) -> list[int | None]:
    if value is None:
        return [None]
    seeds = value if isinstance(value, list) else [value]
    if (
        value is True
        or not seeds
        or not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds)
    ):
        raise RecipeError(f"seeds: a list of whole numbers, got {value!r}")
    if len(set(seeds)) < len(seeds):
        raise RecipeError(f"seeds: {value!r} names one twice")
    return list(seeds)
