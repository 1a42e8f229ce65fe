"""Services that run programs: played by a local server, in the formats that their documentation gives."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from open_r1.errors import RecipeError
from open_r1.rewards.code.scorers import code, code_fraction
from open_r1.sandbox import services
from open_r1.sandbox.cases import Limits, Program, StdinTest
from open_r1.sandbox.judging import judge_program

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


def fusion(request: dict[str, Any]) -> dict[str, Any]:
    """SandboxFusion's answer for a Python program (RunCodeResponse)."""
    answer: dict[str, Any] = {"message": "", "compile_result": None, "executor_pod_name": None, "files": {}}
    try:
        done = executed(request["code"], request["stdin"], request["run_timeout"])
    except subprocess.TimeoutExpired:
        run = {"status": "TimeLimitExceeded", "execution_time": 2.0, "return_code": None, "stdout": "", "stderr": ""}
        return answer | {"status": "Failed", "run_result": run}
    run = {"status": "Finished", "execution_time": 0.02, "return_code": done.returncode,
           "stdout": done.stdout, "stderr": done.stderr}  # fmt: skip
    return answer | {"status": "Failed" if done.returncode else "Success", "run_result": run}


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


def outcomes(played: Played, name: str, source: str = ADD, **limits: Any) -> list[str]:
    runner = services.get_runner(name, played.url)
    return [
        f"{outcome.status}: {outcome.reason}"
        for outcome in judge_program(
            Program(source), TESTS, Limits(**{"seconds": 2, "wall_seconds": 5} | limits), runner=runner
        )
    ]


BOTH = pytest.mark.parametrize("name,play", [("piston", piston), ("sandboxfusion", fusion)])


@BOTH
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
def test_programs(served, name, play, source, first, second):
    served.otherwise = play
    found = outcomes(served, name, source, seconds=0.3 if "while" in source else 10)
    assert found[0].startswith(first) and found[1].startswith(second)


@BOTH
def test_expected_outputs_are_never_sent(served, name, play):
    served.otherwise = play
    assert outcomes(served, name) == ["passed: ", "passed: "]
    sent = json.dumps([request for _, request in served.requests])
    assert "30 12" in sent and "42" not in sent


@BOTH
def test_what_assertions_expect_is_never_sent_either(served, name, play):
    """`f(x) == y` becomes a call: the service runs f(x), and the comparison is ours."""
    served.otherwise = play
    tests = "def check(c):\n    assert c(3, n=2) == 987654\n    assert c(1) == [1]\ncheck(f)"
    right = "```python\ndef f(x, n=1): return 987654 if n > 1 else [x]\n```"
    assert code(right, tests, provider=name, url=served.url, seconds=10).outcome == "correct"
    assert "987654" not in json.dumps([request for _, request in served.requests]).replace("return 987654", "")
    wrong = right.replace("[x]", "x")
    assert code(wrong, tests, provider=name, url=served.url, seconds=10).outcome == "wrong"
    assert code_fraction(wrong, tests, provider=name, url=served.url, seconds=10) == 0.5


def test_where_requests_go(served):
    for url in (served.url, served.url + "/", served.url + "/api/v2", served.url + "/api/v2/execute"):
        list(services.get_runner("piston", url).run(Program("print(1)"), [b""], LIMITS))
    served.otherwise = fusion
    list(services.get_runner("sandboxfusion", served.url).run(Program("print(1)"), [b""], LIMITS))
    assert [path for path, _ in served.requests] == ["/api/v2/execute"] * 4 + ["/run_code"]


def test_languages_by_the_names_that_services_give_them(served):
    served.otherwise = as_json(run={"stdout": "", "stderr": "", "code": 0, "signal": None})
    for language in ("python", "cpp", "javascript"):
        list(services.get_runner("piston", served.url).run(Program("x", language), [b""], LIMITS))
    sent = [(request["language"], request["files"][0]["name"]) for _, request in served.requests]
    assert sent == [("python", "main.py"), ("c++", "main.cpp"), ("javascript", "main.js")]
    served.requests.clear()
    served.otherwise = as_json(status="Success", run_result=FUSED)
    for language in ("python", "cpp", "javascript"):
        list(services.get_runner("sandboxfusion", served.url).run(Program("x", language), [b""], LIMITS))
    assert [request["language"] for _, request in served.requests] == ["python", "cpp", "nodejs"]


RUN = {"stdout": "3\n", "stderr": "", "output": "", "code": 0, "signal": None}
FUSED = {"status": "Finished", "execution_time": 0.1, "return_code": 0, "stdout": "3\n", "stderr": ""}


@pytest.mark.parametrize(
    "name,answer,expected",
    [
        ("piston", {"run": RUN}, "passed"),
        ("piston", {"run": RUN, "compile": RUN}, "passed"),
        ("piston", {"run": RUN, "compile": RUN | {"code": 1, "stderr": "expected ';'"}},
         "failed: does not compile: expected ';'"),
        ("piston", {"run": RUN | {"code": None, "signal": "SIGSEGV", "status": "SG"}}, "failed: exit code 1: SIGSEGV"),
        ("piston", {"run": RUN, "compile": RUN | {"code": None, "signal": "SIGKILL", "status": "TO"}},
         "error: piston: the compiler ran out of time"),
        ("piston", {"run": RUN | {"status": "TO", "cpu_time": 700}}, "unknown: the machine was too busy"),
        ("piston", {"run": RUN | {"status": "TO", "cpu_time": 1990}}, "failed: more than 2 s of CPU time"),
        ("sandboxfusion", {"status": "Failed", "run_result": None,
                           "compile_result": FUSED | {"status": "TimeLimitExceeded", "return_code": None}},
         "error: sandboxfusion: the compiler ran out of time"),
        ("piston", {"run": {key: RUN[key] for key in RUN if key != "cpu_time"} | {"code": None, "signal": "SIGKILL"}},
         "failed: more than 2 s"),
        ("piston", {"run": RUN | {"code": None, "signal": "SIGKILL", "stdout": "3\n" * 900}}, "error: piston: killed"),
        ("piston", {"run": RUN | {"code": None, "signal": "SIGKILL", "status": "OL"}}, "error: piston: it cuts"),
        ("piston", {"run": RUN | {"stdout": "3\n" * 600_000, "status": "OL"}}, "failed: more than 1048576 bytes"),
        ("piston", {"run": RUN | {"status": "XX", "message": "isolate"}}, "error: piston: internal error: isolate"),
        ("piston", {"run": RUN | {"code": 1, "stdout": "", "stderr": "bash: fork: Resource temporarily unavailable"}},
         "error: piston: overloaded"),
        ("piston", {"run": RUN | {"code": None}}, "error: piston: neither"),
        ("piston", {"run": RUN | {"code": "0"}}, "error: piston: neither"),
        ("piston", {"run": RUN | {"stdout": None}}, "error: piston: an answer without"),
        ("piston", {"run": None}, "error: piston: an answer without"),
        ("piston", {"message": "busy"}, "error: piston: an answer without run.stdout: busy"),
        ("sandboxfusion", {"status": "Success", "run_result": FUSED, "compile_result": None}, "passed"),
        ("sandboxfusion", {"status": "Success", "run_result": FUSED, "compile_result": FUSED}, "passed"),
        ("sandboxfusion", {"status": "Failed", "run_result": None,
                           "compile_result": FUSED | {"return_code": 1, "stderr": "expected ';'"}},
         "failed: does not compile: expected ';'"),
        ("sandboxfusion", {"status": "SandboxError", "message": "no pod"},
         "error: sandboxfusion: SandboxError: no pod"),
        ("sandboxfusion", {"status": "Failed", "run_result": FUSED | {"status": "Error"}},
         "error: sandboxfusion: the program did not run"),
        ("sandboxfusion", {"status": "Failed", "run_result": None}, "error: sandboxfusion: the program did not run"),
        ("sandboxfusion", {"status": "Success", "run_result": FUSED | {"return_code": None}},
         "error: sandboxfusion: an answer without"),
        ("sandboxfusion", {}, "error: sandboxfusion: None"),
    ],
)  # fmt: skip
def test_what_answers_mean(served, name, answer, expected):
    served.otherwise = as_json(**answer)
    assert outcomes(served, name)[0].startswith(expected)


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


@pytest.mark.parametrize("name", ["piston", "sandboxfusion"])
@pytest.mark.parametrize("outage", OUTAGES)
def test_an_outage_is_an_error(served, name, outage):
    served.otherwise, message = OUTAGES[outage]
    for found in outcomes(served, name):
        assert found.startswith(f"error: {name}") and message in found
    completion = f"```python\n{ADD}\n```"
    tests = {"inputs": ["1 2"], "outputs": ["3"]}
    assert code(completion, tests, provider=name, url=served.url).outcome == "error"
    assert code_fraction(completion, tests, provider=name, url=served.url).outcome == "error"


@BOTH
@pytest.mark.parametrize("outage", ["html", "429", "503"])
def test_a_short_outage_is_waited_out(served, name, play, outage):
    served.otherwise = play
    served.script = [OUTAGES[outage][0]] * (services.ATTEMPTS - 1)
    assert outcomes(served, name) == ["passed: ", "passed: "]
    assert len(served.requests) == services.ATTEMPTS - 1 + len(TESTS)


def test_attempts_are_bounded_and_others_are_spared_the_wait(served):
    served.otherwise = OUTAGES["503"][0]
    assert all(found.startswith("error: piston: HTTP 503") for found in outcomes(served, "piston"))
    assert len(served.requests) == services.ATTEMPTS  # the second test fails at once


@pytest.mark.parametrize(
    "name,answer",
    [("piston", {"run": {"status": "XX", "stdout": "", "code": None}}), ("sandboxfusion", {"status": "SandboxError"}),
     ("piston", None), ("sandboxfusion", None)],
)  # fmt: skip
def test_a_program_that_makes_the_service_fail_does_not_spoil_it_for_others(served, name, answer):
    fails = as_json(**answer) if answer else OUTAGES["500"][0]
    served.otherwise = {"piston": piston, "sandboxfusion": fusion}[name]
    served.script = [fails] * services.ATTEMPTS_INSIDE
    assert [found[:6] for found in outcomes(served, name)] == ["error:", "passed"]


def test_it_comes_back(served, monkeypatch):
    monkeypatch.setattr(services, "DOWN_SECONDS", 0.0)
    served.script = [OUTAGES["503"][0]] * services.ATTEMPTS
    assert [found[:6] for found in outcomes(served, "piston")] == ["error:", "passed"]


def test_pauses_grow_and_follow_what_the_service_asks_for(served, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(services.random, "uniform", lambda low, high: 1.0)
    sleeps(monkeypatch, pauses.append)
    busy = (429, {}, b"")
    served.script = [busy, busy, (429, {"Retry-After": "7"}, b""), (503, {"Retry-After": "9999"}, b"")]
    assert outcomes(served, "piston")[0] == "passed: "
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
    found = outcomes(served, "piston", wall_seconds=0.2)
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
     ("pistol", "", "known: local, piston, sandboxfusion, e2b"), ("piston", "", "piston needs `url`"),
     ("sandboxfusion", "localhost:8080", "needs `url`, such as http://localhost:8080; got 'localhost:8080'")],
)  # fmt: skip
def test_mistakes_in_the_recipe(name, url, message):
    with pytest.raises(RecipeError, match=message):
        services.get_runner(name, url)
    with pytest.raises(RecipeError, match=message):
        code("```python\n```", {"inputs": ["1"], "outputs": ["1"]}, provider=name, url=url)


def test_e2b_without_its_package_or_key(monkeypatch):
    services.get_runner.cache_clear()
    monkeypatch.setitem(sys.modules, "e2b_code_interpreter", None)
    with pytest.raises(RecipeError, match="pip install e2b-code-interpreter"):
        services.get_runner("e2b")
    monkeypatch.setitem(sys.modules, "e2b_code_interpreter", types.ModuleType("e2b_code_interpreter"))
    monkeypatch.delenv("E2B_API_KEY", raising=False)
    with pytest.raises(RecipeError, match="E2B_API_KEY"):
        services.get_runner("e2b")


class E2BPackage(types.ModuleType):
    """The part of e2b-code-interpreter 2.x that is used, over real shell commands in a folder."""

    class SandboxException(Exception): ...

    class RateLimitException(SandboxException): ...

    class AuthenticationException(Exception): ...

    @dataclass
    class CommandExitException(SandboxException):
        stderr: str
        stdout: str
        exit_code: int

    def __init__(self, folder):
        super().__init__("e2b_code_interpreter")
        self.folder, self.failures, self.made, self.opened = folder, [], 0, 0
        self.Sandbox = types.SimpleNamespace(create=self.create)

    def create(self, timeout: int, **options: Any):
        self.made += 1
        if self.failures:
            raise self.failures.pop(0)
        self.opened += 1
        self.files = self.commands = self
        return self

    def kill(self) -> None:
        self.opened -= 1

    def write(self, path: str, data: str | bytes) -> None:
        (self.folder / path).parent.mkdir(exist_ok=True)
        (self.folder / path).write_bytes(data.encode() if isinstance(data, str) else data)

    def run(self, command: str, timeout: float):
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, capture_output=True, text=True, timeout=timeout
        )
        if done.returncode:
            raise self.CommandExitException(done.stderr, done.stdout, done.returncode)
        return types.SimpleNamespace(exit_code=0, stdout=done.stdout, stderr=done.stderr)


@pytest.fixture
def e2b(monkeypatch, tmp_path):
    package = E2BPackage(tmp_path)
    monkeypatch.setitem(sys.modules, "e2b_code_interpreter", package)
    monkeypatch.setenv("E2B_API_KEY", "e2b_key")
    sleeps(monkeypatch, lambda seconds: None)
    services.get_runner.cache_clear()
    yield package
    services.get_runner.cache_clear()


def judged_by_e2b(source: str, language: str = "python", seconds: float = 5, wall: float = 10) -> list[str]:
    limits = Limits(seconds=seconds, wall_seconds=wall, memory_mb=1024)
    found = judge_program(Program(source, language), TESTS, limits, runner=services.get_runner("e2b"))
    return [f"{outcome.status}: {outcome.reason}" for outcome in found]


def test_e2b_programs(e2b):
    assert judged_by_e2b(ADD) == ["passed: ", "passed: "]
    assert judged_by_e2b("print(3)")[1].startswith("failed: wrong output")
    assert judged_by_e2b("import sys; sys.exit(7)")[0].startswith("failed: exit code 7")
    assert judged_by_e2b("while True: pass", seconds=1)[0].startswith("failed: more than 1 s of CPU")
    assert judged_by_e2b("import time; time.sleep(9)", wall=0.3)[0].startswith("failed: waited for more than")
    assert judged_by_e2b("process.stdin.on('data', d => console.log(String(d).split(' ').reduce((a, b) => +a + +b)))",
                         "javascript") == ["passed: ", "passed: "]  # fmt: skip
    cpp = '#include <cstdio>\nint main() { int a, b; scanf("%d %d", &a, &b); printf("%d", a + b); }'
    assert judged_by_e2b(cpp, "cpp") == ["passed: ", "passed: "]
    assert judged_by_e2b("int main() {", "cpp")[0].startswith("failed: does not compile")
    assert e2b.opened == 0 and e2b.made == 8  # one for each program, and every one ended


def test_e2b_outages(e2b, monkeypatch):
    e2b.failures = [e2b.RateLimitException("429")] * (services.ATTEMPTS - 1)
    assert judged_by_e2b(ADD) == ["passed: ", "passed: "]
    for failure in (e2b.SandboxException("gone"), e2b.AuthenticationException("bad key"), ValueError("surprise")):
        e2b.failures = [failure]
        assert judged_by_e2b(ADD) == [f"error: e2b: {type(failure).__name__}: {failure}"] * 2
    e2b.failures = [e2b.RateLimitException("429")] * 99
    assert judged_by_e2b(ADD) == ["error: e2b: 429 (5 attempts)"] * 2
    assert len(e2b.failures) == 99 - services.ATTEMPTS


def test_e2b_that_goes_away_in_the_middle(e2b, monkeypatch):
    run = e2b.run

    def gone(command: str, timeout: float):
        if "run1" in command:
            raise e2b.SandboxException("the sandbox was not found")
        return run(command, timeout)

    monkeypatch.setattr(e2b, "run", gone)
    first, second = judged_by_e2b(ADD)
    assert first == "passed: " and second == "error: e2b: SandboxException: the sandbox was not found"
    assert e2b.opened == 0


def test_e2b_without_the_language(e2b, monkeypatch):
    monkeypatch.setitem(services._E2B, "cpp", ("main.cpp", "no-such-compiler", "", ""))
    assert judged_by_e2b("int main() {}", "cpp") == ["error: e2b: its template has no no-such-compiler"] * 2
