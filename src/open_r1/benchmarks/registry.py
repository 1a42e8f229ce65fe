"""Benchmarks by name: each YAML file beside this one holds the keys of `config.schema.BenchmarkConfig`.

A user's benchmark is such a file, named by its path, or a mapping in the recipe. Only YAML is read here: the loader of
recipes checks keys and types, and evaluation loads the problems.

IFEval is missing: lm-eval 0.4.13, which has its checks, installs with this project's versions, but downloads a model
of nltk when it is imported. A user's scorer can call it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ..errors import RecipeError, suggest_nearest

FOLDER = Path(__file__).parent
SUFFIXES = (".yaml", ".yml")


def list_benchmarks() -> list[str]:
    """The names of the benchmarks in this package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find_benchmark(entry: Any) -> dict[str, Any]:
    """All keys of a benchmark, from its file and the recipe. Applied to its own result it changes nothing.

    Args:
        entry: an entry of a recipe's `benchmarks`: a name; the path of a file; or a mapping with one of these as
            `name` and keys that replace the file's, or with a new name and its own `datasets`.

    Raises:
        RecipeError: unknown name or file, a file or an entry that is no mapping, or a file with the name of another
            benchmark.
    """
    changes = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(changes, dict) or not isinstance(changes.get("name"), str):
        raise RecipeError(f"benchmarks: expected a name, a file or a mapping with a `name`, got {entry!r}")
    protocol = read_benchmark_file(changes)
    return {"name": changes["name"]} | protocol | {key: value for key, value in changes.items() if key != "name"}


def read_benchmark_file(entry: str | dict[str, Any]) -> dict[str, Any]:
    """The keys of a benchmark's file alone; {} for a benchmark without one.

    Raises:
        RecipeError: see `find_benchmark`.
    """
    name = entry if isinstance(entry, str) else entry["name"]
    if isinstance(entry, dict) and entry.get("file") and Path(entry["file"]).is_file():
        return _read_user_file(Path(entry["file"]))
    if name.endswith(SUFFIXES):
        return _read_user_file(Path(name))
    if name in list_benchmarks():
        return {"name": name} | _read(FOLDER / f"{name}.yaml")
    if isinstance(entry, dict) and entry.get("datasets"):
        return {}
    raise RecipeError(
        f"benchmarks: there is no benchmark {name!r}{suggest_nearest(name, list_benchmarks())} (name your own by the "
        "path of its YAML file, or give its `datasets` beside its name)"
    )


def _read_user_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RecipeError(f"benchmarks: there is no file {path}")
    protocol = {"name": path.stem} | _read(path) | {"file": str(path)}
    # Figures under this name are read as those of the shipped protocol.
    if protocol["name"] in list_benchmarks():
        raise RecipeError(
            f"benchmarks: {path} has the name {protocol['name']!r} of another benchmark; give it another `name`, or "
            f"write only the changed keys in the recipe: `benchmarks: [{{name: {protocol['name']}, k: 4}}]`"
        )
    return protocol


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"benchmarks: {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"benchmarks: {path} must be a mapping of keys to values, got {type(content).__name__}")
    return content


MOST_VOTES = 1000  # C(n, n / 2) exceeds the largest float from n = 1,030


def parse_metric(name: str) -> tuple[str, int | None]:
    """`pass@8` as ("pass", 8), `maj@k` as ("maj", None).

    Raises:
        RecipeError: no such metric.
    """
    match = re.fullmatch(r"(pass|maj)@(k|[1-9]\d*)", name) if isinstance(name, str) else None
    if match is None:
        raise RecipeError(f"metrics: {name!r} is none; known: pass@<n>, maj@<n>, where k stands for all samples")
    return match[1], None if match[2] == "k" else int(match[2])


def resolve_metric(name: str, k: int) -> str:
    """A metric's name with its number of samples.

    >>> resolve_metric("maj@k", 64)
    'maj@64'

    Args:
        name: `pass@<n>` or `maj@<n>`, with a number or `k`.
        k: samples of each problem.

    Raises:
        RecipeError: no such metric, more samples than k, or a vote of a single sample.
    """
    kind, n = parse_metric(name)
    n = k if n is None else n
    if n > k:
        raise RecipeError(f"metrics: {name} needs {n} samples of each problem, and k is {k}; raise k or lower it")
    if kind == "maj" and n < 2:
        least = "" if k > 1 else f"k is {k} and "
        raise RecipeError(f"metrics: {least}{name} asks for a vote, which takes 2 samples or more; raise k or drop it")
    if kind == "maj" and k > MOST_VOTES:
        raise RecipeError(f"metrics: {name} counts at most {MOST_VOTES:,} votes, and k is {k:,}; lower k or drop it")
    return f"{kind}@{n}"


REPLACED = ("k", "metrics", "problems", "temperature", "top_p", "max_tokens")  # a recipe's, for all benchmarks
