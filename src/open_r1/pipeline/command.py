"""`open-r1 train PIPELINE`: plan, run, and report a pipeline."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from ..config.overrides import parse_overrides
from ..errors import RecipeError
from ..system import source_digest
from ..system.files import read_json, write_text
from ..system.locks import lock_directory
from . import fingerprint, graph, plan
from .directory import link_runs
from .execute import Execution, check_recipes
from .plan import DONE, Job, read_state
from .text import format_outcome, format_plan, format_start

WRITTEN = "pipeline.yaml"  # in a pipeline's directory: its file, with the overrides as comments
SHOWN = ".shown"  # in a pipeline's directory: digest of what the table and the page were made from


def run_pipeline(path: str, words: list[str]) -> int:
    """Run a pipeline, or show what it would do.

    Args:
        path: of the pipeline's file.
        words: command-line words: `--from`, `--only`, `--dry-run`, `--overwrite`, and the overrides that
            `graph.read_pipeline` takes.

    Returns:
        The exit code: 0 if every stage is done, 1 if one failed, 128 plus the signal's number after a signal.

    Raises:
        RecipeError: the file or a word is wrong, or another process runs this pipeline.
    """
    changes = parse_overrides(words)
    flags = {flag: changes.pop(flag, None) for flag in graph.FLAGS}
    pipeline, jobs, overwrite = plan_pipeline(path, changes, flags)
    if flags["dry_run"]:
        print(format_plan(pipeline, jobs))
        return 0
    print(format_start(pipeline, jobs), flush=True)
    save_plan(pipeline, changes, jobs)
    execution = Execution(pipeline, jobs, _say, find_overwrite_start(pipeline) if overwrite else None)
    execution.run()
    if not _is_shown(pipeline.dir):
        write_report(pipeline.dir)
    if execution.state != "finished" or any(job.began for job in jobs):
        print(f"\n{format_outcome(pipeline, jobs)}")
    from . import claims

    if table := claims.format_claims(read_json(pipeline.dir / "table.json")):
        print(f"\n{table}")
    print(f"\n{pipeline.dir / 'report.html'}", flush=True)
    return 128 + execution.stopping if execution.stopping else int(execution.state != "finished")


def plan_pipeline(path: str, changes: dict[str, Any], flags: dict[str, Any]) -> tuple[graph.Pipeline, list[Job], bool]:
    """Read a pipeline and plan its jobs; unless this is a dry run, lock its directory.

    Args:
        path: of the pipeline's file.
        changes: overrides for `graph.read_pipeline`.
        flags: a value or None for each of `graph.FLAGS`.

    Returns:
        The pipeline, its jobs, and whether finished stages run again.

    Raises:
        RecipeError: as for `run_pipeline`.
    """
    pipeline = graph.read_pipeline(Path(path), changes)
    chosen = plan.choose_stages(pipeline, *(_names(flag, flags[flag]) for flag in ("from", "only")))
    for flag in ("overwrite", "dry_run"):
        if flags[flag] not in (None, True, False):
            raise RecipeError(f"--{flag} takes no value; --only or --from choose stages, as in --only {flags[flag]}")
    overwrite = bool(flags["overwrite"])
    if not flags["dry_run"]:
        lock_pipeline(pipeline)
    jobs = plan.plan_jobs(pipeline, chosen, overwrite)
    check_recipes(pipeline, jobs)
    return pipeline, jobs, overwrite


def find_overwrite_start(pipeline: graph.Pipeline) -> float:
    """Unix time of the first start with `--overwrite` that did not finish; now if there is none."""
    state = read_state(pipeline.dir)
    earlier = state.get("overwriting") if state.get("state") != "finished" else None
    return earlier or time.time()


def save_plan(pipeline: graph.Pipeline, changes: dict[str, Any], jobs: list[Job]) -> None:
    """Write the pipeline's file and the links to its stages into its directory."""
    overrides = [f"# --{key} {value}\n" for key, value in changes.items()]
    text = "\n".join([pipeline.path.read_text(encoding="utf-8").rstrip(), *overrides]) + "\n"
    write_text(pipeline.dir / WRITTEN, text)
    link_runs(pipeline, jobs)


def write_report(directory: Path) -> Path:
    """Compute a pipeline's table of claims and draw its page, from its directory."""
    from ..report.pages import pipeline as pages_pipeline
    from . import claims

    before = _digest_sources(directory)
    claims.write_claims(directory)
    target = pages_pipeline.write_pipeline_page(directory)
    write_text(directory / SHOWN, before)
    return target


def _is_shown(directory: Path) -> bool:
    """True if the table and the page are up to date."""
    path = directory / SHOWN
    there = all((directory / name).is_file() for name in ("report.html", "table.json"))
    return there and path.is_file() and path.read_text(encoding="utf-8") == _digest_sources(directory)


def _digest_sources(directory: Path) -> str:
    """Digest of what the table and the page are made from: the file, the stages' states, and the code that draws."""
    stages = [
        (stage["name"], stage["seed"], stage["dir"], stage["state"] if stage["state"] not in DONE else "done")
        for stage in read_state(directory)["stages"]
    ]
    drawn = [fingerprint.digest_path(source_digest.PACKAGE / name) for name in ("pipeline/claims.py", "report")]
    text = (directory / WRITTEN).read_text(encoding="utf-8")
    return hashlib.sha256(json.dumps([text, stages, drawn]).encode()).hexdigest()


def lock_pipeline(pipeline: graph.Pipeline) -> None:
    """Lock the pipeline's directory for this process; make it if it is missing.

    Raises:
        RecipeError: the directory cannot be written or holds other files, or another process runs this pipeline.
    """
    try:
        pipeline.dir.mkdir(parents=True, exist_ok=True)
        others = [one for one in pipeline.dir.iterdir() if not one.name.startswith(".")]
        if others and not (pipeline.dir / WRITTEN).is_file():
            raise RecipeError(f"output_dir: {pipeline.dir} holds files that are not a pipeline's; choose another")
        lock_directory(pipeline.dir)
    except OSError as error:
        raise RecipeError(f"output_dir: {pipeline.dir} cannot be written: {error.strerror}; choose another") from error


def _say(line: str) -> None:
    print(line, flush=True)


def _names(flag: str, value: Any) -> list[str] | None:
    """Stage names in `--only a b` or `--only a,b`."""
    if value is None:
        return None
    if value is True:
        raise RecipeError(f"--{flag}: which stage? For example --{flag} base")
    listed = value if isinstance(value, list) else [value]
    return [name for word in listed for name in str(word).split(",") if name]
