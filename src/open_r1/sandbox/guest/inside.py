"""The forked process of one run: confinement, then the program. Standard library only.

This code runs beside hostile code, so the judge trusts nothing here: it only carries inputs in and outputs out. (The
tester of tester.py has a process of its own.)
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import threading
import traceback
from typing import Any, NoReturn

import confine
import plain
import seccomp
import tester

OUTPUT, ERRORS = 1, 2
FIRST = 500  # lowest descriptor of the run's files, above all that are inherited


def main(request: dict, files: list[int], configuration: dict, report: int) -> NoReturn:
    """Run the child of a fork. A failure before the program starts goes to `report`, which the program never has."""
    try:
        KINDS[request["kind"]](request, take_files(files, report), configuration)
    except BaseException as error:
        os.write(FIRST + len(files), f"{type(error).__name__}: {error}".encode()[:500])
    os._exit(254)


def take_files(files: list[int], report: int) -> list[int]:
    """Renumber the run's files and the report (last), none inherited by exec; close everything else."""
    taken = [os.dup2(file, FIRST + index, inheritable=False) for index, file in enumerate([*files, report])]
    os.closerange(3, FIRST)
    return taken


def reset_signals() -> None:
    """Restore the signals that the trainer's thread may ignore or block. Forks of the zygote inherit this."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in range(1, 32):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # a program gets an OSError instead
        signal.signal(number, signal.SIG_IGN)


def confine_run(request: dict, configuration: dict, contents: dict[str, int] | None = None) -> None:
    """Set up scratch space, capabilities, limits and Landlock: everything but the system call filter.

    Args:
        contents: {name: memory file}, copied into the scratch space.
    """
    os.setsid()
    level, limits = configuration["level"], request["limits"]
    processes = limits["processes"]
    if level == "namespaces":
        confine.mount_scratch(limits["scratch_mb"])
    else:
        confine.die_with_parent()
        processes += confine.count_processes()
        os.chdir(request.get("scratch") or "/")
    for name, file in (contents or {}).items():
        with open(name, "wb") as copy:
            copy.write(read_all(file))
        os.close(file)
    if level == "namespaces":
        confine.drop_capabilities()
    elif level == "landlock":
        confine.restrict_by_landlock(configuration["readable"], request.get("scratch"), request.get("writes", False))
    confine.limit_resources(
        seconds=request["seconds"],
        memory=limits["memory"],
        data=limits["data"],
        file_bytes=limits["file_bytes"],
        processes=processes,
        files=limits["files"],
    )


def open_text_stream(number: int, mode: str) -> io.TextIOWrapper:
    raw = io.FileIO(number, mode, closefd=False)
    buffered = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw, 1 << 16)
    return io.TextIOWrapper(buffered, encoding="utf-8", errors="replace" if mode == "r" else "surrogatepass")


def open_streams() -> None:
    sys.stdin, sys.stdout, sys.stderr = (
        open_text_stream(0, "r"),
        open_text_stream(OUTPUT, "w"),
        open_text_stream(ERRORS, "w"),
    )
    sys.stderr.reconfigure(line_buffering=True)


def read_all(file: int) -> bytes:
    """The contents of a memory file from its start."""
    return os.pread(file, os.fstat(file).st_size, 0)


def read_source(file: int) -> str:
    source = read_all(file).decode("utf-8", "surrogatepass")
    os.close(file)
    return source


def become_program(
    request: dict, configuration: dict, report: int, arguments: list[str], contents: dict[str, int] | None = None
) -> None:
    """Confine this process and set up the interpreter for the program."""
    confine_run(request, configuration, contents)
    open_streams()
    sys.argv = arguments
    random.seed(0)
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)
    threading.stack_size(16 << 20)
    for name in ("seccomp", "confine", "inside", "plain", "tester"):
        sys.modules.pop(name, None)
    seccomp.install(files=configuration["level"] != "seccomp")
    os.close(report)


def make_module(name: str) -> dict[str, Any]:
    """The namespace of a new module."""
    module = sys.modules[name] = type(sys)(name)
    module.__dict__["__builtins__"] = __builtins__
    return module.__dict__


def print_traceback() -> None:
    error = sys.exc_info()[1]
    while error.__traceback__ and error.__traceback__.tb_frame.f_code.co_filename == __file__:
        error.__traceback__ = error.__traceback__.tb_next
    traceback.print_exception(type(error), error, error.__traceback__, limit=-3)


def read_exit_code(ended: SystemExit) -> int:
    if ended.code is None or isinstance(ended.code, int):
        return ended.code or 0
    print(ended.code, file=sys.stderr)
    return 1


def finish(code: int) -> NoReturn:
    """End as an interpreter would, without the program's atexit functions."""
    for last in (threading._shutdown, sys.stdout.flush):
        try:
            last()
        except BaseException:
            code = code or 1
    os._exit(code & 255)


def run_stdin(request: dict, files: list[int], configuration: dict) -> NoReturn:
    """Files: source, errors, then input and output of each test. One process runs all tests in turn."""
    source, errors, *pairs, report = files
    pairs = list(zip(pairs[::2], pairs[1::2], strict=True))
    text = read_source(source)
    os.dup2(errors, ERRORS)
    os.close(errors)
    set_pair(*pairs[0])
    become_program(request, configuration, report, ["program.py"])
    code = 0
    try:
        compiled = compile(text, "<program>", "exec", dont_inherit=True)
        for index in range(len(pairs)):
            if index:
                set_pair(*pairs[index])
                open_streams()
            last = index == len(pairs) - 1
            try:
                exec(compiled, make_module("__main__"))
            except SystemExit as ended:
                code = read_exit_code(ended)
                if code:
                    break
            if not last:
                threading._shutdown()
                sys.stdout.flush()
    except BaseException:
        print_traceback()
        code = 1
    finish(code)


def set_pair(given: int, taken: int) -> None:
    os.dup2(given, 0)
    os.dup2(taken, OUTPUT)
    os.close(given)
    os.close(taken)


def run_calls(request: dict, files: list[int], configuration: dict) -> NoReturn:
    """Files: source, errors, output, calls (JSON), results: one JSON line per call."""
    source, errors, output, calls, results, report = files
    text, todo = read_source(source), json.loads(read_all(calls))
    set_streams(calls, output, errors)
    become_program(request, configuration, report, ["program.py"])
    code = 0
    try:
        namespace = make_module("program")
        exec(compile(text, "<program>", "exec", dont_inherit=True), namespace)
        for call in todo:
            os.write(results, plain.answer_call(namespace, call).encode() + b"\n")
    except SystemExit as ended:
        code = read_exit_code(ended)
    except BaseException:
        print_traceback()
        code = 1
    finish(code)


def set_streams(given: int, output: int, errors: int) -> None:
    """Set stdin, stdout and stderr; `given` is set to its end, with nothing left to read."""
    os.lseek(given, 0, os.SEEK_END)
    for number, file in enumerate((given, output, errors)):
        os.dup2(file, number)
        os.close(file)


def run_server(request: dict, files: list[int], configuration: dict) -> NoReturn:
    """The program of an assert test. Files: source, errors, output, requests (pipe), answers (pipe)."""
    source, errors, output, requests, answers, report = files
    text = read_source(source)
    set_streams(os.memfd_create("empty"), output, errors)
    become_program(request, configuration, report, ["program.py"])
    code = 0
    try:
        namespace = make_module("program")
        exec(compile(text, "<program>", "exec", dont_inherit=True), namespace)
        tester.serve(namespace, requests, answers)
    except SystemExit as ended:
        code = read_exit_code(ended)
    except BaseException:
        print_traceback()
        code = 1
    finish(code)


def run_tester(request: dict, files: list[int], configuration: dict) -> NoReturn:
    """The test code of assert tests. Files: tests (JSON list), verdicts, output, requests (pipe), answers (pipe)."""
    tests, verdicts, output, requests, answers, report = files
    sources = json.loads(read_all(tests))
    set_streams(tests, output, os.dup(output))
    become_program(request, configuration, report, ["test.py"])
    for source in sources:
        status, reason = tester.run_test(source, requests, answers)
        os.write(verdicts, json.dumps([status, reason]).encode() + b"\n")
        if status == tester.ENDED:
            break
    os._exit(0)


def run_checker(request: dict, files: list[int], configuration: dict) -> NoReturn:
    """Files: source, errors, output, then the three files that a checker reads."""
    source, errors, output, *contents, report = files
    text = read_source(source)
    set_streams(os.memfd_create("empty"), output, errors)
    names = ["input.txt", "expected.txt", "output.txt"]
    become_program(request, configuration, report, ["checker.py", *names], dict(zip(names, contents, strict=True)))
    code = 0
    try:
        exec(compile(text, "<checker>", "exec", dont_inherit=True), make_module("__main__"))
    except SystemExit as ended:
        code = read_exit_code(ended)
    except BaseException:
        print_traceback()
        code = 1
    finish(code)


def run_compiler(request: dict, files: list[int], configuration: dict) -> NoReturn:
    """Files: source, errors, binary (written). The compiler counts as hostile too, because it reads hostile text."""
    source, errors, binary, report = files
    name, command = request["source_name"], request["command"]
    confine_run(request, configuration, {name: source})
    child = os.fork()
    if child == 0:
        try:
            confine.die_with_parent()
            set_streams(os.memfd_create("empty"), os.dup(errors), errors)
            seccomp.install(files=True, processes=True)
            os.execve(command[0], command, {"PATH": request["path"], "LANG": "C.UTF-8", "TMPDIR": os.getcwd()})
        except BaseException as error:
            os.write(report, f"the compiler does not start: {error}".encode())
        os._exit(254)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 0:
        with open(request["binary_name"], "rb") as made, os.fdopen(os.dup(binary), "wb") as kept:
            shutil.copyfileobj(made, kept)
    os._exit(code if 0 <= code < 254 else 253)


def run_executable(request: dict, files: list[int], configuration: dict) -> NoReturn:
    """Files: binary or source, errors, input, output. `command` runs a source."""
    code, errors, given, output, _ = files
    command = request["command"]
    for number, file in enumerate((given, output, errors)):
        os.dup2(file, number)
    confine_run(request, configuration, {request["source_name"]: code} if command else {})
    wanted, hard = request["stack_mb"] << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (wanted if hard < 0 else min(wanted, hard), hard))
    seccomp.install(files=configuration["level"] != "seccomp", executes=True)
    os.execve(
        command[0] if command else code, command or ["program"], {"LANG": "C.UTF-8", "OPENSSL_CONF": "/dev/null"}
    )
    raise AssertionError("exec does not return")


KINDS = {
    "stdin": run_stdin,
    "calls": run_calls,
    "server": run_server,
    "tester": run_tester,
    "checker": run_checker,
    "compiler": run_compiler,
    "executable": run_executable,
}
