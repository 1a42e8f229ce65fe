"""How the files of a data task are divided among the processes and parts of a job array."""

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
from .exit import Stopped
from .run import Run


def stop_on_signal(number: int, frame: Any) -> None:
    """A signal ends a data task between two instructions: a file that is not whole has no name yet."""
    signal.signal(number, signal.SIG_IGN)  # said twice, it would end what puts things in order
    raise Stopped(number, "stopped; the same command goes on from the last whole file")


def check_same_rows(run: Run, found: dict[str, Any]) -> None:
    """Keep what the rows of a run are, and go on with no others.

    Args:
        run: one that writes files of rows.
        found: of `StoredRows.identity`, or the like of it.

    Raises:
        RecipeError: they have changed since this run began; its files would lack some of them, or hold some twice.
    """
    path = run.dir / "sources.json"
    if not path.is_file():
        write_json(path, found)
        return
    before = read_json(path)
    if before != found:
        changed = [new["path"] for old, new in zip(before["sources"], found["sources"], strict=True) if old != new]
        what = f"datasets: {', '.join(changed)}" if changed else "deduplicate or contamination: the rows that are kept"
        raise RecipeError(
            f"{what} changed since {run.dir} was begun; delete it to start anew, or choose another --output_dir"
        )


def list_own_files(run: Run, files: Shards) -> list[int]:
    """Numbers of the missing files that are this process's: of a launch's processes, within a part of a job array."""
    return files.missing(*_own_part(run))


def list_own_numbers(run: Run, files: Shards) -> range:
    """Numbers of this process's files, there or not."""
    return files.of_part(*_own_part(run))


def _own_part(run: Run) -> tuple[int, int]:
    """Which part of the files is this process's, and of how many."""
    args, state = run.recipe.args, PartialState()
    return args.part * state.num_processes + state.process_index, args.parts * state.num_processes


@contextlib.contextmanager
def claim_finish(run: Run, files: Shards) -> Iterator[bool]:
    """True to the one process that is to finish a run whose files are all there; the others leave it."""
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
    """Until the files of all processes of this launch are there; one that fails ends the others by its launcher.

    A barrier would give up after ten minutes (NCCL), and a process may have more than that left to do.
    """
    args, processes = run.recipe.args, PartialState().num_processes
    own = [n for n in range(files.count) if n % (args.parts * processes) // processes == args.part]
    while not all(files.path(number).is_file() for number in own):
        time.sleep(1)
