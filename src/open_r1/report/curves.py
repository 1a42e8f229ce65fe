"""Choose the plots of a run: its metrics, the lengths of its completions, pass rates, and the funnel."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from ..evaluation.tables import format_percent
from ..system.run_files import Points, read_series
from .plots import LARGE, Funnel, Histogram, Line, Plot, Step

POINTS = 1000  # of a smoothed line at most, which keeps the page of a long run small
SMOOTHED = 40  # points from which a line is smoothed


@dataclass(frozen=True)
class Curve:
    """A plot of logged metrics; with a `task`, for runs of that task only."""

    title: str
    unit: str
    keys: tuple[str, ...]
    task: str = ""
    smooth: bool = True


# In the order of the page; the most important curve of each task comes first.
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
    """Centred mean over a twentieth of the points; keeps about `POINTS` of them."""
    half = len(points) // 40
    sums = [0.0, *itertools.accumulate(points.values())]
    smooth = {}
    for i, step in enumerate(points):
        low, high = max(0, i - half), min(len(points), i + half + 1)
        smooth[step] = (sums[high] - sums[low]) / (high - low)
    return dict(list(smooth.items())[:: max(1, len(smooth) // POINTS)])


def _add_band(points: Points, spread: Points) -> tuple[Points, Points]:
    """The points minus and plus their spread."""
    steps = [step for step in points if step in spread]
    return {s: points[s] - spread[s] for s in steps}, {s: points[s] + spread[s] for s in steps}


def _smooth_line(label: str, points: Points, colour: str = "blue", spread: Points | None = None) -> list[Line]:
    """A smoothed line, over a faint line of the logged values if there are many; empty without points."""
    if not points:
        return []
    smooth = _smooth(points)
    line = Line(label, smooth, colour=colour, band=_add_band(smooth, _smooth(spread)) if spread else None)
    return [line] if len(points) < SMOOTHED else [Line("", points, "faint", colour), line]


def _plot_dots(rows: list[dict[str, Any]], label: str, key: str, colour: str) -> list[Line]:
    points = read_series(rows, key)
    return [Line(label, points, "dots", colour)] if points else []


def plot_accuracy(rows: list[dict[str, Any]]) -> Plot:
    """Accuracy on held-out problems, over the accuracy reward of the training problems."""
    majority = next((key for row in rows for key in row if key.startswith("evaluation/maj@")), "evaluation/maj@k")
    evaluated = _plot_dots(rows, majority.removeprefix("evaluation/"), majority, "orange")
    evaluated += _plot_dots(rows, "pass@1", "evaluation/pass@1", "blue")
    rewarded = read_series(rows, "rewards/accuracy/mean")
    training = [Line("training reward", rewarded, "faint", "grey")] if evaluated and rewarded else []
    lines = training + evaluated
    return Plot("Accuracy on held-out problems", "share correct", "evaluation/pass@1", lines, size=LARGE)


def plot_length(rows: list[dict[str, Any]]) -> Plot:
    lines = _smooth_line("training", read_series(rows, "completions/mean_length"), "grey")
    lines += _plot_dots(rows, "held-out problems", "evaluation/mean_length", "blue")
    return Plot("Mean response length", "tokens", "completions/mean_length", lines, size=LARGE)


def plot_rewards(rows: list[dict[str, Any]], order: list[str]) -> list[Plot]:
    """One plot for each logged reward; the rewards in `order` come first."""
    logged = {match[1] for row in rows for key in row if (match := re.fullmatch(r"rewards/(.+)/mean", key))}
    plots = []
    for name in [name for name in order if name in logged] + sorted(logged - set(order)):
        key = f"rewards/{name}/mean"
        lines = _smooth_line("", read_series(rows, key), spread=read_series(rows, f"rewards/{name}/std"))
        plots += [Plot(name, "reward", key, lines)] if lines else []
    return plots


def plot_curves(rows: list[dict[str, Any]], task: str) -> list[Plot]:
    """The plots of `CURVES` whose metrics a run of `task` has logged."""
    plots = []
    for curve in CURVES:
        if curve.task not in ("", task):
            continue
        first, single = curve.keys[0], len(curve.keys) == 1
        held_out = _plot_dots(rows, "held out", f"eval_{first}", "orange") if single else []
        lines = []
        for key, colour in zip(curve.keys, ("blue", "orange"), strict=False):
            label = ("training" if held_out else "") if single else key.split("/")[-1]
            points = read_series(rows, key)
            if curve.smooth:
                lines += _smooth_line(label, points, colour)
            elif points:
                lines.append(Line(label, points, colour=colour))
        if first == "verdict/unknown" and not any(any(line.points.values()) for line in lines):
            continue
        if lines or held_out:
            plots.append(Plot(curve.title, curve.unit, ", ".join(curve.keys), lines + held_out))
    return plots


# The curves of a training that the page of a pipeline shows over its seeds; the report of each run has the others.
REWARD_METRICS = ("reward", "evaluation/pass@1", "completions/mean_length", "rewards/language_consistency/mean")
SEED_METRICS = {
    "grpo": REWARD_METRICS,
    "rloo": REWARD_METRICS,
    "sft": ("loss", "mean_token_accuracy"),
    "dpo": ("loss", "rewards/accuracies", "rewards/margins"),
    "reward": ("loss", "accuracy"),
}
SEED_CURVES = (
    Curve("Accuracy on held-out problems", "share correct", ("evaluation/pass@1",)),
    Curve("Mean response length", "tokens", ("completions/mean_length",)),
    Curve("Language consistency", "share of words", ("rewards/language_consistency/mean",)),
)


def plot_seeds(rows_S: list[list[dict[str, Any]]], task: str) -> list[Plot]:
    """The curves of a training over its seeds: one faint line for each, their mean, and one standard deviation.

    Args:
        rows_S: the logged rows of each seed; the mean is taken at the steps that all of them have.
        task: a key of `SEED_METRICS`; another task has no curves.
    """
    plots = []
    last = max((row["step"] for rows in rows_S for row in rows), default=0)
    curves = {curve.keys[0]: curve for curve in (*CURVES, *SEED_CURVES) if curve.task in ("", task)}
    for key in SEED_METRICS.get(task, ()):
        points_S = [points for rows in rows_S if (points := read_series(rows, key))]
        if points_S:
            lines = _average_seeds([_smooth(points) if len(points) >= SMOOTHED else points for points in points_S])
            plots.append(Plot(curves[key].title, curves[key].unit, key, lines, last))
    return plots


def _average_seeds(points_S: list[Points]) -> list[Line]:
    """The mean of the seeds with one standard deviation, over a faint line for each seed."""
    if len(points_S) == 1:
        return [Line("", points_S[0])]
    values_TS = {step: [points[step] for points in points_S if step in points] for step in points_S[0]}
    common = {step: values_S for step, values_S in values_TS.items() if len(values_S) == len(points_S)}
    means = {step: fmean(values_S) for step, values_S in common.items()}
    band = _add_band(means, {step: stdev(values_S) for step, values_S in common.items()})
    seeds = [Line("", points, "faint", "grey") for points in points_S]
    return seeds + ([Line("", means, band=band)] if means else [])


def plot_lengths(histogram: dict[str, list]) -> Histogram:
    """Lengths of sampled completions.

    Args:
        histogram: `edges`, `counts`, and `truncated`, the part of `counts` that reached the limit.
    """
    truncated = histogram["truncated"]
    ended = [count - cut for count, cut in zip(histogram["counts"], truncated, strict=True)]
    counts = {"ended by itself": ended, "truncated": truncated}
    return Histogram("Length of the completions", "completions", "tokens", histogram["edges"], counts)


def plot_pass_rates(rates: dict[str, Any], item: str = "prompt") -> Histogram:
    """Prompts, or problems, by their share of right samples.

    Args:
        rates: the numbers that are solved `never`, `always`, and in each of the bands `between`.
        item: the noun for the title and the axes.
    """
    bands = rates["between"]
    n = len(bands)
    edges = [0.0, 1.0, *(1.5 + i for i in range(n + 1)), n + 2.0, n + 3.0]
    ends = [rates["never"], 0, *[0] * n, 0, rates["always"]]
    counts = {"sometimes": [0, 0, *bands, 0, 0], "never or always": ends}
    ticks = {0.5: "never", **{1.5 + i: f"{100 * i // n}%" for i in range(2, n, 2)}, n + 2.5: "always"}
    return Histogram(f"Pass rate of the {item}s", f"{item}s", f"right samples of a {item}", edges, counts, ticks)


def plot_funnel(steps: list[dict[str, Any]]) -> Funnel:
    """The steps of a selection, each with the share that it dropped of its input."""
    bars = []
    for step in steps:
        kept, dropped = step["kept"], step["dropped"]
        text = f"{kept:,} pairs" if step["name"] == "pairs" else f"{kept:,} kept"
        if dropped:
            text += f", {dropped:,} dropped ({format_percent(dropped, kept + dropped)})"
        bars.append(Step(step["name"], kept, dropped, text))
    return Funnel("What each step kept", bars)
