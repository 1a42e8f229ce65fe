"""A training's curves beside stored ones, published or made of earlier runs of the same recipe.

The band of a curve is a prediction band: at each point, mean +- t s sqrt(1 + 1/n) of the n runs, with t the quantile
of Student's t for n - 1 degrees of freedom. If runs scatter normally, a further run of the same recipe lies inside
with the stated probability at each point. That is wider than the runs themselves: of five, the lowest to the highest
holds a sixth in two cases of three. The points of one run are not independent: one that is outside is often so again.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
import yaml

from ...errors import RecipeError
from ...system import run_files
from ...system.run_files import Points
from ..intervals import compute_t_quantile
from .files import SHARE, Curves, Track, find_reference

Json = dict[str, Any]

FILE = "reference.json"  # of a run directory: the curves it was set beside, and where it lies

LEAST_RUNS = 3  # of a band; that of two is 16 standard deviations wide to each side
# A curve has left the band once a tenth of its points lie outside, in a row and on one side; these at least.
IN_A_ROW, PART_IN_A_ROW = 3, 0.1
OFTEN_OUTSIDE = 0.7  # share of points inside, of 95 in 100 that there should be, below which a curve is not normal
POINTS = 200  # of one stored curve; of a longer one every so many steps, each as it was, not averaged
DRAWN = 1000  # points of the run's line in a plot
DIGITS = 6  # significant, of a stored curve
SLACK = 1e-5  # of a value before it is outside: what rounding to `DIGITS` may have cost
FLAT = 0.05  # of a value: less is no rise or fall

# Metrics of metrics.jsonl that a curve is made of, where the runs have them, besides all of `evaluation/`.
MADE_OF = ("reward", "completions/mean_length", "entropy", "mean_token_accuracy", "rewards/accuracies")
NOT_MADE_OF = ("evaluation/unknown", "evaluation/error")
# Keys of a recipe in which the seeds of one experiment may differ.
SEED_KEYS = {"seed", "data_seed", "output_dir", "model_name_or_path", "run_name", "report_to", "print_every"}
UNITS = {"length": "tokens", "reward": "reward", "entropy": "nats per token"}


def place_run(run_dir: str | Path, name: str) -> Json:
    """Where a training lies beside stored curves.

    Args:
        run_dir: of a training, finished or not.
        name: of curves in recipes/reference, or a file.

    Returns:
        `verdict`: which curves left the band, in words. `metrics`, of each that both have: its `verdict` in words;
        with a band `points` compared (those at steps that both cover), `inside`, `share`, `left` (the first stretch
        outside on one side that is long enough to say so: `side`, `step`, `until`, None if it never came back),
        `distance` from the mean in half widths of the band (`median`, `furthest` with its step; points where the band
        has no width do not count); without a band `direction` and `half_way` of both, and `rank_correlation`.
        `missing`: metrics that only the stored curves have. `differs`: key of the recipe -> [theirs, the run's].
        `curves`: their file's content, so that the run's directory needs no other.

    Raises:
        RecipeError: no training, no such curves, or no metric in common.
    """
    curves = find_reference(name)
    if not isinstance(curves, Curves):
        raise RecipeError(
            f"{name} holds figures of benchmarks, not curves; for those: open-r1 evaluate ... --reference {name}"
        )
    rows, planned = read_logged_metrics(Path(run_dir))
    placed, missing = {}, []
    for key, track in curves.metrics.items():
        points = run_files.read_series(rows, key)
        if not points:
            missing.append(key)
        elif track.low is None:
            placed[key] = _shape(points, planned, track, curves.steps)
        else:
            placed[key] = _inside(points, track, _made_of(curves))
    if not placed:
        raise RecipeError(f"{run_dir} has logged none of the metrics of {name}: {', '.join(curves.metrics)}")
    return {
        "reference": name,
        "title": curves.title,
        "run": str(run_dir),
        "step": max(row["step"] for row in rows),
        "differs": _differs(curves.recipe, _recipe(Path(run_dir))) if curves.recipe else {},
        "verdict": _summary(placed, curves),
        "metrics": placed,
        "missing": missing,
        "curves": curves.model_dump(exclude_none=True),
    }


def format_placement(placed: Json) -> str:
    """What `place` found, for the terminal."""
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
    """Keep what `place` found as `reference.json` of the run directory, where its report finds it."""
    return _replace(Path(run_dir) / FILE, json.dumps(placed, indent=2, ensure_ascii=False) + "\n")


def build_reference(
    run_dirs: Sequence[str | Path], title: str | None = None, metrics: Sequence[str] | None = None, level: float = 0.95
) -> Json:
    """Curves with a band of finished runs of one recipe that differ in their seeds.

    Args:
        run_dirs: three or more.
        title: of the curves; the recipe's name by default.
        metrics: of metrics.jsonl; by default what was evaluated and `MADE_OF`, as far as all runs have them.
        level: chance of a further run to lie inside the band, at each point.

    Returns:
        The content of a reference file; `write` writes it.

    Raises:
        RecipeError: too few runs, one that is not finished, recipes that differ in more than the seed, the same seed
            twice, a metric that a run lacks.
    """
    folders = [Path(run_dir) for run_dir in run_dirs]
    if len(folders) < LEAST_RUNS:
        raise RecipeError(f"a band takes {LEAST_RUNS} or more runs that differ in their seeds, not {len(folders)}")
    recipes = [_of_one_experiment(folder, folders[0]) for folder in folders]
    seeds = [recipe.get("seed") for recipe in recipes]
    for seed in seeds:
        if seeds.count(seed) > 1:
            same = [str(folder) for folder, other in zip(folders, seeds, strict=True) if other == seed]
            raise RecipeError(f"{same[0]} and {same[1]} have the same seed ({seed}); a band is over different ones")
    logged = [read_logged_metrics(folder) for folder in folders]
    keys = metrics or [
        key for key in _made_from(logged[0][0]) if all(run_files.read_series(rows, key) for rows, _ in logged)
    ]
    if not keys:
        raise RecipeError(
            f"{folders[0]} and the other runs have none of these in common: evaluation/*, {', '.join(MADE_OF)}"
        )
    tracks = {
        key: _track(key, [run_files.read_series(rows, key) for rows, _ in logged], folders, level) for key in keys
    }
    model, task, name = folders[0].resolve().parts[-3:]
    return {
        "title": title or f"{model} {task} {name.partition('--')[0]}",
        "source": f"{len(folders)} runs of this recipe, seeds {', '.join(map(str, seeds))}",
        "note": f"a further run lies between low and high with {100 * level:g}% chance at each point",
        "steps": max(track["step"][-1] for track in tracks.values()),
        "band": {"level": level},
        "recipe": _without_seed(recipes[0]),
        "runs": [_made(folder, seed) for folder, seed in zip(folders, seeds, strict=True)],
        "metrics": tracks,
    }


def write_reference(curves: Json, path: str | Path) -> Path:
    """Write what `make` made as a reference file, to be found by its path, or in recipes/reference by its name.

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
    return _replace(path, head + text)


def _inside(points: Points, track: Track, made_of: str) -> Json:
    """How a run's points lie in a band."""
    steps = [step for step in points if track.step[0] <= step <= track.step[-1]]
    if not steps:
        return {"points": 0, "verdict": f"nothing at steps {track.step[0]} to {track.step[-1]} yet"}
    values = np.array([points[step] for step in steps])
    mean, low, high = (track.at(name, steps) for name in ("mean", "low", "high"))
    slack = SLACK * np.maximum(abs(low), abs(high))
    side = np.where(values < low - slack, -1, np.where(values > high + slack, 1, 0))
    halves = np.where(values < mean, mean - low, high - mean)
    distances = ((values - mean) / np.where(halves > 0, halves, np.nan)).tolist()
    measured = {step: d for step, d in zip(steps, distances, strict=True) if math.isfinite(d)}
    furthest = max(measured, key=lambda step: abs(measured[step]), default=None)
    inside = int((side == 0).sum())
    left = _left(steps, side.tolist())
    return {
        "points": len(steps),
        "inside": inside,
        "share": inside / len(steps),
        "left": left,
        "distance": {
            "median": median(map(abs, measured.values())) if measured else None,
            "furthest": None if furthest is None else {"step": furthest, "distance": measured[furthest]},
        },
        "verdict": _verdict(inside, len(steps), left, made_of),
    }


def _left(steps: list[int], side: list[int]) -> Json | None:
    """The first stretch of points outside on one side that is long enough to say so."""
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


def _summary(placed: Json, curves: Curves) -> str:
    if curves.band is None:
        return "there is no band, and scales differ: only shape and direction compare"
    left = [f"{key} ({metric['left']['side']})" for key, metric in placed.items() if metric.get("left")]
    inside, points = (sum(metric.get(name, 0) for metric in placed.values()) for name in ("inside", "points"))
    counted = f"{inside} of {points} points inside"
    if left:
        return f"left the band: {', '.join(left)}; {counted}"
    often = [key for key, metric in placed.items() if metric.get("share", 1) < OFTEN_OUTSIDE]
    # Points that jump over the band on both sides, as of a noisier run.
    return f"often outside the band: {', '.join(often)}; {counted}" if often else f"no curve left the band; {counted}"


def _verdict(inside: int, points: int, left: Json | None, made_of: str) -> str:
    counted = f"inside {made_of} at {inside} of {points} points"
    if left is None:
        return counted
    if left["until"] is None:
        return f"{left['side']} from step {left['step']} on; {counted}"
    return f"{left['side']} from step {left['step']} to {left['until']}; {counted}"


def _made_of(curves: Curves) -> str:
    return f"the band of {len(curves.runs)} seeds" if curves.runs else "the band"


def _shape(points: Points, planned: int, track: Track, steps: int) -> Json:
    """How a run's curve resembles one of another scale, over the share of its own steps that it has done."""
    ours = {step / planned: value for step, value in points.items()}
    done = max(ours)
    theirs = {step / steps: value for step, value in zip(track.step, track.mean, strict=True) if step / steps <= done}
    common = [at for at in ours if min(theirs, default=1.0) <= at <= max(theirs, default=0.0)]
    if len(common) < IN_A_ROW:
        return {"points": len(common), "verdict": f"too early to tell ({100 * done:.0f}% of its steps done)"}
    correlation = _rank_correlation([ours[at] for at in common], track.at("mean", [at * steps for at in common]))
    directions = [_direction(curve) for curve in (ours, theirs)]
    half_way = [_half_way(curve) for curve in (ours, theirs)]
    verdict = f"{directions[0]}, theirs {directions[1]}"
    if directions[0] == directions[1]:
        verdict = f"{directions[0]}, as theirs"
        if directions[0] != "flat":
            verdict += (
                f"; half of it after {100 * half_way[0]:.0f}% of the steps, theirs after {100 * half_way[1]:.0f}%"
            )
    if correlation is not None:
        verdict += f"; rank correlation {correlation:.2f}"
    return {
        "points": len(common),
        "direction": directions,
        "half_way": half_way,
        "rank_correlation": correlation,
        "verdict": verdict,
    }


def _ends(curve: dict[float, float]) -> tuple[float, float]:
    """Means of the first and the last twentieth of the points."""
    values = list(curve.values())
    count = max(1, len(values) // 20)
    return fmean(values[:count]), fmean(values[-count:])


def _direction(curve: dict[float, float]) -> str:
    first, last = _ends(curve)
    if abs(last - first) <= FLAT * max(abs(first), abs(last)):
        return "flat"
    return "rises" if last > first else "falls"


def _half_way(curve: dict[float, float]) -> float:
    """The share of the steps after which the middle between the first and the last value is first reached."""
    first, last = _ends(curve)
    middle = (first + last) / 2
    return next(at for at, value in curve.items() if (value >= middle) == (last >= first))


def _rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's; None if one of them is constant."""

    def ranks(values: Sequence[float]) -> np.ndarray:
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[place]

    ranked = ranks(a), ranks(b)
    return None if any(np.ptp(r) == 0 for r in ranked) else float(np.corrcoef(*ranked)[0, 1])


def _track(key: str, series: list[Points], folders: list[Path], level: float) -> Json:
    """Mean and band of a metric at the steps at which all runs have it."""
    for points, folder in zip(series, folders, strict=True):
        if not points:
            raise RecipeError(f"{folder} has not logged {key!r}")
    steps = [step for step in series[0] if all(step in points for points in series)]
    if not steps:
        raise RecipeError(f"{key!r} was never logged at one step by all runs")
    n = len(series)
    wide = compute_t_quantile((1 + level) / 2, n - 1) * math.sqrt(1 + 1 / n)
    # The last step is kept, as that is where a run is judged.
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


def _made(folder: Path, seed: int) -> Json:
    run, commit = "/".join(folder.resolve().parts[-3:]), _json(folder, "environment").get("commit")
    return {"run": run, "seed": seed, **({"commit": commit} if commit else {})}


def _made_from(rows: list[Json]) -> list[str]:
    keys = dict.fromkeys(key for row in rows for key, value in row.items() if isinstance(value, int | float))
    evaluated = [key for key in keys if key.startswith("evaluation/") and key not in NOT_MADE_OF]
    return evaluated + [key for key in MADE_OF if key in keys]


def _of_one_experiment(folder: Path, first: Path) -> Json:
    """The recipe of a finished run, which is that of the first but for its seed."""
    state = _json(folder, "status").get("state")
    if state != "finished":
        raise RecipeError(f"{folder} is not finished (status: {state or 'none'}); a reference is made of whole runs")
    recipes = [_recipe(run) for run in (folder, first)]
    for key, (theirs, own) in _differs(recipes[1], recipes[0]).items():
        raise RecipeError(f"{folder} and {first} differ in more than the seed: {key} is {own!r} and {theirs!r}")
    return recipes[0]


def _without_seed(recipe: Json) -> Json:
    return {key: value for key, value in recipe.items() if key not in SEED_KEYS}


def _differs(theirs: Json, ours: Json) -> dict[str, list[Any]]:
    """Key of a recipe -> [theirs, ours], of those that are not the same."""
    theirs, ours = _without_seed(theirs), _without_seed(ours)
    keys = sorted(theirs.keys() | ours.keys())
    return {key: [theirs.get(key), ours.get(key)] for key in keys if theirs.get(key) != ours.get(key)}


def read_logged_metrics(run_dir: Path) -> tuple[list[Json], int]:
    """What a training has logged, and how many steps it is to take."""
    path = run_dir / "metrics.jsonl"
    if not path.is_file():
        raise RecipeError(f"{run_dir} has no metrics.jsonl: it is not the directory of a training")
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # a kill has cut it
    last = max((row["step"] for row in rows), default=0)
    # With epochs in place of max_steps (-1), how many there will be is not known before the end.
    return rows, max(_recipe(run_dir).get("max_steps") or 0, last, 1)


def _recipe(run_dir: Path) -> Json:
    path = run_dir / "recipe.yaml"
    return (yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None) or {}


def _json(folder: Path, name: str) -> Json:
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _replace(path: Path, text: str) -> Path:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path
