"""The outcome of a start of a job: `python -m open_r1.slurm.outcome CODE`, called by slurm/job.sh after the step.

It prints the first error, and exits with the code of the job. Exit code 75 asks for a requeue: the start was stopped
where it can continue, or its failure may not occur again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from ..system import failures
from ..system.failures import Failure
from ..system.files import read_json, write_json
from ..system.network import RUN, SERVED, START
from . import node

REQUEUE = 75  # exit code: EX_TEMPFAIL of sysexits.h
RETRIES = "OPEN_R1_RETRIES"  # environment variable: number of restarts without progress between them
DEFAULT_RETRIES = 3
COUNTED = "retries.json"  # in the folder of a job: its progress, and the number of starts without more


def main() -> None:
    code, message = decide_outcome(Path(os.environ[START]), int(sys.argv[1]))
    if message:
        print(message, flush=True)
    sys.exit(code)


def decide_outcome(start: Path, step_code: int) -> tuple[int, str]:
    """Decide whether a start has finished, failed, or is to be requeued.

    Args:
        start: folder of the start.
        step_code: exit code of srun. After a failure it may be that of another process, which srun has ended.

    Returns:
        The exit code of the job, and the message for the top of its log.
    """
    head = start / node.HEAD
    ended = read_json(head)["code"] if head.is_file() else None
    if ended == 0:
        return 0, ""
    failure = failures.find_first(start)
    # A failure after the request to stop is a consequence of it, unless it is final (a full disk). After a failure,
    # srun stops all other processes, so that their exit codes show a stop too.
    requested = (start / node.STOP).exists()
    stopped = requested and (ended in node.STOPPED or not (failure and failure.final))
    if stopped or (failure is None and ended in node.STOPPED):
        if _count_start(start):
            return REQUEUE, f"it was stopped, and starts again: {_describe_progress(start)}"
        details = "" if failure is None else f"\n{_format_failure(start, failure, False)}"
        return 1, (
            f"error: the job was stopped {_max_retries() + 1} times without progress; ask for more --time, or less "
            f"notice before the limit (--signal){details}"
        )
    if failure is None:
        code = step_code if ended is None else ended
        message = (
            f"error: the step ended with exit code {code}, and none of its processes reported why; see the lines of "
            f"Slurm below, and the logs of the nodes in {start}"
        )
        return _without_requeue(code), message if code else ""
    again = failure.passing and _count_start(start)
    return REQUEUE if again else _without_requeue(failure.code or 1), _format_failure(start, failure, again)


def _without_requeue(code: int) -> int:
    return 1 if code == REQUEUE else code


def _format_failure(start: Path, failure: Failure, again: bool) -> str:
    lines = [failure.line]
    if failure.details:
        lines += ["", failure.details, ""]
    others = len(list((start / failures.FOLDER).glob("*.json"))) - 1
    if others:
        lines.append(f"after it {others} more failed: {start / failures.FOLDER}")
    logs = sorted(path.name for path in start.glob("*.log") if path.stat().st_size)
    if logs:
        lines.append(f"logs of other nodes and servers in {start}: {', '.join(logs)}")
    if again:
        lines.append(f"it may pass, so the job starts again: {_describe_progress(start)}")
    elif failure.passing:
        lines.append(f"it may pass, but has come {_max_retries() + 1} times without progress between ({RETRIES})")
    return "\n".join(lines)


def _count_start(start: Path) -> bool:
    """Count a start that did not finish; progress sets the count back. Returns whether another start is allowed."""
    path = start.parent / COUNTED
    before: dict[str, Any] = read_json(path) if path.is_file() else {"count": 0, "done": None}
    done = _read_progress(start) or before["done"]  # a start that ended before its run began made no progress
    count = 1 if done != before["done"] else before["count"] + 1
    write_json(path, {"count": count, "done": done})
    return count <= _max_retries()


def _read_progress(start: Path) -> dict[str, Any] | None:
    """The last checkpoint and the number of data files of the run, or that the server was healthy."""
    if (start / SERVED).exists():
        return {"served": start.name}
    named = start / RUN
    if not named.is_file():
        return None
    run = Path(named.read_text(encoding="utf-8").strip())
    steps = [int(path.parent.name.split("-")[1]) for path in run.glob("checkpoint-*/manifest.json")]
    files = len([*run.glob("data/*.parquet"), *run.glob("judged/*")])
    return {"run": str(run), "step": max(steps, default=0), "files": files}


def _describe_progress(start: Path) -> str:
    """Where the next start continues, after `_count_start`."""
    done = read_json(start.parent / COUNTED)["done"] or {}
    if done.get("step"):
        return f"{done['run']} from checkpoint-{done['step']}"
    if done.get("files"):
        return f"{done['run']} after {done['files']} complete files"
    return f"{done.get('run', '')} from the beginning".lstrip()


def _max_retries() -> int:
    return int(os.environ.get(RETRIES, DEFAULT_RETRIES))


if __name__ == "__main__":
    main()
