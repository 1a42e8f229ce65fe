"""`open-r1 submit`: a recipe as a job, a pipeline as jobs that wait for each other."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config.loading import load_recipe, resolve_recipe
from ..config.overrides import format_overrides, parse_overrides
from ..errors import RecipeError
from ..estimate.estimate import Options
from ..pipeline import command, estimates, fingerprint, graph, plan, text
from ..pipeline.execute import Execution, delete_run, find_log
from ..pipeline.plan import Job, save_fingerprint
from ..system.files import is_finished, read_json, write_json
from ..system.network import JOBS
from . import commands, request
from .request import Request
from .site import LOGS, SCRIPTS, SUBMITTED, load_site

FLAGS = ("dry_run", "test_only", "one_job", "array")
WHERE = ("partition", "account", "qos", "reservation")  # options of sbatch that are of any job
ARRAYS = ("sample", "evaluate")  # stages whose work an array shares


def submit(path: str, words: list[str]) -> None:
    """Submit a recipe or a pipeline.

    Args:
        path: of it.
        words: `--dry-run`, `--test-only`, `--array N`, `--one-job` of a pipeline, `--slurm.OPTION value`, and what
            `open-r1 train` takes.

    Raises:
        RecipeError: Slurm refuses it, or it is done or queued already.
    """
    commands.require_slurm()
    if not (SCRIPTS / "job.sh").is_file():
        raise RecipeError(f"there is no {SCRIPTS}/job.sh in {Path.cwd()}: submit from the checkout")
    asked, own = request.split_options(words)
    changes = parse_overrides(own)
    flags = {flag: changes.pop(flag, None) for flag in FLAGS}
    around = load_site()
    there = commands.find_partition(asked.get("partition") or around.get("SBATCH_PARTITION"))
    array = None if flags["array"] is None else _count(flags["array"])
    if graph.is_pipeline(path) and not flags["one_job"]:
        return _stages(path, changes, asked, there, around, flags, array)
    if graph.is_pipeline(path):
        directory, one = _of_a_pipeline(path, changes, asked)
    else:
        processes = changes.pop("processes", None)
        if array is not None:
            task = resolve_recipe(Path(path), changes)[0]
            if task not in ARRAYS:
                raise RecipeError(f"--array: jobs of an array share sampling or evaluation, and {path} is {task}")
            asked = {"array": f"0-{array - 1}"} | asked
        # A wrong key is refused here, and not by the job.
        loaded = load_recipe(path, format_overrides(changes), processes, planned=True)
        directory = loaded.run_dir
        one = request.build_request(path, changes, asked, there, processes, request.estimate_request(path, changes))
    if flags["dry_run"]:
        print(shown(one))
        return None
    _refuse_twice(directory, bool(changes.get("overwrite")))
    print("\n".join([*one.notes, test(one, around)]))
    if flags["test_only"]:
        return None
    id = send(one, around)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / JOBS, {"jobs": [{"id": id, "log": one.log_of(id)}]})
    log, run = one.log_of(id), shlex.quote(str(directory))
    log = log if "*" in log else shlex.quote(log)  # of an array it is a pattern
    print(f"job     {id}\nlog     {log}\nfollow  tail -F {log}\nstatus  make status RUN={run}\ncancel  scancel {id}")
    return None


def shown(one: Request) -> str:
    """The exact sbatch line and script, and what is to be known of them."""
    notes = "".join(f"# {note}\n" for note in one.notes)
    return f"{notes}{one}\n\n# {one.script}\n{one.script.read_text(encoding='utf-8')}"


def test(one: Request, around: dict[str, str]) -> str:
    """What Slurm says of a request without taking it: when and where it would start.

    Raises:
        RecipeError: it refuses it.
    """
    done = _sbatch(["--test-only"], one, around)
    said = done.stdout + done.stderr
    return next((line.removeprefix("sbatch: ") for line in said.splitlines() if "to start at" in line), said.strip())


def send(one: Request, around: dict[str, str]) -> str:
    """Submit a request; the job's id."""
    log = Path(str(one.options["output"]))
    # A folder that is not there Slurm does not make: the job would fail without a word.
    log.parent.mkdir(parents=True, exist_ok=True)
    return _sbatch(["--parsable"], one, around).stdout.partition(";")[0].strip()


def _sbatch(options: list[str], one: Request, around: dict[str, str]) -> subprocess.CompletedProcess[str]:
    sbatch, *words = one.line
    done = subprocess.run([sbatch, *options, *words], capture_output=True, text=True, env=around)
    if done.returncode:
        raise RecipeError(f"Slurm refuses this request ({commands.format_complaint(done)}); it was: {one}")
    return done


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RecipeError(f"--array: a number of jobs that share the work, 1 or more, got {value!r}")
    return value


def _refuse_twice(directory: Path, overwrite: bool) -> None:
    """Two jobs of one run directory would wait for nothing, or find it locked."""
    path = directory / JOBS
    if is_finished(directory) and not overwrite:
        raise RecipeError(
            f"output_dir: {directory} holds a finished run; add --overwrite to replace it, or another --output_dir"
        )
    ids = [told["id"] for told in read_json(path)["jobs"]] if path.is_file() else []
    active = [job for jobs in commands.list_jobs(ids).values() for job in jobs if job.active]
    if active:
        raise RecipeError(
            f"output_dir: job {active[0].id} ({active[0].state}) is of {directory} already; wait for it or "
            f"scancel {ids[0]}, or choose another --output_dir"
        )


def _of_a_pipeline(path: str, changes: dict[str, Any], asked: dict[str, str | None]) -> tuple[Path, Request]:
    """One job that runs all of a pipeline, stage by stage, on one node."""
    own = {key: value for key, value in changes.items() if key not in graph.FLAGS}
    read = graph.read_pipeline(Path(path), own)
    of_stages = [resolve_recipe(Path(stage.recipe), stage.overrides)[1] for stage in read.stages]
    gpus = 0 if read.toy else max(plan.count_gpus(given) for given in of_stages)
    options = {
        "job-name": read.path.stem,
        "nodes": "1",
        "gpus-per-node": str(gpus),
        "mincpus": str(2 * read.jobs),
        "output": str(LOGS / "%x-%j.out"),
    }
    return read.dir, Request(SCRIPTS / "train.slurm", [path, *format_overrides(changes)], options | asked)


def _stages(
    path: str,
    changes: dict[str, Any],
    asked: dict[str, str | None],
    there: commands.Partition,
    around: dict[str, str],
    flags: dict[str, Any],
    array: int | None,
) -> None:
    """A job for each stage that is not done, after those that it takes something from."""
    of_start = {flag: changes.pop(flag, None) for flag in graph.FLAGS if flag != "dry_run"}
    dry = flags["dry_run"] or flags["test_only"]
    pipeline, jobs, overwrite = command.plan_pipeline(path, changes, of_start | {"dry_run": dry})
    entries = _queued(jobs)
    queued = {entry["dir"]: entry["id"] for entry in entries}
    left = [job for job in jobs if job.state == "waiting" and str(job.dir) not in queued]
    gpus = any(job.gpus for job in left) and not pipeline.toy
    taken = (
        {one.name: one.estimate for one in estimates.estimate_stages(Path(path), dict(changes), Options())}
        if gpus
        else {}
    )
    requests = []
    for job in left:
        one = request.build_request(job.stage.recipe, job.changes, asked, there, None, taken.get(job.stage.name))
        requests.append(_placed(one, job, pipeline, array))
    print(text.format_start(pipeline, jobs))
    all_of_it = [
        (job.named, one, " and ".join(other.named for other in job.upstream if not other.done))
        for job, one in zip(left, requests, strict=True)
    ]
    if left or entries:
        all_of_it.append(("report", _report(pipeline, asked), "all of them"))
    # All of them before any is sent: one that is refused would leave half a pipeline in the queue.
    for name, one, after in all_of_it:
        line = f"{one}" + (f"    # after {after}" if after else "")
        said = line if flags["dry_run"] else f"{name:<34} {test(one, around)}"
        if dry:
            print(said)
    if dry:
        return
    command.save_plan(pipeline, changes, jobs)
    Execution(pipeline, jobs, overwriting=command.find_overwrite_start(pipeline) if overwrite else None).keep()
    kept = pipeline.dir / SUBMITTED
    if kept.is_file() and (before := read_json(kept).get("report")):
        commands.run_command("scancel", before, check=False)  # it would sum up too early now
    write_json(kept, {"jobs": entries})
    for job in jobs:
        if job.state == "waiting" and str(job.dir) in queued:
            print(f"{job.named:<34} job {queued[str(job.dir)]} is queued already")
    for job, one in zip(left, requests, strict=True):
        after = sorted({queued[str(other.dir)] for other in job.upstream if str(other.dir) in queued}, key=int)
        if after:
            one.options |= {"dependency": f"afterok:{':'.join(after)}", "kill-on-invalid-dep": "yes"}
        if job.again:
            delete_run(job.dir)
        save_fingerprint(job)
        id = queued[str(job.dir)] = send(one, around | {fingerprint.DIGEST: job.address["digest"]})
        # After each: whenever this is stopped, what is queued is known, also to other pipelines of the stage.
        entry = {"id": id, "log": one.log_of(id)}
        write_json(job.dir / JOBS, {"jobs": [entry]})
        entries.append(entry | {"dir": str(job.dir)})
        write_json(pipeline.dir / SUBMITTED, {"jobs": entries})
        print(f"{job.named:<34} job {id}" + (f" after {', '.join(after)}" if after else ""), flush=True)
    if entries:
        ids = [entry["id"] for entry in entries]
        report = _report(pipeline, asked)
        report.options["dependency"] = f"afterany:{':'.join(ids)}"
        last = send(report, around)
        write_json(pipeline.dir / SUBMITTED, {"jobs": entries, "report": last})
        print(f"{'report':<34} job {last}")
        print(f"cancel  scancel {' '.join([*ids, last])}    (the same command then goes on)")
    print(f"status  make status RUN={shlex.quote(str(pipeline.dir))}")


def _placed(one: Request, job: Job, pipeline: graph.Pipeline, array: int | None) -> Request:
    """A stage's request with its name and log of the pipeline, as an array where the work is shared."""
    log = pipeline.dir / find_log(job.stage, job.seed)
    options = {"job-name": f"{pipeline.path.stem}-{log.stem}"}
    if array is not None and job.stage.task in ARRAYS:
        options["array"] = f"0-{array - 1}"
        log = log.with_name(f"{log.stem}.%a.log")
    return replace(one, options=one.options | options | {"output": str(log)})


def _queued(jobs: list[Job]) -> list[dict[str, str]]:
    """Entries of those stages that are in the queue, by whatever pipeline or by hand."""
    kept = [job.dir for job in jobs if job.state == "waiting" and (job.dir / JOBS).is_file()]
    entries = [entry | {"dir": str(path)} for path in kept for entry in read_json(path / JOBS)["jobs"]]
    known = commands.list_jobs([entry["id"] for entry in entries])
    return [entry for entry in entries if any(job.active for job in known.get(entry["id"], []))]


def _report(pipeline: graph.Pipeline, asked: dict[str, str | None]) -> Request:
    """The last job, which sums up whatever became of the others."""
    options = {key: value for key, value in asked.items() if key in WHERE} | {
        "job-name": f"{pipeline.path.stem}-report",
        "output": str(pipeline.dir / "logs" / "report.log"),
    }
    return Request(SCRIPTS / "report.slurm", [str(pipeline.dir)], options)
