"""What a pipeline's directory holds: its state, a log for each run, and links to the run directories of its stages."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

from ..system.files import read_json
from .graph import Pipeline, Stage
from .plan import Job, read_state


def locate_link(stage: Stage, seed: int | None) -> str:
    """The link to a stage's run directory, relative to the pipeline's directory."""
    return f"stages/{stage.name}" if seed is None else f"seed={seed}/{stage.name}"


def find_log(stage: Stage, seed: int | None) -> str:
    """The log of a stage, relative to the pipeline's directory."""
    return f"logs/{stage.name}{'' if seed is None else f'--seed={seed}'}.log"


def link_runs(pipeline: Pipeline, jobs: list[Job]) -> None:
    """Link the run directories of the stages into the pipeline's directory; links of an earlier plan are removed."""
    for folder in [*pipeline.dir.glob("seed=*"), pipeline.dir / "stages"]:
        for link in folder.glob("*"):
            if link.is_symlink():
                link.unlink()
        with contextlib.suppress(OSError):  # the folder is missing, or holds a person's own files
            folder.rmdir()
    for job in jobs:
        for stage, seed in job.places:
            link = pipeline.dir / locate_link(stage, seed)
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(os.path.relpath(job.dir, link.parent.resolve()))


def delete_run(run_dir: Path) -> None:
    """Delete a run directory, its status first: a half-deleted one must not look like a finished run."""
    (run_dir / "status.json").unlink(missing_ok=True)
    shutil.rmtree(run_dir, ignore_errors=True)


def list_stages(pipeline: Pipeline, jobs: list[Job]) -> list[dict[str, Any]]:
    """The `stages` of state.json: one record for each stage and seed, in the order of the file."""
    jobs_by_place = {(stage.name, seed): (stage, job) for job in jobs for stage, seed in job.places}
    places = [(stage.name, seed) for seed in pipeline.seeds for stage in pipeline.stages]
    return [
        _describe_stage(*jobs_by_place[name, seed], seed) for name, seed in places if (name, seed) in jobs_by_place
    ]


def _describe_stage(stage: Stage, job: Job, seed: int | None) -> dict[str, Any]:
    return {
        "name": stage.name,
        "seed": seed,
        "title": stage.title,
        "step": stage.step,
        "task": stage.task,
        "recipe": stage.recipe,
        "inputs": stage.inputs,
        "dir": str(job.dir),
        "view": locate_link(stage, seed),
        "log": find_log(*job.places[0]),
        "state": job.state,
        "seconds": job.seconds,
        "peak_memory": job.peak_memory,
        "gpus": job.gpus,
        "error": job.error,
        "why": job.why,
        "began": job.began,
        "ended": job.ended,
    }


def read_totals(directory: Path, jobs: list[Job]) -> tuple[float, int | None]:
    """Seconds and peak memory (bytes) of earlier, unfinished starts of the same jobs."""
    state = read_state(directory)
    if {stage["dir"] for stage in state.get("stages", [])} != {str(job.dir) for job in jobs}:
        return 0.0, None
    finished = state.get("state") == "finished"
    return (0.0 if finished else state.get("seconds") or 0.0), state.get("peak_memory")


def summarize_result(job: Job) -> str:
    """The result of a finished job in a few words: `tiny pass@1 97.3%`, `1,028 rows`."""
    path = job.dir / "summary.json"
    summary = read_json(path) if path.is_file() else {}
    if job.stage.task == "evaluate":
        figures = []
        for path in sorted((job.dir / "evaluations").glob("*.json")):
            metric, value = next(iter(read_json(path)["metrics"].items()))
            figures.append(f"{path.stem} {metric} {_format_percent(value)}")
        return ", ".join(figures)
    if "before" in summary:
        before, after = (_format_percent(summary[key]["pass@1"]) for key in ("before", "after"))
        return f"pass@1 {before} to {after}"
    return f"{summary['rows']:,} rows" if "rows" in summary else ""


def _format_percent(figure: dict[str, Any]) -> str:
    return "-" if figure["value"] is None else f"{100 * figure['value']:.1f}%"
