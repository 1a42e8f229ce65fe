"""The page and the plots of a run, made from its directory alone.

`write` draws `plots/*.png` and a `report.html` that needs nothing else; it works for a run that is still going on, and
leaves out what its directory does not hold. `table` is the same before and after for the terminal.
"""

from __future__ import annotations

import html
import io
import itertools
import json
import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import markupsafe
import yaml

from .errors import RecipeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = dict[int, float]  # step -> value, in the order of the steps

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
EXAMPLES = 3  # samples shown of those without a verdict, and of disagreements
DRAWN = 1000  # points of one smoothed line; a page of a long run stays small
ROWS = 6  # sampled training completions shown
CHARACTERS = 12_000  # of one text shown


@dataclass(frozen=True)
class Line:
    """One line of a plot: `style` is a key of `LINES`, `colour` of `COLOURS`; a band of +- `spread` lies around it."""

    label: str
    points: Points
    style: str = "line"
    colour: str = "blue"
    spread: Points | None = None


@dataclass(frozen=True)
class Plot:
    """One plot; `metric` is what metrics.jsonl calls it, and finds the template's sentence about it."""

    title: str
    unit: str
    metric: str
    lines: list[Line]

    @property
    def share(self) -> bool:
        """Values of 0..1, shown as percentages."""
        return self.unit.startswith("share")


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


def write(run_dir: Path) -> Path:
    """Draw the plots and the page of a run from what its directory holds.

    Args:
        run_dir: a run directory, finished or not.

    Returns:
        `run_dir/report.html`.

    Raises:
        RecipeError: `run_dir` holds neither a recipe nor metrics.
    """
    run_dir = Path(run_dir).resolve()
    if not any((run_dir / name).is_file() for name in ("recipe.yaml", "metrics.jsonl")):
        raise RecipeError(f"{run_dir} is not a run directory: it holds neither recipe.yaml nor metrics.jsonl")
    recipe_text = _read(run_dir / "recipe.yaml")
    recipe = yaml.safe_load(recipe_text) or {}
    rows = _rows(run_dir / "metrics.jsonl")
    before, after = (_json(run_dir / "evaluations" / f"{name}.json") for name in ("before", "after"))
    status, environment, summary = (_json(run_dir / f"{name}.json") for name in ("status", "environment", "summary"))
    metrics = [side.get("metrics") or summary.get(name) for name, side in (("before", before), ("after", after))]
    task = recipe.get("task") or _task(rows)
    weights = _weights(recipe)

    figures = [plot for plot in (_accuracy(rows), _length(rows)) if plot.lines]
    grids = {"rewards": _rewards(rows, list(weights)), "curves": _curves(rows, task)}
    last = max((row["step"] for row in rows), default=0)
    page = _template().render(
        name=run_dir.parts[-3:],
        task=task,
        state=status.get("state"),
        facts=_facts(status, recipe, environment, rows),
        table=_table(*(side or {} for side in metrics)) if any(metrics) else [],
        before=before,
        after=after,
        live_rows=(recipe.get("evaluation") or {}).get("live_rows"),
        unjudged=_unjudged(rows, before, after),
        reasons=_reasons(rows),
        withheld=_rows(run_dir / "withheld.jsonl")[:EXAMPLES],
        disagreement=_disagreement(rows),
        second_opinions=_rows(run_dir / "second_opinions.jsonl")[:EXAMPLES],
        plots=_draw_all(figures, grids, last, run_dir / "plots"),
        weights=weights,
        pairs=_pairs(before, after),
        sampled=_sampled(run_dir / "completions"),
        recipe=recipe_text,
        environment={**environment, **(environment.get("packages") or {})},
    )
    target = run_dir / "report.html"
    partial = target.with_name("report.html.partial")
    partial.write_text(page, encoding="utf-8", errors="replace")
    partial.replace(target)
    return target


def table(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The before/after table for the terminal.

    Args:
        before: an evaluation's metrics: `pass@1`, `maj@<k>`, `format`, `language` (0..1), `mean_length` (tokens). A
            metric that is missing or None shows as "-".
        after: the same of the trained model.

    Returns:
        Lines of equal width, without a newline at the end.
    """
    rows = [("", "before", "after"), *_table(before, after)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(f"{name:<{widths[0]}}  {old:>{widths[1]}}  {new:>{widths[2]}}" for name, old, new in rows)


def _table(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(name, before, after) as text, in the order of the table."""
    majority = next((key for key in {**before, **after} if key.startswith("maj@")), "maj@k")
    names = {"pass@1": "pass@1", majority: majority, "mean_length": "mean length (tokens)"}
    names |= {"format": "format", "language": "language"}

    def shown(key: str, value: float | None) -> str:
        if value is None:
            return "-"
        return f"{value:.1f}" if key == "mean_length" else f"{100 * value:.1f}%"

    return [(name, shown(key, before.get(key)), shown(key, after.get(key))) for key, name in names.items()]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _json(path: Path) -> dict[str, Any]:
    return json.loads(_read(path) or "{}")


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, without a last line that a kill has cut."""
    rows = []
    for line in _read(path).split("\n"):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def _task(rows: list[dict[str, Any]]) -> str:
    keys = set().union(*rows)
    told = {"reward": "grpo", "rewards/chosen": "dpo", "min_reward": "reward"}
    return next((task for key, task in told.items() if key in keys), "sft")


def _points(rows: list[dict[str, Any]], key: str) -> Points:
    """The finite values of a metric; of several at one step (a resumed run) the last."""
    found = {
        row["step"]: row[key] for row in rows if isinstance(row.get(key), int | float) and math.isfinite(row[key])
    }
    return dict(sorted(found.items()))


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
    points = _points(rows, key)
    return [Line(label, points, "dots", colour)] if points else []


def _accuracy(rows: list[dict[str, Any]]) -> Plot:
    """Held-out accuracy, with what the training problems gave behind it."""
    majority = next((key for row in rows for key in row if key.startswith("evaluation/maj@")), "evaluation/maj@k")
    evaluated = _dots(rows, majority.removeprefix("evaluation/"), majority, "orange")
    evaluated += _dots(rows, "pass@1", "evaluation/pass@1", "blue")
    rewarded = _points(rows, "rewards/accuracy/mean")
    training = [Line("training reward", rewarded, "faint", "grey")] if evaluated and rewarded else []
    return Plot("Accuracy on held-out problems", "share correct", "evaluation/pass@1", training + evaluated)


def _length(rows: list[dict[str, Any]]) -> Plot:
    lines = _smoothed("training", _points(rows, "completions/mean_length"), "grey")
    lines += _dots(rows, "held-out problems", "evaluation/mean_length", "blue")
    return Plot("Mean response length", "tokens", "completions/mean_length", lines)


def _rewards(rows: list[dict[str, Any]], order: list[str]) -> list[Plot]:
    """One plot for each reward; those that the recipe lists first, in its order."""
    logged = {match[1] for row in rows for key in row if (match := re.fullmatch(r"rewards/(.+)/mean", key))}
    plots = []
    for name in [name for name in order if name in logged] + sorted(logged - set(order)):
        lines = _smoothed("", _points(rows, f"rewards/{name}/mean"), spread=_points(rows, f"rewards/{name}/std"))
        plots += [Plot(name, "reward", f"rewards/{name}/mean", lines)] if lines else []
    return plots


def _curves(rows: list[dict[str, Any]], task: str) -> list[Plot]:
    plots = []
    for curve in CURVES:
        first, single = curve.keys[0], len(curve.keys) == 1
        held_out = _dots(rows, "held out", f"eval_{first}", "orange") if single else []
        lines = []
        for key, colour in zip(curve.keys, ("blue", "orange"), strict=False):
            label = ("training" if held_out else "") if single else key.split("/")[-1]
            points = _points(rows, key)
            lines += (
                _smoothed(label, points, colour)
                if curve.smooth or not points
                else [Line(label, points, colour=colour)]
            )
        judged = first != "verdict/unknown" or any(any(line.points.values()) for line in lines)
        if (lines or held_out) and judged and curve.task in ("", task):
            plots.append(Plot(curve.title, curve.unit, ", ".join(curve.keys), lines + held_out))
    return plots


def _draw_all(figures: list[Plot], grids: dict[str, list[Plot]], last: int, folder: Path) -> dict[str, list[dict]]:
    """Write the PNGs; return the plots of each group (`figures` and the grids) with their `svg` for the page."""
    import matplotlib

    groups = {"figures": (figures, LARGE)} | {name: (plots, SMALL) for name, plots in grids.items()}
    # Every setting is back to what it was once the block is left.
    with matplotlib.rc_context(STYLE):
        for plot in figures:
            _png([plot], last, LARGE, folder / ("length.png" if plot.unit == "tokens" else "accuracy.png"))
        for name, plots in grids.items():
            if plots:
                _png(plots, last, SMALL, folder / f"{name}.png")
        return {
            group: [{"plot": plot, "svg": _svg(plot, last, size)} for plot in plots]
            for group, (plots, size) in groups.items()
        }


def _figure(plots: list[Plot], last: int, size: tuple[float, float], titled: bool) -> Figure:
    """A grid of plots, three to a row, each of `size` inches; margins are fixed, which is quick and aligns them."""
    from matplotlib.figure import Figure

    columns = min(3, len(plots))
    rows = -(-len(plots) // columns)
    left, right, bottom, top = 0.66, 0.12, 0.48, 0.5 if titled else 0.28
    width, height = size
    figure = Figure((width * columns, height * rows), facecolor="white" if titled else "none")
    for i, plot in enumerate(plots):
        x, y = width * (i % columns) + left, height * (rows - 1 - i // columns) + bottom
        box = x, y, width - left - right, height - bottom - top
        ax = figure.add_axes([inches / figure.get_size_inches()[j % 2] for j, inches in enumerate(box)])
        ax.patch.set_visible(False)
        _draw(ax, plot, last)
        if titled:
            ax.set_title(plot.title, pad=20)
    return figure


def _png(plots: list[Plot], last: int, size: tuple[float, float], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    _figure(plots, last, size, titled=True).savefig(partial, format="png", dpi=150)
    partial.replace(path)


def _svg(plot: Plot, last: int, size: tuple[float, float]) -> markupsafe.Markup:
    """The plot as an inline <svg> whose colours are the page's CSS variables, with its text for a screen reader."""
    figure = _figure([plot], last, size, titled=False)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    # What only a file of its own needs: namespaces, group names (they would repeat in the page), a rule for all of it.
    drawn = re.sub(r' xmlns(:xlink)?="[^"]*"|(?<=<g) id="[^"]*"|<style.*?</style>|(?<=\n) +', "", drawn)
    drawn = re.sub(r"font-family: [^;]*; ", "", drawn)
    for name, colour in (COLOURS | PAPER_COLOURS).items():
        drawn = drawn.replace(colour, f"var(--{name})")
    return markupsafe.Markup(drawn.replace("<svg", f'<svg role="img" aria-label="{html.escape(_told(plot))}"', 1))


def _draw(ax: Axes, plot: Plot, last: int) -> None:
    from matplotlib.ticker import MaxNLocator

    for line in plot.lines:
        steps, values = list(line.points), list(line.points.values())
        colour = COLOURS[line.colour]
        if line.spread:
            low, high = ([line.points[s] + sign * std for s, std in line.spread.items()] for sign in (-1, 1))
            ax.fill_between(list(line.spread), low, high, color=colour, alpha=0.15, linewidth=0)
        style = LINES["dots" if len(steps) == 1 else line.style]
        ax.plot(steps, values, color=colour, label=line.label or "_", **style)
    values = [value for line in plot.lines for value in line.points.values()]
    ax.set_xlabel("training step")
    ax.annotate(plot.unit, (0, 1), xytext=(0, 6), xycoords="axes fraction", textcoords="offset points")
    ax.set_xlim(-0.02 * max(last, 1), 1.02 * max(last, 1))
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 2.5, 5, 10]))
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if min(values) >= 0 and not any(line.spread for line in plot.lines):
        ax.set_ylim(0, 1.08 * max(values) or 1)
    ax.yaxis.set_major_formatter((lambda value, _: f"{100 * value:.4g}%") if plot.share else "{x:g}")
    if any(line.label for line in plot.lines):
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3)


def _told(plot: Plot) -> str:
    """A plot in words: where each line begins and ends."""
    parts = []
    for line in plot.lines:
        if line.style == "faint" and not line.label:
            continue
        ends = [f"{100 * value:.1f}%" if plot.share else f"{value:.4g}" for value in line.points.values()]
        steps = list(line.points)
        parts.append(f"{line.label} {ends[0]} at step {steps[0]}, {ends[-1]} at step {steps[-1]}".strip())
    return f"{plot.title} ({plot.unit}) against training steps: {'; '.join(parts)}."


def _facts(status: dict, recipe: dict, environment: dict, rows: list[dict]) -> list[str]:
    """What there is of: steps, time, tokens, seed, commit."""
    step = max([status.get("step") or 0, *(row["step"] for row in rows)])
    seconds = max([status.get("seconds") or 0, *(row.get("seconds") or 0 for row in rows)])
    wanted = recipe.get("max_steps") or 0
    facts = [f"step {step} of {wanted}" if status.get("state") != "finished" and wanted > step else f"{step} steps"]
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours:
        facts.append(f"{hours} h {minutes % 60} min")
    else:
        facts.append(f"{minutes} min {int(seconds % 60)} s" if minutes else f"{seconds:.0f} s")
    tokens = max(_points(rows, "num_tokens").values(), default=0)
    if tokens:
        facts.append(f"{tokens:,.0f} tokens seen")
    if recipe.get("seed") is not None:
        facts.append(f"seed {recipe['seed']}")
    if environment.get("commit"):
        commit, dirty, _ = environment["commit"].partition("-dirty")
        facts.append(f"commit {commit[:10]}{dirty}")
    return facts


def _unjudged(rows: list[dict], before: dict, after: dict) -> list[str]:
    """What was left without a verdict, in words; empty if nothing was."""
    told = []
    for key in ("verdict/unknown", "verdict/error"):
        points = _points(rows, key)
        if any(points.values()):
            step, most = max(points.items(), key=lambda point: point[1])
            mean = sum(points.values()) / len(points)
            told.append(
                f"{key}: {100 * mean:.2g}% of the training completions, at most {100 * most:.2g}% (step {step})."
            )
    for name, judged in (("before", before), ("after", after)):
        share = (judged.get("metrics") or {}).get("unknown") or 0
        if share:
            told.append(
                f"Evaluation {name} training: {100 * share:.2g}% of the samples, left out of pass@1 and maj@k."
            )
    return told


def _weights(recipe: dict[str, Any]) -> dict[str, float]:
    """Weight of each reward by its metric's name, in the recipe's order."""
    entries = [{"name": entry} if isinstance(entry, str) else entry for entry in recipe.get("rewards") or []]
    return {entry.get("label") or entry["name"].rpartition(":")[2]: entry.get("weight", 1.0) for entry in entries}


def _reasons(rows: list[dict]) -> list[tuple[str, int]]:
    """Why training completions were left without a verdict, and how often; the most frequent first."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(row.get("verdict/reasons") or {})
    return counts.most_common(8)


def _disagreement(rows: list[dict]) -> dict[str, float]:
    """Share of second opinions that differed, for each reward that asked for them."""
    found = {}
    for key in sorted({key for row in rows for key in row if key.startswith("second_opinion/")}):
        points = _points(rows, key)
        found[key.partition("/")[2]] = sum(points.values()) / len(points) if points else 0.0
    return found


def _pairs(before: dict, after: dict) -> list[dict[str, Any]]:
    """Each problem with one sample of the base model and one of the trained model (None where there is none)."""
    pairs = []
    for old, new in itertools.zip_longest(before.get("samples") or [], after.get("samples") or []):
        problem = old or new
        samples = [(side["samples"] or [None])[0] if side else None for side in (old, new)]
        pairs.append({"prompt": problem["prompt"], "solution": problem["solution"], "samples": samples})
    return pairs


def _sampled(folder: Path) -> dict[str, Any] | None:
    """The step and a few rows of the newest readable file of training completions, from as many prompts as it has."""
    import pyarrow.parquet

    for path in sorted(
        folder.glob("completions_*.parquet"), key=lambda path: (len(path.name), path.name), reverse=True
    ):
        try:
            rows = pyarrow.parquet.read_table(path).to_pylist()
        except (OSError, ValueError):  # cut by a kill
            continue
        by_prompt: dict[str, list[dict]] = {}
        for row in rows:
            by_prompt.setdefault(_text(row["prompt"]), []).append(row)
        # The first of every group, then the second of every group, and so on.
        turns = [row for turn in itertools.zip_longest(*by_prompt.values()) for row in turn if row is not None][:ROWS]
        shown = [
            {
                "prompt": _text(row["prompt"]),
                "completion": _text(row["completion"]),
                "values": {key: _value(row[key]) for key in row if key not in ("step", "prompt", "completion")},
            }
            for row in turns
        ]
        if shown:
            return {"step": rows[0].get("step"), "rows": shown}
    return None


def _text(value: str | list[dict[str, Any]]) -> str:
    """A prompt or completion as text; the turns of a conversation follow one another under their roles."""
    if isinstance(value, str):
        return value
    if len(value) == 1:
        return str(value[0]["content"])
    return "\n".join(f"[{message['role']}] {message['content']}" for message in value)


def _value(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _marked(text: str) -> markupsafe.Markup:
    """A model's text, escaped, its middle left out if it is very long, its tags set apart."""
    left_out = len(text) - CHARACTERS
    if left_out > 0:
        text = f"{text[: CHARACTERS // 2]}\n[... {left_out:,} characters left out ...]\n{text[-CHARACTERS // 2 :]}"
    tag = r'<span class="tag">\g<0></span>'
    return markupsafe.Markup(re.sub(r"&lt;/?(?:think|answer)&gt;", tag, str(markupsafe.escape(text))))


def _template() -> jinja2.Template:
    # autoescape is by hand, since jinja2 would choose it by a file ending that a .jinja file hides.
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    pages = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters["marked"] = _marked
    return pages.get_template("report.html.jinja")
