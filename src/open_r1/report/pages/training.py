"""The page of a training: before and after, its curves, its samples."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import RecipeError
from ...evaluation import metrics, tables
from ...evaluation.reference.curves import DRAWN, FILE, UNITS, read_logged_metrics
from ...evaluation.reference.files import SHARE, Curves, Track, find_reference
from ...system import run_files
from ...system.run_files import ROWS, Json, Points, format_seconds, format_turns, format_value, read_json, read_rows
from .. import plots
from ..curves import plot_accuracy, plot_curves, plot_length, plot_rewards
from ..plots import Line, Plot

EXAMPLES = 3  # samples shown of those without a verdict, and of disagreements


def show_training(run_dir: Path, recipe: Json, status: Json, summary: Json) -> Json:
    """What the template shows of a training."""
    rows = list(read_rows(run_dir / "metrics.jsonl"))
    before, after = (read_json(run_dir / "evaluations" / f"{name}.json") for name in ("before", "after"))
    sides = {"before": before, "after": after}
    for name, side in sides.items():
        if side and "tokens" not in side:
            raise RecipeError(f"{run_dir}/evaluations/{name}.json is no evaluation of this version; train again")
    shown = [metrics.summarize_evaluation(side) if side else summary.get(name) or {} for name, side in sides.items()]
    task = recipe.get("task") or _task(rows)
    weights = _weights(recipe)
    large = [plot for plot in (plot_accuracy(rows), plot_length(rows)) if plot.lines]
    grids = {"rewards": plot_rewards(rows, list(weights)), "curves": plot_curves(rows, task)}
    grids["reference"] = reference_plots(run_dir)
    last = max((row["step"] for row in rows), default=0)
    return {
        "task": task,
        "counted": _steps(status, recipe, rows),
        "table": tables.pair_before_after(*shown) if any(shown) else [],
        "before": before,
        "after": after,
        "live_rows": (recipe.get("evaluation") or {}).get("live_rows"),
        "unjudged": _unjudged(rows, sides),
        "reasons": _reasons(rows),
        "withheld": list(itertools.islice(read_rows(run_dir / "withheld.jsonl"), EXAMPLES)),
        "disagreement": _disagreement(rows),
        "second_opinions": list(itertools.islice(read_rows(run_dir / "second_opinions.jsonl"), EXAMPLES)),
        "plots": _draw_all(large, grids, last, run_dir / "plots"),
        "weights": weights,
        "pairs": _pairs(before, after),
        "beside": _beside(run_dir),
        "sampled": _sampled(run_dir / "completions"),
    }


def _beside(run_dir: Path) -> Json | None:
    """What `open-r1 compare --reference` found of this run; its curves are among the plots."""
    placed = read_json(run_dir / "reference.json")
    if not placed:
        return None
    curves = placed["curves"]
    return {
        "title": placed["title"],
        "source": curves["source"],
        "level": (curves.get("band") or {}).get("level"),
        "verdicts": {key: metric["verdict"] for key, metric in placed["metrics"].items()},
        "missing": placed["missing"],
    }


def _task(rows: list[dict[str, Any]]) -> str:
    keys = set().union(*rows)
    told = {"reward": "grpo", "rewards/chosen": "dpo", "min_reward": "reward"}
    return next((task for key, task in told.items() if key in keys), "sft")


def _draw_all(large: list[Plot], grids: dict[str, list[Plot]], last: int, folder: Path) -> dict[str, list[dict]]:
    """Write the PNGs; return the plots of each group (`figures` and the grids) with their `svg` for the page."""
    large = [replace(plot, last=max(last, plot.last)) for plot in large]
    grids = {name: [replace(plot, last=max(last, plot.last)) for plot in grid] for name, grid in grids.items()}
    for plot in large:
        plots.write_png([plot], plots.LARGE, folder / ("length.png" if plot.unit == "tokens" else "accuracy.png"))
    for name, grid in grids.items():
        if grid:
            plots.write_png(grid, plots.SMALL, folder / f"{name}.png")
    groups = {"figures": (large, plots.LARGE)} | {name: (grid, plots.SMALL) for name, grid in grids.items()}
    return {
        group: [{"plot": plot, "svg": plots.render_svg(plot, size)} for plot in drawn]
        for group, (drawn, size) in groups.items()
    }


def _steps(status: dict, recipe: dict, rows: list[dict]) -> list[str]:
    """What there is of a training's steps, time and tokens."""
    step = max([status.get("step") or 0, *(row["step"] for row in rows)])
    seconds = max([status.get("seconds") or 0, *(row.get("seconds") or 0 for row in rows)])
    wanted = recipe.get("max_steps") or 0
    counted = [f"step {step} of {wanted}" if status.get("state") != "finished" and wanted > step else f"{step} steps"]
    counted.append(format_seconds(seconds))
    tokens = max(run_files.read_series(rows, "num_tokens").values(), default=0)
    return [*counted, f"{tokens:,.0f} tokens seen"] if tokens else counted


def _unjudged(rows: list[dict], sides: dict[str, Json]) -> list[str]:
    """What was left without a verdict, in words; empty if nothing was."""
    told = []
    for key in ("verdict/unknown", "verdict/error"):
        points = run_files.read_series(rows, key)
        if any(points.values()):
            step, most = max(points.items(), key=lambda point: point[1])
            mean = sum(points.values()) / len(points)
            told.append(
                f"{key}: {100 * mean:.2g}% of the training completions, at most {100 * most:.2g}% (step {step})."
            )
    for name, evaluation in sides.items():
        lines = tables.describe_unjudged(evaluation) if evaluation else []
        told += [f"Evaluation {name} training: {line}." for line in lines]
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
        points = run_files.read_series(rows, key)
        found[key.partition("/")[2]] = sum(points.values()) / len(points) if points else 0.0
    return found


def _pairs(before: dict, after: dict) -> list[dict[str, Any]]:
    """Each problem with one sample of the base model and one of the trained model (None where there is none)."""
    pairs = []
    for old, new in itertools.zip_longest(before.get("examples") or [], after.get("examples") or []):
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
            by_prompt.setdefault(format_turns(row["prompt"]), []).append(row)
        # The first of every group, then the second of every group, and so on.
        turns = [row for turn in itertools.zip_longest(*by_prompt.values()) for row in turn if row is not None][:ROWS]
        shown = [
            {
                "prompt": format_turns(row["prompt"]),
                "completion": format_turns(row["completion"]),
                "values": {key: format_value(row[key]) for key in row if key not in ("step", "prompt", "completion")},
            }
            for row in turns
        ]
        if shown:
            return {"step": rows[0].get("step"), "rows": shown}
    return None


def reference_plots(run_dir: str | Path, name: str | None = None) -> list[Plot]:
    """The run's curves over the stored ones, one plot for each metric that both have.

    A band is drawn as it is. A published curve is drawn to the scale of the run: its steps, and its range of values.

    Args:
        run_dir: of a training.
        name: of curves; without it those of its reference.json, and no plots without such a file.
    """
    run_dir = Path(run_dir)
    if name is not None:
        curves = find_reference(name)
    elif (run_dir / FILE).is_file():
        curves = Curves.model_validate(json.loads((run_dir / FILE).read_text(encoding="utf-8"))["curves"])
    else:
        return []
    if not isinstance(curves, Curves):
        return []
    rows, planned = read_logged_metrics(run_dir)
    drawn = []
    for key, track in curves.metrics.items():
        points = run_files.read_series(rows, key)
        if points:
            stored = _scaled(track, curves, points, planned) if track.low is None else _banded(track, curves)
            drawn.append(_plot(key, points, stored))
    return drawn


def _banded(track: Track, curves: Curves) -> Line:
    low, high = (dict(zip(track.step, values, strict=True)) for values in (track.low, track.high))
    mean = dict(zip(track.step, track.mean, strict=True))
    return Line(f"{len(curves.runs)} seeds" if curves.runs else "reference", mean, colour="grey", band=(low, high))


def _scaled(track: Track, curves: Curves, points: Points, planned: int) -> Line:
    """A stored curve on the run's steps, with its range laid over the run's."""
    theirs = {round(step / curves.steps * planned): value for step, value in zip(track.step, track.mean, strict=True)}
    theirs = {step: value for step, value in theirs.items() if step <= max(points)} or theirs
    span = max(theirs.values()) - min(theirs.values()) or 1.0
    scale = (max(points.values()) - min(points.values())) / span
    laid = {step: min(points.values()) + scale * (value - min(theirs.values())) for step, value in theirs.items()}
    return Line(f"{curves.title}, rescaled", laid, colour="grey")


def _plot(key: str, points: Points, stored: Line) -> Plot:
    held_out = key.startswith("evaluation/")
    name = key.split("/")[-1].replace("_", " ") + (", held out" if held_out else "")
    share = SHARE.fullmatch(key) or "accurac" in key
    unit = "share" if share else next((unit for word, unit in UNITS.items() if word in key), key)
    drawn = dict(list(points.items())[:: -(-len(points) // DRAWN)])
    lines = [stored, Line("this run", drawn, "dots" if held_out else "line")]
    return Plot(name, unit, key, lines, last=max(*points, *stored.points))
