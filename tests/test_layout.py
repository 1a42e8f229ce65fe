"""Sizes that keep a file readable, and packages that only hand names on."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import open_r1

SOURCE = Path(open_r1.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
FILE_LINES, FUNCTION_LINES, PACKAGE_LINES = 500, 60, 40
VAGUE = {"of", "told", "find", "check", "get", "do"}  # names that say nothing where they are called


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_can_be_read(path):
    text = path.read_text()
    assert len(text.splitlines()) <= (PACKAGE_LINES if path.name == "__init__.py" else FILE_LINES)
    tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    assert not {name: lines for name, lines in long.items() if lines > FUNCTION_LINES}
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert not VAGUE & set(defined)
    if path.name == "__init__.py":
        assert not defined, "a package hands names on, and defines none"
