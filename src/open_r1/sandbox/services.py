"""Services that run programs, for those who have one: Piston, SandboxFusion, E2B.

They get the program and its input, never an expected output. Whatever is the service's fault (an outage, a refusal, a
page of HTML, too many requests) ends as `error`, never as a failure of the program.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

from ..errors import RecipeError
from .cases import Language, Limits, Program
from .runner import Execution, Runner

ATTEMPTS = 5  # of a request to a service that is down or busy; 0.5, 1, 2, 4 s apart, or as long as it asks for
ATTEMPTS_INSIDE = 2  # of one that it took and then failed at: perhaps that program always makes it fail
LONGEST_WAIT = 20.0  # seconds between two attempts
DOWN_SECONDS = 10.0  # after a request has failed for good, others fail at once for so long
CONNECT_SECONDS = 10.0
QUEUE_SECONDS = 60.0  # that a request may wait in the service beyond its own limits


# How each of them calls our languages, and the program's file.
_PISTON: dict[Language, tuple[str, str]] = {
    "python": ("python", "main.py"),
    "cpp": ("c++", "main.cpp"),
    "javascript": ("javascript", "main.js"),
}
_FUSION: dict[Language, str] = {"python": "python", "cpp": "cpp", "javascript": "nodejs"}
# File, tool, command that compiles, and command that runs it from a folder beside it.
_E2B: dict[Language, tuple[str, str, str, str]] = {
    "python": ("main.py", "python3", "", "ulimit -v {kb}; timeout {wall} python3 ../main.py"),
    "cpp": ("main.cpp", "g++", "g++ -std=c++17 -O2 -o main main.cpp", "ulimit -v {kb}; timeout {wall} ../main"),
    # node reserves far more addresses than it uses
    "javascript": ("main.js", "node", "", "timeout {wall} node --max-old-space-size={mb} ../main.js"),
}


class Outage(Exception):
    """The service did not do its part; the program has nothing to do with it.

    Args:
        down: it will not do the next program's part either, as far as one can tell.
    """

    def __init__(self, cause: str, *, down: bool = False):
        super().__init__(cause)
        self.down = down


class Busy(Outage):
    """Worth another attempt.

    Args:
        wait: seconds that the service asks for; None if it does not say.
    """

    def __init__(self, cause: str, *, down: bool = False, wait: float | None = None):
        super().__init__(cause, down=down)
        self.wait = wait


@lru_cache
def get_runner(provider: str, url: str = "") -> Runner:
    """The runner of a provider; the same one for the same arguments.

    Args:
        provider: `piston`, `sandboxfusion` or `e2b`.
        url: where the service listens, such as `http://localhost:2000`; for E2B its domain, where it is not e2b.app.

    Raises:
        RecipeError: there is no such provider, or it lacks its URL, package or key.
    """
    if provider not in PROVIDERS:
        raise RecipeError(f"provider: there is no {provider!r}; known: local, {', '.join(PROVIDERS)}")
    return PROVIDERS[provider](url)


class Piston:
    """github.com/engineer-man/piston, `POST /api/v2/execute`.

    A stock Piston allows 3 s and 1,024 characters of output: set its PISTON_RUN_TIMEOUT and PISTON_OUTPUT_MAX_SIZE
    (https://piston.readthedocs.io/en/latest/configuration).
    """

    def __init__(self, url: str):
        self.service = Service("piston", url, "/api/v2/execute")

    def run(self, program: Program, stdins: Sequence[bytes], limits: Limits) -> Iterator[Execution]:
        for stdin in stdins:
            yield self.service.execution(self._request(program, stdin, limits), _of_piston, limits)

    def _request(self, program: Program, stdin: bytes, limits: Limits) -> dict[str, Any]:
        language, name = _PISTON[program.language]
        return {
            "language": language,
            "version": "*",
            # Piston refuses empty files.
            "files": [{"name": name, "content": _clean(program.source) or "\n"}],
            "stdin": stdin.decode(errors="replace"),
            "run_timeout": round(limits.seconds * 1000),
            "run_memory_limit": limits.memory_mb << 20,
        }


def _of_piston(answer: dict[str, Any], limits: Limits) -> Execution:
    """
    Raises:
        Outage: not what the API promises.
    """
    compiled, run = answer.get("compile"), answer.get("run")
    if isinstance(compiled, dict) and (compiled.get("code") or compiled.get("signal")):
        if compiled.get("status") == "TO":
            raise Outage("piston: the compiler ran out of time; raise its PISTON_COMPILE_TIMEOUT")
        if compiled.get("status") == "XX":
            raise Busy(f"piston: internal error: {compiled.get('message')}")
        return Execution(
            "compile", compiled.get("code"), stderr=_text(compiled, "stderr") or _text(compiled, "output")
        )
    if not isinstance(run, dict) or not isinstance(run.get("stdout"), str):
        raise Outage(f"piston: an answer without run.stdout: {_start(answer)}")
    stdout, stderr = run["stdout"].encode("utf-8", "surrogatepass"), _text(run, "stderr")
    status, signal, code = run.get("status"), run.get("signal"), run.get("code")
    seconds = (_number(run, "cpu_time") or _number(run, "wall_time")) / 1000
    # Its shell could not even start the program.
    if code and not stdout and re.match(r"\S*(sh|piston)\S*: .*Resource temporarily unavailable", stderr):
        raise Busy(f"piston: overloaded: {stderr.strip()[:200]}", down=True)
    if status == "XX":
        raise Busy(f"piston: internal error: {run.get('message')}")
    if status in ("OL", "EL"):
        if len(stdout) + len(stderr) < limits.output_bytes:
            raise Outage(f"piston: it cuts output off at {len(stdout)} bytes; raise its PISTON_OUTPUT_MAX_SIZE")
        return Execution("output", code, stdout, stderr, seconds)
    # Versions before 4 kill at either limit and do not say which; only their output limit is far below ours.
    if status is None and signal == "SIGKILL" and len(stdout) > 1024:
        raise Outage("piston: killed by its time limit or its PISTON_OUTPUT_MAX_SIZE; only version 4 says which")
    if status == "TO" or (status is None and signal == "SIGKILL"):
        return Execution(_late(run.get("cpu_time"), limits), code, stdout, stderr, seconds)
    if not isinstance(code, int) and not signal:
        raise Outage(f"piston: neither an exit code nor a signal: {_start(answer)}")
    return Execution("exit", code if isinstance(code, int) else 1, stdout, stderr or str(signal or ""), seconds)


class SandboxFusion:
    """github.com/bytedance/SandboxFusion, `POST /run_code`."""

    def __init__(self, url: str):
        self.service = Service("sandboxfusion", url, "/run_code")

    def run(self, program: Program, stdins: Sequence[bytes], limits: Limits) -> Iterator[Execution]:
        for stdin in stdins:
            yield self.service.execution(self._request(program, stdin, limits), _of_fusion, limits)

    def _request(self, program: Program, stdin: bytes, limits: Limits) -> dict[str, Any]:
        return {
            "code": _clean(program.source),
            "language": _FUSION[program.language],
            "stdin": stdin.decode(errors="replace"),
            "compile_timeout": 30,
            "run_timeout": limits.seconds,
            "memory_limit_MB": limits.memory_mb,
        }


def _of_fusion(answer: dict[str, Any], limits: Limits) -> Execution:
    """
    Raises:
        Outage: the sandbox's own failure, or not what the API promises.
    """
    compiled, run = answer.get("compile_result"), answer.get("run_result")
    if answer.get("status") not in ("Success", "Failed"):
        raise Busy(f"sandboxfusion: {answer.get('status')}: {str(answer.get('message'))[:200]}")
    if isinstance(compiled, dict):
        if compiled.get("status") == "Error":
            raise Busy(f"sandboxfusion: the compiler did not run: {_text(compiled, 'stderr')[:200]}")
        if compiled.get("status") == "TimeLimitExceeded":
            raise Outage("sandboxfusion: the compiler ran out of time")
        if compiled.get("return_code"):
            return Execution("compile", compiled.get("return_code"), stderr=_text(compiled, "stderr"))
    if not isinstance(run, dict) or run.get("status") == "Error":
        raise Busy(f"sandboxfusion: the program did not run: {_start(answer)}")
    stdout, stderr = _text(run, "stdout").encode("utf-8", "surrogatepass"), _text(run, "stderr")
    seconds = _number(run, "execution_time")
    if run.get("status") == "TimeLimitExceeded":
        return Execution("cpu", None, stdout, stderr, seconds)
    if run.get("status") != "Finished" or not isinstance(run.get("return_code"), int):
        raise Outage(f"sandboxfusion: an answer without run_result.return_code: {_start(answer)}")
    if len(stdout) > limits.output_bytes:
        return Execution("output", None, stdout, stderr, seconds)
    return Execution("exit", run["return_code"], stdout, stderr, seconds)


def _late(cpu_milliseconds: Any, limits: Limits) -> Literal["cpu", "starved"]:
    """What a service's time limit, by its clock on the wall, means: nothing if the program had less CPU time."""
    known = isinstance(cpu_milliseconds, int | float)
    return "starved" if known and cpu_milliseconds < 900 * limits.seconds else "cpu"


class Service:
    """JSON over HTTP to a service that may be down, slow, or tired of us. Thread-safe.

    Raises:
        RecipeError: no URL.
    """

    def __init__(self, name: str, url: str, path: str):
        import httpx2

        try:
            usable = httpx2.URL(url).scheme in ("http", "https") and httpx2.URL(url).host
        except httpx2.InvalidURL:
            usable = False
        if not usable:
            raise RecipeError(f"provider: {name} needs `url`, such as http://localhost:8080; got {url!r}")
        self.name = name
        self.url = url.rstrip("/").removesuffix(path).removesuffix("/api/v2") + path
        self.breaker = Breaker()
        # Threads of other samples share its connections; more than a service takes wait for their turn.
        self.client = httpx2.Client(limits=httpx2.Limits(max_connections=64))

    def execution(
        self, request: dict[str, Any], read: Callable[[dict[str, Any], Limits], Execution], limits: Limits
    ) -> Execution:
        """What came of one request; `error` if the service did not do its part, however often it was asked."""
        return self.breaker.attempt(lambda: read(self._post(request, limits), limits))

    def _post(self, request: dict[str, Any], limits: Limits) -> dict[str, Any]:
        """
        Raises:
            Outage: no answer, or none that is a JSON object.
        """
        import httpx2

        timeout = httpx2.Timeout(QUEUE_SECONDS + limits.wall_seconds, connect=CONNECT_SECONDS)
        try:
            response = self.client.post(self.url, json=request, timeout=timeout)
        except (httpx2.ConnectError, httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError) as error:
            raise Busy(f"{self.name}: {self.url} cannot be reached: {error}", down=True) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:  # it hangs, most of all
            raise Outage(f"{self.name}: {self.url}: {type(error).__name__}: {error}", down=True) from error
        said = f"{self.name}: HTTP {response.status_code}"
        if response.status_code == 429 or response.status_code >= 500:
            wait = _retry_after(response.headers.get("Retry-After"))
            raise Busy(f"{said}: {response.text[:200]}", down=response.status_code != 500, wait=wait)
        try:
            answer = response.json()
        except ValueError:
            raise Busy(f"{said}: not JSON: {response.text[:200]}", down=True) from None
        if not response.is_success or not isinstance(answer, dict):
            raise Outage(f"{said}: {_start(answer)}")
        return answer


class Breaker:
    """Repeats what fails, with growing pauses, and then spares everybody else the wait for a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._down_until = 0.0
        self._cause = ""

    def attempt(self, once: Callable[[], Execution]) -> Execution:
        with self._lock:
            if time.monotonic() < self._down_until:
                return Execution("error", cause=self._cause)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return once()
            except Busy as busy:
                cause, down = f"{busy} ({attempt} attempts)", busy.down
                if attempt >= (ATTEMPTS if down else ATTEMPTS_INSIDE):
                    break
                _pause(0.5 * 2 ** (attempt - 1) if busy.wait is None else busy.wait)
            except Outage as outage:
                cause, down = str(outage), outage.down
                break
        if not down:
            return Execution("error", cause=cause)
        with self._lock:
            self._down_until, self._cause = time.monotonic() + DOWN_SECONDS, cause
        return Execution("error", cause=cause)


def _pause(seconds: float) -> None:
    # Not all threads at the same moment.
    time.sleep(min(seconds, LONGEST_WAIT) * random.uniform(0.8, 1.2))


def _retry_after(header: str | None) -> float | None:
    try:
        return max(0.0, float(header or ""))
    except ValueError:
        return None


class E2B:
    """e2b.dev, through its own package; one sandbox for the runs of a program.

    Raises:
        RecipeError: the package or its key is missing.
    """

    def __init__(self, domain: str):
        try:
            import e2b_code_interpreter
        except ImportError as error:
            raise RecipeError("provider: e2b needs its package: pip install e2b-code-interpreter") from error
        if not os.environ.get("E2B_API_KEY"):
            raise RecipeError("provider: e2b needs its key in the environment: E2B_API_KEY")
        self.package = e2b_code_interpreter
        self.options = {"domain": domain} if domain else {}
        self.breaker = Breaker()

    def run(self, program: Program, stdins: Sequence[bytes], limits: Limits) -> Iterator[Execution]:
        opened: list[Any] = []
        lifetime = 120 + round(limits.wall_seconds) * len(stdins)
        ready = self.breaker.attempt(lambda: self._prepared(program, opened, lifetime))
        try:
            for i, stdin in enumerate(stdins):
                if ready.ended == "exit":
                    yield self._attempt(lambda i=i, stdin=stdin: self._execute(opened[-1], program, i, stdin, limits))
                else:
                    yield ready
        finally:
            for sandbox in opened:
                with contextlib.suppress(Exception):  # it ends by itself after its lifetime
                    sandbox.kill()

    def _prepared(self, program: Program, opened: list[Any], lifetime: int) -> Execution:
        """Open a sandbox with the program in it, compiled; put into `opened` whatever happens then.

        Raises:
            Outage: E2B's fault.
        """
        name, tool, compile_command, _ = _E2B[program.language]

        def prepare() -> Execution:
            opened.append(self.package.Sandbox.create(timeout=lifetime, **self.options))
            if self._command(opened[-1], f"command -v {tool}", 30)[0]:
                raise Outage(f"e2b: its template has no {tool}")
            opened[-1].files.write(name, _clean(program.source))
            if compile_command:
                code, _, stderr = self._command(opened[-1], compile_command, 60)
                if code:
                    return Execution("compile", code, stderr=stderr)
            return Execution("exit", 0)

        return self._outages(prepare)

    def _attempt(self, execute: Callable[[], Execution]) -> Execution:
        try:
            return self._outages(execute)
        except Outage as outage:
            return Execution("error", cause=str(outage))

    def _outages(self, do: Callable[[], Execution]) -> Execution:
        """
        Raises:
            Outage: whatever the package raises.
        """
        try:
            return do()
        except Outage:
            raise
        except self.package.RateLimitException as error:
            raise Busy(f"e2b: {error}", down=True) from error
        except Exception as error:  # it lets errors of several HTTP libraries through
            raise Outage(f"e2b: {type(error).__name__}: {error}") from error

    def _execute(self, sandbox: Any, program: Program, i: int, stdin: bytes, limits: Limits) -> Execution:
        """One run in a folder of its own."""
        sandbox.files.write(f"run{i}/.input", stdin)
        command = _E2B[program.language][3]
        limited = command.format(kb=limits.memory_mb << 10, mb=limits.memory_mb, wall=f"{limits.wall_seconds:g}")
        start = time.monotonic()
        code, stdout, stderr = self._command(
            sandbox,
            f"cd run{i} && ulimit -t {max(1, round(limits.seconds))} && {limited} < .input",
            limits.wall_seconds + 30,
        )
        seconds = time.monotonic() - start
        output = stdout.encode("utf-8", "surrogatepass")
        # `timeout` exits with 124; 128 and the number of a signal: 9 is KILL, 24 is XCPU.
        ended = {124: "wall", 137: "cpu", 152: "cpu"}.get(code, "exit")
        if len(output) > limits.output_bytes:
            ended = "output"
        return Execution(ended, code, output[: limits.output_bytes], stderr, seconds)

    def _command(self, sandbox: Any, command: str, seconds: float) -> tuple[int, str, str]:
        """Exit code, output and errors of a shell command; an exit code is no exception to us."""
        try:
            done = sandbox.commands.run(command, timeout=seconds)
        except self.package.CommandExitException as exited:
            done = exited
        return done.exit_code, done.stdout, done.stderr


PROVIDERS: dict[str, Callable[[str], Runner]] = {"piston": Piston, "sandboxfusion": SandboxFusion, "e2b": E2B}


def _clean(source: str) -> str:
    """Text that JSON can carry: lone surrogates replaced."""
    return source.encode("utf-8", "replace").decode()


def _text(answer: dict[str, Any], key: str) -> str:
    value = answer.get(key)
    return value if isinstance(value, str) else ""


def _number(answer: dict[str, Any], key: str) -> float:
    value = answer.get(key)
    return float(value) if isinstance(value, int | float) else 0.0


def _start(answer: Any) -> str:
    message = answer.get("message") if isinstance(answer, dict) else None
    return (message if isinstance(message, str) else repr(answer))[:200]
