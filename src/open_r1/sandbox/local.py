"""The local sandbox as a runner. All input and output of a run is in memory files."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from . import pool, toolchains
from .cases import Level, Limits, Program
from .pool import Report, SandboxError, get_pool
from .runner import Execution

BATCH = 32  # tests in one process: each takes two descriptors of the 253 that one message may carry
MESSAGE_BYTES = 1 << 16  # last bytes of a program's stderr that are kept
Result = TypeVar("Result")
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK


# Threads that hold descriptors of a run (up to 66) at a time; more would only wait for a zygote.
_turns = threading.BoundedSemaphore(pool.CORES)


def _renew_turns() -> None:
    global _turns
    _turns = threading.BoundedSemaphore(pool.CORES)


os.register_at_fork(after_in_child=_renew_turns)


@dataclass(frozen=True)
class Sandbox:
    """The local runner, at one level of isolation. Beyond `Runner` it can

    - run several tests of a Python program in one process (`run_together`): a fork costs more than most tests;
    - call Python functions (`call`), run test code apart from the program (`run_asserts`), run a checker (`check`).
    """

    level: Level
    compiler: Limits = toolchains.COMPILER_LIMITS

    def run(self, program: Program, stdins: Sequence[bytes], limits: Limits) -> Iterator[Execution]:
        missing = toolchains.explain_missing(program.language, self.level)
        if missing:
            yield from [Execution("error", cause=missing)] * len(stdins)
        elif program.language == "python":
            for stdin in stdins:
                yield from self.run_together(program, [stdin], limits)
        else:
            code = encode_text(program.source)
            if program.language == "cpp":
                compiled = self._compile(code)
                if compiled.ended != "exit":
                    yield from [compiled] * len(stdins)
                    return
                code = compiled.stdout
            how = toolchains.build_execution(program.language, limits)
            with open_memory_files(code) as shared:
                fcntl.fcntl(shared[0], fcntl.F_ADD_SEALS, SEALS)
                for stdin in stdins:
                    yield self._run("executable", [b"", stdin, b""], [3], 1, limits, shared=shared, **how)[0]

    def run_together(self, program: Program, stdins: Sequence[bytes], limits: Limits) -> list[Execution]:
        """Run at most `BATCH` stdins in one process, one after the other, within the limits of a single run."""
        pairs = [part for stdin in stdins for part in (stdin, b"")]
        outputs = range(3, 3 + len(pairs), 2)
        return self._run("stdin", [encode_text(program.source), b"", *pairs], outputs, 1, limits)

    def call(self, program: Program, calls: bytes, limits: Limits) -> Execution:
        """Make calls (JSON, see `plain.answer_call`) in one process; stdout has a line of JSON for each."""
        return self._run("calls", [encode_text(program.source), b"", b"", calls, b""], [4], 1, limits)[0]

    def check(self, checker: str, contents: Sequence[bytes], limits: Limits) -> Execution:
        """Run a checker on input, expected output and produced output."""
        if self.level == "seccomp":
            return Execution("error", cause="a checker reads files, which isolation by seccomp alone does not give")
        files = [encode_text(checker), b"", b"", *contents]
        return self._run("checker", files, [2], 1, limits, needs_scratch=True)[0]

    def run_asserts(self, program: Program, tests: Sequence[str], limits: Limits) -> tuple[Execution, Execution]:
        """Run test code in a process of its own, apart from the program's.

        Returns:
            The executions of the program's and the tester's process. The tester's stdout is a line of JSON,
            [status, reason], for each test that reached its end.
        """

        def use(files: list[int]) -> tuple[Execution, Execution]:
            program_report, tester_report = get_pool(self.level).run(make_request("asserts", limits), files)
            verdicts = make_execution(tester_report, read_content(files[4]), "", limits)
            return make_execution(program_report, b"", read_message(files[1]), limits), verdicts

        sources = json.dumps(list(tests)).encode()
        try:
            return run_with_files([encode_text(program.source), b"", b"", sources, b"", b""], use)
        except (SandboxError, OSError) as error:
            return (Execution("error", cause=str(error)),) * 2

    def _compile(self, source: bytes) -> Execution:
        """Compile C++; stdout is the binary."""
        how = toolchains.build_compilation()
        ended = self._run("compiler", [source, b"", b""], [2], 1, self.compiler, needs_scratch=True, **how)[0]
        if ended.ended != "exit" or not ended.exit_code:
            return ended
        if "Killed signal terminated" in ended.stderr:
            cause = "the compiler was killed from outside: no memory left on this machine, or by hand"
            return Execution("error", cause=cause)
        return replace(ended, ended="compile")

    def _run(
        self,
        kind: str,
        contents: Sequence[bytes],
        outputs: Sequence[int],
        errors: int,
        limits: Limits,
        shared: Sequence[int] = (),
        **more: Any,
    ) -> list[Execution]:
        """Run one process on fresh memory files (after the `shared` ones); an execution for each of its outputs."""

        def use(files: list[int]) -> list[Execution]:
            files = [*shared, *files]
            (report,) = get_pool(self.level).run(make_request(kind, limits, outputs=len(outputs), **more), files)
            stdouts = [os.pread(files[output], limits.output_bytes + 1, 0) for output in outputs]
            return [make_execution(report, stdout, read_message(files[errors]), limits) for stdout in stdouts]

        try:
            return run_with_files(contents, use)
        except (SandboxError, OSError) as error:
            return [Execution("error", cause=str(error))] * len(outputs)


def run_with_files(contents: Sequence[bytes], use: Callable[[list[int]], Result]) -> Result:
    """Call `use(files)` with fresh memory files; if its zygote breaks, once more with new ones.

    The first attempt may have read or written some, and all processes share a descriptor's position.

    Raises:
        SandboxError: the second attempt failed too.
    """
    try:
        with _turns, open_memory_files(*contents) as files:
            return use(files)
    except SandboxError:
        with _turns, open_memory_files(*contents) as files:
            return use(files)


def make_request(kind: str, limits: Limits, data: int | None = None, outputs: int = 1, **more: Any) -> dict[str, Any]:
    """A zygote's request for a run; `data` (bytes) limits writable memory in place of the address space."""
    # The kernel has one limit for output and other files. Many outputs together must not fill the memory.
    largest = limits.output_bytes if outputs > 1 else max(limits.output_bytes, limits.file_mb << 20)
    return more | {
        "kind": kind,
        "seconds": limits.seconds,
        "wall_seconds": max(limits.wall_seconds, limits.seconds),  # for programs that wait
        "limits": {
            "memory": None if data else limits.memory_mb << 20,
            "data": data,
            "file_bytes": largest + 1,
            "scratch_mb": limits.file_mb,
            "processes": limits.processes,
            "files": 64,
        },
    }


def make_execution(report: Report, stdout: bytes, stderr: str, limits: Limits) -> Execution:
    """The execution that a zygote reports, with its output cut off at the limit."""
    ended, code = report["ended"], report["code"]
    if ended == "done":  # a program that was still running when its tester had finished
        ended, code = "exit", 0
    busy = report.get("preempted") and os.getloadavg()[0] > len(os.sched_getaffinity(0))
    if ended == "starved" and not busy:  # it slept; nothing kept it from the CPU
        ended = "wall"
    if ended == "exit" and len(stdout) > limits.output_bytes:
        ended = "output"
    return Execution(ended, code, stdout[: limits.output_bytes], stderr, report["seconds"])


def open_memory_file(data: bytes = b"") -> int:
    """The descriptor of a file without a name."""
    file = os.memfd_create("run", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
    os.lseek(file, 0, os.SEEK_SET)
    return file


@contextlib.contextmanager
def open_memory_files(*contents: bytes) -> Iterator[list[int]]:
    files: list[int] = []
    try:
        for data in contents:
            files.append(open_memory_file(data))
        yield files
    finally:
        for file in files:
            os.close(file)


def read_content(file: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size, 0)


def read_message(file: int) -> str:
    """The last bytes that were written to stderr."""
    start = max(0, os.fstat(file).st_size - MESSAGE_BYTES)
    return os.pread(file, MESSAGE_BYTES, start).decode(errors="replace")


def encode_text(text: str) -> bytes:
    """UTF-8; lone surrogates, which a dataset may contain, are kept."""
    return text.encode("utf-8", "surrogatepass")
