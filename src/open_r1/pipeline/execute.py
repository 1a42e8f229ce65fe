"""Run the jobs of a plan, several side by side, each in a process of its own.

The processes are forked from this one once it has loaded the libraries, so that a stage of seconds does not wait ten
for them; with GPUs they are started anew, because CUDA does not survive a fork. A job ends whole or goes on from where
it was: this process only keeps `state.json`, and may be killed at any moment.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

import psutil

from ..config.loading import load_recipe, resolve_recipe
from ..config.overrides import format_overrides, parse_overrides
from ..errors import RecipeError
from ..system import files, hardware
from ..system.files import read_json, write_json
from ..system.locks import is_locked
from ..system.network import START
from ..system.processes import die_with_parent
from . import fingerprint
from .graph import Pipeline, Stage
from .plan import STATE, Job, describe_differences, find_missing, read_state, save_fingerprint

STOPS = (signal.SIGINT, signal.SIGTERM)
SILENCE = 60.0  # seconds after which it says what is running
LOOK = 1.0  # seconds between two looks at memory, and at directories that others hold
INTERRUPTED = (130, 143, -signal.SIGINT, -signal.SIGTERM)
Say = Callable[[str], None]


@dataclass
class Worker:
    """The process of a running job, and the GPUs it has."""

    job: Job
    process: Any
    log: Path
    said: int  # bytes of the log before it
    gpus: list[str] = field(default_factory=list)


class Execution:
    """A pipeline under way.

    Args:
        pipeline: read and checked; its directory is held by this process.
        jobs: the plan.
        say: where a line for the person watching goes.
        overwriting: when the first of those starts began that are to run stages again (Unix time), if they are.
    """

    def __init__(self, pipeline: Pipeline, jobs: list[Job], say: Say = print, overwriting: float | None = None):
        self.pipeline, self.jobs, self.say, self.overwriting = pipeline, jobs, say, overwriting
        self.began, self.pid, self.commit = time.time(), os.getpid(), files.find_commit()
        self.workers: list[Worker] = []
        self.stopping: int | None = None
        self.spent, self.peak_memory = _carried(pipeline.dir, jobs)
        self.cores, self.threads = cores(), threads(pipeline)
        self.gpus: list[str] = []  # as CUDA_VISIBLE_DEVICES names them
        self.free: list[str] = []
        self.said, self.spoke = 0, time.monotonic()
        self.waited = set[Path]()
        self.working = False

    def run(self) -> None:
        """Run what is waiting until nothing can be run any more."""
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
        """Of the whole: running, failed, interrupted or finished."""
        states = {job.state for job in self.jobs}
        if self.working:
            return "running"
        if {"failed", "blocked"} & states:
            return "failed"
        return "interrupted" if {"interrupted", "waiting"} & states else "finished"

    def prepare(self, todo: list[Job]) -> None:
        """Load what the jobs need once for all of them, and refuse what cannot work before anything runs.

        Raises:
            RecipeError: naming the stage.
        """
        wanted = max(job.gpus for job in todo)
        from ..launch import local

        for module in ["matplotlib.figure", *(local.find_task_module(job.stage.task) for job in todo)]:
            importlib.import_module(module)
        if wanted:
            self.gpus = self.free = hardware.list_visible_gpus()
            if wanted > len(self.gpus):
                names = ", ".join(dict.fromkeys(job.stage.name for job in todo if job.gpus > len(self.gpus)))
                raise RecipeError(
                    f"stages ({names}): {wanted} GPUs are wanted, and this machine has {len(self.gpus)}; set "
                    "--<stage>.gpus (and raise gradient_accumulation_steps to keep the batch), or see it run at toy "
                    "size with --toy"
                )
        # A collection would write to, and so copy, pages that the processes share.
        gc.collect()
        gc.freeze()

    def work(self) -> None:
        looked = 0.0
        ahead = _ahead(self.jobs)
        while True:
            self.block()
            ready = [job for job in self.jobs if job.state == "waiting" and all(one.done for one in job.upstream)]
            held = []
            for job in sorted(ready, key=lambda job: -ahead[id(job)]):
                if not self.stopping and len(self.workers) < self.pipeline.jobs and job.gpus <= len(self.free):
                    held += [job] if is_locked(job.dir) else []
                    if job not in held:
                        self.start(job)
            if any(job.done for job in ready):
                continue  # another pipeline had made it, and what needs it may begin
            if not self.workers and not held:
                return
            self.wait_for_others(held)
            if self.workers and time.monotonic() - self.spoke > SILENCE:
                now = [
                    f"{worker.job.named} ({time.time() - (worker.job.began or 0):.0f} s)" for worker in self.workers
                ]
                self.tell(f"running {', '.join(now)}; they write to {self.pipeline.dir}/logs")
            ended = connection.wait([worker.process.sentinel for worker in self.workers], LOOK)
            for worker in [worker for worker in self.workers if worker.process.sentinel in ended]:
                self.end(worker)
            if time.monotonic() - looked >= LOOK:
                looked = time.monotonic()
                self.look_at_memory()

    def wait_for_others(self, held: list[Job]) -> None:
        """Say once of each what is waited for."""
        for job in held:
            if job.dir not in self.waited:
                self.waited.add(job.dir)
                self.tell(f"{job.named} is being made by another process in {job.dir}")
        if not self.workers:
            time.sleep(LOOK)

    def block(self) -> None:
        """Jobs whose inputs will not come."""
        for job in self.jobs:  # each after those it takes something from
            lost = [one.named for one in job.upstream if one.state in ("failed", "blocked")]
            if job.state == "waiting" and lost:
                job.state, job.why = "blocked", f"needs {' and '.join(lost)}"
                self.keep()

    def start(self, job: Job) -> None:
        """Start a job, or find that another pipeline has made it."""
        if find_missing(job) is None and not job.again:
            job.state, job.seconds = "finished", read_json(job.dir / "status.json").get("seconds")
            self.tell_end(job, "made by another pipeline")
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
            self.tell(f"{job.named} goes on from step {step}")
        process = context.Process(target=_do, args=given, name=job.named)
        said = log.stat().st_size if log.exists() else 0
        # A signal between the two would not reach the process.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        process.start()
        self.workers.append(Worker(job, process, log, said, gpus))
        job.state, job.began, job.again = "running", time.time(), False
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        self.keep()

    def end(self, worker: Worker) -> None:
        """Say how the job of a process that has ended came out."""
        worker.process.join()
        job, code = worker.job, worker.process.exitcode
        self.workers.remove(worker)
        self.free = sorted(self.free + worker.gpus)
        job.ended = time.time()
        status = files.read_status(job.dir)
        job.seconds = status.get("seconds", round(job.ended - (job.began or job.ended), 1))
        gone = find_missing(job)
        if code == 0 and gone is None:
            job.state = "finished"
            self.tell_end(job)
        elif is_locked(job.dir):
            # Another pipeline has begun it in the same moment.
            job.state = "waiting"
        elif self.stopping and code in (*INTERRUPTED, -signal.SIGKILL):
            job.state = "interrupted"
        else:
            job.state = "failed"
            job.error = (
                f"it ended without a result ({gone})" if code == 0 else _last_words(worker.log, worker.said, code)
            )
            self.tell_end(job, textwrap.shorten(job.error, 90, placeholder=" ..."))
        self.keep()

    def tell(self, line: str) -> None:
        """A line with the time since the start."""
        self.spoke = time.monotonic()
        self.say(f"{_clock(time.time() - self.began):>8}  {line}".rstrip())

    def tell_end(self, job: Job, more: str = "") -> None:
        """How a job came out: its seconds are those of all its starts."""
        self.said += 1
        left = sum(one.state in ("waiting", "running") for one in self.jobs)
        took = "" if job.seconds is None else f"{job.seconds:,.0f} s"
        self.tell(f"{job.named:<34} {job.state:<8} {took:>7}  {more or figure_of(job)}")
        if left and self.said % 20 == 0:
            self.tell(f"{left} to go")

    def look_at_memory(self) -> None:
        total = _memory(psutil.Process())
        for worker in self.workers:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(worker.process.pid)
                used = sum(_memory(one) for one in [process, *process.children(recursive=True)])
                worker.job.peak_memory = max(worker.job.peak_memory or 0, used)
                total += used
        self.peak_memory = max(self.peak_memory or 0, total)

    @contextlib.contextmanager
    def catching_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM reach the jobs as SIGTERM, at which they stop where they can go on; twice ends them."""

        def stop(number: int, frame: Any) -> None:
            if os.getpid() != self.pid:
                os._exit(128 + number)  # a job's process that has not begun
            if self.stopping:
                if START not in os.environ:  # Slurm says it to all processes of a job, and kills by itself
                    self.kill()
                return
            self.stopping = number
            self.say("stopping: every stage goes on from where it was, by the same command (once more to end at once)")
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
        """Write what the pipeline's directory says of it."""
        pipeline, seconds = self.pipeline, self.spent + time.time() - self.began
        of_place = {(stage.name, seed): (stage, job) for job in self.jobs for stage, seed in job.places}
        told = [
            _told(*of_place[stage.name, seed], seed)
            for seed in pipeline.seeds
            for stage in pipeline.stages
            if (stage.name, seed) in of_place
        ]
        known = read_state(pipeline.dir)
        # Where nothing was run, what is there took as long as it says, and is of that commit.
        commit, ran = self.commit, any(job.began for job in self.jobs)
        if known and not ran:
            seconds, commit = known["seconds"], known["commit"]
        about = {
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
            "stages": told,
        }
        write_json(pipeline.dir / STATE, about)


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(pipeline: Pipeline) -> int:
    """Of each process: more than its share of the cores would only wait for each other."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdigit() else max(1, cores() // pipeline.jobs)


def check_recipes(pipeline: Pipeline, jobs: list[Job]) -> None:
    """Refuse recipes that could not run, before anything does; the libraries are loaded for it.

    Raises:
        RecipeError: naming the stage and the key.
    """
    todo = {job.stage.name: job for job in jobs if job.state == "waiting"}
    if not todo:
        return
    # These are read when the libraries are loaded.
    os.environ["OMP_NUM_THREADS"] = str(threads(pipeline))
    if not any(job.gpus for job in todo.values()):
        # A process whose parent has touched CUDA cannot use it, and to ask whether there is any is a touch.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if sys.stderr.isatty():
        print("loading libraries ...", file=sys.stderr)
    for name, job in todo.items():
        try:
            load_recipe(job.stage.recipe, format_overrides(job.changes), max(1, job.gpus), planned=True)
        except RecipeError as error:
            raise RecipeError(f"stages ({name}): {error}") from error


def _carried(directory_of_pipeline: Path, jobs: list[Job]) -> tuple[float, int | None]:
    """Seconds and peak memory of earlier starts of these very jobs, if they did not come to their end."""
    known = read_state(directory_of_pipeline)
    if {stage["dir"] for stage in known.get("stages", [])} != {str(job.dir) for job in jobs}:
        return 0.0, None
    ended = known.get("state") == "finished"
    return (0.0 if ended else known.get("seconds") or 0.0), known.get("peak_memory")


def _ahead(jobs: list[Job]) -> dict[int, int]:
    """How long the longest chain of jobs is that waits for each: those begin first."""
    ahead = {id(job): 0 for job in jobs}
    for job in reversed(jobs):
        for one in job.upstream:
            ahead[id(one)] = max(ahead[id(one)], ahead[id(job)] + 1)
    return ahead


def _told(stage: Stage, job: Job, seed: int | None) -> dict[str, Any]:
    return {
        "name": stage.name,
        "seed": seed,
        "title": stage.title,
        "step": stage.step,
        "task": stage.task,
        "recipe": stage.recipe,
        "inputs": stage.inputs,
        "dir": str(job.dir),
        "view": view_of(stage, seed),
        "log": find_log(*job.places[0]),
        "state": job.state,
        "seconds": job.seconds,
        "peak_memory": job.peak_memory,
        "gpus": job.gpus,
        "error": job.error,
        "why": job.why,
        "began": job.began,
        "ended": job.ended,
    }


def view_of(stage: Stage, seed: int | None) -> str:
    """Where a stage's run directory is seen in the pipeline's."""
    return f"stages/{stage.name}" if seed is None else f"seed={seed}/{stage.name}"


def find_log(stage: Stage, seed: int | None) -> str:
    return f"logs/{stage.name}{'' if seed is None else f'--seed={seed}'}.log"


def link_runs(pipeline: Pipeline, jobs: list[Job]) -> None:
    """Links in the pipeline's directory to the run directories of its stages; those of earlier plans are removed."""
    for folder in [*pipeline.dir.glob("seed=*"), pipeline.dir / "stages"]:
        for link in folder.glob("*"):
            if link.is_symlink():
                link.unlink()
        with contextlib.suppress(OSError):  # it is not there, or somebody has put something into it
            folder.rmdir()
    for job in jobs:
        for stage, seed in job.places:
            link = pipeline.dir / view_of(stage, seed)
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(os.path.relpath(job.dir, link.parent.resolve()))


def delete_run(run_dir: Path) -> None:
    """Delete a run directory, its status first: half of one must not look like a finished run."""
    (run_dir / "status.json").unlink(missing_ok=True)
    shutil.rmtree(run_dir, ignore_errors=True)


def figure_of(job: Job) -> str:
    """What a finished job came to, in a few words."""
    path = job.dir / "summary.json"
    found = read_json(path) if path.is_file() else {}
    if job.stage.task == "evaluate":
        told = []
        for path in sorted((job.dir / "evaluations").glob("*.json")):
            of_benchmark = read_json(path)
            name, value = next(iter(of_benchmark["metrics"].items()))
            told.append(f"{path.stem} {name} {_percent(value)}")
        return ", ".join(told)
    if "before" in found:
        return f"pass@1 {_percent(found['before']['pass@1'])} to {_percent(found['after']['pass@1'])}"
    return f"{found['rows']:,} rows" if "rows" in found else ""


def _percent(figure: dict[str, Any]) -> str:
    return "-" if figure["value"] is None else f"{100 * figure['value']:.1f}%"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _memory(process: psutil.Process) -> int:
    """Bytes of a process, what it shares with others in proportion; where the kernel tells only all of it, that."""
    try:
        full = process.memory_full_info()
    except psutil.Error:
        return 0
    return getattr(full, "pss", None) or full.rss


def _last_words(log: Path, before: int, code: int) -> str:
    """What a failed job said last: its error, or the last line of a traceback.

    Args:
        log: to which it was added.
        before: bytes that are of earlier starts.
        code: its exit code.
    """
    if code < 0 and -code != signal.SIGTERM:
        ended = f"it was ended by {signal.Signals(-code).name}"
        return ended + (" (by the system, if the memory was used up)" if -code == signal.SIGKILL else "")
    text = log.read_bytes()[before:].decode(errors="replace") if log.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else "")
    return said.removeprefix("error: ") or f"exit code {code}"


def _do(
    recipe: str,
    words: list[str],
    planned: dict[str, Any],
    log: Path,
    threads: int,
    gpus: list[str] | None,
    parent: int,
) -> None:
    """The process of a job: its recipe as planned, told in its log."""
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

    def task() -> run.Run | None:
        refuse_another(recipe, words, planned)
        return local.run_recipe(recipe, words)

    exit.run_guarded(task)


def refuse_another(recipe: str, words: list[str], planned: dict[str, Any]) -> None:
    """A result must be of what its directory is named by, and recipes and code may change while others run.

    Raises:
        RecipeError: they have changed since the pipeline was started.
    """
    found = fingerprint.fingerprint_stage(*resolve_recipe(Path(recipe), parse_overrides(words)))
    if found["digest"] != planned["digest"]:
        told = "; ".join(describe_differences(planned, found))
        raise RecipeError(f"changed since the pipeline was started ({told}); start it again to go on with that")
