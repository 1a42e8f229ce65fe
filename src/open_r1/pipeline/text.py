"""A pipeline's plan and outcome as text for the terminal."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

from ..evaluation.tables import align_rows
from ..system.run_files import format_seconds
from .graph import Pipeline
from .plan import Job

SHORT = {"waiting": "to run", "interrupted": "stopped"}


def format_plan(pipeline: Pipeline, jobs: list[Job]) -> str:
    """A line for each stage: its state and why it has to run; seeds with the same state share a line."""
    by_place = {(stage.name, seed): job for job in jobs for stage, seed in job.places}
    rows = [("stage", "seeds", "", "why")]
    for stage in pipeline.stages:
        seeds: dict[tuple[str, str], list[str]] = {}
        for seed in pipeline.seeds:
            job = by_place[stage.name, seed]
            outcome = SHORT.get(job.state, job.state), job.why or ""
            seeds.setdefault(outcome, []).append("-" if seed is None else f"{seed}")
        once = len({id(by_place[stage.name, seed]) for seed in pipeline.seeds}) < len(pipeline.seeds)
        rows += [
            (stage.name, "all" if once else ", ".join(listed), state, why) for (state, why), listed in seeds.items()
        ]
    return "\n".join([*align_rows(rows, left=(0, 1, 2, 3)), "", count_states(jobs)])


def count_states(jobs: list[Job]) -> str:
    """The jobs by state: `102 runs: 12 cached, 90 to run`."""
    counts = Counter(job.state for job in jobs)
    states = ", ".join(f"{count} {SHORT.get(state, state)}" for state, count in counts.most_common())
    return f"{len(jobs)} run{'s' * (len(jobs) != 1)}: {states}"


def format_start(pipeline: Pipeline, jobs: list[Job]) -> str:
    """The first line of a start: title, stages, seeds and jobs."""
    seeds = [f"{seed}" for seed in pipeline.seeds if seed is not None]
    named = f", seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}" if seeds else ""
    at_once = f", {pipeline.jobs} at a time" if pipeline.jobs > 1 else ""
    return f"{pipeline.title}: {len(pipeline.stages)} stages{named}{at_once}; {count_states(jobs)}"


def format_outcome(pipeline: Pipeline, jobs: list[Job]) -> str:
    """A row for each stage with the time or state of each seed; below, why jobs failed or were blocked."""
    by_place = {(stage.name, seed): job for job in jobs for stage, seed in job.places}
    head = ["stage", *(f"seed {seed}" if seed is not None else "" for seed in pipeline.seeds)]
    rows: list[tuple[str, ...]] = [tuple(head)]
    for stage in pipeline.stages:
        rows.append((stage.name, *(_format_cell(by_place.get((stage.name, seed))) for seed in pipeline.seeds)))
    lines = align_rows(rows)
    for state, group in groupby(sorted(jobs, key=lambda job: job.state), key=lambda job: job.state):
        if state in ("failed", "blocked"):
            lines += ["", *(f"{state}: {job.named}: {job.error or job.why}" for job in group)]
            lines += [f"their logs are in {pipeline.dir}/logs"] if state == "failed" else []
    return "\n".join([*lines, "", count_states(jobs)])


def _format_cell(job: Job | None) -> str:
    if job is None:
        return "-"
    if job.state == "finished" and job.seconds is not None:
        return format_seconds(job.seconds)
    return SHORT.get(job.state, job.state)
