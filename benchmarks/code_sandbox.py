"""Tests per second of the sandbox against one fresh `python` process per test, and what isolation costs.

    python benchmarks/code_sandbox.py [--rounds 5] [--workers 2]

Programs of HumanEval's kind with 20 tests each, all of which pass (the dearest case: nothing stops early). Both sides
run in the same process, in turn, with the same number of worker threads; printed are medians over the rounds. "bare
fork" is the same sandbox with every isolation switched off: no namespaces, no Landlock, no filter.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import record

from open_r1.sandbox import pool as sandbox_pool
from open_r1.sandbox.cases import AssertTest, CallTest, Program, StdinTest
from open_r1.sandbox.judging import judge_program
from open_r1.sandbox.local import Sandbox
from open_r1.sandbox.pool import CORES, LEVELS, ZYGOTE, Pool, SandboxError, Zygote, _pools, describe_isolation

TESTS = 20  # per program
FUNCTIONS = {
    "digits": ("def digits(n):\n    return sum(map(int, str(n * n)))", lambda n: sum(map(int, str(n * n)))),
    "primes": (
        "def primes(n):\n    return [p for p in range(2, n + 20) if all(p % d for d in range(2, int(p ** 0.5) + 1))]",
        lambda n: [p for p in range(2, n + 20) if all(p % d for d in range(2, int(p**0.5) + 1))],
    ),
    "fold": (
        "from itertools import accumulate\n"
        "def fold(n):\n    return list(accumulate(range(n + 5), lambda a, b: a * 3 % 7 + b))",
        lambda n: _accumulated(n),
    ),
    "words": (
        "from collections import Counter\ndef words(n):\n    return Counter(bin(n * 977)[2:]).most_common()",
        lambda n: _counted(n),
    ),
}  # fmt: skip


def _accumulated(n: int) -> list[int]:
    from itertools import accumulate

    return list(accumulate(range(n + 5), lambda a, b: a * 3 % 7 + b))


def _counted(n: int) -> list[tuple[str, int]]:
    from collections import Counter

    return Counter(bin(n * 977)[2:]).most_common()


def workload(kind: str, programs: int) -> list[tuple[Program, list]]:
    """Programs and their tests: `stdin`, `call` or `assert` (one test of 20 assertions)."""
    cases = []
    for number in range(programs):
        name, (source, function) = list(FUNCTIONS.items())[number % len(FUNCTIONS)]
        inputs = range(number, number + TESTS)
        if kind == "stdin":
            program = Program(f"{source}\nprint({name}(int(input())))")
            tests = [StdinTest(str(n), str(function(n))) for n in inputs]
        elif kind == "call":
            program, tests = Program(source), [CallTest(name, (n,), function(n)) for n in inputs]
        else:
            lines = "\n".join(f"    assert candidate({n}) == {function(n)!r}" for n in inputs)
            program, tests = Program(source), [AssertTest(f"def check(candidate):\n{lines}\ncheck({name})")]
        cases.append((program, tests))
    return cases


def fresh_process(program: Program, tests: list) -> None:
    """A process for each test, as running a script locally does."""
    for test in tests:
        source, stdin, expected = program.source, "", ""
        if isinstance(test, StdinTest):
            stdin, expected = test.stdin, test.expected
        elif isinstance(test, CallTest):
            source, expected = f"{source}\nprint({test.function}(*{test.arguments!r}))", str(test.expected)
        else:
            source = f"{source}\n{test.source}"
        done = subprocess.run([sys.executable, "-c", source], input=stdin, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and done.stdout.strip() == expected, done


def sandboxed(sandbox: Sandbox) -> Callable[[Program, list], None]:
    def run(program: Program, tests: list) -> None:
        outcomes = judge_program(program, tests, runner=sandbox)
        assert all(outcome.status == "passed" for outcome in outcomes), outcomes

    return run


def rate(run: Callable[[Program, list], None], cases: list[tuple[Program, list]], workers: int) -> float:
    """Tests per second."""
    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as threads:
        list(threads.map(lambda case: run(*case), cases))
    return sum(len(tests) for _, tests in cases) / (time.perf_counter() - start)


def bare_fork() -> Sandbox:
    """A sandbox whose zygotes install no filter: for this comparison only, and only for these programs."""
    here = ZYGOTE.parent
    script = Path(tempfile.mkdtemp()) / "zygote.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(here)!r})\nimport seccomp\nseccomp.install = lambda **options: None\n"
        "import zygote\nzygote.main()\n"
    )
    isolation = sandbox_pool.find_isolation("seccomp")
    kept, sandbox_pool.ZYGOTE = ZYGOTE, script
    try:
        pool = Pool(isolation)
        started = [Zygote(isolation) for _ in range(CORES)]
    finally:
        sandbox_pool.ZYGOTE = kept
    pool.idle.extend(started)
    pool.all.update(started)
    _pools["bare"] = pool
    return Sandbox("bare")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}")
    print(f"{describe_isolation()}; {arguments.workers} workers, load {os.getloadavg()[0]:.1f}")
    sides = {"bare fork": sandboxed(bare_fork())}
    for level in LEVELS:
        try:
            sandbox_pool.find_isolation(level)
            sides[level] = sandboxed(Sandbox(level))
        except SandboxError as cause:
            print(f"{level}: {cause}")
    stored: dict[str, dict[str, dict[str, float]]] = {}
    for kind in ("stdin", "call", "assert"):
        small, large = workload(kind, 4 if kind != "assert" else 40), workload(kind, 80)
        rates: dict[str, list[float]] = {name: [] for name in ("fresh process", *sides)}
        for run in sides.values():
            rate(run, small, arguments.workers)  # starts the zygotes
        for _ in range(arguments.rounds):
            rates["fresh process"].append(rate(fresh_process, small, arguments.workers))
            for name, run in sides.items():
                rates[name].append(rate(run, large, arguments.workers))
        base = rates["fresh process"]
        for name, found in rates.items():
            ratio = statistics.median(ours / theirs for ours, theirs in zip(found, base, strict=True))
            rate_of_it = statistics.median(found)
            stored.setdefault(kind, {})[name] = {"tests_per_second": rate_of_it, "ratio": ratio}
            print(f"{kind:6} {name:13} {rate_of_it:8.0f} tests/s {ratio:6.1f} times", flush=True)
    record.store("code_sandbox", workers=arguments.workers, **stored)


if __name__ == "__main__":
    main()
