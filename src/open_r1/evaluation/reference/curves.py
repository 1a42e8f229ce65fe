"""A training's curves beside stored ones, which are published or made from earlier runs of the same recipe.

The band of a curve is a prediction band: at each point, mean +- t s sqrt(1 + 1/n) of the n runs, with t the quantile
of Student's t for n - 1 degrees of freedom. If runs scatter normally, a further run of the same recipe lies inside
with the stated probability at each point. The band is wider than the runs themselves: the range of five runs holds a
sixth in two cases of three. The points of one run are not independent: if one is outside, the next often is too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
import yaml

from ...errors import RecipeError
from ...system import run_files
from ...system.files import write_json, write_text
from ...system.run_files import Points, read_json, read_rows, read_text
from ..intervals import compute_t_quantile
from .files import SHARE, Curves, Track, find_reference

Json = dict[str, Any]

FILE = "reference.json"  # of a run directory: the stored curves and how the run lies beside them

LEVEL = 0.95  # probability that a further run lies inside a band, at each point
LEAST_RUNS = 3  # of a band; that of two is 16 standard deviations wide to each side
# A curve has left the band once a tenth of its points, and at least three, lie outside in a row on one side.
IN_A_ROW, PART_IN_A_ROW = 3, 0.1
OFTEN_OUTSIDE = 0.7  # a curve with a lower share of points inside (0.95 are expected) is not normal
POINTS = 200  # of a stored curve; of a longer one every so many steps are kept, not averaged
DRAWN = 1000  # points of the run's line in a plot
DIGITS = 6  # significant digits of a stored curve
SLACK = 1e-5  # relative tolerance at the edges of a band, for the rounding to `DIGITS`
FLAT = 0.05  # relative change below which a curve neither rises nor falls

# Metrics of a stored curve beside all of `evaluation/`, where the runs have them.
STORED = ("reward", "completions/mean_length", "entropy", "mean_token_accuracy", "rewards/accuracies")
NOT_STORED = ("evaluation/unknown", "evaluation/error")
# Keys of a recipe in which the seeds of one experiment may differ.
SEED_KEYS = {"seed", "data_seed", "output_dir", "model_name_or_path", "run_name", "report_to", "print_every"}
UNITS = {"length": "tokens", "reward": "reward", "entropy": "nats per token"}


def place_run(run_dir: str | Path, name: str) -> Json:
    """Place the curves of a training beside stored ones.

    Args:
        run_dir: of a training, finished or not.
        name: of curves in recipes/reference, or a file.

    Returns:
        For JSON: `verdict` in words, and `metrics`: for each metric that both have its own `verdict`, and

        - with a band: `points` compared (those at steps that both cover), `inside`, `share`, `left` (the first long
          stretch outside on one side: `side`, `step`, `until`, None if the run never came back), and `distance` from
          the mean in half widths of the band (`median`, and `furthest` with its step; without points where the band
          has no width);
        - without a band: `direction` and `half_way` of both curves, and `rank_correlation`.

        `missing` lists metrics that only the stored curves have, `differs` maps a key of the recipe to [theirs, the
        run's], and `curves` is the content of their file, so that the run's directory needs no other.

    Raises:
        RecipeError: not a training, no such curves, or no metric in common.
    """
    curves = find_reference(name)
    if not isinstance(curves, Curves):
        raise RecipeError(
            f"{name} holds figures of benchmarks, not curves; for those: open-r1 evaluate ... --reference {name}"
        )
    rows, planned = read_logged_metrics(Path(run_dir))
    placed, missing = {}, []
    band = f"the band of {len(curves.runs)} seeds" if curves.runs else "the band"
    for key, track in curves.metrics.items():
        points = run_files.read_series(rows, key)
        if not points:
            missing.append(key)
        elif track.low is None:
            placed[key] = _compare_shape(points, planned, track, curves.steps)
        else:
            placed[key] = _place_in_band(points, track, band)
    if not placed:
        raise RecipeError(f"{run_dir} has logged none of the metrics of {name}: {', '.join(curves.metrics)}")
    return {
        "reference": name,
        "title": curves.title,
        "run": str(run_dir),
        "step": max(row["step"] for row in rows),
        "differs": _find_differences(curves.recipe, _read_recipe(Path(run_dir))) if curves.recipe else {},
        "verdict": _summarize(placed, curves),
        "metrics": placed,
        "missing": missing,
        "curves": curves.model_dump(exclude_none=True),
    }


def format_placement(placed: Json) -> str:
    """The result of `place_run` for the terminal."""
    curves = placed["curves"]
    lines = [f"{placed['run']} at step {placed['step']}, beside {placed['title']} ({curves['source']})"]
    width = max(map(len, placed["metrics"]))
    lines += [f"  {key:<{width}}  {metric['verdict']}" for key, metric in placed["metrics"].items()]
    if placed["missing"]:
        lines.append(f"  not logged by this run: {', '.join(placed['missing'])}")
    if placed["differs"]:
        lines.append(f"  recipes differ in {', '.join(placed['differs'])}")
    if "note" in curves:
        lines.append(f"  {curves['note']}")
    return "\n".join([*lines, f"  {placed['verdict']}"])


def save_placement(placed: Json, run_dir: str | Path) -> Path:
    """Write the result of `place_run` as `reference.json` of the run directory, where the report reads it."""
    path = Path(run_dir) / FILE
    write_json(path, placed)
    return path


def build_reference(run_dirs: Sequence[str | Path]) -> Json:
    """Build curves with a band from finished runs of one recipe that differ in their seeds.

    Args:
        run_dirs: three or more.

    Returns:
        The content of a reference file, for `write_reference`. Its metrics are those of evaluations and `STORED`, as
        far as all runs have logged them.

    Raises:
        RecipeError: too few runs, an unfinished run, recipes that differ in more than the seed, or equal seeds.
    """
    folders = [Path(run_dir) for run_dir in run_dirs]
    if len(folders) < LEAST_RUNS:
        raise RecipeError(f"a band takes {LEAST_RUNS} or more runs that differ in their seeds, not {len(folders)}")
    recipes = [_check_experiment(folder, folders[0]) for folder in folders]
    seeds = [recipe.get("seed") for recipe in recipes]
    for seed in seeds:
        if seeds.count(seed) > 1:
            same = [str(folder) for folder, other in zip(folders, seeds, strict=True) if other == seed]
            raise RecipeError(f"{same[0]} and {same[1]} have the same seed ({seed}); a band is over different ones")
    rows_S = [read_logged_metrics(folder)[0] for folder in folders]
    series_S = {key: [run_files.read_series(rows, key) for rows in rows_S] for key in _list_stored(rows_S[0])}
    tracks = {key: _build_track(key, series) for key, series in series_S.items() if all(series)}
    if not tracks:
        raise RecipeError(
            f"{folders[0]} and the other runs have none of these in common: evaluation/*, {', '.join(STORED)}"
        )
    model, task, name = folders[0].resolve().parts[-3:]
    return {
        "title": f"{model} {task} {name.partition('--')[0]}",
        "source": f"{len(folders)} runs of this recipe, seeds {', '.join(map(str, seeds))}",
        "note": f"a further run lies between low and high with {100 * LEVEL:g}% chance at each point",
        "steps": max(track["step"][-1] for track in tracks.values()),
        "band": {"level": LEVEL},
        "recipe": _drop_seed(recipes[0]),
        "runs": [_describe_run(folder, seed) for folder, seed in zip(folders, seeds, strict=True)],
        "metrics": tracks,
    }


def write_reference(curves: Json, path: str | Path) -> Path:
    """Write a reference file, found by its path, or by its name if it lies in recipes/reference.

    Raises:
        RecipeError: the path does not end in .yaml.
    """
    path = Path(path)
    if path.suffix != ".yaml":
        raise RecipeError(f"--output {path}: a reference is a .yaml file")
    Curves.model_validate(curves)
    head = f"# {curves['title']}: {curves['source']}. Made by `open-r1 reference`.\n"
    text = yaml.safe_dump(curves, sort_keys=False, default_flow_style=None, width=119, allow_unicode=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, head + text)
    return path


def _place_in_band(points: Points, track: Track, band: str) -> Json:
    """How a run's points lie in a band."""
    steps = [step for step in points if track.step[0] <= step <= track.step[-1]]
    if not steps:
        return {"points": 0, "verdict": f"nothing at steps {track.step[0]} to {track.step[-1]} yet"}
    values = np.array([points[step] for step in steps])
    mean, low, high = (track.interpolate(name, steps) for name in ("mean", "low", "high"))
    slack = SLACK * np.maximum(abs(low), abs(high))
    side = np.where(values < low - slack, -1, np.where(values > high + slack, 1, 0))
    halves = np.where(values < mean, mean - low, high - mean)
    distances = ((values - mean) / np.where(halves > 0, halves, np.nan)).tolist()
    measured = {step: d for step, d in zip(steps, distances, strict=True) if math.isfinite(d)}
    furthest = max(measured, key=lambda step: abs(measured[step]), default=None)
    inside, left = int((side == 0).sum()), _find_stretch_outside(steps, side.tolist())
    verdict = f"inside {band} at {inside} of {len(steps)} points"
    if left is not None:
        until = "on" if left["until"] is None else f"to {left['until']}"
        verdict = f"{left['side']} from step {left['step']} {until}; {verdict}"
    return {
        "points": len(steps),
        "inside": inside,
        "share": inside / len(steps),
        "left": left,
        "distance": {
            "median": median(map(abs, measured.values())) if measured else None,
            "furthest": None if furthest is None else {"step": furthest, "distance": measured[furthest]},
        },
        "verdict": verdict,
    }


def _find_stretch_outside(steps: list[int], side: list[int]) -> Json | None:
    """The first stretch of points outside on one side that is long enough to have left the band."""
    enough = max(IN_A_ROW, math.ceil(PART_IN_A_ROW * len(steps)))
    at = 0
    for outside, group in itertools.groupby(side):
        count = len(list(group))
        if outside and count >= enough:
            back = at + count < len(steps)
            name = "below" if outside < 0 else "above"
            return {"side": name, "step": steps[at], "until": steps[at + count - 1] if back else None, "points": count}
        at += count
    return None


def _summarize(placed: Json, curves: Curves) -> str:
    if curves.band is None:
        return "the reference has no band and another scale: compare only shape and direction"
    left = [f"{key} ({metric['left']['side']})" for key, metric in placed.items() if metric.get("left")]
    inside, points = (sum(metric.get(name, 0) for metric in placed.values()) for name in ("inside", "points"))
    counted = f"{inside} of {points} points inside"
    if left:
        return f"left the band: {', '.join(left)}; {counted}"
    # A noisier run jumps over the band on both sides.
    often = [key for key, metric in placed.items() if metric.get("share", 1) < OFTEN_OUTSIDE]
    return f"often outside the band: {', '.join(often)}; {counted}" if often else f"no curve left the band; {counted}"


def _compare_shape(points: Points, planned: int, track: Track, steps: int) -> Json:
    """How a run's curve resembles one of another scale, over the share of its own steps that it has done."""
    ours = {step / planned: value for step, value in points.items()}
    done = max(ours)
    theirs = {step / steps: value for step, value in zip(track.step, track.mean, strict=True) if step / steps <= done}
    common = [at for at in ours if min(theirs, default=1.0) <= at <= max(theirs, default=0.0)]
    if len(common) < IN_A_ROW:
        return {"points": len(common), "verdict": f"too early to tell ({100 * done:.0f}% of its steps done)"}
    at_common = track.interpolate("mean", [at * steps for at in common])
    correlation = _compute_rank_correlation([ours[at] for at in common], at_common)
    directions = [_find_direction(curve) for curve in (ours, theirs)]
    half_way = [_find_half_way(curve) for curve in (ours, theirs)]
    verdict = f"{directions[0]}, theirs {directions[1]}"
    if directions[0] == directions[1]:
        half = f"; half of it after {100 * half_way[0]:.0f}% of the steps, theirs after {100 * half_way[1]:.0f}%"
        verdict = f"{directions[0]}, as theirs" + (half if directions[0] != "flat" else "")
    if correlation is not None:
        verdict += f"; rank correlation {correlation:.2f}"
    found = {"points": len(common), "direction": directions, "half_way": half_way}
    return found | {"rank_correlation": correlation, "verdict": verdict}


def _average_ends(curve: dict[float, float]) -> tuple[float, float]:
    """Means of the first and the last twentieth of the points."""
    values = list(curve.values())
    count = max(1, len(values) // 20)
    return fmean(values[:count]), fmean(values[-count:])


def _find_direction(curve: dict[float, float]) -> str:
    first, last = _average_ends(curve)
    if abs(last - first) <= FLAT * max(abs(first), abs(last)):
        return "flat"
    return "rises" if last > first else "falls"


def _find_half_way(curve: dict[float, float]) -> float:
    """The share of the steps after which the middle between the first and the last value is first reached."""
    first, last = _average_ends(curve)
    middle = (first + last) / 2
    return next(at for at, value in curve.items() if (value >= middle) == (last >= first))


def _compute_rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's; None if one of them is constant."""

    def rank(values: Sequence[float]) -> np.ndarray:
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[place]

    ranked = rank(a), rank(b)
    return None if any(np.ptp(r) == 0 for r in ranked) else float(np.corrcoef(*ranked)[0, 1])


def _build_track(key: str, series: list[Points]) -> Json:
    """Mean and band of a metric at the steps where all runs have it."""
    steps = [step for step in series[0] if all(step in points for points in series)]
    if not steps:
        raise RecipeError(f"{key!r} was never logged at one step by all runs")
    n = len(series)
    wide = compute_t_quantile((1 + LEVEL) / 2, n - 1) * math.sqrt(1 + 1 / n)
    # The last step is kept: a run is judged by it.
    chosen = steps[:: -(-len(steps) // POINTS)]
    chosen += [steps[-1]] if chosen[-1] != steps[-1] else []
    track: dict[str, list] = {"step": chosen, "mean": [], "low": [], "high": []}
    for step in chosen:
        values = [points[step] for points in series]
        mean, half = fmean(values), wide * stdev(values)
        low, high = mean - half, mean + half
        if SHARE.fullmatch(key):
            low, high = max(low, 0.0), min(high, 1.0)
        for name, value in (("mean", mean), ("low", low), ("high", high)):
            track[name].append(float(f"{value:.{DIGITS}g}"))
    return track


def _describe_run(folder: Path, seed: int) -> Json:
    run, commit = "/".join(folder.resolve().parts[-3:]), read_json(folder / "environment.json").get("commit")
    return {"run": run, "seed": seed, **({"commit": commit} if commit else {})}


def _list_stored(rows: list[Json]) -> list[str]:
    """Metrics of a run that a stored curve has."""
    keys = dict.fromkeys(key for row in rows for key, value in row.items() if isinstance(value, int | float))
    evaluated = [key for key in keys if key.startswith("evaluation/") and key not in NOT_STORED]
    return evaluated + [key for key in STORED if key in keys]


def _check_experiment(folder: Path, first: Path) -> Json:
    """The recipe of a finished run, which may differ from that of the first run in its seed only."""
    state = read_json(folder / "status.json").get("state")
    if state != "finished":
        raise RecipeError(f"{folder} is not finished (status: {state or 'none'}); a reference is made of whole runs")
    recipe = _read_recipe(folder)
    for key, (theirs, ours) in _find_differences(_read_recipe(first), recipe).items():
        raise RecipeError(f"{folder} and {first} differ in more than the seed: {key} is {ours!r} and {theirs!r}")
    return recipe


def _drop_seed(recipe: Json) -> Json:
    return {key: value for key, value in recipe.items() if key not in SEED_KEYS}


def _find_differences(theirs: Json, ours: Json) -> dict[str, list[Any]]:
    """Key of a recipe -> [theirs, ours], where they differ."""
    theirs, ours = _drop_seed(theirs), _drop_seed(ours)
    keys = sorted(theirs.keys() | ours.keys())
    return {key: [theirs.get(key), ours.get(key)] for key in keys if theirs.get(key) != ours.get(key)}


def read_logged_metrics(run_dir: Path) -> tuple[list[Json], int]:
    """The rows of a training's metrics.jsonl, and how many steps it is to take.

    Raises:
        RecipeError: the directory has no metrics.jsonl.
    """
    path = run_dir / "metrics.jsonl"
    if not path.is_file():
        raise RecipeError(f"{run_dir} has no metrics.jsonl: it is not the directory of a training")
    rows = list(read_rows(path))
    last = max((row["step"] for row in rows), default=0)
    # With epochs in place of max_steps (-1), the number of steps is not known before the end.
    return rows, max(_read_recipe(run_dir).get("max_steps") or 0, last, 1)


def _read_recipe(run_dir: Path) -> Json:
    return yaml.safe_load(read_text(run_dir / "recipe.yaml")) or {}
