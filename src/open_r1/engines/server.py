"""The engine for OpenAI-compatible servers: vLLM, SGLang, `transformers serve`, or a remote service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError, suggest_nearest
from ..prompts import Messages
from ..system.openai_client import (
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
from .registry import Completion, Sampling, derive_seed, make_refusal
from .transformers import cut_at_stop

if TYPE_CHECKING:
    from ..config.recipe import Recipe


DIALECTS = ("vllm", "openai", "transformers")
RESERVED = {"messages", "prompt", "model", "n", "seed", "stream", "max_tokens"}
LONGEST_PAUSE = 60.0  # seconds; limit of an endpoint's back-off, unless its server asks for more
PROBE_SECONDS = 60.0  # for one token after a prompt that every server can answer
PROBES: dict[str, str | Messages] = {"prompt": "Hi", "messages": [{"role": "user", "content": "Hi"}]}
# A server's `finish_reason` -> ours. A completion with any other was broken off.
ENDS = {"stop": "stop", "length": "length"}
ENDS |= dict.fromkeys(("content_filter", "tool_calls", "function_call"), "refused")


class Server:
    """Sends one request per completion, with the completion's own seed, to the least busy endpoint.

    A request that fails is repeated, at another endpoint if there is one. A prompt is refused if a server rejects the
    request (HTTP 400, 413, 422), or if the request keeps failing at servers that answer a single token of another
    prompt. The run goes on as long as one endpoint works.

    The server decides how far a seed fixes a completion. vLLM and SGLang draw by the request's seed, so only rounding
    depends on the batch; `transformers serve` has one seed for its whole process, so it gets one request at a time.

    Args:
        recipe: its prompts; the model is the server's.
        endpoints: base url, `/v1` included, or a list of several that serve the same model.
        model_name: the model's name there; the default is the only one that the servers list.
        key_env: environment variable that holds the API key.
        dialect: how a request states what OpenAI's protocol lacks. `vllm` (also SGLang) states top_k and every default
            of the model's generation_config that would change the distribution. (Of that config only `max_new_tokens`
            still limits requests, unless vLLM is started with `--generation-config vllm`.) `transformers` sends a
            `generation_config`. `openai` states nothing more.
        concurrency: requests in flight at one endpoint; the default is 64, and 1 in the dialect `transformers`.
        timeout: seconds of one attempt, including its wait inside the server.
        patience: seconds for which all endpoints may be down, at the start or later, before the run stops.
        retries: further attempts of a request that fails while its server works.
        backoff: seconds an endpoint is paused after a failure; doubled at each consecutive one, with jitter.
        opens_think: whether the server's chat template ends in `<think>`, which is then restored. The default infers
            it from a `</think>` without its opening tag, which a completion cut inside its reasoning lacks.
        extra_body: further keys of the request, passed to the server unchanged.
        max_bytes: limit of one response.
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
        urls = normalize_urls(endpoints, "engine.endpoints")
        concurrency = concurrency or (1 if dialect == "transformers" else 64)
        endpoints = deque(Endpoint(url, asyncio.Semaphore(concurrency)) for url in urls)
        limits = {"patience": patience, "max_bytes": max_bytes}
        self.client = Client(endpoints, read_api_key(key_env), timeout, backoff, LONGEST_PAUSE, **limits)
        # A call sends all its requests at once; a second call fills the slots while the first awaits its last ones.
        self.at_once = max(2, concurrency * len(urls) // 32)
        self.dialect, self.opens_think, self.extra_body = dialect, opens_think, extra_body or {}
        self.retries, self.probe_seconds = retries, min(PROBE_SECONDS, timeout)
        self._window: int | None = None
        self._accepted: set[tuple[Any, ...]] = set()
        self._lock = threading.Lock()
        self._pending: set[Future[Any]] = set()
        self._closed = False
        self.model = model_name or self._wait(self._find_only_model())

    @staticmethod
    def check(
        endpoints: str | list[str] = "",
        key_env: str | None = None,
        dialect: str = "vllm",
        extra_body: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        urls = normalize_urls(endpoints, "engine.endpoints")
        if len(set(urls)) < len(urls):
            raise RecipeError("engine.endpoints: one is listed twice; raise `concurrency` instead")
        if dialect not in DIALECTS:
            raise RecipeError(
                f"engine.dialect: there is none named {dialect!r}{suggest_nearest(str(dialect), list(DIALECTS))}"
            )
        limits = ("concurrency", "timeout", "patience", "backoff", "max_bytes")
        numbers = {name: options[name] for name in limits if options.get(name) is not None}
        check_options("engine.", key_env, extra_body, RESERVED, **numbers)

    def generate(
        self,
        prompts: list[str | Messages],
        n: int,
        sampling: Sampling,
        rows: list[int] | None = None,
        done: Callable[[int, int], None] | None = None,
    ) -> list[list[Completion]]:
        rows = rows if rows is not None else list(range(len(prompts)))
        for is_text in {isinstance(prompt, str) for prompt in prompts}:
            self._check_accepted(is_text, sampling)
        return self._wait(self._complete_all(prompts, n, sampling, rows, done or (lambda completions, tokens: None)))

    def close(self) -> None:
        """Cancel pending requests; threads, and the end of the process, would wait for them up to the timeout."""
        self._closed = True
        for future in list(self._pending):
            future.cancel()

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of a coroutine on the event loop.

        Raises:
            RecipeError: no endpoint works.
        """
        future = run_coroutine(work)
        self._pending.add(future)
        try:
            if self._closed:
                raise CancelledError
            return future.result()
        except Outage as outage:
            advice = (
                "check model_name, endpoints and key_env"
                if outage.is_permanent
                else "finished files are kept, and the same command continues once one is back"
            )
            raise RecipeError(f"engine: {outage}; {advice}") from outage
        finally:
            future.cancel()
            self._pending.discard(future)

    async def _complete_all(
        self,
        prompts: list[str | Messages],
        n: int,
        sampling: Sampling,
        rows: list[int],
        done: Callable[[int, int], None],
    ) -> list[list[Completion]]:
        tasks = [
            asyncio.create_task(self._complete(prompt, sampling, derive_seed(sampling.seed, row, i), done))
            for prompt, row in zip(prompts, rows, strict=True)
            for i in range(n)
        ]
        try:
            completions = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return [completions[start : start + n] for start in range(0, len(completions), n)]

    async def _complete(
        self, prompt: str | Messages, sampling: Sampling, seed: int, done: Callable[[int, int], None]
    ) -> Completion:
        body = self._build_body(prompt, sampling, seed)
        try:
            try:
                answer = await self._request(body)
            except Failure as failure:
                room = await self._measure_room(body) if failure.rejects_request else None
                if room is None or not 0 < room < sampling.max_tokens:
                    raise
                answer = await self._request(body | {"max_tokens": room})
            completion = self._read_completion(answer, prompt, sampling)
        except Failure as failure:
            completion = make_refusal(str(failure))
        done(1, completion.tokens)
        return completion

    def _build_body(self, prompt: str | Messages, sampling: Sampling, seed: int) -> dict[str, Any]:
        content = {"prompt" if isinstance(prompt, str) else "messages": prompt}
        stop = {"stop": list(sampling.stop)} if sampling.stop else {}
        keys = {"model": self.model, "max_tokens": sampling.max_tokens, "seed": seed}
        return {**content, **keys, **stop, **build_distribution(sampling, self.dialect), **self.extra_body}

    def _check_accepted(self, is_text: bool, sampling: Sampling) -> None:
        """Request one token, so that keys which the servers reject stop the run before every row is refused.

        Raises:
            RecipeError: the server's message.
        """
        options = (is_text, *sorted((k, v) for k, v in asdict(sampling).items() if k not in ("seed", "max_tokens")))
        with self._lock:
            if options in self._accepted:
                return
            prompt = PROBES["prompt" if is_text else "messages"]
            try:
                self._wait(self._request(self._build_body(prompt, sampling, 0) | {"max_tokens": 1}))
            except Failure as failure:
                raise RecipeError(
                    f"engine: {failure}, in response to a prompt of one word; if a key of the request is the cause, "
                    f"set `dialect` ({', '.join(DIALECTS)}) or `extra_body`"
                ) from None
            self._accepted.add(options)

    async def _request(self, body: dict[str, Any]) -> dict[str, Any]:
        """The response of the first endpoint that answers.

        Raises:
            Failure: the request is at fault.
            Outage: no endpoint works.
        """
        key = "prompt" if "prompt" in body else "messages"

        async def probe(endpoint: Endpoint) -> bool:
            """True if the endpoint answers one token of another prompt."""
            work = self._request_from(endpoint, body | {key: PROBES[key], "max_tokens": 1})
            try:
                await limit_time(work, endpoint.url, self.probe_seconds)
            except Failure:
                return False
            endpoint.record_answer()
            return True

        return await self.client.request(lambda endpoint: self._request_from(endpoint, body), self.retries, probe)

    async def _request_from(self, endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
        """A whole completion: with a known reason for its end, and its number of tokens."""
        answer = await self.client.complete(endpoint, body)
        usage = answer.get("usage")
        if not isinstance(usage, dict) or not isinstance(usage.get("completion_tokens"), int):
            raise RecipeError(
                f"engine: {endpoint.url} does not report the number of tokens (`usage.completion_tokens`), without "
                "which lengths are unknown; use another server or engine"
            )
        reason = answer["choices"][0].get("finish_reason")
        if not isinstance(reason, str) or reason not in ENDS:
            raise Failure(f"{endpoint.url} broke a completion off: finish_reason {reason!r}", 200)
        return answer

    def _read_completion(self, answer: dict[str, Any], prompt: str | Messages, sampling: Sampling) -> Completion:
        choice = answer["choices"][0]
        reason = ENDS[choice["finish_reason"]]
        if reason == "refused":
            return make_refusal(f"the server withheld it: finish_reason {choice['finish_reason']}")
        if isinstance(prompt, str):
            opened = prompt.rstrip().endswith("<think>")
            text = (prompt[prompt.rindex("<think>") :] if opened else "") + cut_at_stop(choice["text"], sampling.stop)
        else:
            text = self._join_message(choice["message"], sampling.stop)
        return Completion(text, answer["usage"]["completion_tokens"], reason)

    def _join_message(self, message: dict[str, Any], stop: tuple[str, ...]) -> str:
        """An assistant's message as the model wrote it: the reasoning between its tags, then the content."""
        content = cut_at_stop(message.get("content") or "", stop)
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        if reasoning:
            # Without content the completion was cut inside its reasoning.
            closed = f"\n</think>\n\n{content.lstrip()}" if content.strip() else ""
            return f"<think>\n{reasoning.strip()}{closed}"
        if self.opens_think is None:
            before, closes, _ = content.partition("</think>")
            opened = bool(closes) and "<think>" not in before
        else:
            opened = self.opens_think and not content.lstrip().startswith("<think>")
        return f"<think>\n{content}" if opened else content

    async def _measure_room(self, body: dict[str, Any]) -> int | None:
        """Tokens that the model's window leaves after a prompt; None if the servers do not report it.

        vLLM and SGLang reject a request whose `max_tokens` would not fit, instead of ending it at the window.

        Raises:
            Failure: the prompt itself is rejected.
        """
        window = await self._find_window()
        if window is None:
            return None
        answer = await self._request(body | {"max_tokens": 1})
        used = answer["usage"].get("prompt_tokens")
        return window - used if isinstance(used, int) else None

    async def _find_window(self) -> int | None:
        """Tokens of the model's window, the smallest of all endpoints; None if none reports it."""
        if self._window is None:
            windows = []
            for endpoint in list(self.client.endpoints):  # the deque rotates with every request
                with contextlib.suppress(Failure):  # an endpoint that lists no models may still complete prompts
                    models = await limit_time(self._list_models(endpoint), endpoint.url, self.probe_seconds)
                    windows += [model.get("max_model_len") for model in models if model["id"] == self.model]
            self._window = min(filter(None, windows), default=None)
        return self._window

    async def _find_only_model(self) -> str:
        """The model of the first endpoint that answers.

        Raises:
            RecipeError: it lists several or none.
        """
        try:
            names = [model["id"] for model in await self.client.request(self._list_models)]
        except Failure as failure:
            raise RecipeError(f"engine.model_name: missing, and {failure}") from failure
        if len(names) != 1:
            problem = f"lists {', '.join(names)}; choose one" if names else "lists none"
            raise RecipeError(f"engine.model_name: missing, and the server {problem}")
        return names[0]

    async def _list_models(self, endpoint: Endpoint) -> list[dict[str, Any]]:
        text = await self.client.fetch_text(endpoint, "/models")
        try:
            return [{**model, "id": str(model["id"])} for model in json.loads(text)["data"]]
        except (ValueError, RecursionError, LookupError, TypeError):
            raise Failure(f"{endpoint.url} lists no models: {shorten_text(text)}", 200) from None


def build_distribution(sampling: Sampling, dialect: str) -> dict[str, Any]:
    """The keys of a request that set the distribution of completions.

    Raises:
        RecipeError: the dialect cannot express it.
    """
    common = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    # Every key is stated: servers take missing ones from the model's generation_config.
    if dialect == "vllm":
        return {**common, "top_k": sampling.top_k or -1, "min_p": 0.0, "repetition_penalty": 1.0}
    if dialect == "transformers":
        drawn = {**common, "do_sample": True, "top_k": sampling.top_k}
        config = drawn if sampling.temperature else {"do_sample": False}
        return {"generation_config": json.dumps({**config, "repetition_penalty": 1.0})}
    if sampling.top_k:
        raise RecipeError(f"sampling.top_k: OpenAI's protocol has no such key, so set it to 0 (got {sampling.top_k})")
    return common
