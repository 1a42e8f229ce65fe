"""What a pipeline would do: a run directory for each stage and seed, what is there, and why the rest is not."""

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
from ..system.files import is_finished, read_json, write_json
from . import fingerprint
from .graph import Pipeline, Stage, find_reward_models, sort_stages

ADDRESS = ".address.json"  # of a stage's directory: what its address is made of
STATE = "state.json"  # of a pipeline's directory
DONE = ("cached", "finished")
PART = re.compile(r"(.*)-\d+-of-(\d+)")


@dataclass
class Job:
    """A run directory to be filled: one stage for one seed, or for all seeds if it has a seed of its own.

    Args:
        stage: whose recipe is run.
        seed: of the pipeline; None stands for the recipe's own.
        changes: all overrides of the recipe, wires and directory included.
        dir: named by the address.
        address: what the result depends on (`address.of`).
        gpus: that it wants.
        upstream: the jobs it takes something from.
        places: (stage, seed) of everything in the pipeline that this one run stands for.
        again: it is there, and to be run again all the same.
        state: waiting, running, finished, cached, failed, interrupted, blocked or skipped.
        why: it is not cached, or does not run.
        error: what a failed one said.
        began, ended, seconds: of its last start (Unix time), and of the run, earlier starts included.
        peak_memory: bytes of its processes, proportionally shared.
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
        """`zero, seed 1`"""
        return self.stage.name + ("" if self.seed is None else f", seed {self.seed}")


def plan_jobs(pipeline: Pipeline, chosen: set[str] | None = None, overwrite: bool = False) -> list[Job]:
    """The jobs of a pipeline, each after those it takes something from.

    Args:
        pipeline: read and checked.
        chosen: names of the only stages that may run; None for all.
        overwrite: those are run again though they are there, but for what an earlier start that did not come to its
            end has run again already.

    Raises:
        RecipeError: a recipe's keys cannot be resolved, or a chosen stage needs one that is neither there nor chosen.
    """
    jobs: dict[Path, Job] = {}
    known = read_state(pipeline.dir)
    before = {(told["name"], told["seed"]): told for told in known.get("stages", [])}
    begun = known.get("overwriting") if known.get("state") != "finished" else None
    for seed in pipeline.seeds:
        of_stage: dict[str, Job] = {}
        for stage in sort_stages(pipeline.stages):
            # To draw them takes a tenth of the miniature's time, and one seed's is like another's.
            job = _job(stage, seed, of_stage, pipeline.toy, report=seed == pipeline.seeds[0])
            job = of_stage[stage.name] = jobs.setdefault(job.dir, job)
            job.places.append((stage, seed))
            if job.why is None and job.state == "waiting":
                lacking, told = find_missing(job), before.get((stage.name, seed))
                if lacking:
                    job.why = _reason(job, lacking, told)
                elif overwrite and (chosen is None or stage.name in chosen) and not _made_since(begun, told):
                    job.again, job.why = True, "asked for again"
                else:
                    job.state, job.seconds = "cached", read_json(job.dir / "status.json").get("seconds")
    if chosen is not None:
        _skip_others(jobs.values(), chosen)
    return list(jobs.values())


def _job(stage: Stage, seed: int | None, of_stage: dict[str, Job], toy: bool, report: bool) -> Job:
    """The job of a stage with one seed, its upstream known, with a report of its own or without."""
    changes = dict(stage.overrides)
    try:
        wired = _wired(stage, of_stage, resolve_recipe(Path(stage.recipe), changes)[1])
        if toy:
            # On a command line they would stand; of a pipeline they are as much its recipe as the recipe's own.
            changes = {key: value for key, value in changes.items() if not is_set_by_toy(key)}
            # Of a random model's samples nothing would be selected: the miniature's stand in, as for the recipe alone.
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
    gpus = count_gpus(given)
    upstream = list({id(of_stage[name]): of_stage[name] for name in stage.upstream}.values())
    changes |= {"output_dir": str(directory)} | ({} if report else {"report": False})
    return Job(stage, seed, changes, directory, found, gpus, upstream)


def count_gpus(given: dict[str, Any]) -> int:
    """That a recipe takes, a vLLM server of its own included."""
    return int(given.get("gpus") or 0) + int(given.get("vllm_server_gpus") or 0)


def _wired(stage: Stage, of_stage: dict[str, Job], given: dict[str, Any]) -> dict[str, Any]:
    """What the wires of a stage override in its recipe."""
    changes: dict[str, Any] = {}
    for name in stage.inputs["model"]:
        changes |= {"model_name_or_path": str(of_stage[name].dir / "model")}
        changes |= {"base_recipe": None} if given.get("base_recipe") else {}
    for place, name in enumerate(stage.wires.get("data", [])):
        if name:
            entry = given["datasets"][place]
            key = f"datasets.{place}" if isinstance(entry, str) else f"datasets.{place}.path"
            changes[key] = str(of_stage[name].dir / "data")
    for place, name in zip(find_reward_models(given), stage.wires.get("reward_model", []), strict=False):
        if name:
            changes[f"rewards.{place}.model"] = str(of_stage[name].dir / "model")
    return changes


def find_missing(job: Job) -> str | None:
    """Why a job's directory does not hold its whole result; None if it does."""
    directory, task = job.dir, job.stage.task
    if not directory.is_dir():
        return "new"
    if not is_finished(directory):
        return "not finished yet"
    if task == "evaluate":
        whole = all((directory / "evaluations" / f"{name}.json").is_file() for name in job.stage.benchmarks)
        return None if whole else "its evaluations are gone"
    if task in DATA_TASKS:
        return None if _all_parts(directory / "data", "parquet") else "its data is gone"
    return None if _all_parts(directory / "model", "safetensors") else "its model is gone"


def _all_parts(folder: Path, suffix: str) -> bool:
    """True if a folder has such files, and if they are named as parts (`-00001-of-00004`), all of them."""
    names = [path.stem for path in folder.glob(f"*.{suffix}")]
    parts = [found for name in names if (found := PART.fullmatch(name))]
    return bool(names) and all(sum(p[1] == part[1] for p in parts) == int(part[2]) for part in parts)


def _made_since(began: float | None, told: dict[str, Any] | None) -> bool:
    """True if an unfinished start that was to run stages again has done so with this one, by what it left."""
    return began is not None and told is not None and told["state"] in DONE and (told["ended"] or 0) > began


def _reason(job: Job, lacking: str, told: dict[str, Any] | None) -> str:
    """Why a job has to run, by what its stage was when the pipeline was last started."""
    if told is None:
        return lacking
    if told["dir"] == str(job.dir):
        return "its directory is gone" if lacking == "new" and told["state"] in DONE else lacking
    known = Path(told["dir"]) / ADDRESS
    if not known.is_file():
        return "new" if told["state"] not in DONE else "changed; what it was made of is not known any more"
    names = {str(one.dir): one.stage.name for one in job.upstream}
    return "; ".join(describe_differences(read_json(known), job.address, names)) or "changed"


def describe_differences(
    before: dict[str, Any], now: dict[str, Any], stages: dict[str, str] | None = None
) -> list[str]:
    """What differs between two addresses, in words.

    Args:
        before, now: of `address.of`.
        stages: directories of stages -> their names.
    """
    told = []
    old, new = _flat(before["recipe"]), _flat(now["recipe"])
    made_anew = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if fingerprint.normalize_numbers(a) == fingerprint.normalize_numbers(b):
            continue
        if all(isinstance(value, str) and value.startswith(f"{fingerprint.STAGES}/") for value in (a, b)):
            made_anew.append((stages or {}).get(str(Path(b).parent), key))
        else:
            told.append(f"{key}: {_shown(a)} -> {_shown(b)}")
    for what, words in (("code", "code changed"), ("files", "files changed"), ("libraries", "other versions")):
        names = [name for name in {**before[what], **now[what]} if before[what].get(name) != now[what].get(name)]
        told += [f"{words}: {', '.join(sorted(names))}"] if names else []
    return told or ([f"because of {', '.join(made_anew)}"] if made_anew else [])


def _flat(value: Any, at: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {at: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= _flat(item, f"{at}.{key}" if at else f"{key}")
    return flat


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{value}"


def _skip_others(jobs: Iterable[Job], chosen: set[str]) -> None:
    """Leave out what was not chosen; refuse what then lacks its inputs."""
    for job in jobs:
        if not job.done and not chosen & {stage.name for stage, _ in job.places}:
            job.state, job.why = "skipped", "not chosen"
    for job in jobs:
        lacking = [other.named for other in job.upstream if other.state == "skipped"]
        if job.state == "waiting" and lacking:
            raise RecipeError(
                f"{job.named} needs {' and '.join(lacking)}, which is not there; choose it as well, or run the whole "
                "pipeline"
            )


def choose_stages(pipeline: Pipeline, start: list[str] | None, only: list[str] | None) -> set[str] | None:
    """Names of the stages that `--from` and `--only` choose; None if neither is given.

    Args:
        pipeline: whose stages.
        start: these and all that depend on them.
        only: these alone. `measured` stands for all that `measured` is a head of.

    Raises:
        RecipeError: there is no such stage.
    """
    if start is None and only is None:
        return None
    names = [stage.name for stage in pipeline.stages]
    found: set[str] = set()
    for flag, given in (("from", start), ("only", only)):
        for word in given or []:
            meant = [name for name in names if word in (name, name.partition(".")[0])]
            if not meant:
                raise RecipeError(f"--{flag}: there is no stage named {word!r}{suggest_nearest(word, names)}")
            found |= pipeline.after(meant) if flag == "from" else set(meant)
    return found


def read_state(directory: Path) -> dict[str, Any]:
    """What a pipeline's directory says of its last start; nothing if there was none."""
    path = directory / STATE
    return read_json(path) if path.is_file() else {}


def save_fingerprint(job: Job) -> None:
    """Say in a job's directory what its address is made of; the name's dot leaves the directory empty for its run."""
    job.dir.mkdir(parents=True, exist_ok=True)
    write_json(job.dir / ADDRESS, job.address)
