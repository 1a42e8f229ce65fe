"""The plots of a report: as PNG files, and as SVG that takes its colours from the page it stands in."""

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
from typing import TYPE_CHECKING, Any, ClassVar

import markupsafe

from ..system.run_files import Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's palette, which colour-blind readers can tell apart. In the page each is a CSS variable of that name.
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
BAR = (8.0, 0.45)  # of a funnel's step
NAME = 60  # characters of a step's name in a funnel


@dataclass(frozen=True)
class Line:
    """One line of a plot: `style` is a key of `LINES`, `colour` of `COLOURS`.

    A band lies around it: of +- `spread`, or from the lower to the upper line of `band`.
    """

    label: str
    points: Points
    style: str = "line"
    colour: str = "blue"
    spread: Points | None = None
    band: tuple[Points, Points] | None = None

    @property
    def bounds(self) -> tuple[Points, Points] | None:
        """The lower and upper edge of what is shaded around the line."""
        if self.spread:
            low, high = ({s: self.points[s] + sign * std for s, std in self.spread.items()} for sign in (-1, 1))
            return low, high
        return self.band


@dataclass(frozen=True)
class Plot:
    """Metrics against training steps; `metric` is what metrics.jsonl calls it, `last` the last step of the run."""

    title: str
    unit: str
    metric: str
    lines: list[Line]
    last: int = 0

    margins: ClassVar = (0.66, 0.48)

    @property
    def share(self) -> bool:
        """Values of 0..1, shown as percentages."""
        return self.unit.startswith("share")

    def draw(self, ax: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        for line in self.lines:
            steps, values = list(line.points), list(line.points.values())
            colour = COLOURS[line.colour]
            if line.bounds:
                low, high = (list(edge.values()) for edge in line.bounds)
                ax.fill_between(list(line.bounds[0]), low, high, color=colour, alpha=0.15, linewidth=0)
            style = LINES["dots" if len(steps) == 1 else line.style]
            ax.plot(steps, values, color=colour, label=line.label or "_", **style)
        values = [value for line in self.lines for value in line.points.values()]
        values += [value for line in self.lines if line.band for edge in line.band for value in edge.values()]
        ax.set_xlabel("training step")
        _name_unit(ax, self.unit)
        ax.set_xlim(-0.02 * max(self.last, 1), 1.02 * max(self.last, 1))
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 2.5, 5, 10]))
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        if min(values) >= 0 and not any(line.spread for line in self.lines):
            ax.set_ylim(0, 1.08 * max(values) or 1)
        ax.yaxis.set_major_formatter((lambda value, _: f"{100 * value:.4g}%") if self.share else "{x:g}")
        if any(line.label for line in self.lines):
            ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3)

    def told(self) -> str:
        """The plot in words: where each line begins and ends."""
        parts = []
        for line in self.lines:
            if line.style == "faint" and not line.label:
                continue
            ends = [f"{100 * value:.1f}%" if self.share else f"{value:.4g}" for value in line.points.values()]
            steps = list(line.points)
            parts.append(f"{line.label} {ends[0]} at step {steps[0]}, {ends[-1]} at step {steps[-1]}".strip())
        return f"{self.title} ({self.unit}) against training steps: {'; '.join(parts)}."


@dataclass(frozen=True)
class Histogram:
    """Counts between `edges`; the bars of several labels stand on top of one another.

    Args:
        title: of the plot.
        unit: what is counted.
        quantity: what the edges measure.
        edges: one more than counts.
        counts: label -> counts; at most three.
        ticks: edge -> text; None writes round numbers.
    """

    title: str
    unit: str
    quantity: str
    edges: list[float]
    counts: dict[str, list[int]]
    ticks: dict[float, str] | None = None

    margins: ClassVar = (0.8, 0.48)
    size: ClassVar = LARGE

    @property
    def total(self) -> int:
        return sum(map(sum, self.counts.values()))

    def draw(self, ax: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        widths = [high - low for low, high in itertools.pairwise(self.edges)]
        floor = [0] * len(widths)
        for (label, counts), colour in zip(self.counts.items(), ("blue", "orange", "grey"), strict=False):
            named = {"label": label} if any(counts) else {}
            lefts = [edge + 0.05 * width for edge, width in zip(self.edges, widths, strict=False)]
            bars = [0.9 * width for width in widths]
            ax.bar(lefts, counts, bars, floor, align="edge", color=COLOURS[colour], linewidth=0, **named)
            floor = [low + count for low, count in zip(floor, counts, strict=True)]
        _name_unit(ax, self.unit)
        ax.set_xlabel(self.quantity)
        ax.set_xlim(self.edges[0], self.edges[-1])
        ax.set_ylim(0, 1.05 * max(floor) or 1)
        ax.grid(visible=False, axis="x")
        if self.ticks is None:
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 2.5, 5, 10]))
            ax.xaxis.set_major_formatter("{x:,.0f}")
        else:
            ax.set_xticks(list(self.ticks), list(self.ticks.values()))
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
        ax.yaxis.set_major_formatter("{x:,.0f}")
        if len(self.counts) > 1:
            ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, handlelength=0.9)

    def told(self) -> str:
        """The histogram in words: what is counted, and the sum of each label."""
        totals = ", ".join(f"{label} {sum(counts):,}" for label, counts in self.counts.items())
        return f"{self.title}: {self.unit} by {self.quantity}; {totals}."


@dataclass(frozen=True)
class Step:
    """One step of a funnel: rows that it kept and dropped, and what is written beside its name."""

    name: str
    kept: int
    dropped: int
    figures: str


@dataclass(frozen=True)
class Funnel:
    """Bars that grow shorter from step to step, each with its name and figures above it."""

    title: str
    steps: list[Step]

    margins: ClassVar = (0.12, 0.08)

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
            name = step.name if len(step.name) <= NAME else step.name[: NAME - 1] + "…"
            ax.annotate(name, (0, y - 0.21), fontweight="bold", **above)
            ax.annotate(step.figures, (most, y - 0.21), ha="right", **above)
        ax.set_axis_off()
        ax.set_xlim(0, most)
        ax.set_ylim(len(self.steps) - 0.65, -0.65)
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, handlelength=0.9)

    def told(self) -> str:
        """The funnel in words: the figures of each step."""
        return f"{self.title}: {'; '.join(f'{step.name} {step.figures}' for step in self.steps)}."


Drawing = Plot | Histogram | Funnel


@contextmanager
def _style() -> Iterator[None]:
    """Matplotlib's settings are what they were once the block is left."""
    import matplotlib

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # A name in Chinese is boxes in the PNG file; the page has the reader's fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


@_style()
def write_png(plots: Sequence[Drawing], size: tuple[float, float], path: Path) -> None:
    """Write plots of one kind and `size` (inches), three to a row, as one file."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    _figure(plots, size, titled=True).savefig(partial, format="png", dpi=150)
    partial.replace(path)


@_style()
def render_svg(plot: Drawing, size: tuple[float, float]) -> markupsafe.Markup:
    """The plot as an inline <svg> whose colours are the page's CSS variables, with its text for a screen reader."""
    figure = _figure([plot], size, titled=False)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    # What only a file of its own needs: namespaces, group names (they would repeat in the page), a rule for all of it.
    drawn = re.sub(r' xmlns(:xlink)?="[^"]*"|(?<=<g) id="[^"]*"|<style.*?</style>|(?<=\n) +', "", drawn)
    drawn = re.sub(r"font-family: [^;]*; ", "", drawn)
    for name, colour in (COLOURS | PAPER_COLOURS).items():
        drawn = drawn.replace(colour, f"var(--{name})")
    return markupsafe.Markup(drawn.replace("<svg", f'<svg role="img" aria-label="{html.escape(plot.told())}"', 1))


def _figure(plots: Sequence[Drawing], size: tuple[float, float], titled: bool) -> Figure:
    """A grid of plots; margins are fixed, which is quick and aligns them."""
    from matplotlib.figure import Figure

    columns = min(3, len(plots))
    rows = -(-len(plots) // columns)
    (left, bottom), right, top = plots[0].margins, 0.12, 0.5 if titled else 0.28
    width, height = size
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


def _name_unit(ax: Axes, unit: str) -> None:
    """The unit of the y axis, above it."""
    ax.annotate(unit, (0, 1), xytext=(0, 6), xycoords="axes fraction", textcoords="offset points")


STEP_NAME = 20  # characters of a model's name
SIDES = {-1: ("orange", "worse"), 0: ("grey", "the same"), 1: ("blue", "better")}


@dataclass(frozen=True)
class Scaling:
    """Scores against the number of samples; `lines` holds those of 1, 2, ... samples by their label."""

    title: str
    lines: dict[str, list[float]]

    margins: ClassVar = (0.66, 0.48)
    size: ClassVar = LARGE

    def draw(self, ax: Axes) -> None:
        from matplotlib.ticker import MaxNLocator, NullLocator

        most = max(map(len, self.lines.values()))
        for (label, scores), colour in zip(self.lines.items(), ("blue", "orange"), strict=False):
            dot = {"marker": "o", "markersize": 4.5} if len(scores) == 1 else {}
            ax.plot(range(1, len(scores) + 1), scores, color=COLOURS[colour], linewidth=1.8, label=label, **dot)
        ax.set_xscale("log", base=2)
        doubled = [2**i for i in range(most.bit_length())]
        # The last one is named too, unless it would lie upon the power before it.
        ticks = doubled if most < 1.3 * doubled[-1] else [*doubled, most]
        ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlim(0.95, 1.05 * max(most, 2))
        ax.set_xlabel("samples of a problem")
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, 0.0), min(high, 1.02))
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
        ax.annotate("share of problems", (0, 1), xytext=(0, 6), xycoords="axes fraction", textcoords="offset points")
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)

    def told(self) -> str:
        """The drawing in words: where each line begins and ends."""
        parts = [
            f"{label} {100 * scores[0]:.1f}% with 1 sample, {100 * scores[-1]:.1f}% with {len(scores)}"
            for label, scores in self.lines.items()
        ]
        return f"{self.title}: {'; '.join(parts)}."


@dataclass(frozen=True)
class Differences:
    """Problems in the order of their difference, and the band in which the mean of it lies.

    Args:
        title: of the drawing.
        differences: of each problem, -1..1.
        mean: of them.
        interval: of the mean.
    """

    title: str
    differences: list[float]
    mean: float
    interval: tuple[float, float]

    margins: ClassVar = (0.66, 0.48)
    size: ClassVar = LARGE

    def draw(self, ax: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        ordered = sorted(self.differences)
        ax.axhspan(*self.interval, color=COLOURS["green"], alpha=0.25, linewidth=0)
        ax.axhline(self.mean, color=COLOURS["green"], linewidth=1.4, label="mean")
        for side, (colour, label) in SIDES.items():
            dots = [(i, difference) for i, difference in enumerate(ordered, 1) if _side(difference) == side]
            if dots:
                size = 5 if len(ordered) <= 100 else 3
                ax.plot(*zip(*dots, strict=True), "o", color=COLOURS[colour], markersize=size, label=label)
        ax.axhline(0, color=COLOURS["grey"], linewidth=0.8)
        ax.set_xlabel("problems, sorted")
        room = 0.5 + 0.02 * len(ordered)
        ax.set_xlim(1 - room, len(ordered) + room)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 2.5, 5, 10]))
        ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:+.4g}" if value else "0")
        ax.annotate("points", (0, 1), xytext=(0, 6), xycoords="axes fraction", textcoords="offset points")
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, handlelength=0.9)

    def told(self) -> str:
        """The drawing in words: how many problems are worse, the same, better, and the mean."""
        sides = Counter(map(_side, self.differences))
        counts = ", ".join(f"{label} {sides[side]:,}" for side, (_, label) in SIDES.items())
        low, high = self.interval
        return (
            f"{self.title}: problems {counts}; "
            f"{100 * self.mean:+.1f} points in the mean [{100 * low:.1f}, {100 * high:.1f}]."
        )


@dataclass(frozen=True)
class Models:
    """A share of several models: the mean of each with its band, and its seeds as faint dots.

    Args:
        title: of the drawing.
        unit: what it is a share of, below the axis.
        rows: name -> its mean (`{"value", "low", "high"}`) and the values of its seeds.
    """

    title: str
    unit: str
    rows: dict[str, tuple[dict[str, float | None], list[float]]]

    margins: ClassVar = (1.5, 0.48)

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
        names = [name if len(name) <= STEP_NAME else name[: STEP_NAME - 1] + "…" for name in self.rows]
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.grid(visible=False, axis="y")
        ax.set_xlim(-0.02, 1.02)
        ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
        ax.set_xlabel(self.unit)

    def told(self) -> str:
        """The drawing in words: the mean of each model."""
        means = "; ".join(f"{name} {100 * mean['value']:.1f}%" for name, (mean, _) in self.rows.items())
        return f"{self.title}: {means}."


def _side(difference: float) -> int:
    return (difference > 0) - (difference < 0)
