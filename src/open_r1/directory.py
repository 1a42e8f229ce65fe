"""The files of a run directory: its status, JSON that is written whole, who holds it, and the commit it is made at.

Nothing heavy is imported here: a plan reads hundreds of these directories.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import RecipeError

LOCK = ".lock"


def status(directory: Path) -> dict[str, Any]:
    path = directory / "status.json"
    return read_json(path) if path.is_file() else {}


def is_finished(directory: Path) -> bool:
    return status(directory).get("state") == "finished"


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a file whose last line may have been cut by a kill."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to, which takes the place of `path` once the block is left, and is deleted if it fails.

    Raises:
        RecipeError: the disk is full.
    """
    # Processes may write the same file at once: each to a name of its own.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    with telling_if_full(path):
        try:
            yield partial
            descriptor = os.open(partial, os.O_RDONLY)
            try:
                # Otherwise the name could reach the disk before the bytes, and a power cut would leave it empty.
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def telling_if_full(path: Path) -> Iterator[None]:
    """Say of a full disk that nothing is lost."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RecipeError(
                f"the disk is full: {path} could not be written. What was finished before it is kept; free some "
                "space, and the same command goes on"
            ) from error
        raise


_held: dict[Path, list[int]] = {}  # directories this process has locked, with the descriptors that hold them


def lock(directory: Path, part: int | None = None) -> None:
    """Hold the directory until this process ends, however it ends; the parts of a job array share it.

    Raises:
        RecipeError: another process holds it, or the same part.
    """
    if directory.resolve() in _held:
        return
    _held[directory.resolve()] = held = []
    if part is None:
        held.append(_hold(directory / LOCK, fcntl.LOCK_EX))
    else:
        held.append(_hold(directory / LOCK, fcntl.LOCK_SH))
        held.append(_hold(directory / f"{LOCK}-{part}", fcntl.LOCK_EX))


def _hold(path: Path, kind: int) -> int:
    held = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _flock(held, kind)
    except BlockingIOError:
        holder = os.read(held, 200).decode() or "unknown"
        if _is_gone(holder):
            return held
        os.close(held)
        del _held[path.parent.resolve()]
        raise RecipeError(f"another process ({holder}) is running in {path.parent}; wait for it, or stop it") from None
    os.truncate(held, 0)
    os.write(held, _own_name().encode())
    return held


def _own_name() -> str:
    """By which a person finds this process: the number of its job and node, where it is one of Slurm's."""
    job = os.environ.get("SLURM_JOB_ID")
    return (
        f"{os.getpid()}" if job is None else f"job {job} on {os.environ.get('SLURMD_NODENAME', os.uname().nodename)}"
    )


def _is_gone(holder: str) -> bool:
    """True of an earlier start of this very job, on a lost node, whose lock NFS keeps until the node is up again."""
    again = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
    return again and holder.startswith(f"job {os.environ['SLURM_JOB_ID']} on ") and holder != _own_name()


def _flock(descriptor: int, kind: int) -> None:
    """Lock, unless another process holds it for longer than a look at it takes (`is_locked`).

    Raises:
        BlockingIOError: it does.
    """
    for _ in range(4):
        try:
            return flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
    return flock(descriptor, kind | fcntl.LOCK_NB)


def flock(descriptor: int, kind: int) -> None:
    """Lock a file; where its file system has no locks, say so once and go on.

    Raises:
        BlockingIOError: another process holds it, and `kind` is not to wait.
    """
    try:
        fcntl.flock(descriptor, kind)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
            raise
        _tell_of_no_locks()


@functools.cache
def _tell_of_no_locks() -> None:
    print(
        "this file system has no locks (Lustre has them by the mount option flock): two runs in one directory are not "
        "noticed",
        file=sys.stderr,
    )


def held() -> list[Path]:
    """Directories that this process has locked."""
    return list(_held)


def let_go() -> None:
    """In a forked process: leave the parent's locks to the parent."""
    for descriptors in _held.values():
        for descriptor in descriptors:
            os.close(descriptor)
    _held.clear()


def is_locked(directory: Path) -> bool:
    """True if a process holds the directory."""
    return holder(directory) is not None


def holder(directory: Path) -> str | None:
    """Name of the process or job that holds the directory for itself; None if none does."""
    try:
        descriptor = os.open(directory / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        name = os.read(descriptor, 200).decode() or "unknown"
        return None if _is_gone(name) else name
    finally:
        os.close(descriptor)
    return None


def commit() -> str | None:
    """The source's git commit, `-dirty` if it has uncommitted changes; None outside a checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("-dirty" if dirty.stdout.strip() else "")
