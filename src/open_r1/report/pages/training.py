"""The page of a training: the evaluations before and after it, its curves, and samples."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from ...errors import RecipeError
from ...evaluation import metrics, tables
from ...evaluation.reference.curves import DRAWN, FILE, UNITS, read_logged_metrics
from ...evaluation.reference.files import SHARE, Curves, Track, find_reference
from ...system import run_files
from ...system.run_files import ROWS, Json, Points, format_seconds, format_turns, format_value, read_json, read_rows
from ..curves import plot_accuracy, plot_curves, plot_length, plot_rewards
from ..plots import Line, Plot, write_png
from ..rendering import render_plot

EXAMPLES = 3  # samples without a verdict, and samples with a second opinion


def show_training(run_dir: Path, recipe: Json, status: Json, summary: Json) -> Json:
    """The values of the template for a training."""
    rows = list(read_rows(run_dir / "metrics.jsonl"))
    sides = {name: read_json(run_dir / "evaluations" / f"{name}.json") for name in ("before", "after")}
    for name, side in sides.items():
        if side and "tokens" not in side:
            raise RecipeError(
                f"{run_dir}/evaluations/{name}.json was written by another version of this project: it has no key "
                "`tokens`; train again"
            )
    figures = [metrics.summarize_evaluation(side) if side else summary.get(name) or {} for name, side in sides.items()]
    task = recipe.get("task") or _guess_task(rows)
    weights = _read_weights(recipe)
    groups = {
        "figures": [plot for plot in (plot_accuracy(rows), plot_length(rows)) if plot.lines],
        "rewards": plot_rewards(rows, list(weights)),
        "curves": plot_curves(rows, task),
        "reference": plot_reference(run_dir),
    }
    last = max((row["step"] for row in rows), default=0)
    return {
        "task": task,
        "facts": _describe_progress(status, recipe, rows),
        "table": tables.pair_before_after(*figures) if any(figures) else [],
        **sides,
        "live_rows": (recipe.get("evaluation") or {}).get("live_rows"),
        "unjudged": _describe_unjudged(rows, sides),
        "reasons": _count_reasons(rows),
        "withheld": list(itertools.islice(read_rows(run_dir / "withheld.jsonl"), EXAMPLES)),
        "disagreement": _measure_disagreement(rows),
        "second_opinions": list(itertools.islice(read_rows(run_dir / "second_opinions.jsonl"), EXAMPLES)),
        "plots": _render_groups(groups, last, run_dir / "plots"),
        "weights": weights,
        "pairs": _pair_samples(**sides),
        "reference": read_json(run_dir / FILE),
        "sampled": _read_completions(run_dir / "completions"),
    }


def _guess_task(rows: list[Json]) -> str:
    """The task whose metrics a run without a recipe has logged."""
    keys = set().union(*rows)
    tasks = {"reward": "grpo", "rewards/chosen": "dpo", "min_reward": "reward"}
    return next((task for key, task in tasks.items() if key in keys), "sft")


def _render_groups(groups: dict[str, list[Plot]], last: int, folder: Path) -> dict[str, list[Json]]:
    """Write the PNG files, and render each group of plots for the page."""
    groups = {name: [replace(plot, last=max(last, plot.last)) for plot in group] for name, group in groups.items()}
    for plot in groups["figures"]:
        write_png([plot], folder / ("length.png" if plot.unit == "tokens" else "accuracy.png"))
    for name, group in groups.items():
        if group and name != "figures":
            write_png(group, folder / f"{name}.png")
    return {name: [render_plot(plot) for plot in group] for name, group in groups.items()}


def _describe_progress(status: Json, recipe: Json, rows: list[Json]) -> list[str]:
    """The steps, the time and the tokens so far."""
    step = max([status.get("step") or 0, *(row["step"] for row in rows)])
    seconds = max([status.get("seconds") or 0, *(row.get("seconds") or 0 for row in rows)])
    most = recipe.get("max_steps") or 0
    facts = [f"step {step} of {most}" if status.get("state") != "finished" and most > step else f"{step} steps"]
    facts.append(format_seconds(seconds))
    tokens = max(run_files.read_series(rows, "num_tokens").values(), default=0)
    return [*facts, f"{tokens:,.0f} tokens seen"] if tokens else facts


def _describe_unjudged(rows: list[Json], sides: dict[str, Json]) -> list[str]:
    """The shares of samples without a verdict, as sentences; empty if there are none."""
    sentences = []
    for key in ("verdict/unknown", "verdict/error"):
        points = run_files.read_series(rows, key)
        if any(points.values()):
            step, most = max(points.items(), key=lambda point: point[1])
            mean = fmean(points.values())
            sentences.append(
                f"{key}: {100 * mean:.2g}% of the training completions, at most {100 * most:.2g}% (step {step})."
            )
    for name, side in sides.items():
        lines = tables.describe_unjudged(side) if side else []
        sentences += [f"Evaluation {name} training: {line}." for line in lines]
    return sentences


def _read_weights(recipe: Json) -> dict[str, float]:
    """Weight of each reward by the name of its metric, in the order of the recipe."""
    entries = [{"name": entry} if isinstance(entry, str) else entry for entry in recipe.get("rewards") or []]
    return {entry.get("label") or entry["name"].rpartition(":")[2]: entry.get("weight", 1.0) for entry in entries}


def _count_reasons(rows: list[Json]) -> list[tuple[str, int]]:
    """The reasons why training completions have no verdict, with counts; the most frequent first."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(row.get("verdict/reasons") or {})
    return counts.most_common(8)


def _measure_disagreement(rows: list[Json]) -> dict[str, float]:
    """Share of the second opinions that differ, by reward."""
    keys = sorted({key for row in rows for key in row if key.startswith("second_opinion/")})
    series = {key.partition("/")[2]: run_files.read_series(rows, key) for key in keys}
    return {name: fmean(points.values()) if points else 0.0 for name, points in series.items()}


def _pair_samples(before: Json, after: Json) -> list[Json]:
    """Each example problem with a sample of the base model and one of the trained model; None where one is missing."""
    pairs = []
    for old, new in itertools.zip_longest(before.get("examples") or [], after.get("examples") or []):
        problem = old or new
        samples = [(side["samples"] or [None])[0] if side else None for side in (old, new)]
        pairs.append({"prompt": problem["prompt"], "solution": problem["solution"], "samples": samples})
    return pairs


def _read_completions(folder: Path) -> Json | None:
    """The step and some rows of the newest readable file of training completions, from as many prompts as possible."""
    import pyarrow.parquet

    paths = folder.glob("completions_*.parquet")
    for path in sorted(paths, key=lambda path: (len(path.name), path.name), reverse=True):
        try:
            rows = pyarrow.parquet.read_table(path).to_pylist()
        except (OSError, ValueError):  # a kill has cut the file
            continue
        by_prompt: dict[str, list[Json]] = {}
        for row in rows:
            by_prompt.setdefault(format_turns(row["prompt"]), []).append(row)
        # The first completion of every prompt, then the second of every prompt, and so on.
        ordered = [row for turn in itertools.zip_longest(*by_prompt.values()) for row in turn if row is not None]
        if ordered:
            return {"step": rows[0].get("step"), "rows": [_format_completion(row) for row in ordered[:ROWS]]}
    return None


def _format_completion(row: Json) -> Json:
    return {
        "prompt": format_turns(row["prompt"]),
        "answers": {"completion": format_turns(row["completion"])},
        "values": {key: format_value(row[key]) for key in row if key not in ("step", "prompt", "completion")},
    }


def plot_reference(run_dir: str | Path, name: str | None = None) -> list[Plot]:
    """The curves of a run over stored curves, one plot for each metric that both have.

    A band is drawn on its own scale. A published curve is scaled to the steps and to the range of values of the run.

    Args:
        run_dir: of a training.
        name: of the stored curves; without it, those of the run's reference.json, and no plots without that file.
    """
    run_dir = Path(run_dir)
    if name is not None:
        curves = find_reference(name)
    elif (run_dir / FILE).is_file():
        curves = Curves.model_validate(read_json(run_dir / FILE)["curves"])
    else:
        return []
    if not isinstance(curves, Curves):
        return []
    rows, planned = read_logged_metrics(run_dir)
    plots = []
    for key, track in curves.metrics.items():
        if points := run_files.read_series(rows, key):
            stored = _scale_curve(track, curves, points, planned) if track.low is None else _read_band(track, curves)
            plots.append(_plot_metric(key, points, stored))
    return plots


def _read_band(track: Track, curves: Curves) -> Line:
    low, mean, high = (dict(zip(track.step, values, strict=True)) for values in (track.low, track.mean, track.high))
    return Line(f"{len(curves.runs)} seeds" if curves.runs else "reference", mean, colour="grey", band=(low, high))


def _scale_curve(track: Track, curves: Curves, points: Points, planned: int) -> Line:
    """A stored curve on the steps of the run, with its range of values mapped to that of the run."""
    stored = {round(step / curves.steps * planned): value for step, value in zip(track.step, track.mean, strict=True)}
    stored = {step: value for step, value in stored.items() if step <= max(points)} or stored
    lowest, floor = min(stored.values()), min(points.values())
    scale = (max(points.values()) - floor) / (max(stored.values()) - lowest or 1.0)
    scaled = {step: floor + scale * (value - lowest) for step, value in stored.items()}
    return Line(f"{curves.title}, rescaled", scaled, colour="grey")


def _plot_metric(key: str, points: Points, stored: Line) -> Plot:
    held_out = key.startswith("evaluation/")
    name = key.split("/")[-1].replace("_", " ") + (", held out" if held_out else "")
    is_share = SHARE.fullmatch(key) or "accurac" in key
    unit = "share" if is_share else next((unit for word, unit in UNITS.items() if word in key), key)
    thinned = dict(list(points.items())[:: -(-len(points) // DRAWN)])
    lines = [stored, Line("this run", thinned, "dots" if held_out else "line")]
    return Plot(name, unit, key, lines, last=max(*points, *stored.points))
