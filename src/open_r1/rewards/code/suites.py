"""The forms in which datasets store the tests of a programming problem, read into one: `Suite`.

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

Each may be a structure, JSON, or a Python literal. Tests that cannot be read raise `Malformed`, which says nothing
about any program.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import math
import pickle
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ...sandbox.cases import AssertTest, CallTest, Language, StdinTest, Test
from .assert_tests import Malformed, add_helpers, read_test_code

# Names of a language in datasets and in the info strings of fenced blocks.
LANGUAGE_NAMES: dict[Language, re.Pattern[str]] = {
    "python": re.compile(r"(c?python|py|pypy)[-_]?(3(\.\d+)?)?"),
    "cpp": re.compile(r"((c|g|gnu)\+\+|cpp|cc|cxx)[-_]?(\d[\da-z])?"),
    "javascript": re.compile(r"js|mjs|cjs|javascript|ecmascript|es6|node(\.?js)?"),
}
_KINDS = ("official", "public", "private", "generated")
_PARTS = (*(f"{kind}_tests" for kind in _KINDS), "public_test_cases", "private_test_cases")
_INPUTS = ("inputs", "input", "stdin")
_OUTPUTS = ("outputs", "output", "expected_output", "expected", "stdout")
# Checkers by name, for datasets whose answers are real numbers but which bring no checker.
CHECKERS = {
    # Word by word. A word that is expected as a real number (with a point or an exponent) may be off by 1e-6,
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
_CALL_TYPES = ("function_call", "functional", "call_based", "call")
# Text that must be data: a mapping, a list, or a whole string literal (JSON inside JSON).
_STRUCTURE = re.compile(r"\s*+([\[{]|\"[^\n]*\"\s*$)")
_COMPRESSED = re.compile(r"eJ[\w+/=]{20,}+\s*")


@dataclass(frozen=True)
class Suite:
    """The tests of one problem.

    Args:
        tests: at least one.
        language: of the program.
        prefix: code that goes before the program where the program lacks it: the imports, helpers and unfinished
            function of a HumanEval prompt.
        otherwise: a second reading of the same tests. APPS and TACO mostly wrap the expected value of a call in a list
            of one, and their graders accept either.
    """

    tests: tuple[Test, ...]
    language: Language = "python"
    prefix: str = ""
    otherwise: tuple[Test, ...] = ()


@dataclass(frozen=True)
class _Defaults:
    """Defaults for tests that set no values."""

    language: Language
    entry_point: str
    setup: str
    checker: str


def read_suite(
    tests: Any,
    *,
    language: str | None = None,
    entry_point: str | None = None,
    prefix: str | None = None,
    setup: str | None = None,
    checker: str | None = None,
) -> Suite:
    """Read a row's `tests`. Keys of their own (`{"language": "cpp", ...}`) override the arguments.

    Args:
        tests: any form in this module's table.
        language: of the program; Python by default.
        entry_point: the function that calls and `check(candidate)` test.
        prefix: see `Suite`.
        setup: code that runs before each assert test (MBPP's `test_setup_code` or `test_imports`).
        checker: program that judges outputs (see `StdinTest`), or the name of one in `CHECKERS`.

    Raises:
        Malformed: naming the test and what it lacks.

    >>> read_suite({"inputs": ["1 2"], "outputs": ["3"]}).tests
    (StdinTest(stdin='1 2', expected='3', checker=None, points=1.0, subtask=None),)
    """
    defaults = (language or "python", entry_point or "", prefix or "", setup or "", checker or "")
    return _read_cached(tests, *defaults) if isinstance(tests, str) else _read(tests, *defaults)


def find_language(name: str) -> Language | None:
    """The language with a name like `py`, `python3`, `C++17` or `node`; None for other languages."""
    name = name.strip().lower()
    return next((language for language, pattern in LANGUAGE_NAMES.items() if pattern.fullmatch(name)), None)


def _read(tests: Any, language: str, entry_point: str, prefix: str, setup: str, checker: str) -> Suite:
    tests = _decode(tests)
    if isinstance(tests, dict):
        tests = {key: value for key, value in tests.items() if value is not None}
        language = _get_text(tests, "language", language)
        prefix = _get_text(tests, "prefix", _get_text(tests, "preamble", prefix))
        if not isinstance(tests.get("fn_name"), list | tuple):
            entry_point = _get_text(tests, "entry_point", _get_text(tests, "fn_name", entry_point))
        checker = _get_text(tests, "checker", _get_text(tests, "generated_checker", checker))
        keys = ("test_imports", "test_setup_code", "setup")
        setup = "\n".join(_join_lines(tests[key], key) for key in keys if tests.get(key)) or setup
    known = find_language(language)
    if known is None:
        raise Malformed(f"unknown language {language!r}; known: {', '.join(LANGUAGE_NAMES)}")
    found = _read_tests(tests, _Defaults(known, entry_point, setup, checker))
    if not found:
        raise Malformed("there are no tests")
    if known == "python" and prefix:
        found = [add_helpers(test, prefix, entry_point) if isinstance(test, AssertTest) else test for test in found]
    return Suite(tuple(found), known, prefix, _unwrap_expected(found))


# Completions of one prompt share their tests, which may be megabytes of text.
_read_cached = lru_cache(maxsize=8)(_read)


def _read_tests(tests: Any, defaults: _Defaults) -> list[Test]:
    if tests is None:
        raise Malformed("there are no tests")
    if isinstance(tests, str):
        return [read_test_code(tests, 1, defaults.language, defaults.setup, defaults.entry_point)]
    if isinstance(tests, dict):
        return _read_mapping(tests, defaults)
    if not isinstance(tests, list | tuple):
        raise Malformed(f"the tests are a {type(tests).__name__}; they must be a list, a mapping or text")
    if all(isinstance(test, str) for test in tests):
        return [read_test_code(test, i, defaults.language, defaults.setup, "") for i, test in enumerate(tests, 1)]
    return _read_cases(tests, defaults)


def _read_mapping(tests: dict[str, Any], defaults: _Defaults) -> list[Test]:
    for key in ("functional", "test"):
        if isinstance(tests.get(key), str):
            return [read_test_code(tests[key], 1, defaults.language, defaults.setup, defaults.entry_point)]
    for key in ("test_list", "assert_case", "test_cases", "tests"):
        if tests.get(key):
            return _read_tests(_decode(tests[key]), defaults)
    if "subtasks" in tests:
        return _read_subtasks(_decode(tests["subtasks"]), defaults)
    parts = [key for key in _PARTS if tests.get(key)]
    if parts:
        return [test for key in parts for test in _read_tests(_decode(tests[key]), defaults)]
    inputs, outputs = _get_first(tests, _INPUTS), _get_first(tests, _OUTPUTS)
    if inputs is None and outputs is None:
        raise Malformed(f"no tests in a mapping of {', '.join(map(str, tests)) or 'nothing'}")
    if not isinstance(inputs, list | tuple) or not isinstance(outputs, list | tuple):
        if inputs is None or outputs is None:
            raise Malformed("no expected outputs" if outputs is None else "no inputs")
        return _read_cases([tests], defaults)
    if len(inputs) != len(outputs):
        raise Malformed(f"{len(inputs)} inputs and {len(outputs)} outputs")
    rows = [{"input": given, "output": wanted} for given, wanted in zip(inputs, outputs, strict=True)]
    for key in ("points", "subtask", "type", "testtype", "checker", "fn_name"):
        if isinstance(tests.get(key), list | tuple):
            if len(tests[key]) != len(rows):
                raise Malformed(f"{len(rows)} inputs and {len(tests[key])} {key}")
            rows = [row | {key: value} for row, value in zip(rows, tests[key], strict=True)]
    return _read_cases(rows, defaults)


def _read_subtasks(subtasks: Any, defaults: _Defaults) -> list[Test]:
    """Tests of `[{points, tests}]`; a subtask's points are divided evenly among its tests."""
    if not isinstance(subtasks, list | tuple):
        raise Malformed("`subtasks` must be a list of {points, tests}")
    found: list[Test] = []
    for i, subtask in enumerate(subtasks, 1):
        if not isinstance(subtask, dict) or "tests" not in subtask:
            raise Malformed(f"subtask {i}: no `tests`")
        try:
            tests = _read_tests(_decode(subtask["tests"]), defaults)
        except Malformed as error:
            raise Malformed(f"subtask {i}: {error}") from error
        if not tests:
            raise Malformed(f"subtask {i}: there are no tests")
        points = _read_points(subtask.get("points", 1.0), f"subtask {i}") / len(tests)
        found += [replace(test, points=points, subtask=str(subtask.get("name", i))) for test in tests]
    return found


def _read_cases(rows: list[Any] | tuple[Any, ...], defaults: _Defaults) -> list[Test]:
    tests = [_read_case(row, i, defaults) for i, row in enumerate(rows, 1)]
    printed = [test for test in tests if isinstance(test, StdinTest)]
    # One empty output may be right; if all are empty, the dataset lacks them.
    if printed and not any(test.expected.strip() or test.checker for test in printed):
        raise Malformed(f"test {tests.index(printed[0]) + 1}: the expected output is empty")
    return tests


def _read_case(row: Any, i: int, defaults: _Defaults) -> Test:
    if not isinstance(row, dict):
        raise Malformed(f"test {i}: a {type(row).__name__} where {{input, output}} was expected")
    given, wanted = _get_first(row, _INPUTS), _get_first(row, _OUTPUTS)
    if given is None:
        raise Malformed(f"test {i}: no input")
    metadata = _decode(row.get("metadata")) if row.get("metadata") else {}
    function = row.get("fn_name") or (metadata.get("func_name") if isinstance(metadata, dict) else None)
    kind = row.get("type") or row.get("testtype") or ("call" if function or defaults.entry_point else "stdin")
    is_call = kind in _CALL_TYPES
    checker = row.get("checker") or defaults.checker
    checker = CHECKERS.get(checker, checker) if isinstance(checker, str) else None
    if wanted is None and not (checker and not is_call):
        raise Malformed(f"test {i}: no expected output")
    points = _read_points(row.get("points", 1.0), f"test {i}")
    subtask = None if row.get("subtask") is None else str(row["subtask"])
    if is_call:
        function = function or defaults.entry_point
        if not isinstance(function, str) or not function.isidentifier():
            raise Malformed(f"test {i}: a call without the name of a function (fn_name)")
        return replace(_read_call(function, given, wanted, i), points=points, subtask=subtask)
    wanted = "" if wanted is None else _join_lines(wanted, f"test {i}: output")
    return StdinTest(_join_lines(given, f"test {i}: input"), wanted, checker or None, points, subtask)


def _read_call(function: str, given: Any, wanted: Any, i: int) -> CallTest:
    """A call from its arguments: a list, a mapping by name, or text with one value on each line."""
    if isinstance(given, dict):
        return CallTest(function, (), wanted, given)
    if isinstance(given, list | tuple):
        return CallTest(function, tuple(_restore_keys(list(given))), _restore_keys(wanted))
    if not isinstance(given, str):
        raise Malformed(f"test {i}: the arguments of a call must be a list")
    try:
        arguments = tuple(_read_value(line) for line in given.split("\n") if line.strip())
    except ValueError as error:
        raise Malformed(f"test {i}: an argument that is neither JSON nor a Python literal") from error
    try:
        return CallTest(function, arguments, _read_value(wanted) if isinstance(wanted, str) else wanted)
    except ValueError:
        return CallTest(function, arguments, wanted)  # a string without quotes


def _restore_keys(value: Any) -> Any:
    """JSON turns the integer keys of mappings into text; the graders of APPS and its descendants turn them back."""
    if isinstance(value, list):
        return [_restore_keys(item) for item in value]
    if isinstance(value, dict) and value and all(re.fullmatch(r"-?\d{1,18}", str(key)) for key in value):
        return {int(key): item for key, item in value.items()}
    return value


def _unwrap_expected(tests: list[Test]) -> tuple[Test, ...]:
    """The same calls with `[value]` read as `value`, if all of them return a list of one."""
    calls = [test for test in tests if isinstance(test, CallTest)]
    if len(calls) < len(tests) or not all(isinstance(t.expected, list) and len(t.expected) == 1 for t in calls):
        return ()
    return tuple(replace(test, expected=test.expected[0]) for test in calls)


def _join_lines(value: Any, at: str) -> str:
    """Text from text, a number, or a list of lines."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, list | tuple) and all(isinstance(line, str | int | float) for line in value):
        return "\n".join(map(str, value))
    raise Malformed(f"{at}: a {type(value).__name__} where text was expected")


def _read_points(value: Any, at: str) -> float:
    value = 1.0 if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise Malformed(f"{at}: points must be a number from 0 up, got {value!r}")
    return float(value)


def _decode(value: Any) -> Any:
    """A structure from JSON, a Python literal or an array; other text is test code and stays unchanged.

    Raises:
        Malformed: it begins like a structure but is none.
    """
    if hasattr(value, "tolist"):  # a parquet file read by pandas or numpy
        value = value.tolist()
    if isinstance(value, str) and _COMPRESSED.fullmatch(value):
        value = _decompress(value)
    for _ in range(3):  # JSON inside JSON
        if not isinstance(value, str) or not _STRUCTURE.match(value):
            return value
        try:
            value = _read_value(value)
        except ValueError as error:
            raise Malformed(f"the tests are {error}") from error
    return value


def _decompress(text: str) -> str:
    """LiveCodeBench's hidden tests: JSON, pickled, compressed, in base64."""
    try:
        found = _PlainUnpickler(io.BytesIO(zlib.decompress(base64.b64decode(text)))).load()
    except Exception as error:  # pickle raises whatever the bytes lead it to
        raise Malformed(f"compressed tests that cannot be read: {error}") from error
    if not isinstance(found, str):
        raise Malformed(f"compressed tests that hold a {type(found).__name__} instead of text")
    return found


class _PlainUnpickler(pickle.Unpickler):
    """Reads builtin data only: nothing that a pickle names is imported or called."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"refuses {module}.{name}")


def _read_value(text: str) -> Any:
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
    raise ValueError(f"neither JSON nor a Python literal: {text[:40] + '...' * (len(text) > 40)!r}")


def _get_first(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    """The first value that is not None."""
    value = next((row[key] for key in keys if row.get(key) is not None), None)
    return value.tolist() if hasattr(value, "tolist") else value


def _get_text(tests: dict[str, Any], key: str, default: str) -> str:
    value = tests.get(key) or default
    if not isinstance(value, str):
        raise Malformed(f"`{key}` must be text, got {value!r}")
    return value
