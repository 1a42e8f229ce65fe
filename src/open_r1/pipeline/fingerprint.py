"""What a stage's result depends on, as an address: its recipe, the code that matters, and its local files.

The recipe names the addresses of the stages that it takes something from, so that an address stands for all that
came before it as well. A comment, a docstring or a plot changes no address.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..benchmarks.registry import FOLDER as BENCHMARKS
from ..config.defaults import select_result_keys
from ..config.schema import TRAINERS
from ..engines.registry import ENGINES
from ..filters.registry import FILTERS
from ..rewards import registry
from ..system.source_digest import PACKAGE, digest_modules, find_version

ACCELERATE = Path("recipes/accelerate_configs")
DIGEST = "OPEN_R1_ADDRESS"  # environment variable: of the address that a job is to fill
STAGES = Path("runs/stages")  # each at its address; pipelines share them
# Modules that draw and print; tests/pipeline/test_fingerprint.py checks that no result takes a value from them.
PRESENTATION = r"open_r1\.(report|estimate)(\..*)?"
LIBRARIES = {
    **dict.fromkeys(TRAINERS, ("torch", "transformers", "trl", "accelerate", "peft", "datasets")),
    "sample": ("torch", "transformers", "datasets"),
    "evaluate": ("torch", "transformers", "datasets", "math-verify"),
    "select": ("datasets", "math-verify", "rensa"),
    "mix": ("transformers", "datasets", "rensa"),
}
BENCHMARK_PRESENTATION = ("title", "source")
PATH_KEYS = ("path", "model", "model_name_or_path", "tokenizer_name_or_path", "file")
SOURCES = ("datasets", "eval_datasets", "against")  # of these a bare text is a path
WHOLE = 64 << 20  # bytes; of larger files the time is taken, the size, and the ends are read
END = 8 << 20
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
NAMED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")  # package.module:function


def fingerprint_stage(task: str, given: dict[str, Any]) -> dict[str, Any]:
    """All that the result of a recipe depends on.

    Args:
        task: of the recipe.
        given: its keys.

    Returns:
        `recipe` (its keys, without those that change nothing of what is computed), `code` (module -> digest), `files`
        (path -> digest), `libraries` (name -> version), and the `digest` of all of these.
    """
    kept = select_result_keys(given)
    if task == "evaluate":
        kept["benchmarks"] = [
            {key: value for key, value in benchmark.items() if key not in BENCHMARK_PRESENTATION}
            for benchmark in kept["benchmarks"]
        ]
    found: dict[str, Any] = {
        "recipe": kept,
        "code": code(task, given),
        "files": {path: digest_path(Path(path)) for path in sorted(set(_paths(given)))},
        "libraries": _versions(task, given),
    }
    text = json.dumps(found | {"recipe": normalize_numbers(kept)}, sort_keys=True, default=str)
    return found | {"digest": hashlib.sha256(text.encode()).hexdigest()[:12]}


def normalize_numbers(value: Any) -> Any:
    """Numbers however they are written: 2e-3, which YAML takes for a text, 0.002, 2.0e-3."""
    if isinstance(value, dict):
        return {key: normalize_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [normalize_numbers(item) for item in value]
    written = isinstance(value, str) and NUMBER.fullmatch(value)
    return float(value) if written or (isinstance(value, int) and not isinstance(value, bool)) else value


def code(task: str, given: dict[str, Any]) -> dict[str, str]:
    """Digests of the modules that a recipe's task runs, by their names."""
    roots = {f"open_r1.{'selection' if task == 'select' else task}"}
    roots |= {name.partition(":")[0] for name in _texts(given) if NAMED.fullmatch(name)}
    roots |= {registry.locate(name).partition(":")[0] for name in _verifiers(given)}
    roots |= {FILTERS[name].partition(":")[0] for name in _texts(given.get("filters")) if name in FILTERS}
    engine = given.get("engine") or {}
    name = engine.get("name", "transformers") if isinstance(engine, dict) else str(engine)
    roots.add(ENGINES.get(name, name).partition(":")[0])
    found = digest_modules(roots, PRESENTATION)
    if "open_r1.prompts" in found:
        digest = hashlib.sha256()
        for template in sorted((PACKAGE / "templates").glob("*.jinja")):
            digest.update(template.read_bytes())
        found["open_r1.templates"] = digest.hexdigest()[:16]
    return found


def _verifiers(given: dict[str, Any]) -> set[str]:
    """Names of the rewards of a recipe, and of the verifiers of its benchmarks."""
    listed = [*(given.get("rewards") or []), *(b.get("verifier") for b in given.get("benchmarks") or [])]
    return {entry["name"] if isinstance(entry, dict) else str(entry) for entry in listed if entry}


def digest_path(path: Path) -> str:
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
    names = {*LIBRARIES[task]}
    names |= {"bitsandbytes"} if given.get("load_in_4bit") or given.get("load_in_8bit") else set()
    names |= {"deepspeed"} if str(given.get("accelerate_config", "")).startswith("zero") else set()
    names |= {"vllm"} if "vllm" in _texts(given.get("engine")) else set()
    found = {name: find_version(name) for name in names}
    for name in _verifiers(given):
        found |= registry.list_libraries(name)
    return {"python": platform.python_version()} | dict(sorted(found.items()))
