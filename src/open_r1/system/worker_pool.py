"""Run functions under hard limits on CPU time and memory, from any thread.

A server process imports the heavy modules once and forks workers. It is started by exec, because a fork of a trainer
would inherit threads and CUDA. Each caller talks to its worker over a socket. The kernel enforces the limits: a timer
of the worker's CPU time, whose signal ends it even inside a C function that holds the GIL, and a limit of its address
space. CPU time, not wall time, makes the result of a call independent of the load of the machine. Processes that die
are replaced. The workers die with the server, and the server ends when the socket to its parent closes.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from .processes import count_cores, die_with_parent

PRELOAD = "open_r1.rewards.math.math_verify"  # imported by the server, so that workers need not import it
SECONDS = 3.0  # of CPU, per call
MEMORY_MB = 1024  # of address space on top of what a fresh worker has
# A call that takes longer than WALL_SECONDS + WALL_FACTOR * seconds of wall time hangs without computing.
WALL_FACTOR, WALL_SECONDS = 20, 60
START_SECONDS = 300  # for the imports of the server, on a busy machine
RESTART_SECONDS = 10  # between two attempts to start a server that does not start; calls fail at once in between
CALLS_PER_WORKER = 500  # then the worker is replaced, because sympy's caches grow


class LimitReached(Exception):
    """The call reached its limit of CPU time or memory."""


class PoolError(Exception):
    """The pool failed, not the call: no server, or workers that die without cause."""


class CallFailed(Exception):
    """The function raised; the message has the type and text of its exception."""


def call_in_worker(function: str, *args: Any, seconds: float = SECONDS, memory_mb: int = MEMORY_MB) -> Any:
    """Call `function(*args)` in a worker of this process's pool, which the first call starts.

    Args:
        function: `package.module:name`.
        args: arguments; they and the result must be picklable.
        seconds: limit of CPU time.
        memory_mb: limit of the memory that the call allocates.

    Raises:
        LimitReached: the call reached a limit.
        PoolError: no worker could be started, or two in a row died.
        CallFailed: the function raised.
    """
    return _get_pool().call(function, *args, seconds=seconds, memory_mb=memory_mb)


class Pool:
    """Up to `workers` workers (default: the cores that this process may use); further callers wait for a free one."""

    def __init__(self, workers: int | None = None, preload: str = PRELOAD):
        self.workers = workers or count_cores()
        self._preload = preload
        self._free = threading.BoundedSemaphore(self.workers)
        self._idle: list[_Worker] = []
        self._server: _Server | None = None
        self._lock = threading.Lock()
        self._broken_by, self._broken_until = "", 0.0

    def call(self, function: str, *args: Any, seconds: float = SECONDS, memory_mb: int = MEMORY_MB) -> Any:
        request = (function, args, seconds, memory_mb)
        with self._free:
            for attempt in ("first", "last"):
                worker = self._take(fresh=attempt == "last")
                try:
                    outcome, value = worker.run(request, WALL_SECONDS + WALL_FACTOR * seconds)
                except TimeoutError as error:
                    self._kill(worker)
                    raise PoolError(str(error)) from None
                except (EOFError, OSError):
                    worker.close()
                    cause = self._find_cause_of_death(worker)
                    if cause == signal.SIGPROF:
                        raise LimitReached(f"no result in {seconds:g} s of CPU") from None
                    if attempt == "last":
                        raise PoolError(f"two workers died, the last of {_describe_death(cause)}") from None
                    continue
                except BaseException:  # after an interrupt nobody reads the answer of this worker
                    self._kill(worker)
                    raise
                self._give_back(worker, healthy=outcome != "memory")
                if outcome == "memory":
                    raise LimitReached(f"more than {memory_mb} MB of memory")
                if outcome == "raised":
                    raise CallFailed(value)
                return value
        raise AssertionError("unreachable")

    def close(self) -> None:
        """End the server and its workers; the next call starts a new server."""
        with self._lock:
            self._drop_server()

    def list_processes(self) -> dict[str, list[int]]:
        """Process ids of the server and of the idle workers."""
        with self._lock:
            return {
                "server": [self._server.process.pid] if self._server else [],
                "workers": [worker.pid for worker in self._idle],
            }

    def _take(self, fresh: bool) -> _Worker:
        with self._lock:
            if self._idle and not fresh:
                return self._idle.pop()
            if time.monotonic() < self._broken_until:
                raise PoolError(f"the pool's server cannot be started: {self._broken_by}")
            for attempt in ("first", "last"):
                try:
                    if self._server is None:
                        self._server = _Server(self._preload)
                    return self._server.fork()
                except (EOFError, OSError) as error:  # OSError includes TimeoutError
                    self._drop_server()
                    if attempt == "last":
                        self._broken_by, self._broken_until = repr(error), time.monotonic() + RESTART_SECONDS
                        raise PoolError(f"the pool's server cannot be started: {error!r}") from error
        raise AssertionError("unreachable")

    def _give_back(self, worker: _Worker, healthy: bool) -> None:
        with self._lock:
            if healthy and worker.calls < CALLS_PER_WORKER and worker.server is self._server:
                self._idle.append(worker)
            else:
                worker.close()

    def _kill(self, worker: _Worker) -> None:
        worker.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)

    def _find_cause_of_death(self, worker: _Worker) -> int | None:
        """The signal that ended a worker, or minus its exit status; None if the server is gone too."""
        with self._lock:
            if self._server is not None and worker.server is self._server:
                try:
                    return self._server.find_cause_of_death(worker.pid)
                except (EOFError, OSError):
                    self._drop_server()
        return None

    def _drop_server(self) -> None:
        """End the server and its idle workers. The caller must hold the lock."""
        while self._idle:
            self._idle.pop().close()
        if self._server:
            self._server.close()
        self._server = None


def _describe_death(cause: int | None) -> str:
    if cause is None:
        return "the server's death"
    return signal.Signals(cause).name if cause > 0 else f"exit status {-cause}"


_pool: Pool | None = None
_pool_lock = threading.Lock()


def _get_pool() -> Pool:
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = Pool()
        return _pool


def close() -> None:
    """End the pool of this process; the next call starts a new one."""
    global _pool
    with _pool_lock:
        pool, _pool = _pool, None
    if pool:
        pool.close()


def _forget_in_fork() -> None:
    """A fork of this process, such as a data loader's worker, must not use the sockets of its parent."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_in_fork)
atexit.register(close)


class _Server:
    """The process that forks workers, seen by the caller, who must hold the lock of the pool."""

    def __init__(self, preload: str):
        ours, theirs = socket.socketpair()
        code = f"from open_r1.system.worker_pool import _serve; _serve({theirs.fileno()}, {preload!r})"
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONHASHSEED": "0",  # sympy orders terms by hash: a call does the same work each time
        }
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        self.socket = ours
        self.control = Connection(os.dup(ours.fileno()))
        ready = self._receive(START_SECONDS)
        if ready != "ready":
            self.close()
            raise OSError(ready)

    def fork(self) -> _Worker:
        self.control.send(("fork", 0))
        pid = self._receive(WALL_SECONDS)
        _, descriptors, _, _ = socket.recv_fds(self.socket, 1, 1)
        return _Worker(pid, Connection(descriptors[0]), self)

    def find_cause_of_death(self, pid: int) -> int:
        self.control.send(("wait", pid))
        return self._receive(WALL_SECONDS)

    def _receive(self, seconds: float) -> Any:
        if not self.control.poll(seconds):
            raise TimeoutError(f"the pool's server is silent for {seconds} s")
        return self.control.recv()

    def close(self) -> None:
        self.control.close()
        self.socket.close()
        self.process.kill()
        self.process.wait()


class _Worker:
    def __init__(self, pid: int, connection: Connection, server: _Server):
        self.pid = pid
        self.server = server
        self.calls = 0
        self._connection = connection

    def run(self, request: tuple[str, tuple, float, int], wall_seconds: float) -> tuple[str, Any]:
        """Returns ("returned", result), ("raised", message) or ("memory", None).

        Raises:
            EOFError, OSError: the worker died.
        """
        self.calls += 1
        self._connection.send(request)
        if not self._connection.poll(wall_seconds):
            raise TimeoutError(f"a worker is stuck: no answer in {wall_seconds:g} s by the clock")
        return self._connection.recv()

    def close(self) -> None:
        self._connection.close()


def _serve(descriptor: int, preload: str) -> None:
    """Fork workers on request until the parent closes its socket. One thread and no locks, so it is safe to fork."""
    control = Connection(descriptor)
    parent = socket.socket(fileno=os.dup(descriptor))
    for number in (signal.SIGINT, signal.SIGTERM):
        # The trainer handles Ctrl-C and a scheduler's SIGTERM, and still needs the pool to finish its step.
        signal.signal(number, signal.SIG_IGN)
    try:
        importlib.import_module(preload)
    except Exception as error:
        control.send(f"{type(error).__name__}: {error}")
        return
    gc.freeze()  # a collection would touch, and so copy, the memory that workers share
    control.send("ready")
    dead: dict[int, int] = {}
    while True:
        try:
            request, pid = control.recv()
        except (EOFError, OSError):
            return
        if request == "fork":
            _fork_worker(control, parent)
        else:
            control.send(_reap(pid, dead))
        _collect_dead(dead)


def _fork_worker(control: Connection, parent: socket.socket) -> None:
    ours, theirs = socket.socketpair()
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        die_with_parent(server)
        control.close()
        parent.close()
        ours.close()
        _work(Connection(theirs.detach()))
        os._exit(0)
    theirs.close()
    control.send(pid)
    socket.send_fds(parent, [b"w"], [ours.fileno()])
    ours.close()


def _reap(pid: int, dead: dict[int, int]) -> int:
    """The signal that ended a worker, or minus its exit status. A worker that closed its socket is about to die."""
    deadline = time.monotonic() + WALL_SECONDS / 2
    while pid not in dead and time.monotonic() < deadline:
        _collect_dead(dead)
        time.sleep(0.001)
    status = dead.pop(pid, None)
    if status is None:
        return 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def _collect_dead(dead: dict[int, int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            dead[pid] = status


def _work(connection: Connection) -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    base = _measure_address_space()
    while True:
        try:
            function, args, seconds, memory_mb = connection.recv()
        except (EOFError, OSError):
            return
        _limit_memory(base + (memory_mb << 20))
        signal.setitimer(signal.ITIMER_PROF, seconds)  # user and system CPU time of this process
        reply = _run(function, args)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _limit_memory(resource.RLIM_INFINITY)
        try:
            connection.send(reply)
        except OSError:
            return
        except Exception as error:  # a result that cannot be pickled
            connection.send(("raised", f"{type(error).__name__}: {error}"))


def _run(function: str, args: tuple) -> tuple[str, Any]:
    module, _, name = function.partition(":")
    try:
        return "returned", getattr(importlib.import_module(module), name)(*args)
    except MemoryError:
        return "memory", None
    except BaseException as error:
        return "raised", f"{type(error).__name__}: {error}"[:2000]


def _limit_memory(size: int) -> None:
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def _measure_address_space() -> int:
    """The size of this process's address space in bytes."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 1 << 30
