"""Figures of an evaluation beside the published ones of its benchmark."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from ...errors import RecipeError, suggest_nearest
from ..tables import align_rows, format_points, format_share, join_cell
from .files import Curves, Protocol, Published, Sourced, find_reference, list_references

Json = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """A published figure.

    Args:
        reference: name of its file in recipes/reference.
        model: as its source names it.
        hub: the model's name at the hub, if it is there.
        benchmark: such as `aime24`.
        metric: such as `pass@1`.
        value: share from 0 to 1, or Elo points for `rating`.
        rounding: half a unit of the last printed digit, in the same unit.
        protocol: how it was sampled, as far as its source says.
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
    """A figure of an evaluation beside a published one of the same benchmark and metric.

    Args:
        figure: the published figure.
        ours: the evaluation's value; None if no sample had a verdict.
        low: lower end of its interval.
        high: upper end.
        over: what the interval covers: other "samples" of the same problems, or other "problems" where only a part of
            them was evaluated or one sample of each does not show how samples vary.
        explained: True if the published figure lies in the interval, widened by its rounding and, over samples, by the
            noise of its own k samples where k is published; None without an interval.
        differs: key of the protocol -> [published, ours], where both are known and not equal.
    """

    figure: Figure
    ours: float | None
    low: float | None
    high: float | None
    over: str
    explained: bool | None
    differs: dict[str, list[Any]]

    @property
    def metric(self) -> str:
        return self.figure.metric

    @property
    def theirs(self) -> float:
        return self.figure.value

    @property
    def difference(self) -> float | None:
        """Ours less theirs."""
        return None if self.ours is None else self.ours - self.figure.value


def list_figures(name: str) -> list[Figure]:
    """All figures of a reference file.

    Raises:
        RecipeError: there is no such file, or it holds curves.
    """
    content = find_reference(name)
    if isinstance(content, Curves):
        raise RecipeError(
            f"{name} holds the curves of a training, not figures of benchmarks; for those: "
            f"open-r1 compare RUN --reference {name}"
        )
    file = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    found = []
    for model, of_model in content.models.items():
        for benchmark, metrics in of_model.figures.items():
            stated = (content.protocol, content.benchmarks.get(benchmark, Protocol()))
            protocol: Json = {key: value for part in stated for key, value in part if value is not None}
            for metric, given in metrics.items():
                for sourced in given if isinstance(given, list) else [Sourced(value=given, source=content.source)]:
                    printed = _read_printed(sourced.value, 1 if metric == "rating" else 100)
                    about = (file, model, of_model.hub, benchmark, metric)
                    found.append(Figure(*about, *printed, protocol, sourced.source))
    return found


def _read_printed(value: float, unit: int) -> tuple[float, float]:
    """A printed number divided by `unit`, and half a unit of its last digit: 86.7% is 0.867 +- 0.0005."""
    printed = Decimal(str(value))
    digit = Decimal(1).scaleb(int(printed.as_tuple().exponent))
    return float(printed / unit), float(digit / 2 / unit)


def compare_published(evaluation: Json, model: str | None = None, reference: str | None = None) -> list[Row]:
    """Set the figures of an evaluation beside published ones.

    Args:
        evaluation: content of `evaluations/<name>.json`.
        model: whose published figures, by its name at the hub or the last part of it; by default the evaluated model.
        reference: a file to read instead, with all its models (`students`) or one (`students/o1-mini`).

    Returns:
        One row for each published figure of a metric that was measured, in the order of the files. A figure that
        several files repeat has one row.

    Raises:
        RecipeError: there is no such reference, or no such model in it.
    """
    figures_F = find_published(reference) if reference else _find_model(model or evaluation.get("model") or "")
    rows: dict[tuple, Row] = {}
    for figure in figures_F:
        if figure.benchmark == evaluation["name"] and figure.metric in evaluation["metrics"]:
            same = figure.model, figure.metric, figure.value, *sorted(figure.protocol.items())
            rows.setdefault(same, _compare(evaluation, figure))
    return list(rows.values())


def _find_model(model: str) -> list[Figure]:
    """Published figures of a model, from all files."""
    wanted = {model.casefold().rstrip("/"), Path(model).name.casefold()} - {""}
    files = [name for name in list_references() if isinstance(find_reference(name), Published)]
    figures_F = [figure for name in files for figure in list_figures(name)]
    return [figure for figure in figures_F if wanted & {figure.model.casefold(), (figure.hub or "").casefold()}]


def find_published(reference: str) -> list[Figure]:
    """Published figures of a file (`students`), or of one model in it (`students/o1-mini`).

    Raises:
        RecipeError: there is no such reference, or no such model in it.
    """
    file, _, model = (reference, "", "") if reference.endswith((".yaml", ".yml")) else reference.partition("/")
    found = list_figures(file)
    models = list(dict.fromkeys(figure.model for figure in found))
    if model and model not in models:
        raise RecipeError(f"reference {file!r} has no model {model!r}{suggest_nearest(model, models)}")
    return [figure for figure in found if model in ("", figure.model)]


def _compare(evaluation: Json, figure: Figure) -> Row:
    measured, protocol, departures = (evaluation[key] for key in ("metrics", "protocol", "departures"))
    measured = measured[figure.metric]
    ours = measured["value"]
    # A part of the problems is a sample of what theirs is the value of; all of them are the same set.
    over = "samples" if "problems" not in departures and measured.get("same_problems") else "problems"
    low, high = measured["same_problems"] if over == "samples" else (measured["low"], measured["high"])
    explained = None
    if ours is not None and low is not None:
        wider = 1.0
        if over == "samples" and "k" in figure.protocol:
            # Theirs is a mean over samples too: variances of p(1 - p)/k on each side add up.
            wider = math.sqrt(1 + protocol["k"] / figure.protocol["k"])
        below, above = ours - wider * (ours - low), ours + wider * (high - ours)
        explained = below - figure.rounding - 1e-12 <= figure.value <= above + figure.rounding + 1e-12
    differs = {
        key: [theirs, protocol[key]]
        for key, theirs in figure.protocol.items()
        if key in protocol and protocol[key] != theirs
    }
    differs |= {key: departures[key] for key in ("problems", "datasets") if key in departures}
    return Row(figure, ours, low, high, over, explained, differs)


def format_published_table(rows: list[Row]) -> str:
    """Rows for the terminal, with their sources and what differs in the protocol below them; empty without rows."""
    if not rows:
        return ""
    notes = {note: f"[{i}]" for i, note in enumerate(dict.fromkeys(map(_format_note, rows)), 1)}
    head = ("benchmark", "metric", "ours", "published", "difference", "noise", "model", "")
    cells = [head, *((*_format_cells(row), notes[_format_note(row)]) for row in rows)]
    lines = align_rows(cells, left=tuple(range(len(head))))
    return "\n".join([*lines, *(f"{mark} {note}" for note, mark in notes.items())])


def _format_note(row: Row) -> str:
    """The source of a figure, what it says of the benchmark, and what differs here."""
    parts, benchmark = [row.figure.source], row.figure.benchmark
    if "note" in row.figure.protocol:
        parts.append(f"{benchmark}: {row.figure.protocol['note']}")
    if row.differs:
        parts.append(f"{benchmark} here: {describe_departures(row)}")
    return "; ".join(parts)


def _format_cells(row: Row) -> tuple[str, ...]:
    ours = join_cell(format_share({"value": row.ours, "low": row.low, "high": row.high}))
    difference = format_points({"value": row.difference})[0]
    theirs = format_share({"value": row.theirs})[0]
    figure = row.figure
    return figure.benchmark, figure.metric, ours, theirs, difference, describe_difference(row), figure.model


def describe_difference(row: Row) -> str:
    """Whether noise explains the difference, and which: that of sampling the same problems, or of their choice."""
    if row.explained is None:
        return "unknown"
    noise = "sampling" if row.over == "samples" else "choice of problems"
    return f"{'within' if row.explained else 'beyond'} ({noise})"


def describe_departures(row: Row) -> str:
    """How the evaluation's protocol differs from the published one, in words; empty if it does not."""
    return ", ".join(f"{key} {ours} (published: {theirs})" for key, (theirs, ours) in row.differs.items())
