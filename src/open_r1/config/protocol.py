"""The protocol that measures a benchmark, and its departures from the benchmark's file."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ..benchmarks import registry
from ..benchmarks.registry import REPLACED

if TYPE_CHECKING:
    from ..rewards.registry import RewardConfig
    from .schema import BenchmarkConfig, DatasetConfig
    from .sharded_tasks import EvaluateConfig


COMPARED = ("k", "temperature", "top_p", "max_tokens", "prompt", "system_prompt")
UNKNOWN = ("temperature", "top_p", "max_tokens", "prompt")


def apply_protocol(
    args: EvaluateConfig, prompt: str | None = None, system_prompt: str | None = None
) -> list[BenchmarkConfig]:
    """The benchmarks as this recipe measures them.

    Args:
        args: keys of the recipe; those that are set replace those of every benchmark.
        prompt: the recipe's prompt, if it sets one.
        system_prompt: the recipe's system prompt, if it sets one.
    """
    given = {key: getattr(args, key) for key in REPLACED} | {"prompt": prompt, "system_prompt": system_prompt}
    changes = {key: value for key, value in given.items() if value is not None}
    if args.completions is not None:
        # How completions made elsewhere were sampled is unknown, unless the recipe says it.
        changes = dict.fromkeys(UNKNOWN) | changes
    return [dataclasses.replace(benchmark, **changes) for benchmark in args.benchmarks]


def find_departures(
    args: EvaluateConfig, benchmark: BenchmarkConfig, problems: int, there: int
) -> dict[str, list[Any]]:
    """Departures from the protocol of the benchmark's file: key -> [the file's value, this run's value].

    Args:
        args: keys of the recipe; for a benchmark without a file, its entry there is the protocol.
        benchmark: the benchmark as it is measured.
        problems: problems that were measured.
        there: problems that its sources have.
    """
    defaults = vars(type(benchmark)(benchmark.name))
    listed = next(entry for entry in args.benchmarks if entry.name == benchmark.name)
    file = registry.read_benchmark_file({"name": benchmark.name, "datasets": [{}], "file": benchmark.file}) or vars(
        listed
    )
    pairs = {key: [file.get(key, defaults[key]), getattr(benchmark, key)] for key in COMPARED}
    pairs |= _compare_sources(file["datasets"], benchmark.datasets)
    pairs |= _compare_keys("verifier", "name", file.get("verifier", defaults["verifier"]), benchmark.verifier)
    if (own := file.get("problems")) is not None:
        pairs["problems"] = [own, problems if there <= own or problems != own else f"the first {own} of {there}"]
    if args.completions is not None:
        pairs |= {key: [pairs[key][0], "unknown"] for key in UNKNOWN if pairs[key][1] is None}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _compare_sources(file: list[Any], ours: list[DatasetConfig]) -> dict[str, list[Any]]:
    """The paths, where they differ; for the same paths, each key that differs."""
    named = [list(dict.fromkeys(_keys("path", source)["path"] for source in sources)) for sources in (file, ours)]
    if named[0] != named[1] or len(file) != len(ours):
        return {"datasets": [", ".join(paths) for paths in named]}
    changed: dict[str, list[Any]] = {}
    for i, (source, own) in enumerate(zip(file, ours, strict=True)):
        changed |= _compare_keys(f"datasets.{i}", "path", source, own)
    return changed


def _compare_keys(at: str, name: str, file: Any, ours: DatasetConfig | RewardConfig) -> dict[str, list[Any]]:
    """The keys in which two sources or verifiers differ, or `at` itself if their names differ."""
    default = _keys(name, type(ours)(getattr(ours, name)))
    before, now = default | _keys(name, file), _keys(name, ours)
    if before[name] != now[name]:
        return {at: [before[name], now[name]]}
    return {f"{at}.{key}": [before.get(key), now.get(key)] for key in sorted({*before, *now})}


def _keys(name: str, value: Any) -> dict[str, Any]:
    """Normalise an entry: a string is the `name`, and a verifier's parameters stand beside it."""
    if isinstance(value, str):
        return {name: value}
    given = dict(value if isinstance(value, dict) else vars(value))
    return given | given.pop("parameters", {})
