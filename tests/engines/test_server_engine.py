"""The server engine against real HTTP servers that fail in every way, and one process that is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trl
from support import standin
from support.standin import close, completion, free_port, hang, prompt_of, says_prompt_and_seed, servers

from open_r1.config.recipe import Recipe
from open_r1.config.schema import DataConfig, EngineConfig, RunConfig
from open_r1.config.sharded_tasks import SampleConfig
from open_r1.engines import registry
from open_r1.engines.registry import Completion, Sampling, derive_seed
from open_r1.errors import RecipeError
from open_r1.system import openai_client

FAST = {"timeout": 2.0, "patience": 3.0, "backoff": 0.01, "concurrency": 8}
PROMPTS = [f"question {i}" for i in range(6)]
SAMPLING = Sampling(temperature=0.6, top_p=0.95, max_tokens=32, seed=4)
WORD = "Hi"  # the prompt of the probes


@pytest.fixture
def serve():
    with servers() as start:
        yield start


def open_server(*urls: str, chat_template: str | None = None, **parameters):
    config = EngineConfig("server", {"endpoints": list(urls), **FAST, **parameters})
    recipe = Recipe(
        task="sample",
        path=Path("recipe.yaml"),
        given={"output_dir": "unused"},
        args=SampleConfig(engine=config),
        model=trl.ModelConfig(),
        data=DataConfig(chat_template=chat_template),
        run=RunConfig(),
    )
    return registry.open_engine(recipe)


def build_expected(prompts=PROMPTS, n=3, rows=None) -> list[list[Completion]]:
    """The completions that `says_prompt_and_seed` gives."""
    seeds_PN = [[derive_seed(SAMPLING.seed, row, i) for i in range(n)] for row in rows or range(len(prompts))]
    return [
        [Completion(f"{prompt} {seed}", 3 + seed % 5, "stop") for seed in seeds_N]
        for prompt, seeds_N in zip(prompts, seeds_PN, strict=True)
    ]


def list_requests(server) -> list[dict]:
    """Bodies of the requests, without the probes of the engine."""
    return [body for _, body in server.bodies if prompt_of(body) != WORD]


def failing(first: int, behave):
    """A server that fails at its first requests after the probe."""

    def act(handler, body, number):
        return (
            behave(handler, body, number) if 1 < number <= 1 + first else says_prompt_and_seed(handler, body, number)
        )

    return act


def test_a_request_for_each_completion_with_its_own_seed(serve):
    server = serve(says_prompt_and_seed)
    engine = open_server(server.url)
    progress = []
    assert engine.generate(PROMPTS, 3, SAMPLING, done=lambda *counts: progress.append(counts)) == build_expected()
    assert engine.model == "m" and engine.at_once == 2
    assert sum(completions for completions, _ in progress) == 18
    assert sum(tokens for _, tokens in progress) == sum(
        c.tokens for completions_N in build_expected() for c in completions_N
    )
    assert {path for path, _ in server.bodies} == {"/v1/completions"} and len(list_requests(server)) == 18
    keys = {"model": "m", "max_tokens": 32, "temperature": 0.6, "top_p": 0.95, "seed": derive_seed(4, 0, 0)}
    whole = keys | {"prompt": PROMPTS[0], "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert whole in list_requests(server)


def test_rows_and_split_calls_give_the_same(serve):
    engine = open_server(serve(says_prompt_and_seed).url)
    rows = [5, 4, 3, 2, 1, 0]
    assert engine.generate(PROMPTS[::-1], 3, SAMPLING, rows) == build_expected(PROMPTS[::-1], 3, rows)
    assert engine.generate(PROMPTS[2:4], 1, SAMPLING, [2, 3]) == build_expected(PROMPTS[2:4], 1, [2, 3])


def test_dialects(serve):
    server = serve(says_prompt_and_seed)
    drawn = Sampling(temperature=0.6, top_k=20, stop=("\n\n",))
    open_server(server.url, dialect="transformers").generate(["a"], 1, drawn)
    body = list_requests(server)[-1]
    assert json.loads(body["generation_config"]) == {
        "temperature": 0.6, "top_p": 1.0, "top_k": 20, "do_sample": True, "repetition_penalty": 1.0,
    }  # fmt: skip
    assert body["stop"] == ["\n\n"] and not {"top_k", "temperature", "min_p"} & body.keys()
    open_server(server.url, dialect="transformers").generate(["a"], 1, Sampling(temperature=0))
    assert json.loads(list_requests(server)[-1]["generation_config"]) == {
        "do_sample": False,
        "repetition_penalty": 1.0,
    }
    open_server(server.url, dialect="openai", extra_body={"user": "me"}).generate(["a"], 1, SAMPLING)
    assert list_requests(server)[-1].keys() == {
        "prompt",
        "model",
        "max_tokens",
        "seed",
        "temperature",
        "top_p",
        "user",
    }
    with pytest.raises(RecipeError, match=r"sampling\.top_k"):
        open_server(server.url, dialect="openai").generate(["a"], 1, drawn)
    open_server(server.url, dialect="vllm").generate(["a"], 1, drawn)
    assert list_requests(server)[-1]["top_k"] == 20


CLOSED = "<think>\nIt is\n</think>\n\nfour"


@pytest.mark.parametrize(
    ("opens_think", "content", "message", "text"),
    [
        (None, "four", {}, "four"),
        (None, "four", {"reasoning_content": "\nIt is\n"}, CLOSED),
        (None, "\n\nfour", {"reasoning": "It is"}, CLOSED),
        (None, None, {"reasoning_content": "It is"}, "<think>\nIt is"),
        (None, "", {"reasoning": "It is"}, "<think>\nIt is"),
        (None, "It is\n</think>\n\nfour", {}, CLOSED),
        (None, CLOSED, {}, CLOSED),
        (None, "</think> what <think>", {}, "<think>\n</think> what <think>"),
        (None, "It is", {}, "It is"),
        (True, "It is", {}, "<think>\nIt is"),
        (True, "<think>It is", {}, "<think>It is"),
        (False, "It is</think>four", {}, "It is</think>four"),
        (None, None, {}, ""),
    ],
)
def test_reasoning_stands_between_its_tags(serve, opens_think, content, message, text):
    server = serve(lambda h, b, n: completion(b, content, "length", **message))
    messages = [{"role": "user", "content": "2 + 2?"}]
    (found,) = open_server(server.url, opens_think=opens_think).generate([messages], 1, SAMPLING)[0]
    assert found == Completion(text, 5, "length")
    assert server.bodies[-1][0] == "/v1/chat/completions" and server.bodies[-1][1]["messages"] == messages


def test_a_plain_prompt_says_itself_what_it_has_opened(serve):
    engine = open_server(serve(lambda h, b, n: completion(b, "so</think>four")).url)
    texts = [c.text for (c,) in engine.generate(["2 + 2? <think>\n", "2 + 2?"], 1, SAMPLING)]
    assert texts == ["<think>\nso</think>four", "so</think>four"]


def test_stop_texts_are_cut_off_where_the_server_leaves_them(serve):
    engine = open_server(serve(lambda h, b, n: completion(b, "one END two STOP")).url)
    assert engine.generate(["a"], 1, Sampling(stop=("STOP", "END")))[0][0].text == "one "


def broken_off(handler, body, number):
    """The connection ends in the middle of the answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    close(handler, body, number)


PASSING = {
    "500": lambda h, b, n: (500, {}, "out of memory"),
    "503": lambda h, b, n: (503, {}, ""),
    "429": lambda h, b, n: (429, {"Retry-After": "0.05"}, "slow down"),
    "closed": close,
    "broken off": broken_off,
    "a web page": lambda h, b, n: (200, {}, "<html>"),
    "other JSON": lambda h, b, n: (200, {}, '{"choices": []}'),
    "half a choice": lambda h, b, n: (200, {}, '{"choices": [{"text": null}], "usage": {}}'),
    "parts": lambda h, b, n: completion(b, ["a"]),
    "aborted as SGLang": lambda h, b, n: completion(b, "hal", {"type": "abort"}),
    "aborted": lambda h, b, n: completion(b, "hal", "abort"),
    "too much": lambda h, b, n: (200, {}, b" " * (2**20 + 1)),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_costs_nothing(serve, name):
    server = serve(failing(4, PASSING[name]))
    engine = open_server(server.url, max_bytes=2**20)
    assert engine.generate(PROMPTS, 3, SAMPLING) == build_expected()
    messages = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    server.behave = lambda h, b, n: PASSING[name](h, b, n) if n % 5 == 0 else says_prompt_and_seed(h, b, n)
    assert engine.generate(messages, 3, SAMPLING) == build_expected()


def test_a_request_that_hangs_is_made_again(serve):
    server = serve(failing(2, hang))
    assert open_server(server.url, timeout=0.3).generate(PROMPTS, 3, SAMPLING) == build_expected()


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_at_fault_is_refused_with_the_servers_words(serve, status):
    def behave(handler, body, number):
        if prompt_of(body) == PROMPTS[2]:
            return status, {}, "maximum context length is 32"
        return says_prompt_and_seed(handler, body, number)

    server = serve(behave)
    found = open_server(server.url).generate(PROMPTS, 3, SAMPLING)
    assert found[:2] + found[3:] == build_expected()[:2] + build_expected()[3:]
    for refused in found[2]:
        assert (refused.text, refused.tokens, refused.finish_reason) == (None, 0, "refused")
        assert f"HTTP {status}: 'maximum context length is 32'" in refused.refused
    assert len(list_requests(server)) == 18


def test_max_tokens_are_cut_to_what_the_window_leaves(serve):
    """vLLM and SGLang refuse what would not fit, and say their window with the model."""
    used = {WORD: 1, "short": 10, "long": 90, "full": 100, "longer": 110}

    def behave(handler, body, number):
        prompt = used[prompt_of(body)]
        if prompt + body["max_tokens"] > 100:
            return 400, {}, f"maximum context length is 100, {prompt} + {body['max_tokens']} asked"
        answer = json.loads(completion(body, "text", "length", tokens=body["max_tokens"])[2])
        answer["usage"]["prompt_tokens"] = prompt
        return 200, {}, json.dumps(answer)

    server = serve(behave)
    server.models = [{"id": "m", "max_model_len": 100}]
    short, long, full, longer = [
        c for (c,) in open_server(server.url).generate(["short", "long", "full", "longer"], 1, SAMPLING)
    ]
    assert (short.tokens, long.tokens) == (32, 10) and long.finish_reason == "length"
    assert full.refused.count("100 + 1 asked") == longer.refused.count("110 + 1 asked") == 1
    other = serve(behave)
    other.models = [{"id": "m", "max_model_len": 95}]
    found = open_server(server.url, other.url, model_name="m").generate(["long", "short"] * 20, 1, SAMPLING)
    assert [completion.tokens for (completion,) in found] == [5, 32] * 20
    for models in ([{"id": "m"}], [{"no id": 1}], []):
        server.models = models
        assert open_server(server.url, model_name="m").generate(["long"], 1, SAMPLING)[0][0].finish_reason == "refused"


def test_a_prompt_that_breaks_a_server_is_refused_and_only_that(serve):
    def behave(handler, body, number):
        bad = prompt_of(body) == PROMPTS[1]
        return (500, {}, "assertion failed") if bad else says_prompt_and_seed(handler, body, number)

    server = serve(behave)
    found = open_server(server.url, retries=2).generate(PROMPTS, 3, SAMPLING)
    assert found[:1] + found[2:] == build_expected()[:1] + build_expected()[2:]
    assert all("HTTP 500: 'assertion failed'" in refused.refused for refused in found[1])
    assert sum(prompt_of(body) == PROMPTS[1] for body in list_requests(server)) == 3 * 3


def test_content_that_a_server_withholds_is_refused(serve):
    engine = open_server(serve(lambda h, b, n: completion(b, "", "content_filter" if n > 1 else "stop")).url)
    assert "content_filter" in engine.generate(["a"], 1, SAMPLING)[0][0].refused


def test_one_of_two_endpoints_dies_for_good(serve):
    dies = serve(lambda h, b, n: says_prompt_and_seed(h, b, n) if n < 5 else close(h, b, n))
    good = serve(says_prompt_and_seed)
    engine = open_server(dies.url, good.url, backoff=0.2)
    assert engine.generate(PROMPTS * 4, 3, SAMPLING) == build_expected(PROMPTS * 4)
    assert 2 <= len(list_requests(dies)) < 30 and len(list_requests(good)) >= 72 - 4


def slowly(handler, body, number):
    time.sleep(0.02)
    return says_prompt_and_seed(handler, body, number)


def test_an_endpoint_that_recovers_gets_its_share_again(serve):
    shaky = serve(lambda h, b, n: (503, {}, "") if 1 < n < 6 else slowly(h, b, n))

    def patiently(h, b, n):
        """Answers only once the other is at work again."""
        ends = time.monotonic() + 30
        while len(list_requests(shaky)) < 12 and time.monotonic() < ends:
            time.sleep(0.01)
        return slowly(h, b, n)

    good = serve(patiently)
    engine = open_server(shaky.url, good.url, concurrency=2)
    assert engine.generate(PROMPTS * 4, 4, SAMPLING) == build_expected(PROMPTS * 4, 4)
    assert len(list_requests(shaky)) >= 12 and list_requests(good)


def test_patience_begins_anew_with_each_outage(serve):
    """Two short outages, further apart than the patience."""
    server = serve(lambda h, b, n: (503, {}, "") if n in (3, 60) else slowly(h, b, n))
    engine = open_server(server.url, concurrency=1, patience=0.5)
    assert engine.generate(PROMPTS, 10, SAMPLING) == build_expected(PROMPTS, 10)


def test_an_endpoint_that_refuses_the_key_leaves_the_work_to_the_other(serve):
    closed = serve(lambda h, b, n: (401, {}, "who are you?"))
    good = serve(says_prompt_and_seed)
    assert open_server(closed.url, good.url).generate(PROMPTS, 3, SAMPLING) == build_expected()


def test_when_no_endpoint_works_for_long_enough_the_run_stops(serve):
    dead = [serve(lambda h, b, n: (503, {}, "loading")), serve(close)]
    engine = open_server(*(server.url for server in dead), model_name="m", patience=0.6)
    began = time.monotonic()
    with pytest.raises(RecipeError, match=r"no endpoint has worked for 0.6 s .*the same command continues") as caught:
        engine.generate(PROMPTS, 3, SAMPLING)
    assert 0.5 < time.monotonic() - began < 30
    assert "HTTP 503: 'loading'" in str(caught.value) and "failed with" in str(caught.value)


def test_patience_is_not_stretched_by_a_server_that_asks_for_it(serve):
    engine = open_server(serve(failing(99, lambda h, b, n: (429, {"Retry-After": "3600"}, "quota"))).url, patience=0.5)
    began = time.monotonic()
    with pytest.raises(RecipeError, match="HTTP 429: 'quota'"):
        engine.generate(PROMPTS, 3, SAMPLING)
    assert time.monotonic() - began < 2.5


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_everywhere_stops_at_once(serve, monkeypatch, status):
    monkeypatch.setenv("SAMPLE_KEY", "sk-secret")
    both = [serve(lambda h, b, n: (status, {}, "no model m for sk-secret")) for _ in range(2)]
    engine = open_server(*(server.url for server in both), model_name="m", key_env="SAMPLE_KEY", patience=60)
    with pytest.raises(RecipeError, match=f"HTTP {status}: 'no model m for <key>'.*model_name") as caught:
        engine.generate(PROMPTS, 3, SAMPLING)
    assert "sk-secret" not in str(caught.value)
    assert both[0].headers[0]["Authorization"] == "Bearer sk-secret"


def test_keys_that_a_server_does_not_know_stop_the_run_before_rows_are_refused(serve):
    def behave(handler, body, number):
        known = {"model", "prompt", "max_tokens", "seed", "temperature", "top_p"}
        unknown = body.keys() - known
        return (422, {}, f"Unexpected fields {unknown}") if unknown else says_prompt_and_seed(handler, body, number)

    server = serve(behave)
    with pytest.raises(RecipeError, match=r"HTTP 422: .Unexpected fields .*dialect"):
        open_server(server.url).generate(PROMPTS, 3, SAMPLING)
    assert open_server(server.url, dialect="openai").generate(PROMPTS, 3, SAMPLING) == build_expected()


def test_without_token_counts_the_run_stops(serve):
    answer = json.dumps({"choices": [{"text": "a", "finish_reason": "stop"}]})
    with pytest.raises(RecipeError, match=r"usage\.completion_tokens"):
        open_server(serve(lambda h, b, n: (200, {}, answer)).url).generate(PROMPTS, 3, SAMPLING)


def test_no_more_requests_than_slots_however_many_threads(serve):
    def slow(handler, body, number):
        time.sleep(0.01)
        return says_prompt_and_seed(handler, body, number)

    server = serve(slow)
    engine = open_server(server.url, concurrency=3)
    with ThreadPoolExecutor(6) as threads:
        rows = [[i] for i in range(6)]
        found = list(threads.map(lambda row: engine.generate([PROMPTS[row[0]]], 8, SAMPLING, row), rows))
    assert [completions_PN[0] for completions_PN in found] == build_expected(PROMPTS, 8)
    assert server.most == 3


def test_an_answer_of_a_long_reasoning_is_read(serve):
    text = "x" * (2 * openai_client.MAX_BYTES)
    engine = open_server(serve(lambda h, b, n: completion(b, text if n > 1 else "")).url)
    assert engine.generate(["a"], 1, SAMPLING)[0][0].text == text


def test_the_model_is_the_only_one_or_named(serve):
    server = serve(says_prompt_and_seed)
    server.models = [{"id": "base"}, {"id": "adapter"}]
    with pytest.raises(RecipeError, match="model_name: missing, and the server lists base, adapter"):
        open_server(server.url)
    engine = open_server(server.url, model_name="adapter")
    engine.generate(["a"], 1, SAMPLING)
    assert engine.model == "adapter" and list_requests(server)[0]["model"] == "adapter"
    server.models = []
    with pytest.raises(RecipeError, match="lists none"):
        open_server(server.url)


def test_a_chat_template_is_the_servers_own(serve):
    with pytest.raises(RecipeError, match="chat_template: a server uses its own"):
        open_server(serve(says_prompt_and_seed).url, chat_template="chatml")


def test_a_server_killed_in_the_middle_and_started_again_loses_nothing():
    port, processes, came = free_port(), [], []

    def start():
        processes.append(subprocess.Popen([sys.executable, standin.__file__, str(port), "0.01"]))

    def kill_and_start_again():
        processes[0].kill()
        processes[0].wait()
        time.sleep(0.2)
        start()

    killer = threading.Thread(target=kill_and_start_again)

    def done(completions, tokens):
        came.append(len(processes))
        if len(came) == 50:
            killer.start()

    start()
    try:
        engine = open_server(f"http://127.0.0.1:{port}/v1", patience=30)  # which waits for it to come up
        assert engine.generate(PROMPTS * 10, 4, SAMPLING, done=done) == build_expected(PROMPTS * 10, 4)
        killer.join()
        assert len(came) == 240 and came.count(2) > 100
    finally:
        for process in processes:
            process.kill()
            process.wait()
