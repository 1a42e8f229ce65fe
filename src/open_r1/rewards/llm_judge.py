"""Scorers that ask a language model behind any OpenAI-compatible endpoint.

`llm_judge` compares the answer with a reference answer, `llm_pairwise` the response with a reference response, and
`llm_quality` grades the response by a rubric. All take the fields of `Settings` as parameters. If the judge gives no
valid answer (an outage, a rate limit, a web page, prose instead of JSON), the verdict is `error`, never a low score.

Samples are scored from many threads; their requests run on one event loop, so a deadline holds even against a server
that hangs or sends single bytes.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import json
import os
import re
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import RecipeError
from ..system.openai_client import (
    MESSAGE_KEYS,
    SHOWN,
    Cache,
    Client,
    Endpoint,
    Failure,
    Outage,
    check_options,
    limit_time,
    normalize_urls,
    read_api_key,
    run_coroutine,
    shorten_text,
)
from .judge_prompts import JUDGE_PROMPTS, QUALITY_RUBRIC, JudgePrompt
from .verdict import Outcome, Verdict


@dataclass(frozen=True)
class Settings:
    """How a judge is asked: parameters of every scorer in this module.

    Args:
        url: base url of the endpoint, `/v1` included, or a list of several that serve the same model.
        model: the model's name there.
        key_env: environment variable that holds the API key; None sends none.
        max_tokens: of one answer; leave room if the judge reasons before it answers.
        temperature: of the judge's sampling.
        seed: of the judge's sampling.
        extra_body: further keys of the request, passed to the server unchanged.
        concurrency: requests in flight at one endpoint.
        timeout: seconds of one attempt.
        deadline: seconds for one sample, retries and pauses included; waiting for a free slot is not counted.
        retries: further attempts for one sample. A rate limit (429) uses none up; it is waited out until the deadline.
        backoff: seconds an endpoint is paused after a failure; doubled at each consecutive one, with jitter.
        max_failures: consecutive samples without an answer after which further samples fail at once.
        cooldown: for how many seconds they do; also the limit of the back-off.
        max_requests: budget of this process; None has no limit.
        max_chars: a longer text is not sent, and its verdict is unknown.
        whole: show the judge the reasoning too, not only the text after it.
        cache: file for answers; true is `$XDG_CACHE_HOME/open-r1/judge.sqlite3`, false keeps none.

    Raises:
        RecipeError: no url or model, an API key in the recipe, a limit that is not above 0.
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
        normalize_urls(self.url, "url")
        if not self.model:
            raise RecipeError("model: missing; give the model's name at its endpoint")
        limits = ("max_tokens", "concurrency", "timeout", "deadline", "max_failures", "max_chars")
        reserved = {"messages", "model", "stream", "n"}
        check_options("", self.key_env, self.extra_body, reserved, **{name: getattr(self, name) for name in limits})

    @property
    def urls(self) -> list[str]:
        return normalize_urls(self.url, "url")

    @property
    def cache_file(self) -> Path | None:
        if isinstance(self.cache, str):
            return Path(self.cache).expanduser()
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(home).expanduser() / "open-r1" / "judge.sqlite3" if self.cache else None


class NoJudgement(Exception):
    """There is no judgement of a sample: the judge gave no valid answer, or the sample cannot be sent."""

    def __init__(self, reason: str, outcome: Outcome = "error"):
        super().__init__(reason)
        self.verdict = Verdict(outcome, reason)


def asks_a_judge(scorer: Callable[..., Verdict | float]) -> Callable[..., Verdict | float]:
    """Give a scorer the fields of `Settings` as parameters, and the judge that they describe as `judge`.

    Without a valid answer the verdict is `error`, with the cause. `score.check(**parameters)` raises RecipeError on
    wrong parameters; `score.ready(**parameters)` raises it if an endpoint does not answer.
    """
    names = [f.name for f in fields(Settings)]

    def build_settings(**parameters: Any) -> Settings:
        return Settings(**{name: parameters[name] for name in names if name in parameters})

    @functools.wraps(scorer)
    def score(*columns: Any, **parameters: Any) -> Verdict | float:
        others = {name: value for name, value in parameters.items() if name not in names}
        try:
            return scorer(*columns, judge=find_judge(build_settings(**parameters)), **others)
        except NoJudgement as error:
            return error.verdict

    def ready(**parameters: Any) -> str:
        settings = build_settings(**parameters)
        problems = find_problems(settings)
        if problems:
            raise RecipeError("; ".join(problems))
        return f"{settings.model} answers at {', '.join(settings.urls)}"

    own = [p for p in inspect.signature(scorer).parameters.values() if p.name != "judge"]
    shared = [inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default) for f in fields(Settings)]
    score.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    score.check, score.ready = build_settings, ready  # type: ignore[attr-defined]
    return score


@asks_a_judge
def llm_judge(completion: str, solution: str, prompt: str, *, judge: Judge) -> Verdict:
    """Does a judge model find the final answer equal to `solution`?

    Returns:
        correct or wrong; unknown if the judge cannot tell, there is no reference, or the answer is too long to send;
        error if the judge fails.
    """
    solution = "" if solution is None else str(solution)
    if not solution.strip():
        return Verdict("unknown", "no gold answer")
    answer = judge.read_answer(completion)
    if not answer:
        return Verdict("wrong", "no final answer")
    judgement = judge.submit("reference", {"question": prompt, "reference": solution, "response": answer}).result()
    reason = judgement["reason"][:SHOWN]
    if judgement["verdict"] == "cannot_tell":
        return Verdict("unknown", f"the judge cannot tell: {reason}")
    return Verdict(judgement["verdict"], reason)


@asks_a_judge
def llm_quality(completion: str, prompt: str, *, rubric: str = QUALITY_RUBRIC, judge: Judge) -> Verdict | float:
    """Quality of the response by a rubric, from 0 to 1 in tenths; 0 without a response."""
    answer = judge.read_answer(completion)
    if not answer:
        return 0.0
    return judge.submit("quality", {"question": prompt, "response": answer}, rubric).result()["score"] / 10


@asks_a_judge
def llm_pairwise(
    completion: str, prompt: str, reference: str, *, rounds: int = 1, judge: Judge
) -> Verdict | float | None:
    """How often the response is preferred to the stored response `reference`: 1 always, 0 never, a tie one half.

    Each round asks in both orders, so a judge that always prefers one position gives 0.5. The paper asks four times:
    `rounds: 2` with a temperature above 0, without which the rounds are alike. None without a reference.
    """
    other = judge.cut_reasoning(reference or "")
    if not other:
        return None
    answer = judge.read_answer(completion)
    if not answer:
        return 0.0
    orders = [("A", {"response_A": answer, "response_B": other}), ("B", {"response_A": other, "response_B": answer})]
    requests = [
        (position, judge.submit("pairwise", {"question": prompt, **parts}, seed_offset=i))
        for i in range(rounds)
        for position, parts in orders
    ]
    votes = [(position, request.result()["better"]) for position, request in requests]
    return sum(0.5 if better == "tie" else float(better == position) for position, better in votes) / len(votes)


def extract_summary(completion: str) -> str:
    """The text after the reasoning, which the user reads; empty if the reasoning never ends."""
    if "</think>" not in completion and "<think>" in completion:
        return ""
    return completion.rpartition("</think>")[2].strip()


class Judge:
    """A judge model behind one or several endpoints, with its cache, its budget and its circuit breaker.

    Args:
        settings: how it is asked.
        endpoints: the servers of `settings.urls`.

    Raises:
        RecipeError: the API key is not set, or the cache cannot be used.
    """

    def __init__(self, settings: Settings, endpoints: list[Endpoint]):
        self.settings, key = settings, read_api_key(settings.key_env)
        times = (settings.timeout, settings.backoff, settings.cooldown, settings.deadline)
        self.client = Client(deque(endpoints), key, *times)
        self.cache = Cache(settings.cache_file) if settings.cache_file else None
        self.requests = 0
        self.failed_samples = 0  # consecutive
        self.broken_until = 0.0
        self.broken_by = ""

    def cut_reasoning(self, completion: str) -> str:
        return (completion if self.settings.whole else extract_summary(completion)).strip()

    def read_answer(self, completion: str) -> str:
        answer, limit = self.cut_reasoning(completion), self.settings.max_chars
        if len(answer) > limit:
            raise NoJudgement(f"longer than max_chars {limit}: {len(answer)}", "unknown")
        return answer

    def submit(
        self, name: str, parts: dict[str, str], rubric: str = "", seed_offset: int = 0
    ) -> Future[dict[str, Any]]:
        """Send the material `parts` (name -> text) with a prompt of `JUDGE_PROMPTS`.

        Returns:
            a future of the judge's answer, valid by the prompt's schema; it raises NoJudgement with the cause.
        """
        prompt = JUDGE_PROMPTS[name]
        parts = {part: _sanitize_text(text) for part, text in parts.items()}
        nonce = _hash_parts(parts)
        body = {
            "model": self.settings.model,
            "messages": [
                {"role": "system", "content": prompt.system.replace("{rubric}", _sanitize_text(rubric))},
                {"role": "user", "content": fence_parts(parts, nonce)},
            ],
            "max_tokens": self.settings.max_tokens,
            "temperature": self.settings.temperature,
            "seed": self.settings.seed + seed_offset,
            **(self.settings.extra_body or {}),
        }
        stored = self.cache.get(body) if self.cache else None
        if stored is not None and (judgement := _parse_judgement(stored, prompt, nonce)) is not None:
            future: Future[dict[str, Any]] = Future()
            future.set_result(judgement)
            return future
        return run_coroutine(self._judge(body, prompt, nonce))

    async def _judge(self, body: dict[str, Any], prompt: JudgePrompt, nonce: str) -> dict[str, Any]:
        self._check_breaker()
        try:
            retries = self.settings.retries
            choice = await self.client.request(lambda endpoint: self._attempt(endpoint, body, prompt), retries)
        except (Failure, Outage) as error:
            if isinstance(error, Outage) or not error.rejects_request:
                self._count_failed_sample(str(error))
            raise NoJudgement(f"the judge at {error}") from error
        self.failed_samples = 0
        content = choice["message"].get("content")
        if choice.get("finish_reason") == "length":
            raise NoJudgement(
                f"the judge's answer was cut at max_tokens {body['max_tokens']}: {shorten_text(content)}"
            )
        judgement = _parse_judgement(content, prompt, nonce) if isinstance(content, str) else None
        if judgement is None:
            raise NoJudgement(f"the judge did not answer as asked: {shorten_text(content)}")
        if self.cache:
            await asyncio.to_thread(self.cache.put, body, content)
        return judgement

    async def _attempt(self, endpoint: Endpoint, body: dict[str, Any], prompt: JudgePrompt) -> dict[str, Any]:
        """The first choice of a chat completion; requested with the schema where the server supports it."""
        self._check_breaker()  # it may have opened while this request waited for its slot
        if endpoint.takes_schema:
            try:
                return await self._send(endpoint, {**body, "response_format": _build_response_format(prompt)})
            except Failure as failure:
                if not failure.rejects_request:
                    raise
        choice = await self._send(endpoint, body)
        endpoint.takes_schema = False
        return choice

    async def _send(self, endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
        if self.settings.max_requests is not None and self.requests >= self.settings.max_requests:
            raise NoJudgement(f"the judge's budget of max_requests {self.settings.max_requests} is spent")
        self.requests += 1
        return (await self.client.complete(endpoint, body))["choices"][0]

    def _check_breaker(self) -> None:
        if asyncio.get_running_loop().time() < self.broken_until:
            raise NoJudgement(f"the judge is left alone after repeated failures: {self.broken_by}")

    def _count_failed_sample(self, reason: str) -> None:
        self.failed_samples += 1
        if self.failed_samples >= self.settings.max_failures:
            self.broken_until = asyncio.get_running_loop().time() + self.settings.cooldown
            self.broken_by = reason


def _hash_parts(parts: dict[str, str]) -> str:
    """The id of a request: the same for the same parts, and impossible to forge.

    No one can write a text that contains its own hash. So nothing in the parts can close a fence, or be a ready-made
    answer for the judge to repeat.
    """
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def fence_parts(parts: dict[str, str], nonce: str) -> str:
    """The user's message: the id, and each part between tags that carry it."""
    blocks = [f"<{nonce}:{name}>\n{text}\n</{nonce}:{name}>" for name, text in parts.items()]
    return "\n".join([f"id: {nonce}", *blocks])


def _sanitize_text(text: str) -> str:
    """Replace what UTF-8 or a server cannot carry, lone surrogates and NUL, by U+FFFD."""
    return str(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")


def _build_response_format(prompt: JudgePrompt) -> dict[str, Any]:
    # The id is not part of the schema: servers compile each new schema, and keep compiled ones.
    text, kind = {"type": "string"}, "string" if isinstance(prompt.choices[0], str) else "integer"
    properties = {"id": text, "reason": text, prompt.key: {"type": kind, "enum": [*prompt.choices]}}
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "judgement", "strict": True, "schema": schema}}


_JSON_BLOCK = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)


def _parse_judgement(content: str, prompt: JudgePrompt, nonce: str) -> dict[str, Any] | None:
    """The judgement, if the answer is exactly the JSON object that the prompt asks for, with or without a fence."""
    text = content.rpartition("</think>")[2].strip()
    block = _JSON_BLOCK.fullmatch(text)
    try:
        judgement = json.loads(block[1] if block else text, object_pairs_hook=_refuse_duplicates)
    except (ValueError, RecursionError):
        return None
    if not isinstance(judgement, dict) or judgement.keys() != {"id", "reason", prompt.key}:
        return None
    value = judgement[prompt.key]
    valid = type(value) is type(prompt.choices[0]) and value in prompt.choices
    return judgement if valid and judgement["id"] == nonce and isinstance(judgement["reason"], str) else None


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)


def find_problems(settings: Settings) -> list[str]:
    """Why an endpoint is not ready, found by a request for one token; empty if all endpoints are."""
    judge = find_judge(settings)
    futures = [run_coroutine(_find_problem(endpoint, judge)) for endpoint in list(judge.client.endpoints)]
    return [problem for problem in (future.result() for future in futures) if problem]


async def _find_problem(endpoint: Endpoint, judge: Judge) -> str | None:
    message = {"role": "user", "content": "Say yes."}
    body = {"model": judge.settings.model, "messages": [message], "max_tokens": 1}
    try:
        answer = await limit_time(judge.client.complete(endpoint, body), endpoint.url, judge.settings.timeout)
    except Failure as failure:
        return str(failure)
    choice = answer["choices"][0]
    # A reasoning model spends its only token on the reasoning.
    spoke = any(choice["message"].get(key) for key in MESSAGE_KEYS)
    return None if spoke else f"{endpoint.url} answered without a token: {shorten_text(choice)}"


# One judge for each `Settings`, and one endpoint for each server: judges of the same server share its slots.
_judges: dict[str, Judge] = {}
_endpoints: dict[tuple[str, int], Endpoint] = {}
# A forked child must not share the caches' connections, nor slots that other threads hold.
os.register_at_fork(after_in_child=_judges.clear)
os.register_at_fork(after_in_child=_endpoints.clear)


def find_judge(settings: Settings) -> Judge:
    """The judge with these settings; made at the first call.

    Raises:
        RecipeError: the API key is not set, or the cache cannot be used.
    """
    key, slots = repr(settings), settings.concurrency
    if key not in _judges:
        new = [Endpoint(url, asyncio.Semaphore(slots)) for url in settings.urls]
        endpoints = [_endpoints.setdefault((endpoint.url, slots), endpoint) for endpoint in new]
        _judges.setdefault(key, Judge(settings, endpoints))
    return _judges[key]
