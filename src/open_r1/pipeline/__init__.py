"""Pipelines: many recipes as one graph, each run once for what it depends on, resumable anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..configs import parse_overrides
from ..directory import lock, read_json, write_text
from ..errors import RecipeError
from . import graph, plan, told
from .execute import Execution, discard, show

FLAGS = ("from", "only", "dry_run", "overwrite")


def main(path: str, words: list[str]) -> int:
    """Run a pipeline, or show what it would do.

    Args:
        path: its file.
        words: of the command line: `--from`, `--only`, `--dry-run`, `--overwrite`, and what `graph.read` takes.

    Returns:
        The exit code: 0 if all is done, 1 if something failed, 128 and the signal's number if it was stopped.

    Raises:
        RecipeError: the file or the words are wrong, or another process runs this pipeline.
    """
    changes = parse_overrides(words)
    flags = {flag: changes.pop(flag, None) for flag in FLAGS}
    pipeline = graph.read(Path(path), changes)
    chosen = plan.chosen(pipeline, *(_names(flag, flags[flag]) for flag in ("from", "only")))
    if flags["dry_run"]:
        print(told.plan(pipeline, plan.make(pipeline, chosen)))
        return 0
    hold(pipeline)
    if flags["overwrite"]:
        again = [job for job in plan.make(pipeline) if job.done and _is_of(job, chosen)]
        discard(again)
    jobs = plan.make(pipeline, chosen)
    print(told.begun(pipeline, jobs), flush=True)
    written = Path(path).read_text(encoding="utf-8") + "".join(f"# --{key} {changes[key]}\n" for key in changes)
    kept = pipeline.dir / "pipeline.yaml"
    changed = not kept.is_file() or kept.read_text(encoding="utf-8") != written
    write_text(kept, written)
    show(pipeline, jobs)
    execution = Execution(pipeline, jobs, say=lambda line: print(line, flush=True))
    execution.run()
    if changed or any(job.began for job in jobs) or not (pipeline.dir / "report.html").is_file():
        report(pipeline.dir)
    if execution.failed or execution.stopping or any(job.began for job in jobs):
        print(f"\n{told.outcome(pipeline, jobs)}")
    from .. import claims

    if table := claims.told(read_json(pipeline.dir / "table.json")):
        print(f"\n{table}")
    print(f"\n{pipeline.dir / 'report.html'}", flush=True)
    return 128 + execution.stopping if execution.stopping else int(execution.failed)


def report(directory: Path) -> Path:
    """Compute the table of claims, and draw the page of a pipeline, from what its directory holds."""
    from .. import claims
    from ..pages import pipeline as page

    claims.write(directory)
    return page.write(directory)


def hold(pipeline: graph.Pipeline) -> None:
    """Make the pipeline's directory this process's own.

    Raises:
        RecipeError: it cannot be written, holds other things, or another process runs this pipeline.
    """
    try:
        pipeline.dir.mkdir(parents=True, exist_ok=True)
        others = [one for one in pipeline.dir.iterdir() if not one.name.startswith(".")]
        if others and not (pipeline.dir / "pipeline.yaml").is_file():
            raise RecipeError(f"output_dir: {pipeline.dir} holds files that are not a pipeline's; choose another")
        lock(pipeline.dir)
    except OSError as error:
        raise RecipeError(f"output_dir: {pipeline.dir} cannot be written: {error.strerror}; choose another") from error


def _names(flag: str, value: Any) -> list[str] | None:
    """Stages of `--only a b` or `--only a,b`."""
    if value is None:
        return None
    if value is True:
        raise RecipeError(f"--{flag}: which stage? For example --{flag} base")
    listed = value if isinstance(value, list) else [value]
    return [name for word in listed for name in str(word).split(",") if name]


def _is_of(job: plan.Job, chosen: set[str] | None) -> bool:
    return chosen is None or bool(chosen & {stage.name for stage, _ in job.places})
