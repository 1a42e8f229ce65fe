"""Estimates as text for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from ..config.overrides import format_overrides
from .alternatives import Alternative
from .estimate import Estimate, format_headline
from .memory import GIB

SHOWN = 9  # alternatives


def format_estimate(estimate: Estimate) -> str:
    """The whole estimate: headline, memory and time."""
    return "\n".join([format_headline(estimate), "", *_format_memory(estimate), *_format_speed(estimate)])


def _format_memory(estimate: Estimate) -> list[str]:
    used = estimate.memory
    lines = []
    for title, part in (
        ("held all the time", used.state),
        ("a step of training", used.step),
        ("generating", used.generation),
    ):
        if part:
            lines.append(f"{title:<40}{sum(part.values()) / GIB:>8.2f} GiB")
            lines += [f"  {name:<38}{size / GIB:>8.2f}" for name, size in part.items() if size >= 0.005 * GIB]
    if used.generation and used.step:
        lines.append("training and generating take turns" if used.asleep else "vLLM keeps its memory while training")
    if 1 <= used.cache_tokens < math.inf:
        lines.append(f"vLLM's cache holds {used.cache_tokens:,.0f} tokens")
    if used.host:
        lines.append(f"in the host's memory, for each GPU{'':<6}{used.host / GIB:>8.2f} GiB")
    return [*lines, *used.notes]


def _format_speed(estimate: Estimate) -> list[str]:
    taken, work = estimate.speed, estimate.work
    if taken is None:
        return []
    if math.isinf(taken.step_seconds):
        return [
            "",
            "vLLM's share of the GPUs does not hold the weights: raise vllm_gpu_memory_utilization or "
            "vllm_tensor_parallel_size",
        ]
    title = "an optimizer step" if work.trains else "all of it"
    parts = ", ".join(f"{name} {format_seconds(value)}" for name, value in taken.seconds.items())
    step = format_seconds(taken.step_seconds)
    lines = ["", f"{title}: {taken.tokens:,.0f} tokens, {taken.flops:.2g} FLOPs, {step} ({parts})"]
    if taken.hours is not None:
        whole = f"{taken.steps:,} steps: " if work.trains else ""
        cost = estimate.price and f", {estimate.price * (estimate.gpu_hours or 0):,.0f} at {estimate.price:g} an hour"
        lines.append(f"{whole}{format_hours(taken.hours)}, {estimate.gpu_hours:,.0f} GPU-hours{cost or ''}")
    lines += [f"assumed: {note}" for note in taken.notes]
    lines.append("times rest on assumed rates; none was measured on a GPU")
    return lines


def format_alternatives(estimate: Estimate, around: list[tuple[Alternative, Estimate]]) -> str:
    """A table of alternatives and their costs."""
    lines = ["", f"{'instead':<34}{'GiB':>7}  {'fits':<5}{'GPU-hours':>10}  what to add"]
    for alternative, other in around[:SHOWN]:
        ratio = other.cost / estimate.cost
        title = alternative.title + ("" if alternative.same else " *")
        words = " ".join(f"--{key} {_format_value(value)}" for key, value in alternative.changes.items())
        fits = "yes" if other.fits else "no"
        lines.append(f"{title:<34}{other.memory.peak / GIB:>7.1f}  {fits:<5}{f'x {ratio:.2f}':>10}  {words}")
    if any(not alternative.same for alternative, _ in around[:SHOWN]):
        lines.append("* changes what is learned")
    return "\n".join(lines)


def _format_value(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return format_overrides({"": value})[0].removeprefix("--=")


def format_seconds(value: float) -> str:
    if value < 1:
        return f"{value:.2f} s"
    return f"{value:.0f} s" if value < 300 else f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def format_hours(value: float) -> str:
    if value < 2:
        return f"{value * 60:.0f} minutes"
    return f"{value:.0f} hours" if value < 72 else f"{value / 24:.0f} days"


def format_table(estimates: Iterable[tuple[str, Estimate]]) -> Iterator[str]:
    """A Markdown table of several recipes, line by line."""
    yield "| recipe | hardware | GiB a GPU | fits | time | GPU-hours |\n|---|---|---|---|---|---|"
    for path, taken in estimates:
        kind = f"{taken.work.gpus} x {taken.gpu.name}" if taken.gpu else "CPU"
        kind += "" if taken.work.sharding.kind == "none" else f", {taken.work.sharding.name}"
        lasts = "" if taken.speed is None or taken.speed.hours is None else format_hours(taken.speed.hours)
        spent = "" if taken.gpu_hours is None else f"{taken.gpu_hours:,.0f}"
        cells = [f"`{path}`", kind, f"{taken.memory.peak / GIB:.1f}", "yes" if taken.fits else "NO", lasts, spent]
        yield f"| {' | '.join(cells)} |"
