"""A client for OpenAI-compatible servers: several endpoints, one retry policy, one event loop for all threads."""

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
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError

if TYPE_CHECKING:
    import httpx2


MAX_BYTES = 2**20  # of one response; a judgement takes a few hundred bytes
SHOWN = 200  # characters of a response that a reason quotes
MESSAGE_KEYS = ("content", "reasoning_content", "reasoning")  # where servers put the text of a message
_log = logging.getLogger(__name__)
_jitter = random.Random()  # not the global stream, which a training must be able to repeat


class Failure(Exception):
    """A request got no usable response.

    Args:
        reason: what happened; details that vary from request to request follow a colon.
        status: HTTP status, if there was one.
        retry_after: seconds for which the server asks for no further request.
    """

    def __init__(self, reason: str, status: int | None = None, retry_after: float | None = None):
        super().__init__(reason)
        self.status, self.retry_after = status, retry_after

    @property
    def rejects_request(self) -> bool:
        """The request itself is at fault (a prompt too long for the model), so it would fail anywhere."""
        return self.status in (400, 413, 422)

    @property
    def is_permanent(self) -> bool:
        """The endpoint would refuse every further request: a wrong key, model or path."""
        return self.status is not None and self.status < 500 and self.status not in (200, 408, 429)


class Outage(Exception):
    """No endpoint works: all refuse permanently (`is_permanent`), or have been down for longer than `patience`."""

    def __init__(self, reason: str, is_permanent: bool):
        super().__init__(reason)
        self.is_permanent = is_permanent


@dataclass
class Endpoint:
    """A server and what the requests of this process have found out about it. Times are the event loop's."""

    url: str
    slots: asyncio.Semaphore
    in_flight: int = 0  # includes requests that wait for a slot
    failures: int = 0  # consecutive; requests that fail during one pause count once
    paused_until: float = 0.0
    down_since: float | None = None
    last_failure: Failure | None = None
    takes_schema: bool = True

    @property
    def refuses(self) -> bool:
        return self.down_since is not None and self.last_failure is not None and self.last_failure.is_permanent

    def record_failure(self, failure: Failure, now: float, backoff: float, longest_pause: float) -> None:
        """Pause for `backoff` seconds, doubled with each consecutive failure, and at least for Retry-After."""
        self.last_failure = failure
        if self.down_since is None:
            self.down_since = now
        if now >= self.paused_until:
            self.failures += 1
            pause = min(backoff * 2 ** min(self.failures - 1, 30), longest_pause)
            self.paused_until = now + pause * _jitter.uniform(0.5, 1.5)
        self.paused_until = max(self.paused_until, now + (failure.retry_after or 0.0))

    def record_answer(self) -> None:
        self.failures, self.down_since = 0, None


def choose_endpoint(endpoints: deque[Endpoint], now: float) -> Endpoint:
    """The least busy endpoint that is not paused; if all are paused, the one whose pause ends first.

    While another endpoint works, one that has failed gets a single request at a time until it answers.
    """
    endpoints.rotate(1)
    ready = [e for e in endpoints if e.paused_until <= now]
    if any(not e.failures for e in ready):
        ready = [e for e in ready if not e.failures or not e.in_flight]
    if ready:
        return min(ready, key=lambda e: e.in_flight)
    return min(endpoints, key=lambda e: e.paused_until)


@dataclass
class Client:
    """Sends a request to one endpoint of a model after another, until one answers.

    A failed request is repeated, and its endpoint paused (`Endpoint.record_failure`). A request gives up

    - at once, if the server rejects the request itself or all endpoints refuse permanently;
    - when its retries are used up; rate limits (429) and permanent refusals use none;
    - at its deadline, or when no endpoint has worked for the whole patience.
    """

    endpoints: deque[Endpoint]
    key: str | None = field(repr=False)  # API key
    timeout: float  # seconds of one attempt
    backoff: float  # seconds of an endpoint's first pause
    longest_pause: float  # limit of the back-off in seconds, before jitter
    deadline: float = math.inf  # seconds of one request, with its pauses; waiting for a free slot is not counted
    patience: float = math.inf  # seconds for which all endpoints may be down
    max_bytes: int = MAX_BYTES  # of one response
    warned: bool = False  # of the present outage

    async def request(
        self,
        attempt: Callable[[Endpoint], Awaitable[Any]],
        retries: float = math.inf,
        probe: Callable[[Endpoint], Awaitable[bool]] | None = None,
    ) -> Any:
        """The result of the first attempt that succeeds.

        Args:
            attempt: sends the request to an endpoint; raises Failure.
            retries: attempts that may follow the first.
            probe: True if the endpoint answers another, harmless request. If given, a failure uses up a retry only if
                the endpoint then answers the probe: the request must be the cause.

        Raises:
            Failure: the request gives up; the last failure that the deadline did not cause.
            Outage: no endpoint works.
        """
        now = asyncio.get_running_loop().time
        left, last = self.deadline, None
        while True:
            patience_left = self._measure_patience(now())
            endpoint = choose_endpoint(self.endpoints, now())
            pause = endpoint.paused_until - now()
            if pause >= left:
                raise last or Failure(str(endpoint.last_failure))
            if pause > 0:
                pause = min(pause, patience_left)
                await asyncio.sleep(pause)
                left -= pause
                continue
            endpoint.in_flight += 1
            try:
                async with endpoint.slots:
                    began = now()
                    if began < endpoint.paused_until:  # it failed another request meanwhile
                        continue
                    answer = await limit_time(attempt(endpoint), endpoint.url, min(self.timeout, left))
                    endpoint.record_answer()
                    return answer
            except Failure as failure:
                if failure.rejects_request:
                    raise
                left -= now() - began
                # A timeout that the deadline cut short says less than the failure before it.
                last = failure if last is None or left > 0 else last
                endpoint.record_failure(failure, now(), self.backoff, self.longest_pause)
                if all(e.refuses for e in self.endpoints):
                    raise Outage(self._list_causes(), is_permanent=True) from failure
                if failure.status != 429 and not failure.is_permanent:
                    retries -= 1 if probe is None else await probe(endpoint)
                if retries < 0 or left <= 0:
                    raise last from None
            finally:
                endpoint.in_flight -= 1

    def _measure_patience(self, now: float) -> float:
        """Seconds until the patience ends; infinite while an endpoint works. Warns once in each outage."""
        down = [e.down_since for e in self.endpoints if e.down_since is not None]
        if len(down) < len(self.endpoints) or self.patience == math.inf:
            self.warned = False
            return math.inf
        left = max(down) + self.patience - now
        if left <= 0:
            raise Outage(f"no endpoint has worked for {self.patience:g} s ({self._list_causes()})", is_permanent=False)
        if not self.warned:
            _log.warning("no endpoint works (%s); waiting up to %g s", self._list_causes(), self.patience)
            self.warned = True
        return left

    def _list_causes(self) -> str:
        return "; ".join(dict.fromkeys(str(e.last_failure) for e in self.endpoints))

    async def complete(self, endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
        """One completion; its `choices[0]` has a text, or a message whose `MESSAGE_KEYS` are texts or null.

        Args:
            endpoint: where to send the request.
            body: of the request. With `prompt` it continues a text, otherwise it answers `messages`.

        Raises:
            Failure: the connection failed, or something else came.
        """
        kind, path = ("completion", "/completions") if "prompt" in body else ("chat completion", "/chat/completions")
        text = await self.fetch_text(endpoint, path, body)
        try:
            answer = json.loads(text)
            choice = answer["choices"][0]
            texts = [choice["text"]] if "prompt" in body else [choice["message"].get(k) or "" for k in MESSAGE_KEYS]
            valid = all(isinstance(text, str) for text in texts)
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            valid = False
        if not valid:
            raise Failure(f"{endpoint.url} answered no {kind}: {shorten_text(text)}", 200)
        return answer

    async def fetch_text(self, endpoint: Endpoint, path: str, body: dict[str, Any] | None = None) -> str:
        """The text of a response with HTTP 200; an API key that the server repeats is left out.

        Args:
            endpoint: where to send the request.
            path: what follows its base url.
            body: of a POST; None sends a GET.

        Raises:
            Failure: the connection failed, another status came, or more than `max_bytes`.
        """
        import httpx2

        url, method = endpoint.url, "GET" if body is None else "POST"
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        content = bytearray()
        try:
            async with _open_http().stream(method, url + path, json=body, headers=headers) as response:
                async for piece in response.aiter_bytes():
                    content += piece
                    if len(content) > self.max_bytes:
                        raise Failure(f"{url} answered with more than {self.max_bytes} bytes")
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Failure(f"{url} failed with {type(error).__name__}: {error or 'no message'}") from error
        text = content.decode("utf-8", "replace")
        text = text.replace(self.key, "<key>") if self.key else text
        if response.status_code != 200:
            reason = f"{url} answered HTTP {response.status_code}: {shorten_text(text)}"
            raise Failure(reason, response.status_code, _parse_retry_after(response.headers.get("retry-after")))
        return text


async def limit_time(work: Awaitable[Any], url: str, seconds: float) -> Any:
    """The result of a request to `url`.

    Raises:
        Failure: none came within `seconds`.
    """
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise Failure(f"{url} gave no answer within {seconds:.4g} s") from None


def shorten_text(text: Any) -> str:
    """The beginning of a response, quoted; what is not a text is shown as JSON."""
    text = text if isinstance(text, str) else json.dumps(text)
    return repr(text[:SHOWN].strip()) if text.strip() else "nothing"


def _parse_retry_after(header: str | None) -> float | None:
    """Seconds from now, from a number or a date; None if the header is neither."""
    if header is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}(\.\d*)?\s*", header):
        return float(header)
    try:
        date = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (date - datetime.now(UTC)).total_seconds()) if date.tzinfo else None


def normalize_urls(urls: str | list[str], key: str) -> list[str]:
    """Base urls without a trailing slash.

    Raises:
        RecipeError: there is none, or one is malformed or carries a secret; `key` is their key in the recipe.
    """
    bases = [urls] if isinstance(urls, str) else urls
    if not bases or not all(bases):
        raise RecipeError(f"{key}: missing; give a server's base url, e.g. http://localhost:8000/v1")
    for url in bases:
        bare = re.sub(r"//[^/@]*@", "//", url).partition("?")[0]
        if not re.match(r"https?://[^/]", url):
            raise RecipeError(f"{key}: {bare} is no http(s) address, e.g. http://localhost:8000/v1")
        if bare != url:
            raise RecipeError(
                f"{key}: {bare} carries a password or a query, and a recipe is written to disk; name the environment "
                "variable that holds the key with key_env"
            )
    return [url.rstrip("/") for url in bases]


def check_options(
    prefix: str, key_env: str | None, extra_body: dict[str, Any] | None, reserved: set[str], **numbers: Any
) -> None:
    """Check options that judges and engines share.

    Args:
        prefix: of their keys in messages.
        key_env: must be the name of an environment variable, not an API key.
        extra_body: must not set a key of `reserved`.
        reserved: keys of the request that the caller sets.
        numbers: must be above 0.
    """
    if key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", key_env):
        raise RecipeError(
            f"{prefix}key_env: expected the name of an environment variable such as OPENAI_API_KEY, not the key "
            "itself: a recipe is written to disk and shown in reports"
        )
    if taken := sorted(reserved & (extra_body or {}).keys()):
        raise RecipeError(f"{prefix}extra_body: {', '.join(taken)} cannot be set there")
    for name, value in numbers.items():
        if not (isinstance(value, int | float) and value > 0):
            raise RecipeError(f"{prefix}{name}: {value!r} is not a number above 0")


def read_api_key(key_env: str | None) -> str | None:
    """The API key in an environment variable; None without one.

    Raises:
        RecipeError: the variable is not set.
    """
    if key_env and not os.environ.get(key_env):
        raise RecipeError(f"key_env: the environment variable {key_env} is not set")
    return os.environ[key_env] if key_env else None


class Cache:
    """Valid answers on disk, keyed by their requests; several processes may share one file.

    Raises:
        RecipeError: the file cannot be made, or is no such cache.
    """

    def __init__(self, path: Path):
        self._lock = threading.Lock()
        self._path = path
        self._usable = True
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            # A power failure may lose entries; they are requested again. Waiting for the disk each time costs more.
            self._connection.execute("PRAGMA synchronous = OFF")
            self._connection.execute("CREATE TABLE IF NOT EXISTS answers (request BLOB PRIMARY KEY, answer TEXT)")
        except (OSError, sqlite3.Error) as error:
            raise RecipeError(
                f"cache: {path} cannot be used ({error}); name another file, or `cache: false`"
            ) from error

    def get(self, body: dict[str, Any]) -> str | None:
        rows = self._execute("SELECT answer FROM answers WHERE request = ?", _hash_body(body))
        return rows[0][0] if rows else None

    def put(self, body: dict[str, Any], answer: str) -> None:
        self._execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", _hash_body(body), answer)

    def _execute(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of a statement; none once the cache has failed (a full disk, a lost mount)."""
        with self._lock:
            if not self._usable:
                return []
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                self._usable = False
                _log.warning("the judge's cache %s is no longer used: %s", self._path, error)
                return []


def _hash_body(body: dict[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()


# One event loop for the process, in a thread of its own, and one HTTP client on it.
_lock = threading.Lock()
_running: list[asyncio.AbstractEventLoop] = []


def run_coroutine(work: Coroutine[Any, Any, Any]) -> Future[Any]:
    """Run a coroutine on the event loop; callable from any thread."""
    with _lock:
        if not _running:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="chat", daemon=True).start()
            _running.append(loop)
        return asyncio.run_coroutine_threadsafe(work, _running[0])


@functools.cache
def _open_http() -> httpx2.AsyncClient:
    """The HTTP client; its connections belong to the event loop, so it must only be called there."""
    import httpx2

    # A proxy from the environment is for other machines; servers on this one are reached directly.
    local = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}
    # `limit_time` limits the time of a request, and the endpoints' slots the number of connections.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=256)
    return httpx2.AsyncClient(timeout=None, limits=limits, mounts=local)


def _reset_after_fork() -> None:
    """Drop the loop, whose thread a forked child lacks, and the connections, which it must not share."""
    global _lock
    _lock = threading.Lock()
    _running.clear()
    _open_http.cache_clear()


os.register_at_fork(after_in_child=_reset_after_fork)
