"""Any OpenAI-compatible server: vLLM, SGLang, `transformers serve`, or one far away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError, suggest_nearest
from ..prompts import Messages
from ..system.openai_client import (
    Endpoint,
    Failure,
    check_key_env,
    check_url,
    choose_endpoint,
    read_api_key,
    request_text,
    run_coroutine,
    shorten_text,
    try_endpoint,
)
from .registry import Completion, Sampling, derive_seed, make_refusal
from .transformers import cut_at_stop

if TYPE_CHECKING:
    from ..config.recipe import Recipe


_log = logging.getLogger(__name__)
MESSAGE_KEYS = ("content", "reasoning_content", "reasoning")
DIALECTS = ("vllm", "openai", "transformers")
RESERVED = {"messages", "prompt", "model", "n", "seed", "stream", "max_tokens"}
LONGEST_PAUSE = 60.0  # seconds that an endpoint is left alone at most, unless it asks for more
PROBE_SECONDS = 60.0  # for a single token of a prompt that no server can mind
_WORD = "Hi"
# A completion's `finish_reason` -> ours; one that ends otherwise was broken off.
ENDS = {
    "stop": "stop",
    "length": "length",
    "content_filter": "refused",
    "tool_calls": "refused",
    "function_call": "refused",
}


class Server:
    """One request for each completion, with that completion's own seed, at whichever endpoint is least busy.

    A request that fails is made again, elsewhere if there is another endpoint. A prompt is refused if a server says
    that the request is at fault (HTTP 400, 413, 422), or if it fails again and again where a single token of another
    prompt is answered. As long as any endpoint works the run goes on.

    How far a seed fixes a completion is up to the server. vLLM and SGLang draw by the request's seed, up to what
    floating point makes of another batch; `transformers serve` sets one seed for its whole process, so it gets one
    request at a time.

    Args:
        recipe: its prompts; the model is the server's.
        endpoints: base url, `/v1` included, or several of servers that serve the same model.
        model_name: its name there; by default the only one that the servers name.
        key_env: environment variable that holds the API key.
        dialect: how what OpenAI's protocol lacks is said: `vllm` (also SGLang: top_k, and every default of the model's
            generation_config that would change the distribution; only its `max_new_tokens`, if it has any, also
            limits requests, unless vLLM is started with `--generation-config vllm`), `transformers` (its
            `generation_config`), or `openai` (nothing is).
        concurrency: requests in flight at one endpoint; by default 64, and 1 in the dialect `transformers`.
        timeout: seconds of one request, waiting inside the server included.
        patience: seconds that all endpoints may be down, from the start or in between, before the run stops.
        retries: further attempts of a request that fails while its server works.
        backoff: seconds an endpoint is left alone after its first failure; doubled at each further one, with jitter.
        opens_think: the server's chat template ends in `<think>`, which is then put back in front. By default that is
            concluded from a `</think>` without its opening tag, which a completion cut inside its reasoning lacks.
        extra_body: further keys of the request, as the server understands them.
        max_bytes: the most of one answer that is read.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        endpoints: str | list[str],
        model_name: str | None = None,
        key_env: str | None = None,
        dialect: str = "vllm",
        concurrency: int | None = None,
        timeout: float = 3600.0,
        patience: float = 600.0,
        retries: int = 4,
        backoff: float = 1.0,
        opens_think: bool | None = None,
        extra_body: dict[str, Any] | None = None,
        max_bytes: int = 2**26,
    ):
        if recipe.data.chat_template is not None:
            raise RecipeError(
                "chat_template: a server uses its own; start it with that template, and remove the key from the recipe"
            )
        concurrency = concurrency or (1 if dialect == "transformers" else 64)
        urls = _urls(endpoints)
        self.endpoints = deque(Endpoint(url, asyncio.Semaphore(concurrency)) for url in urls)
        # A call makes all its requests at once; a second one fills the slots while the last of it are awaited.
        self.at_once = max(2, concurrency * len(urls) // 32)
        self.key = read_api_key(key_env)
        self.dialect, self.opens_think, self.extra_body = dialect, opens_think, extra_body or {}
        self.timeout, self.patience, self.retries, self.backoff = timeout, patience, retries, backoff
        self.max_bytes = max_bytes
        self._windows: list[int] = []
        self._told = False
        self._tried: set[tuple[Any, ...]] = set()
        self._lock = threading.Lock()
        self._under_way: set[Future[Any]] = set()
        self._closed = False
        self.model = model_name or self._result(self._only_model())

    @staticmethod
    def check(
        endpoints: str | list[str] = "",
        key_env: str | None = None,
        dialect: str = "vllm",
        extra_body: dict[str, Any] | None = None,
        **others: Any,
    ) -> None:
        if not endpoints:
            raise RecipeError("engine.endpoints: a server needs one, e.g. `endpoints: http://localhost:8000/v1`")
        urls = _urls(endpoints)
        if len(set(urls)) < len(urls):
            raise RecipeError("engine.endpoints: one is listed twice; raise `concurrency` instead")
        check_key_env(key_env)
        if dialect not in DIALECTS:
            raise RecipeError(
                f"engine.dialect: there is none named {dialect!r}{suggest_nearest(str(dialect), list(DIALECTS))}"
            )
        taken = sorted(RESERVED & (extra_body or {}).keys())
        if taken:
            raise RecipeError(f"engine.extra_body: {', '.join(taken)} cannot be set there")
        for name in ("concurrency", "timeout", "patience", "backoff", "max_bytes"):
            value = others.get(name)
            if value is not None and not (isinstance(value, int | float) and value > 0):
                raise RecipeError(f"engine.{name}: a number above 0, got {value!r}")

    def generate(
        self,
        prompts: list[str | Messages],
        n: int,
        sampling: Sampling,
        rows: list[int] | None = None,
        done: Callable[[int, int], None] | None = None,
    ) -> list[list[Completion]]:
        rows = rows if rows is not None else list(range(len(prompts)))
        for plain in {isinstance(prompt, str) for prompt in prompts}:
            self._try_once(plain, sampling)
        return self._result(self._all(prompts, n, sampling, rows, done or (lambda completions, tokens: None)))

    def close(self) -> None:
        """Give up what is under way: threads would wait for it up to the timeout, and the process for them."""
        self._closed = True
        for work in list(self._under_way):
            work.cancel()

    def _result(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What comes of a coroutine on the event loop."""
        future = run_coroutine(work)
        self._under_way.add(future)
        try:
            if self._closed:
                raise CancelledError
            return future.result()
        finally:
            future.cancel()
            self._under_way.discard(future)

    async def _all(
        self,
        prompts: list[str | Messages],
        n: int,
        sampling: Sampling,
        rows: list[int],
        done: Callable[[int, int], None],
    ) -> list[list[Completion]]:
        async def one(prompt: str | Messages, seed: int) -> Completion:
            completion = await self._complete(prompt, sampling, seed)
            done(1, completion.tokens)
            return completion

        tasks = [
            asyncio.create_task(one(prompt, derive_seed(sampling.seed, row, i)))
            for prompt, row in zip(prompts, rows, strict=True)
            for i in range(n)
        ]
        try:
            made = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return [made[start : start + n] for start in range(0, len(made), n)]

    async def _complete(self, prompt: str | Messages, sampling: Sampling, seed: int) -> Completion:
        body = self._body(prompt, sampling, seed)
        try:
            try:
                answer = await self._persist(body)
            except Failure as failure:
                room = await self._room(body) if failure.of_the_request else None
                if room is None or not 0 < room < sampling.max_tokens:
                    raise
                answer = await self._persist(body | {"max_tokens": room})
        except Failure as failure:
            return make_refusal(str(failure))
        return self._read(answer, prompt, sampling)

    def _body(self, prompt: str | Messages, sampling: Sampling, seed: int) -> dict[str, Any]:
        shown = {"prompt": prompt} if isinstance(prompt, str) else {"messages": prompt}
        stop = {"stop": list(sampling.stop)} if sampling.stop else {}
        keys = {"model": self.model, "max_tokens": sampling.max_tokens, "seed": seed}
        return {**shown, **keys, **stop, **distribution(sampling, self.dialect), **self.extra_body}

    def _try_once(self, plain: bool, sampling: Sampling) -> None:
        """Refuse keys that the servers refuse, before rows are: by a prompt of one word and a completion of one token.

        Raises:
            RecipeError: with the server's words.
        """
        keys = (plain, *sorted((k, v) for k, v in asdict(sampling).items() if k not in ("seed", "max_tokens")))
        with self._lock:
            if keys in self._tried:
                return
            body = self._body(_WORD if plain else _message(_WORD), sampling, 0) | {"max_tokens": 1}
            try:
                self._result(self._persist(body))
            except Failure as failure:
                raise RecipeError(
                    f"engine: {failure}, and that to a prompt of one word and one token; if it is the keys of the "
                    f"request, set `dialect` ({', '.join(DIALECTS)}) or `extra_body`"
                ) from None
            self._tried.add(keys)

    async def _persist(self, body: dict[str, Any]) -> dict[str, Any]:
        """What the first endpoint that works answers to a completion's request.

        Raises:
            Failure: the request is at fault.
            RecipeError: no endpoint works.
        """
        word = {"prompt": _WORD} if "prompt" in body else {"messages": _message(_WORD)}

        async def works(endpoint: Endpoint) -> bool:
            """True if it answers a single token: then it is the other request that it failed on."""
            try:
                async with asyncio.timeout(min(PROBE_SECONDS, self.timeout)):
                    await self._ask(endpoint, body | word | {"max_tokens": 1})
            except (Failure, TimeoutError):
                return False
            endpoint.answered()
            return True

        return await self._anywhere(lambda endpoint: self._ask(endpoint, body), works)

    async def _anywhere(
        self, ask: Callable[[Endpoint], Awaitable[Any]], works: Callable[[Endpoint], Awaitable[bool]] | None = None
    ) -> Any:
        strikes = 0
        while True:
            endpoint = await self._next()
            tried = await try_endpoint(endpoint, ask, self.timeout)
            failure = tried.failure
            if tried.answer is not None:
                return tried.answer
            if failure is None:
                continue
            if failure.of_the_request:
                raise failure
            endpoint.failed(failure, asyncio.get_running_loop().time(), self.backoff, LONGEST_PAUSE)
            if works and failure.status != 429 and not failure.lasting:
                strikes += await works(endpoint)
            if strikes > self.retries:
                raise failure

    async def _next(self) -> Endpoint:
        """The endpoint to ask; waits while none may be asked, as long as `patience` lasts.

        Raises:
            RecipeError: it is over, or every endpoint refuses the key, the model or the path.
        """
        now = asyncio.get_running_loop().time
        while True:
            if all(e.refuses for e in self.endpoints):
                raise RecipeError(f"engine: {self._causes()}; check model_name, endpoints and key_env")
            ends = self._patience_ends()
            if now() >= ends:
                raise RecipeError(
                    f"engine: no endpoint has worked for {self.patience:g} s ({self._causes()}); what was written "
                    "stays, and the same command goes on once one is back"
                )
            endpoint = choose_endpoint(self.endpoints, now())
            if endpoint.paused_until <= ends:
                self._tell_waiting()
                return endpoint
            # The end of the pause lies beyond the patience; another request may still find that it works again.
            await asyncio.sleep(max(0.0, min(ends - now(), 1.0)))

    def _tell_waiting(self) -> None:
        """Say once, of each time that no endpoint works, what is waited for."""
        down = all(e.down_since is not None for e in self.endpoints)
        if down and not self._told:
            _log.warning("no endpoint works (%s); waiting up to %g s", self._causes(), self.patience)
        self._told = down

    def _patience_ends(self) -> float:
        since = [e.down_since for e in self.endpoints]
        return math.inf if None in since else max(since) + self.patience

    def _causes(self) -> str:
        return "; ".join(dict.fromkeys(e.last_failure for e in self.endpoints))

    async def _ask(self, endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
        """A whole completion: `choices` with a text or message and a known reason for its end, and `usage`."""
        path = "/completions" if "prompt" in body else "/chat/completions"
        text = await request_text(endpoint.url, path, self.key, body, self.max_bytes)
        try:
            answer = json.loads(text)
            choice = answer["choices"][0]
            said = [choice["text"]] if "prompt" in body else [choice["message"].get(key) or "" for key in MESSAGE_KEYS]
            whole = all(isinstance(text, str) for text in said)
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            whole = False
        if not whole:
            raise Failure(f"{endpoint.url} answered no completion: {shorten_text(text)}", 200)
        usage = answer.get("usage")
        if not isinstance(usage, dict) or not isinstance(usage.get("completion_tokens"), int):
            raise RecipeError(
                f"engine: {endpoint.url} does not say how many tokens it made (`usage.completion_tokens`), without "
                "which lengths cannot be judged; use another server, or another engine"
            )
        reason = choice.get("finish_reason")
        if not isinstance(reason, str) or reason not in ENDS:
            raise Failure(f"{endpoint.url} broke a completion off: finish_reason {reason!r}", 200)
        return answer

    def _read(self, answer: dict[str, Any], prompt: str | Messages, sampling: Sampling) -> Completion:
        choice = answer["choices"][0]
        reason = ENDS[choice["finish_reason"]]
        if reason == "refused":
            return make_refusal(f"the server ended it: finish_reason {choice['finish_reason']}")
        if isinstance(prompt, str):
            opened = prompt.rstrip().endswith("<think>")
            text = (prompt[prompt.rindex("<think>") :] if opened else "") + cut_at_stop(choice["text"], sampling.stop)
        else:
            text = self._said(choice["message"], sampling.stop)
        return Completion(text, answer["usage"]["completion_tokens"], reason)

    def _said(self, message: dict[str, Any], stop: tuple[str, ...]) -> str:
        """An assistant's message with its reasoning between its tags, as the model wrote it."""
        content = cut_at_stop(message.get("content") or "", stop)
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        if reasoning:
            # What follows the reasoning is missing where the completion was cut inside it.
            closed = f"\n</think>\n\n{content.lstrip()}" if content.strip() else ""
            return f"<think>\n{reasoning.strip()}{closed}"
        if self.opens_think is None:
            before, closes, _ = content.partition("</think>")
            opened = bool(closes) and "<think>" not in before
        else:
            opened = self.opens_think and not content.lstrip().startswith("<think>")
        return f"<think>\n{content}" if opened else content

    async def _room(self, body: dict[str, Any]) -> int | None:
        """Tokens that the window leaves after a prompt; None if the servers do not say.

        vLLM and SGLang refuse a request whose `max_tokens` would not fit, rather than cut it at the window.

        Raises:
            Failure: the prompt itself is refused.
        """
        window = await self._window()
        if window is None:
            return None
        answer = await self._persist(body | {"max_tokens": 1})
        used = answer["usage"].get("prompt_tokens")
        return window - used if isinstance(used, int) else None

    async def _window(self) -> int | None:
        """Tokens of the model's window; None if the servers do not say."""
        for endpoint in [] if self._windows else self.endpoints:
            # One that cannot say this may still complete.
            with contextlib.suppress(Failure, TimeoutError):
                async with asyncio.timeout(min(PROBE_SECONDS, self.timeout)):
                    listed = await self._models(endpoint)
                self._windows += [
                    m["max_model_len"] for m in listed if m["id"] == self.model and m.get("max_model_len")
                ]
        return min(self._windows, default=None)

    async def _only_model(self) -> str:
        """The model that the first endpoint that works says it has.

        Raises:
            RecipeError: it has several, or does not say.
        """
        try:
            names = [model["id"] for model in await self._anywhere(self._models)]
        except Failure as failure:
            raise RecipeError(f"engine.model_name: is missing, and {failure}") from failure
        if len(names) != 1:
            told = f"names {', '.join(names)}; choose one" if names else "names none"
            raise RecipeError(f"engine.model_name: is missing, and the server {told}")
        return names[0]

    async def _models(self, endpoint: Endpoint) -> list[dict[str, Any]]:
        text = await request_text(endpoint.url, "/models", self.key)
        try:
            return [{**model, "id": str(model["id"])} for model in json.loads(text)["data"]]
        except (ValueError, RecursionError, LookupError, TypeError):
            raise Failure(f"{endpoint.url} names no models: {shorten_text(text)}", 200) from None


def distribution(sampling: Sampling, dialect: str) -> dict[str, Any]:
    """The keys of a request that say what completions are drawn from.

    Raises:
        RecipeError: the dialect cannot say it.
    """
    plain = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    # Servers take what a request does not say from the model's generation_config.
    if dialect == "vllm":
        return {**plain, "top_k": sampling.top_k or -1, "min_p": 0.0, "repetition_penalty": 1.0}
    if dialect == "transformers":
        drawn = {**plain, "do_sample": True, "top_k": sampling.top_k} if sampling.temperature else {"do_sample": False}
        return {"generation_config": json.dumps({**drawn, "repetition_penalty": 1.0})}
    if sampling.top_k:
        raise RecipeError(f"sampling.top_k: OpenAI's own protocol has none, so set it to 0 (got {sampling.top_k})")
    return plain


def _message(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def _urls(endpoints: str | list[str]) -> list[str]:
    return [check_url(url, "engine.endpoints") for url in ([endpoints] if isinstance(endpoints, str) else endpoints)]
