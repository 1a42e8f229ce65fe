"""Piston, played by a local server in the format of its documentation, and a provider of another package."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from open_r1.errors import RecipeError
from open_r1.rewards.code.scorers import code, code_fraction
from open_r1.sandbox import services
from open_r1.sandbox.cases import Limits, Program, StdinTest
from open_r1.sandbox.judging import judge_program
from open_r1.sandbox.runner import Execution

LIMITS = Limits(seconds=2, wall_seconds=5)
ADD = "a, b = map(int, input().split())\nprint(a + b)"
TESTS = [StdinTest("1 2\n", "3\n"), StdinTest("30 12\n", "42")]


def executed(source: str, stdin: str, seconds: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", source]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=seconds)


def piston(request: dict[str, Any]) -> dict[str, Any]:
    """Piston's answer for a Python program (docs/api-v2.md, version 4)."""
    assert request["language"] == "python" and request["version"] == "*"
    try:
        done = executed(request["files"][0]["content"], request["stdin"], request["run_timeout"] / 1000)
        run = {"stdout": done.stdout, "stderr": done.stderr, "code": done.returncode, "signal": None, "status": None}
        run["status"] = "RE" if done.returncode else None
    except subprocess.TimeoutExpired:
        run = {"stdout": "", "stderr": "", "code": None, "signal": "SIGKILL", "status": "TO", "cpu_time": 2003}
    run |= {"output": run["stdout"] + run["stderr"], "message": None, "memory": 9000000, "wall_time": 20}
    return {"run": run, "language": "python", "version": "3.12.0"}


Answer = tuple[int, dict[str, str], bytes] | Callable[[dict[str, Any]], dict[str, Any]]


@dataclass
class Played:
    """A server; `script` holds its next answers, `otherwise` the one when they are used up."""

    url: str = ""
    otherwise: Answer = piston
    script: list[Answer] = field(default_factory=list)
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


def sleeps(monkeypatch: pytest.MonkeyPatch, sleep: Callable[[float], None]) -> None:
    monkeypatch.setattr(services, "time", types.SimpleNamespace(sleep=sleep, monotonic=time.monotonic))


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    sleeps(monkeypatch, lambda seconds: None)
    services.get_runner.cache_clear()
    played = Played()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            played.requests.append((self.path, request))
            answer = played.script.pop(0) if played.script else played.otherwise
            if not isinstance(answer, tuple):
                answer = 200, {"Content-Type": "application/json"}, json.dumps(answer(request)).encode()
            status, headers, body = answer
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    played.url = f"http://127.0.0.1:{server.server_port}"
    yield played
    server.shutdown()
    server.server_close()
    thread.join()


def as_json(**answer: Any) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()


def outcomes(played: Played, source: str = ADD, **limits: Any) -> list[str]:
    runner = services.get_runner("piston", played.url)
    return [
        f"{outcome.status}: {outcome.reason}"
        for outcome in judge_program(
            Program(source), TESTS, Limits(**{"seconds": 2, "wall_seconds": 5} | limits), runner=runner
        )
    ]


@pytest.mark.parametrize(
    "source,first,second",
    [
        (ADD, "passed", "passed"),
        (ADD.replace("+", "*"), "failed: wrong output", ""),
        ("print(3)", "passed", "failed: wrong output"),
        ("print(3); exit(3)", "failed: exit code 3", ""),
        ("x = (", "failed: exit code 1: ", ""),
        ("", "failed: wrong output", ""),
        ("print('\ud800')", "failed: ", ""),
        ("while True: pass", "failed: more than 0.3 s", ""),
    ],
)
def test_programs(served, source, first, second):
    found = outcomes(served, source, seconds=0.3 if "while" in source else 10)
    assert found[0].startswith(first) and found[1].startswith(second)


def test_expected_outputs_are_never_sent(served):
    assert outcomes(served) == ["passed: ", "passed: "]
    sent = json.dumps([request for _, request in served.requests])
    assert "30 12" in sent and "42" not in sent


def test_what_assertions_expect_is_never_sent_either(served):
    """`f(x) == y` becomes a call: the service runs f(x), and the comparison is ours."""
    tests = "def check(c):\n    assert c(3, n=2) == 987654\n    assert c(1) == [1]\ncheck(f)"
    right = "```python\ndef f(x, n=1): return 987654 if n > 1 else [x]\n```"
    assert code(right, tests, provider="piston", url=served.url, seconds=10).outcome == "correct"
    assert "987654" not in json.dumps([request for _, request in served.requests]).replace("return 987654", "")
    wrong = right.replace("[x]", "x")
    assert code(wrong, tests, provider="piston", url=served.url, seconds=10).outcome == "wrong"
    assert code_fraction(wrong, tests, provider="piston", url=served.url, seconds=10) == 0.5


def test_where_requests_go(served):
    for url in (served.url, served.url + "/", served.url + "/api/v2", served.url + "/api/v2/execute"):
        list(services.get_runner("piston", url).run(Program("print(1)"), [b""], LIMITS))
    assert [path for path, _ in served.requests] == ["/api/v2/execute"] * 4


def test_languages_by_the_names_that_services_give_them(served):
    served.otherwise = as_json(run={"stdout": "", "stderr": "", "code": 0, "signal": None})
    for language in ("python", "cpp", "javascript"):
        list(services.get_runner("piston", served.url).run(Program("x", language), [b""], LIMITS))
    sent = [(request["language"], request["files"][0]["name"]) for _, request in served.requests]
    assert sent == [("python", "main.py"), ("c++", "main.cpp"), ("javascript", "main.js")]


RUN = {"stdout": "3\n", "stderr": "", "output": "", "code": 0, "signal": None}


@pytest.mark.parametrize(
    "answer,expected",
    [
        ({"run": RUN}, "passed"),
        ({"run": RUN, "compile": RUN}, "passed"),
        ({"run": RUN, "compile": RUN | {"code": 1, "stderr": "expected ';'"}},
         "failed: does not compile: expected ';'"),
        ({"run": RUN | {"code": None, "signal": "SIGSEGV", "status": "SG"}}, "failed: exit code 1: SIGSEGV"),
        ({"run": RUN, "compile": RUN | {"code": None, "signal": "SIGKILL", "status": "TO"}},
         "error: piston: the compiler ran out of time"),
        ({"run": RUN | {"status": "TO", "cpu_time": 700}}, "unknown: the machine was too busy"),
        ({"run": RUN | {"status": "TO", "cpu_time": 1990}}, "failed: more than 2 s of CPU time"),
        ({"run": {key: RUN[key] for key in RUN if key != "cpu_time"} | {"code": None, "signal": "SIGKILL"}},
         "failed: more than 2 s"),
        ({"run": RUN | {"code": None, "signal": "SIGKILL", "stdout": "3\n" * 900}}, "error: piston: killed"),
        ({"run": RUN | {"code": None, "signal": "SIGKILL", "status": "OL"}}, "error: piston: it cuts"),
        ({"run": RUN | {"stdout": "3\n" * 600_000, "status": "OL"}}, "failed: more than 1048576 bytes"),
        ({"run": RUN | {"status": "XX", "message": "isolate"}}, "error: piston: internal error: isolate"),
        ({"run": RUN | {"code": 1, "stdout": "", "stderr": "bash: fork: Resource temporarily unavailable"}},
         "error: piston: overloaded"),
        ({"run": RUN | {"code": None}}, "error: piston: neither"),
        ({"run": RUN | {"code": "0"}}, "error: piston: neither"),
        ({"run": RUN | {"stdout": None}}, "error: piston: an answer without"),
        ({"run": None}, "error: piston: an answer without"),
        ({"message": "busy"}, "error: piston: an answer without run.stdout: busy"),
    ],
)  # fmt: skip
def test_what_answers_mean(served, answer, expected):
    served.otherwise = as_json(**answer)
    assert outcomes(served)[0].startswith(expected)


HTML: Answer = (200, {"Content-Type": "text/html"}, b"<html>Bad gateway</html>")
OUTAGES: dict[str, tuple[Answer, str]] = {
    "html": (HTML, "not JSON: <html>"),
    "empty": ((200, {}, b""), "not JSON"),
    "list": ((200, {}, b"[]"), "HTTP 200: []"),
    "429": ((429, {"Retry-After": "0"}, b"slow down"), "HTTP 429: slow down (5 attempts)"),
    "500": ((500, {}, b'{"message": "Internal"}'), "HTTP 500"),
    "503": ((503, {}, b"<html>"), "HTTP 503"),
    "400": ((400, {}, b'{"message": "c++-* runtime is unknown"}'), "HTTP 400: c++-* runtime is unknown"),
    "404": ((404, {}, b'{"detail": "Not Found"}'), "HTTP 404"),
    "401": ((401, {}, b'{"message": "whitelist only"}'), "HTTP 401: whitelist only"),
}


@pytest.mark.parametrize("outage", OUTAGES)
def test_an_outage_is_an_error(served, outage):
    served.otherwise, message = OUTAGES[outage]
    for found in outcomes(served):
        assert found.startswith("error: piston") and message in found
    completion = f"```python\n{ADD}\n```"
    tests = {"inputs": ["1 2"], "outputs": ["3"]}
    assert code(completion, tests, provider="piston", url=served.url).outcome == "error"
    assert code_fraction(completion, tests, provider="piston", url=served.url).outcome == "error"


@pytest.mark.parametrize("outage", ["html", "429", "503"])
def test_a_short_outage_is_waited_out(served, outage):
    served.script = [OUTAGES[outage][0]] * (services.ATTEMPTS - 1)
    assert outcomes(served) == ["passed: ", "passed: "]
    assert len(served.requests) == services.ATTEMPTS - 1 + len(TESTS)


def test_attempts_are_bounded_and_others_are_spared_the_wait(served):
    served.otherwise = OUTAGES["503"][0]
    assert all(found.startswith("error: piston: HTTP 503") for found in outcomes(served))
    assert len(served.requests) == services.ATTEMPTS  # the second test fails at once


@pytest.mark.parametrize("answer", [as_json(run={"status": "XX", "stdout": "", "code": None}), OUTAGES["500"][0]])
def test_a_program_that_makes_the_service_fail_does_not_spoil_it_for_others(served, answer):
    served.script = [answer] * services.ATTEMPTS_INSIDE
    assert [found[:6] for found in outcomes(served)] == ["error:", "passed"]


def test_it_comes_back(served, monkeypatch):
    monkeypatch.setattr(services, "DOWN_SECONDS", 0.0)
    served.script = [OUTAGES["503"][0]] * services.ATTEMPTS
    assert [found[:6] for found in outcomes(served)] == ["error:", "passed"]


def test_pauses_grow_and_follow_what_the_service_asks_for(served, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(services.random, "uniform", lambda low, high: 1.0)
    sleeps(monkeypatch, pauses.append)
    busy = (429, {}, b"")
    served.script = [busy, busy, (429, {"Retry-After": "7"}, b""), (503, {"Retry-After": "9999"}, b"")]
    assert outcomes(served)[0] == "passed: "
    assert pauses == [0.5, 1.0, 7.0, services.LONGEST_WAIT]


def test_nobody_listens(served):
    services.get_runner.cache_clear()
    runner = services.get_runner("piston", "http://127.0.0.1:9")
    (found,) = runner.run(Program(ADD), [b"1 2"], LIMITS)
    assert found.ended == "error" and "http://127.0.0.1:9/api/v2/execute cannot be reached" in found.cause


def test_a_service_that_hangs(served, monkeypatch):
    monkeypatch.setattr(services, "QUEUE_SECONDS", 0.0)
    release = threading.Event()

    def hang(request: dict[str, Any]) -> dict[str, Any]:
        release.wait(10)
        return piston(request)

    served.otherwise = hang
    start = time.monotonic()
    found = outcomes(served, wall_seconds=0.2)
    release.set()
    assert all(outcome.startswith("error: piston: http://") and "Timeout" in outcome for outcome in found)
    assert time.monotonic() - start < 5 and len(served.requests) == 1


def test_from_many_threads(served):
    runner = services.get_runner("piston", served.url)
    found: list[str] = []

    def one(i: int) -> None:
        (execution,) = runner.run(Program("print(int(input()) * 2)"), [str(i).encode()], Limits(seconds=20))
        found.append(execution.stdout.decode().strip())

    threads = [threading.Thread(target=one, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(int, found)) == [2 * i for i in range(8)]


@pytest.mark.parametrize(
    "name,url,message",
    [("piston", "http://", "piston needs `url`"), ("piston", "http://a\n", "piston needs `url`"),
     ("piston", "ftp://host", "piston needs `url`"),
     ("pistol", "", "known: local, piston; name a class"), ("piston", "", "piston needs `url`"),
     ("no_such_package:Class", "", "no_such_package:Class cannot be imported"),
     ("json:Class", "", "json:Class cannot be imported"),
     ("piston", "localhost:8080", "needs `url`, such as http://localhost:8080; got 'localhost:8080'")],
)  # fmt: skip
def test_mistakes_in_the_recipe(name, url, message):
    with pytest.raises(RecipeError, match=message):
        services.get_runner(name, url)
    with pytest.raises(RecipeError, match=message):
        code("```python\n```", {"inputs": ["1"], "outputs": ["1"]}, provider=name, url=url)


class Mirror:
    """A provider of another package, by HTTP: its programs print their input in capitals, whatever they are."""

    def __init__(self, url: str):
        self.service = services.Service("mirror", url, "/mirror")

    def run(self, program: Program, stdins: Sequence[bytes], limits: Limits) -> Iterator[Execution]:
        for stdin in stdins:
            yield self.service.execute({"text": stdin.decode()}, self.read, limits)

    def read(self, answer: dict[str, Any], limits: Limits) -> Execution:
        if "text" not in answer:
            raise services.Outage("mirror: an answer without text")
        return Execution("exit", 0, answer["text"].encode())


def test_a_provider_of_another_package(served, monkeypatch):
    """By its name in an entry point, or by where it is; with the retries of the built-in one."""
    point = importlib.metadata.EntryPoint("mirror", f"{__name__}:Mirror", services.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point] if group == point.group else [])
    served.otherwise = lambda request: {"text": request["text"].upper()}
    program, tests = f"```python\n{ADD}\n```", {"inputs": ["ab", "cd"], "outputs": ["AB", "CD"]}
    for provider in ("mirror", f"{__name__}:Mirror"):
        served.script = [OUTAGES["503"][0]]
        assert code(program, tests, provider=provider, url=served.url).outcome == "correct"
        assert code(program, tests | {"outputs": ["AB", "cd"]}, provider=provider, url=served.url).outcome == "wrong"
    assert {path for path, _ in served.requests} == {"/mirror"}
    served.otherwise = as_json(message="?")
    verdict = code(program, tests, provider="mirror", url=served.url)
    assert str(verdict) == "error: test 1 of 2: mirror: an answer without text"
    with pytest.raises(RecipeError, match="known: local, piston, mirror"):
        code(program, tests, provider="mirrors")
