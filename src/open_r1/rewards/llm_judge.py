"""What does a language model say of the answer? Judges over any OpenAI-compatible endpoint.

Three scorers ask one: `llm_judge` against a reference answer, `llm_pairwise` against a reference response,
`llm_quality` by a rubric. All take the fields of `Settings` as parameters. Whatever keeps a judge from giving a valid
answer (an outage, a rate limit, a web page, prose instead of JSON) is a verdict `error`, never a low score.

Samples are scored from many threads; their requests run on one event loop, which is what makes a deadline hold
against a server that hangs or drips.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import json
import os
import re
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from ..errors import RecipeError
from ..system.openai_client import (
    SHOWN,
    Cache,
    Endpoint,
    Failure,
    check_key_env,
    check_url,
    choose_endpoint,
    read_api_key,
    request_completion,
    run_coroutine,
    shorten_text,
    try_endpoint,
)
from .judge_prompts import JUDGE_PROMPTS, QUALITY_RUBRIC, JudgePrompt
from .verdict import Verdict


@dataclass(frozen=True)
class Settings:
    """How a judge is asked: parameters of every scorer here.

    Args:
        url: base url of the endpoint, `/v1` included, or several: requests go to the least busy one that works.
        model: its name there.
        key_env: environment variable that holds the API key; None sends none.
        max_tokens: of one answer; leave room if the judge reasons before it answers.
        temperature: of the judge's sampling.
        seed: of the judge's sampling.
        extra_body: further keys of the request, as the server understands them.
        concurrency: requests in flight at one endpoint.
        timeout: seconds of one request.
        deadline: seconds of a sample's requests and waits, retries included; waiting for a free slot is not counted.
        retries: further attempts of a sample; a rate limit (429) takes none, and is waited for until the deadline.
        backoff: seconds an endpoint is left alone after its first failure; doubled at each further one, with jitter.
        max_failures: samples given up in a row after which further ones fail at once.
        cooldown: seconds they do; also the longest back-off.
        max_requests: budget of this process; None has no limit.
        max_chars: a longer text is not sent, and its verdict is unknown.
        whole: show the judge the reasoning too, not only what follows it.
        cache: a file for answers; true takes `$XDG_CACHE_HOME/open-r1/judge.sqlite3`, false keeps none.

    Raises:
        RecipeError: a missing url or model, a key written out, a limit that lets nothing through.
    """

    url: str | list[str] = ""
    model: str = ""
    key_env: str | None = None
    max_tokens: int = 512
    temperature: float = 0.0
    seed: int = 0
    extra_body: dict[str, Any] | None = None
    concurrency: int = 16
    timeout: float = 30.0
    deadline: float = 90.0
    retries: int = 4
    backoff: float = 1.0
    max_failures: int = 5
    cooldown: float = 30.0
    max_requests: int | None = None
    max_chars: int = 32_000
    whole: bool = False
    cache: str | bool = True

    def __post_init__(self) -> None:
        if not self.urls:
            raise RecipeError("url: a judge needs one, e.g. `url: http://localhost:8000/v1`")
        for url in self.urls:
            check_url(url, "url")
        if not self.model:
            raise RecipeError("model: a judge needs the model's name at its endpoint")
        check_key_env(self.key_env)
        for name in ("max_tokens", "concurrency", "timeout", "deadline", "max_failures", "max_chars"):
            if not getattr(self, name) > 0:
                raise RecipeError(f"{name}: {getattr(self, name)!r} lets no request through; it must be above 0")
        reserved = sorted({"messages", "model", "stream", "n"} & (self.extra_body or {}).keys())
        if reserved:
            raise RecipeError(f"extra_body: {', '.join(reserved)} cannot be set there")

    @property
    def urls(self) -> list[str]:
        urls = [self.url] if isinstance(self.url, str) else self.url
        return [url.rstrip("/") for url in urls if url]

    @property
    def key(self) -> str | None:
        """The API key.

        Raises:
            RecipeError: the variable is not set.
        """
        return read_api_key(self.key_env)

    @property
    def cache_file(self) -> Path | None:
        if isinstance(self.cache, str):
            return Path(self.cache).expanduser()
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(home).expanduser() / "open-r1" / "judge.sqlite3" if self.cache else None


class JudgeError(Exception):
    """The judge gave no valid answer."""


def asks_a_judge(scorer: Callable[..., Verdict | float]) -> Callable[..., Verdict | float]:
    """Give a scorer the fields of `Settings` as parameters, and the judge they describe as `judge`.

    No valid answer is a verdict `error` with the cause. `score.check(**parameters)` refuses wrong ones beforehand, and
    `score.ready(**parameters)` what is wrong with the endpoints now.
    """
    names = [f.name for f in fields(Settings)]

    def settings(given: dict[str, Any]) -> Settings:
        return Settings(**{name: given[name] for name in names if name in given})

    @functools.wraps(scorer)
    def score(*columns: Any, **given: Any) -> Verdict | float:
        others = {name: value for name, value in given.items() if name not in names}
        try:
            return scorer(*columns, judge=judge_of(settings(given)), **others)
        except JudgeError as error:
            return Verdict("error", str(error))

    def check(**given: Any) -> None:
        settings(given)

    def ready(**given: Any) -> str:
        asked = settings(given)
        problems = health(asked.urls, asked.model, asked.key_env, asked.timeout)
        if problems:
            raise RecipeError("; ".join(problems))
        return f"{asked.model} answers at {', '.join(asked.urls)}"

    own = [p for p in inspect.signature(scorer).parameters.values() if p.name != "judge"]
    shared = [inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default) for f in fields(Settings)]
    score.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    score.check, score.ready = check, ready  # type: ignore[attr-defined]
    return score


@asks_a_judge
def llm_judge(completion: str, solution: str, prompt: str, *, judge: Judge) -> Verdict:
    """Is the final answer equal to `solution`, as a judge model sees it?

    Returns:
        correct or wrong; unknown if the judge cannot tell, there is no reference, or the answer is too long to send;
        error if the judge fails.
    """
    solution = "" if solution is None else str(solution)
    if not solution.strip():
        return Verdict("unknown", "no gold answer")
    answer = judge.shown(completion)
    if not answer:
        return Verdict("wrong", "no final answer")
    if judge.too_long(answer):
        return judge.too_long(answer)
    said = judge.ask("reference", {"question": prompt, "reference": solution, "response": answer})
    reason = said["reason"][:SHOWN]
    if said["verdict"] == "cannot_tell":
        return Verdict("unknown", f"the judge cannot tell: {reason}")
    return Verdict(said["verdict"], reason)


@asks_a_judge
def llm_quality(completion: str, prompt: str, *, rubric: str = QUALITY_RUBRIC, judge: Judge) -> Verdict | float:
    """Quality of the response by a rubric, from 0 to 1 in tenths; 0 without a response."""
    answer = judge.shown(completion)
    if not answer or judge.too_long(answer):
        return judge.too_long(answer) or 0.0
    said = judge.ask("quality", {"question": prompt, "response": answer}, rubric=rubric)
    return said["score"] / 10


@asks_a_judge
def llm_pairwise(
    completion: str, prompt: str, reference: str, *, rounds: int = 1, judge: Judge
) -> Verdict | float | None:
    """How often the response is preferred to the stored response `reference`: 1 always, 0 never, a tie one half.

    Every round asks both orders, so that a judge that favours a position says 0.5. The paper asks four times
    (`rounds: 2`, with a temperature above 0: otherwise the rounds are alike). None without a reference.
    """
    answer, other = judge.shown(completion), judge.shown(reference or "")
    if not other:
        return None
    if not answer or judge.too_long(answer):
        return judge.too_long(answer) or 0.0
    orders = [("A", {"response_A": answer, "response_B": other}), ("B", {"response_A": other, "response_B": answer})]
    asked = [
        (ours, judge.begin("pairwise", {"question": prompt, **parts}, seed_offset=i))
        for i in range(rounds)
        for ours, parts in orders
    ]
    votes = [(ours, said.result()["better"]) for ours, said in asked]
    return sum(0.5 if better == "tie" else float(better == ours) for ours, better in votes) / len(votes)


def extract_summary(completion: str) -> str:
    """What follows the reasoning, as the person who asked gets to read it; empty if the reasoning never ends."""
    if "</think>" not in completion and "<think>" in completion:
        return ""
    return completion.rpartition("</think>")[2].strip()


@dataclass
class Judge:
    """A model behind one or several endpoints, its cache and its budget; one for each `Settings` of a process."""

    settings: Settings
    endpoints: deque[Endpoint]
    cache: Cache | None
    requests: int = 0
    given_up: int = 0  # samples in a row
    broken_until: float = 0.0
    broken_by: str = ""

    def shown(self, completion: str) -> str:
        return (completion if self.settings.whole else extract_summary(completion)).strip()

    def too_long(self, text: str) -> Verdict | None:
        limit = self.settings.max_chars
        return Verdict("unknown", f"longer than max_chars {limit}: {len(text)}") if len(text) > limit else None

    def ask(self, name: str, parts: dict[str, str], **more: Any) -> dict[str, Any]:
        """The judge's answer to a prompt of `JUDGE_PROMPTS`, valid by its schema.

        Raises:
            JudgeError: there is none, with the cause.
        """
        return self.begin(name, parts, **more).result()

    def begin(
        self, name: str, parts: dict[str, str], rubric: str = "", seed_offset: int = 0
    ) -> Future[dict[str, Any]]:
        """`ask` without waiting; the answer is the future's result."""
        prompt = JUDGE_PROMPTS[name]
        parts = {part: _sendable(text) for part, text in parts.items()}
        nonce = _nonce(parts)
        body = {
            "model": self.settings.model,
            "messages": [
                {"role": "system", "content": prompt.system.replace("{rubric}", _sendable(rubric))},
                {"role": "user", "content": fenced(parts, nonce)},
            ],
            "max_tokens": self.settings.max_tokens,
            "temperature": self.settings.temperature,
            "seed": self.settings.seed + seed_offset,
            **(self.settings.extra_body or {}),
        }
        stored = self.cache.get(body) if self.cache else None
        if stored is not None and (said := _valid(stored, prompt, nonce)) is not None:
            done: Future[dict[str, Any]] = Future()
            done.set_result(said)
            return done
        return run_coroutine(self._ask(body, prompt, nonce))

    async def _ask(self, body: dict[str, Any], prompt: JudgePrompt, nonce: str) -> dict[str, Any]:
        choice = await self._choice(body, prompt)
        content = choice["message"].get("content")
        if choice.get("finish_reason") == "length":
            raise JudgeError(f"the judge's answer was cut at max_tokens {body['max_tokens']}: {shorten_text(content)}")
        said = _valid(content, prompt, nonce) if isinstance(content, str) else None
        if said is None:
            raise JudgeError(f"the judge did not answer as asked: {shorten_text(content)}")
        if self.cache:
            await asyncio.to_thread(self.cache.put, body, content)
        return said

    async def _choice(self, body: dict[str, Any], prompt: JudgePrompt) -> dict[str, Any]:
        """The first choice of a chat completion, from whichever endpoint gives one before the deadline."""
        settings, now = self.settings, asyncio.get_running_loop().time
        left, attempts = settings.deadline, 0
        failure: Failure | None = None
        while True:
            self._refuse_if_broken()
            endpoint = choose_endpoint(self.endpoints, now())
            if endpoint.paused_until - now() >= left:
                self._give_up(endpoint.last_failure)
            tried = await try_endpoint(endpoint, lambda e: self._request(e, body, prompt), settings.timeout, left)
            left -= tried.seconds
            if tried.answer is not None:
                self.given_up = 0
                return tried.answer
            if tried.failure is None:
                continue
            # An attempt that only the deadline cut short says less than the one before it.
            if failure is None or not tried.cut:
                failure = tried.failure
            if failure.of_the_request:
                raise JudgeError(f"the judge at {failure}")
            endpoint.failed(failure, now(), settings.backoff, settings.cooldown)
            # A rate limit is waited for until the deadline.
            attempts += failure.status != 429
            if attempts > settings.retries or left <= 0 or (failure.lasting and len(self.endpoints) == 1):
                self._give_up(str(failure))

    def _refuse_if_broken(self) -> None:
        if asyncio.get_running_loop().time() < self.broken_until:
            raise JudgeError(f"the judge is left alone after repeated failures: {self.broken_by}")

    def _give_up(self, reason: str) -> NoReturn:
        self.given_up += 1
        if self.given_up >= self.settings.max_failures:
            self.broken_until = asyncio.get_running_loop().time() + self.settings.cooldown
            self.broken_by = reason
        raise JudgeError(f"the judge at {reason}")

    async def _request(self, endpoint: Endpoint, body: dict[str, Any], prompt: JudgePrompt) -> dict[str, Any]:
        """One request, with the schema where the server takes it."""
        self._refuse_if_broken()  # while this request waited for its slot
        if endpoint.takes_schema:
            try:
                return await self._post(endpoint, {**body, "response_format": _response_format(prompt)})
            except Failure as failure:
                if not failure.of_the_request:
                    raise
        choice = await self._post(endpoint, body)
        endpoint.takes_schema = False
        return choice

    async def _post(self, endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
        if self.settings.max_requests is not None and self.requests >= self.settings.max_requests:
            raise JudgeError(f"the judge's budget of max_requests {self.settings.max_requests} is spent")
        self.requests += 1
        return await request_completion(endpoint.url, body, self.settings.key)


def _nonce(parts: dict[str, str]) -> str:
    """The id of a request: unforgeable, and yet the same for the same request.

    A text that contains its own hash cannot be written on purpose, so nothing in the parts can close a fence, or be a
    ready-made answer that the judge repeats.
    """
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def fenced(parts: dict[str, str], nonce: str) -> str:
    """The user's message: the id, and each part between tags that carry it."""
    blocks = [f"<{nonce}:{name}>\n{text}\n</{nonce}:{name}>" for name, text in parts.items()]
    return "\n".join([f"id: {nonce}", *blocks])


def _sendable(text: str) -> str:
    """Text that UTF-8 and every server can carry: lone surrogates and NUL become U+FFFD."""
    return str(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")


def _response_format(prompt: JudgePrompt) -> dict[str, Any]:
    # The id is not pinned here: servers compile each new schema, and keep those they have seen.
    properties = {
        "id": {"type": "string"},
        "reason": {"type": "string"},
        prompt.key: {"type": "string" if isinstance(prompt.choices[0], str) else "integer", "enum": [*prompt.choices]},
    }
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "judgement", "strict": True, "schema": schema}}


_JSON_BLOCK = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)


def _valid(content: str, prompt: JudgePrompt, nonce: str) -> dict[str, Any] | None:
    """The judgement, if the answer is exactly one JSON object as asked for (a code fence around it is let pass)."""
    text = content.rpartition("</think>")[2].strip()
    block = _JSON_BLOCK.fullmatch(text)
    try:
        said = json.loads(block[1] if block else text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or said.keys() != {"id", "reason", prompt.key}:
        return None
    value = said[prompt.key]
    valid = type(value) is type(prompt.choices[0]) and value in prompt.choices
    return said if valid and said["id"] == nonce and isinstance(said["reason"], str) else None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)


def health(url: str | list[str], model: str, key_env: str | None = None, timeout: float = 30.0) -> list[str]:
    """What is wrong with each endpoint, found by a request of one token; empty if all of them gave it."""
    settings = Settings(url=url, model=model, key_env=key_env, timeout=timeout, cache=False)
    found = [run_coroutine(_one_token(url, settings)) for url in settings.urls]
    return [problem for problem in (future.result() for future in found) if problem]


async def _one_token(url: str, settings: Settings) -> str | None:
    body = {"model": settings.model, "messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 1}
    try:
        async with asyncio.timeout(settings.timeout):
            choice = await request_completion(url, body, settings.key)
    except TimeoutError:
        return f"{url} gave no answer within {settings.timeout:g} s"
    except Failure as failure:
        return str(failure)
    # A model that reasons spends its only token there.
    spoke = any(choice["message"].get(key) for key in ("content", "reasoning_content", "reasoning"))
    return None if spoke else f"{url} answered without a token: {shorten_text(choice)}"


_lock = threading.RLock()
_judges: dict[str, Judge] = {}
_endpoints: dict[tuple[str, int], Endpoint] = {}


def judge_of(settings: Settings) -> Judge:
    """The judge of these settings; made at the first call.

    Raises:
        RecipeError: its cache cannot be used.
    """
    with _lock:
        known = repr(settings)
        if known not in _judges:
            for url in settings.urls:
                slots = asyncio.Semaphore(settings.concurrency)
                _endpoints.setdefault((url, settings.concurrency), Endpoint(url, slots))
            endpoints = deque(_endpoints[url, settings.concurrency] for url in settings.urls)
            _judges[known] = Judge(settings, endpoints, Cache(settings.cache_file) if settings.cache_file else None)
        return _judges[known]


def _forget() -> None:
    """A forked child must not share the cache's connection, nor slots that others hold."""
    global _lock
    _lock = threading.RLock()
    _judges.clear()
    _endpoints.clear()


os.register_at_fork(after_in_child=_forget)
