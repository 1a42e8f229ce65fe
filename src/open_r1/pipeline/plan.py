"""The plan of a pipeline: a run directory for each stage and seed, which of them are there, and why the others run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.loading import resolve_recipe
from ..config.schema import DATA_TASKS
from ..config.toy import is_set_by_toy
from ..errors import RecipeError, suggest_nearest
from ..launch.nodes import count_gpus
from ..system.files import is_finished, read_json, write_json
from . import fingerprint
from .graph import Pipeline, Stage, find_reward_models, sort_stages

ADDRESS = ".address.json"  # in a run directory: the fingerprint that names it
STATE = "state.json"  # in a pipeline's directory
DONE = ("cached", "finished")
PART = re.compile(r"(.*)-\d+-of-(\d+)")


@dataclass
class Job:
    """One run of a stage: for one seed, or for all seeds if the recipe sets its own.

    Args:
        stage: its recipe is run.
        seed: the pipeline's seed; None stands for the recipe's own.
        changes: all overrides of the recipe, with the wires and the directory.
        dir: the run directory, named by the fingerprint.
        address: the fingerprint (`fingerprint.fingerprint_stage`).
        gpus: GPUs that it needs.
        upstream: jobs whose results it reads.
        places: every (stage, seed) of the pipeline that this run serves.
        again: it is finished, and runs again.
        state: waiting, running, finished, cached, failed, interrupted, blocked or skipped.
        why: reason that it is not cached, or does not run.
        error: message of a failed job.
        began, ended: Unix times of its last start.
        seconds: of the run, with earlier starts.
        peak_memory: bytes, with a proportional share of shared pages.
    """

    stage: Stage
    seed: int | None
    changes: dict[str, Any]
    dir: Path
    address: dict[str, Any]
    gpus: int = 0
    upstream: list[Job] = field(default_factory=list)
    places: list[tuple[Stage, int | None]] = field(default_factory=list)
    again: bool = False
    state: str = "waiting"
    why: str | None = None
    error: str | None = None
    began: float | None = None
    ended: float | None = None
    seconds: float | None = None
    peak_memory: int | None = None

    @property
    def done(self) -> bool:
        return self.state in DONE

    @property
    def named(self) -> str:
        """The stage's name with its seed: `zero, seed 1`."""
        return self.stage.name + ("" if self.seed is None else f", seed {self.seed}")


def plan_jobs(pipeline: Pipeline, chosen: set[str] | None = None, overwrite: bool = False) -> list[Job]:
    """Plan the jobs of a pipeline, each after its upstream jobs.

    Args:
        pipeline: read and checked.
        chosen: names of the stages that may run; None for all.
        overwrite: run finished stages again, except those that an earlier, unfinished start with `--overwrite` has
            already run again.

    Raises:
        RecipeError: a recipe's keys cannot be resolved, or a chosen stage needs one that is neither there nor chosen.
    """
    jobs: dict[Path, Job] = {}
    state = read_state(pipeline.dir)
    records = {(record["name"], record["seed"]): record for record in state.get("stages", [])}
    overwriting = state.get("overwriting") if state.get("state") != "finished" else None
    for seed in pipeline.seeds:
        by_stage: dict[str, Job] = {}
        for stage in sort_stages(pipeline.stages):
            # Reports take a tenth of the miniature's time and look alike for all seeds, so the first seed's is drawn.
            job = _plan_job(stage, seed, by_stage, pipeline.toy, report=seed == pipeline.seeds[0])
            job = by_stage[stage.name] = jobs.setdefault(job.dir, job)
            job.places.append((stage, seed))
            if job.why is None and job.state == "waiting":
                missing, record = find_missing(job), records.get((stage.name, seed))
                if missing:
                    job.why = _explain_run(job, missing, record)
                elif overwrite and (chosen is None or stage.name in chosen) and not _is_remade(overwriting, record):
                    job.again, job.why = True, "asked for again"
                else:
                    job.state, job.seconds = "cached", read_json(job.dir / "status.json").get("seconds")
    if chosen is not None:
        _skip_others(jobs.values(), chosen)
    return list(jobs.values())


def _plan_job(stage: Stage, seed: int | None, by_stage: dict[str, Job], toy: bool, report: bool) -> Job:
    """Plan a stage for one seed, given the jobs of its upstream stages."""
    changes = dict(stage.overrides)
    try:
        wired = _wire_inputs(stage, by_stage, resolve_recipe(Path(stage.recipe), changes)[1])
        if toy:
            # Toy size overrides the pipeline's keys as it overrides the recipe's; only the command line stands.
            changes = {key: value for key, value in changes.items() if not is_set_by_toy(key)}
            # A selection from a random model's samples would be empty, so it reads the miniature's.
            wired = {} if stage.task == "select" else wired
        changes |= (
            wired | ({} if seed is None or "seed" in changes else {"seed": seed}) | ({"toy": True} if toy else {})
        )
        task, given = resolve_recipe(Path(stage.recipe), changes)
    except RecipeError as error:
        raise RecipeError(f"stages ({stage.name}): {error}") from error
    found = fingerprint.fingerprint_stage(task, given)
    path = Path(stage.recipe).resolve()
    directory = fingerprint.STAGES / f"{path.parents[1].name}-{path.parent.name}-{path.stem}-{found['digest']}"
    gpus = sum(count_gpus(given))
    upstream = list({id(by_stage[name]): by_stage[name] for name in stage.upstream}.values())
    changes |= {"output_dir": str(directory)} | ({} if report else {"report": False})
    return Job(stage, seed, changes, directory, found, gpus, upstream)


def _wire_inputs(stage: Stage, by_stage: dict[str, Job], given: dict[str, Any]) -> dict[str, Any]:
    """Overrides by which a stage's recipe reads the results of its upstream jobs."""
    changes: dict[str, Any] = {}
    for name in stage.inputs["model"]:
        changes |= {"model_name_or_path": str(by_stage[name].dir / "model")}
        changes |= {"base_recipe": None} if given.get("base_recipe") else {}
    for place, name in enumerate(stage.wires.get("data", [])):
        if name:
            entry = given["datasets"][place]
            key = f"datasets.{place}" if isinstance(entry, str) else f"datasets.{place}.path"
            changes[key] = str(by_stage[name].dir / "data")
    for place, name in zip(find_reward_models(given), stage.wires.get("reward_model", []), strict=False):
        if name:
            changes[f"rewards.{place}.model"] = str(by_stage[name].dir / "model")
    return changes


def find_missing(job: Job) -> str | None:
    """Reason that a job's directory does not hold its whole result; None if it does."""
    directory, task = job.dir, job.stage.task
    if not directory.is_dir():
        return "new"
    if not is_finished(directory):
        return "not finished yet"
    if task == "evaluate":
        whole = all((directory / "evaluations" / f"{name}.json").is_file() for name in job.stage.benchmarks)
        return None if whole else "its evaluations are gone"
    if task in DATA_TASKS:
        return None if _has_all_parts(directory / "data", "parquet") else "its data is gone"
    return None if _has_all_parts(directory / "model", "safetensors") else "its model is gone"


def _has_all_parts(folder: Path, suffix: str) -> bool:
    """True if a folder has files with this suffix, and all parts of those named `-00001-of-00004`."""
    names = [path.stem for path in folder.glob(f"*.{suffix}")]
    parts = [found for name in names if (found := PART.fullmatch(name))]
    return bool(names) and all(sum(p[1] == part[1] for p in parts) == int(part[2]) for part in parts)


def _is_remade(overwriting: float | None, record: dict[str, Any] | None) -> bool:
    """True if a start with `--overwrite` that began at `overwriting` has already run this stage again."""
    return bool(overwriting and record and record["state"] in DONE and (record["ended"] or 0) > overwriting)


def _explain_run(job: Job, missing: str, record: dict[str, Any] | None) -> str:
    """Reason that a job has to run, given the stage's record in the last state.json."""
    if record is None:
        return missing
    if record["dir"] == str(job.dir):
        return "its directory is gone" if missing == "new" and record["state"] in DONE else missing
    fingerprint_file = Path(record["dir"]) / ADDRESS
    if not fingerprint_file.is_file():
        return "new" if record["state"] not in DONE else "changed; the fingerprint of the earlier run is gone"
    names = {str(upstream.dir): upstream.stage.name for upstream in job.upstream}
    return "; ".join(describe_differences(read_json(fingerprint_file), job.address, names)) or "changed"


def describe_differences(
    before: dict[str, Any], now: dict[str, Any], stages: dict[str, str] | None = None
) -> list[str]:
    """The differences between two fingerprints: `max_steps: 2 -> 3`, `code changed: open_r1.filters.rules`.

    Args:
        before, now: of `fingerprint.fingerprint_stage`.
        stages: run directory of a stage -> its name.
    """
    lines, remade = [], []
    old, new = _flatten(before["recipe"]), _flatten(now["recipe"])
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if fingerprint.normalize_numbers(a) == fingerprint.normalize_numbers(b):
            continue
        if all(isinstance(value, str) and value.startswith(f"{fingerprint.STAGES}/") for value in (a, b)):
            remade.append((stages or {}).get(str(Path(b).parent), key))
        else:
            lines.append(f"{key}: {_format_value(a)} -> {_format_value(b)}")
    for what, words in (("code", "code changed"), ("files", "files changed"), ("libraries", "other versions")):
        names = [name for name in {**before[what], **now[what]} if before[what].get(name) != now[what].get(name)]
        lines += [f"{words}: {', '.join(sorted(names))}"] if names else []
    return lines or ([f"because of {', '.join(remade)}"] if remade else [])


def _flatten(value: Any, at: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping with dotted keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {at: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= _flatten(item, f"{at}.{key}" if at else f"{key}")
    return flat


def _format_value(value: Any) -> str:
    return "nothing" if value is None else f"{value}"


def _skip_others(jobs: Iterable[Job], chosen: set[str]) -> None:
    """Skip the jobs that were not chosen.

    Raises:
        RecipeError: a chosen job needs a skipped one.
    """
    for job in jobs:
        if not job.done and not chosen & {stage.name for stage, _ in job.places}:
            job.state, job.why = "skipped", "not chosen"
    for job in jobs:
        missing = [upstream.named for upstream in job.upstream if upstream.state == "skipped"]
        if job.state == "waiting" and missing:
            raise RecipeError(
                f"{job.named} needs {' and '.join(missing)}, which is not there; choose it as well, or run the whole "
                "pipeline"
            )


def choose_stages(pipeline: Pipeline, start: list[str] | None, only: list[str] | None) -> set[str] | None:
    """Names of the stages that `--from` and `--only` choose; None if neither is given.

    `measured` stands for all evaluations of that stage, `measured.base` for one.

    Args:
        pipeline: read and checked.
        start: stages that are chosen with all that depend on them.
        only: stages that are chosen alone.

    Raises:
        RecipeError: there is no such stage.
    """
    if start is None and only is None:
        return None
    names = [stage.name for stage in pipeline.stages]
    found: set[str] = set()
    for flag, given in (("from", start), ("only", only)):
        for word in given or []:
            matches = [name for name in names if word in (name, name.partition(".")[0])]
            if not matches:
                raise RecipeError(f"--{flag}: there is no stage named {word!r}{suggest_nearest(word, names)}")
            found |= pipeline.after(matches) if flag == "from" else set(matches)
    return found


def read_state(directory: Path) -> dict[str, Any]:
    """The state.json of a pipeline's last start; empty if there was none."""
    path = directory / STATE
    return read_json(path) if path.is_file() else {}


def save_fingerprint(job: Job) -> None:
    """Write a job's fingerprint into its directory; a run takes a directory with only hidden files as empty."""
    job.dir.mkdir(parents=True, exist_ok=True)
    write_json(job.dir / ADDRESS, job.address)
