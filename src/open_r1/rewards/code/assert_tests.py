"""Test code as assert tests: what it needs before it checks something, and the helpers of a prompt that it may use."""

from __future__ import annotations

import ast
import re
import sys
import threading
from dataclasses import replace

from ...sandbox.cases import AssertTest, Language

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_UNPARSABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
_parsing = threading.Lock()


class Malformed(ValueError):
    """Tests that cannot be read; names the test and what it lacks."""


def parse_python(source: str) -> ast.Module:
    """`ast.parse`, in one thread at a time: in Python 3.11 two at once may end in a SystemError."""
    with _parsing:
        return ast.parse(source)


def read_test_code(source: str, i: int, language: Language, setup: str, entry_point: str) -> AssertTest:
    """Test code that checks something when it runs after the program.

    Args:
        source: of the test.
        i: number of the test, for messages.
        language: of the test and the program.
        setup: code that runs before it.
        entry_point: the function that `check(candidate)` is called with.

    Raises:
        Malformed: the code is not Python, needs a module that the sandbox lacks, or checks nothing.
    """
    if not source.strip():
        raise Malformed(f"test {i}: empty")
    if language == "cpp":
        # MultiPL-E's tests begin with the brace that ends the function of the prompt.
        source = source.lstrip().removeprefix("}").lstrip()
    if language == "javascript":
        source = f"{{\n{source}\n}}\n"  # a block keeps its names apart from the program's
    if language == "python":
        tree = _parse_test(source, i)
        if not _checks_something(tree):
            source += _write_calls(tree, i, entry_point)
    return AssertTest(f"{setup}\n{source}" if setup else source)


def _parse_test(source: str, i: int) -> ast.Module:
    try:
        tree = parse_python(source)
    except _UNPARSABLE as error:
        raise Malformed(f"test {i}: not Python: {error}") from error
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            if name.partition(".")[0] not in sys.stdlib_module_names:
                raise Malformed(f"test {i}: needs the module {name!r}, which the sandbox does not have")
    return tree


def _checks_something(tree: ast.Module) -> bool:
    """True if this code does anything that can fail, beyond defining names."""
    idle = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    active = (node for statement in tree.body if not isinstance(statement, idle) for node in ast.walk(statement))
    return any(isinstance(node, ast.Assert | ast.Call | ast.Raise) for node in active)


def _write_calls(tree: ast.Module, i: int, entry_point: str) -> str:
    """Calls of the functions that test code only defines; without them every program would pass."""
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    if "check" in defined:
        if not entry_point.isidentifier():
            raise Malformed(f"test {i}: defines check(candidate) but nothing calls it; give `entry_point`")
        return f"\ncheck({entry_point})\n"
    tests = [name for name in defined if name.startswith("test")]
    if not tests:
        raise Malformed(f"test {i}: checks nothing")
    return "\n" + "".join(f"{name}()\n" for name in tests)


def add_helpers(test: AssertTest, prefix: str, entry_point: str) -> AssertTest:
    """The test with the helpers of a prefix, except for the functions under test, which the program must define."""
    checked = re.findall(r"\w+", entry_point)
    for node in parse_python(test.source).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            checked += [part.id for given in node.value.args for part in ast.walk(given) if isinstance(part, ast.Name)]
    if not checked and find_unfinished(prefix) is None:
        return test
    try:
        tree = _parse_test(extract_helpers(prefix), 0)
    except Malformed:  # no helpers then: the program has the same prefix, and will fail as it should
        return test
    tree.body = [node for node in tree.body if not (isinstance(node, Definition) and node.name in checked)]
    return replace(test, helpers=ast.unparse(tree))


def extract_helpers(prefix: str) -> str:
    """The part of a Python prefix before its unfinished function; all of it if there is none."""
    found = find_unfinished(prefix)
    if found is None:
        return prefix
    outer, _ = found
    start = min([outer.lineno, *(decorator.lineno for decorator in outer.decorator_list)])
    return "\n".join(prefix.split("\n")[: start - 1])


def find_unfinished(prefix: str) -> tuple[Definition, Definition] | None:
    """The function without a body at the end of Python code, after the class that contains it (or after itself)."""
    for ending in ("", "\n    pass", "\n        pass"):
        try:
            tree = parse_python(prefix + ending)
        except _UNPARSABLE:
            continue
        outer = tree.body[-1] if tree.body else None
        inner = outer.body[-1] if isinstance(outer, ast.ClassDef) else outer
        idle = isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and all(
            isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
            for node in inner.body
        )
        return (outer, inner) if idle else None
    return None
