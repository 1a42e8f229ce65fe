"""Run the commands of Slurm, and parse what they print about jobs and partitions."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from ..errors import RecipeError, suggest_nearest

FINAL = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A job, or a task of an array.

    Args:
        id: `12`, or `12_3`.
        state: Slurm's name of the state, such as PENDING.
        reason: why it waits, or how it ended.
        nodes: nodes on which it runs or ran.
        elapsed, left: time of its last start, and time to its limit, such as `1-02:03:04`.
        exit_code: exit code and signal of a job that has ended, such as `0:0`.
    """

    id: str
    state: str
    reason: str = ""
    nodes: str = ""
    elapsed: str = ""
    left: str = ""
    exit_code: str = ""

    @property
    def active(self) -> bool:
        """False if it has ended, or depends on a job that failed, so that Slurm will cancel it."""
        return self.state not in FINAL and self.reason != "DependencyNeverSatisfied"


@dataclass(frozen=True)
class Partition:
    """A partition, described by its nodes with the most GPUs.

    Args:
        name: name of the partition.
        gpus, cpus, memory: of such a node; memory in MB.
        nodes: number of such nodes.
        limit: time limit of a job in seconds; None without a limit.
    """

    name: str
    gpus: int
    cpus: int
    memory: int
    nodes: int
    limit: int | None


def require_slurm() -> None:
    """Refuse a machine without Slurm.

    Raises:
        RecipeError: there is no sbatch.
    """
    if shutil.which("sbatch") is None:
        raise RecipeError("there is no sbatch here: submit on a login node of the cluster, or use open-r1 train")


def run_command(*words: str, check: bool = True) -> str:
    """Run a command of Slurm. Returns what it prints.

    Args:
        words: the command.
        check: whether a failure is an error.

    Raises:
        RecipeError: the command fails; the message has its error.
    """
    done = subprocess.run(words, capture_output=True, text=True)
    if check and done.returncode:
        raise RecipeError(f"{words[0]}: {format_error(done)}")
    return done.stdout


def format_error(failed: subprocess.CompletedProcess[str]) -> str:
    """The error of a command in one line."""
    lines = (failed.stderr.strip() or failed.stdout.strip()).splitlines()
    return "; ".join(line.strip().removeprefix(f"{failed.args[0]}: ") for line in lines)


def list_jobs(ids: list[str]) -> dict[str, list[Job]]:
    """Find jobs by their ids. The id of an array leads to its tasks; ids that Slurm no longer knows are left out.

    Raises:
        RecipeError: Slurm does not answer, so that nothing is known about the jobs.
    """
    known: dict[str, list[Job]] = {}
    if not ids or shutil.which("squeue") is None:  # a container may not have Slurm's commands
        return known
    for line in _list_queued(ids).splitlines():
        array_id, *fields = line.split("|")
        known.setdefault(array_id, []).append(Job(*fields))
    for id in ids:
        queued = {job.id for job in known.get(id, [])}
        # Some tasks of an array may be in the queue while others have ended.
        if id not in queued and (ended := [job for job in _list_ended(id) if job.id not in queued]):
            known.setdefault(id, []).extend(ended)
    return known


def _list_queued(ids: list[str]) -> str:
    """The lines of squeue; none if it knows none of the jobs, which it reports as an error."""
    try:
        return run_command(
            "squeue", "--noheader", "--array", f"--jobs={','.join(ids)}", "--format=%F|%i|%T|%r|%N|%M|%L"
        )
    except RecipeError as error:
        if "Invalid job id" not in str(error):
            raise
        return ""


def _list_ended(id: str) -> list[Job]:
    """A job, or the tasks of an array, that ended: the controller knows them for minutes, the accounting for ever."""
    found: dict[str, Job] = {}
    for line in run_command("scontrol", "--oneliner", "show", "job", id, check=False).splitlines():
        fields = dict(re.findall(r"(\w+)=(\S*)", line))
        if "JobState" in fields:
            task = f"{id}_{fields['ArrayTaskId']}" if "ArrayTaskId" in fields else id
            nodes = fields.get("NodeList", "").replace("(null)", "")
            elapsed = fields["RunTime"] if nodes else ""  # the run time of a job that never ran counts from 1970
            found[task] = Job(task, fields["JobState"], fields["Reason"], nodes, elapsed, "", fields["ExitCode"])
    if id in found:
        return [found[id]]
    columns = "--format=JobID,State,NodeList,Elapsed,ExitCode"
    sacct = ("sacct", "--noheader", "--parsable2", "--allocations", "--jobs", id, columns)
    for line in run_command(*sacct, check=False).splitlines():
        task, state, nodes, elapsed, code = line.split("|")
        found.setdefault(task, Job(task, state.split()[0], "", nodes, elapsed, "", code))
    return [job for job in found.values() if job.state in FINAL]  # without tasks that still wait


def find_partition(name: str | None) -> Partition:
    """Find a partition by its name.

    Args:
        name: name of a partition, or several separated by commas, of which the first counts; None for the default.

    Raises:
        RecipeError: there is no such partition, or no default one.
    """
    found: dict[str, Partition] = {}
    default = None
    for line in run_command("sinfo", "--noheader", "--format=%P|%G|%c|%m|%D|%l").splitlines():
        marked, gres, *numbers, limit = line.split("|")
        partition = marked.rstrip("*")
        default = partition if marked.endswith("*") else default
        gpus = sum(int(number) for number in re.findall(r"(?:^|,)gpu:(?:[^:,()]+:)?(\d+)", gres))
        cpus, memory, nodes = (int(number.rstrip("+")) for number in numbers)  # `64+`: at least 64
        before = found.get(partition)
        if before is not None and gpus == before.gpus:
            cpus, memory, nodes = min(cpus, before.cpus), min(memory, before.memory), nodes + before.nodes
        if before is None or gpus >= before.gpus:
            found[partition] = Partition(partition, gpus, cpus, memory, nodes, parse_time_limit(limit))
    chosen = name.partition(",")[0] if name else default
    if chosen is None:
        raise RecipeError(
            f"partition: the cluster has no default partition; set --slurm.partition to one of {', '.join(found)}"
        )
    if chosen not in found:
        raise RecipeError(f"partition: there is none named {chosen!r}{suggest_nearest(chosen, list(found))}")
    return found[chosen]


def parse_time_limit(limit: str) -> int | None:
    """Seconds of a time as Slurm writes it; None for `infinite` and the like.

    >>> [parse_time_limit(text) for text in ("1-02:03:04", "2:03:04", "30:00", "30")]
    [93784, 7384, 1800, 1800]
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+(?::\d+){0,2})", limit)
    if match is None:
        return None
    numbers = [int(number) for number in match[2].split(":")]
    if match[1]:  # days-hours, with or without minutes and seconds
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    else:  # minutes, minutes:seconds or hours:minutes:seconds
        hours, minutes, seconds = (0, numbers[0], 0) if len(numbers) == 1 else (0, *numbers)[-3:]
    return ((int(match[1] or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def format_time_limit(seconds: float) -> str:
    """Seconds in the form of sbatch's `--time`, such as `1-02:30:00`."""
    days, rest = divmod(int(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    return (f"{days}-" if days else "") + f"{hours:02d}:{minutes:02d}:{rest:02d}"
