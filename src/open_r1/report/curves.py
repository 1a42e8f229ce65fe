"""What is drawn of a run: its metrics, the lengths it sampled, its funnel, each as a plot."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from ..evaluation.tables import format_percent
from ..system.run_files import Points, read_series
from .plots import Funnel, Histogram, Line, Plot, Step

DRAWN = 1000  # points of one smoothed line; a page of a long run stays small


@dataclass(frozen=True)
class Curve:
    """A plot of logged metrics, for one task only if it names one."""

    title: str
    unit: str
    keys: tuple[str, ...]
    task: str = ""
    smooth: bool = True


# In the order of the page: what matters most to each task comes first in what is left of it.
CURVES = (
    Curve("Loss", "nats per token", ("loss",), task="sft"),
    Curve("Loss", "loss", ("loss",), task="dpo"),
    Curve("Loss", "loss", ("loss",), task="reward"),
    Curve("Preference accuracy", "share of pairs", ("accuracy",), task="reward"),
    Curve("Preference margin", "score", ("margin",), task="reward"),
    Curve("Mean score", "score", ("mean_reward",), task="reward"),
    Curve("Preference accuracy", "share of pairs", ("rewards/accuracies",)),
    Curve("Preference margin", "implicit reward", ("rewards/margins",)),
    Curve("Implicit rewards", "implicit reward", ("rewards/chosen", "rewards/rejected")),
    Curve("Log-probabilities", "nats per answer", ("logps/chosen", "logps/rejected")),
    Curve("Token accuracy", "share of tokens", ("mean_token_accuracy",)),
    Curve("Total reward", "reward", ("reward",)),
    Curve("Groups without a signal", "share of groups", ("frac_reward_zero_std",)),
    Curve("KL", "nats per token", ("kl",)),
    Curve("Entropy", "nats per token", ("entropy",)),
    Curve("Truncated completions", "share of completions", ("completions/clipped_ratio",)),
    Curve("Clipped tokens", "share of tokens", ("clip_ratio/region_mean",)),
    Curve("Loss", "loss", ("loss",), task="grpo"),
    Curve("Learning rate", "learning rate", ("learning_rate",), smooth=False),
    Curve("Gradient norm", "norm", ("grad_norm",)),
    Curve("Step time", "seconds", ("step_time",)),
    Curve("Without a verdict", "share of completions", ("verdict/unknown", "verdict/error"), smooth=False),
)


def _smooth(points: Points) -> Points:
    """Centred mean over a twentieth of the points, at no more than about `DRAWN` of them."""
    half = len(points) // 40
    sums = [0.0, *itertools.accumulate(points.values())]
    smooth = {}
    for i, step in enumerate(points):
        low, high = max(0, i - half), min(len(points), i + half + 1)
        smooth[step] = (sums[high] - sums[low]) / (high - low)
    return dict(list(smooth.items())[:: max(1, len(smooth) // DRAWN)])


def _smoothed(label: str, points: Points, colour: str = "blue", spread: Points | None = None) -> list[Line]:
    """A metric's line over a faint one of its raw values, which a short run does not need; nothing without points."""
    if not points:
        return []
    smooth = _smooth(points)
    band = {step: value for step, value in _smooth(spread or {}).items() if step in smooth}
    line = Line(label, smooth, colour=colour, spread=band)
    return [line] if len(points) < 40 else [replace(line, label="", points=points, style="faint", spread=None), line]


def _dots(rows: list[dict[str, Any]], label: str, key: str, colour: str) -> list[Line]:
    points = read_series(rows, key)
    return [Line(label, points, "dots", colour)] if points else []


def plot_accuracy(rows: list[dict[str, Any]]) -> Plot:
    """Held-out accuracy, with what the training problems gave behind it."""
    majority = next((key for row in rows for key in row if key.startswith("evaluation/maj@")), "evaluation/maj@k")
    evaluated = _dots(rows, majority.removeprefix("evaluation/"), majority, "orange")
    evaluated += _dots(rows, "pass@1", "evaluation/pass@1", "blue")
    rewarded = read_series(rows, "rewards/accuracy/mean")
    training = [Line("training reward", rewarded, "faint", "grey")] if evaluated and rewarded else []
    return Plot("Accuracy on held-out problems", "share correct", "evaluation/pass@1", training + evaluated)


def plot_length(rows: list[dict[str, Any]]) -> Plot:
    lines = _smoothed("training", read_series(rows, "completions/mean_length"), "grey")
    lines += _dots(rows, "held-out problems", "evaluation/mean_length", "blue")
    return Plot("Mean response length", "tokens", "completions/mean_length", lines)


def plot_rewards(rows: list[dict[str, Any]], order: list[str]) -> list[Plot]:
    """One plot for each reward; those that the recipe lists first, in its order."""
    logged = {match[1] for row in rows for key in row if (match := re.fullmatch(r"rewards/(.+)/mean", key))}
    grid = []
    for name in [name for name in order if name in logged] + sorted(logged - set(order)):
        lines = _smoothed(
            "", read_series(rows, f"rewards/{name}/mean"), spread=read_series(rows, f"rewards/{name}/std")
        )
        grid += [Plot(name, "reward", f"rewards/{name}/mean", lines)] if lines else []
    return grid


def plot_curves(rows: list[dict[str, Any]], task: str) -> list[Plot]:
    grid = []
    for curve in CURVES:
        first, single = curve.keys[0], len(curve.keys) == 1
        held_out = _dots(rows, "held out", f"eval_{first}", "orange") if single else []
        lines = []
        for key, colour in zip(curve.keys, ("blue", "orange"), strict=False):
            label = ("training" if held_out else "") if single else key.split("/")[-1]
            points = read_series(rows, key)
            lines += (
                _smoothed(label, points, colour)
                if curve.smooth or not points
                else [Line(label, points, colour=colour)]
            )
        judged = first != "verdict/unknown" or any(any(line.points.values()) for line in lines)
        if (lines or held_out) and judged and curve.task in ("", task):
            grid.append(Plot(curve.title, curve.unit, ", ".join(curve.keys), lines + held_out))
    return grid


# What of a training is drawn over the seeds of a pipeline; its own report has the rest.
REWARDED = (
    Curve("Total reward", "reward", ("reward",)),
    Curve("Accuracy on held-out problems", "share correct", ("evaluation/pass@1",)),
    Curve("Mean response length", "tokens", ("completions/mean_length",)),
    Curve("Language consistency", "share of words", ("rewards/language_consistency/mean",)),
)
OF_SEEDS = {
    "grpo": REWARDED,
    "rloo": REWARDED,
    "sft": (
        Curve("Loss", "nats per token", ("loss",)),
        Curve("Token accuracy", "share of tokens", ("mean_token_accuracy",)),
    ),
    "dpo": (
        Curve("Loss", "loss", ("loss",)),
        Curve("Preference accuracy", "share of pairs", ("rewards/accuracies",)),
        Curve("Preference margin", "implicit reward", ("rewards/margins",)),
    ),
    "reward": (
        Curve("Loss", "loss", ("loss",)),
        Curve("Preference accuracy", "share of pairs", ("accuracy",)),
    ),
}


def plot_seeds(rows_S: list[list[dict[str, Any]]], task: str) -> list[Plot]:
    """The curves of a training over its seeds: each seed's as a faint line, their mean, and one standard deviation.

    Args:
        rows_S: the logged rows of each seed; the mean is taken at the steps that all of them have.
        task: of `OF_SEEDS`.
    """
    grid = []
    last = max((row["step"] for rows in rows_S for row in rows), default=0)
    for curve in OF_SEEDS.get(task, ()):
        found_S = [points for rows in rows_S if (points := read_series(rows, curve.keys[0]))]
        lines_S = [_smooth(points) if len(points) >= 40 else points for points in found_S]
        if lines_S:
            lines = _mean_and_seeds(lines_S)
            grid.append(Plot(curve.title, curve.unit, curve.keys[0], lines, last))
    return grid


def _mean_and_seeds(points_S: list[Points]) -> list[Line]:
    if len(points_S) == 1:
        return [Line("", points_S[0])]
    common = [step for step in points_S[0] if all(step in points for points in points_S)]
    values_TS = [[points[step] for points in points_S] for step in common]
    means = {step: fmean(values_S) for step, values_S in zip(common, values_TS, strict=True)}
    spread = {step: stdev(values_S) for step, values_S in zip(common, values_TS, strict=True)}
    band = tuple({step: means[step] + side * spread[step] for step in common} for side in (-1, 1))
    seeds = [Line("", points, "faint", "grey") for points in points_S]
    return seeds + ([Line("", means, band=band)] if means else [])


def plot_lengths(histogram: dict[str, list]) -> Histogram:
    """Lengths of sampled completions; `truncated` are those among `counts` that reached the limit."""
    cut = histogram["truncated"]
    ended = [count - truncated for count, truncated in zip(histogram["counts"], cut, strict=True)]
    counts = {"ended by itself": ended, "truncated": cut}
    return Histogram("Length of the completions", "completions", "tokens", histogram["edges"], counts)


def plot_pass_rates(rates: dict[str, Any], of: str = "prompt") -> Histogram:
    """Prompts by their share of right samples; `never` and `always` stand apart from the bands `between` them."""
    bands = rates["between"]
    n = len(bands)
    edges = [0.0, 1.0, *(1.5 + i for i in range(n + 1)), n + 2.0, n + 3.0]
    ends = [rates["never"], 0, *[0] * n, 0, rates["always"]]
    counts = {"sometimes": [0, 0, *bands, 0, 0], "never or always": ends}
    ticks = {0.5: "never", **{1.5 + i: f"{100 * i // n}%" for i in range(2, n, 2)}, n + 2.5: "always"}
    return Histogram(f"Pass rate of the {of}s", f"{of}s", f"right samples of a {of}", edges, counts, ticks)


def plot_funnel(steps: list[dict[str, Any]]) -> Funnel:
    """The steps of a selection, each with what it dropped of what the one before it had kept."""
    rows = []
    for step in steps:
        kept, dropped = step["kept"], step["dropped"]
        told = f"{kept:,} pairs" if step["name"] == "pairs" else f"{kept:,} kept"
        if dropped:
            told += f", {dropped:,} dropped ({format_percent(dropped, kept + dropped)})"
        rows.append(Step(step["name"], kept, dropped, told))
    return Funnel("What each step kept", rows)
