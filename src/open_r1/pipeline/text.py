"""A pipeline in the terminal: what it would do, and how it came out."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

from ..evaluation.tables import align_rows
from ..system.run_files import format_seconds
from .graph import Pipeline
from .plan import Job

SHORT = {"waiting": "to run", "interrupted": "stopped"}


def format_plan(pipeline: Pipeline, jobs: list[Job]) -> str:
    """Every stage with its state, and why it has to run; seeds of which the same is to be said stand together."""
    of_place = {(stage.name, seed): job for job in jobs for stage, seed in job.places}
    rows = [("stage", "seeds", "", "why")]
    for stage in pipeline.stages:
        seeds: dict[tuple[str, str], list[str]] = {}
        for seed in pipeline.seeds:
            job = of_place[stage.name, seed]
            told = SHORT.get(job.state, job.state), job.why or ""
            seeds.setdefault(told, []).append("-" if seed is None else f"{seed}")
        once = len({id(of_place[stage.name, seed]) for seed in pipeline.seeds}) < len(pipeline.seeds)
        rows += [(stage.name, "all" if once else ", ".join(of), state, why) for (state, why), of in seeds.items()]
    return "\n".join([*align_rows(rows, left=(0, 1, 2, 3)), "", counted(jobs)])


def counted(jobs: list[Job]) -> str:
    """`102 runs: 12 cached, 90 to run`"""
    counts = Counter(job.state for job in jobs)
    told = ", ".join(f"{count} {SHORT.get(state, state)}" for state, count in counts.most_common())
    return f"{len(jobs)} run{'s' * (len(jobs) != 1)}: {told}"


def format_start(pipeline: Pipeline, jobs: list[Job]) -> str:
    """What is about to happen."""
    seeds = [f"{seed}" for seed in pipeline.seeds if seed is not None]
    named = f", seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}" if seeds else ""
    at_once = f", {pipeline.jobs} at a time" if pipeline.jobs > 1 else ""
    return f"{pipeline.title}: {len(pipeline.stages)} stages{named}{at_once}; {counted(jobs)}"


def format_outcome(pipeline: Pipeline, jobs: list[Job]) -> str:
    """A row for each stage, with the time or the state of each seed; and why some have failed or are held up."""
    of_place = {(stage.name, seed): job for job in jobs for stage, seed in job.places}
    head = ["stage", *(f"seed {seed}" if seed is not None else "" for seed in pipeline.seeds)]
    rows: list[tuple[str, ...]] = [tuple(head)]
    for stage in pipeline.stages:
        rows.append((stage.name, *(_cell(of_place.get((stage.name, seed))) for seed in pipeline.seeds)))
    lines = align_rows(rows)
    for state, told in groupby(sorted(jobs, key=lambda job: job.state), key=lambda job: job.state):
        if state in ("failed", "blocked"):
            lines += ["", *(f"{state}: {job.named}: {job.error or job.why}" for job in told)]
            lines += [f"what they said is in {pipeline.dir}/logs"] if state == "failed" else []
    return "\n".join([*lines, "", counted(jobs)])


def _cell(job: Job | None) -> str:
    if job is None:
        return "-"
    if job.state == "finished" and job.seconds is not None:
        return format_seconds(job.seconds)
    return SHORT.get(job.state, job.state)
