"""Every form in which datasets keep tests is read as what it means, and whatever cannot be read says why."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import zlib

import pytest
from conftest import shared
from hypothesis import given
from hypothesis import strategies as st

from open_r1.rewards.code.assert_tests import Malformed
from open_r1.rewards.code.call_tests import convert_to_calls, split_assertions
from open_r1.rewards.code.suites import find_language, read_suite
from open_r1.sandbox.cases import AssertTest, CallTest, StdinTest

CHECKER = "print(1)"
READ = {
    "APPS": ({"inputs": ["1 2\n"], "outputs": ["3\n"]}, [StdinTest("1 2\n", "3\n")]),
    "APPS lines": ({"inputs": [["1", "2"]], "outputs": [["3", "4"]]}, [StdinTest("1\n2", "3\n4")]),
    "columns": (
        {"input": ["1", "2"], "output": ["1", "4"], "points": [1, 3], "subtask": ["a", "b"]},
        [StdinTest("1", "1", points=1.0, subtask="a"), StdinTest("2", "4", points=3.0, subtask="b")],
    ),
    "absent as None": ({"functional": None, "inputs": ["1"], "outputs": ["2"]}, [StdinTest("1", "2")]),
    "one mapping": ({"input": "1", "output": "2"}, [StdinTest("1", "2")]),
    "one empty output among others": (
        [{"input": "1", "output": ""}, {"input": "2", "output": "x"}],
        [StdinTest("1", ""), StdinTest("2", "x")],
    ),
    "numbers": ([{"input": 5, "output": 25}], [StdinTest("5", "25")]),
    "list of cases": ([{"input": "1", "output": "2"}], [StdinTest("1", "2")]),
    "expected_output": ([{"input": "", "expected_output": "hello"}], [StdinTest("", "hello")]),
    "verification_info": (
        {"language": "python", "test_cases": [{"fn_name": None, "input": "1", "output": "2", "type": "stdin_stdout"}]},
        [StdinTest("1", "2")],
    ),
    "verification_info call": (
        {"test_cases": [{"fn_name": "f", "input": [1, [2]], "output": [3, 4], "type": "function_call"}]},
        [CallTest("f", (1, [2]), [3, 4])],
    ),
    "DeepMind": (
        {"public_tests": {"input": ["1"], "output": ["2"]}, "private_tests": {"input": ["3"], "output": ["4"]}},
        [StdinTest("1", "2"), StdinTest("3", "4")],
    ),
    "codeforces": (
        {"official_tests": [{"input": "1", "output": "2"}], "generated_checker": CHECKER},
        [StdinTest("1", "2", CHECKER)],
    ),
    "a checker needs no output": (
        [{"input": "1", "checker": CHECKER, "output": None}],
        [StdinTest("1", "", CHECKER)],
    ),
    "APPS call": ({"inputs": [[1, 2]], "outputs": [3], "fn_name": "add"}, [CallTest("add", (1, 2), 3)]),
    "APPS integer keys": (
        {"inputs": [[{"1": 2}]], "outputs": [{"3": 4}], "fn_name": "f"},
        [CallTest("f", ({1: 2},), {3: 4})],
    ),
    "call by name": ([{"input": {"n": 1}, "output": 2, "fn_name": "f"}], [CallTest("f", (), 2, {"n": 1})]),
    "LiveCodeBench call": (
        [{"input": '[1, 2]\n"ab"\n3', "output": "true", "testtype": "functional", "metadata": '{"func_name": "f"}'}],
        [CallTest("f", ([1, 2], "ab", 3), True)],
    ),
    "LiveCodeBench stdin": (
        [{"input": "[1, 2]\n", "output": "true", "testtype": "stdin", "metadata": {}}],
        [StdinTest("[1, 2]\n", "true")],
    ),
    "Python literals in text": (
        [{"input": "(1, 2)", "output": "{3: None}", "type": "function_call", "fn_name": "f"}],
        [CallTest("f", ((1, 2),), {3: None})],
    ),
    "an unquoted string": (
        [{"input": "1", "output": "hello", "type": "function_call", "fn_name": "f"}],
        [CallTest("f", (1,), "hello")],
    ),
    "MBPP": (["assert f(1) == 2", "assert g(2)"], [AssertTest("assert f(1) == 2"), AssertTest("assert g(2)")]),
    "MBPP row": (
        {"test_list": ["assert f(1) == 2"], "test_setup_code": "import math", "test_imports": ["import re"]},
        [AssertTest("import re\nimport math\nassert f(1) == 2")],
    ),
    "assert_case": ({"assert_case": ["assert f(1) == 2"]}, [AssertTest("assert f(1) == 2")]),
    "HumanEval row": (
        {"test": "def check(candidate):\n    assert candidate(1)", "entry_point": "f"},
        [AssertTest("def check(candidate):\n    assert candidate(1)\ncheck(f)\n")],
    ),
    "check that is called": (
        "def check(candidate):\n    assert candidate(1)\ncheck(f)",
        [AssertTest("def check(candidate):\n    assert candidate(1)\ncheck(f)")],
    ),
    "LeetCode": (
        {"functional": "def check(c):\n    assert c(1)\n\ncheck(Solution().f)"},
        [AssertTest("def check(c):\n    assert c(1)\n\ncheck(Solution().f)")],
    ),
    "test functions": ("def test_a():\n    assert f(1)", [AssertTest("def test_a():\n    assert f(1)\ntest_a()\n")]),
    "IOI": (
        {"subtasks": [{"points": 30, "tests": [{"input": "1", "output": "1"}, {"input": "2", "output": "2"}]},
                      {"points": 70, "name": "full", "tests": [{"input": "3", "output": "3"}]}]},
        [StdinTest("1", "1", points=15.0, subtask="1"), StdinTest("2", "2", points=15.0, subtask="1"),
         StdinTest("3", "3", points=70.0, subtask="full")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("written", [lambda t: t, json.dumps, repr, lambda t: json.dumps(json.dumps(t))])
@pytest.mark.parametrize("name", READ)
def test_forms(name, written):
    tests, expected = READ[name]
    assert list(read_suite(written(tests) if not isinstance(tests, str) else tests).tests) == expected


def test_arrays_of_a_parquet_file():
    import numpy

    tests = {"inputs": numpy.array(["1", "2"], dtype=object), "outputs": numpy.array(["3", "4"], dtype=object)}
    assert read_suite(tests).tests == (StdinTest("1", "3"), StdinTest("2", "4"))
    cases = numpy.array([{"input": "1", "output": "2"}], dtype=object)
    assert read_suite(cases).tests == (StdinTest("1", "2"),)


def test_hidden_tests_of_livecodebench():
    hidden = pickle.dumps(json.dumps([{"input": "3", "output": "4", "testtype": "stdin"}]))
    row = {
        "public_test_cases": json.dumps([{"input": "1", "output": "2", "testtype": "stdin"}]),
        "private_test_cases": base64.b64encode(zlib.compress(hidden)).decode(),
    }
    assert read_suite(row).tests == (StdinTest("1", "2"), StdinTest("3", "4"))


def test_a_pickle_that_would_run_something_is_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    with pytest.raises(Malformed, match="refuses"):
        read_suite(base64.b64encode(zlib.compress(pickle.dumps(Payload()))).decode())
    assert not (tmp_path / "ran").exists()


def test_a_call_that_returns_a_list_of_one_has_two_readings():
    suite = read_suite({"inputs": [[1], [2]], "outputs": [[3], [4]], "fn_name": "f"})
    assert [test.expected for test in suite.tests] == [[3], [4]]
    assert [test.expected for test in suite.otherwise] == [3, 4]
    assert not read_suite({"inputs": [[1], [2]], "outputs": [[3], [4, 5]], "fn_name": "f"}).otherwise


def test_what_the_tests_say_goes_before_the_arguments():
    suite = read_suite({"language": "c++", "inputs": ["1"], "outputs": ["2"], "preamble": "x"}, language="python")
    assert (suite.language, suite.prefix) == ("cpp", "x")
    suite = read_suite({"inputs": ["1"], "outputs": ["2"]}, language="node", prefix="y", checker=CHECKER)
    assert (suite.language, suite.prefix, suite.tests[0].checker) == ("javascript", "y", CHECKER)
    assert read_suite([{"input": "1", "output": "2"}], language=None, checker=None).language == "python"


MALFORMED = {
    "None": (None, "no tests"),
    "empty list": ([], "no tests"),
    "empty mapping": ({}, "no tests"),
    "empty columns": ({"inputs": [], "outputs": []}, "no tests"),
    "empty text": ("", "test 1: empty"),
    "number": (3, "int"),
    "no output": ([{"input": "1", "output": "2"}, {"input": "1"}], "test 2: no expected output"),
    "output None": ([{"input": "1", "output": None}], "test 1: no expected output"),
    "output None in columns": ({"inputs": ["1", "2"], "outputs": ["1", None]}, "test 2: no expected output"),
    "all outputs empty": ([{"input": "1", "output": " \n"}], "test 1: the expected output is empty"),
    "no outputs": ({"inputs": ["1"]}, "no expected outputs"),
    "no inputs": ({"outputs": ["1"]}, "no inputs"),
    "no input": ([{"output": "1"}], "test 1: no input"),
    "lengths": ({"inputs": ["1", "2"], "outputs": ["1"]}, "2 inputs and 1 outputs"),
    "lengths of points": ({"inputs": ["1", "2"], "outputs": ["1", "2"], "points": [1]}, "2 inputs and 1 points"),
    "case is no mapping": ([{"input": "1", "output": "1"}, 7], "test 2: a int"),
    "nested input": ([{"input": [["1"]], "output": "1"}], "test 1: input"),
    "call without name": ([{"input": [1], "output": 1, "type": "function_call"}], "test 1: a call without the name"),
    "name is no name": ({"inputs": [[1]], "outputs": [1], "fn_name": "os.system"}, "test 1: a call without the name"),
    "argument": ([{"input": "a b", "output": "1", "type": "functional", "fn_name": "f"}], "test 1: an argument"),
    "broken JSON": ('{"inputs": ["1"', "neither JSON nor a Python literal"),
    "deep JSON": ("[" * 100_000, "neither JSON nor a Python literal"),
    "test is no Python": (["assert f(1) == 2", "assert f(1) = 2"], "test 2: not Python"),
    "prose": ("The answer should be sorted.", "test 1: not Python"),
    "check is never called": ("def check(candidate):\n    assert candidate(1)", "nothing calls it"),
    "checks nothing": ("x = 1\ndef helper():\n    assert 0", "test 1: checks nothing"),
    "a docstring checks nothing": ('"""test"""', "test 1: checks nothing"),
    "module": (["import numpy as np\nassert np.all(f())"], "test 1: needs the module 'numpy'"),
    "language": ({"language": "cobol", "inputs": ["1"], "outputs": ["1"]}, "unknown language 'cobol'"),
    "language is no text": ({"language": 3, "inputs": ["1"], "outputs": ["1"]}, "`language` must be text"),
    "points": ([{"input": "1", "output": "1", "points": "ten"}], "test 1: points"),
    "negative points": ([{"input": "1", "output": "1", "points": -1}], "test 1: points"),
    "unknown mapping": ({"question": "?"}, "question"),
    "subtask without tests": ({"subtasks": [{"points": 3}]}, "subtask 1: no `tests`"),
    "subtask with a bad test": ({"subtasks": [{"points": 3, "tests": [{"input": "1"}]}]}, "subtask 1: test 1: no e"),
    "compressed": ("eJ" + "x" * 40, "compressed tests that cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name):
    tests, message = MALFORMED[name]
    with pytest.raises(Malformed, match=message.replace("(", r"\(")):
        read_suite(tests)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["inputs", "outputs", "input", "output", "fn_name", "test_list", "tests",
                                       "subtasks", "points", "functional", "language", "checker"]), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@given(plain | st.text(), st.sampled_from(["python", "cpp", "javascript"]))
def test_total(tests, language):
    """Anything at all is either read or malformed."""
    try:
        suite = read_suite(tests, language=language)
    except Malformed as error:
        assert str(error)
    else:
        assert suite.tests


@pytest.mark.parametrize(
    "name,language",
    [("py", "python"), ("Python3", "python"), ("python3.11", "python"), ("pypy3", "python"), ("C++", "cpp"),
     ("cpp17", "cpp"), ("c++20", "cpp"), ("g++", "cpp"), ("gnu++17", "cpp"), ("cc", "cpp"), ("js", "javascript"),
     ("Node.js", "javascript"), ("nodejs", "javascript"), ("python2", None), ("c", None), ("c#", None), ("java", None),
     ("typescript", None), ("text", None), ("", None), ("pythonic", None)],
)  # fmt: skip
def test_names_of_languages(name, language):
    assert find_language(name) == language


@pytest.mark.parametrize(
    "name,kind,rows",
    [("leetcode.json", AssertTest, 200), ("codeforces.json", StdinTest, 408), ("code_contests.json", StdinTest, 165)],
)
def test_every_row_of_real_data(name, kind, rows):
    found = json.loads(shared("code", name).read_text())
    for row in found:
        suites = [read_suite(form) for form in (row["tests"], json.dumps(row["tests"]), repr(row["tests"]))]
        assert suites[0] == suites[1] == suites[2]
        assert all(isinstance(test, kind) for test in suites[0].tests)
    assert len(found) == rows


def test_every_row_of_humaneval_and_mbpp():
    with gzip.open(shared("code", "HumanEval.jsonl.gz"), "rt") as lines:
        for row in map(json.loads, lines):
            (test,) = read_suite(row["test"], entry_point=row["entry_point"]).tests
            assert f"check({row['entry_point']})" in test.source
    for line in shared("code", "mbpp.jsonl").open():
        row = json.loads(line)
        assert len(read_suite(row["test_list"], setup=row["test_setup_code"]).tests) == len(row["test_list"])


@pytest.mark.parametrize("language", ["cpp", "js"])
def test_every_row_of_multipl_e(language):
    for line in shared("code", f"humaneval-{language}.jsonl").open():
        row = json.loads(line)
        (test,) = read_suite(row["tests"], language=row["language"]).tests
        assert "candidate" in test.source and not test.source.startswith("}")


TELLING = """x = 1
def check(c):
    'Checks.'
    assert c(1, b=[2]) == (3, x), 'no'
    assert True
    assert c(4) > 3
"""


def test_assertions_one_by_one():
    suite = read_suite(TELLING, entry_point="f")
    first, second = split_assertions(suite).tests
    assert first.source == "x = 1\nc = f\nassert c(1, b=[2]) == (3, x), 'no'"
    assert second.source == "x = 1\nc = f\nassert c(4) > 3" and second.points == 0.5
    together = (
        "def check(c):\n    y = c(1)\n    assert y\n    assert y == 2",
        "a = f(1)\nprint(a)\nassert a\nassert a == 2",
    )
    for source in together:
        suite = read_suite(source, entry_point="f")
        assert split_assertions(suite) == suite


@pytest.mark.parametrize(
    "assertion,call",
    [
        ("assert f(1, [2], b='x') == {3: (4,)}", CallTest("f", (1, [2]), {3: (4,)}, {"b": "x"}, exact=True)),
        ("assert f(-1) == -2.5", CallTest("f", (-1,), -2.5, exact=True)),
        ("assert Solution().f(1) == 2", CallTest("f", (1,), 2, exact=True)),
        ("def check(c):\n    assert c(1) == 2\ncheck(Solution().f)", CallTest("f", (1,), 2, exact=True)),
        ("g = f\nassert g(1) == 2", CallTest("f", (1,), 2, exact=True)),
        ("assert f(1) != 2", None),
        ("assert f(1) == 2 == f(2)", None),
        ("assert f(1)", None),
        ("assert f(x) == 2", None),
        ("assert f(1) == 2 + f(2)", None),
        ("assert f(*[1]) == 2", None),
        ("assert f(**{'a': 1}) == 2", None),
        ("assert f(1).g() == 2", None),
        ("assert abs(f(1) - 2) < 1", None),
        ("assert 2 == f(1)", None),
        ("for i in range(3):\n    assert f(1) == 2", None),
    ],
)
def test_assertions_as_calls(assertion, call):
    (test,) = convert_to_calls(read_suite(assertion)).tests
    assert test == (call or AssertTest(assertion))


JS = "const assert = require('node:assert');\nfunction test() {\n  let candidate = f;\n  %s\n}\n\ntest();"


@pytest.mark.parametrize(
    ("line", "calls"),
    [
        ('assert.deepEqual(candidate([1, 2], {"a": -1.5}),[true, null]);', [(([1, 2], {"a": -1.5}), [True, None])]),
        ('assert.equal(candidate(),undefined);\n  assert.equal(f("),x("), 3)', [((), None), (("),x(",), 3)]),
        ("assert.deepEqual(candidate(x), 3);", None),
        ("assert.deepEqual(candidate(1).y, 3);", None),
        ("assert.deepEqual(candidate(1), 3 + 1);", None),
        ("assert.deepEqual(candidate(9007199254740993), 3);", None),
        ("assert.deepEqual(candidate(1), NaN);", None),
        ("assert.notEqual(candidate(1), 3);", None),
        ("candidate.x = 1;", None),
    ],
)
def test_javascript_assertions_as_calls(line, calls):
    suite = read_suite(JS % line, language="javascript")
    expected = [CallTest("f", given, wanted, points=1 / len(calls), exact=True) for given, wanted in calls or []]
    assert list(convert_to_calls(suite).tests) == (expected or list(suite.tests))


def test_most_assertions_of_multipl_e_in_javascript_are_calls():
    with shared("code", "humaneval-js.jsonl").open() as lines:
        suites = [convert_to_calls(read_suite(row["tests"], language="js")) for row in map(json.loads, lines)]
    assert sum(all(isinstance(test, CallTest) for test in suite.tests) for suite in suites) / len(suites) > 0.95


def test_most_assertions_of_humaneval_mbpp_and_leetcode_are_calls():
    with gzip.open(shared("code", "HumanEval.jsonl.gz"), "rt") as lines:
        suites = [read_suite(row["test"], entry_point=row["entry_point"]) for row in map(json.loads, lines)]
    with shared("code", "mbpp.jsonl").open() as lines:
        suites += [read_suite(row["test_list"], setup=row["test_setup_code"]) for row in map(json.loads, lines)]
    suites += [read_suite(row["tests"]) for row in json.loads(shared("code", "leetcode.json").read_text())]
    whole = [all(isinstance(test, CallTest) for test in convert_to_calls(suite).tests) for suite in suites]
    assert sum(whole) / len(whole) > 0.97
