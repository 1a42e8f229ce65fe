"""A pool of zygotes, one per core, and the isolation that this machine offers."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ..errors import RecipeError
from . import toolchains
from .cases import Level

Report = dict[str, Any]  # the end of one process of a run, see zygote.py
ZYGOTE = Path(__file__).parent / "guest" / "zygote.py"
LEVELS: tuple[Level, ...] = get_args(Level)
MEANING: dict[Level, str] = {
    "namespaces": "own user, process, mount, network, IPC and host namespaces, nothing of the host but the toolchain "
    "(read-only), no capabilities, a system call allow-list",
    "landlock": "Landlock (files, TCP, signals, as far as this kernel's version has them) and a system call "
    "allow-list, but no namespaces",
    "seccomp": "a system call allow-list without any files, but neither namespaces nor Landlock",
}
CORES = len(os.sched_getaffinity(0))
START_SECONDS = 20  # within which a zygote must answer
SLACK_SECONDS = 15  # beyond the longest run, after which a zygote counts as hung
PATIENCE = 3  # wall limits that a run may last while it computes; as in zygote.py
# Imported once for each zygote instead of each run. At the level seccomp a program can import nothing else.
_MODULES = """
__future__ abc array ast bisect builtins calendar cmath codecs collections collections.abc contextlib copy
copyreg csv dataclasses datetime decimal difflib enum errno fractions functools gc genericpath graphlib hashlib
heapq html inspect io itertools json keyword linecache locale math numbers operator os os.path pickle pprint
queue random re reprlib secrets select shlex signal stat statistics string struct sys tempfile textwrap
threading time timeit token tokenize traceback types typing unicodedata unittest unittest.mock uuid warnings
weakref zlib zoneinfo
"""
PRELOAD = _MODULES.split()


class SandboxError(Exception):
    """The sandbox failed; the program is not at fault."""


class SandboxTimeout(SandboxError):
    """The sandbox did not answer in time, which does not show what this machine can do."""


@dataclass(frozen=True)
class Isolation:
    """A level that works on this machine, with the interpreter for it and the paths that it may read."""

    level: Level
    python: str
    readable: tuple[str, ...]


class Zygote:
    """One `zygote.py` process and the socket to it. One run at a time.

    Raises:
        SandboxError: it does not start, for the reason in its message.
    """

    def __init__(self, isolation: Isolation):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.pidfd_open(os.getpid())  # it dies with this process, whichever thread started it
        configuration = json.dumps({"level": isolation.level, "readable": isolation.readable, "preload": PRELOAD})
        command = [isolation.python, "-I", "-S", "-B", "-X", "utf8", str(ZYGOTE)]
        try:
            self.process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(parent), configuration],
                pass_fds=[theirs.fileno(), parent], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, cwd="/", start_new_session=True,
                env={"LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
            )  # fmt: skip
        except OSError as error:
            ours.close()
            raise SandboxError(f"the sandbox's interpreter does not start: {error}") from None
        finally:
            theirs.close()
            os.close(parent)
        self.socket = ours
        try:
            answer = self._receive(START_SECONDS)
        except SandboxTimeout:
            self.close()
            raise
        except SandboxError:
            self.close()
            message = self.process.stderr.read().decode(errors="replace").strip()
            raise SandboxError(f"the sandbox's interpreter died at its start: {message[-300:]}") from None
        if "failed" in answer:
            self.close()
            raise SandboxError(answer["failed"])

    def run(self, request: dict[str, Any], files: Sequence[int]) -> list[Report]:
        """Send one run and wait for the reports of its processes.

        Raises:
            SandboxError: the zygote is gone, does not answer, or could not set the run up.
        """
        try:
            socket.send_fds(self.socket, [json.dumps(request).encode()], files)
        except OSError as error:
            raise SandboxError(f"the sandbox's process is gone: {error}") from None
        reports = self._receive(PATIENCE * request["wall_seconds"] + SLACK_SECONDS)["reports"]
        for report in reports:
            if report["ended"] == "error":
                raise SandboxError(report["cause"])
            if report["ended"] == "exit" and report["code"] == -signal.SIGKILL:
                raise SandboxError("the run was killed from outside: no memory left on this machine, or by hand")
        return reports

    def _receive(self, seconds: float) -> dict[str, Any]:
        self.socket.settimeout(seconds)
        try:
            message = self.socket.recv(1 << 16)
        except TimeoutError:
            raise SandboxTimeout(f"the sandbox's process did not answer for {seconds:.0f} s") from None
        except OSError as error:
            raise SandboxError(f"the sandbox's process is gone: {error}") from None
        if not message:
            raise SandboxError("the sandbox's process was killed")
        return json.loads(message)

    def release(self) -> None:
        """In a forked child: close the socket without ending the parent's zygote."""
        self.socket.close()
        self.process.returncode = 0  # not this process's child; nothing to wait for

    def close(self) -> None:
        self.socket.close()
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, 9)
        self.process.wait()


class Pool:
    """Zygotes of one level: one per core, started when first needed, replaced when broken."""

    def __init__(self, isolation: Isolation):
        self.isolation = isolation
        self.slots = threading.BoundedSemaphore(CORES)
        self.idle: list[Zygote] = []
        self.all: set[Zygote] = set()

    @contextlib.contextmanager
    def borrow_zygote(self) -> Iterator[Zygote]:
        """An idle zygote for the duration of the block; an exception inside ends the zygote."""
        with self.slots:
            zygote = self._take_idle() or Zygote(self.isolation)
            self.all.add(zygote)
            try:
                yield zygote
            except BaseException:
                self._end(zygote)
                raise
            self.idle.append(zygote)

    def _take_idle(self) -> Zygote | None:
        """An idle zygote that is still alive; None if there is none."""
        while self.idle:
            zygote = self.idle.pop()
            if zygote.process.poll() is None:
                return zygote
            self._end(zygote)
        return None

    def _end(self, zygote: Zygote) -> None:
        self.all.discard(zygote)
        zygote.close()

    def run(self, request: dict[str, Any], files: Sequence[int]) -> list[Report]:
        """One run on one zygote.

        Raises:
            SandboxError: the zygote broke; another will replace it.
        """
        with self.borrow_zygote() as zygote:
            return zygote.run(request, files)


_lock = threading.RLock()
_pools: dict[Level, Pool] = {}
_isolations: dict[Level, Isolation | SandboxError] = {}


def _release_zygotes() -> None:
    global _lock
    _lock = threading.RLock()
    for pool in _pools.values():
        for zygote in pool.all:
            zygote.release()
    _pools.clear()


os.register_at_fork(after_in_child=_release_zygotes)


@atexit.register
def shut_down() -> None:
    """End every zygote of this process; the next run starts new ones."""
    with _lock:
        for pool in _pools.values():
            for zygote in list(pool.all):
                zygote.close()
        _pools.clear()


def get_pool(level: Level) -> Pool:
    """The zygotes of this level.

    Raises:
        SandboxError: this machine does not offer that level.
    """
    with _lock:
        if level not in _pools:
            _pools[level] = Pool(find_isolation(level))
        return _pools[level]


def find_isolation(level: Level) -> Isolation:
    """The isolation at this level, determined once by starting a zygote with the first interpreter that works.

    After a start that took too long, the next call tries again.

    Raises:
        SandboxError: no interpreter works; the message has the cause for each.
    """
    with _lock:
        found = _isolations.get(level) or _try_level(level)
        if not isinstance(found, SandboxTimeout):
            _isolations[level] = found
    if isinstance(found, SandboxError):
        raise found
    return found


def _try_level(level: Level) -> Isolation | SandboxError:
    causes: list[str] = []
    kind = SandboxError
    for python in list_interpreters():
        try:
            found = Isolation(level, python, (*list_python_files(python), *toolchains.list_files()))
            _run_trial(found)
        except (SandboxError, OSError, subprocess.SubprocessError) as error:
            causes.append(f"{error} (with {python})")
            if isinstance(error, SandboxTimeout | subprocess.TimeoutExpired):
                kind = SandboxTimeout
        else:
            return found
    return kind("; ".join(causes))


def _run_trial(isolation: Isolation) -> None:
    """Run a program, because some kernels and containers allow the first namespace, but not those of each run.

    Raises:
        SandboxError: the program did not print what it should.
    """
    limits = {"memory": 1 << 29, "data": None, "file_bytes": 1 << 20, "scratch_mb": 1, "processes": 8, "files": 64}
    request = {"kind": "stdin", "seconds": 5.0, "wall_seconds": 10.0, "limits": limits}
    zygote = Zygote(isolation)
    source, errors, _, stdout = files = [os.memfd_create("trial") for _ in range(4)]
    try:
        os.write(source, b"print(6 * 7)")
        zygote.run(request, files)
        if os.pread(stdout, 10, 0) != b"42\n":
            raise SandboxError(f"a program does not run in it: {os.pread(errors, 300, 0).decode(errors='replace')}")
    finally:
        zygote.close()
        for file in files:
            os.close(file)


def list_interpreters() -> list[str]:
    """This interpreter (outside its virtual environment), then the system's."""
    this = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    system = shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin")
    return list(dict.fromkeys([this, *([os.path.realpath(system)] if system else [])]))


@functools.cache
def list_python_files(python: str) -> tuple[str, ...]:
    """Paths that a Python program may read: the interpreter's library and the system's shared libraries."""
    ask = "import sys; print(sys.version_info >= (3, 10), sys.base_prefix)"
    done = subprocess.run([python, "-I", "-S", "-c", ask], capture_output=True, text=True, check=True, timeout=20)
    recent, prefix = done.stdout.strip().split(" ", 1)
    if recent != "True":
        raise OSError("older than Python 3.10")
    return f"{prefix}/lib", *toolchains.LIBRARIES


def find_level() -> Level:
    """The strongest isolation that this machine offers, determined once by starting it.

    Raises:
        RecipeError: none works.
    """
    for candidate in LEVELS:
        try:
            return find_isolation(candidate).level
        except SandboxError:
            continue
    causes = "; ".join(f"{candidate}: {explain_level(candidate)}" for candidate in LEVELS)
    raise RecipeError(f"programs cannot be run here, as no kind of isolation works. {causes}")


def explain_level(level: Level) -> str:
    """Why this machine does not offer a level."""
    try:
        find_isolation(level)
    except SandboxError as error:
        return str(error)
    return "it works"


def describe_isolation() -> str:
    """One sentence on the isolation in force.

    Raises:
        RecipeError: none works.
    """
    strongest = find_isolation(find_level())
    return f"programs are isolated by {strongest.level}: {MEANING[strongest.level]} (interpreter {strongest.python})"
