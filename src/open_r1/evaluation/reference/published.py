"""An evaluation beside the published figures of its benchmark."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from ...errors import RecipeError, suggest_nearest
from .files import Curves, Protocol, Published, Sourced, find_reference, list_references

Json = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """One published figure.

    Args:
        reference: file it stands in.
        model: as its source calls it.
        hub: its name at the hub, if it is there.
        benchmark: name.
        metric: name.
        value: share of 0..1, or Elo points for `rating`.
        rounding: half a unit of the last digit printed, in the same unit.
        protocol: what its source says of the sampling.
        source: where it was published.
    """

    reference: str
    model: str
    hub: str | None
    benchmark: str
    metric: str
    value: float
    rounding: float
    protocol: Json
    source: str


@dataclass(frozen=True)
class Row:
    """Our figure beside a published one of the same benchmark and metric.

    Args:
        benchmark: name.
        metric: name.
        ours: our value; None if no sample had a verdict.
        low: of our interval.
        high: of our interval.
        over: what the interval is over: "samples" of the same problems, or "problems" where ours are a part of them
            or one sample of each does not tell how samples differ.
        theirs: the published figure.
        difference: ours less theirs.
        explained: theirs lies in our interval, widened by its rounding and, over samples, by the noise of its own k
            samples where that is published; None without an interval.
        differs: key of the protocol -> [theirs, ours], of those that both state.
        figure: the published figure.
        protocol: ours.
    """

    benchmark: str
    metric: str
    ours: float | None
    low: float | None
    high: float | None
    over: str
    theirs: float
    difference: float | None
    explained: bool | None
    differs: dict[str, list[Any]]
    figure: Figure
    protocol: Json


def figures(name: str) -> list[Figure]:
    """All figures of a reference file.

    Raises:
        RecipeError: as `find`, or it holds curves.
    """
    content = find_reference(name)
    if isinstance(content, Curves):
        raise RecipeError(
            f"{name} holds the curves of a training, not figures of benchmarks; for those: "
            f"open-r1 compare RUN --reference {name}"
        )
    return list(_figures(Path(name).stem if name.endswith((".yaml", ".yml")) else name, content))


def _figures(reference: str, content: Published) -> Iterator[Figure]:
    for name, model in content.models.items():
        for benchmark, metrics in model.figures.items():
            stated = (content.protocol, content.benchmarks.get(benchmark, Protocol()))
            protocol: Json = {key: value for part in stated for key, value in part if value is not None}
            for metric, given in metrics.items():
                for figure in given if isinstance(given, list) else [Sourced(value=given, source=content.source)]:
                    value, rounding = _printed(figure.value, 1 if metric == "rating" else 100)
                    yield Figure(
                        reference=reference,
                        model=name,
                        hub=model.hub,
                        benchmark=benchmark,
                        metric=metric,
                        value=value,
                        rounding=rounding,
                        protocol=protocol,
                        source=figure.source,
                    )


def _printed(value: float, unit: int) -> tuple[float, float]:
    """A printed number whose `unit` is one, and half a unit of its last digit: 86.7% is 0.867 +- 0.0005."""
    printed = Decimal(str(value))
    digit = Decimal(1).scaleb(int(printed.as_tuple().exponent))
    return float(printed / unit), float(digit / 2 / unit)


def compare_published(evaluation: Json, model: str | None = None, reference: str | None = None) -> list[Row]:
    """Our figures of a benchmark beside the published ones.

    Args:
        evaluation: content of `evaluations/<name>.json`.
        model: whose figures to look for, by its name at the hub or the last part of it; without it, those of the model
            that was evaluated.
        reference: a file to look in instead, at all its models (`students`) or one (`students/o1-mini`).

    Returns:
        One row for each published figure of a metric that was measured, in the order of the files; none where nothing
        was published. A figure that several files repeat stands once.

    Raises:
        RecipeError: there is no such reference, or no such model in it.
    """
    figures_F = find_published(reference) if reference else _of(model or evaluation.get("model") or "")
    rows: dict[tuple, Row] = {}
    for figure in figures_F:
        if figure.benchmark == evaluation["name"] and figure.metric in evaluation["metrics"]:
            told = figure.model, figure.metric, figure.value, *sorted(figure.protocol.items())
            rows.setdefault(told, _row(evaluation, figure))
    return list(rows.values())


def _of(model: str) -> list[Figure]:
    """Published figures of a model, from all files."""
    wanted = {model.casefold().rstrip("/"), Path(model).name.casefold()} - {""}
    every = [
        figure for name in list_references() if isinstance(find_reference(name), Published) for figure in figures(name)
    ]
    return [figure for figure in every if wanted & {figure.model.casefold(), (figure.hub or "").casefold()}]


def find_published(reference: str) -> list[Figure]:
    """Published figures of a file (`students`), or of one model in it (`students/o1-mini`).

    Raises:
        RecipeError: there is no such reference, or no such model in it.
    """
    file, _, model = (reference, "", "") if reference.endswith((".yaml", ".yml")) else reference.partition("/")
    found = figures(file)
    models = list(dict.fromkeys(figure.model for figure in found))
    if model and model not in models:
        raise RecipeError(f"reference {file!r} has no model {model!r}{suggest_nearest(model, models)}")
    return [figure for figure in found if model in ("", figure.model)]


def _row(evaluation: Json, figure: Figure) -> Row:
    measured = evaluation["metrics"][figure.metric]
    ours = measured["value"]
    # With a part of the problems ours is a sample of what theirs is the value of; a copy of all is the same set.
    same = "problems" not in evaluation["departures"]
    over = "samples" if same and measured.get("same_problems") else "problems"
    low, high = measured["same_problems"] if over == "samples" else (measured["low"], measured["high"])
    explained = None
    if ours is not None and low is not None:
        wider = 1.0
        if over == "samples" and "k" in figure.protocol:
            # Theirs is a mean over samples too: variances of p(1 - p)/k on each side add up.
            wider = math.sqrt(1 + evaluation["protocol"]["k"] / figure.protocol["k"])
        below, above = ours - wider * (ours - low), ours + wider * (high - ours)
        explained = below - figure.rounding - 1e-12 <= figure.value <= above + figure.rounding + 1e-12
    stated = {key: evaluation["protocol"][key] for key in figure.protocol if key in evaluation["protocol"]}
    differs = {key: [figure.protocol[key], value] for key, value in stated.items() if value != figure.protocol[key]}
    differs |= {
        key: evaluation["departures"][key] for key in ("problems", "datasets") if key in evaluation["departures"]
    }
    return Row(
        benchmark=evaluation["name"],
        metric=figure.metric,
        ours=ours,
        low=low,
        high=high,
        over=over,
        theirs=figure.value,
        difference=None if ours is None else ours - figure.value,
        explained=explained,
        differs=differs,
        figure=figure,
        protocol=evaluation["protocol"],
    )


def format_published_table(rows: list[Row]) -> str:
    """Rows for the terminal, with their sources and what differs in the protocol below them; empty without rows."""
    if not rows:
        return ""
    notes = {note: f"[{i}]" for i, note in enumerate(dict.fromkeys(map(_note, rows)), 1)}
    head = ("benchmark", "metric", "ours", "published", "difference", "noise", "model", "")
    cells = [head, *((*_cells(row), notes[_note(row)]) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join([*(line.rstrip() for line in lines), *(f"{mark} {note}" for note, mark in notes.items())])


def _note(row: Row) -> str:
    """Where the figure is from, what its source says of the benchmark, and what is otherwise here."""
    parts = [row.figure.source]
    if "note" in row.figure.protocol:
        parts.append(f"{row.benchmark}: {row.figure.protocol['note']}")
    if row.differs:
        parts.append(f"{row.benchmark} here: {describe_departures(row)}")
    return "; ".join(parts)


def _cells(row: Row) -> tuple[str, ...]:
    ours = "-" if row.ours is None else f"{100 * row.ours:.1f}%"
    if row.low is not None and row.high is not None:
        ours += f" [{100 * row.low:.1f}, {100 * row.high:.1f}]"
    # Adding zero turns a rounded -0.0 into 0.0.
    difference = "-" if row.difference is None else f"{round(100 * row.difference, 1) + 0.0:+.1f}"
    return (
        row.benchmark,
        row.metric,
        ours,
        f"{100 * row.theirs:.1f}%",
        difference,
        describe_difference(row),
        row.figure.model,
    )


def describe_difference(row: Row) -> str:
    """Whether noise explains the difference, and which: that of sampling the same problems, or of their choice."""
    if row.explained is None:
        return "unknown"
    noise = "sampling" if row.over == "samples" else "choice of problems"
    return f"{'within' if row.explained else 'beyond'} ({noise})"


def describe_departures(row: Row) -> str:
    """How our protocol differs from the published one, in words; empty if it does not."""
    return ", ".join(f"{key} {ours} (published: {theirs})" for key, (theirs, ours) in row.differs.items())
