"""OpenAI-compatible servers over HTTP: endpoints that fail, one event loop for all threads, a cache on disk."""

from __future__ import annotations

import asyncio
import email.utils
import functools
import hashlib
import json
import logging
import math
import os
import random
import re
import sqlite3
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError

if TYPE_CHECKING:
    import httpx2


MAX_BYTES = 2**20  # of an HTTP answer; a verdict takes a few hundred
SHOWN = 200  # characters of an answer that are kept in a reason
_log = logging.getLogger(__name__)
_jitter = random.Random()  # not the global stream, on which a training's repeatability rests


@dataclass
class Endpoint:
    """One server, as all that ask it in this process see it. Times are the event loop's."""

    url: str
    slots: asyncio.Semaphore
    in_flight: int = 0  # those that wait for a slot included
    failures: int = 0  # spells of failure in a row
    paused_until: float = 0.0
    down_since: float | None = None
    last_failure: str = ""
    refuses: bool = False  # its last failure was a lasting one
    takes_schema: bool = True

    def failed(self, failure: Failure, now: float, backoff: float, longest: float) -> None:
        """Leave it alone for a while; the other requests of the same spell do not prolong that.

        Args:
            failure: what happened; the seconds its server asked for are given in any case.
            now: the event loop's time.
            backoff: seconds after the first spell of failure; doubled at each further one, with jitter.
            longest: the most seconds of it.
        """
        self.last_failure, self.refuses = str(failure), failure.lasting
        if self.down_since is None:
            self.down_since = now
        if now >= self.paused_until:
            self.failures += 1
            pause = min(backoff * 2 ** min(self.failures - 1, 30), longest)
            self.paused_until = now + pause * _jitter.uniform(0.5, 1.5)
        self.paused_until = max(self.paused_until, now + (failure.retry_after or 0.0))

    def answered(self) -> None:
        self.failures, self.down_since, self.refuses = 0, None, False


def choose_endpoint(endpoints: deque[Endpoint], now: float) -> Endpoint:
    """The least busy endpoint; one that failed gets a single request at a time until it answers again.

    If all of them are left alone, the one whose pause ends first.
    """
    endpoints.rotate(1)
    ready = [e for e in endpoints if e.paused_until <= now]
    if any(not e.failures for e in ready):
        ready = [e for e in ready if not e.failures or not e.in_flight]
    if ready:
        return min(ready, key=lambda e: e.in_flight)
    return min(endpoints, key=lambda e: e.paused_until)


@dataclass(frozen=True)
class Attempt:
    """What came of one request at an endpoint: an answer, a failure, or neither if it failed others before its turn.

    Args:
        seconds: of the pause before it and of the request; waiting for a slot is not counted.
        cut: the caller's own time was over before the endpoint's.
    """

    answer: Any = None
    failure: Failure | None = None
    seconds: float = 0.0
    cut: bool = False


async def try_endpoint(
    endpoint: Endpoint, ask: Callable[[Endpoint], Awaitable[Any]], timeout: float, left: float = math.inf
) -> Attempt:
    """Wait until an endpoint's pause is over and it has a free slot, and ask it.

    Args:
        endpoint: from `choose`.
        ask: makes the request; raises Failure.
        timeout: seconds of the request.
        left: seconds that the caller has for pause and request.
    """
    now = asyncio.get_running_loop().time
    pause = max(0.0, endpoint.paused_until - now())
    await asyncio.sleep(pause)
    limit = min(timeout, left - pause)
    endpoint.in_flight += 1
    try:
        async with endpoint.slots:
            began = now()
            if began < endpoint.paused_until:
                return Attempt(seconds=pause)
            try:
                async with asyncio.timeout(limit):
                    answer = await ask(endpoint)
            except TimeoutError:
                failure = Failure(f"{endpoint.url} gave no answer within {limit:.3g} s")
                return Attempt(failure=failure, seconds=pause + now() - began, cut=limit < timeout)
            except Failure as failure:
                return Attempt(failure=failure, seconds=pause + now() - began)
            endpoint.answered()
            return Attempt(answer, seconds=pause + now() - began)
    finally:
        endpoint.in_flight -= 1


class Failure(Exception):
    """One failed request.

    Args:
        reason: what came instead of an answer; what varies from case to case stands after a colon.
        status: HTTP status, if there was one.
        retry_after: seconds the server asks to be left alone.
    """

    def __init__(self, reason: str, status: int | None = None, retry_after: float | None = None):
        super().__init__(reason)
        self.status, self.retry_after = status, retry_after

    @property
    def of_the_request(self) -> bool:
        """The same request would fail again anywhere: too long for the model, say."""
        return self.status in (400, 413, 422)

    @property
    def lasting(self) -> bool:
        """The same endpoint would refuse again: a wrong key, model or path."""
        return self.status is not None and self.status < 500 and self.status not in (200, 408, 429)


async def request_completion(url: str, body: dict[str, Any], key: str | None) -> dict[str, Any]:
    """The first choice of one chat completion: `message`, `finish_reason`.

    Raises:
        Failure: the connection failed, or something else came.
    """
    text = await request_text(url, "/chat/completions", key, body)
    choice = _first_choice(text)
    if choice is None:
        raise Failure(f"{url} answered no chat completion: {shorten_text(text)}", 200)
    return choice


async def request_text(
    url: str, path: str, key: str | None, body: dict[str, Any] | None = None, max_bytes: int = MAX_BYTES
) -> str:
    """The text that a server answers with HTTP 200; an API key that it repeats is left out.

    Args:
        url: base url of the endpoint.
        path: what follows it.
        key: the API key.
        body: of a POST; without one it is a GET.
        max_bytes: the most of an answer that is read.

    Raises:
        Failure: the connection failed, another status came, or too much.
    """
    status, headers, text = await _send(url, path, key, body, max_bytes)
    text = text.replace(key, "<key>") if key else text
    if status != 200:
        raise Failure(
            f"{url} answered HTTP {status}: {shorten_text(text)}", status, _seconds(headers.get("retry-after"))
        )
    return text


async def _send(
    url: str, path: str, key: str | None, body: dict[str, Any] | None, max_bytes: int
) -> tuple[int, httpx2.Headers, str]:
    """Status, headers and text of the answer."""
    import httpx2

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    raw = bytearray()
    try:
        async with _http().stream("GET" if body is None else "POST", url + path, json=body, headers=headers) as answer:
            async for piece in answer.aiter_bytes():
                raw += piece
                if len(raw) > max_bytes:
                    raise Failure(f"{url} answered with more than {max_bytes} bytes")
            return answer.status_code, answer.headers, raw.decode("utf-8", "replace")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise Failure(f"{url} failed with {type(error).__name__}: {error or 'no message'}") from error


def _first_choice(text: str) -> dict[str, Any] | None:
    """`choices[0]` of a chat completion with a message; None if the text is something else."""
    try:
        choice = json.loads(text)["choices"][0]
        return choice if isinstance(choice["message"], dict) else None
    except (ValueError, RecursionError, LookupError, TypeError):
        return None


def shorten_text(text: Any) -> str:
    text = text if isinstance(text, str) else json.dumps(text)
    return repr(text[:SHOWN].strip()) if text.strip() else "nothing"


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After header, in seconds from now: a number, or a date."""
    if retry_after is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}(\.\d*)?\s*", retry_after):
        return float(retry_after)
    try:
        then = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (then - datetime.now(UTC)).total_seconds()) if then.tzinfo else None


def check_url(url: str, at: str) -> str:
    """A server's base url as it is asked, without a slash at its end.

    Raises:
        RecipeError: it is none, or carries a secret; `at` is the key it stands under.
    """
    bare = re.sub(r"//[^/@]*@", "//", url).partition("?")[0]
    if not re.match(r"https?://[^/]", url):
        raise RecipeError(f"{at}: {bare} is no http(s) address, e.g. http://localhost:8000/v1")
    if bare != url:
        raise RecipeError(
            f"{at}: {bare} carries a password or a query, and a recipe is written to disk; name the environment "
            "variable that holds the key with key_env"
        )
    return url.rstrip("/")


def check_key_env(key_env: str | None) -> None:
    """Refuse a key that is written out."""
    if key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", key_env):
        raise RecipeError(
            "key_env: expected the name of an environment variable such as OPENAI_API_KEY, not the key itself: a "
            "recipe is written to disk and shown in reports"
        )


def read_api_key(key_env: str | None) -> str | None:
    """The API key in that environment variable.

    Raises:
        RecipeError: the variable is not set.
    """
    if key_env and not os.environ.get(key_env):
        raise RecipeError(f"key_env: the environment variable {key_env} is not set")
    return os.environ[key_env] if key_env else None


class Cache:
    """Valid answers on disk, by the request that got them; several processes may share one file.

    Raises:
        RecipeError: the file cannot be made or is something else.
    """

    def __init__(self, path: Path):
        self._lock = threading.Lock()
        self._path = path
        self._usable = True
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            # An entry lost with the power is asked for again; waiting for the disk after each would cost more.
            self._connection.execute("PRAGMA synchronous = OFF")
            self._connection.execute("CREATE TABLE IF NOT EXISTS answers (request BLOB PRIMARY KEY, answer TEXT)")
        except (OSError, sqlite3.Error) as error:
            raise RecipeError(
                f"cache: {path} cannot be used ({error}); name another file, or `cache: false`"
            ) from error

    @staticmethod
    def _of(body: dict[str, Any]) -> bytes:
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()

    def get(self, body: dict[str, Any]) -> str | None:
        found = self._execute("SELECT answer FROM answers WHERE request = ?", self._of(body))
        return found[0][0] if found else None

    def put(self, body: dict[str, Any], answer: str) -> None:
        self._execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", self._of(body), answer)

    def _execute(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """A cache that breaks later (a full disk, a lost mount) costs requests, not verdicts."""
        with self._lock:
            if not self._usable:
                return []
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                self._usable = False
                _log.warning("the judge's cache %s is no longer used: %s", self._path, error)
                return []


# Process-wide: one event loop in a thread of its own, and one HTTP client on it.
_lock = threading.Lock()
_running: list[asyncio.AbstractEventLoop] = []


def run_coroutine(work: Coroutine[Any, Any, Any]) -> Future[Any]:
    """Run a coroutine on the event loop; from any thread."""
    with _lock:
        if not _running:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="chat", daemon=True).start()
            _running.append(loop)
        return asyncio.run_coroutine_threadsafe(work, _running[0])


@functools.cache
def _http() -> httpx2.AsyncClient:
    """Only ever called on the event loop, to which its connections belong."""
    import httpx2

    # A proxy of the environment is for the world outside; a server on this machine is reached directly.
    here = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}
    # Time is limited by whole requests, connections by the endpoints' slots.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=256)
    return httpx2.AsyncClient(timeout=None, limits=limits, mounts=here)


def _forget() -> None:
    """A forked child has no thread that runs the loop, and must not share connections."""
    global _lock
    _lock = threading.Lock()
    _running.clear()
    _http.cache_clear()


os.register_at_fork(after_in_child=_forget)
