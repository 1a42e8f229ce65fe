"""The plug is pulled while a batch is judged: what cannot be judged is then an error, and nothing becomes wrong."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil

from open_r1.rewards.registry import RewardConfig
from open_r1.rewards.scoring import ScoredBatch

BATCH = 80


def children(marker: str) -> list[psutil.Process]:
    """This process's descendants whose command line has the marker."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any(marker in word for word in process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def judged_while(
    pull: Callable[[], int], every: float, entry: RewardConfig, completions: list[str], **columns: list
) -> Counter[str]:
    """Outcomes of a batch during which `pull` is called; it says how much it killed.

    The pauses between begin with `every` seconds and double, as on a slow machine a start may take longer than that.
    """
    scored, done, killed = ScoredBatch([entry]), threading.Event(), []

    def keep_pulling() -> None:
        pause = every
        killed.append(pull())
        while not done.wait(pause):
            killed.append(pull())
            pause *= 2

    scored.results(completions[:2], {name: column[:2] for name, column in columns.items()})  # it is up and warm
    with ThreadPoolExecutor(1) as thread:
        pulling = thread.submit(keep_pulling)
        try:
            results = scored.results(completions, columns)[0]
        finally:
            done.set()
        pulling.result()
    assert sum(killed), "nothing was killed, so nothing was shown"
    deadline = time.monotonic() + 60  # a server that could not start is not tried again for some seconds
    while True:
        after = scored.results(completions[:2], {name: column[:2] for name, column in columns.items()})[0]
        if [verdict.outcome for verdict in after] == ["correct", "correct"]:
            break
        assert time.monotonic() < deadline, "it does not recover"
        time.sleep(0.5)
    return Counter(verdict.outcome for verdict in results)


def kill(marker: str) -> int:
    processes = children(marker)
    for process in processes:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return len(processes)


def test_the_sandbox():
    program = "<think>x</think>\n```python\nn = int(input())\nprint(sum(range(n)))\n```"
    tests = [[{"input": str(i + 50_000), "output": str(sum(range(i + 50_000)))}] for i in range(BATCH)]
    entry = RewardConfig("code", parameters={"isolation": "seccomp"})  # whatever this machine has
    outcomes = judged_while(lambda: kill("zygote"), 0.2, entry, [program] * BATCH, tests=tests)
    assert outcomes["wrong"] == 0 and outcomes["correct"] > 0 and outcomes.total() == BATCH


def test_the_worker_pool():
    # Not for the exact path: these go to Math-Verify.
    completions = [f"</think> $\\boxed{{\\sin({i + 1}) + \\ln({i + 2})}}$" for i in range(BATCH)]
    golds = [f"\\ln({i + 2}) + \\sin({i + 1})" for i in range(BATCH)]
    outcomes = judged_while(
        lambda: kill("system.worker_pool"), 4.0, RewardConfig("accuracy"), completions, solution=golds
    )
    assert outcomes["wrong"] == 0 and outcomes["correct"] > 0 and outcomes.total() == BATCH


def test_the_judge():
    asked = []

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.connection.close()  # no answer, ever

        def log_message(self, *words: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    judge = {"url": url, "model": "m", "cache": False, "retries": 1, "backoff": 0.01, "deadline": 5, "cooldown": 1}
    scored = ScoredBatch([RewardConfig("llm_judge", parameters=judge), RewardConfig("think_format")])
    columns = {"solution": ["2"] * BATCH, "prompt": ["1+1?"] * BATCH}
    results = scored.results(["<think>x</think> 2"] * BATCH, columns)[0]
    server.shutdown()
    assert asked and {verdict.outcome for verdict in results} == {"error"}
    assert set(scored.scores(["<think>x</think> 2"], {k: v[:1] for k, v in columns.items()})["think_format"]) == {None}
