"""What became of a start of a job: `python -m open_r1.slurm.outcome CODE`, once its step has ended.

It says the first error, and ends with the job's exit code, or with 75 if the job is to be requeued: because it was
told to stop where it can go on, or because what failed may work the next time.
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
RETRIES = "OPEN_R1_RETRIES"  # environment variable: how often a job starts again with nothing done between
DEFAULT_RETRIES = 3
COUNTED = "retries.json"  # of a job's folder


def main() -> None:
    code, told = of(Path(os.environ[START]), int(sys.argv[1]))
    if told:
        print(told, flush=True)
    sys.exit(code)


def of(start: Path, code: int) -> tuple[int, str]:
    """How a start came out.

    Args:
        start: its folder.
        code: of its step, by srun: which is that of a process that srun has ended, where one has failed elsewhere.

    Returns:
        The exit code, and what to say on top of the log.
    """
    head = start / node.HEAD
    ended = read_json(head)["code"] if head.is_file() else None
    if ended == 0:
        return 0, ""
    failure = failures.find_first(start)
    # What fails once it was told to stop fails of that, unless it says that it will always fail (a full disk); and
    # where something has failed, srun stops the rest.
    asked = (start / node.STOP).exists()
    stopped = asked and (ended in node.STOPPED or not (failure and failure.final))
    if stopped or (failure is None and ended in node.STOPPED):
        if _may_retry(start):
            return REQUEUE, f"it was stopped, and starts again: {_from(start)}"
        told = "" if failure is None else f"\n{_told(start, failure, False)}"
        return 1, (
            f"error: it was stopped {_retries() + 1} times with nothing done between; ask for more --time, or less "
            f"notice before its end (--signal){told}"
        )
    if failure is None:
        code = code if ended is None else ended
        return _final(code), _unknown(start, code) if code else ""
    again = failure.passing and _may_retry(start)
    return REQUEUE if again else _final(failure.code or 1), _told(start, failure, again)


def _final(code: int) -> int:
    """An exit code that does not ask for another start."""
    return 1 if code == REQUEUE else code


def _told(start: Path, failure: Failure, again: bool) -> str:
    others = len(list((start / failures.FOLDER).glob("*.json"))) - 1
    lines = [failure.line]
    if failure.told and failure.told != failure.message:
        lines += ["", failure.told, ""]
    if others:
        lines.append(f"after it {others} more failed: {start / failures.FOLDER}")
    logs = sorted(path.name for path in start.glob("*.log") if path.stat().st_size)
    if logs:
        lines.append(f"other nodes and servers say more in {start}: {', '.join(logs)}")
    if again:
        lines.append(f"it may pass, so the job starts again: {_from(start)}")
    elif failure.passing:
        lines.append(f"it might pass, but has come {_retries() + 1} times without a step between ({RETRIES})")
    return "\n".join(lines)


def _unknown(start: Path, code: int) -> str:
    return (
        f"the step ended with exit code {code}, and no process of it has said why; what Slurm says is in the log, and "
        f"the nodes' own words in {start}"
    )


def _may_retry(start: Path) -> bool:
    """Count a start that did not come to its end; those with something done between them are not the same."""
    path = start.parent / COUNTED
    before: dict[str, Any] = read_json(path) if path.is_file() else {"count": 0, "done": None}
    done = _done(start) or before["done"]  # a start that ends before it has named its run has done nothing
    count = 1 if done != before["done"] else before["count"] + 1
    write_json(path, {"count": count, "done": done})
    return count <= _retries()


def _done(start: Path) -> dict[str, Any] | None:
    """What the run has whole, by which a start shows that it got further; a server that has served is as good."""
    if (start / SERVED).exists():
        return {"served": start.name}
    named = start / RUN
    if not named.is_file():
        return None
    run = Path(named.read_text(encoding="utf-8").strip())
    steps = [int(path.parent.name.split("-")[1]) for path in run.glob("checkpoint-*/manifest.json")]
    return {
        "run": str(run),
        "step": max(steps, default=0),
        "files": len([*run.glob("data/*.parquet"), *run.glob("judged/*")]),
    }


def _from(start: Path) -> str:
    """Where the next start goes on, once this one is counted."""
    done = read_json(start.parent / COUNTED)["done"] or {}
    if done.get("step"):
        return f"{done['run']} from checkpoint-{done['step']}"
    if done.get("files"):
        return f"{done['run']} after {done['files']} whole files"
    return f"{done.get('run', '')} from the beginning".lstrip()


def _retries() -> int:
    return int(os.environ.get(RETRIES, DEFAULT_RETRIES))


if __name__ == "__main__":
    main()
