"""`open-r1 submit`: a recipe as a job, a pipeline as jobs that depend on each other."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config.loading import load_recipe, resolve_recipe
from ..config.overrides import format_overrides, parse_overrides
from ..errors import RecipeError
from ..estimate.estimate import Options
from ..launch.nodes import count_gpus
from ..pipeline import command, estimates, fingerprint, graph, text
from ..pipeline.directory import delete_run, find_log
from ..pipeline.execute import Execution
from ..pipeline.plan import Job, save_fingerprint
from ..system.files import is_finished, read_json, write_json
from ..system.network import JOBS
from . import commands
from .request import Request, build_request, estimate_request, split_options
from .site import LOGS, SCRIPTS, SUBMITTED, load_site

FLAGS = ("dry_run", "test_only", "one_job", "array")
SITE_OPTIONS = ("partition", "account", "qos", "reservation")  # options of sbatch that hold for the report's job too
ARRAY_TASKS = ("sample", "evaluate")  # tasks whose work an array shares


@dataclass(frozen=True)
class Submission:
    """A command line of `open-r1 submit`, and the site that it submits to."""

    path: str  # of the recipe or pipeline
    changes: dict[str, Any]  # overrides of its keys
    options: dict[str, str | None]  # of sbatch; None for an option without a value
    dry_run: bool  # only print the requests
    test_only: bool  # only test the requests
    array: int | None  # number of jobs that share the work of a task in ARRAY_TASKS
    environment: dict[str, str]  # of sbatch
    partition: commands.Partition


def submit(path: str, words: list[str]) -> None:
    """Submit a recipe or a pipeline.

    Args:
        path: path of its file.
        words: `--dry-run`, `--test-only`, `--array N`, `--one-job` (pipelines), `--slurm.OPTION value`, and the words
            of `open-r1 train`.

    Raises:
        RecipeError: Slurm refuses the request, or the run is finished or queued already.
    """
    commands.require_slurm()
    if not (SCRIPTS / "job.sh").is_file():
        raise RecipeError(f"there is no {SCRIPTS}/job.sh in {Path.cwd()}: submit from the checkout")
    options, others = split_options(words)
    changes = parse_overrides(others)
    dry_run, test_only, one_job, array = (changes.pop(flag, None) for flag in FLAGS)
    if array is not None and (isinstance(array, bool) or not isinstance(array, int) or array < 1):
        raise RecipeError(f"--array: expected a number of jobs that share the work, 1 or more, got {array!r}")
    environment = load_site()
    partition = commands.find_partition(options.get("partition") or environment.get("SBATCH_PARTITION"))
    submission = Submission(path, changes, options, bool(dry_run), bool(test_only), array, environment, partition)
    if graph.is_pipeline(path) and not one_job:
        return _submit_pipeline(submission)
    directory, request = _request_one_job(submission) if graph.is_pipeline(path) else _request_recipe(submission)
    if dry_run:
        print(format_request(request))
        return None
    _refuse_second_job(directory, bool(changes.get("overwrite")))
    print("\n".join([*request.notes, test_request(request, environment)]))
    if test_only:
        return None
    id = send_request(request, environment)
    directory.mkdir(parents=True, exist_ok=True)
    log, run = request.find_log(id), shlex.quote(str(directory))
    write_json(directory / JOBS, {"jobs": [{"id": id, "log": log}]})
    log = log if "*" in log else shlex.quote(log)  # for an array it is a pattern, which the shell must expand
    print(f"job     {id}\nlog     {log}\nfollow  tail -F {log}\nstatus  make status RUN={run}\ncancel  scancel {id}")
    return None


def format_request(request: Request) -> str:
    """The notes, the sbatch line and the script of a request."""
    notes = "".join(f"# {note}\n" for note in request.notes)
    return f"{notes}{request}\n\n# {request.script}\n{request.script.read_text(encoding='utf-8')}"


def test_request(request: Request, environment: dict[str, str]) -> str:
    """Ask Slurm, without submitting, when and where a request would start.

    Raises:
        RecipeError: Slurm refuses the request.
    """
    done = _run_sbatch(["--test-only"], request, environment)
    output = done.stdout + done.stderr
    lines = (line.removeprefix("sbatch: ") for line in output.splitlines() if "to start at" in line)
    return next(lines, output.strip())


def send_request(request: Request, environment: dict[str, str]) -> str:
    """Submit a request. Returns the id of the job."""
    # Slurm does not make the folder of the log; without it the job would fail without a message.
    Path(str(request.options["output"])).parent.mkdir(parents=True, exist_ok=True)
    return _run_sbatch(["--parsable"], request, environment).stdout.partition(";")[0].strip()


def _run_sbatch(options: list[str], request: Request, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    sbatch, *words = request.line
    done = subprocess.run([sbatch, *options, *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RecipeError(f"Slurm refuses this request ({commands.format_error(done)}): {request}")
    return done


def _refuse_second_job(directory: Path, overwrite: bool) -> None:
    """Refuse a run that is finished, or that another job in the queue works on.

    Raises:
        RecipeError: with the job, or with the option that replaces the run.
    """
    path = directory / JOBS
    if is_finished(directory) and not overwrite:
        raise RecipeError(
            f"output_dir: {directory} holds a finished run; add --overwrite to replace it, or another --output_dir"
        )
    ids = [entry["id"] for entry in read_json(path)["jobs"]] if path.is_file() else []
    active = [job for jobs in commands.list_jobs(ids).values() for job in jobs if job.active]
    if active:
        raise RecipeError(
            f"output_dir: job {active[0].id} ({active[0].state}) already works on {directory}; wait for it or "
            f"scancel {ids[0]}, or choose another --output_dir"
        )


def _request_recipe(submission: Submission) -> tuple[Path, Request]:
    """The run directory and the request of a recipe."""
    path, changes, options = submission.path, submission.changes, submission.options
    processes = changes.pop("processes", None)
    if submission.array is not None:
        task = resolve_recipe(Path(path), changes)[0]
        if task not in ARRAY_TASKS:
            raise RecipeError(f"--array: an array shares the work of sampling or evaluation, and {path} is {task}")
        options = {"array": f"0-{submission.array - 1}"} | options
    words = format_overrides(changes)
    # A wrong key is an error here already, not only in the job.
    loaded = load_recipe(path, words, processes, planned=True)
    estimated = estimate_request(path, changes)
    return loaded.run_dir, build_request(path, changes, options, submission.partition, processes, estimated)


def _request_one_job(submission: Submission) -> tuple[Path, Request]:
    """The directory of a pipeline, and the request of one job that runs all its stages on one node."""
    own = {key: value for key, value in submission.changes.items() if key not in graph.FLAGS}
    read = graph.read_pipeline(Path(submission.path), own)
    of_stages = [resolve_recipe(Path(stage.recipe), stage.overrides)[1] for stage in read.stages]
    gpus = 0 if read.toy else max(sum(count_gpus(given)) for given in of_stages)
    derived = {
        "job-name": read.path.stem,
        "nodes": "1",
        "gpus-per-node": str(gpus),
        "mincpus": str(2 * read.jobs),
        "output": str(LOGS / "%x-%j.out"),
    }
    words = [submission.path, *format_overrides(submission.changes)]
    return read.dir, Request(SCRIPTS / "train.slurm", words, derived | submission.options)


def _submit_pipeline(submission: Submission) -> None:
    """Submit a job for each stage that is not done and not queued, and a last job that writes the report."""
    changes, environment = submission.changes, submission.environment
    of_start = {flag: changes.pop(flag, None) for flag in graph.FLAGS if flag != "dry_run"}
    dry = submission.dry_run or submission.test_only
    pipeline, jobs, overwrite = command.plan_pipeline(submission.path, changes, of_start | {"dry_run": dry})
    entries = _find_queued(jobs)
    queued = {entry["dir"]: entry["id"] for entry in entries}
    left = [job for job in jobs if job.state == "waiting" and str(job.dir) not in queued]
    requests = _request_stages(submission, pipeline, left)
    report = _request_report(pipeline, submission.options)
    print(text.format_start(pipeline, jobs))
    rows = [
        (job.named, request, " and ".join(other.named for other in job.upstream if not other.done))
        for job, request in zip(left, requests, strict=True)
    ]
    rows += [("report", report, "all of them")] if left or entries else []
    # All requests are tested before the first is submitted: a refusal would leave half a pipeline in the queue.
    for name, request, after in rows:
        line = f"{request}" + (f"    # after {after}" if after else "")
        tested = line if submission.dry_run else f"{name:<34} {test_request(request, environment)}"
        if dry:
            print(tested)
    if dry:
        return
    command.save_plan(pipeline, changes, jobs)
    Execution(pipeline, jobs, overwriting=command.find_overwrite_start(pipeline) if overwrite else None).keep()
    kept = pipeline.dir / SUBMITTED
    if kept.is_file() and (before := read_json(kept).get("report")):
        commands.run_command("scancel", before, check=False)  # it would not wait for the new jobs
    write_json(kept, {"jobs": entries})
    for job in jobs:
        if job.state == "waiting" and str(job.dir) in queued:
            print(f"{job.named:<34} job {queued[str(job.dir)]} is queued already")
    for job, request in zip(left, requests, strict=True):
        entries.append(_submit_stage(job, request, queued, environment))
        write_json(kept, {"jobs": entries})
    if entries:
        ids = [entry["id"] for entry in entries]
        report.options["dependency"] = f"afterany:{':'.join(ids)}"
        last = send_request(report, environment)
        write_json(kept, {"jobs": entries, "report": last})
        print(f"{'report':<34} job {last}")
        print(f"cancel  scancel {' '.join([*ids, last])}    (the same command then goes on)")
    print(f"status  make status RUN={shlex.quote(str(pipeline.dir))}")


def _request_stages(submission: Submission, pipeline: graph.Pipeline, jobs: list[Job]) -> list[Request]:
    """The request of each job: named after its stage, and an array if its task can share work."""
    estimated = {}
    if not pipeline.toy and any(job.gpus for job in jobs):
        of_stages = estimates.estimate_stages(Path(submission.path), dict(submission.changes), Options())
        estimated = {stage.name: stage.estimate for stage in of_stages}
    requests = []
    for job in jobs:
        request = build_request(
            job.stage.recipe,
            job.changes,
            submission.options,
            submission.partition,
            None,
            estimated.get(job.stage.name),
        )
        log = pipeline.dir / find_log(job.stage, job.seed)
        options = {"job-name": f"{pipeline.path.stem}-{log.stem}"}
        if submission.array is not None and job.stage.task in ARRAY_TASKS:
            options["array"] = f"0-{submission.array - 1}"
            log = log.with_name(f"{log.stem}.%a.log")
        requests.append(replace(request, options=request.options | options | {"output": str(log)}))
    return requests


def _submit_stage(job: Job, request: Request, queued: dict[str, str], environment: dict[str, str]) -> dict[str, str]:
    """Submit the job of a stage after the jobs that it depends on. Returns its entry, and adds its id to `queued`."""
    after = sorted({queued[str(other.dir)] for other in job.upstream if str(other.dir) in queued}, key=int)
    if after:
        request.options |= {"dependency": f"afterok:{':'.join(after)}", "kill-on-invalid-dep": "yes"}
    if job.again:
        delete_run(job.dir)
    save_fingerprint(job)
    id = queued[str(job.dir)] = send_request(request, environment | {fingerprint.DIGEST: job.address["digest"]})
    # Written after each job: if this process is stopped, what is queued is known, also to other pipelines.
    entry = {"id": id, "log": request.find_log(id)}
    write_json(job.dir / JOBS, {"jobs": [entry]})
    print(f"{job.named:<34} job {id}" + (f" after {', '.join(after)}" if after else ""), flush=True)
    return entry | {"dir": str(job.dir)}


def _find_queued(jobs: list[Job]) -> list[dict[str, str]]:
    """Entries of the stages that are in the queue, whoever submitted them."""
    kept = [job.dir for job in jobs if job.state == "waiting" and (job.dir / JOBS).is_file()]
    entries = [entry | {"dir": str(path)} for path in kept for entry in read_json(path / JOBS)["jobs"]]
    known = commands.list_jobs([entry["id"] for entry in entries])
    return [entry for entry in entries if any(job.active for job in known.get(entry["id"], []))]


def _request_report(pipeline: graph.Pipeline, options: dict[str, str | None]) -> Request:
    """The request of the last job, which writes the report of the pipeline, also if stages have failed."""
    derived = {key: value for key, value in options.items() if key in SITE_OPTIONS} | {
        "job-name": f"{pipeline.path.stem}-report",
        "output": str(pipeline.dir / "logs" / "report.log"),
    }
    return Request(SCRIPTS / "report.slurm", [str(pipeline.dir)], derived)
