"""Checkpoints that are whole, and what is removed before a run resumes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ..config.loading import world_size
from ..errors import RecipeError
from ..system.files import read_json, read_jsonl, write_json, write_text
from .run import Run

MANIFEST = "manifest.json"
LEAST_BYTES = 200 * 2**20  # for logs, report and completions; the model is counted once it is known


def prepare_resume(run: Run) -> None:
    """Find the last whole checkpoint, and remove what came after it."""
    run.checkpoint = last_whole_checkpoint(run.dir)
    if run.checkpoint is not None:
        manifest = read_json(run.checkpoint / MANIFEST)
        if manifest["processes"] != world_size():
            raise RecipeError(
                f"processes: {run.checkpoint} was written by {manifest['processes']}, and this start has "
                f"{world_size()}; go on with as many, or choose another --output_dir"
            )
        run.spent = manifest["seconds"]
        run.say(f"resuming from {run.checkpoint}")
    if run.main:
        drop_what_will_be_repeated(run)


def require_space(directory: Path, needed: int) -> None:
    """Refuse to start what cannot be saved.

    Raises:
        RecipeError: fewer than `needed` bytes are free.
    """
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise RecipeError(
            f"output_dir: {free / 2**20:,.0f} MiB are free at {directory}, and this run's checkpoints need about "
            f"{needed / 2**20:,.0f}; free some space, lower save_total_limit, or choose another directory"
        )


def last_whole_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint whose manifest is there and whose files have the sizes it names."""
    checkpoints = sorted(directory.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return next((path for path in reversed(checkpoints) if is_whole(path)), None)


def is_whole(checkpoint: Path) -> bool:
    if not (checkpoint / MANIFEST).is_file():
        return False
    files = read_json(checkpoint / MANIFEST)["files"]
    return all(
        (checkpoint / name).is_file() and (checkpoint / name).stat().st_size == size for name, size in files.items()
    )


def seal_checkpoint(checkpoint: Path, seconds: float) -> None:
    """Declare a checkpoint whole: the last thing written to it."""
    files = {str(f.relative_to(checkpoint)): f.stat().st_size for f in checkpoint.rglob("*") if f.is_file()}
    files.pop(MANIFEST, None)
    manifest = {"seconds": round(seconds, 1), "processes": world_size(), "files": files}
    write_json(checkpoint / MANIFEST, manifest)


def drop_what_will_be_repeated(run: Run) -> None:
    """Remove half-written checkpoints, and the metrics of steps after the one that is resumed from."""
    step = int(run.checkpoint.name.split("-")[1]) if run.checkpoint else -1
    for path in run.dir.glob("checkpoint-*"):
        if not is_whole(path):
            run.say(f"{path} was not completely written; it is removed")
            shutil.rmtree(path)
    if run.checkpoint is None:
        shutil.rmtree(run.dir / "evaluations", ignore_errors=True)
    for name in ("metrics.jsonl", "withheld.jsonl", "second_opinions.jsonl"):
        log = run.dir / name
        if log.is_file():
            # The trainer sums up when it stops; this was not the end.
            kept = [row for row in read_jsonl(log) if row["step"] <= step and "train_runtime" not in row]
            write_text(log, "".join(json.dumps(row) + "\n" for row in kept))
