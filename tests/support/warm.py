"""Python commands that begin with the libraries loaded: each a process of its own, forked from one that has them.

To import torch, transformers and trl takes ten seconds of a core, and many tests are of what a whole process does: how
it ends, what it prints, what is left of it when it is killed. `Popen` and `run` are subprocess's, for `python WORDS`
(`-m module ...`, `-c code ...`, or a script), with the pid, session, directory, environment, output, signals and exit
code of a process started anew. `open_r1` itself is imported by each, in its own order. Forks of one process have
in common what new ones have not: the hashes of strings, so that what must not depend on them is compared with a run
that was started anew (`fresh=True`); and what a library made when it was loaded, as wandb its temporary folder.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

# A process that has seen a GPU cannot be forked; elsewhere there are no descriptors of processes to wait for.
POSSIBLE = hasattr(os, "pidfd_open") and not Path("/dev/nvidiactl").exists()
LIBRARIES = (
    "launch.local",
    "sft",
    "grpo",
    "rloo",
    "dpo",
    "reward",
    "sample",
    "selection",
    "mix",
    "evaluate",
    "training.preflight",
)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # of which a process inherits whether they are ignored
PIPE, DEVNULL, STDOUT = subprocess.PIPE, subprocess.DEVNULL, subprocess.STDOUT


class Forked:
    """What subprocess.Popen is of a process that another one has forked."""

    def __init__(
        self, words: Sequence[str], cwd: str, env: dict[str, str], session: bool, files: Sequence[int | None]
    ):
        self.args, self.returncode = words, None
        ours: list[int | None] = [None] * 3
        theirs, opened = [number if file is None else file for number, file in enumerate(files)], list[int]()
        for number, file in enumerate(files):
            if file == PIPE:
                read, write = os.pipe()
                ours[number], theirs[number] = (read, write) if number else (write, read)
            elif file == DEVNULL:
                theirs[number] = os.open(os.devnull, os.O_RDWR)
            elif file == STDOUT:
                theirs[number] = theirs[1]
            opened += [theirs[number]] if file in (PIPE, DEVNULL) else []
        self.answers, answers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ignored = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN]
        request = {"words": list(words), "cwd": cwd, "env": env, "session": session, "ignored": ignored}
        socket.send_fds(_server(), [json.dumps(request).encode()], [answers.fileno(), *theirs])
        answers.close()
        for file in opened:
            os.close(file)
        self.stdin, self.stdout, self.stderr = (
            None if file is None else os.fdopen(file, "r" if number else "w") for number, file in enumerate(ours)
        )
        self.pid = int(self.answers.recv(20))

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.answers.settimeout(timeout)
            try:
                self.returncode = int(self.answers.recv(20))
            except (BlockingIOError, TimeoutError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self.answers.close()
        return self.returncode

    def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str | None, str | None]:
        """All that is left of what it says, once everything has ended that may say something."""
        deadline = None if timeout is None else time.monotonic() + timeout
        said: list[str | None] = [None, None]

        def read(number: int, file: IO[str]) -> None:
            said[number] = file.read()
            file.close()

        files = [(number, file) for number, file in enumerate((self.stdout, self.stderr)) if file]
        readers = [threading.Thread(target=read, args=one, daemon=True) for one in files]
        for reader in readers:
            reader.start()
        if self.stdin:
            with contextlib.suppress(BrokenPipeError), self.stdin:
                self.stdin.write(input or "")
        for reader in readers:
            reader.join(None if deadline is None else max(0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(None if deadline is None else max(0, deadline - time.monotonic()))
        return said[0], said[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def Popen(
    words: Sequence[object],
    *,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    start_new_session: bool = False,
    fresh: bool = False,
) -> Any:
    """`python WORDS` begun; what it writes is text.

    Args:
        words: after the interpreter's name.
        cwd, env, stdin, stdout, stderr, start_new_session: as of subprocess.Popen.
        fresh: start the interpreter anew.
    """
    given = [str(word) for word in words]
    if fresh or not POSSIBLE:
        return subprocess.Popen(
            [sys.executable, *given], cwd=cwd, env=env, stdin=stdin, stdout=stdout, stderr=stderr, text=True,
            start_new_session=start_new_session,
        )  # fmt: skip
    env = dict(os.environ if env is None else env)
    return Forked(given, str(cwd or os.getcwd()), env, start_new_session, (stdin, stdout, stderr))


def run(words: Sequence[object], *, timeout: float = 300, **more: Any) -> subprocess.CompletedProcess[str]:
    """`python WORDS` to its end, with what it said."""
    process = Popen(words, stdout=PIPE, stderr=PIPE, **more)
    try:
        out, error = process.communicate(timeout=timeout)
    except BaseException:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, error)


@functools.cache
def _server() -> socket.socket:
    """Where this process asks for commands; the server ends when it is closed, so with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], start_new_session=True,
            stdin=DEVNULL, stdout=DEVNULL,
        )  # fmt: skip
    return ours


def _load() -> None:
    """Load the libraries as the command does, and leave nothing of this package."""
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from open_r1.system import library_log

    library_log.hold_messages()
    for module in ("matplotlib.figure", "matplotlib.backends.backend_agg", *(f"open_r1.{name}" for name in LIBRARIES)):
        importlib.import_module(module)
    for name in [name for name in sys.modules if name.partition(".")[0] == "open_r1"]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()


def _serve(control: socket.socket) -> dict[str, Any]:
    """Fork for each request, which is returned in the process that is to be it."""
    selector, running = selectors.DefaultSelector(), dict[int, tuple[int, socket.socket]]()
    selector.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fd in running:
                selector.unregister(key.fd)
                pid, answers = running.pop(key.fd)
                with contextlib.suppress(BrokenPipeError), answers:
                    answers.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
                os.close(key.fd)
                continue
            request, files, _, _ = socket.recv_fds(control, 1 << 20, 4)
            if not request:
                for pid, _ in running.values():
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                selector.close()
                for number, file in enumerate(files[1:]):
                    os.dup2(file, number)
                for file in {*files, *running, *(answers.detach() for _, answers in running.values())}:
                    os.close(file)
                control.close()
                return json.loads(request)
            for file in files[1:]:
                os.close(file)
            answers, descriptor = socket.socket(fileno=files[0]), os.pidfd_open(pid)
            answers.send(str(pid).encode())
            running[descriptor] = pid, answers
            selector.register(descriptor, selectors.EVENT_READ)


def _become(request: dict[str, Any], base: list[str]) -> Callable[[], Any]:
    """Take on what a process started anew would have got.

    Args:
        request: of the client.
        base: `sys.path` without what the environment or the command adds.

    Returns:
        What it is to do.
    """
    if request["session"]:
        os.setsid()
    for number in SIGNALS:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in request["ignored"] else default)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    import numpy
    import torch

    numpy.random.seed()  # `random` does that by itself
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads()))
    first, *rest = request["words"]
    added = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [os.getcwd(), *added, *base]
    if first == "-m":
        sys.argv = rest
        return functools.partial(runpy.run_module, rest[0], run_name="__main__", alter_sys=True)
    if first == "-c":
        sys.path[0], sys.argv = "", ["-c", *rest[1:]]
        return functools.partial(exec, rest[0], {"__name__": "__main__"})
    sys.path[0], sys.argv = os.path.dirname(os.path.realpath(first)), [first, *rest]
    return functools.partial(runpy.run_path, first, run_name="__main__")


if __name__ == "__main__":
    own = {os.path.dirname(os.path.abspath(__file__)), *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    without = [path for path in sys.path if path not in own]
    _load()
    _become(_serve(socket.socket(fileno=int(sys.argv[1]))), without)()
