"""Assertions of test code as tests of their own, and as calls with an expected value.

A service that runs the calls does not see what is expected, and the local sandbox needs one process for them, not two.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from typing import Any

from ...sandbox.cases import AssertTest, CallTest, Test
from .assert_tests import parse_python
from .suites import Suite


def split_assertions(suite: Suite) -> Suite:
    """The suite with each assertion of its test code as a separate test, if they do not depend on one another.

    They do not if the code (or the body of its `check`) is a list of assertions and nothing else.
    """
    if suite.language != "python":
        return suite
    return replace(suite, tests=tuple(part for test in suite.tests for part in _split_test(test)))


def convert_to_calls(suite: Suite) -> Suite:
    """The suite with assertions of the form `f(1, x=2) == [3]` as calls; other tests stay unchanged."""
    if suite.language == "javascript":
        return replace(suite, tests=tuple(call for test in suite.tests for call in _convert_javascript(test)))
    if suite.language != "python":
        return suite
    return replace(suite, tests=tuple(_convert_python(test) for test in split_assertions(suite).tests))


_IDLE_JAVASCRIPT = re.compile(
    r"\s*(?:(?://.*)?|[{}]|"
    r"function test\(\) ?\{|test\(\);?|"
    r"(?:const|let|var) assert = require\(['\"](?:node:)?assert['\"]\);?)\s*"
)
_ALIAS = re.compile(r"\s*(?:const|let|var) (\w+) = ([A-Za-z_$][\w$]*);?\s*")
_ASSERTION = re.compile(r"\s*assert\.(?:deepEqual|deepStrictEqual|equal|strictEqual)\(\s*([A-Za-z_$][\w$]*)\(")


def _convert_javascript(test: Test) -> list[Test]:
    """The calls of a JavaScript test in MultiPL-E's form: lines of `assert.deepEqual(candidate(1, [2]), 3);`.

    Types must agree, as in the Python tests that these were translated from: "3" does not equal 3.
    """
    if not isinstance(test, AssertTest):
        return [test]
    names: dict[str, str] = {}
    calls: list[CallTest] = []
    for line in test.source.splitlines():
        alias, assertion = _ALIAS.fullmatch(line), _ASSERTION.match(line)
        if alias:
            names[alias[1]] = alias[2]
        elif assertion:
            try:
                arguments, end = _read_json_list(line, assertion.end(), ")")
                wanted, end = _read_json_list(line, end, ")")
            except ValueError:
                return [test]
            if len(wanted) != 1 or line[end:].strip() not in ("", ";"):
                return [test]
            function = names.get(assertion[1], assertion[1])
            calls.append(CallTest(function, tuple(arguments), wanted[0], {}, test.points, test.subtask, exact=True))
        elif not _IDLE_JAVASCRIPT.fullmatch(line):
            return [test]
    return [replace(call, points=call.points / len(calls)) for call in calls] or [test]


def _read_integer(text: str) -> int:
    if abs(int(text)) >= 1 << 53:
        raise ValueError("not exact in JavaScript")
    return int(text)


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} equals nothing")


_JSON = json.JSONDecoder(parse_int=_read_integer, parse_constant=_refuse_constant)


def _read_json_list(line: str, at: int, end: str) -> tuple[list[Any], int]:
    """JSON values separated by commas (one may come first), up to `end`; and the position after it.

    Raises:
        ValueError: something else stands there.
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


def _split_test(test: Test) -> list[Test]:
    found = _find_assertions(parse_python(test.source)) if isinstance(test, AssertTest) else None
    if found is None or len(found[1]) < 2:
        return [test]
    context, assertions, candidate = found
    if candidate is not None:
        # The assertions of check(candidate) use the name of its parameter.
        context = [*context, ast.Assign([ast.Name(candidate[0], ast.Store())], candidate[1])]
    return [
        replace(
            test,
            source=ast.unparse(ast.fix_missing_locations(ast.Module([*context, assertion], []))),
            points=test.points / len(assertions),
        )
        for assertion in assertions
    ]


_Assertions = tuple[list[ast.stmt], list[ast.Assert], tuple[str, ast.expr] | None]


def _find_assertions(tree: ast.Module) -> _Assertions | None:
    """Context, assertions, and the parameter of `check` with its value; None for any other code."""
    context = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom | ast.Assign)]
    rest = [node for node in tree.body if node not in context and not _is_constant(node)]
    if rest and all(isinstance(node, ast.Assert) for node in rest):
        return context, _drop_constants(rest), None
    match rest:
        case [
            ast.FunctionDef(name=name, args=ast.arguments(args=[ast.arg(arg=parameter)]), body=body),
            ast.Expr(ast.Call(func=ast.Name(id=called), args=[candidate], keywords=[])),
        ] if name == called:
            body = [node for node in body if not _is_constant(node) and not isinstance(node, ast.Pass)]
            if body and all(isinstance(node, ast.Assert) for node in body):
                return context, _drop_constants(body), (parameter, candidate)
    return None


def _is_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _drop_constants(assertions: list[Any]) -> list[ast.Assert]:
    """The assertions without `assert True`, which some of HumanEval's tests have."""
    return [node for node in assertions if not isinstance(node.test, ast.Constant)] or assertions


def _convert_python(test: Test) -> Test:
    found = _find_assertions(parse_python(test.source)) if isinstance(test, AssertTest) else None
    if found is None or len(found[1]) != 1:
        return test
    context, (assertion,), candidate = found
    names = {} if candidate is None else {candidate[0]: candidate[1]}
    names |= {
        node.targets[0].id: node.value
        for node in context
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    match assertion.test:
        case ast.Compare(left=ast.Call() as made, ops=[ast.Eq()], comparators=[wanted]):
            function = _find_function(made.func, names)
            try:
                arguments = tuple(ast.literal_eval(argument) for argument in made.args)
                keywords = {str(word.arg): ast.literal_eval(word.value) for word in made.keywords}
                expected = ast.literal_eval(wanted)
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                return test
            if any(isinstance(node, ast.Set) for argument in made.args for node in ast.walk(argument)):
                return test  # the order of a set depends on how it was made
            if function and all(word.arg for word in made.keywords):
                return CallTest(function, arguments, expected, keywords, test.points, test.subtask, exact=True)
    return test


def _find_function(called: ast.expr, names: dict[str, ast.expr]) -> str | None:
    """`f` for a call of f, of `Solution().f`, or of a name that stands for one of them."""
    match names.get(called.id, called) if isinstance(called, ast.Name) else called:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=ast.Call(func=ast.Name(id="Solution"), args=[], keywords=[]), attr=name):
            return name
    return None
