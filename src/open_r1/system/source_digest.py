"""Digests of Python modules by what they compute: a comment, a docstring or the layout changes none.

A digest is that of a module's syntax tree. Modules are followed through their imports, within this package and within
a user's own modules. Three more references count as imports, because code runs through them:

* a text that names a module, `"open_r1.rewards.math.math_verify"` or `"module:function"` (a worker imports it by
  that name), but not inside a dict: such a table is chosen from by a recipe, and the caller names the
  choice as a root;
* a text that names a file in the module's folder or below, `"zygote.py"` (another process runs it);
* in such a script, `import confine` for the file beside it.
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
    imported: tuple[str, ...]  # modules with source, of this package or of the user
    libraries: tuple[str, ...]  # names of installed packages, as they are imported


def digest_modules(roots: Iterable[str], leave_out: str = r"\b\B") -> dict[str, str]:
    """Digests of modules and of all modules that they reach.

    Args:
        roots: names of modules; those without Python source here (an installed library) are skipped.
        leave_out: a regular expression; modules whose whole names match are neither digested nor followed.

    Returns:
        module -> 16 hex digits, sorted by name.

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
        read = _read(path, module)
        found[module] = read.digest
        left += read.imported
    return dict(sorted(found.items()))


def find_libraries(modules: Iterable[str]) -> dict[str, str]:
    """Installed packages that these modules import themselves, and their versions; `none` where one is missing.

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
    """The version of an installed library; `none` if it is missing."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "none"


@cache
def find_source(module: str) -> Path | None:
    """The file of a module; None if it has no Python source, is of the standard library, or is installed."""
    first, _, rest = module.partition(".")
    if first == NAME:
        base = PACKAGE.joinpath(*rest.split(".")) if rest else PACKAGE
        return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
    if first in sys.stdlib_module_names:
        return None
    try:
        # The first name alone, at first: finding a submodule would import its installed library.
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
    """A module as its file is now, which time and size tell."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and _is_text(body[0].value):
            node.body = body[1:] or [ast.Pass()]  # a docstring
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    imports = set(_imports(tree, name, path)) | set(_named(tree, name, path))
    mine = {module for module in imports if find_source(module) and (module.startswith(NAME) or not _is_ours(name))}
    libraries = {module.partition(".")[0] for module in imports if find_source(module) is None}
    return _Module(
        hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16],
        tuple(sorted(mine)),
        tuple(sorted(libraries - sys.stdlib_module_names - {NAME})),
    )


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == NAME


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _imports(tree: ast.AST, name: str, path: Path) -> Iterator[str]:
    """Modules that import statements name, anywhere in a module."""
    parts = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                beside = _is_ours(name) and path.with_name(f"{alias.name}.py").is_file() and not _is_known(alias.name)
                yield ".".join([*parts, alias.name]) if beside else alias.name
        elif isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{module}.{alias.name}" if find_source(f"{module}.{alias.name}") else module


def _is_known(name: str) -> bool:
    return name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None


def _named(node: ast.AST, name: str, path: Path) -> Iterator[str]:
    """Modules and scripts with source that texts name, outside dicts."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        if match := MODULE.fullmatch(node.value):
            yield from (module for module in (match[1] or match[4],) if find_source(module))
        elif _is_ours(name) and SCRIPT.fullmatch(node.value):
            for script in path.parent.rglob(node.value):
                yield ".".join([NAME, *script.relative_to(PACKAGE).with_suffix("").parts])
    elif not isinstance(node, ast.Dict):
        for child in ast.iter_child_nodes(node):
            yield from _named(child, name, path)
