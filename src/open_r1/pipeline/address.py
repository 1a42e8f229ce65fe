"""What a stage's result depends on, as an address: its recipe, the code that matters, and its local files.

The recipe names the addresses of the stages that it takes something from, so that an address stands for all that
came before it as well. A comment, a docstring or a plot changes no address.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from .. import rewards
from ..benchmarks import FOLDER as BENCHMARKS
from ..configs import TRAINERS, computed
from ..engines import ENGINES

PACKAGE = Path(__file__).parents[1]
ACCELERATE = Path("recipes/accelerate_configs")
DIGEST = "OPEN_R1_ADDRESS"  # environment variable: of the address that a job is to fill
STAGES = Path("runs/stages")  # each at its address; pipelines share them
# What shows, checks or starts a run, and does not change what comes of it.
PRESENTATION = {
    "agent", "begun", "benchmarks", "checks", "claims", "cli", "comparable", "compare", "dataset_card",
    "directory", "drawings", "errors", "estimate", "failures", "figures", "group", "guard", "hardware", "hub",
    "launch", "lineage", "network", "nodes", "pages", "pipeline", "plots", "preflight", "processes", "progress",
    "quiet", "reference", "report", "serving", "significance", "slurm", "tables", "toy",
}  # fmt: skip
LIBRARIES = {
    **dict.fromkeys(TRAINERS, ("torch", "transformers", "trl", "accelerate", "peft", "datasets")),
    "sample": ("torch", "transformers", "datasets"),
    "evaluate": ("torch", "transformers", "datasets", "math-verify"),
    "select": ("datasets", "math-verify"),
    "mix": ("transformers", "datasets"),
}
BENCHMARK_PRESENTATION = ("title", "source")
# What an engine or a reward brings along.
MORE_LIBRARIES = {"vllm": ("vllm",), "reward_model": ("torch", "transformers")}
PATH_KEYS = ("path", "model", "model_name_or_path", "tokenizer_name_or_path", "file")
SOURCES = ("datasets", "eval_datasets", "against")  # of these a bare text is a path
WHOLE = 64 << 20  # bytes; of larger files the time is taken, the size, and the ends are read
END = 8 << 20
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
NAMED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")  # package.module:function


def of(task: str, given: dict[str, Any]) -> dict[str, Any]:
    """All that the result of a recipe depends on.

    Args:
        task: of the recipe.
        given: its keys.

    Returns:
        `recipe` (its keys, without those that change nothing of what is computed), `code` (module -> digest), `files`
        (path -> digest), `libraries` (name -> version), and the `digest` of all of these.
    """
    kept = computed(given)
    if task == "evaluate":
        kept["benchmarks"] = [
            {key: value for key, value in benchmark.items() if key not in BENCHMARK_PRESENTATION}
            for benchmark in kept["benchmarks"]
        ]
    found: dict[str, Any] = {
        "recipe": kept,
        "code": code(task, given),
        "files": {path: content(Path(path)) for path in sorted(set(_paths(given)))},
        "libraries": _versions(task, given),
    }
    text = json.dumps(found | {"recipe": normal(kept)}, sort_keys=True, default=str)
    return found | {"digest": hashlib.sha256(text.encode()).hexdigest()[:12]}


def normal(value: Any) -> Any:
    """Numbers however they are written: 2e-3, which YAML takes for a text, 0.002, 2.0e-3."""
    if isinstance(value, dict):
        return {key: normal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [normal(item) for item in value]
    written = isinstance(value, str) and NUMBER.fullmatch(value)
    return float(value) if written or (isinstance(value, int) and not isinstance(value, bool)) else value


def code(task: str, given: dict[str, Any]) -> dict[str, str]:
    """Digests of the modules that a recipe's task runs, by their names."""
    roots = {f"open_r1.{'selection' if task == 'select' else task}"}
    roots |= {name.partition(":")[0] for name in _texts(given) if NAMED.fullmatch(name)}
    for reward in [*(given.get("rewards") or []), *(b.get("verifier") for b in given.get("benchmarks") or [])]:
        name = reward.get("name", "") if isinstance(reward, dict) else str(reward)
        roots.add(rewards.REWARDS.get(name, name).partition(":")[0])
    engine = given.get("engine") or {}
    name = engine.get("name", "transformers") if isinstance(engine, dict) else str(engine)
    roots.add(ENGINES.get(name, name).partition(":")[0])
    found: dict[str, str] = {}
    left = sorted(roots)
    while left:
        module = left.pop()
        path = _source(module)
        if module in found or path is None:
            continue
        found[module], imported = _module(path, module)
        left += imported
    return dict(sorted(found.items()))


def content(path: Path) -> str:
    """Digest of a file, or of all files of a folder; of large ones the time, the size and both ends."""
    digest = hashlib.sha256()
    files = sorted(f for f in path.rglob("*") if f.is_file() and ".cache" not in f.parts) if path.is_dir() else [path]
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path) if path.is_dir() else ''} {size}\0".encode())
        with file.open("rb") as opened:
            if size <= WHOLE:
                digest.update(opened.read())
            else:
                digest.update(f"{file.stat().st_mtime_ns}".encode())
                digest.update(opened.read(END))
                opened.seek(-END, 2)
                digest.update(opened.read(END))
    return digest.hexdigest()[:16]


def _texts(value: Any) -> Iterator[str]:
    """All texts in nested lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _paths(value: Any, key: str = "") -> Iterator[str]:
    """Local files that a recipe names anywhere, and folders where it must; stages go by their addresses.

    Args:
        value: the recipe, or a part of it.
        key: that holds it.
    """
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _paths(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _paths(item, key)
    elif isinstance(value, str) and value and len(value) < 300 and "\n" not in value and not _of_a_stage(value):
        known = {"against": BENCHMARKS / f"{value}.yaml", "accelerate_config": ACCELERATE / f"{value}.yaml"}.get(key)
        path = Path(value)
        if known is not None and known.is_file():
            yield str(known)
        elif path.is_file() or (key in (*PATH_KEYS, *SOURCES) and path.is_dir()):
            yield value


def _of_a_stage(path: str) -> bool:
    return path.startswith(f"{STAGES}/")


def _versions(task: str, given: dict[str, Any]) -> dict[str, str]:
    names = {*LIBRARIES[task], *(("math-verify",) if given.get("rewards") else ())}
    names |= {"bitsandbytes"} if given.get("load_in_4bit") or given.get("load_in_8bit") else set()
    names |= {"deepspeed"} if str(given.get("accelerate_config", "")).startswith("zero") else set()
    for text in _texts([given.get("engine"), given.get("rewards")]):
        names |= {*MORE_LIBRARIES.get(text, ())}
    return {"python": platform.python_version()} | {name: _version(name) for name in sorted(names)}


@cache
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


@cache
def _source(module: str) -> Path | None:
    """The file of a module; None if it is none of Python's source, or of an installed library."""
    if module.startswith("open_r1"):
        base = PACKAGE.joinpath(*module.split(".")[1:])
        return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
    if module.partition(".")[0] in sys.stdlib_module_names:
        return None
    try:
        # Of the first name alone, at first: the rest of an installed library would be imported to be found.
        found = importlib.util.find_spec(module.partition(".")[0])
        if found and found.origin and "site-packages" not in Path(found.origin).parts:
            found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    origin = Path(found.origin) if found and found.origin and found.origin.endswith(".py") else None
    return None if origin is None or "site-packages" in origin.parts else origin


def _module(path: Path, name: str) -> tuple[str, list[str]]:
    """Digest of a module's code, and the modules of this package that it imports."""
    stat = path.stat()
    return _parsed(path, name, stat.st_mtime_ns, stat.st_size)


@cache
def _parsed(path: Path, name: str, modified: int, size: int) -> tuple[str, list[str]]:
    """The same of a file as it is now, which its time and size tell."""
    tree = ast.parse(path.read_bytes())
    imported = sorted(_imports(tree, name, path.name == "__init__.py"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and _is_text(body[0].value):
            node.body = body[1:] or [ast.Pass()]  # a docstring
    more = b"".join(
        path.read_bytes() for path in sorted((PACKAGE / "templates").glob("*.jinja")) if not _is_page(path)
    )
    text = ast.dump(tree).encode() + (more if name == "open_r1.prompts" else b"")
    return hashlib.sha256(text).hexdigest()[:16], imported


def _is_page(template: Path) -> bool:
    return template.name.endswith(".html.jinja")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _imports(tree: ast.AST, name: str, package: bool) -> set[str]:
    """Modules of this package, or of one's own, that a module imports, anywhere in it but for annotations only."""
    parts = name.split(".") if package else name.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    own = {module for module in found if module.startswith("open_r1.") or not name.startswith("open_r1.")}
    return {module for module in own if not _is_presentation(module) and _source(module)}


def _is_presentation(module: str) -> bool:
    first, _, rest = module.partition(".")
    return first == "open_r1" and rest.partition(".")[0] in PRESENTATION
