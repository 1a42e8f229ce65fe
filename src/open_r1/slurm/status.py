"""`open-r1 status`: the state of a run, a pipeline or a job, from its directory and from Slurm."""

from __future__ import annotations

import re
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from ..errors import RecipeError
from ..evaluation.tables import align_rows
from ..pipeline import command
from ..pipeline.plan import STATE, read_state
from ..system import failures
from ..system.files import is_finished, read_json, read_status, write_json
from ..system.locks import is_locked
from ..system.network import JOBS, RUN
from ..system.run_files import format_seconds, read_rows
from . import commands
from .commands import Job
from .site import SUBMITTED, find_jobs_folder

SHOWN = {"reward": "reward", "loss": "loss", "rewards/accuracies": "accuracy", "completions/mean_length": "length"}


def describe_run(name: str) -> str:
    """Describe a run, a pipeline or a job in lines. The states of a pipeline's stages are also saved to its directory.

    Args:
        name: a directory, or the id of a job.

    Raises:
        RecipeError: the directory holds neither a run nor a pipeline, or Slurm knows no such job.
    """
    directory = Path(name)
    if not directory.exists() and re.fullmatch(r"\d+(_\d+)?", name):
        run_dir = _find_run_dir(name)
        if run_dir is None:
            return _describe_job(name)
        directory = run_dir
    if (directory / STATE).is_file():
        return _describe_pipeline(directory)
    if (directory / "status.json").is_file() or (directory / JOBS).is_file():
        return _describe_directory(directory)
    raise RecipeError(f"{directory} is neither a run nor a pipeline (it has no status.json and no {STATE})")


def _find_run_dir(id: str) -> Path | None:
    """The run directory that the last start of a job works on; None before any start has one."""
    found = [start / RUN for start in _list_starts(id) if (start / RUN).is_file()]
    return Path(found[-1].read_text(encoding="utf-8").strip()) if found else None


def _describe_job(id: str) -> str:
    """Describe a job that has not begun its run.

    Raises:
        RecipeError: Slurm knows no such job.
    """
    array_id = id.partition("_")[0]
    jobs = [job for job in commands.list_jobs([array_id]).get(array_id, []) if id in (array_id, job.id)]
    if not jobs:
        raise RecipeError(f"job {id}: Slurm does not list this job, and {find_jobs_folder()} has no files of it")
    return _format_rows(_list_job_rows(jobs))


def _list_starts(id: str) -> list[Path]:
    """The folders of a job's starts, or of all tasks of an array, in order."""
    folder = find_jobs_folder()
    starts = [*folder.glob(f"{id}/start-*"), *folder.glob(f"{id}_*/start-*")]
    return sorted(starts, key=lambda path: int(path.name.removeprefix("start-")))


def _describe_directory(directory: Path) -> str:
    jobs, job_rows = _read_jobs(directory)
    state = [_find_state(directory, jobs), _format_progress(directory)]
    rows = [("run", str(directory)), ("state", ", ".join(filter(None, state)))]
    last = next((row for row in reversed(list(read_rows(directory / "metrics.jsonl"))) if "loss" in row), {})
    if shown := [f"{name} {last[key]:.4g}" for key, name in SHOWN.items() if isinstance(last.get(key), int | float)]:
        rows.append(("last", ", ".join(shown)))
    return _format_rows([*rows, *job_rows])


def _read_jobs(directory: Path) -> tuple[list[Job], list[tuple[str, str]]]:
    """The jobs that were submitted for a directory, and the rows that describe them."""
    path = directory / JOBS
    entries = read_json(path)["jobs"] if path.is_file() else []
    known = commands.list_jobs([entry["id"] for entry in entries])
    rows = []
    for entry in entries:
        rows += _list_job_rows(known.get(entry["id"], [])) or [("job", f"{entry['id']}, which Slurm does not know")]
        rows.append(("log", entry["log"]))
    return [job for jobs in known.values() for job in jobs], rows


def _list_job_rows(jobs: list[Job]) -> list[tuple[str, str]]:
    """What Slurm knows about each job, and its first failure."""
    rows = []
    for job in jobs:
        rows.append(("job", _format_job(job)))
        if failure := _find_failure(job):
            rows.append(("error", failure))
    return rows


def _format_rows(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"{name:<8}{value}" for name, value in rows)


def _find_state(directory: Path, jobs: list[Job]) -> str:
    """The state in status.json, unless no process holds the directory and the state is out of date."""
    written = read_status(directory).get("state")
    if is_locked(directory) or written not in (None, "running", "interrupted"):
        return written or "starting"
    running = next((job for job in jobs if job.state == "RUNNING"), None)
    if running is None:
        return "interrupted" if written else "not begun"
    current = _find_run_dir(running.id)
    if current is None or current == directory.resolve():
        return "starting"
    return f"waits for {current}, which its job trains first"


def _describe_pipeline(directory: Path) -> str:
    """A line for each stage. Once all stages have ended, the report is written."""
    state = read_state(directory)
    path = directory / SUBMITTED
    entries = {entry["dir"]: entry["id"] for entry in read_json(path)["jobs"]} if path.is_file() else {}
    known = commands.list_jobs(list(entries.values()))
    # A process that runs the pipeline on this machine holds its directory, and writes the states itself.
    settles = bool(entries) and not is_locked(directory)
    rows: list[tuple[str, ...]] = [("stage", "seed", "state", "progress", "job", "nodes", "time", "why")]
    states: dict[tuple[str, int | None], str] = {}
    for stage in _sort_stages(state["stages"]):
        jobs = known.get(entries.get(stage["dir"], ""), [])
        if settles:
            _settle_stage(stage, jobs, states)
        states[stage["name"], stage["seed"]] = stage["state"]
        job = next((job for job in jobs if job.active), jobs[0] if jobs else Job("", ""))
        seed = "" if stage["seed"] is None else str(stage["seed"])
        seconds = format_seconds(stage["seconds"]) if stage["seconds"] else _format_elapsed(job.elapsed)
        why = stage["error"] or stage["why"] or ""
        progress = _format_progress(Path(stage["dir"]))
        rows.append((stage["name"], seed, stage["state"], progress, job.id, job.nodes, seconds, why))
    ended = set(states.values())
    over = not ended & {"waiting", "running"}
    whole = "interrupted" if "interrupted" in ended else "finished"
    state["state"] = "running" if not over else "failed" if ended & {"failed", "blocked"} else whole
    if settles:
        write_json(directory / STATE, state)
    lines = align_rows(rows, left=tuple(range(len(rows[0]))))
    if job_rows := _read_jobs(directory)[1]:
        lines += ["", _format_rows(job_rows)]
    active = [id for id in entries.values() if any(job.active for job in known.get(id, []))]
    if over and settles:
        lines += ["", str(command.write_report(directory))]
    elif active:
        lines += ["", f"cancel  scancel {' '.join(active)}    (the same command then goes on)"]
    return "\n".join(lines)


def _list_inputs(stage: dict[str, Any]) -> list[tuple[str, int | None]]:
    """The stages, by name and seed, from which a stage takes something."""
    return [(name, stage["seed"]) for names in stage["inputs"].values() for name in names]


def _sort_stages(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Stages after those from which they take something."""
    found = {(stage["name"], stage["seed"]): stage for stage in stages}
    order = TopologicalSorter({key: _list_inputs(stage) for key, stage in found.items()})
    return [found[key] for key in order.static_order()]


def _settle_stage(stage: dict[str, Any], jobs: list[Job], states: dict[tuple[str, int | None], str]) -> None:
    """Set the state of a stage by its run directory, its jobs, and the states of the stages before it."""
    directory = Path(stage["dir"])
    stage["seconds"] = read_status(directory).get("seconds", stage["seconds"])
    stage["error"] = stage["why"] = None
    running = any(job.state in ("RUNNING", "COMPLETING") for job in jobs)
    failed = [job for job in jobs if not job.active and job.state != "COMPLETED"]
    active = [job for job in jobs if job.active]
    before = {key[0]: states[key] for key in _list_inputs(stage)}
    needs = [name for name, state in before.items() if state in ("failed", "blocked")]
    if is_finished(directory):
        stage["state"] = "finished" if stage["state"] != "cached" else "cached"
    elif running:
        stage["state"] = "running"
    elif needs:
        stage["state"], stage["why"] = "blocked", f"needs {' and '.join(needs)}"
    elif failed:
        stage["state"] = "interrupted" if failed[0].state == "CANCELLED" else "failed"
        stage["error"] = _find_failure(failed[0]) if stage["state"] == "failed" else None
        stage["why"] = None if stage["error"] else _format_end(failed[0])
    elif active:
        after = [name for name, state in before.items() if state in ("waiting", "running")]
        # Until Slurm has looked at a new job, its reason is "None".
        named = bool(after) and active[0].reason in ("Dependency", "None")
        stage["state"], stage["why"] = "waiting", f"for {' and '.join(after)}" if named else active[0].reason
    elif jobs:
        stage["state"], stage["why"] = "interrupted", "its job has ended without a result"
    elif stage["state"] in ("waiting", "running"):
        stage["state"], stage["why"] = "interrupted", "no job is queued for it"


def _find_failure(job: Job) -> str | None:
    """The first failure in the last start of a job that has failed."""
    starts = _list_starts(job.id)
    if job.active or job.state == "COMPLETED" or not starts:
        return None
    failure = failures.find_first(starts[-1])
    return None if failure is None else failure.line


def _format_job(job: Job) -> str:
    if job.state == "PENDING":
        return f"{job.id} PENDING ({job.reason})"
    if job.active:
        return (
            f"{job.id} {job.state} on {job.nodes} for {_format_elapsed(job.elapsed)}, {_format_elapsed(job.left)} left"
        )
    return f"{job.id} {_format_end(job)}"


def _format_end(job: Job) -> str:
    if job.state == "CANCELLED":
        return job.state if job.nodes else f"{job.state} before it began"
    return f"{job.state} {job.exit_code}".strip()


def _format_elapsed(time: str) -> str:
    """`1 h 30 min` for Slurm's `1:30:00`; a text without a number stays as it is."""
    seconds = commands.parse_time_limit(time)
    return time if seconds is None else format_seconds(seconds)


def _format_progress(directory: Path) -> str:
    """`step 120 of 700`, `3 of 8 files`; the total is known once there is a checkpoint."""
    step = max(
        [read_status(directory).get("step") or 0, *(row["step"] for row in read_rows(directory / "metrics.jsonl"))]
    )
    checkpoints = sorted(directory.glob("checkpoint-*/manifest.json"))
    total = read_json(checkpoints[-1].with_name("trainer_state.json")).get("max_steps") if checkpoints else None
    progress = [f"step {step}" + (f" of {total}" if total else "")] if step else []
    files = list((directory / "data").glob("train-*-of-*.parquet"))
    if files:
        progress.append(f"{len(files)} of {int(files[0].stem.rpartition('-')[2])} files")
    return ", ".join(progress)
