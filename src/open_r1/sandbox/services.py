"""Services that run programs in place of the local sandbox: Piston, and providers of other packages.

A service gets the program and its input, never an expected output. Its own failures (an outage, a refusal, a page of
HTML, too many requests) become `error`, never a failure of the program. runner.py describes the interface.
"""

from __future__ import annotations

import importlib.metadata
import pkgutil
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from ..errors import RecipeError
from .cases import Language, Limits, Program
from .runner import Execution, Runner

ENTRY_POINTS = "open_r1.sandbox_providers"  # the group under which other packages offer providers by name
ATTEMPTS = 5  # for a request to a service that is down or busy; pauses of 0.5, 1, 2, 4 s, or as long as it asks for
ATTEMPTS_INSIDE = 2  # for a request that fails inside the service: this program may always make it fail
LONGEST_WAIT = 20.0  # seconds between two attempts
DOWN_SECONDS = 10.0  # without requests, after the last attempt found the service down
CONNECT_SECONDS = 10.0
QUEUE_SECONDS = 60.0  # for a request's wait in the service, beyond the limits of its run

# Piston's name of each language, and the name of the program's file.
_PISTON: dict[Language, tuple[str, str]] = {
    "python": ("python", "main.py"),
    "cpp": ("c++", "main.cpp"),
    "javascript": ("javascript", "main.js"),
}


@lru_cache
def get_runner(provider: str, url: str = "") -> Runner:
    """The runner of a provider; the same object for the same arguments.

    Args:
        provider: `piston`, an entry point in the group `open_r1.sandbox_providers`, or `package.module:Class`.
        url: address of the service, such as `http://localhost:2000`.

    Raises:
        RecipeError: there is no such provider, or it refuses the URL.
    """
    if provider == "piston":
        return Piston(url)
    offered = {point.name: point.value for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    path = offered.get(provider, provider)
    if ":" not in path:
        known = ", ".join(["local", "piston", *offered])
        raise RecipeError(f"provider: there is no {provider!r}; known: {known}; name a class as package.module:Class")
    try:
        make_runner = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(f"provider: {path} cannot be imported ({error})") from error
    return make_runner(url)


class Outage(Exception):
    """The service failed; the program is not at fault.

    Args:
        down: the next program would fail too.
        retry: another attempt may succeed.
        wait: seconds until then that the service asks for; None if it does not say.
    """

    def __init__(self, cause: str, *, down: bool = False, retry: bool = False, wait: float | None = None):
        super().__init__(cause)
        self.down, self.retry, self.wait = down, retry, wait


class Service:
    """JSON over HTTP to a service that may be down, slow or overloaded. Thread-safe.

    Failed requests are repeated with growing pauses. After the last attempt the other threads fail at once for
    `DOWN_SECONDS`, instead of waiting too.

    Args:
        name: the provider, for messages.
        url: address of the service, with or without `path`.
        path: of the requests.

    Raises:
        RecipeError: `url` is not an http(s) address.
    """

    def __init__(self, name: str, url: str, path: str):
        import httpx2

        if not re.fullmatch(r"https?://[^\s/]\S*", url):
            raise RecipeError(f"provider: {name} needs `url`, such as http://localhost:8080; got {url!r}")
        self.name = name
        self.url = url.rstrip("/").removesuffix(path).removesuffix("/api/v2") + path
        # All threads share its connections; requests beyond this limit wait for their turn.
        self.client = httpx2.Client(limits=httpx2.Limits(max_connections=64))
        self._lock = threading.Lock()
        self._down_until = 0.0
        self._cause = ""

    def execute(
        self, request: dict[str, Any], read: Callable[[dict[str, Any], Limits], Execution], limits: Limits
    ) -> Execution:
        """Send one request and `read` the execution from the answer; `error` if every attempt ends in an Outage."""
        with self._lock:
            if time.monotonic() < self._down_until:
                return Execution("error", cause=self._cause)
        attempt = 1
        while True:
            try:
                return read(self._post(request, limits), limits)
            except Outage as error:
                outage = error
            if not outage.retry or attempt >= (ATTEMPTS if outage.down else ATTEMPTS_INSIDE):
                break
            pause = 0.5 * 2 ** (attempt - 1) if outage.wait is None else outage.wait
            time.sleep(min(pause, LONGEST_WAIT) * random.uniform(0.8, 1.2))  # threads must not return all at once
            attempt += 1
        cause = f"{outage} ({attempt} attempts)" if outage.retry else str(outage)
        if outage.down:
            with self._lock:
                self._down_until, self._cause = time.monotonic() + DOWN_SECONDS, cause
        return Execution("error", cause=cause)

    def _post(self, request: dict[str, Any], limits: Limits) -> dict[str, Any]:
        """
        Raises:
            Outage: no answer, or one that is not a JSON object.
        """
        import httpx2

        timeout = httpx2.Timeout(QUEUE_SECONDS + limits.wall_seconds, connect=CONNECT_SECONDS)
        try:
            response = self.client.post(self.url, json=request, timeout=timeout)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            cause = f"{self.name}: {self.url} cannot be reached: {type(error).__name__}: {error}"
            retry = isinstance(error, httpx2.NetworkError | httpx2.RemoteProtocolError)  # not after a timeout
            raise Outage(cause, down=True, retry=retry) from error
        status = f"{self.name}: HTTP {response.status_code}"
        if response.status_code == 429 or response.status_code >= 500:
            asked = re.fullmatch(r"\d{1,9}(?:\.\d+)?", response.headers.get("Retry-After", ""))
            wait = float(asked[0]) if asked else None
            down = response.status_code != 500
            raise Outage(f"{status}: {response.text[:200]}", down=down, retry=True, wait=wait)
        try:
            answer = response.json()
        except ValueError:
            raise Outage(f"{status}: not JSON: {response.text[:200]}", down=True, retry=True) from None
        if not response.is_success or not isinstance(answer, dict):
            raise Outage(f"{status}: {_summarize(answer)}")
        return answer


class Piston:
    """github.com/engineer-man/piston, `POST /api/v2/execute`.

    A stock Piston allows 3 s and 1,024 characters of output: raise its PISTON_RUN_TIMEOUT and PISTON_OUTPUT_MAX_SIZE
    (https://piston.readthedocs.io/en/latest/configuration).
    """

    def __init__(self, url: str):
        self.service = Service("piston", url, "/api/v2/execute")

    def run(self, program: Program, stdins: Sequence[bytes], limits: Limits) -> Iterator[Execution]:
        language, name = _PISTON[program.language]
        # JSON cannot carry lone surrogates, and Piston refuses empty files.
        source = program.source.encode("utf-8", "replace").decode() or "\n"
        for stdin in stdins:
            request = {
                "language": language,
                "version": "*",
                "files": [{"name": name, "content": source}],
                "stdin": stdin.decode(errors="replace"),
                "run_timeout": round(limits.seconds * 1000),
                "run_memory_limit": limits.memory_mb << 20,
            }
            yield self.service.execute(request, _read_piston, limits)


def _read_piston(answer: dict[str, Any], limits: Limits) -> Execution:
    """
    Raises:
        Outage: Piston failed, or the answer is not what its API documents.
    """
    compiled, run = answer.get("compile"), answer.get("run")
    if isinstance(compiled, dict) and (compiled.get("code") or compiled.get("signal")):
        if compiled.get("status") == "TO":
            raise Outage("piston: the compiler ran out of time; raise its PISTON_COMPILE_TIMEOUT")
        if compiled.get("status") == "XX":
            raise Outage(f"piston: internal error: {compiled.get('message')}", retry=True)
        message = compiled.get("stderr") or compiled.get("output") or ""
        return Execution("compile", compiled.get("code"), stderr=str(message))
    if not isinstance(run, dict) or not isinstance(run.get("stdout"), str):
        raise Outage(f"piston: an answer without run.stdout: {_summarize(answer)}")
    stdout, stderr = run["stdout"].encode("utf-8", "surrogatepass"), str(run.get("stderr") or "")
    status, signal, code = run.get("status"), run.get("signal"), run.get("code")
    cpu_ms = run.get("cpu_time")  # since version 4
    seconds = cpu_ms / 1000 if isinstance(cpu_ms, int | float) else 0.0
    # Its shell could not start the program.
    if code and not stdout and re.match(r"\S*(sh|piston)\S*: .*Resource temporarily unavailable", stderr):
        raise Outage(f"piston: overloaded: {stderr.strip()[:200]}", down=True, retry=True)
    if status == "XX":
        raise Outage(f"piston: internal error: {run.get('message')}", retry=True)
    if status in ("OL", "EL"):
        if len(stdout) + len(stderr) < limits.output_bytes:
            raise Outage(f"piston: it cuts output off at {len(stdout)} bytes; raise its PISTON_OUTPUT_MAX_SIZE")
        return Execution("output", code, stdout, stderr, seconds)
    # Versions before 4 kill at either limit and do not say which; only their output limit is far below ours.
    if status is None and signal == "SIGKILL" and len(stdout) > 1024:
        raise Outage("piston: killed by its time limit or its PISTON_OUTPUT_MAX_SIZE; only version 4 says which")
    if status == "TO" or (status is None and signal == "SIGKILL"):
        # Piston's limit is wall time: with less CPU time than that, the machine was busy or the program waited.
        starved = isinstance(cpu_ms, int | float) and seconds < 0.9 * limits.seconds
        return Execution("starved" if starved else "cpu", code, stdout, stderr, seconds)
    if not isinstance(code, int) and not signal:
        raise Outage(f"piston: neither an exit code nor a signal: {_summarize(answer)}")
    return Execution("exit", code if isinstance(code, int) else 1, stdout, stderr or str(signal or ""), seconds)


def _summarize(answer: Any) -> str:
    message = answer.get("message") if isinstance(answer, dict) else None
    return (message if isinstance(message, str) else repr(answer))[:200]
