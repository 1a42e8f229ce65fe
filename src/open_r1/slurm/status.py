"""`open-r1 status`: how a run or a pipeline stands, by its directory and by Slurm."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from ..errors import RecipeError
from ..evaluation.tables import align_rows
from ..pipeline import command
from ..pipeline.plan import STATE, read_state
from ..system import failures
from ..system.files import is_finished, read_json, read_jsonl, read_status, write_json
from ..system.locks import is_locked
from ..system.network import JOBS, RUN
from ..system.run_files import format_seconds
from . import commands
from .commands import Job
from .site import SUBMITTED, find_jobs_folder, load_site

SHOWN = (
    ("reward", "reward"),
    ("loss", "loss"),
    ("rewards/accuracies", "accuracy"),
    ("completions/mean_length", "length"),
)


def describe_run(named: str) -> str:
    """What to say of a run or a pipeline; of a pipeline, what became of its stages is kept in its state.

    Args:
        named: its directory, or the id of a job.

    Raises:
        RecipeError: it is neither a run's nor a pipeline's, or Slurm knows no such job.
    """
    directory = Path(named)
    if not directory.exists() and re.fullmatch(r"\d+(_\d+)?", named):
        noted = _directory_of(named)
        if noted is None:
            return _job(named)
        directory = noted
    if (directory / STATE).is_file():
        return _pipeline(directory)
    if (directory / "status.json").is_file() or (directory / JOBS).is_file():
        return _run(directory)
    raise RecipeError(f"{directory} is neither a run nor a pipeline (no status.json, no {STATE})")


def _directory_of(id: str) -> Path | None:
    """Where a job trains, as its last start has noted it; None if none got so far."""
    noted = [start / RUN for start in _starts(id) if (start / RUN).is_file()]
    return Path(noted[-1].read_text(encoding="utf-8").strip()) if noted else None


def _job(id: str) -> str:
    """What Slurm says of a job that has not begun its run, and what failed.

    Raises:
        RecipeError: it knows no such job.
    """
    of_array = id.partition("_")[0]
    jobs = [job for job in commands.list_jobs([of_array]).get(of_array, []) if id in (of_array, job.id)]
    if not jobs:
        raise RecipeError(f"job {id}: Slurm says nothing of it, and it has left nothing in {_jobs_folder()}")
    return _lines(_rows_of(jobs))


def _starts(id: str) -> list[Path]:
    """Folders of a job's starts, in their order."""
    starts = [*_jobs_folder().glob(f"{id}/start-*"), *_jobs_folder().glob(f"{id}_*/start-*")]  # and tasks of an array
    return sorted(starts, key=lambda path: int(path.name.removeprefix("start-")))


@functools.cache
def _jobs_folder() -> Path:
    return find_jobs_folder(load_site())


def _run(directory: Path) -> str:
    jobs, told = _jobs(directory)
    state = [_state(directory, jobs), _progress(directory)]
    rows = [("run", str(directory)), ("state", ", ".join(filter(None, state)))]
    if figures := _figures(directory):
        rows.append(("last", figures))
    return _lines([*rows, *told])


def _jobs(directory: Path) -> tuple[list[Job], list[tuple[str, str]]]:
    """The job that was submitted for all of a directory, if one was, and rows of it."""
    path = directory / JOBS
    entries = read_json(path)["jobs"] if path.is_file() else []
    known = commands.list_jobs([entry["id"] for entry in entries])
    rows = []
    for entry in entries:
        rows += _rows_of(known.get(entry["id"], []))
        if entry["id"] not in known:
            rows.append(("job", f"{entry['id']}, of which Slurm says nothing (any more)"))
        rows.append(("log", entry["log"]))
    return [job for jobs in known.values() for job in jobs], rows


def _rows_of(jobs: list[Job]) -> list[tuple[str, str]]:
    """What Slurm says of each, and what failed first."""
    rows = []
    for job in jobs:
        rows.append(("job", _told(job)))
        if failure := failure_of(job):
            rows.append(("error", failure))
    return rows


def _lines(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"{name:<8}{value}" for name, value in rows)


def _state(directory: Path, jobs: list[Job]) -> str:
    """As the run has written it; what writes holds the directory, so that without it something else is true."""
    written = read_status(directory).get("state")
    if is_locked(directory) or written not in (None, "running", "interrupted"):
        return written or "starting"
    runs = next((job for job in jobs if job.state == "RUNNING"), None)
    if runs is None:
        return "interrupted" if written else "not begun"
    at_work = _directory_of(runs.id)
    if at_work is None or at_work == directory.resolve():
        return "starting"
    return f"waits for {at_work}, which its job trains first"


def _pipeline(directory: Path) -> str:
    """A line for each stage; once nothing is left to come, the page is drawn."""
    state = read_state(directory)
    path = directory / SUBMITTED
    entries = {entry["dir"]: entry for entry in read_json(path)["jobs"]} if path.is_file() else {}
    known = commands.list_jobs([entry["id"] for entry in entries.values()])
    # Of one that is run by a process here, that process says how it stands.
    settles = bool(entries) and not is_locked(directory)
    rows: list[tuple[str, ...]] = [("stage", "seed", "state", "progress", "job", "nodes", "time", "why")]
    became: dict[tuple[str, int | None], str] = {}
    for stage in _in_order(state["stages"]):
        jobs = known.get(entries.get(stage["dir"], {}).get("id", ""), [])
        if settles:
            _settle(stage, jobs, became)
        became[stage["name"], stage["seed"]] = stage["state"]
        job = next((job for job in jobs if job.active), jobs[0] if jobs else None)
        rows.append(
            (
                stage["name"],
                "" if stage["seed"] is None else str(stage["seed"]),
                stage["state"],
                _progress(Path(stage["dir"])),
                "" if job is None else job.id,
                "" if job is None else job.nodes,
                format_seconds(stage["seconds"])
                if stage["seconds"]
                else ("" if job is None else _elapsed(job.elapsed)),
                stage["error"] or stage["why"] or "",
            )
        )
    states = {stage["state"] for stage in state["stages"]}
    over = not states & {"waiting", "running"}
    whole = "interrupted" if "interrupted" in states else "finished"
    state["state"] = "running" if not over else "failed" if states & {"failed", "blocked"} else whole
    if settles:
        write_json(directory / STATE, state)
    lines = align_rows(rows, left=tuple(range(len(rows[0]))))
    if of_all := _jobs(directory)[1]:
        lines += ["", _lines(of_all)]
    if over and settles:
        lines += ["", str(command.write_report(directory))]
    elif waiting := [
        entry["id"] for entry in entries.values() if any(job.active for job in known.get(entry["id"], []))
    ]:
        lines += ["", f"cancel  scancel {' '.join(waiting)}    (the same command then goes on)"]
    return "\n".join(lines)


def _in_order(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Stages after those that they take something from."""
    ordered: list[dict[str, Any]] = []
    while len(ordered) < len(stages):
        there = {(stage["name"], stage["seed"]) for stage in ordered}
        ordered += [
            stage
            for stage in stages
            if (stage["name"], stage["seed"]) not in there
            and all((name, stage["seed"]) in there for names in stage["inputs"].values() for name in names)
        ]
    return ordered


def _settle(stage: dict[str, Any], jobs: list[Job], became: dict[tuple[str, int | None], str]) -> None:
    """What became of a stage, by its run directory, its jobs, and the states of the stages before it."""
    directory = Path(stage["dir"])
    known = read_status(directory)
    stage["seconds"] = known.get("seconds", stage["seconds"])
    stage["error"] = stage["why"] = None
    states = {job.state for job in jobs}
    failed = [job for job in jobs if not job.active and job.state != "COMPLETED"]
    before = {name: became[name, stage["seed"]] for names in stage["inputs"].values() for name in names}
    needs = [name for name, state in before.items() if state in ("failed", "blocked")]
    if is_finished(directory):
        stage["state"] = "finished" if stage["state"] != "cached" else "cached"
    elif states & {"RUNNING", "COMPLETING"}:
        stage["state"] = "running"
    elif needs:
        stage["state"], stage["why"] = "blocked", f"needs {' and '.join(needs)}"
    elif failed:
        stage["state"] = "interrupted" if failed[0].state == "CANCELLED" else "failed"
        stage["error"] = failure_of(failed[0]) if stage["state"] == "failed" else None
        stage["why"] = None if stage["error"] else _end(failed[0])
    elif any(job.active for job in jobs):
        after = [name for name, state in before.items() if state in ("waiting", "running")]
        reason = next(job.reason for job in jobs if job.active)
        named = bool(after) and reason == "Dependency"
        stage["state"], stage["why"] = "waiting", f"for {' and '.join(after)}" if named else reason
    elif jobs:
        stage["state"], stage["why"] = "interrupted", "its job has ended without a result"
    elif stage["state"] in ("waiting", "running"):
        stage["state"], stage["why"] = "interrupted", "no job is queued for it"


def failure_of(job: Job) -> str | None:
    """What failed first in the last start of a job, if that was its end."""
    starts = _starts(job.id)
    if job.active or job.state == "COMPLETED" or not starts:
        return None
    failure = failures.find_first(starts[-1])
    return None if failure is None else failure.line


def _told(job: Job) -> str:
    if job.state == "PENDING":
        return f"{job.id} PENDING ({job.reason})"
    if job.active:
        return f"{job.id} {job.state} on {job.nodes} for {_elapsed(job.elapsed)}, {_elapsed(job.left)} left"
    return f"{job.id} {_end(job)}"


def _end(job: Job) -> str:
    if job.state == "CANCELLED":
        return job.state if job.nodes else f"{job.state} before it began"
    return f"{job.state} {job.exit_code}".strip()


def _elapsed(told: str) -> str:
    """`1 h 30 min` of Slurm's `1:30:00`; its words where it says no number."""
    seconds = commands.parse_time_limit(told)
    return told if seconds is None else format_seconds(seconds)


def _progress(directory: Path) -> str:
    """`step 120 of 700`"""
    rows = _rows(directory)
    step = max([read_status(directory).get("step") or 0, *(row["step"] for row in rows)])
    total = _steps(directory)
    told = []
    if step:
        told.append(f"step {step}" + (f" of {total}" if total else ""))
    files = list((directory / "data").glob("train-*-of-*.parquet"))
    if files:
        told.append(f"{len(files)} of {int(files[0].stem.rpartition('-')[2])} files")
    return ", ".join(told)


def _steps(directory: Path) -> int | None:
    """Of the whole training, as its last checkpoint has it."""
    whole = sorted(directory.glob("checkpoint-*/manifest.json"))
    return read_json(whole[-1].with_name("trainer_state.json")).get("max_steps") if whole else None


def _figures(directory: Path) -> str:
    rows = _rows(directory)
    row = next((row for row in reversed(rows) if "loss" in row), {})
    return ", ".join(f"{name} {row[key]:.4g}" for key, name in SHOWN if isinstance(row.get(key), int | float))


def _rows(directory: Path) -> list[dict[str, Any]]:
    path = directory / "metrics.jsonl"
    return read_jsonl(path) if path.is_file() else []
