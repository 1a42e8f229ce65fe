"""Which program a completion offers, and what its tests make of it."""

from __future__ import annotations

import gzip
import json
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from conftest import shared
from hypothesis import given
from hypothesis import strategies as st

from open_r1.errors import RecipeError
from open_r1.rewards.code.extraction import assemble_program, extract_program, find_fenced_blocks
from open_r1.rewards.code.scorers import code, code_fraction, code_subtasks, run_program
from open_r1.rewards.code.suites import Suite, read_suite
from open_r1.sandbox.cases import AssertTest, CallTest, Limits, Outcome, Program
from open_r1.sandbox.judging import NOT_RUN

F = "```"
# A fence begins its line, so these begin with a new one wherever they stand.
GOOD = f"\n{F}python\nprint('good')\n{F}\n"
BAD = f"\n{F}python\nprint('bad')\n{F}\n"


def test_fences_as_commonmark_has_them():
    assert find_fenced_blocks("```\na\n\nb\n```") == [("", "a\n\nb\n")]
    assert find_fenced_blocks("~~~ py\na\n~~~~") == [("py", "a\n")]
    assert find_fenced_blocks("````\n```\na\n```\n````") == [("", "```\na\n```\n")]
    assert find_fenced_blocks("```\na\n~~~\n```") == [("", "a\n~~~\n")]
    assert find_fenced_blocks("````\na\n```") == []
    assert find_fenced_blocks("```\n```") == [("", "")]
    assert find_fenced_blocks("```py\r\na\r\nb\r\n```\r\n") == [("py", "a\r\nb\r\n")]
    # A fence begins its line; the last line opens one that never ends.
    assert find_fenced_blocks("x ```py\na\n```") == []
    assert find_fenced_blocks("```print(1)``` and ```\na\n```") == []
    assert find_fenced_blocks("1. so:\n   ```py\n   if a:\n       b\n   ```") == [("py", "if a:\n    b\n")]
    assert find_fenced_blocks("\t```py\n\ta\n\t```") == [("py", "a\n")]
    assert find_fenced_blocks("```py\na\n```python\n```") == [("py", "a\n```python\n")]


@pytest.mark.parametrize(
    "completion",
    [
        GOOD,
        f"<think>{BAD}</think>\n{GOOD}",
        f"{BAD}</think>\n{GOOD}",  # the template opened the reasoning
        f"<think>a</think>{BAD}</think>{GOOD}",
        f"<think>x</think><answer>{GOOD}</answer>",
        f"<think>x</think>{F}py\nprint('good')\n{F}",
        f"<think>x</think><answer>{F}py\nprint('good')\n{F}</answer>",
        f"<think>x</think>{BAD}<answer>\n{GOOD}\n</answer>",
        f"<think>x</think><answer>\n{BAD}</answer> no: <answer>\n{GOOD}\n</answer>\n{BAD}",
        f"{BAD}\nBetter:\n\n{GOOD}\nThis is it.",
        f"{GOOD}\nSample output:\n{F}\n3\n{F}",
        f"{GOOD}\nSample output:\n{F}\nYES\nforcodesec\nCase #1: 4\n{F}",
        f"{GOOD}\nRun it:\n{F}bash\npython main.py\n{F}",
        f"{GOOD}\nRun it:\n{F}\n$ python main.py < in.txt\n{F}",
        f"{GOOD}\n{F}\nn = 5\nk = 3\n{F}",
        f"{GOOD}\n{F}\n>>> def f(): pass\n>>> print(f())\n{F}",
        f"{GOOD}\n{F}\nFor n = 3 the answer is\nif you wish 4\n{F}",
        f"{GOOD}\n{F}text\nprint('this is text')\n{F}",
        f"{GOOD}\n{F}cpp\nint main() {{}}\n{F}",
        f"{GOOD}\n{F}json\n[1]\n{F}\n{F}output\ngood\n{F}",
        f"{GOOD}\nand then {F}python\nprint('cut",
        f"{GOOD}\n{F}python\nprint('never closed')",
        f"{BAD}\n{F}\nprint('good')\n{F}",
        f"{F}py\nprint('good')\n{F}",
        f"{F}Python3 title=x.py\nprint('good')\n{F}",
        f"{F}{{.python .numberLines}}\nprint('good')\n{F}",
        f"{F}solution.py\nprint('good')\n{F}",
        f"{F}\nprint('good')\n{F}",
        "~~~python\nprint('good')\n~~~",
        f"- so:\n\n  {F}python\n  print('good')\n  {F}\n",
        f"{GOOD}".replace("\n", "\r\n"),
    ],
)
def test_the_program_is_found(completion):
    assert extract_program(completion).strip() == "print('good')"


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "print('bare')",
        f"<think>{BAD}",
        f"<think>{BAD}</think>The program is above.",
        f"<think>x</think>{BAD}<answer>as above</answer>",
        f"<think>x</think><answer>\n{BAD}",
        f"<think>x</think><answer>\n{BAD}\n</ans",
        f"{F}python\nprint('cut')",
        f"{F}python\nprint('cut')\n``",
        f"````python\nprint('cut')\n{F}",
        f"{F}python\nprint('cut')\n~~~",
        f"{F}cpp\nint main() {{}}\n{F}",
        f"{F}bash\npython main.py\n{F}",
        f"Use `{F}python print(1) {F}`.",
    ],
)
def test_there_is_no_program(completion):
    assert extract_program(completion) is None


def test_the_language_of_the_row_decides():
    both = f"{F}cpp\nint main() {{}}\n{F}\n{F}js\nlet a = 1;\n{F}\n{F}python\na = 1\n{F}\n{F}\n3 4\n{F}"
    assert extract_program(both, "cpp") == "int main() {}\n"
    assert extract_program(both, "javascript") == "let a = 1;\n"
    assert extract_program(both, "python") == "a = 1\n"
    bare = f"{F}\n#include <iostream>\nint main() {{}}\n{F}\n{F}\n3 4\n{F}"
    assert extract_program(bare, "cpp").startswith("#include")


def test_a_block_of_output_is_the_program_only_where_nothing_else_is():
    assert extract_program(f"{F}\n3 4\n{F}") == "3 4\n"


def test_fences_inside_the_program():
    source = 'def f():\n    """\n    ```python\n    f()\n    ```\n    """\n    return 1\n'
    assert extract_program(f"{F}python\n{source}{F}") == source
    assert extract_program(f"````python\nx = '''\n{F}\n'''\n````") == f"x = '''\n{F}\n'''\n"


@given(
    st.text(st.sampled_from("`~ \n\tpy<>think/answer{.}é\ud800\0"), max_size=200), st.sampled_from(["python", "cpp"])
)
def test_extraction_is_total(completion, language):
    program = extract_program(completion, language)
    assert program is None or all(line in completion for line in program.split("\n"))


@given(st.text(max_size=60).filter(lambda s: "```" not in s and "</" not in s and "\r" not in s))
def test_what_is_fenced_comes_out_as_it_was(source):
    assert extract_program(f"<think>x</think>\n{F}python\n{source}\n{F}\n") == source + "\n"


@pytest.mark.parametrize(
    "text",
    ["`" * 100_000, "```" + "`x" * 50_000, "```\n" * 33_000, "```py\n" * 20_000, " " * 100_000 + "```",
     "~~~\n" * 25_000,
     "<answer>" * 12_000, "</think>" * 12_000, "```\n" + "a, " * 33_000 + "\n```", "```\n" + "a" * 100_000 + "\n```",
     "```\n" + "for " * 25_000 + "\n```", "```\n" + " \n" * 50_000 + "```", "```\n;" + " " * 100_000 + "x\n```",
     "```\nif" + " x" * 50_000 + "\n```", "```\n" + "a.b" * 33_000 + "\n```", "```\n" + "if x\n" * 20_000 + "```"],
    ids=range(16),
)  # fmt: skip
def test_extraction_is_linear(text):
    """A hundred times what these take: only what grows faster than the text fails."""
    start = time.process_time()
    for language in ("python", "cpp", "javascript"):
        extract_program(text, language)
    assert time.process_time() - start < 5


HUMANEVAL = '''from typing import List


def helper(x):
    return x + 1


def f(numbers: List[int]) -> int:
    """ Sum.
    >>> f([1])
    1
    """
'''


def run(source: str, prefix: str, **names: object) -> object:
    """Value of f([1, 2]) in the assembled program."""
    space = dict(names)
    program = assemble_program(source, Suite((AssertTest(""),), prefix=prefix))
    exec(compile(program.source, "program", "exec", dont_inherit=True), space)
    return space["f"]([1, 2])


@pytest.mark.parametrize(
    "source",
    [
        "def f(numbers):\n    return helper(sum(numbers)) - 1",  # without the helper and the import
        HUMANEVAL + "    return helper(sum(numbers)) - 1",  # the whole prompt again
        "    return helper(sum(numbers)) - 1",  # only the body
        "return helper(sum(numbers)) - 1",  # only the body, without its indentation
        "\n    total: int = 0\n    for x in numbers:\n        total += x\n    return total",
        "from __future__ import annotations\nimport math\ndef f(numbers: Unknown):\n    return sum(numbers)",
        "f = lambda numbers: sum(numbers)",
    ],
)
def test_what_a_program_lacks_of_the_prompt_comes_before_it(source):
    assert run(source, HUMANEVAL) == 3


def test_a_prefix_that_is_not_a_prompt_comes_whole():
    assert run("def f(n):\n    return helper(n)", "def helper(n):\n    return sum(n)\n") == 3
    assert run("def f(n):\n    return sum(n)", "") == 3
    assert run("def f(n):\n    return sum(n)", "def f(n):\n") == 3
    assert run("    return sum(n)", "def f(n):\n") == 3
    assert run("return sum(n)", "import math\n@staticmethod\ndef f(n):") == 3
    broken = assemble_program("def f(n): pass", Suite((AssertTest(""),), prefix="this is (no Python"))
    assert broken.source == "this is (no Python\ndef f(n): pass"


def test_a_method_of_solution():
    starter = "class Solution:\n    def f(self, n: List[int]) -> int:\n"
    for source in ("class Solution:\n    def f(self, n: List[int]) -> int:\n        return sum(n)",
                   "        return sum(n)", "return sum(n)"):  # fmt: skip
        space = {}
        exec(assemble_program(source, Suite((CallTest("f", (), 0),), prefix=starter)).source, space)
        assert space["Solution"]().f([1, 2]) == 3


def test_leetcode_solutions_have_their_names_at_hand():
    body = "return pow(sum(n), inf > 0, 5) + len(Counter(n))"
    source = f"class Solution:\n    def f(self, n: List[int]) -> int:\n        {body}"
    space = {}
    exec(assemble_program(source, Suite((AssertTest(""),))).source, space)
    assert space["Solution"]().f([1, 2]) == 5


PROMPT_CPP = "#include<assert.h>\n#include<bits/stdc++.h>\n// Sum.\nlong total(std::vector<long> n) {\n"


def test_prefixes_with_braces():
    tests = (AssertTest("int main() { assert(total({1}) == 1); }"),)
    body = assemble_program("    long s = 0;\n    return s;", Suite(tests, "cpp", PROMPT_CPP)).source
    assert body == f"#define main main_of_the_program\n{PROMPT_CPP}    long s = 0;\n    return s;\n}}\n\n#undef main\n"
    closed = assemble_program("    return 0;\n}", Suite(tests, "cpp", PROMPT_CPP)).source
    assert closed.count("{") == closed.count("}") == 1
    whole = "long total(std::vector<long> n) {\n    return 0;\n}"
    assert assemble_program(whole, Suite(tests, "cpp", PROMPT_CPP)).source.count("total(") == 1
    script = "//Sum.\nfunction total(n){\n"
    js = (AssertTest("total([1])"),)
    assert assemble_program("  return 0;", Suite(js, "javascript", script)).source == script + "  return 0;\n}\n"
    for whole in ("function total(n) { return 0 }", "const total = n => 0;"):
        assert assemble_program(whole, Suite(js, "javascript", script)) == Program("//Sum.\n" + whole, "javascript")


def test_a_program_that_repeats_the_helpers_of_its_prompt():
    head = "#include <vector>\nstruct Node { int v; };\nint one() { return 1; }\n"
    prefix = head + "int f(int n) {\n"
    tests = (AssertTest("x"),)
    assert assemble_program("int f(int n) { return n; }", Suite(tests, "cpp", prefix)).source.startswith(head)
    for source in ("struct Node { int v; };\nint f(int n) { return n; }", "int one() { return 1; }\nint f(int n) {}"):
        assert assemble_program(source, Suite(tests, "cpp", prefix)).source == "#include <vector>\n" + source


def fenced(source: str, info: str = "python") -> str:
    return f"<think>hm\n{BAD}</think>\n{F}{info}\n{source}\n{F}"


SQUARE = "n = int(input())\nprint(n * n)"
SQUARES = {"inputs": ["1\n", "2\n", "-3\n"], "outputs": ["1\n", "4\n", "9\n"]}
CALLS = {"fn_name": "square", "inputs": [[1], [2]], "outputs": [1, 4]}
ASSERTS = ["assert square(1) == 1", "assert square(2) == 4", "assert abs(square(0.5) - 0.25) < 1e-9"]
CHECK = "def check(candidate):\n    assert candidate(1) == 1\n    assert True\n    assert candidate(2) == 4\n"
NEAR = "import sys\na, b = (float(open(path).read()) for path in sys.argv[2:])\nprint(max(0, 1 - abs(a - b)))"


@pytest.mark.parametrize(
    "source,tests,expected",
    [
        (SQUARE, SQUARES, "correct"),
        (SQUARE, json.dumps(SQUARES), "correct"),
        (SQUARE, repr(SQUARES), "correct"),
        ("n = int(input())\nprint(n * abs(n))", SQUARES, "wrong: test 3 of 3: wrong output: expected "),
        ("n = int(input())\nprint(abs(n))", SQUARES, "wrong: test 2 of 3: wrong output: expected '4', got '2'"),
        ("n = int(input())\nprint(n * n, '')", SQUARES, "correct"),  # white space at the end of lines and text
        ("n = int(input())\nprint()\nprint(n * n)", SQUARES, "wrong: test 1 of 3: wrong output: expected "),
        ("n = int(input())\nprint(n * n, '.0', sep='')", SQUARES, "wrong: test 1 of 3: wrong output: expected "),
        ("n = int(input())\nprint(n * n)\nexit(1)", SQUARES, "wrong: test 1 of 3: exit code 1"),
        ("n = int(input())\nprint(n * n)\nexit()", SQUARES, "correct"),
        ("import sys\nsys.exit()", SQUARES, "wrong: test 1 of 3: wrong output: expected "),
        ("print(", SQUARES, "wrong: test 1 of 3: exit code 1"),
        ("", SQUARES, "wrong: test 1 of 3: wrong output: expected "),
        ("print('\ud800')", SQUARES, "wrong: test 1 of 3: "),
        ("print(1)\0", SQUARES, "wrong: test 1 of 3: "),
        ("x" * 100_000, SQUARES, "wrong: test 1 of 3: "),
        ("while True: pass", SQUARES, "wrong: test 1 of 3: more than 1 s of CPU time"),
        ("def square(x): return x * x", CALLS, "correct"),
        ("class Solution:\n    def square(self, x: List[int]): return x * x", CALLS, "correct"),
        ("def square(x): return x * 2", CALLS, "wrong: test 1 of 2: "),
        ("def square(x): return str(x * x)", CALLS, "wrong: test 1 of 2: "),
        ("def cube(x): return x * x", CALLS, "wrong: test 1 of 2: NameError: the program defines no function square"),
        ("def square(x): return x * x", ASSERTS, "correct"),
        ("def square(x): return x + 2 * (x - 1) + (x == 1) * 0", ASSERTS, "wrong: test 3 of 3: "),
        ("def square(x): exit()", ASSERTS, "wrong: test 1 of 3: "),
        ("def square(x): return x * x", {"test": CHECK, "entry_point": "square"}, "correct"),
        ("def square(x): return x", {"test": CHECK, "entry_point": "square"}, "wrong: test 2 of 2: "),
        ("print(int(input()))", {"inputs": ["1"], "outputs": ["1"], "checker": NEAR}, "correct"),
        ("print(int(input()) + 0.25)", {"inputs": ["1"], "outputs": ["1"], "checker": NEAR}, "wrong: test 1 of 1: "),
    ],
)
def test_verdicts(source, tests, expected):
    said = str(code(fenced(source), tests, seconds=1))
    assert said == expected or (expected.endswith((" ", "1")) and said.startswith(expected)), said
    assert str(run_program(source, tests, seconds=1)) == said


@pytest.mark.parametrize(
    "expected,output,strict,numbers",
    [
        ("2", "2", True, True),
        ("2\n", "2  \n\n", True, True),
        ("2", "2.0", False, True),
        ("0.333333", "0.3333333333333333", False, True),
        ("1e9 x", "1000000000.5 x", False, True),
        ("1 2\n3", "1\n2 3", False, True),
        ("0.333333", "0.33334", False, False),
        ("10000000", "10000001", False, False),
        ("2", "2.0000001", False, False),
        ("1 2", "1 2 3", False, False),
        ("1 2", "1", False, False),
        ("YES", "Yes", False, False),
        ("0.5", "nan", False, False),
        ("nan.0", "NAN.0", False, False),
        ("0.5", "", False, False),
    ],
)
def test_outputs_are_compared_as_they_are_unless_numbers_are_asked_for(expected, output, strict, numbers):
    tests = {"inputs": ["1"], "outputs": [expected]}
    for checker, right in (("", strict), ("numbers", numbers)):
        verdict = run_program(f"print({output!r})", tests, checker=checker)
        assert verdict.outcome == ("correct" if right else "wrong"), verdict


@pytest.mark.parametrize(
    "tests,reason",
    [
        (None, "there are no tests"),
        ([], "there are no tests"),
        ([{"input": "1\n", "output": "1"}, {"input": "2\n"}], "test 2: no expected output"),
        ({"inputs": ["1", "2"], "outputs": ["1"]}, "2 inputs and 1 outputs"),
        ({"inputs": ["1"], "outputs": ["1"], "language": "cobol"}, "unknown language 'cobol'"),
        ("def check(candidate):\n    assert candidate(1) == 1", "nothing calls it"),
    ],
)
@pytest.mark.parametrize("completion", ["", "no program", fenced(SQUARE), "<think>" + GOOD])
def test_tests_that_cannot_be_read_say_nothing_about_the_program(tests, reason, completion):
    for scorer in (code, code_fraction, code_subtasks, run_program):
        verdict = scorer(completion, tests)
        assert verdict.outcome == "unknown" and reason in verdict.reason


@given(st.text(max_size=80), st.text(max_size=40))
def test_scorers_are_total(completion, tests):
    """No program is run: hardly any text is both a program and its tests."""
    verdict = code(completion.replace("```", ""), tests)
    assert verdict.outcome in ("wrong", "unknown")


def test_no_program():
    assert str(code("It is 3.", SQUARES)) == "wrong: no code block (python)"
    assert str(code(fenced("int main() {}", "cpp"), SQUARES)) == "wrong: no code block (python)"
    assert str(code("<think>" + GOOD, SQUARES)) == "wrong: no code block (python)"
    assert code_fraction("It is 3.", SQUARES) == code_subtasks("It is 3.", SQUARES) == 0.0


@pytest.mark.parametrize(
    "source,tests,share",
    [
        (SQUARE, SQUARES, 1),
        ("print(int(input()))", SQUARES, 1 / 3),
        ("n = int(input())\nif n < 0: 1 / 0\nprint(n * n)", SQUARES, 2 / 3),
        ("def square(x): return x", CALLS, 1 / 2),
        ("def square(x): return x * x if isinstance(x, int) else 0", ASSERTS, 2 / 3),
        ("def square(x): return x", {"test": CHECK, "entry_point": "square"}, 1 / 2),  # assert True is none
        ("print(int(input()) + 0.25)", {"inputs": ["1"], "outputs": ["1"], "checker": NEAR}, 0),
    ],
)
def test_fractions(source, tests, share):
    assert code_fraction(fenced(source), tests) == pytest.approx(share)


def test_calls_that_return_a_list_of_one_may_return_what_is_in_it_but_not_now_and_then():
    tests = {"fn_name": "f", "inputs": [[1], [2]], "outputs": [[1], [4]]}
    for source in ("def f(x): return x * x", "def f(x): return [x * x]", "def f(x): return (x * x,)"):
        assert code(fenced(source), tests).outcome == "correct"
    mixed = "def f(x): return [x * x] if x == 1 else x * x"
    assert code(fenced(mixed), tests).outcome == "wrong" and code_fraction(fenced(mixed), tests) == 0.5


IOI = {
    "subtasks": [
        {"points": 30, "tests": [{"input": "1", "output": "1"}, {"input": "2", "output": "4"}]},
        {"points": 70, "tests": [{"input": "0", "output": "0"}, {"input": "-3", "output": "9"}]},
    ]
}


@pytest.mark.parametrize(
    "source,tests,share",
    [
        (SQUARE, IOI, 1),
        ("n = int(input())\nprint(n * abs(n))", IOI, 0.3),
        ("print(int(input()))", IOI, 0),
        ("print(int(input()))", SQUARES, 1 / 3),  # each test by itself
        ("print(int(input()) * 1.25)", {"inputs": ["1", "2"], "outputs": ["1", "2"], "checker": NEAR}, 0.625),
        ("print(int(input()) * 1.25)", {"inputs": ["1", "2"], "outputs": ["1", "2"], "subtask": ["a", "a"],
                                        "checker": NEAR}, 0.5),
        ("print(int(input()) * 1.25)", {"inputs": ["1", "2"], "outputs": ["1", "2"], "points": [3, 1],
                                        "checker": NEAR}, (3 * 0.75 + 0.5) / 4),
    ],
)  # fmt: skip
def test_subtasks(source, tests, share):
    assert code_subtasks(fenced(source), tests) == pytest.approx(share)


def test_a_row_says_its_language():
    script = "console.log(require('fs').readFileSync(0, 'utf8').trim() ** 2)"
    assert code(fenced(script, "js"), SQUARES | {"language": "javascript"}).outcome == "correct"
    assert code(fenced(script, "js"), SQUARES, language="node").outcome == "correct"
    assert code(fenced(SQUARE), SQUARES | {"language": "py"}, language="node").outcome == "correct"
    assert code(fenced(SQUARE), SQUARES, language=None).outcome == "correct"


def test_cpp():
    source = "#include <iostream>\nint main() { int n; std::cin >> n; std::cout << n * n; }"
    assert code(fenced(source, "c++"), SQUARES, language="cpp").outcome == "correct"
    broken = code(fenced(source.replace("; }", " }"), "c++"), SQUARES, language="cpp")
    assert broken.outcome == "wrong" and "does not compile" in broken.reason


@pytest.mark.parametrize(
    "source,outcome",
    [
        ("#include <string>\nusing namespace std;\nlong string_length(string s) { return s.size(); }\n"
         "int main() { return string_length(\"\"); }", "correct"),
        ("    return string.size();", "correct"),
        ("    return string.size() + 1;", "wrong"),
        ("#define NDEBUG\n#define assert(x)\nlong string_length(std::string s) { return 7; }", "wrong"),
        ("#include <cstdlib>\nlong string_length(std::string s) { exit(0); }", "wrong"),
    ],
)  # fmt: skip
def test_multipl_e_in_cpp(source, outcome):
    row = json.loads(shared("code", "humaneval-cpp.jsonl").open().readline())
    verdict = code(fenced(source, "cpp"), row["tests"], language=row["language"], prefix=row["prompt"])
    assert verdict.outcome == outcome, verdict


@pytest.mark.parametrize(
    "source,outcome",
    [
        ("function strlen(string) { return string.length; }", "correct"),
        ("const assert = require('assert');\nconst test = 1;\nconst strlen = s => s.length;", "correct"),
        ("  return string.length;", "correct"),
        ("  return string.length + 1;", "wrong"),
        ("require('assert').deepEqual = () => {};\nconst strlen = s => 7;", "wrong"),
        ("const strlen = s => process.exit(0);", "wrong"),
    ],
)
def test_multipl_e_in_javascript(source, outcome):
    row = json.loads(shared("code", "humaneval-js.jsonl").open().readline())
    verdict = code(fenced(source, "js"), row["tests"], language=row["language"], prefix=row["prompt"])
    assert verdict.outcome == outcome, verdict


PASSED, FAILED = Outcome("passed"), Outcome("failed", "wrong output")
UNKNOWN, ERROR = Outcome("unknown", "busy"), Outcome("error", "the sandbox is gone")


@pytest.mark.parametrize(
    "outcomes,verdict,share",
    [
        ([PASSED, PASSED, PASSED], "correct", 1),
        ([PASSED, FAILED, NOT_RUN], "wrong: test 2 of 3: wrong output", 1 / 3),
        ([ERROR, ERROR, ERROR], "error: test 1 of 3: the sandbox is gone", None),
        ([PASSED, PASSED, ERROR], "error: test 3 of 3: the sandbox is gone", None),
        ([UNKNOWN, PASSED, ERROR], "error: test 3 of 3: the sandbox is gone", None),
        ([PASSED, UNKNOWN, PASSED], "unknown: test 2 of 3: busy", None),
        ([ERROR, FAILED, NOT_RUN], "wrong: test 2 of 3: wrong output", None),  # one certain failure is enough
        ([UNKNOWN, PASSED, FAILED], "wrong: test 3 of 3: wrong output", None),
    ],
)
def test_what_outcomes_come_to(monkeypatch, outcomes, verdict, share):
    def judge(program, tests, limits, *, stop_early, **_):
        """Left out after a failure only if that is allowed."""
        return outcomes if stop_early else [FAILED if outcome == NOT_RUN else outcome for outcome in outcomes]

    monkeypatch.setattr("open_r1.sandbox.judging.judge_program", judge)
    assert str(code(fenced(SQUARE), SQUARES)) == verdict
    fraction = code_fraction(fenced(SQUARE), SQUARES)
    if share is None:
        assert fraction.score is None and fraction.outcome == ("error" if ERROR in outcomes else "unknown")
    else:
        assert fraction == pytest.approx(share)


def test_a_subtask_is_left_where_the_rest_cannot_matter(monkeypatch):
    judged = []

    def judge(program, tests, limits, **_):
        """Part scores end a call, as failures do."""
        judged.append([test.stdin for test in tests])
        found = [scores[test.stdin] for test in tests]
        first = next((i for i, outcome in enumerate(found) if outcome.status == "failed"), len(found))
        return [outcome if i <= first else NOT_RUN for i, outcome in enumerate(found)]

    monkeypatch.setattr("open_r1.sandbox.judging.judge_program", judge)
    half = Outcome("failed", "half", score=0.5)
    tests = [{"input": name, "output": "x", "subtask": name[0]} for name in ("a1", "a2", "a3", "b1", "b2")]
    scores = {"a1": half, "a2": PASSED, "a3": FAILED, "b1": FAILED, "b2": ERROR}
    assert code_subtasks(fenced(SQUARE), tests) == 0
    assert judged == [["a1", "a2", "a3"], ["a2", "a3"], ["b1", "b2"]]
    scores = {"a1": half, "a2": PASSED, "a3": PASSED, "b1": PASSED, "b2": PASSED}
    assert code_subtasks(fenced(SQUARE), tests) == pytest.approx((3 * 0.5 + 2) / 5)
    scores |= {"a1": ERROR, "a2": FAILED}
    assert code_subtasks(fenced(SQUARE), tests) == pytest.approx(2 / 5)
    scores |= {"a1": PASSED, "b2": ERROR}
    assert str(code_subtasks(fenced(SQUARE), tests)) == "error: subtask b: test 2 of 2: the sandbox is gone"


def test_at_most_so_many_tests_evenly_spaced(monkeypatch):
    asked = []

    def judge(program, tests, limits, **_):
        asked.append([int(test.stdin) for test in tests])
        return [FAILED if test.stdin == "9" else PASSED for test in tests]

    monkeypatch.setattr("open_r1.sandbox.judging.judge_program", judge)
    tests = {"inputs": [str(i) for i in range(10)], "outputs": ["x"] * 10}
    assert str(code(fenced(SQUARE), tests, max_tests=4)) == "wrong: test 10 of 10: wrong output"
    for most in (1, 2, 10, 99):
        code_fraction(fenced(SQUARE), tests, max_tests=most)
    assert asked == [[0, 3, 6, 9], [0], [0, 9], list(range(10)), list(range(10))]


@pytest.mark.parametrize(
    "parameters,message",
    [({"isolation": "docker"}, "isolation: there is no level 'docker'; known: namespaces, landlock, seccomp"),
     ({"seconds": -1}, "seconds: a number above 0"), ({"memory_mb": "1 GB"}, "memory_mb: a number above 0"),
     ({"max_tests": 0}, "max_tests: a number above 0"), ({"provider": "docker"}, "provider: there is no 'docker'")],
)  # fmt: skip
def test_mistakes_in_the_recipe(parameters, message):
    with pytest.raises(RecipeError, match=message):
        code(fenced(SQUARE), SQUARES, **parameters)


def test_limits_reach_the_sandbox(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "open_r1.sandbox.judging.judge_program",
        lambda program, tests, limits, **more: seen.append((limits, more)) or [PASSED],
    )
    code(fenced(SQUARE), {"inputs": ["1"], "outputs": ["1"]}, seconds=10, memory_mb=64, isolation="seccomp")
    code(fenced(SQUARE), {"inputs": ["1"], "outputs": ["1"]}, seconds=None, memory_mb=None)
    assert seen[0] == (Limits(10, 25, 64), {"weakest": "seccomp", "stop_early": True, "runner": None})
    assert seen[1][0] == Limits()


def rows(*name: str) -> list[dict]:
    path = shared(*name)
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return json.load(file) if path.suffix == ".json" else [json.loads(line) for line in file]


def verdicts(calls: list) -> list[str]:
    with ThreadPoolExecutor(8) as threads:
        return [verdict.outcome for verdict in threads.map(lambda call: call(), calls)]


long = pytest.mark.long
MUTANT = """
for _name in [name for name in vars(Solution) if not name.startswith("__")]:
    setattr(Solution, _name, lambda self, *a, _original=getattr(Solution, _name), **k: [_original(self, *a, **k)])
"""


@pytest.mark.parametrize("step", [10, pytest.param(1, marks=long)])
def test_leetcode(step):
    """Real solutions pass; the same that return their value in a list do not."""
    # One solution needs a package that is not Python's.
    found = [row for row in rows("code", "leetcode.json") if "sortedcontainers" not in row["solutions"]][::step]
    assert set(verdicts([partial(code, fenced(row["solutions"]), row["tests"]) for row in found])) == {"correct"}
    mutants = [partial(code, fenced(row["solutions"] + MUTANT), row["tests"]) for row in found]
    assert set(verdicts(mutants)) == {"wrong"}


@pytest.mark.parametrize(
    ("number", "source"),
    [
        (32, "def poly(xs, x): return 0\ndef find_zero(xs): return 0"),
        (38, "def encode_cyclic(s): return s\ndef decode_cyclic(s): return s"),
        (50, "def encode_shift(s): return s\ndef decode_shift(s): return s"),
    ],
)
def test_the_helpers_of_a_prompt_are_the_tests_own(number, source):
    """A program may redefine them, but not for the test; a test without its prompt cannot tell."""
    row = rows("code", "HumanEval.jsonl.gz")[number]
    columns = {"tests": row["test"], "entry_point": row["entry_point"]}
    assert code(fenced(source), **columns, prefix=row["prompt"]).outcome == "wrong"
    assert code(fenced(source), **columns).outcome == "unknown"
    assert code(fenced(row["canonical_solution"]), **columns, prefix=row["prompt"]).outcome == "correct"


def test_a_starter_does_not_stand_in_for_the_program():
    columns = {"tests": "def check(f):\n    x = f(2)\n    assert x == 4\n", "entry_point": "square"}
    starter = "def one():\n    return 1\ndef square(x):\n    return one()\n"
    assert code(fenced("def square(x): return x * x"), **columns, prefix=starter).outcome == "correct"


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=long)])
def test_humaneval(step):
    """References pass: the whole function, and only its body after the prompt."""
    found = rows("code", "HumanEval.jsonl.gz")[::step]
    columns = [{"tests": row["test"], "entry_point": row["entry_point"], "prefix": row["prompt"]} for row in found]
    whole = [
        partial(code, fenced(row["prompt"] + row["canonical_solution"]), **more)
        for row, more in zip(found, columns, strict=True)
    ]
    body = [partial(code, fenced(row["canonical_solution"]), **more) for row, more in zip(found, columns, strict=True)]
    assert set(verdicts(whole)) == set(verdicts(body)) == {"correct"}


@pytest.mark.parametrize("step", [20, pytest.param(1, marks=long)])
def test_mbpp(step):
    # 533 hands the program a class, which has no plain form.
    found = [row for row in rows("code", "mbpp.jsonl") if row["task_id"] != 533][::step]
    calls = [partial(code, fenced(row["code"]), row["test_list"], setup=row["test_setup_code"]) for row in found]
    assert set(verdicts(calls)) == {"correct"}


# Rows of the oracle whose label is not what the program and its tests say: five lack an import, or their tests call a
# function that nobody defines, and are labelled right all the same; 82 is labelled wrong for lacking a helper that
# stands in its prompt, which is put before it here.
OTHER_LABELS = {82, 572, 573, 575, 581, 624}


@pytest.mark.parametrize("step", [16, pytest.param(1, marks=long)])
def test_labelled_programs(step):
    """Prompts belong before HumanEval's programs only: MBPP's describe the task, and its tests are run as they are."""
    found = [row for i, row in enumerate(rows("oracle", "code.jsonl")) if i not in OTHER_LABELS][::step]
    calls = [
        partial(code, fenced(row["solution"]), row["test"], entry_point=row["entry_point"],
                prefix=row["prompt"] if row["benchmark"] == "HumanEval" else "")
        for row in found
    ]  # fmt: skip
    assert verdicts(calls) == ["correct" if row["expected"] else "wrong" for row in found]


@pytest.mark.parametrize("name", ["codeforces.json", "code_contests.json"])
@pytest.mark.parametrize("step", [25, pytest.param(1, marks=long)])
def test_contest_problems(name, step):
    """A program that knows the answers passes all tests; one that leaves the last line out passes none."""
    found = rows("code", name)[::step]
    for source, outcome in (("print({}[input_text])", "correct"), ("print({}[input_text].rstrip()[:-1])", "wrong")):
        calls = []
        for row in found:
            table = {test.stdin: test.expected for test in read_suite(row["tests"]).tests}
            program = "import sys\ninput_text = sys.stdin.read()\n" + source.format(table)
            calls.append(partial(code, fenced(program), row["tests"]))
        assert set(verdicts(calls)) == {outcome}
