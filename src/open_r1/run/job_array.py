"""The files of a data task, divided among the processes and the parts of a job array."""

from __future__ import annotations

import contextlib
import fcntl
import signal
import time
from collections.abc import Iterator
from typing import Any

from accelerate import PartialState

from ..data.shards import Shards
from ..errors import RecipeError
from ..system.files import is_finished, read_json, write_json
from ..system.locks import LOCK, lock_file
from .exit import Interruption
from .run import Run


def stop_on_signal(number: int, frame: Any) -> None:
    """Signal handler of data tasks, which can stop anywhere: an incomplete file has only its temporary name."""
    signal.signal(number, signal.SIG_IGN)  # a second signal would interrupt the clean-up
    raise Interruption(number, "stopped; run the same command again to continue after the last whole file")


def check_same_rows(run: Run, found: dict[str, Any]) -> None:
    """Write the identity of a run's rows to sources.json, or check that a resumed run reads the same rows.

    Args:
        run: a run that writes files of rows.
        found: the rows' identity, as `StoredRows.identity` gives it.

    Raises:
        RecipeError: the rows have changed since the run began, so its files would lack some or repeat some.
    """
    path = run.dir / "sources.json"
    if not path.is_file():
        write_json(path, found)
        return
    before = read_json(path)
    if before != found:
        changed = [new["path"] for old, new in zip(before["sources"], found["sources"], strict=True) if old != new]
        what = f"datasets: {', '.join(changed)}" if changed else "the rows kept by deduplicate or contamination"
        raise RecipeError(
            f"{what} changed since {run.dir} was begun; delete it to start anew, or choose another --output_dir"
        )


def list_own_files(run: Run, files: Shards) -> list[int]:
    """Numbers of the files that this process has still to write."""
    return files.missing(*_own_part(run))


def list_own_numbers(run: Run, files: Shards) -> range:
    """Numbers of all files that this process writes, or has written."""
    return files.of_part(*_own_part(run))


def _own_part(run: Run) -> tuple[int, int]:
    """The number of this process's share of the files, and the number of shares."""
    args, state = run.recipe.args, PartialState()
    return args.part * state.num_processes + state.process_index, args.parts * state.num_processes


@contextlib.contextmanager
def claim_finish(run: Run, files: Shards) -> Iterator[bool]:
    """Yield True in the one process that finishes the run, once all files are written; False in all others."""
    if run.main:
        wait_for_launch(run, files)
    if not files.complete:
        args, left = run.recipe.args, sum(not files.path(number).is_file() for number in range(files.count))
        run.set_status("waiting")
        run.say(f"part {args.part} of {args.parts} is done; {left} of {files.count} files are left to the others")
        yield False
    elif not run.main:
        yield False
    else:
        with (run.dir / f"{LOCK}-finish").open("w") as lock_of_all:
            lock_file(lock_of_all.fileno(), fcntl.LOCK_EX)
            yield not is_finished(run.dir)


def wait_for_launch(run: Run, files: Shards) -> None:
    """Wait for the files of all processes of this launch; if a process fails, the launcher ends this one.

    A barrier would time out after ten minutes (NCCL), and another process may need longer.
    """
    args, processes = run.recipe.args, PartialState().num_processes
    own = [n for n in range(files.count) if n % (args.parts * processes) // processes == args.part]
    while not all(files.path(number).is_file() for number in own):
        time.sleep(1)
