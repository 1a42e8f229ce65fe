"""Digests of Python modules that ignore comments, docstrings and layout.

A digest is the hash of a module's syntax tree. Imports are followed within this package and within a user's modules.
Three more references count as imports, because they run code:

* a string that names a module, `"open_r1.rewards.math.math_verify"` or `"module:function"`, outside of a dict. (Dicts
  are tables from which a recipe chooses; the caller passes the choice as a root.)
* a string that names a file in the module's folder or below, `"zygote.py"`, which another process runs;
* in such a script, `import confine` of the file beside it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1]
NAME = PACKAGE.name
MODULE = re.compile(rf"({NAME}(\.\w+)+)(:\w*)?|([A-Za-z_][\w.]*):[A-Za-z_]\w*")
SCRIPT = re.compile(r"[a-z]\w*\.py")


class _Module(NamedTuple):
    digest: str
    imported: list[str]  # modules of this package or of the user
    libraries: set[str]  # import names of installed packages


def digest_modules(roots: Iterable[str], leave_out: str = r"\b\B") -> dict[str, str]:
    """Digests of modules and of all modules that they import, directly or not.

    Args:
        roots: names of modules; installed libraries are skipped.
        leave_out: regular expression; modules whose full names match are neither digested nor followed.

    Returns:
        16 hex digits for each module, sorted by name.

    >>> list(digest_modules(["open_r1.rewards.repetition"]))
    ['open_r1.errors', 'open_r1.rewards.format', 'open_r1.rewards.repetition']
    """
    found: dict[str, str] = {}
    left = sorted(roots)
    while left:
        module = left.pop()
        path = find_source(module)
        if module in found or path is None or re.fullmatch(leave_out, module):
            continue
        found[module], imported, _ = _read(path, module)
        left += imported
    return dict(sorted(found.items()))


def find_libraries(modules: Iterable[str]) -> dict[str, str]:
    """Versions of the installed packages that these modules import directly; `none` for a missing one.

    >>> find_libraries(["open_r1.rewards.math.math_verify"])
    {'math-verify': '0.9.0', 'sympy': '1.14.0'}
    """
    sources = {module: find_source(module) for module in modules}
    names = {module.partition(".")[0] for module, path in sources.items() if path is None}
    names.update(*(_read(path, module).libraries for module, path in sources.items() if path is not None))
    known = importlib.metadata.packages_distributions() if names else {}
    return {library: find_version(library) for library in sorted({known.get(name, [name])[0] for name in names})}


@cache
def find_version(library: str) -> str:
    """The version of an installed package; `none` if it is missing."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "none"


@cache
def find_source(module: str) -> Path | None:
    """The file of a module; None for modules that are installed, in the standard library, or not in Python."""
    first, _, rest = module.partition(".")
    if first == NAME:
        base = PACKAGE.joinpath(*rest.split(".")) if rest else PACKAGE
        return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
    if first in sys.stdlib_module_names:
        return None
    try:
        # The top package first: finding a submodule of an installed library would import the library.
        found = importlib.util.find_spec(first)
        if found and found.origin and "site-packages" not in Path(found.origin).parts:
            found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    origin = Path(found.origin) if found and found.origin and found.origin.endswith(".py") else None
    return None if origin is None or "site-packages" in origin.parts else origin


def _read(path: Path, name: str) -> _Module:
    stat = path.stat()
    return _parse(path, name, stat.st_mtime_ns, stat.st_size)


@cache
def _parse(path: Path, name: str, modified: int, size: int) -> _Module:
    """Parse a module; the time and size of its file are part of the cache's key."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and _is_string(body[0].value):
            node.body = body[1:] or [ast.Pass()]  # without the docstring
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    imports = {*_list_imports(tree, name, path), *_list_named(tree, name, path)}
    with_source = {module for module in imports if find_source(module)}
    libraries = {module.partition(".")[0] for module in imports - with_source} - sys.stdlib_module_names - {NAME}
    followed = [module for module in with_source if module.startswith(NAME) or not _is_ours(name)]
    return _Module(hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16], followed, libraries)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == NAME


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _list_imports(tree: ast.AST, name: str, path: Path) -> Iterator[str]:
    """Modules in import statements, anywhere in a module."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                beside = _is_ours(name) and path.with_name(f"{alias.name}.py").is_file() and not _is_known(alias.name)
                yield f"{package}.{alias.name}" if beside else alias.name
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                yield f"{module}.{alias.name}" if find_source(f"{module}.{alias.name}") else module


def _is_known(name: str) -> bool:
    return name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None


def _list_named(node: ast.AST, name: str, path: Path) -> Iterator[str]:
    """Modules and scripts with source that strings name, outside of dicts."""
    if _is_string(node):
        if match := MODULE.fullmatch(node.value):
            yield from filter(find_source, [match[1] or match[4]])
        elif _is_ours(name) and SCRIPT.fullmatch(node.value):
            for script in path.parent.rglob(node.value):
                yield ".".join([NAME, *script.relative_to(PACKAGE).with_suffix("").parts])
    elif not isinstance(node, ast.Dict):
        for child in ast.iter_child_nodes(node):
            yield from _list_named(child, name, path)
