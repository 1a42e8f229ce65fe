"""Drawings of evaluations: how a score grows with samples, how problems differ between two runs, several models."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .plots import COLOURS, LARGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = 20  # characters of a model's name
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
        names = [name if len(name) <= NAME else name[: NAME - 1] + "…" for name in self.rows]
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
