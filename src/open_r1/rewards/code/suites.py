"""The forms in which datasets keep the tests of a programming problem, read into one: `Suite`.

| form of `tests` | found in |
|---|---|
| `{inputs, outputs}`, `{input, output}` as columns | APPS, TACO, CodeContests, DeepMind code_contests |
| the same with `fn_name` | APPS, TACO: inputs are lists of arguments |
| list of `{input, output}`, also in `test_cases`, `official_tests` | Codeforces, LiveCodeBench, verification_info |
| the same with `type: function_call` or `testtype: functional` | LiveCodeBench: one JSON value for each argument |
| list of assert strings, `{test_list, test_setup_code}`, `{assert_case}` | MBPP, KodCode |
| test code, with `entry_point` where it only defines `check(candidate)` | HumanEval, MultiPL-E |
| `{functional: test code}` | LeetCode |
| `{subtasks: [{points, tests}]}` | IOI |

Each of them as a structure, as JSON, or as a Python literal. Whatever cannot be read raises `Malformed`, which says
nothing about any program.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import math
import pickle
import re
import sys
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ...sandbox.cases import AssertTest, CallTest, Language, StdinTest, Test

# Names by which datasets and info strings of fenced blocks call a language.
LANGUAGE_NAMES: dict[Language, re.Pattern[str]] = {
    "python": re.compile(r"(c?python|py|pypy)[-_]?(3(\.\d+)?)?"),
    "cpp": re.compile(r"((c|g|gnu)\+\+|cpp|cc|cxx)[-_]?(\d[\da-z])?"),
    "javascript": re.compile(r"js|mjs|cjs|javascript|ecmascript|es6|node(\.?js)?"),
}
_PARTS = (
    "official_tests",
    "public_tests",
    "private_tests",
    "generated_tests",
    "public_test_cases",
    "private_test_cases",
)
_INPUTS = ("inputs", "input", "stdin")
_OUTPUTS = ("outputs", "output", "expected_output", "expected", "stdout")
# Checkers by name, for datasets whose problems have real numbers as answers but bring no checker.
CHECKERS = {
    # Word by word. A word that was expected as a real number (it has a point or an exponent) may be off by 1e-6,
    # absolutely or relatively; other numbers must be equal in value (2 and 2.0).
    "numbers": """\
import math
import sys
from decimal import Decimal, InvalidOperation


def same(wanted, given):
    try:
        numbers = Decimal(wanted), Decimal(given)
    except InvalidOperation:
        return wanted == given
    if set(".eE") & set(wanted):
        return math.isclose(*map(float, numbers), rel_tol=1e-6, abs_tol=1e-6)
    return numbers[0] == numbers[1]


wanted, given = (open(path, errors="replace").read().split() for path in sys.argv[2:4])
print(int(len(wanted) == len(given) and all(map(same, wanted, given))))
""",
}
_CALL_KINDS = ("function_call", "functional", "call_based", "call")
# Text that must be data: a mapping, a list, or a whole string literal (JSON inside JSON).
_STRUCTURE = re.compile(r"\s*+([\[{]|\"[^\n]*\"\s*$)")
_PACKED = re.compile(r"eJ[\w+/=]{20,}+\s*")


_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


_parsing = threading.Lock()


def _syntax_tree(source: str) -> ast.Module:
    """`ast.parse`, by one thread at a time: in Python 3.11 two at once may end in a SystemError."""
    with _parsing:
        return ast.parse(source)


class Malformed(ValueError):
    """Tests that cannot be read; names the test and what it lacks."""


@dataclass(frozen=True)
class Suite:
    """The tests of one problem.

    Args:
        tests: at least one.
        language: in which the program is to be written.
        prefix: code that belongs before the program where the program lacks it: the imports, helpers and unfinished
            function of a HumanEval prompt.
        otherwise: a second reading of the same tests. APPS and TACO mostly put the value that a call must return into
            a list of one, and their own graders accept either.
    """

    tests: tuple[Test, ...]
    language: Language = "python"
    prefix: str = ""
    otherwise: tuple[Test, ...] = ()


def read_suite(
    tests: Any,
    *,
    language: str | None = None,
    entry_point: str | None = None,
    prefix: str | None = None,
    setup: str | None = None,
    checker: str | None = None,
) -> Suite:
    """Read a row's `tests`. What they say themselves (`{"language": "cpp", ...}`) overrides the arguments.

    Args:
        tests: any form of this module's table.
        language: of the program; Python by default.
        entry_point: the function that call and `check` tests are about.
        prefix: see `Suite`.
        setup: code run before each assert test (MBPP's `test_setup_code` or `test_imports`).
        checker: program that decides about outputs (see `StdinTest`), or the name of one in `CHECKERS`.

    Raises:
        Malformed: naming the test and what it lacks.
    """
    told = (language or "python", entry_point or "", prefix or "", setup or "", checker or "")
    return _cached(tests, *told) if isinstance(tests, str) else _read(tests, *told)


def find_language(name: str) -> Language | None:
    """The language that a name like `py`, `python3`, `C++17` or `node` stands for; None if it is not one of ours."""
    name = name.strip().lower()
    return next((language for language, pattern in LANGUAGE_NAMES.items() if pattern.fullmatch(name)), None)


def _read(tests: Any, language: str, entry_point: str, prefix: str, setup: str, checker: str) -> Suite:
    tests = _data(tests)
    told: dict[str, Any] = {"entry_point": entry_point, "setup": setup, "checker": checker}
    if isinstance(tests, dict):
        tests = {key: value for key, value in tests.items() if value is not None}
        language = _text_at(tests, "language", language)
        prefix = _text_at(tests, "prefix", _text_at(tests, "preamble", prefix))
        if not isinstance(tests.get("fn_name"), list | tuple):
            told["entry_point"] = _text_at(tests, "entry_point", _text_at(tests, "fn_name", entry_point))
        told["checker"] = _text_at(tests, "checker", _text_at(tests, "generated_checker", checker))
        own = [_lines(tests[key], key) for key in ("test_imports", "test_setup_code", "setup") if tests.get(key)]
        told["setup"] = "\n".join(own) or setup
    known = find_language(language)
    if known is None:
        raise Malformed(f"unknown language {language!r}; known: {', '.join(LANGUAGE_NAMES)}")
    found = _tests(tests, known, **told)
    if not found:
        raise Malformed("there are no tests")
    if known == "python" and prefix:
        entry = told["entry_point"]
        found = [with_helpers(test, prefix, entry) if isinstance(test, AssertTest) else test for test in found]
    return Suite(tuple(found), known, prefix, _unwrapped(found))


# Completions of one prompt share their tests, which may be megabytes of text.
_cached = lru_cache(maxsize=8)(_read)


def _tests(tests: Any, language: Language, **told: Any) -> list[Test]:
    if tests is None:
        raise Malformed("there are no tests")
    if isinstance(tests, str):
        return [_code_test(tests, 1, language, told["setup"], told["entry_point"])]
    if isinstance(tests, dict):
        return _tests_of_dict(tests, language, told)
    if not isinstance(tests, list | tuple):
        raise Malformed(f"the tests are a {type(tests).__name__}; they must be a list, a mapping or text")
    if all(isinstance(test, str) for test in tests):
        return [_code_test(test, i, language, told["setup"], "") for i, test in enumerate(tests, 1)]
    return _cases(tests, told)


def _tests_of_dict(tests: dict[str, Any], language: Language, told: dict[str, Any]) -> list[Test]:
    for key in ("functional", "test"):
        if isinstance(tests.get(key), str):
            return [_code_test(tests[key], 1, language, told["setup"], told["entry_point"])]
    for key in ("test_list", "assert_case", "test_cases", "tests"):
        if tests.get(key):
            return _tests(_data(tests[key]), language, **told)
    if "subtasks" in tests:
        return _subtasks(_data(tests["subtasks"]), language, told)
    parts = [key for key in _PARTS if tests.get(key)]
    if parts:
        return [test for key in parts for test in _tests(_data(tests[key]), language, **told)]
    inputs, outputs = _first(tests, _INPUTS), _first(tests, _OUTPUTS)
    if inputs is None and outputs is None:
        raise Malformed(f"no tests in a mapping of {', '.join(map(str, tests)) or 'nothing'}")
    if not isinstance(inputs, list | tuple) or not isinstance(outputs, list | tuple):
        if inputs is None or outputs is None:
            raise Malformed("no expected outputs" if outputs is None else "no inputs")
        return _cases([tests], told)
    if len(inputs) != len(outputs):
        raise Malformed(f"{len(inputs)} inputs and {len(outputs)} outputs")
    rows = [{"input": given, "output": wanted} for given, wanted in zip(inputs, outputs, strict=True)]
    for key in ("points", "subtask", "type", "testtype", "checker", "fn_name"):
        if isinstance(tests.get(key), list | tuple):
            if len(tests[key]) != len(rows):
                raise Malformed(f"{len(rows)} inputs and {len(tests[key])} {key}")
            rows = [row | {key: value} for row, value in zip(rows, tests[key], strict=True)]
    return _cases(rows, told)


def _subtasks(subtasks: Any, language: Language, told: dict[str, Any]) -> list[Test]:
    """Tests of `[{points, tests}]`; a subtask's points are shared out evenly over its tests."""
    if not isinstance(subtasks, list | tuple):
        raise Malformed("`subtasks` must be a list of {points, tests}")
    found: list[Test] = []
    for i, subtask in enumerate(subtasks, 1):
        if not isinstance(subtask, dict) or "tests" not in subtask:
            raise Malformed(f"subtask {i}: no `tests`")
        try:
            tests = _tests(_data(subtask["tests"]), language, **told)
        except Malformed as error:
            raise Malformed(f"subtask {i}: {error}") from error
        if not tests:
            raise Malformed(f"subtask {i}: there are no tests")
        points = _points(subtask.get("points", 1.0), f"subtask {i}") / len(tests)
        found += [replace(test, points=points, subtask=str(subtask.get("name", i))) for test in tests]
    return found


def _cases(rows: list[Any] | tuple[Any, ...], told: dict[str, Any]) -> list[Test]:
    tests = [_case(row, i, told) for i, row in enumerate(rows, 1)]
    printed = [test for test in tests if isinstance(test, StdinTest)]
    # One empty output among others is a fact of the problem; if all are empty, nobody wrote them down.
    if printed and not any(test.expected.strip() or test.checker for test in printed):
        raise Malformed(f"test {tests.index(printed[0]) + 1}: the expected output is empty")
    return tests


def _case(row: Any, i: int, told: dict[str, Any]) -> Test:
    if not isinstance(row, dict):
        raise Malformed(f"test {i}: a {type(row).__name__} where {{input, output}} was expected")
    given, wanted = _first(row, _INPUTS), _first(row, _OUTPUTS)
    if given is None:
        raise Malformed(f"test {i}: no input")
    metadata = _data(row.get("metadata")) if row.get("metadata") else {}
    function = row.get("fn_name") or (metadata.get("func_name") if isinstance(metadata, dict) else None)
    kind = row.get("type") or row.get("testtype") or ("functional" if function or told["entry_point"] else "stdin")
    call = kind in _CALL_KINDS
    checker = row.get("checker") or told["checker"]
    checker = CHECKERS.get(checker, checker) if isinstance(checker, str) else None
    if wanted is None and not (checker and not call):
        raise Malformed(f"test {i}: no expected output")
    points = _points(row.get("points", 1.0), f"test {i}")
    subtask = None if row.get("subtask") is None else str(row["subtask"])
    if call:
        function = function or told["entry_point"]
        if not isinstance(function, str) or not function.isidentifier():
            raise Malformed(f"test {i}: a call without the name of a function (fn_name)")
        return replace(_call(function, given, wanted, i), points=points, subtask=subtask)
    wanted = "" if wanted is None else _lines(wanted, f"test {i}: output")
    return StdinTest(_lines(given, f"test {i}: input"), wanted, checker or None, points, subtask)


def _call(function: str, given: Any, wanted: Any, i: int) -> CallTest:
    """A call from its arguments: a list of them, a mapping by name, or text with one value on each line."""
    if isinstance(given, dict):
        return CallTest(function, (), wanted, given)
    if isinstance(given, list | tuple):
        arguments = _integer_keys(list(given))
        return CallTest(function, tuple(arguments), _integer_keys(wanted))
    if not isinstance(given, str):
        raise Malformed(f"test {i}: the arguments of a call must be a list")
    try:
        arguments = [_value(line) for line in given.split("\n") if line.strip()]
    except ValueError as error:
        raise Malformed(f"test {i}: an argument that is neither JSON nor a Python literal") from error
    try:
        return CallTest(function, tuple(arguments), _value(wanted) if isinstance(wanted, str) else wanted)
    except ValueError:
        return CallTest(function, tuple(arguments), wanted)  # a string that nobody quoted


def _integer_keys(value: Any) -> Any:
    """JSON turned the integer keys of mappings into text; APPS and its descendants turn them back."""
    if isinstance(value, list):
        return [_integer_keys(item) for item in value]
    if isinstance(value, dict) and value and all(re.fullmatch(r"-?\d{1,18}", str(key)) for key in value):
        return {int(key): item for key, item in value.items()}
    return value


def _unwrapped(tests: list[Test]) -> tuple[Test, ...]:
    """The same calls with `[value]` read as `value`, if all of them return a list of one."""
    calls = [test for test in tests if isinstance(test, CallTest)]
    if len(calls) < len(tests) or not all(isinstance(t.expected, list) and len(t.expected) == 1 for t in calls):
        return ()
    return tuple(replace(test, expected=test.expected[0]) for test in calls)


def _lines(value: Any, at: str) -> str:
    """Text, from text, a number, or a list of lines."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, list | tuple) and all(isinstance(line, str | int | float) for line in value):
        return "\n".join(map(str, value))
    raise Malformed(f"{at}: a {type(value).__name__} where text was expected")


def _points(value: Any, at: str) -> float:
    value = 1.0 if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise Malformed(f"{at}: points must be a number from 0 up, got {value!r}")
    return float(value)


def _code_test(source: str, i: int, language: Language, setup: str, entry_point: str) -> AssertTest:
    """Test code that checks something when it is run after the program."""
    if not source.strip():
        raise Malformed(f"test {i}: empty")
    if language == "cpp":
        # MultiPL-E's tests begin with the brace that ends the function of the prompt.
        source = source.lstrip().removeprefix("}").lstrip()
    if language == "javascript":
        source = f"{{\n{source}\n}}\n"  # its names are not the program's
    if language != "python":
        return AssertTest(f"{setup}\n{source}" if setup else source)
    tree = _parsed(source, i)
    if not _checks(tree):
        source += _calls_of(tree, i, entry_point)
    return AssertTest(f"{setup}\n{source}" if setup else source)


def _parsed(source: str, i: int) -> ast.Module:
    try:
        tree = _syntax_tree(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Malformed(f"test {i}: not Python: {error}") from error
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            if name.partition(".")[0] not in sys.stdlib_module_names:
                raise Malformed(f"test {i}: needs the module {name!r}, which the sandbox does not have")
    return tree


def _checks(tree: ast.Module) -> bool:
    """Does this code do anything that can fail, beyond defining names?"""
    idle = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    done = (node for statement in tree.body if not isinstance(statement, idle) for node in ast.walk(statement))
    return any(isinstance(node, ast.Assert | ast.Call | ast.Raise) for node in done)


def _calls_of(tree: ast.Module, i: int, entry_point: str) -> str:
    """The calls that test code which only defines functions still needs; without them every program would pass."""
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    if "check" in defined:
        if not entry_point.isidentifier():
            raise Malformed(f"test {i}: defines check(candidate) but nothing calls it; give `entry_point`")
        return f"\ncheck({entry_point})\n"
    tests = [name for name in defined if name.startswith("test")]
    if not tests:
        raise Malformed(f"test {i}: checks nothing")
    return "\n" + "".join(f"{name}()\n" for name in tests)


def with_helpers(test: AssertTest, prefix: str, entry_point: str) -> AssertTest:
    """The test with the prefix's helpers, but for what it is about: that is the program's to define."""
    checked = re.findall(r"\w+", entry_point)
    for node in _syntax_tree(test.source).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            checked += [part.id for given in node.value.args for part in ast.walk(given) if isinstance(part, ast.Name)]
    if not checked and find_unfinished(prefix) is None:
        return test
    try:
        tree = _parsed(extract_helpers(prefix), 0)
    except Malformed:  # without them: the program has them too, and will fail as it should
        return test
    tree.body = [node for node in tree.body if not (isinstance(node, _Definition) and node.name in checked)]
    return replace(test, helpers=ast.unparse(tree))


def extract_helpers(prefix: str) -> str:
    """What stands in a Python prefix before its unfinished function; all of it if there is none."""
    found = find_unfinished(prefix)
    if found is None:
        return prefix
    outer, _ = found
    start = min([outer.lineno, *(decorator.lineno for decorator in outer.decorator_list)])
    return "\n".join(prefix.split("\n")[: start - 1])


def find_unfinished(prefix: str) -> tuple[_Definition, _Definition] | None:
    """The function without a body in which Python code ends, after the class it stands in (or itself)."""
    for ending in ("", "\n    pass", "\n        pass"):
        try:
            tree = _syntax_tree(prefix + ending)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        outer = tree.body[-1] if tree.body else None
        inner = outer.body[-1] if isinstance(outer, ast.ClassDef) else outer
        idle = isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and all(
            isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
            for node in inner.body
        )
        return (outer, inner) if idle else None
    return None


def split_assertions(suite: Suite) -> Suite:
    """The same suite with every assertion of its test code as a test of its own, where they do not need one another.

    They do not if the code (or the body of its `check`) is a list of assertions and nothing else.
    """
    if suite.language != "python":
        return suite
    tests = [part for test in suite.tests for part in (_parts(test) if isinstance(test, AssertTest) else [test])]
    return replace(suite, tests=tuple(tests))


def convert_to_calls(suite: Suite) -> Suite:
    """The same suite with assertions of the form `f(1, x=2) == [3]` as calls; other assertions stay as they are.

    Calls are judged on our side: a service that runs the program does not see what is expected, and the sandbox needs
    one process instead of two.
    """
    if suite.language == "javascript":
        tests = [part for test in suite.tests for part in _javascript_calls(test)]
        return replace(suite, tests=tuple(tests))
    if suite.language != "python":
        return suite
    suite = split_assertions(suite)
    return replace(
        suite, tests=tuple(_as_call(test) if isinstance(test, AssertTest) else test for test in suite.tests)
    )


_IDLE_JAVASCRIPT = re.compile(
    r"\s*(?:(?://.*)?|[{}]|"
    r"function test\(\) ?\{|test\(\);?|"
    r"(?:const|let|var) assert = require\(['\"](?:node:)?assert['\"]\);?)\s*"
)
_NAMED = re.compile(r"\s*(?:const|let|var) (\w+) = ([A-Za-z_$][\w$]*);?\s*")
_ASSERTED = re.compile(r"\s*assert\.(?:deepEqual|deepStrictEqual|equal|strictEqual)\(\s*([A-Za-z_$][\w$]*)\(")


def _javascript_calls(test: Test) -> list[Test]:
    """Calls out of JavaScript tests in MultiPL-E's form: lines of `assert.deepEqual(candidate(1, [2]), 3);`.

    Their types must agree, as in the Python tests that these were made from: "3" does not pass for 3.
    """
    if not isinstance(test, AssertTest):
        return [test]
    names: dict[str, str] = {}
    calls: list[CallTest] = []
    for line in test.source.splitlines():
        named, asserted = _NAMED.fullmatch(line), _ASSERTED.match(line)
        if named:
            names[named[1]] = named[2]
        elif asserted:
            try:
                arguments, at = _json_list(line, asserted.end(), ")")
                wanted, at = _json_list(line, at, ")")
            except ValueError:
                return [test]
            if len(wanted) != 1 or line[at:].strip() not in ("", ";"):
                return [test]
            function = names.get(asserted[1], asserted[1])
            calls.append(CallTest(function, tuple(arguments), wanted[0], {}, test.points, test.subtask, exact=True))
        elif not _IDLE_JAVASCRIPT.fullmatch(line):
            return [test]
    return [replace(call, points=call.points / len(calls)) for call in calls] or [test]


def _exact_number(text: str) -> int:
    if abs(int(text)) >= 1 << 53:
        raise ValueError("not exact in JavaScript")
    return int(text)


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} equals nothing")


_JSON = json.JSONDecoder(parse_int=_exact_number, parse_constant=_no_constant)


def _json_list(line: str, at: int, end: str) -> tuple[list[Any], int]:
    """JSON values, separated by commas (one may come first), up to and with `end`; where that is passed.

    Raises:
        ValueError: something else.
    """
    values: list[Any] = []
    while True:
        while line[at : at + 1] in (" ", ",") and line[at : at + 1]:
            at += 1
        if line[at : at + 1] == end:
            return values, at + 1
        if line.startswith("undefined", at):
            values.append(None)
            at += len("undefined")
        else:
            value, at = _JSON.raw_decode(line, at)
            values.append(value)


def _parts(test: AssertTest) -> list[Test]:
    found = _assertions(_syntax_tree(test.source))
    if found is None or len(found[1]) < 2:
        return [test]
    context, assertions, call = found
    parts: list[Test] = []
    for assertion in assertions:
        body = [*context, assertion]
        if call is not None:
            # The body of check(candidate): its assertion is about the name of its parameter.
            body = [*context, ast.Assign([ast.Name(call[0], ast.Store())], call[1]), assertion]
        source = ast.unparse(ast.fix_missing_locations(ast.Module(body, [])))
        parts.append(replace(test, source=source, points=test.points / len(assertions)))
    return parts


_Assertions = tuple[list[ast.stmt], list[ast.Assert], tuple[str, ast.expr] | None]


def _assertions(tree: ast.Module) -> _Assertions | None:
    """Context, assertions, and the parameter of `check` with what it stands for; None if it is not that simple."""
    context = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom | ast.Assign)]
    rest = [node for node in tree.body if node not in context and not _is_constant(node)]
    if rest and all(isinstance(node, ast.Assert) for node in rest):
        return context, _telling(rest), None
    match rest:
        case [
            ast.FunctionDef(name=name, args=ast.arguments(args=[ast.arg(arg=parameter)]), body=body),
            ast.Expr(ast.Call(func=ast.Name(id=called), args=[candidate], keywords=[])),
        ] if name == called:
            body = [node for node in body if not _is_constant(node) and not isinstance(node, ast.Pass)]
            if body and all(isinstance(node, ast.Assert) for node in body):
                return context, _telling(body), (parameter, candidate)
    return None


def _is_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _telling(assertions: list[Any]) -> list[ast.Assert]:
    """Without `assert True`, which HumanEval has a few of."""
    return [node for node in assertions if not isinstance(node.test, ast.Constant)] or assertions


def _as_call(test: AssertTest) -> Test:
    found = _assertions(_syntax_tree(test.source))
    if found is None or len(found[1]) != 1:
        return test
    _, (assertion,), call = found
    names = {} if call is None else {call[0]: call[1]}
    names |= {
        node.targets[0].id: node.value
        for node in found[0]
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    match assertion.test:
        case ast.Compare(left=ast.Call() as made, ops=[ast.Eq()], comparators=[wanted]):
            function = _function(made.func, names)
            try:
                arguments = tuple(ast.literal_eval(argument) for argument in made.args)
                keywords = {str(word.arg): ast.literal_eval(word.value) for word in made.keywords}
                expected = ast.literal_eval(wanted)
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                return test
            if any(isinstance(node, ast.Set) for argument in made.args for node in ast.walk(argument)):
                return test  # in which order a set is gone through depends on how it was made
            if function and all(word.arg for word in made.keywords):
                return CallTest(function, arguments, expected, keywords, test.points, test.subtask, exact=True)
    return test


def _function(made: ast.expr, names: dict[str, ast.expr]) -> str | None:
    """`f` of a call of f, of `Solution().f`, or of a name that stands for one of them."""
    match names.get(made.id, made) if isinstance(made, ast.Name) else made:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=ast.Call(func=ast.Name(id="Solution"), args=[], keywords=[]), attr=name):
            return name
    return None


def _data(value: Any) -> Any:
    """A structure out of JSON, a Python literal or an array; text that is neither is left as it is (test code).

    Raises:
        Malformed: it begins like a structure and is none.
    """
    if hasattr(value, "tolist"):  # a parquet file read by pandas or numpy
        value = value.tolist()
    if isinstance(value, str) and _PACKED.fullmatch(value):
        value = _unpacked(value)
    for _ in range(3):  # JSON inside JSON
        if not isinstance(value, str) or not _STRUCTURE.match(value):
            return value
        try:
            value = _value(value)
        except ValueError as error:
            raise Malformed(f"the tests are neither JSON nor a Python literal: {_short(value)}") from error
    return value


def _unpacked(text: str) -> str:
    """LiveCodeBench's hidden tests: JSON, pickled, compressed, in base64."""
    try:
        found = _PlainUnpickler(io.BytesIO(zlib.decompress(base64.b64decode(text)))).load()
    except Exception as error:  # pickle raises whatever the bytes lead it to
        raise Malformed(f"compressed tests that cannot be read: {error}") from error
    if not isinstance(found, str):
        raise Malformed(f"compressed tests that hold a {type(found).__name__} instead of text")
    return found


class _PlainUnpickler(pickle.Unpickler):
    """Reads builtin data only: nothing a pickle names is imported or called."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"refuses {module}.{name}")


def _value(text: str) -> Any:
    """The value of JSON or of a Python literal.

    Raises:
        ValueError: it is neither.
    """
    readers: tuple[Callable[[str], Any], ...] = (json.loads, ast.literal_eval)
    for reader in readers:
        try:
            return reader(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    raise ValueError(f"neither JSON nor a Python literal: {_short(text)}")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")


def _first(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    """The first value that is there."""
    value = next((row[key] for key in keys if row.get(key) is not None), None)
    return value.tolist() if hasattr(value, "tolist") else value


def _text_at(tests: dict[str, Any], key: str, otherwise: str) -> str:
    value = tests.get(key) or otherwise
    if not isinstance(value, str):
        raise Malformed(f"`{key}` must be text, got {value!r}")
    return value
