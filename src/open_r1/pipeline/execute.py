"""Runs the jobs of a plan, several side by side, each in a process of its own.

This process loads the libraries once (ten seconds) and forks the jobs' processes. With GPUs it spawns them, because
CUDA does not survive a fork. A job ends whole, or resumes when it is started again. This process only writes
`state.json`, and may be killed at any moment.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from multiprocessing import connection
from pathlib import Path
from typing import Any

import psutil

from ..config.loading import load_recipe
from ..config.overrides import format_overrides
from ..config.schema import find_task_module
from ..errors import RecipeError
from ..system import files, hardware
from ..system.files import read_json, write_json
from ..system.locks import is_locked
from ..system.network import START
from ..system.processes import count_cores
from .directory import delete_run, find_log, list_stages, read_totals, summarize_result
from .graph import Pipeline
from .plan import STATE, Job, find_missing, read_state, save_fingerprint
from .worker import STOPS, Worker, measure_memory, run_job

SILENCE = 60.0  # seconds without a line, after which the running jobs are listed
POLL = 1.0  # seconds between two looks at memory, and at directories that other processes hold
INTERRUPTED = (130, 143, -signal.SIGINT, -signal.SIGTERM)
Say = Callable[[str], None]


class Execution:
    """A start of a pipeline.

    Args:
        pipeline: read and checked; this process holds the lock of its directory.
        jobs: the plan.
        say: prints a line.
        overwriting: Unix time of the first of the starts with `--overwrite` that this one resumes; None without it.
    """

    def __init__(self, pipeline: Pipeline, jobs: list[Job], say: Say = print, overwriting: float | None = None):
        self.pipeline, self.jobs, self.say, self.overwriting = pipeline, jobs, say, overwriting
        self.began, self.pid, self.commit = time.time(), os.getpid(), files.find_commit()
        self.workers: list[Worker] = []
        self.stopping: int | None = None
        self.spent, self.peak_memory = read_totals(pipeline.dir, jobs)
        self.cores, self.threads = count_cores(), count_threads(pipeline)
        self.gpus: list[str] = []  # as CUDA_VISIBLE_DEVICES names them
        self.free: list[str] = []
        self.reported, self.last_line = 0, time.monotonic()
        self.waited = set[Path]()
        self.working = False

    def run(self) -> None:
        """Run the waiting jobs until none is left that can run."""
        todo = [job for job in self.jobs if job.state == "waiting"]
        if not todo:
            self.keep()
            return
        self.prepare(todo)
        self.working = True
        try:
            self.keep()
            with self.catching_signals():
                self.work()
        except BaseException:
            self.kill()
            raise
        finally:
            self.working = False
            for job in self.jobs:
                job.state = "interrupted" if job.state == "running" else job.state
            self.keep()

    @property
    def state(self) -> str:
        """The state of the pipeline: running, failed, interrupted or finished."""
        states = {job.state for job in self.jobs}
        if self.working:
            return "running"
        if {"failed", "blocked"} & states:
            return "failed"
        return "interrupted" if {"interrupted", "waiting"} & states else "finished"

    def prepare(self, todo: list[Job]) -> None:
        """Load the libraries that the jobs share, and check the GPUs.

        Raises:
            RecipeError: a stage needs more GPUs than this machine has.
        """
        wanted = max(job.gpus for job in todo)
        for module in ["matplotlib.figure", *(find_task_module(job.stage.task) for job in todo)]:
            importlib.import_module(module)
        if wanted:
            self.gpus = self.free = hardware.list_visible_gpus()
            if wanted > len(self.gpus):
                names = ", ".join(dict.fromkeys(job.stage.name for job in todo if job.gpus > len(self.gpus)))
                raise RecipeError(
                    f"stages ({names}): {wanted} GPUs are needed, and this machine has {len(self.gpus)}; set "
                    "--<stage>.gpus (and raise gradient_accumulation_steps to keep the batch), or run it at toy size "
                    "with --toy"
                )
        # A garbage collection writes to the pages that the processes share, and so copies them.
        gc.collect()
        gc.freeze()

    def work(self) -> None:
        measured = 0.0
        chain_lengths = _count_waiting_chain(self.jobs)
        while True:
            self.block()
            ready = [job for job in self.jobs if job.state == "waiting" and all(one.done for one in job.upstream)]
            held = []
            for job in sorted(ready, key=lambda job: -chain_lengths[id(job)]):
                if not self.stopping and len(self.workers) < self.pipeline.jobs and job.gpus <= len(self.free):
                    held += [job] if is_locked(job.dir) else []
                    if job not in held:
                        self.start(job)
            if any(job.done for job in ready):
                continue  # another pipeline has made it, so the jobs that need it may begin
            if not self.workers and not held:
                return
            self.report_held(held)
            if self.workers and time.monotonic() - self.last_line > SILENCE:
                running = [
                    f"{worker.job.named} ({time.time() - (worker.job.began or 0):.0f} s)" for worker in self.workers
                ]
                self.report(f"running {', '.join(running)}; their logs are in {self.pipeline.dir}/logs")
            ended = connection.wait([worker.process.sentinel for worker in self.workers], POLL)
            for worker in [worker for worker in self.workers if worker.process.sentinel in ended]:
                self.end(worker)
            if time.monotonic() - measured >= POLL:
                measured = time.monotonic()
                self.measure_memory()

    def report_held(self, held: list[Job]) -> None:
        """Name each job that another process is making, once; wait a moment if nothing runs here."""
        for job in held:
            if job.dir not in self.waited:
                self.waited.add(job.dir)
                self.report(f"{job.named} is being made by another process in {job.dir}")
        if not self.workers:
            time.sleep(POLL)

    def block(self) -> None:
        """Block the jobs that need a failed or blocked one."""
        for job in self.jobs:  # a job comes after its upstream jobs
            lost = [one.named for one in job.upstream if one.state in ("failed", "blocked")]
            if job.state == "waiting" and lost:
                job.state, job.why = "blocked", f"needs {' and '.join(lost)}"
                self.keep()

    def start(self, job: Job) -> None:
        """Start a job, or take the result that another pipeline has made meanwhile."""
        if find_missing(job) is None and not job.again:
            job.state, job.seconds = "finished", read_json(job.dir / "status.json").get("seconds")
            self.report_end(job, "made by another pipeline")
            return
        if job.again:
            delete_run(job.dir)
        save_fingerprint(job)
        log = self.pipeline.dir / find_log(job.stage, job.seed)
        log.parent.mkdir(exist_ok=True)
        gpus, self.free = self.free[: job.gpus], self.free[job.gpus :]
        context = multiprocessing.get_context("spawn" if self.gpus else "fork")
        words = format_overrides(job.changes)
        given = (job.stage.recipe, words, job.address, log, self.threads, gpus if self.gpus else None, self.pid)
        if step := files.read_status(job.dir).get("step"):
            self.report(f"{job.named} goes on from step {step}")
        process = context.Process(target=run_job, args=given, name=job.named)
        log_start = log.stat().st_size if log.exists() else 0
        # A signal between the start and the list would not reach the process.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        process.start()
        self.workers.append(Worker(job, process, log, log_start, gpus))
        job.state, job.began, job.again = "running", time.time(), False
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        self.keep()

    def end(self, worker: Worker) -> None:
        """Record the outcome of a job whose process has ended."""
        worker.process.join()
        job, code = worker.job, worker.process.exitcode
        self.workers.remove(worker)
        self.free = sorted(self.free + worker.gpus)
        job.ended = time.time()
        status = files.read_status(job.dir)
        job.seconds = status.get("seconds", round(job.ended - (job.began or job.ended), 1))
        missing = find_missing(job)
        if code == 0 and missing is None:
            job.state = "finished"
            self.report_end(job)
        elif is_locked(job.dir):
            # Another pipeline has begun it at the same moment.
            job.state = "waiting"
        elif self.stopping and code in (*INTERRUPTED, -signal.SIGKILL):
            job.state = "interrupted"
        else:
            job.state = "failed"
            job.error = f"it ended without a result ({missing})" if code == 0 else worker.read_error()
            self.report_end(job, textwrap.shorten(job.error, 90, placeholder=" ..."))
        self.keep()

    def report(self, line: str) -> None:
        """Print a line with the time since the start."""
        self.last_line = time.monotonic()
        self.say(f"{_format_clock(time.time() - self.began):>8}  {line}".rstrip())

    def report_end(self, job: Job, detail: str = "") -> None:
        """Print the outcome of a job; its seconds are those of all its starts."""
        self.reported += 1
        left = sum(one.state in ("waiting", "running") for one in self.jobs)
        took = "" if job.seconds is None else f"{job.seconds:,.0f} s"
        self.report(f"{job.named:<34} {job.state:<8} {took:>7}  {detail or summarize_result(job)}")
        if left and self.reported % 20 == 0:
            self.report(f"{left} to go")

    def measure_memory(self) -> None:
        total = measure_memory(psutil.Process())
        for worker in self.workers:
            if used := worker.measure_memory():
                worker.job.peak_memory = max(worker.job.peak_memory or 0, used)
                total += used
        self.peak_memory = max(self.peak_memory or 0, total)

    @contextlib.contextmanager
    def catching_signals(self) -> Iterator[None]:
        """Pass Ctrl-C and SIGTERM on as SIGTERM, at which a job stops where it can resume; a second one kills them."""

        def stop(number: int, frame: Any) -> None:
            if os.getpid() != self.pid:
                os._exit(128 + number)  # a job's process that has not begun
            if self.stopping:
                if START not in os.environ:  # Slurm signals all processes of a job, and kills them itself
                    self.kill()
                return
            self.stopping = number
            self.say("stopping: the same command continues every stage; press Ctrl-C again to stop at once")
            for worker in self.workers:
                worker.process.terminate()

        before = {number: signal.signal(number, stop) for number in STOPS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def kill(self) -> None:
        for worker in self.workers:
            worker.process.kill()

    def keep(self) -> None:
        """Write state.json."""
        pipeline, seconds, commit = self.pipeline, self.spent + time.time() - self.began, self.commit
        previous = read_state(pipeline.dir)
        if previous and not any(job.began for job in self.jobs):
            # Nothing ran now, so the time and the commit of the earlier start stand.
            seconds, commit = previous["seconds"], previous["commit"]
        state = {
            "pipeline": str(pipeline.path),
            "title": pipeline.title,
            "about": pipeline.about,
            "state": self.state,
            "began": self.began,
            "overwriting": self.overwriting,
            "ended": None if self.working else time.time(),
            "seconds": round(seconds, 1),
            "peak_memory": self.peak_memory,
            "commit": commit,
            "seeds": pipeline.seeds,
            "jobs": pipeline.jobs,
            "cores": self.cores,
            "gpus": len(self.gpus),
            "stages": list_stages(pipeline, self.jobs),
        }
        write_json(pipeline.dir / STATE, state)


def count_threads(pipeline: Pipeline) -> int:
    """Threads of each job's process: OMP_NUM_THREADS, or an equal share of the cores."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() else max(1, count_cores() // pipeline.jobs)


def check_recipes(pipeline: Pipeline, jobs: list[Job]) -> None:
    """Check the recipes of all waiting jobs before any of them runs; this loads the libraries.

    Raises:
        RecipeError: naming the stage and the key.
    """
    todo = {job.stage.name: job for job in jobs if job.state == "waiting"}
    if not todo:
        return
    # The libraries read these variables when they are loaded.
    os.environ["OMP_NUM_THREADS"] = str(count_threads(pipeline))
    if not any(job.gpus for job in todo.values()):
        # A forked process cannot use CUDA if its parent has asked whether there is a GPU.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if sys.stderr.isatty():
        print("loading libraries ...", file=sys.stderr)
    for name, job in todo.items():
        try:
            load_recipe(job.stage.recipe, format_overrides(job.changes), max(1, job.gpus), planned=True)
        except RecipeError as error:
            raise RecipeError(f"stages ({name}): {error}") from error


def _count_waiting_chain(jobs: list[Job]) -> dict[int, int]:
    """Length of the longest chain of jobs that waits for each job, by `id(job)`; the longest chain starts first."""
    lengths = {id(job): 0 for job in jobs}
    for job in reversed(jobs):
        for upstream in job.upstream:
            lengths[id(upstream)] = max(lengths[id(upstream)], lengths[id(job)] + 1)
    return lengths


def _format_clock(seconds: float) -> str:
    """`12:05`, or `1:02:05` from an hour on."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
