"""By which protocol a benchmark is measured, and how that departs from the benchmark's own."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from . import benchmarks

if TYPE_CHECKING:
    from .configs import BenchmarkConfig, EvaluateConfig

REPLACED = ("k", "metrics", "problems", "temperature", "top_p", "max_tokens")  # keys of a recipe that go for all
COMPARED = ("k", "temperature", "top_p", "max_tokens", "prompt", "system_prompt")
UNKNOWN = ("temperature", "top_p", "max_tokens", "prompt")
NAMED = ("datasets", "verifier")  # compared by what they name


def applied(
    args: EvaluateConfig, prompt: str | None = None, system_prompt: str | None = None
) -> list[BenchmarkConfig]:
    """The benchmarks as this recipe measures them.

    Args:
        args: of the recipe; the keys that it sets replace those of every benchmark.
        prompt: of the recipe, where it sets one.
        system_prompt: the same.
    """
    given = {key: getattr(args, key) for key in REPLACED} | {"prompt": prompt, "system_prompt": system_prompt}
    changes = {key: value for key, value in given.items() if value is not None}
    if args.completions is not None:
        # How completions were made elsewhere is not known, unless the recipe says it.
        changes = dict.fromkeys(UNKNOWN) | changes
    return [dataclasses.replace(benchmark, **changes) for benchmark in args.benchmarks]


def departures(args: EvaluateConfig, benchmark: BenchmarkConfig, problems: int) -> dict[str, list[Any]]:
    """What is measured otherwise than the benchmark's file says: key -> [the file's, this run's].

    Args:
        args: of the recipe; of a benchmark of one's own, what its list of them says is the protocol.
        benchmark: as it is measured.
        problems: how many there were.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(benchmark)}
    listed = next(vars(entry) for entry in args.benchmarks if entry.name == benchmark.name)
    file = benchmarks.written({"name": benchmark.name, "datasets": [{}]}) or listed
    told = {key: [file.get(key, defaults[key]), getattr(benchmark, key)] for key in COMPARED}
    told |= {key: [_names(file.get(key)), _names(getattr(benchmark, key))] for key in NAMED if file.get(key)}
    if file.get("problems") is not None:
        told["problems"] = [file["problems"], problems]
    return {key: pair for key, pair in told.items() if pair[0] != pair[1]}


def _names(value: Any) -> str:
    """What sources or a verifier are called, from a file or as dataclasses."""
    if isinstance(value, list):
        return ", ".join(dict.fromkeys(map(_names, value)))
    if isinstance(value, str):
        return value
    mapping = value if isinstance(value, dict) else dataclasses.asdict(value)
    return str(mapping.get("path") or mapping.get("name"))
