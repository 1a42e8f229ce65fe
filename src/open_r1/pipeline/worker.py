"""The process of one job: it runs the stage's recipe and writes to the job's log."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ..config.loading import resolve_recipe
from ..config.overrides import parse_overrides
from ..errors import RecipeError
from ..system.processes import die_with_parent
from . import fingerprint
from .plan import Job, describe_differences

if TYPE_CHECKING:
    from ..run.run import Run

STOPS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Worker:
    """The process of a running job.

    Args:
        job: that it runs.
        process: of multiprocessing.
        log: that it appends to.
        log_start: size of the log before this start, in bytes.
        gpus: of this process, as CUDA_VISIBLE_DEVICES names them.
    """

    job: Job
    process: Any
    log: Path
    log_start: int
    gpus: list[str] = field(default_factory=list)

    def measure_memory(self) -> int:
        """Bytes that the process and its children use; 0 once it has ended."""
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.process.pid)
            return sum(measure_memory(member) for member in [process, *process.children(recursive=True)])
        return 0

    def read_error(self) -> str:
        """What ended a failed job: its error message, the last line of its traceback, or the signal."""
        code = self.process.exitcode
        if code < 0 and -code != signal.SIGTERM:
            killed = " (by the system, if the memory was used up)" if -code == signal.SIGKILL else ""
            return f"it was ended by {signal.Signals(-code).name}{killed}"
        text = self.log.read_bytes()[self.log_start :].decode(errors="replace") if self.log.is_file() else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        error = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else "")
        return error.removeprefix("error: ") or f"exit code {code}"


def measure_memory(process: psutil.Process) -> int:
    """Bytes of a process: its proportional share of shared pages, or all resident pages where that is not known."""
    try:
        full = process.memory_full_info()
    except psutil.Error:
        return 0
    return getattr(full, "pss", None) or full.rss


def run_job(
    recipe: str,
    words: list[str],
    planned: dict[str, Any],
    log: Path,
    threads: int,
    gpus: list[str] | None,
    parent: int,
) -> None:
    """Run a recipe in this process, which was forked or spawned for it.

    Args:
        recipe: the stage's recipe.
        words: its overrides, as command-line words.
        planned: the fingerprint that the plan was made with.
        log: file that output is appended to.
        threads: of torch and OpenMP.
        gpus: for CUDA_VISIBLE_DEVICES; None leaves the variable.
        parent: process id of the pipeline.
    """
    die_with_parent(parent)
    # Ctrl-C reaches the parent alone, which passes it on.
    os.setsid()
    for number in STOPS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    with log.open("ab", buffering=0) as opened:
        for descriptor in (1, 2):
            os.dup2(opened.fileno(), descriptor)
    print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} open-r1 train {recipe} {' '.join(words)}", flush=True)
    import torch

    from ..launch import local
    from ..run import exit, run

    run.reset_after_fork()
    torch.set_num_threads(threads)

    def task() -> Run | None:
        refuse_changed(recipe, words, planned)
        return local.run_recipe(recipe, words)

    exit.run_guarded(task)


def refuse_changed(recipe: str, words: list[str], planned: dict[str, Any]) -> None:
    """Refuse a recipe that no longer has the planned fingerprint: its directory is named after that fingerprint.

    Recipes and code may change while other stages run.

    Raises:
        RecipeError: naming the keys, modules or files that changed.
    """
    current = fingerprint.fingerprint_stage(*resolve_recipe(Path(recipe), parse_overrides(words)))
    if current["digest"] != planned["digest"]:
        changes = "; ".join(describe_differences(planned, current))
        raise RecipeError(f"changed since the pipeline was started ({changes}); start it again to go on with that")
