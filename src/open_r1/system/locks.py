"""Locks on run directories, also over NFS."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import sys
import time
from pathlib import Path

from ..errors import RecipeError

LOCK = ".lock"


_held: dict[Path, list[int]] = {}  # directories this process has locked, with the descriptors that hold them


def lock_directory(directory: Path, part: int | None = None) -> None:
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
            return lock_file(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
    return lock_file(descriptor, kind | fcntl.LOCK_NB)


def lock_file(descriptor: int, kind: int) -> None:
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


def list_held() -> list[Path]:
    """Directories that this process has locked."""
    return list(_held)


def release_after_fork() -> None:
    """In a forked process: leave the parent's locks to the parent."""
    for descriptors in _held.values():
        for descriptor in descriptors:
            os.close(descriptor)
    _held.clear()


def is_locked(directory: Path) -> bool:
    """True if a process holds the directory."""
    return find_holder(directory) is not None


def find_holder(directory: Path) -> str | None:
    """Name of the process or job that holds the directory for itself; None if none does."""
    try:
        descriptor = os.open(directory / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        lock_file(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        name = os.read(descriptor, 200).decode() or "unknown"
        return None if _is_gone(name) else name
    finally:
        os.close(descriptor)
    return None
