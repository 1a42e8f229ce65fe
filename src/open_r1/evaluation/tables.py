"""Figures with their intervals as text, and tables for a terminal.

A figure is `{"value", "low", "high"}`, as in evaluations and summaries; a value of None is shown as "-".
"""

from __future__ import annotations

from typing import Any


def format_percent(part: float, whole: float) -> str:
    """A share in percent; 0.0% and 100.0% are exact."""
    if not whole:
        return "-"
    share = 100 * part / whole
    if 0 < share < 0.1:
        return "<0.1%"
    return ">99.9%" if 99.9 < share < 100 else f"{share:.1f}%"


Json = dict[str, Any]
Cell = tuple[str, str]  # a value and its interval

SHORT = 40  # characters of a setting


def format_share(figure: Json | None) -> Cell:
    """A share as a percentage: `("14.7%", "[13.2, 16.3]")`."""
    return _cell(figure, 100, "%")


def format_count(figure: Json | None) -> Cell:
    """A number of tokens."""
    return _cell(figure, 1, "")


def format_points(figure: Json | None) -> Cell:
    """A difference of shares in percentage points: `("+3.1", "[0.4, 5.9]")`."""
    return _cell(figure, 100, "", "+")


def format_more(figure: Json | None) -> Cell:
    """A difference of numbers of tokens."""
    return _cell(figure, 1, "", "+")


def _cell(figure: Json | None, times: float, unit: str, sign: str = "") -> Cell:
    if figure is None or figure["value"] is None:
        return "-", ""
    low, high = figure.get("low"), figure.get("high")
    interval = "" if low is None or high is None else f"[{_rounded(low * times)}, {_rounded(high * times)}]"
    return f"{_rounded(figure['value'] * times, sign)}{unit}", interval


def _rounded(value: float, sign: str = "") -> str:
    # Adding zero removes the sign of a value that rounds to zero.
    return f"{round(value, 1) + 0.0:{sign},.1f}"


def format_p_value(p: float) -> str:
    """`= 0.021`, `< 0.0001`."""
    return "< 0.0001" if p < 0.0001 else f"= {p:.2g}"


def join_cell(cell: Cell) -> str:
    """`14.7% [13.2, 16.3]`."""
    return " ".join(cell).strip()


def pair_before_after(before: Json, after: Json) -> list[tuple[str, Cell, Cell]]:
    """Rows of (name, before, after).

    Args:
        before: figures by name, as `metrics.summarize_evaluation` returns them; a missing one is shown as "-".
        after: figures of the trained model.
    """
    names = {"mean_length": "mean length (tokens)", "format": "format", "language": "language"}
    metrics = {name: name for name in {**before, **after} if name not in names}
    rows = []
    for key, name in (metrics | names).items():
        shown = format_count if key == "mean_length" else format_share
        rows.append((name, shown(before.get(key)), shown(after.get(key))))
    return rows


def format_evaluation(evaluation: Json) -> tuple[Cell, str, Cell]:
    """The first metric of an evaluation, the others as text, and the mean length."""
    (_, first), *others = evaluation["metrics"].items()
    text = ", ".join(f"{name} {join_cell(format_share(figure))}" for name, figure in others)
    return format_share(first), text, format_count(evaluation["tokens"]["mean"])


def describe_departures(evaluation: Json) -> list[str]:
    """Differences from the benchmark's protocol, in words: `k 4 instead of 64`."""
    return [
        f"{key} {format_setting(ours)} instead of {format_setting(own)}"
        for key, (own, ours) in evaluation["departures"].items()
    ]


def format_setting(value: Any) -> str:
    """A value of a protocol as a short text; `none` if it is not set."""
    if value is None:
        return "none"
    line = f"{value:g}" if isinstance(value, float) else " ".join(str(value).split())
    return line if len(line) <= SHORT else line[: SHORT - 1] + "…"


def describe_unjudged(evaluation: Json) -> list[str]:
    """The samples without a verdict, in words, with the bounds of the metrics; empty if all have one."""
    shares = {verdict: evaluation["shares"][verdict]["value"] for verdict in ("unknown", "error")}
    parts = [f"{verdict} {format_percent(value, 1)}" for verdict, value in shares.items() if value]
    if not parts:
        return []
    reasons = ", ".join(f"{count:,} × {reason}" for reason, count in list(evaluation["reasons"].items())[:2])
    lines = [" and ".join(parts) + " of the samples" + (f": {reasons}" if reasons else "")]
    bounds = [
        f"{name} between {100 * low:.1f}% and {100 * high:.1f}%"
        for name, (low, high) in evaluation["bounds"].items()
        if evaluation["metrics"][name]["value"] is not None
    ]
    if bounds:
        lines.append(f"{', '.join(bounds)}, had they all been wrong or all right")
    else:
        lines.append("no sample could be judged, so there is no figure")
    return lines


def align_rows(rows: list[tuple[str | Cell, ...]], left: tuple[int, ...] = (0,)) -> list[str]:
    """Format rows as lines with aligned columns.

    Args:
        rows: of equally many cells. Cells of a value and its interval are aligned at both.
        left: columns that are aligned to the left; others are aligned to the right.

    Example:
        >>> align_rows([("pass@1", ("9.5%", "[8.0, 11.2]")), ("maj@4", ("14.7%", "[13.2, 16.3]"))])
        ['pass@1   9.5% [8.0, 11.2]', 'maj@4   14.7% [13.2, 16.3]']
    """
    columns = list(zip(*rows, strict=True))
    padded = []
    for i, column in enumerate(columns):
        if any(isinstance(cell, tuple) for cell in column):
            pairs = [cell if isinstance(cell, tuple) else (cell, "") for cell in column]
            wide = [max(len(pair[j]) for pair in pairs) for j in (0, 1)]
            padded.append([f"{value:>{wide[0]}} {interval:<{wide[1]}}" for value, interval in pairs])
        else:
            width = max(map(len, column))
            padded.append([f"{cell:<{width}}" if i in left else f"{cell:>{width}}" for cell in column])
    return ["  ".join(cells).rstrip() for cells in zip(*padded, strict=True)]
