"""The plots of a report, as PNG files and as inline SVG with the colours of the page."""

from __future__ import annotations

import html
import io
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import markupsafe

from ..system.files import replace_file
from ..system.run_files import Points, shorten_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


# The palette of Okabe and Ito, which colour-blind readers can distinguish. The page has a CSS variable for each name.
COLOURS = {"blue": "#0072b2", "orange": "#d55e00", "green": "#009e73", "grey": "#6e7781"}
PAPER_COLOURS = {"ink": "#1f2328", "grid": "#e3e6e9"}
LINES: dict[str, dict[str, Any]] = {
    "line": {"linewidth": 1.8},
    "faint": {"linewidth": 0.9, "alpha": 0.5},
    "dots": {"linewidth": 1.8, "marker": "o", "markersize": 4.5},
}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOURS["grey"],
    "axes.labelcolor": PAPER_COLOURS["ink"],
    "text.color": PAPER_COLOURS["ink"],
    "xtick.color": COLOURS["grey"],
    "ytick.color": COLOURS["grey"],
    "xtick.labelcolor": PAPER_COLOURS["ink"],
    "ytick.labelcolor": PAPER_COLOURS["ink"],
    "grid.color": PAPER_COLOURS["grid"],
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.borderaxespad": 0.2,
    "legend.borderpad": 0.2,
    "legend.handlelength": 1.5,
    "legend.columnspacing": 1.2,
}
LARGE, SMALL = (5.4, 3.5), (3.9, 2.5)  # inches
BAR = (8.0, 0.45)  # inches of one step of a funnel
STEP_NAME, MODEL_NAME = 60, 18  # characters
SIDES = {-1: ("orange", "worse"), 0: ("grey", "the same"), 1: ("blue", "better")}


@dataclass(frozen=True)
class Drawing:
    """A plot with a title; subclasses have `draw` for its axes and `describe` for screen readers.

    `margins` are left and below, `size` is width and height, in inches.
    """

    title: str

    margins = (0.66, 0.48)
    size = LARGE


@dataclass(frozen=True)
class Line:
    """One line of a plot: `style` is a key of `LINES`, `colour` of `COLOURS`, `band` its lower and upper bound."""

    label: str
    points: Points
    style: str = "line"
    colour: str = "blue"
    band: tuple[Points, Points] | None = None


@dataclass(frozen=True)
class Plot(Drawing):
    """Metrics against training steps.

    Args:
        unit: of the y axis; values of a unit that begins with "share" are percentages.
        metric: the key in metrics.jsonl.
        lines: one for each series.
        last: last step of the run.
        size: width and height in inches.
    """

    unit: str
    metric: str
    lines: list[Line]
    last: int = 0
    size: tuple[float, float] = SMALL

    @property
    def is_share(self) -> bool:
        return self.unit.startswith("share")

    def draw(self, ax: Axes) -> None:
        for line in self.lines:
            style = LINES["dots" if len(line.points) == 1 else line.style]
            if line.band:
                low, high = (list(edge.values()) for edge in line.band)
                ax.fill_between(list(line.band[0]), low, high, color=COLOURS[line.colour], alpha=0.15, linewidth=0)
            steps, values = list(line.points), list(line.points.values())
            ax.plot(steps, values, color=COLOURS[line.colour], label=line.label or "_", **style)
        series = [points for line in self.lines for points in (line.points, *(line.band or ()))]
        values = [value for points in series for value in points.values()]
        _name_axes(ax, "training step", self.unit)
        ax.set_xlim(-0.02 * max(self.last, 1), 1.02 * max(self.last, 1))
        _set_ticks(ax.xaxis, 6, integer=True)
        _set_ticks(ax.yaxis, 5, _format_percent if self.is_share else "{x:g}")
        if min(values) >= 0:
            ax.set_ylim(0, 1.08 * max(values) or 1)
        if any(line.label for line in self.lines):
            _add_legend(ax)

    def describe(self) -> str:
        """The first and last value of each line, in words."""
        parts = []
        for line in self.lines:
            if line.style == "faint" and not line.label:
                continue
            values = [f"{100 * value:.1f}%" if self.is_share else f"{value:.4g}" for value in line.points.values()]
            steps = list(line.points)
            parts.append(f"{line.label} {values[0]} at step {steps[0]}, {values[-1]} at step {steps[-1]}".strip())
        return f"{self.title} ({self.unit}) against training steps: {'; '.join(parts)}."


@dataclass(frozen=True)
class Histogram(Drawing):
    """Stacked bars of counts.

    Args:
        unit: of the counts.
        quantity: of the edges.
        edges: of the bins, one more than counts.
        counts: label -> counts, at most three labels.
        ticks: position -> text; None chooses round numbers.
    """

    unit: str
    quantity: str
    edges: list[float]
    counts: dict[str, list[int]]
    ticks: dict[float, str] | None = None

    margins = (0.8, 0.48)

    @property
    def total(self) -> int:
        return sum(map(sum, self.counts.values()))

    def draw(self, ax: Axes) -> None:
        widths = [high - low for low, high in itertools.pairwise(self.edges)]
        floor = [0] * len(widths)
        for (label, counts), colour in zip(self.counts.items(), ("blue", "orange", "grey"), strict=False):
            lefts = [edge + 0.05 * width for edge, width in zip(self.edges, widths, strict=False)]
            bars = [0.9 * width for width in widths]
            label = label if any(counts) else "_"
            ax.bar(lefts, counts, bars, floor, align="edge", color=COLOURS[colour], linewidth=0, label=label)
            floor = [low + count for low, count in zip(floor, counts, strict=True)]
        _name_axes(ax, self.quantity, self.unit)
        ax.set_xlim(self.edges[0], self.edges[-1])
        ax.set_ylim(0, 1.05 * max(floor) or 1)
        ax.grid(visible=False, axis="x")
        if self.ticks is None:
            _set_ticks(ax.xaxis, 6, "{x:,.0f}", integer=True)
        else:
            ax.set_xticks(list(self.ticks), list(self.ticks.values()))
        _set_ticks(ax.yaxis, 5, "{x:,.0f}", integer=True)
        if len(self.counts) > 1:
            _add_legend(ax, handlelength=0.9)

    def describe(self) -> str:
        """The quantity and the sum of each label, in words."""
        totals = ", ".join(f"{label} {sum(counts):,}" for label, counts in self.counts.items())
        return f"{self.title}: {self.unit} by {self.quantity}; {totals}."


@dataclass(frozen=True)
class Step:
    """One step of a funnel: the rows that it kept and dropped, and the text beside its name."""

    name: str
    kept: int
    dropped: int
    figures: str


@dataclass(frozen=True)
class Funnel(Drawing):
    """One bar for each step, with the step's name and figures above it."""

    steps: list[Step]

    margins = (0.12, 0.08)

    @property
    def size(self) -> tuple[float, float]:
        return BAR[0], BAR[1] * len(self.steps) + 0.36

    def draw(self, ax: Axes) -> None:
        most = max(step.kept + step.dropped for step in self.steps) or 1
        rows = range(len(self.steps))
        kept, dropped = [step.kept for step in self.steps], [step.dropped for step in self.steps]
        ax.barh(rows, kept, 0.42, color=COLOURS["blue"], linewidth=0, label="kept")
        ax.barh(rows, dropped, 0.42, kept, color=COLOURS["grey"], alpha=0.5, linewidth=0, label="dropped")
        ax.vlines([0] * len(rows), [y - 0.21 for y in rows], [y + 0.21 for y in rows], COLOURS["blue"], linewidth=1)
        above = {"xytext": (0, 2), "va": "bottom", "textcoords": "offset points"}
        for y, step in enumerate(self.steps):
            ax.annotate(shorten_text(step.name, STEP_NAME), (0, y - 0.21), fontweight="bold", **above)
            ax.annotate(step.figures, (most, y - 0.21), ha="right", **above)
        ax.set_axis_off()
        ax.set_xlim(0, most)
        ax.set_ylim(len(self.steps) - 0.65, -0.65)
        _add_legend(ax, ncols=2, handlelength=0.9)

    def describe(self) -> str:
        """The figures of each step, in words."""
        return f"{self.title}: {'; '.join(f'{step.name} {step.figures}' for step in self.steps)}."


@dataclass(frozen=True)
class Scaling(Drawing):
    """Scores against the number of samples; `lines` maps a label to the scores with 1, 2, ... samples."""

    lines: dict[str, list[float]]

    def draw(self, ax: Axes) -> None:
        from matplotlib.ticker import NullLocator

        most = max(map(len, self.lines.values()))
        for (label, scores), colour in zip(self.lines.items(), ("blue", "orange"), strict=False):
            style = LINES["dots" if len(scores) == 1 else "line"]
            ax.plot(range(1, len(scores) + 1), scores, color=COLOURS[colour], label=label, **style)
        ax.set_xscale("log", base=2)
        powers = [2**i for i in range(most.bit_length())]
        # The last number has a tick too, unless its label would overlap that of the power before it.
        ticks = powers if most < 1.3 * powers[-1] else [*powers, most]
        ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlim(0.95, 1.05 * max(most, 2))
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, 0.0), min(high, 1.02))
        _name_axes(ax, "samples of a problem", "share of problems")
        _set_ticks(ax.yaxis, 5, _format_percent)
        _add_legend(ax, ncols=2)

    def describe(self) -> str:
        """The first and last score of each line, in words."""
        parts = [
            f"{label} {100 * scores[0]:.1f}% with 1 sample, {100 * scores[-1]:.1f}% with {len(scores)}"
            for label, scores in self.lines.items()
        ]
        return f"{self.title}: {'; '.join(parts)}."


@dataclass(frozen=True)
class Differences(Drawing):
    """The differences of two runs by problem, sorted, with the interval of their mean.

    Args:
        differences: one for each problem, -1..1.
        mean: of the differences.
        interval: of the mean, lower and upper bound.
    """

    differences: list[float]
    mean: float
    interval: tuple[float, float]

    def draw(self, ax: Axes) -> None:
        ordered = sorted(self.differences)
        ax.axhspan(*self.interval, color=COLOURS["green"], alpha=0.25, linewidth=0)
        ax.axhline(self.mean, color=COLOURS["green"], linewidth=1.4, label="mean")
        for side, (colour, label) in SIDES.items():
            dots = [(i, difference) for i, difference in enumerate(ordered, 1) if _find_side(difference) == side]
            if dots:
                size = 5 if len(ordered) <= 100 else 3
                ax.plot(*zip(*dots, strict=True), "o", color=COLOURS[colour], markersize=size, label=label)
        ax.axhline(0, color=COLOURS["grey"], linewidth=0.8)
        margin = 0.5 + 0.02 * len(ordered)
        ax.set_xlim(1 - margin, len(ordered) + margin)
        _name_axes(ax, "problems, sorted", "points")
        _set_ticks(ax.xaxis, 6, integer=True)
        _set_ticks(ax.yaxis, 6, lambda value, _: f"{100 * value:+.4g}" if value else "0")
        _add_legend(ax, ncols=4, handlelength=0.9)

    def describe(self) -> str:
        """The number of problems that are worse, the same and better, and the mean, in words."""
        sides = Counter(map(_find_side, self.differences))
        counts = ", ".join(f"{label} {sides[side]:,}" for side, (_, label) in SIDES.items())
        low, high = self.interval
        return (
            f"{self.title}: problems {counts}; "
            f"{100 * self.mean:+.1f} points in the mean [{100 * low:.1f}, {100 * high:.1f}]."
        )


@dataclass(frozen=True)
class Models(Drawing):
    """A share for each of several models: the mean with its interval, and the seeds as faint dots.

    Args:
        unit: label of the x axis.
        rows: model -> mean (`{"value", "low", "high"}`) and the values of the seeds.
    """

    unit: str
    rows: dict[str, tuple[dict[str, float | None], list[float]]]

    margins = (1.5, 0.48)

    @property
    def size(self) -> tuple[float, float]:
        return LARGE[0], 0.26 * len(self.rows) + 0.9

    def draw(self, ax: Axes) -> None:
        for y, (mean, values_S) in enumerate(self.rows.values()):
            if mean["low"] is not None:
                ax.plot([mean["low"], mean["high"]], [y, y], color=COLOURS["blue"], linewidth=5, alpha=0.25)
            if len(values_S) > 1:
                ax.plot(values_S, [y] * len(values_S), "o", color=COLOURS["grey"], markersize=3.5, alpha=0.7)
            ax.plot([mean["value"]], [y], "o", color=COLOURS["blue"], markersize=5.5)
        ax.set_yticks(range(len(self.rows)), [shorten_text(name, MODEL_NAME) for name in self.rows])
        ax.set_ylim(len(self.rows) - 0.4, -0.6)
        ax.grid(visible=False, axis="y")
        ax.set_xlim(-0.02, 1.02)
        ax.xaxis.set_major_formatter(_format_percent)
        ax.set_xlabel(self.unit)

    def describe(self) -> str:
        """The mean of each model, in words."""
        means = "; ".join(f"{name} {100 * mean['value']:.1f}%" for name, (mean, _) in self.rows.items())
        return f"{self.title}: {means}."


def _find_side(difference: float) -> int:
    return (difference > 0) - (difference < 0)


def _name_axes(ax: Axes, quantity: str, unit: str) -> None:
    """Write the quantity below the x axis, and the unit above the y axis."""
    ax.set_xlabel(quantity)
    ax.annotate(unit, (0, 1), xytext=(0, 6), xycoords="axes fraction", textcoords="offset points")


def _set_ticks(axis: Axis, most: int, form: Any = None, integer: bool = False) -> None:
    """Round ticks, about `most` of them; `form` is a formatter of matplotlib."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(most, integer=integer, steps=[1, 2, 2.5, 5, 10]))
    if form:
        axis.set_major_formatter(form)


def _format_percent(value: float, _: int) -> str:
    return f"{100 * value:.4g}%"


def _add_legend(ax: Axes, **settings: Any) -> None:
    ax.legend(**{"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 3} | settings)


@contextmanager
def _style() -> Iterator[None]:
    """Set the style of the plots, and restore the settings of matplotlib at the end."""
    import matplotlib

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # Chinese names become boxes in the PNG file; the page uses the fonts of the reader.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


@_style()
def write_png(plots: Sequence[Drawing], path: Path) -> None:
    """Write plots of one kind and size into one file, three in a row."""
    path.parent.mkdir(exist_ok=True)
    with replace_file(path) as partial:
        _draw_figure(plots, titled=True).savefig(partial, format="png", dpi=150)


@_style()
def render_svg(plot: Drawing) -> markupsafe.Markup:
    """The plot as an inline <svg> with the colours of the page (CSS variables) and a text for screen readers."""
    file = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    _draw_figure([plot], titled=False).savefig(file, format="svg", metadata=metadata)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    # Only a separate file needs namespaces and the style rule; the ids of groups would repeat in the page.
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"|(?<=<g) id="[^"]*"|<style.*?</style>|(?<=\n) +', "", svg)
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    for name, colour in (COLOURS | PAPER_COLOURS).items():
        svg = svg.replace(colour, f"var(--{name})")
    return markupsafe.Markup(svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(plot.describe())}"', 1))


def _draw_figure(plots: Sequence[Drawing], titled: bool) -> Figure:
    """A grid of plots with fixed margins, which align the axes and need no layout pass."""
    from matplotlib.figure import Figure

    columns = min(3, len(plots))
    rows = -(-len(plots) // columns)
    (left, bottom), right, top = plots[0].margins, 0.12, 0.5 if titled else 0.28
    width, height = plots[0].size
    figure = Figure((width * columns, height * rows), facecolor="white" if titled else "none")
    for i, plot in enumerate(plots):
        x, y = width * (i % columns) + left, height * (rows - 1 - i // columns) + bottom
        box = x, y, width - left - right, height - bottom - top
        ax = figure.add_axes([inches / figure.get_size_inches()[j % 2] for j, inches in enumerate(box)])
        ax.patch.set_visible(False)
        plot.draw(ax)
        if titled:
            ax.set_title(plot.title, pad=20)
    return figure
