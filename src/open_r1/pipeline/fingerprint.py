"""The fingerprint of a stage: a digest of everything that its result depends on.

That is the recipe, the code that computes, local files and versions of libraries. The recipe names the directories of
the upstream stages, and these are named by their fingerprints; so a fingerprint covers all that came before. A
comment, a docstring or a plot changes no fingerprint.
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
from ..config.schema import TRAINERS, find_task_module
from ..engines.registry import ENGINES
from ..filters.registry import FILTERS
from ..rewards import registry
from ..system.source_digest import PACKAGE, digest_modules, find_libraries, find_version

ACCELERATE = Path("recipes/accelerate_configs")
DIGEST = "OPEN_R1_ADDRESS"  # environment variable of a Slurm job: the fingerprint that its plan was made with
STAGES = Path("runs/stages")  # run directories, named by fingerprint and shared by all pipelines
# Wings that draw and print; tests/pipeline/test_fingerprint.py checks that no result takes a value from them.
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
SOURCES = ("datasets", "eval_datasets", "against")  # in these lists a bare string is a path
WHOLE = 64 << 20  # bytes; a larger file is known by its time, its size and both ends
END = 8 << 20
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
NAMED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")  # package.module:function


def fingerprint_stage(task: str, given: dict[str, Any]) -> dict[str, Any]:
    """Fingerprint a recipe.

    Args:
        task: of the recipe.
        given: its resolved keys.

    Returns:
        `recipe` (the keys that change a result), `code` (module -> digest), `files` (path -> digest), `libraries`
        (name -> version), and `digest`: 12 hex digits of all of these.
    """
    kept = select_result_keys(given)
    if task == "evaluate":
        kept["benchmarks"] = [
            {key: value for key, value in benchmark.items() if key not in BENCHMARK_PRESENTATION}
            for benchmark in kept["benchmarks"]
        ]
    code = digest_code(task, given)
    found: dict[str, Any] = {
        "recipe": kept,
        "code": code,
        "files": {path: digest_path(Path(path)) for path in sorted(set(_find_paths(given)))},
        "libraries": _find_versions(task, given, code),
    }
    text = json.dumps(found | {"recipe": normalize_numbers(kept)}, sort_keys=True, default=str)
    return found | {"digest": hashlib.sha256(text.encode()).hexdigest()[:12]}


def normalize_numbers(value: Any) -> Any:
    """The same value with every number as a float: 2e-3 (which YAML reads as a string), 0.002 and 2.0e-3 are equal."""
    if isinstance(value, dict):
        return {key: normalize_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [normalize_numbers(item) for item in value]
    written = isinstance(value, str) and NUMBER.fullmatch(value)
    return float(value) if written or (isinstance(value, int) and not isinstance(value, bool)) else value


def digest_code(task: str, given: dict[str, Any]) -> dict[str, str]:
    """Module -> digest, for every module that computes a recipe's result."""
    roots = {find_task_module(task)}
    roots |= {name.partition(":")[0] for name in _find_strings(given) if NAMED.fullmatch(name)}
    roots |= {registry.locate(name).partition(":")[0] for name in _list_verifiers(given)}
    roots |= {FILTERS[name].partition(":")[0] for name in _find_strings(given.get("filters")) if name in FILTERS}
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


def _list_verifiers(given: dict[str, Any]) -> set[str]:
    """Names of a recipe's rewards and of its benchmarks' verifiers."""
    listed = [*(given.get("rewards") or []), *(b.get("verifier") for b in given.get("benchmarks") or [])]
    return {entry["name"] if isinstance(entry, dict) else str(entry) for entry in listed if entry}


def digest_path(path: Path) -> str:
    """Digest of a file or of all files in a folder; of a large file, of its time, its size and both ends."""
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


def _find_strings(value: Any) -> Iterator[str]:
    """All strings in nested lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _find_strings(item)


def _find_paths(value: Any, key: str = "") -> Iterator[str]:
    """Local files that a recipe names under any key, and folders under the keys that name sources or models.

    Directories of stages are left out: their names are fingerprints.

    Args:
        value: the recipe or a part of it.
        key: the key that holds the part.
    """
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _find_paths(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _find_paths(item, key)
    elif (
        isinstance(value, str)
        and value
        and len(value) < 300
        and "\n" not in value
        and not value.startswith(f"{STAGES}/")
    ):
        known = {"against": BENCHMARKS / f"{value}.yaml", "accelerate_config": ACCELERATE / f"{value}.yaml"}.get(key)
        path = Path(value)
        if known is not None and known.is_file():
            yield str(known)
        elif path.is_file() or (key in (*PATH_KEYS, *SOURCES) and path.is_dir()):
            yield value


def _find_versions(task: str, given: dict[str, Any], code: dict[str, str]) -> dict[str, str]:
    """Versions of the libraries that compute: the task's, the recipe's, and those that rewards and filters import."""
    names = {*LIBRARIES[task]}
    names |= {"bitsandbytes"} if given.get("load_in_4bit") or given.get("load_in_8bit") else set()
    names |= {"deepspeed"} if str(given.get("accelerate_config", "")).startswith("zero") else set()
    names |= {"vllm"} if "vllm" in _find_strings(given.get("engine")) else set()
    found = {name: find_version(name) for name in names}
    found |= find_libraries(module for module in code if module.startswith("open_r1.rewards."))
    for name in _list_verifiers(given):
        found |= registry.list_libraries(name)
    return {"python": platform.python_version()} | dict(sorted(found.items()))
