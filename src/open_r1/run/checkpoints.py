"""Complete checkpoints, and the state of a run directory before it resumes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ..config.loading import world_size
from ..errors import RecipeError
from ..system.files import read_json, read_jsonl, write_json, write_text
from .run import Run

MANIFEST = "manifest.json"
LEAST_BYTES = 200 * 2**20  # for logs, report and completions; `run_trainer` adds the model and its checkpoints


def prepare_resume(run: Run) -> None:
    """Find the last complete checkpoint, and remove all records of later steps.

    Raises:
        RecipeError: the checkpoint is of another number of processes.
    """
    run.checkpoint = last_whole_checkpoint(run.dir)
    if run.checkpoint is not None:
        manifest = read_json(run.checkpoint / MANIFEST)
        if manifest["processes"] != world_size():
            raise RecipeError(
                f"processes: {run.checkpoint} was written by {manifest['processes']} processes, and there are now "
                f"{world_size()}; start the same number, or choose another --output_dir"
            )
        run.spent = manifest["seconds"]
        run.say(f"resuming from {run.checkpoint}")
    if run.main:
        _remove_later_records(run)


def require_space(directory: Path, needed: int) -> None:
    """Raise RecipeError if fewer than `needed` bytes are free."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise RecipeError(
            f"output_dir: {free / 2**20:,.0f} MiB are free at {directory}, and this run's checkpoints need about "
            f"{needed / 2**20:,.0f}; free some space, lower save_total_limit, or choose another directory"
        )


def last_whole_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint that has its manifest and whose files have the sizes in it."""
    return max(filter(_is_whole, directory.glob("checkpoint-*")), key=_read_step, default=None)


def _read_step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _is_whole(checkpoint: Path) -> bool:
    if not (checkpoint / MANIFEST).is_file():
        return False
    files = read_json(checkpoint / MANIFEST)["files"]
    return all(
        (checkpoint / name).is_file() and (checkpoint / name).stat().st_size == size for name, size in files.items()
    )


def seal_checkpoint(checkpoint: Path, seconds: float) -> None:
    """Write the manifest of a checkpoint, after all of its other files."""
    files = {str(f.relative_to(checkpoint)): f.stat().st_size for f in checkpoint.rglob("*") if f.is_file()}
    files.pop(MANIFEST, None)
    manifest = {"seconds": round(seconds, 1), "processes": world_size(), "files": files}
    write_json(checkpoint / MANIFEST, manifest)


def _remove_later_records(run: Run) -> None:
    """Remove incomplete checkpoints, and the metrics of steps after the checkpoint."""
    step = _read_step(run.checkpoint) if run.checkpoint else -1
    for path in run.dir.glob("checkpoint-*"):
        if not _is_whole(path):
            run.say(f"{path} was not completely written; it is removed")
            shutil.rmtree(path)
    if run.checkpoint is None:
        shutil.rmtree(run.dir / "evaluations", ignore_errors=True)
    for name in ("metrics.jsonl", "withheld.jsonl", "second_opinions.jsonl"):
        log = run.dir / name
        if log.is_file():
            # The trainer logs its runtime whenever it stops, also when it is interrupted.
            kept = [row for row in read_jsonl(log) if row["step"] <= step and "train_runtime" not in row]
            write_text(log, "".join(json.dumps(row) + "\n" for row in kept))
