"""A warmed interpreter that isolates itself once and then forks one confined process per run.

pool.py starts it as `python -I -S -B zygote.py <control socket> <parent pidfd> <configuration>` with an empty
environment. Standard library only. It never gets an expected value. All data of a run (source, input, output) is in
memory files that the judge passes on, and never enters this process's heap, which every later fork would inherit.
"""

from __future__ import annotations

import _sitebuiltins
import builtins
import ctypes
import gc
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import confine  # noqa: E402
import inside  # noqa: E402
import seccomp  # noqa: E402

PATIENCE = 3  # wall limits that a run may last while it computes
STACK = 112 << 20  # bytes; the kernel leaves a little more free below the main thread's stack


def spawn(level: str) -> int:
    """Fork; with namespaces into a fresh process and mount namespace, in one system call."""
    if level != "namespaces":
        return os.fork()
    api = ctypes.pythonapi
    flags = confine.CLONE_NEWPID | confine.CLONE_NEWNS | signal.SIGCHLD
    api.PyOS_BeforeFork()
    pid = confine.libc.syscall(confine.SYS_CLONE, ctypes.c_ulong(flags), 0, 0, 0, 0)
    if pid == 0:
        api.PyOS_AfterFork_Child()
    else:
        api.PyOS_AfterFork_Parent()
    return confine.check_result(pid, "clone")


def read_cpu_seconds(pid: int) -> float:
    """CPU time of another process, threads included."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # the kernel's encoding of a process's CPU clock
    except OSError:
        return 0.0


class Run:
    """One confined process, from its fork to its report."""

    def __init__(self, request: dict, files: list[int], configuration: dict):
        complaint, report = os.pipe()  # for a failure before the program starts
        self.pid = spawn(configuration["level"])
        if self.pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            inside.main(request, files, configuration, report)
        os.close(report)
        self.complaint = complaint
        self.seconds = request["seconds"]
        self.file = os.pidfd_open(self.pid)
        self.why = "exit"

    def kill(self, why: str) -> None:
        self.why = why
        os.kill(self.pid, signal.SIGKILL)

    def end(self) -> dict:
        """The report of the ended process. In a process namespace it waits until all processes there are dead."""
        _, status, usage = os.wait4(self.pid, 0)
        cause = os.read(self.complaint, 1000).decode(errors="replace")
        os.close(self.complaint)
        os.close(self.file)
        if cause:
            return {"ended": "error", "cause": cause}
        used, code = usage.ru_utime + usage.ru_stime, os.waitstatus_to_exitcode(status)
        if code in (-signal.SIGXCPU, -signal.SIGKILL) and used >= self.seconds:
            self.why = "cpu"  # the kernel killed it before wait_for() did
        return {
            "ended": self.why,
            "code": code,
            "seconds": used,
            # Taken off the CPU more often than it waited: it was computing.
            "preempted": usage.ru_nivcsw > usage.ru_nvcsw,
        }


def wait_for(runs: list[Run], wall_seconds: float, parent: int) -> None:
    """Wait until the last of `runs` ends, then kill the others. A run that has used up its CPU time is killed.

    The wall limit is for runs that wait. A run that still computes when it reaches that limit was kept from the CPU by
    others, and gets `PATIENCE` times as long.
    """
    start = look = time.monotonic()
    used_at_look, computing = 0.0, True
    last = runs[-1]
    poller = select.poll()
    for file in (parent, *(run.file for run in runs)):
        poller.register(file, select.POLLIN)
    going = {run.file: run for run in runs}
    while last.file in going:
        left, total, now = wall_seconds, 0.0, time.monotonic()
        for run in going.values():
            used = read_cpu_seconds(run.pid)
            total += used
            left = min(left, run.seconds - used)
            if used >= run.seconds:
                run.kill("cpu")
        if now - look >= 0.1 * wall_seconds:
            computing = total - used_at_look > 0.01 * (now - look)
            look, used_at_look = now, total
        if now - start >= (PATIENCE if computing else 1) * wall_seconds:
            last.kill("starved" if computing else "wall")
        pause = min(max(left, 0.001), 0.1 * wall_seconds)
        for file, _ in poller.poll(1000 * pause + 1):
            if file == parent:
                for run in going.values():
                    run.kill("parent")
                os._exit(0)
            poller.unregister(file)
            del going[file]
    for run in going.values():
        run.kill("done" if run.why == "exit" else run.why)


def run(request: dict, files: list[int], configuration: dict, parent: int) -> dict:
    """Carry out a request: one process, or for assert tests the program's and the tester's."""
    scratch = None
    if request.get("needs_scratch") and configuration["level"] == "landlock":
        scratch = request["scratch"] = tempfile.mkdtemp(prefix="open_r1_scratch_")
    try:
        if request["kind"] == "asserts":
            reports = run_asserts(request, files, configuration, parent)
        else:
            only = Run(request, files, configuration)
            wait_for([only], request["wall_seconds"], parent)
            reports = [only.end()]
    finally:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)
    return {"reports": reports}


def run_asserts(request: dict, files: list[int], configuration: dict, parent: int) -> list[dict]:
    """Files: the program's source, errors and output; the tester's tests, verdicts and output."""
    requests_out, requests_in = os.pipe()
    answers_out, answers_in = os.pipe()
    pipes = [requests_out, requests_in, answers_out, answers_in]
    try:
        program = Run(request | {"kind": "server"}, [*files[:3], requests_out, answers_in], configuration)
        tester = Run(request | {"kind": "tester"}, [*files[3:], requests_in, answers_out], configuration)
    finally:
        for file in pipes:
            os.close(file)
    wait_for([program, tester], request["wall_seconds"], parent)
    return [program.end(), tester.end()]


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    parent = int(sys.argv[2])
    configuration = json.loads(sys.argv[3])
    sys.argv[1:] = []
    inside.reset_signals()
    # The trainer handles a scheduler's SIGTERM to all processes: it ends its step first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096 if hard < 0 else min(4096, hard), hard))
    for name in configuration["preload"]:
        try:
            __import__(name)
        except ImportError:
            continue  # an optional part of this interpreter's standard library
    sys.path.remove(HERE)
    try:
        hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
        resource.setrlimit(resource.RLIMIT_STACK, (STACK if hard < 0 else min(STACK, hard), hard))
        if configuration["level"] == "namespaces":
            confine.enter_namespaces(configuration["readable"])
        else:
            confine.drop_root()
            if configuration["level"] == "landlock" and confine.find_landlock_abi() < 1:
                raise OSError("the kernel has no Landlock")
        confine.libc.prctl(confine.PR_SET_DUMPABLE, 0, 0, 0, 0)  # no process may trace it or read its memory
        if not os.access(os.__file__, os.R_OK):
            raise OSError(f"{sys.executable} is not reachable for an unprivileged user")
    except OSError as error:
        control.send(json.dumps({"failed": str(error)}).encode())
        sys.exit(1)
    for name in ("exit", "quit"):  # -S leaves out the site module, which adds them
        setattr(builtins, name, _sitebuiltins.Quitter(name, ""))
    seccomp.pack_filter(files=configuration["level"] != "seccomp")
    gc.collect()
    gc.freeze()
    gc.disable()
    control.send(b'{"ready": true}')
    idle = select.poll()
    idle.register(control, select.POLLIN)
    idle.register(parent, select.POLLIN)
    while parent not in dict(idle.poll()):
        message, files, _, _ = socket.recv_fds(control, 1 << 16, 250)
        if not message:
            os._exit(0)
        try:
            report = run(json.loads(message), files, configuration, parent)
        except OSError as error:
            report = {"reports": [{"ended": "error", "cause": str(error)}]}
        for file in files:
            os.close(file)
        control.send(json.dumps(report).encode())


if __name__ == "__main__":
    main()
