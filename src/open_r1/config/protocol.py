"""By which protocol a benchmark is measured, and how that departs from the benchmark's own."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ..benchmarks import registry
from ..benchmarks.registry import REPLACED

if TYPE_CHECKING:
    from ..rewards.registry import RewardConfig
    from .schema import BenchmarkConfig, DatasetConfig, EvaluateConfig


COMPARED = ("k", "temperature", "top_p", "max_tokens", "prompt", "system_prompt")
UNKNOWN = ("temperature", "top_p", "max_tokens", "prompt")


def apply_protocol(
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


def find_departures(
    args: EvaluateConfig, benchmark: BenchmarkConfig, problems: int, there: int
) -> dict[str, list[Any]]:
    """What is measured otherwise than the benchmark's file says: key -> [the file's, this run's].

    Args:
        args: of the recipe; of a benchmark of one's own, what its list of them says is the protocol.
        benchmark: as it is measured.
        problems: how many were measured.
        there: how many its sources have.
    """
    defaults = vars(type(benchmark)(benchmark.name))
    listed = next(entry for entry in args.benchmarks if entry.name == benchmark.name)
    file = registry.read_benchmark_file({"name": benchmark.name, "datasets": [{}], "file": benchmark.file}) or vars(
        listed
    )
    told = {key: [file.get(key, defaults[key]), getattr(benchmark, key)] for key in COMPARED}
    told |= _sources(file["datasets"], benchmark.datasets)
    told |= _changed("verifier", "name", file.get("verifier", defaults["verifier"]), benchmark.verifier)
    if (own := file.get("problems")) is not None:
        told["problems"] = [own, problems if there <= own or problems != own else f"the first {own} of {there}"]
    if args.completions is not None:
        told |= {key: [told[key][0], "unknown"] for key in UNKNOWN if told[key][1] is None}
    return {key: pair for key, pair in told.items() if pair[0] != pair[1]}


def _sources(file: list[Any], ours: list[DatasetConfig]) -> dict[str, list[Any]]:
    """Where other sources are named, these; of the same ones, each key that differs."""
    named = [list(dict.fromkeys(_keys("path", source)["path"] for source in sources)) for sources in (file, ours)]
    if named[0] != named[1] or len(file) != len(ours):
        return {"datasets": [", ".join(paths) for paths in named]}
    changed: dict[str, list[Any]] = {}
    for i, (source, own) in enumerate(zip(file, ours, strict=True)):
        changed |= _changed(f"datasets.{i}", "path", source, own)
    return changed


def _changed(at: str, name: str, file: Any, ours: DatasetConfig | RewardConfig) -> dict[str, list[Any]]:
    """The keys of a source or a verifier that differ, under `at` itself if it is another one altogether."""
    default = _keys(name, type(ours)(getattr(ours, name)))
    before, now = default | _keys(name, file), _keys(name, ours)
    if before[name] != now[name]:
        return {at: [before[name], now[name]]}
    return {f"{at}.{key}": [before.get(key), now.get(key)] for key in sorted({*before, *now})}


def _keys(name: str, value: Any) -> dict[str, Any]:
    """All keys as a file writes them: a mere text is the `name`, and a verifier's parameters stand beside it."""
    if isinstance(value, str):
        return {name: value}
    given = dict(value if isinstance(value, dict) else vars(value))
    return given | given.pop("parameters", {})
