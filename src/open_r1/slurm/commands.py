"""What Slurm says: of jobs, partitions and nodes, by its own commands."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, replace

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
        state: as Slurm names it.
        reason: why it waits, or how it ended.
        nodes: where it runs or ran.
        elapsed, left: of its start, as `1-02:03:04`; of its limit.
        exit_code: `0:0`, of one that has ended.
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
        """True unless it has ended, or waits for what will not come, so that Slurm is about to cancel it."""
        return self.state not in FINAL and self.reason != "DependencyNeverSatisfied"


@dataclass(frozen=True)
class Partition:
    """A partition.

    Args:
        name: of it.
        gpus, cpus, memory: of the node with the most GPUs; memory in MB.
        nodes: how many have as many GPUs.
        limit: seconds that a job may take; None without one.
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
        RecipeError: with what to do.
    """
    if shutil.which("sbatch") is None:
        raise RecipeError("there is no sbatch here: submit on a login node of the cluster, or use open-r1 train")


def run_command(*words: str, check: bool = True) -> str:
    """What a command of Slurm's prints.

    Raises:
        RecipeError: it fails, with its words.
    """
    done = subprocess.run(words, capture_output=True, text=True)
    if check and done.returncode:
        raise RecipeError(f"{words[0]}: {format_complaint(done)}")
    return done.stdout


def format_complaint(failed: subprocess.CompletedProcess[str]) -> str:
    """What a command says of its failure, on one line."""
    lines = (failed.stderr.strip() or failed.stdout.strip()).splitlines()
    return "; ".join(line.strip().removeprefix(f"{failed.args[0]}: ") for line in lines)


def list_jobs(ids: list[str]) -> dict[str, list[Job]]:
    """Jobs by their ids, the tasks of an array under the array's; those that Slurm has forgotten are left out.

    Raises:
        RecipeError: Slurm does not answer, which says nothing of them.
    """
    known: dict[str, list[Job]] = {}
    if not ids or shutil.which("squeue") is None:  # as in a container
        return known
    for line in _queued(ids).splitlines():
        of_array, *rest = line.split("|")
        known.setdefault(of_array, []).append(Job(*rest))
    for id in ids:
        queued = {job.id for job in known.get(id, [])}
        # Of an array some tasks are in the queue and others have ended.
        if id not in queued and (ended := [job for job in _ended(id) if job.id not in queued]):
            known.setdefault(id, []).extend(ended)
    return known


def _queued(ids: list[str]) -> str:
    """Lines of squeue; none if it has forgotten all of these jobs, of which it makes an error."""
    asked = ("squeue", "--noheader", "--array", f"--jobs={','.join(ids)}", "--format=%F|%i|%T|%r|%N|%M|%L")
    try:
        return run_command(*asked)
    except RecipeError as error:
        if "Invalid job id" not in str(error):
            raise
        return ""


def _ended(id: str) -> list[Job]:
    """A job or tasks of an array that have ended: the controller knows them for minutes, the accounting for good."""
    found: dict[str, Job] = {}
    for line in run_command("scontrol", "--oneliner", "show", "job", id, check=False).splitlines():
        told = dict(re.findall(r"(\w+)=(\S*)", line))
        if "JobState" in told:
            number = f"{id}_{told['ArrayTaskId']}" if "ArrayTaskId" in told else id
            nodes = told.get("NodeList", "").replace("(null)", "")
            # One that never ran has been waiting since 1970.
            elapsed = told["RunTime"] if nodes else ""
            found[number] = Job(number, told["JobState"], told["Reason"], nodes, elapsed, "", told["ExitCode"])
    if id in found:
        return [found[id]]
    asked = ("sacct", "--noheader", "--parsable2", "--allocations", "--jobs", id)
    for line in run_command(*asked, "--format=JobID,State,NodeList,Elapsed,ExitCode", check=False).splitlines():
        number, state, nodes, elapsed, code = line.split("|")
        found.setdefault(number, Job(number, state.split()[0], "", nodes, elapsed, "", code))
    return [job for job in found.values() if job.state in FINAL]  # not tasks that are still to come


def find_partition(name: str | None) -> Partition:
    """A partition by its name, or the default one.

    Raises:
        RecipeError: there is none of that name.
    """
    found: dict[str, Partition] = {}
    default = None
    for line in run_command("sinfo", "--noheader", "--format=%P|%G|%c|%m|%D|%l").splitlines():
        told, gres, cpus, memory, nodes, limit = line.split("|")
        own = told.rstrip("*")
        default = own if told.endswith("*") else default
        gpus = sum(int(number) for number in re.findall(r"(?:^|,)gpu:(?:[^:,()]+:)?(\d+)", gres))
        # Of nodes that differ, the least: `64+`.
        this = Partition(
            own, gpus, int(cpus.rstrip("+")), int(memory.rstrip("+")), int(nodes), parse_time_limit(limit)
        )
        before = found.get(own)
        if before is not None and gpus == before.gpus:
            this = replace(
                this,
                cpus=min(this.cpus, before.cpus),
                memory=min(this.memory, before.memory),
                nodes=this.nodes + before.nodes,
            )
        if before is None or gpus >= before.gpus:
            found[own] = this
    chosen = name.partition(",")[0] if name else default  # of several, sbatch takes the one that is free first
    if chosen is None:
        raise RecipeError(f"partition: the cluster has no default one; name one of {', '.join(found)}")
    if chosen not in found:
        raise RecipeError(f"partition: there is none named {chosen!r}{suggest_nearest(chosen, list(found))}")
    return found[chosen]


def parse_time_limit(limit: str) -> int | None:
    """Of `1-02:03:04`, `2:03:04`, `30:00` or `30` (minutes); None of `infinite` and the like."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+(?::\d+){0,2})", limit)
    if not found:
        return None
    days, numbers = int(found[1] or 0), [int(number) for number in found[2].split(":")]
    if found[1]:
        hours, minutes, rest = (*numbers, 0, 0)[:3]
    elif len(numbers) == 1:
        hours, minutes, rest = 0, numbers[0], 0
    else:
        hours, minutes, rest = (0, *numbers)[-3:]
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def format_time_limit(seconds: float) -> str:
    """Seconds as sbatch's --time: `1-02:30:00`."""
    days, rest = divmod(int(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    return (f"{days}-" if days else "") + f"{hours:02d}:{minutes:02d}:{rest:02d}"
