# ruff: noqa: E501 (programs of the tables stay on one line)
"""What the judge says of honest and of wrong programs, and of its own failures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st

from open_r1.errors import RecipeError
from open_r1.sandbox import pool, toolchains
from open_r1.sandbox.cases import AssertTest, CallTest, Limits, Outcome, Program, StdinTest
from open_r1.sandbox.guest import plain, seccomp
from open_r1.sandbox.judging import (
    NOT_RUN,
    SLOWEST,
    find_fault,
    is_same_output,
    judge_in_batches,
    judge_program,
    read_score,
)
from open_r1.sandbox.local import Sandbox, make_execution
from open_r1.sandbox.pool import describe_isolation, find_level
from open_r1.sandbox.runner import Execution

DOUBLE = "print(int(input()) * 2)"
QUICK = Limits(seconds=0.5, wall_seconds=1.0, output_bytes=1 << 17)


@pytest.fixture(scope="module", autouse=True)
def isolated():
    try:
        find_level()
    except RecipeError as cause:
        pytest.skip(str(cause))


@pytest.fixture(params=pool.LEVELS)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    try:
        return Sandbox(pool.find_isolation(request.param).level)
    except pool.SandboxError as cause:
        pytest.skip(str(cause))


def named(table: list[tuple]) -> list:
    """Rows of a table under readable names: their source's last line."""
    return [pytest.param(*row, id=f"{number} {row[0].splitlines()[-1:]}") for number, row in enumerate(table)]


def statuses(source: str, *tests: object, language: str = "python", limits: Limits = QUICK, **more: object) -> str:
    """`pfue`: passed, failed, unknown, error; `-` for a test that was left out."""
    outcomes = judge_program(Program(source, language), tests, limits, **more)
    return "".join("-" if outcome is NOT_RUN else outcome.status[0] for outcome in outcomes)


def one(source: str, test: object, language: str = "python", limits: Limits = QUICK, **more: object):
    (outcome,) = judge_program(Program(source, language), [test], limits, **more)
    return outcome


STDIN = [
    (DOUBLE, "3", "6", "passed"),
    (DOUBLE, "3", "6\n\n", "passed"),
    (DOUBLE, "3", "7", "failed"),
    (DOUBLE, "x", "6", "failed"),
    ("print('a  ')\nprint('b')", "", "a\nb", "passed"),
    ("print('a')\nprint('b')", "", "a\r\nb\r\n", "passed"),
    ("print(' a')", "", "a", "failed"),
    ("print('a', end='')\nprint('b')", "", "a\nb", "failed"),
    ("print('a')", "", "a\nb\nc", "failed"),
    ("print('a')\nprint()\nprint('b')", "", "a\nb", "failed"),
    ("print(1.0)", "", "1", "failed"),
    ("print(input()[::-1])", "añ中😀", "😀中ña", "passed"),
    ("import sys\nprint(len(sys.stdin.buffer.read()))", "é\0", "3", "passed"),
    ("print('a\\0b')", "", "a\0b", "passed"),
    ("print('a\\0b')", "", "ab", "failed"),
    ("print('\\ud800')", "", "\ud800", "passed"),
    ("import os\nos.write(1, b'\\xff')", "", "�", "failed"),
    ("print('x' * 100_000)", "", "x" * 100_000, "passed"),
    ("print('x' * 100_000)", "", "x" * 99_999, "failed"),
    ("for line in open(0): print(line, end='')", "a\nb\n" * 20000, "a\nb\n" * 20000, "passed"),
    ("", "", "", "passed"),
    ("", "", "x", "failed"),
    ("def f(:", "", "", "failed"),
    ("print('right')\nraise SystemExit(1)", "", "right", "failed"),
    ("print('right')\nraise SystemExit", "", "right", "passed"),
    ("print('right')\n1 / 0", "", "right", "failed"),
    ("if __name__ == '__main__': print('right')", "", "right", "passed"),
    ("print('right')\nexit()", "", "right", "passed"),
    ("print('right')\nquit(2)", "", "right", "failed"),
    ("import threading\nthreading.Thread(target=print, args=('right',)).start()", "", "right", "passed"),
    ("import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return n and 1 + f(n - 1)\nprint(f(50000))", "", "50000", "passed"),
    ("import heapq, collections, math, re, fractions, typing, dataclasses\nprint('right')", "", "right", "passed"),
    ("print(len(str(7 ** 20000)))", "", "16902", "passed"),
    ("while True: pass", "", "", "failed"),
    ("import time\ntime.sleep(60)", "", "", "failed"),
    ("print('x' * 2_000_000)", "", "x" * 2_000_000, "failed"),
    ("x = bytearray(10 ** 10)", "", "", "failed"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "stdin", "expected", "status"), named(STDIN))
def test_stdin(source: str, stdin: str, expected: str, status: str):
    assert one(source, StdinTest(stdin, expected)).status == status


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("while True: pass", "0.5 s of CPU time"),
        ("import time\ntime.sleep(60)", "waited for more than 1 s"),
        ("print('x' * 200_000)", "131072 bytes of output"),
        ("x = bytearray(10 ** 10)", "MemoryError"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit('enough')", "exit code 1: enough"),
        ("print(2)", "wrong output"),
    ],
)
def test_a_failure_says_why(source: str, reason: str):
    assert reason in one(source, StdinTest("", "1")).reason


def test_a_program_is_limited_by_cpu_time_not_by_wall_time():
    outcome = one("print(sum(range(5_000_000)))", StdinTest("", "12499997500000"), limits=Limits(5.0, 0.001))
    assert outcome.status == "passed", outcome


@pytest.mark.parametrize(
    ("preempted", "load", "status"), [(True, 1000.0, "unknown"), (True, 0.0, "failed"), (False, 1000.0, "failed")]
)
def test_only_a_busy_machine_excuses_a_slow_program(preempted: bool, load: float, status: str, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
    report = {"ended": "starved", "code": -9, "seconds": 1.0, "preempted": preempted}
    assert find_fault(make_execution(report, b"", "", QUICK), QUICK).status == status


def test_more_threads_than_descriptors():
    tests = [StdinTest(str(n), str(2 * n)) for n in range(32)]
    with ThreadPoolExecutor(64) as threads:
        assert set(threads.map(lambda _: statuses(DOUBLE, *tests, limits=Limits()), range(64))) == {"p" * 32}


def test_many_tests_of_one_program():
    tests = [StdinTest(str(n), str(2 * n)) for n in range(100)]
    assert statuses(DOUBLE, *tests) == "p" * 100
    wrong = [*tests[:70], StdinTest("1", "3"), *tests[71:]]
    assert statuses(DOUBLE, *wrong).count("f") == 1
    assert statuses(DOUBLE, *wrong, stop_early=False) == "p" * 70 + "f" + "p" * 29


def test_tests_do_not_see_one_another():
    source = "import builtins, sys\nif hasattr(builtins, 'seen'): print('again'); sys.exit()\nbuiltins.seen = 1\nprint('first')"
    assert statuses(source, *[StdinTest("", "first")] * 5) == "ppppp"


def test_a_test_that_was_not_reached_is_not_passed():
    source = "import os\nif input() == '1': os._exit(0)\nprint(1 / 0)"
    assert statuses(source, StdinTest("1", ""), StdinTest("2", ""), stop_early=False) == "pf"


def test_limits_are_each_tests_own():
    spin = "import time\nend = time.process_time() + 0.25\nwhile time.process_time() < end: pass\nprint(1)"
    assert statuses(spin, *[StdinTest("", "1")] * 5) == "ppppp"


@given(st.text(max_size=50))
@settings(max_examples=50, deadline=None)
def test_output_equals_itself_and_trailing_space_does_not_matter(text: str):
    data = text.encode()
    assert is_same_output(text, data) and is_same_output(text + " \n\n", data)
    assert not is_same_output(text + "x", data)


CALLS = [
    ("def f(x): return x + 1", (1,), 2, "passed"),
    ("def f(x): return x + 1", (1,), 3, "failed"),
    ("class Solution:\n    def f(self, x): return [x]", (1,), [1], "passed"),
    ("def f(x): return (x, 2)", (1,), [1, 2], "passed"),  # JSON has no tuples
    ("def f(x): return [x, 2]", (1,), (1, 2), "failed"),
    ("def f(x): return {2, 1}", (1,), {1, 2}, "passed"),
    ("def f(x): return [1, 2]", (1,), {1, 2}, "failed"),
    ("def f(x): return {'a': [1, (2,)]}", (1,), {"a": [1, [2]]}, "passed"),
    ("def f(x): return {'a': 1, 'b': 2}", (1,), {"a": 1}, "failed"),
    ("def f(x): return 0.1 + 0.2", (1,), 0.3, "passed"),
    ("def f(x): return 0.3001", (1,), 0.3, "failed"),
    ("def f(x): return float('nan')", (1,), float("nan"), "passed"),
    ("def f(x): return float('inf')", (1,), float("-inf"), "failed"),
    ("def f(x): return 10 ** 30", (1,), 10**30, "passed"),
    ("def f(x): return 10 ** 30", (1,), 10**30 + 1, "failed"),
    ("def f(x): return 10 ** 5000", (1,), 10**5000, "passed"),
    ("def f(x): return True", (1,), 1, "passed"),  # as in Python
    ("def f(x): return '1'", (1,), 1, "failed"),
    ("def f(x): return None", (1,), None, "passed"),
    ("def f(x): return None", (1,), False, "failed"),
    ("def f(x): return x.upper()", ("é\ud800",), "É\ud800", "passed"),
    ("import collections\ndef f(x): return collections.Counter(x)", ("aab",), {"a": 2, "b": 1}, "passed"),
    ("def f(x): return deque(x)\nfrom collections import deque", ([1],), deque([1]), "passed"),
    ("def f(x): raise ValueError('no')", (1,), None, "failed"),
    ("def f(x): print('noise')\n    return 1", (1,), 1, "failed"),  # does not compile
    ("def f(x):\n    print('noise')\n    return 1", (1,), 1, "passed"),
    ("def g(x): return 1", (1,), 1, "failed"),
    ("def f(x, y=2): return x + y", (1,), 3, "passed"),
    ("def f(x): return [f] ", (1,), [1], "failed"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "arguments", "expected", "status"), named(CALLS))
def test_call(source: str, arguments: tuple, expected: object, status: str):
    assert one(source, CallTest("f", arguments, expected)).status == status


def test_keyword_arguments_and_dotted_names():
    assert one("def f(x, y): return x - y", CallTest("f", (), 1, {"y": 1, "x": 2})).status == "passed"
    assert one("class A:\n    def f(self, x): return x", CallTest("A.f", (1,), 1)).status == "passed"


def test_right_calls_count_though_a_later_one_fails():
    tests = [CallTest("f", (n,), 1) for n in (2, 1, 0, 1)]
    source = "import os\ndef f(x):\n    if not x: os._exit(1)\n    return 1"
    assert statuses(source, *tests, stop_early=False) == "ppfp"


def test_arguments_that_are_not_plain_data_are_unknown():
    assert one("def f(x): return x", CallTest("f", (object(),), 1)).status == "unknown"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.fractions(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=8,
)


@given(values)
@settings(max_examples=200, deadline=None)
def test_plain_data_survive_the_way_and_match_themselves(value: object):
    data = json.loads(json.dumps(plain.encode(value)))
    assert plain.matches(value, data)
    assert repr(plain.decode(data)) == repr(value)


exact = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text("ab", max_size=1), inner),
    max_leaves=4,
)


@given(exact, exact)
@settings(max_examples=300, deadline=None)
def test_only_equal_values_match(expected: object, answer: object):
    matched = plain.matches(expected, json.loads(json.dumps(plain.encode(answer))))
    assert matched == (expected == answer) or (matched and expected == _as_lists(answer)) or _mixed(expected)


def _as_lists(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [_as_lists(item) for item in value]
    return {key: _as_lists(item) for key, item in value.items()} if isinstance(value, dict) else value


def _mixed(expected: object) -> bool:
    """Tuples inside: a tuple must be one, a list beside it need not be a list."""
    return "(" in repr(expected)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["list", "tuple", "set", "dict", "int", "float", "handle", "x"]), inner)
        ),
    )
)
@settings(max_examples=80, deadline=None)
def test_no_json_upsets_the_comparison(data: object):
    for expected in (1, 1.5, "a", None, [1], (1,), {1}, {"a": 1}, 2**70, float("nan")):
        assert plain.matches(expected, data) in (True, False)


def test_tests_at_a_limit_of_time_do_not_add_up():
    runs = []

    def run(indices: list[int]) -> dict[int, Outcome]:
        runs.append(indices)
        status = "passed" if indices[0] == 0 and len(indices) > 1 else "failed"
        first = {indices[0]: Outcome(status, "" if status == "passed" else "more than 1 s of CPU time")}
        return dict.fromkeys(indices, NOT_RUN) | first

    outcomes = judge_in_batches(range(100), run, stop_early=False)
    assert len(outcomes) == 100 and len(runs) == 1 + SLOWEST
    assert [outcome.status for outcome in outcomes.values()].count("failed") == 99


POINT = "class Point:\n    def __init__(self, x): self.x = x\n    def __eq__(self, other): return True\n    def moved(self, by): return Point(self.x + by)"
ASSERTS = [
    ("def f(x): return x + 1", "assert f(1) == 2\nassert f(2) == 3", "passed"),
    ("def f(x): return x + 1", "assert f(1) == 2\nassert f(2) == 4", "failed"),
    ("def f(x): return x + 1", "def check(candidate):\n    assert candidate(1) == 2\ncheck(f)", "passed"),
    ("def f(x): return x + 1", "def check(candidate):\n    assert candidate(1) == 2", "unknown"),  # never called
    ("def f(x): return x + 1", "assert f(1) ==", "unknown"),
    ("def f(x): return x + 1", "assert g(1) == 2", "failed"),
    ("f = 1 / 0", "assert f(1) == 2", "failed"),
    ("def f(x:", "assert f(1) == 2", "failed"),
    ("class Solution:\n    def f(self, a, b): return a - b", "def check(c):\n    assert c(b=1, a=3) == 2\ncheck(Solution().f)", "passed"),
    ("def sum(a, b): return a * b", "assert sum(2, 5) == 10", "passed"),
    ("def sum(a, b): return a * b", "def check(candidate):\n    assert sum(2, 5) == 7\ncheck(sum)", "failed"),
    ("def max(a): return 0\ndef abs(a): return 0", "assert abs(max([1]) - 5) < 1", "unknown"),
    ("def f(): yield from (1, 2)", "assert list(f()) == [1, 2]", "passed"),
    ("def f(): return map(str, (1, 2))", "assert f() == ['1', '2']", "failed"),
    ("def f(x): return set(x)", "assert f([2, 1]) == {1, 2}", "passed"),
    ("def f(x): raise ValueError('bad')", "try:\n    f(1)\nexcept ValueError as e:\n    assert str(e) == 'bad'\nelse:\n    assert False", "passed"),
    ("def f(x): raise TypeError", "try:\n    f(1)\nexcept ValueError:\n    pass", "failed"),
    ("class Bad(KeyError): pass\ndef f(x): raise Bad(x)", "try:\n    f(1)\n    assert 0\nexcept Bad: pass", "passed"),
    ("def f(xs): xs.sort()", "xs = [2, 1]\nf(xs)\nassert xs == [1, 2]", "passed"),
    ("def f(xs):\n    xs[:] = [7]\n    return 1", "xs = [2, 1]\nn = f(xs)\nassert xs[:n] == [7]", "passed"),
    ("def f(xs): xs.clear()", "xs = [2, 1]\nf(xs)\nassert xs == [1, 2]", "failed"),
    ("def f(xs):\n    xs.clear()\n    return []", "xs = [2, 1]\nout = f(xs)\nassert out == sorted(xs)", "failed"),
    ("counts = {'a': 1}\ndef f(): counts['a'] += 1", "f()\nassert counts == {'a': 2}", "passed"),
    (POINT, "p = Point(1)\nassert p.moved(2).x == 3", "passed"),
    (POINT, "assert Point(1) == Point(2)", "unknown"),
    (POINT, "try:\n    assert Point(1) == Point(2)\nexcept: pass", "unknown"),
    (POINT, "p = Point(1)\nassert p == p\np.x = 5\nassert p.x == 5", "passed"),
    (POINT, "assert Point(1) == 1", "failed"),
    ("class S:\n    def __init__(self): self.d = {}\n    def __getitem__(self, k): return self.d[k]\n    def __setitem__(self, k, v): self.d[k] = v\n    def __len__(self): return len(self.d)", "s = S()\ns['a'] = [1]\nassert s['a'] == [1] and len(s) == 1", "passed"),
    ("def f(g): return g(1)", "assert f(lambda x: x) == 1", "unknown"),
    ("def f(x): return isinstance(1, x)", "assert f(int) and not f(str)", "passed"),
    ("from typing import *\ndef f(x): return x", "def g(x: List[int]) -> Optional[int]: return f(x)\nassert g(1) == 1", "passed"),
    ("import math\ndef f(x): return math.sqrt(x)", "assert math.isclose(f(2), 2 ** 0.5)", "passed"),
    ("def f(x): return {12, 13, 14, 15, 16} and tuple(x)", "assert f({12, 13, 14, 15, 16}) == tuple({12, 13, 14, 15, 16})", "passed"),
    # What decides must not be the program's own.
    ("isclose = lambda a, b: True\nf = abs", "assert isclose(f(2), 4)", "unknown"),
    ("is_same = lambda a, b: True\nclass Solution:\n    def f(self, x): return x", "def check(c):\n    assert is_same(c(1), [2])\ncheck(Solution().f)", "unknown"),
    ("f = g = abs", "def near(a, b): return f(a) == g(b)\nassert near(1, 1)", "unknown"),
    ("f = g = abs", "y = f(1)\nassert g(y) == 1", "unknown"),
    ("f = g = abs", "total = 0\nfor x in [1, 2]:\n    y = f(x)\n    total += g(y)\nassert total == 3", "unknown"),
    ("f = lambda x: 0\nFraction = lambda a, b: 0", "assert f(3) == Fraction(1, 3)", "unknown"),
    ("f = g = abs", "assert f(1) == 1\nassert g(1) == 1", "passed"),
    (POINT + "\ndef f(p): return p.x", "p = Point(3)\nassert f(p) == 3 and f(Point(2)) == 2", "passed"),
    ("while True: pass\ndef f(x): return 1", "assert f(1) == 1", "failed"),
    ("def f(x): return 1", "while True: assert f(1) == 1", "failed"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "test", "status"), named(ASSERTS))
def test_assert(source: str, test: str, status: str):
    outcome = one(source, AssertTest(test))
    assert outcome.status == status, outcome


def test_the_line_that_failed_is_named():
    assert "line 2: assert f(2) == 4" in one("def f(x): return x + 1", AssertTest("x = 1\nassert f(2) == 4")).reason


def test_assert_tests_share_a_process_only_while_they_pass():
    source = "n = 0\ndef f():\n    global n\n    n += 1\n    return n"
    assert statuses(source, *[AssertTest("assert f() == 1")] * 3, stop_early=False) == "ppp"
    assert statuses(source, AssertTest("assert f() == 2"), AssertTest("assert f() == 1")) == "f-"


ANY_ORDER = "import sys\na, b, c = (open(p).read().split() for p in sys.argv[1:])\nprint(1 if sorted(b) == sorted(c) else 0.25)"


@pytest.mark.parametrize(
    ("source", "checker", "status", "score"),
    [
        ("print('b a')", ANY_ORDER, "passed", 1.0),
        ("print('b c')", ANY_ORDER, "failed", 0.25),
        ("1 / 0", ANY_ORDER, "failed", None),
        ("print('x')", "import sys\nfloat(open(sys.argv[3]).read() == 'a b') and print(1.0)\nint(open(sys.argv[3]).read()[9])", "error", None),
        ("print('x')", "print('yes')", "error", None),
        ("print('x')", "print(7)", "error", None),
        ("print('x')", "while True: pass", "error", None),
        ("print('x')", "import sys\nassert 'x' not in open(sys.argv[3]).read()\nprint(1)", "failed", 0.0),
        ("print('x')", "print('1\\ntrue')\nprint('True')", "passed", 1.0),
    ],
)  # fmt: skip
def test_checker(source: str, checker: str, status: str, score: float | None):
    outcome = one(source, StdinTest("", "a b", checker))
    assert (outcome.status, outcome.score) == (status, score), outcome


@pytest.mark.parametrize("said", [b"", b"nan", b"2", b"-1", b"inf", b"x"])
def test_what_is_no_score(said: bytes):
    assert read_score(Execution("exit", 0, said)) is None


CPP = "#include <iostream>\nint main() { long long n; std::cin >> n; std::cout << n * 2 << std::endl; }"
JAVASCRIPT = "console.log(2 * Number(require('fs').readFileSync(0, 'utf8')))"
needs_cpp = pytest.mark.skipif(not shutil.which("g++"), reason="no g++ here")
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="no node here")


@needs_cpp
def test_cpp():
    assert (
        statuses(
            CPP, StdinTest("3", "6"), StdinTest("4", "8"), StdinTest("4", "9"), StdinTest("1", "2"), language="cpp"
        )
        == "ppf-"
    )
    broken = one("int main() { return x; }", StdinTest("", ""), "cpp")
    assert broken.status == "failed" and "does not compile" in broken.reason and "x’ was not declared" in broken.reason
    assert one("def f(): pass", CallTest("f", (), 1), "cpp").status == "unknown"


@needs_cpp
@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("long twice(long x) { return 2 * x; }", "passed"),
        ("long twice(long x) { return 3 * x; }", "failed"),
        ("#include <stdlib.h>\nlong twice(long x) { exit(0); }", "failed"),
    ],
)
def test_cpp_whole_programs(source: str, status: str):
    assert (
        one(source, AssertTest("#include <assert.h>\nint main() { assert(twice(2) == 4); }"), "cpp").status == status
    )


@needs_cpp
def test_cpp_in_the_form_of_multipl_e():
    (row,) = [row for row in _multipl_e("cpp") if row["name"] == "HumanEval_23_strlen"]
    for body, status in (("return string.size();", "passed"), ("return 0;", "failed")):
        assert one(row["prompt"] + body, AssertTest(row["tests"]), "cpp").status == status


def _multipl_e(name: str) -> list[dict]:
    return [json.loads(line) for line in shared("code", f"humaneval-{name}.jsonl").read_text().splitlines()]


@needs_node
def test_javascript():
    tests = StdinTest("3", "6"), StdinTest("4", "9"), StdinTest("1", "2")
    assert statuses(JAVASCRIPT, *tests, language="javascript", stop_early=False) == "pfp"
    broken = one("function f( {", StdinTest("", ""), "javascript")
    assert broken.status == "failed" and "SyntaxError" in broken.reason


@needs_node
@pytest.mark.parametrize(
    ("source", "expected", "status"),
    [
        ("const f = (x) => x + 1", 2, "passed"),
        ("function f(x) { return x }", 2, "failed"),
        ("function f(x) { return [x, { a: null }, 'é', 0.5] }", [1, {"a": None}, "é", 0.5], "passed"),
        ("function f(x) { return new Set([x]) }", {1}, "passed"),
        ("function f(x) { return 10n ** 30n }", 10**30, "passed"),
        ("function f(x) { return -Infinity }", float("-inf"), "passed"),
        ("function f(x) { throw new Error('no') }", 1, "failed"),
        ("function f(x) { console.log('noise'); return undefined }", None, "passed"),
    ],
)
def test_javascript_calls(source: str, expected: object, status: str):
    assert one(source, CallTest("f", (1,), expected), "javascript").status == status


@needs_node
def test_javascript_in_the_form_of_multipl_e():
    (row,) = [row for row in _multipl_e("js") if row["name"] == "HumanEval_23_strlen"]
    for body, status in (
        ("return string.length }", "passed"),
        ("return 0 }", "failed"),
        ("process.exit(0) }", "failed"),
    ):
        assert one(row["prompt"] + body, AssertTest(row["tests"]), "javascript").status == status


def test_a_missing_toolchain_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(toolchains, "find_tool", lambda name: None)
    for language, name in (("cpp", "g++"), ("javascript", "node")):
        outcome = one("x", StdinTest("", ""), language)
        assert outcome.status == "error" and name in outcome.reason


def test_each_level_judges(sandbox: Sandbox):
    assert statuses(DOUBLE, StdinTest("3", "6"), StdinTest("4", "9"), runner=sandbox) == "pf"
    tests = CallTest("f", (1,), 2), AssertTest("assert f(1) == 2"), CallTest("f", (1,), 3)
    assert statuses("def f(x): return x + 1", *tests, runner=sandbox, stop_early=False) == "ppf"


def test_a_start_that_took_too_long_is_tried_again(monkeypatch: pytest.MonkeyPatch):
    found = pool.Isolation("namespaces", "python", ())
    answers = [pool.SandboxTimeout("no answer"), found]
    monkeypatch.setattr(pool, "_isolations", {})
    monkeypatch.setattr(pool, "_try_level", lambda level: answers.pop(0))
    with pytest.raises(pool.SandboxError, match="no answer"):
        pool.find_isolation("namespaces")
    assert pool.find_isolation("namespaces") is pool.find_isolation("namespaces") is found


def test_weaker_isolation_is_refused_by_name(monkeypatch: pytest.MonkeyPatch):
    found = dict(pool._isolations) | {"namespaces": pool.SandboxError("unshare: not permitted")}
    monkeypatch.setattr(pool, "_isolations", found)
    if pool.find_level() != "landlock":
        pytest.skip("no Landlock here")
    with pytest.raises(
        RecipeError, match=r"only by landlock.*isolation: landlock.*namespaces: unshare: not permitted"
    ):
        judge_program(Program(DOUBLE), [StdinTest("3", "6")])
    assert statuses(DOUBLE, StdinTest("3", "6"), weakest="landlock") == "p"
    assert statuses(DOUBLE, StdinTest("3", "6"), weakest="seccomp") == "p"
    assert "isolated by landlock" in describe_isolation()
    found |= dict.fromkeys(pool.LEVELS, pool.SandboxError("nothing works"))
    monkeypatch.setattr(pool, "_isolations", found)
    with pytest.raises(RecipeError, match=r"no kind of isolation works.*seccomp: nothing works"):
        judge_program(Program(DOUBLE), [StdinTest("3", "6")], weakest="seccomp")


def test_a_level_is_there_only_if_a_program_runs_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = tmp_path / "zygote.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(pool.ZYGOTE.parent)!r})\nimport confine, zygote\n"
        "def refuse(*a): raise OSError(1, 'mount tmpfs: Operation not permitted')\n"
        "confine.mount_scratch = refuse\nzygote.main()\n"
    )
    monkeypatch.setattr(pool, "ZYGOTE", script)
    monkeypatch.setattr(pool, "_isolations", {})
    assert "mount tmpfs" in pool.explain_level("namespaces")
    with pytest.raises(RecipeError, match=r"Why not namespaces: .*mount tmpfs"):
        judge_program(Program(DOUBLE), [StdinTest("3", "6")])


def test_both_architectures_have_a_filter():
    for machine in seccomp.AUDIT_ARCH:
        code = seccomp.build_filter(1, files=True, machine=machine)
        assert len(code) < 4096 and all(0 <= jump < 256 for _, true, false, _ in code for jump in (true, false))
        wanted = {"read", "write", "mmap", "futex", "exit_group", "clock_gettime", "getrandom", "rt_sigaction"}
        assert wanted <= seccomp.read_table(seccomp.TABLE, machine).keys()
        forbidden = {"socket", "ptrace", "chmod", "fchmodat", "truncate", "memfd_create", "io_uring_setup", "kill"}
        assert (
            not forbidden
            & (seccomp.read_table(seccomp.TABLE, machine) | seccomp.read_table(seccomp.FILES, machine)).keys()
        )


@pytest.mark.skipif(os.getuid() != 0, reason="not root: every other test runs as an ordinary user already")
@pytest.mark.parametrize("name", pool.LEVELS)
def test_as_an_ordinary_user(name: str):
    python = shutil.which("python3", path="/usr/bin")
    if not python or subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]).returncode:
        pytest.skip("no python3 that everybody can run and that is new enough")
    source = f"""
from open_r1.sandbox import *
from open_r1.sandbox.local import Sandbox
tests = [StdinTest("1", "1"), CallTest("f", (1,), 1), AssertTest("assert f(1) == 1"), StdinTest("1", "2")]
program = Program("def f(x): return x\\nif __name__ == '__main__': print(input())")
print(*[o.status + o.reason for o in judge_program(program, tests, runner=Sandbox("{name}"), stop_early=False)], sep="|")
"""
    done = subprocess.run(
        [python, "-c", source], user=12345, group=12345, extra_groups=[], cwd="/", capture_output=True, text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "PATH": os.environ["PATH"]}, timeout=60,
    )  # fmt: skip
    if "error" in done.stdout and name == "namespaces":
        pytest.skip(f"no user namespaces for ordinary users here: {done.stdout}")
    assert done.stdout.strip() == "passed|passed|passed|failedwrong output: expected '2', got '1'", done.stderr


def test_many_threads_at_once():
    def both(n: int) -> str:
        return statuses(DOUBLE, StdinTest(str(n), str(2 * n)), StdinTest(str(n), str(n - 1)), stop_early=False)

    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(both, range(60))) == {"pf"}


def test_a_killed_zygote_is_replaced_and_nothing_fails(sandbox: Sandbox):
    one(DOUBLE, StdinTest("3", "6"), runner=sandbox)
    for zygote in list(pool.get_pool(sandbox.level).all):
        os.kill(zygote.process.pid, signal.SIGKILL)
    assert one(DOUBLE, StdinTest("3", "6"), runner=sandbox).status == "passed"


def test_a_retry_starts_afresh(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch):
    """The first attempt has read its input and written its output when its zygote breaks."""
    run, broken = pool.Zygote.run, []

    def breaks_afterwards(self: pool.Zygote, request: dict, files: list[int]) -> list[dict]:
        reports = run(self, request, files)
        if len(broken) % 2 == 0:
            broken.append(request["kind"])
            raise pool.SandboxError("killed after the run")
        broken.append("")
        return reports

    monkeypatch.setattr(pool.Zygote, "run", breaks_afterwards)
    tests = StdinTest("3", "6"), CallTest("f", (1,), 2), AssertTest("assert f(1) == 2")
    program = "def f(x): return x + 1\nif __name__ == '__main__': print(2 * int(input()))"
    assert statuses(program, *tests, runner=sandbox) == "ppp"
    assert broken == ["stdin", "", "calls", "", "asserts", ""]


def test_zygotes_killed_in_the_middle_of_runs(sandbox: Sandbox):
    """Again and again: then retries fail too, and that is an error, never a failed test."""
    stop = threading.Event()

    def killer() -> None:
        while not stop.wait(0.05):
            for zygote in list(pool.get_pool(sandbox.level).all):
                if zygote.process.poll() is None:
                    os.kill(zygote.process.pid, signal.SIGKILL)

    spin = "import time\nend = time.process_time() + 0.1\nwhile time.process_time() < end: pass\nprint(1)"
    limits = Limits(seconds=20.0, wall_seconds=60.0)
    thread = threading.Thread(target=killer)
    thread.start()
    try:
        with ThreadPoolExecutor(3) as threads:
            found = set(
                threads.map(lambda _: one(spin, StdinTest("", "1"), limits=limits, runner=sandbox).status, range(9))
            )
    finally:
        stop.set()
        thread.join()
    assert "error" in found and found <= {"error", "passed"}
    assert one(spin, StdinTest("", "1"), limits=limits, runner=sandbox).status == "passed"


def test_a_run_killed_from_outside_is_no_failure():
    """Only the run, not its zygote, as when the machine has no memory left."""
    stop = threading.Event()

    def killer() -> None:
        while not stop.wait(0.02):
            for zygote in list(pool.get_pool("landlock").all):
                children = Path(f"/proc/{zygote.process.pid}/task/{zygote.process.pid}/children")
                for child in children.read_text().split() if children.exists() else []:
                    os.kill(int(child), signal.SIGKILL)

    if isinstance(pool._isolations.get("landlock"), pool.SandboxError):
        pytest.skip("no Landlock here")
    sandbox = Sandbox("landlock")
    one(DOUBLE, StdinTest("3", "6"), runner=sandbox)
    thread = threading.Thread(target=killer)
    thread.start()
    try:
        outcome = one("import time\ntime.sleep(0.6)\nprint(1)", StdinTest("", "1"), runner=sandbox)
    finally:
        stop.set()
        thread.join()
    assert outcome.status == "error" and "killed from outside" in outcome.reason


def test_an_interpreter_that_does_not_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool, "_pools", {})
    monkeypatch.setattr(pool.Pool, "__init__", _broken_pool)
    for test in (StdinTest("3", "6"), CallTest("f", (), 1), AssertTest("assert f() == 1")):
        outcome = one(DOUBLE, test)
        assert outcome.status == "error" and "does not start" in outcome.reason


def _broken_pool(self: pool.Pool, isolation: pool.Isolation) -> None:
    self.isolation = pool.Isolation(isolation.level, "/nonexistent/python", ())
    self.slots, self.idle, self.all = threading.BoundedSemaphore(1), [], set()


def test_a_forked_child_judges_by_zygotes_of_its_own():
    assert statuses(DOUBLE, StdinTest("3", "6")) == "p"
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if statuses(DOUBLE, StdinTest("3", "6")) == "p" else 2
            pool.shut_down()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert statuses(DOUBLE, StdinTest("3", "6")) == "p"


@pytest.mark.parametrize("name", pool.LEVELS)
def test_nothing_is_left_when_the_judging_process_is_killed(name: str, sandbox: Sandbox):
    if sandbox.level != name:
        return
    source = f"""
import os, sys, threading
from open_r1.sandbox import *
from open_r1.sandbox.local import Sandbox
from open_r1.sandbox.pool import get_pool
box = Sandbox("{name}")
judge_program(Program("print(1)"), [StdinTest("", "1")], runner=box)
sleeper = Program("import time; time.sleep(100)")
threading.Thread(target=judge_program, args=(sleeper, [StdinTest("", "")], Limits(wall_seconds=99)), kwargs=dict(runner=box)).start()
print(*[zygote.process.pid for zygote in get_pool("{name}").all], flush=True)
if os.fork() == 0:  # one that keeps every descriptor
    import time; time.sleep(30)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    pids = [int(pid) for pid in process.stdout.readline().split()]
    time.sleep(0.3)
    family = set(pids) | {child for pid in pids for child in _descendants(pid)}
    assert len(family) >= 2
    process.kill()
    process.wait()
    patience = time.monotonic() + 5
    while (left := {pid for pid in family if _alive(pid)}) and time.monotonic() < patience:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert not left


def _descendants(pid: int) -> set[int]:
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return set()
    return set(children).union(*map(_descendants, children))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Elsewhere:
    """A runner that is not the sandbox: it may run whole programs only."""

    def run(self, program: Program, stdins: list[bytes], limits: Limits) -> list[Execution]:
        executions = []
        for stdin in stdins:
            done = subprocess.run([sys.executable, "-c", program.source], input=stdin, capture_output=True, timeout=30)
            executions.append(Execution("exit", done.returncode, done.stdout, done.stderr.decode()))
        return executions


@pytest.mark.parametrize(
    ("source", "test", "status"),
    [
        (DOUBLE, StdinTest("3", "6"), "passed"),
        (DOUBLE, StdinTest("3", "7"), "failed"),
        ("def f(x): return (x, 2.5)", CallTest("f", (1,), [1, 2.5]), "passed"),
        ("print('noise')\ndef f(x): return x", CallTest("f", (1,), 1), "passed"),
        ("def f(x): return x", CallTest("f", (1,), 2), "failed"),
        ("import os\nos._exit(0)", CallTest("f", (1,), 2), "failed"),
        ("def f(x): return x", AssertTest("assert f(1) == 1"), "passed"),
        ("def f(x): return x", AssertTest("assert f(1) == 2"), "failed"),
        ("import os\nos._exit(0)", AssertTest("assert f(1) == 2"), "failed"),
        ("print(1)", StdinTest("", "1", "print(1)"), "unknown"),
    ],
)
def test_another_runner(source: str, test: object, status: str):
    assert one(source, test, runner=Elsewhere()).status == status


@pytest.mark.parametrize("test", [StdinTest("", "1"), CallTest("f", (), 1), AssertTest("assert f() == 1")])
def test_an_outage_is_an_error(test: object):
    class Down:
        def run(self, program: Program, stdins: list[bytes], limits: Limits) -> list[Execution]:
            return [Execution("error", cause="HTTP 502")] * len(stdins)

    outcome = one("print(1)", test, runner=Down())
    assert (outcome.status, outcome.reason) == ("error", "HTTP 502")
