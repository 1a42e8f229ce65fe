"""Locks on run directories, on local disks and on NFS."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import sys
import time
from pathlib import Path

from ..errors import RecipeError
from .network import find_node_name

LOCK = ".lock"

_held: dict[Path, list[int]] = {}  # directories that this process has locked -> descriptors that hold the locks


def lock_directory(directory: Path, part: int | None = None) -> None:
    """Lock a directory until this process ends, in whatever way. The jobs of an array share the lock.

    Args:
        directory: run directory.
        part: number of this job in its array, of which only one process may run; None outside an array.

    Raises:
        RecipeError: another process holds the directory, or the same part of it.
    """
    if directory.resolve() in _held:
        return
    _held[directory.resolve()] = held = []
    if part is None:
        held.append(_open_lock(directory / LOCK, fcntl.LOCK_EX))
    else:
        held.append(_open_lock(directory / LOCK, fcntl.LOCK_SH))
        held.append(_open_lock(directory / f"{LOCK}-{part}", fcntl.LOCK_EX))


def _open_lock(path: Path, kind: int) -> int:
    held = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _try_lock(held, kind)
    except BlockingIOError:
        holder = os.read(held, 200).decode() or "unknown"
        if _is_lost(holder):
            return held
        os.close(held)
        del _held[path.parent.resolve()]
        raise RecipeError(f"another process ({holder}) is running in {path.parent}; wait for it, or stop it") from None
    os.truncate(held, 0)
    os.write(held, _describe_self().encode())
    return held


def _describe_self() -> str:
    """The Slurm job and node of this process, or its process id outside Slurm."""
    job = os.environ.get("SLURM_JOB_ID")
    return f"{os.getpid()}" if job is None else f"job {job} on {find_node_name()}"


def _is_lost(holder: str) -> bool:
    """True for an earlier start of this job on a lost node, whose lock NFS keeps until the node is up again."""
    restarted = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
    return restarted and holder.startswith(f"job {os.environ['SLURM_JOB_ID']} on ") and holder != _describe_self()


def _try_lock(descriptor: int, kind: int) -> None:
    """Lock a file without waiting, except for a process that only tests the lock (`find_holder`).

    Raises:
        BlockingIOError: another process holds it.
    """
    for _ in range(4):
        try:
            return lock_file(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
    return lock_file(descriptor, kind | fcntl.LOCK_NB)


def lock_file(descriptor: int, kind: int) -> None:
    """Lock a file. If its file system has no locks, print a warning once and go on.

    Raises:
        BlockingIOError: another process holds it, and `kind` has LOCK_NB.
    """
    try:
        fcntl.flock(descriptor, kind)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
            raise
        _warn_of_missing_locks()


@functools.cache
def _warn_of_missing_locks() -> None:
    print(
        "warning: this file system has no file locks (on Lustre, mount it with the option flock); two runs in one "
        "directory will not be detected",
        file=sys.stderr,
    )


def list_held() -> list[Path]:
    """The directories that this process has locked."""
    return list(_held)


def release_after_fork() -> None:
    """Close the locks of the parent in a forked process; the parent still holds them."""
    for descriptors in _held.values():
        for descriptor in descriptors:
            os.close(descriptor)
    _held.clear()


def is_locked(directory: Path) -> bool:
    """True if a process holds a lock on the directory."""
    return find_holder(directory) is not None


def find_holder(directory: Path) -> str | None:
    """The process id or the Slurm job that holds the directory exclusively; None without one."""
    try:
        descriptor = os.open(directory / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        lock_file(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 200).decode() or "unknown"
        return None if _is_lost(holder) else holder
    finally:
        os.close(descriptor)
    return None
