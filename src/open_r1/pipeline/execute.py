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
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

import psutil

from .. import directory
from ..configs import load_recipe, resolve, words_of
from ..directory import is_locked, read_json, write_json
from ..errors import RecipeError
from . import address
from .graph import Pipeline, Stage
from .plan import STATE, Job, differences, keep_address, missing, read_state

LOOK = 1.0  # seconds between two looks at memory, and at directories that others hold
INTERRUPTED = (130, 143, -signal.SIGINT, -signal.SIGTERM)
Say = Callable[[str], None]


@dataclass
class Worker:
    """The process of a running job, and the GPUs it has."""

    job: Job
    process: Any
    log: Path
    gpus: list[int] = field(default_factory=list)


class Execution:
    """A pipeline under way.

    Args:
        pipeline: read and checked; its directory is held by this process.
        jobs: the plan.
        say: where a line for the person watching goes.
    """

    def __init__(self, pipeline: Pipeline, jobs: list[Job], say: Say = print):
        self.pipeline, self.jobs, self.say = pipeline, jobs, say
        self.began = time.time()
        self.workers: list[Worker] = []
        self.stopping: int | None = None
        self.spent, self.peak_memory = _carried(pipeline.dir, jobs)
        self.cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.gpus: list[int] = []
        self.free: list[int] = []
        self.said = 0

    def run(self) -> None:
        """Run what is waiting until nothing can be run any more."""
        todo = [job for job in self.jobs if job.state == "waiting"]
        try:
            if todo:
                self.prepare(todo)
                with self.catching_signals():
                    self.work()
        except BaseException:
            self.kill()
            raise
        finally:
            for job in self.jobs:
                if job.state in ("waiting", "running"):
                    job.state = "interrupted" if job.state == "running" else "waiting"
            self.keep("interrupted" if self.stopping else "failed" if self.failed else "finished")

    @property
    def failed(self) -> bool:
        return any(job.state in ("failed", "blocked", "interrupted") for job in self.jobs)

    def prepare(self, todo: list[Job]) -> None:
        """Load what the jobs need once for all of them, and refuse what cannot work before anything runs.

        Raises:
            RecipeError: naming the stage.
        """
        wanted = max(job.gpus for job in todo)
        # Threads beyond the cores only wait for each other; the libraries read this when they are loaded.
        os.environ["OMP_NUM_THREADS"] = str(self.threads)
        if sys.stderr.isatty():
            print("loading libraries ...", file=sys.stderr)
        from .. import launch

        for task in sorted({job.stage.task for job in todo}):
            importlib.import_module(launch.module_of(task))
        if wanted:
            import torch

            self.gpus = self.free = list(range(torch.cuda.device_count()))
            if wanted > len(self.gpus):
                names = ", ".join(dict.fromkeys(job.stage.name for job in todo if job.gpus > len(self.gpus)))
                raise RecipeError(
                    f"stages ({names}): {wanted} GPUs are wanted, and this machine has {len(self.gpus)}; set "
                    "--<stage>.gpus (and raise gradient_accumulation_steps to keep the batch), or see it run at toy "
                    "size with --toy"
                )
        checked = set[str]()
        for job in todo:
            if job.stage.name not in checked:
                checked.add(job.stage.name)
                try:
                    load_recipe(job.stage.recipe, words_of(job.changes), max(1, job.gpus), planned=True)
                except RecipeError as error:
                    raise RecipeError(f"stages ({job.stage.name}): {error}") from error
        # A collection would write to, and so copy, pages that the processes share.
        gc.collect()
        gc.freeze()

    @property
    def threads(self) -> int:
        """Of each process."""
        return max(1, self.cores // self.pipeline.jobs)

    def work(self) -> None:
        looked = 0.0
        ahead = _ahead(self.jobs)
        while True:
            self.block()
            ready = [job for job in self.jobs if job.state == "waiting" and all(one.done for one in job.upstream)]
            for job in sorted(ready, key=lambda job: -ahead[id(job)]):
                if not self.stopping and len(self.workers) < self.pipeline.jobs and job.gpus <= len(self.free):
                    self.start(job)
            waits_for_others = not self.stopping and any(is_locked(job.dir) for job in ready)
            if not self.workers and not waits_for_others:
                return
            if not self.workers:
                time.sleep(LOOK)
            ended = connection.wait([worker.process.sentinel for worker in self.workers], LOOK)
            for worker in [worker for worker in self.workers if worker.process.sentinel in ended]:
                self.end(worker)
            if time.monotonic() - looked >= LOOK:
                looked = time.monotonic()
                self.look_at_memory()

    def block(self) -> None:
        """Jobs whose inputs will not come."""
        for job in self.jobs:  # each after those it takes something from
            lost = [one.named for one in job.upstream if one.state in ("failed", "blocked")]
            if job.state == "waiting" and lost:
                job.state, job.why = "blocked", f"needs {' and '.join(lost)}"
                self.keep()

    def start(self, job: Job) -> None:
        """Start a job, unless another pipeline is at it; it then may turn out finished."""
        if is_locked(job.dir):
            return
        if missing(job.dir, job.stage.task) is None:
            job.state, job.seconds = "finished", read_json(job.dir / "status.json").get("seconds")
            self.tell(job, "made by another pipeline")
            return
        keep_address(job)
        log = self.pipeline.dir / log_of(job.stage, job.seed)
        log.parent.mkdir(exist_ok=True)
        gpus, self.free = self.free[: job.gpus], self.free[job.gpus :]
        # Not a fork where there is CUDA, which a forked process cannot use.
        context = multiprocessing.get_context("spawn" if self.gpus else "fork")
        words = words_of(job.changes)
        given = (job.stage.recipe, words, job.address, log, self.threads, gpus if self.gpus else None)
        process = context.Process(target=_do, args=given, name=job.named)
        process.start()
        self.workers.append(Worker(job, process, log, gpus))
        job.state, job.began = "running", time.time()
        self.keep()

    def end(self, worker: Worker) -> None:
        """Say how the job of a process that has ended came out."""
        worker.process.join()
        job, code = worker.job, worker.process.exitcode
        self.workers.remove(worker)
        self.free = sorted(self.free + worker.gpus)
        job.ended = time.time()
        status = directory.status(job.dir)
        job.seconds = status.get("seconds", round(job.ended - (job.began or job.ended), 1))
        gone = missing(job.dir, job.stage.task)
        if code == 0 and gone is None:
            job.state = "finished"
            self.tell(job)
        elif is_locked(job.dir):
            # Another pipeline has begun it in the same moment.
            job.state = "waiting"
        elif self.stopping and code in INTERRUPTED:
            job.state = "interrupted"
        else:
            job.state = "failed"
            job.error = f"it ended without a result ({gone})" if code == 0 else _last_words(worker.log, code)
            self.tell(job, job.error)
        self.keep()

    def tell(self, job: Job, more: str = "") -> None:
        self.said += 1
        left = sum(one.state in ("waiting", "running") for one in self.jobs)
        took = "" if job.seconds is None else f"{job.seconds:,.0f} s"
        told = more or figure_of(job)
        self.say(f"{_clock(time.time() - self.began):>8}  {job.named:<34} {job.state:<8} {took:>7}  {told}".rstrip())
        if left and self.said % 20 == 0:
            self.say(f"{'':>8}  {left} to go")

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
            if self.stopping:
                self.kill()
                return
            self.stopping = number
            self.say("stopping: every stage goes on from where it was, by the same command (once more to end at once)")
            for worker in self.workers:
                worker.process.terminate()

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def kill(self) -> None:
        for worker in self.workers:
            worker.process.kill()

    def keep(self, state: str = "running") -> None:
        """Write what the pipeline's directory says of it."""
        pipeline, seconds = self.pipeline, self.spent + time.time() - self.began
        of_place = {(stage.name, seed): (stage, job) for job in self.jobs for stage, seed in job.places}
        told = [
            _told(*of_place[stage.name, seed], seed)
            for seed in pipeline.seeds
            for stage in pipeline.stages
            if (stage.name, seed) in of_place
        ]
        # Where nothing was run, what is there took as long as it says.
        known = read_state(pipeline.dir)
        if not any(job.began for job in self.jobs) and known.get("seconds") is not None:
            seconds = known["seconds"]
        about = {
            "pipeline": str(pipeline.path),
            "title": pipeline.title,
            "state": state,
            "began": self.began,
            "ended": None if state == "running" else time.time(),
            "seconds": round(seconds, 1),
            "peak_memory": self.peak_memory,
            "commit": directory.commit() if not known or any(job.began for job in self.jobs) else known.get("commit"),
            "seeds": pipeline.seeds,
            "jobs": pipeline.jobs,
            "cores": self.cores,
            "gpus": len(self.gpus),
            "stages": told,
        }
        write_json(pipeline.dir / STATE, about)


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
        "log": log_of(*job.places[0]),
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
    return stage.name if seed is None else f"seed={seed}/{stage.name}"


def log_of(stage: Stage, seed: int | None) -> str:
    return f"logs/{stage.name}{'' if seed is None else f'--seed={seed}'}.log"


def show(pipeline: Pipeline, jobs: list[Job]) -> None:
    """Links in the pipeline's directory to the run directories of its stages; those of earlier plans are removed."""
    for link in [*pipeline.dir.glob("*"), *pipeline.dir.glob("seed=*/*")]:
        if link.is_symlink():
            link.unlink()
    for folder in pipeline.dir.glob("seed=*"):
        with contextlib.suppress(OSError):  # somebody has put something there
            folder.rmdir()
    for job in jobs:
        for stage, seed in job.places:
            link = pipeline.dir / view_of(stage, seed)
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(os.path.relpath(job.dir, link.parent.resolve()))


def discard(jobs: list[Job]) -> None:
    """Delete the directories of jobs that are to be run again."""
    for job in jobs:
        if is_locked(job.dir):
            raise RecipeError(f"another process is running in {job.dir}; wait for it, or stop it")
        shutil.rmtree(job.dir, ignore_errors=True)


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


def _last_words(log: Path, code: int) -> str:
    """What a failed job said last: its error, or the last line of a traceback."""
    if code < 0 and -code != signal.SIGTERM:
        ended = f"it was ended by {signal.Signals(-code).name}"
        return ended + (" (by the system, if the memory was used up)" if -code == signal.SIGKILL else "")
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    lines = [line.rpartition("\r")[2].strip() for line in lines if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else "")
    return said.removeprefix("error: ") or f"exit code {code}"


def _do(
    recipe: str, words: list[str], planned: dict[str, Any], log: Path, threads: int, gpus: list[int] | None
) -> None:
    """The process of a job: its recipe as planned, told in its log."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
    # Ctrl-C reaches the parent alone, which passes it on.
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    with log.open("ab", buffering=0) as opened:
        for descriptor in (1, 2):
            os.dup2(opened.fileno(), descriptor)
    print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} open-r1 train {recipe} {' '.join(words)}", flush=True)
    import torch

    from .. import launch, run

    run.begin_in_a_fork()
    run.die_with_parent()
    torch.set_num_threads(threads)

    def task() -> run.Run:
        refuse_another(recipe, words, planned)
        return launch.train(recipe, words)

    run.guarded(task)


def refuse_another(recipe: str, words: list[str], planned: dict[str, Any]) -> None:
    """A result must be of what its directory is named by, and recipes and code may change while others run.

    Raises:
        RecipeError: they have changed since the pipeline was started.
    """
    from ..configs import parse_overrides

    found = address.of(*resolve(Path(recipe), parse_overrides(words)))
    if found["digest"] != planned["digest"]:
        told = "; ".join(differences(planned, found))
        raise RecipeError(f"changed since the pipeline was started ({told}); start it again to go on with that")
