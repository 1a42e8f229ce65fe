"""The page of a pipeline: its graph, the table of claims, all models side by side, curves, samples, what it took.

Everything is read from `state.json`, `table.json` and the stages' run directories; of a pipeline under way, what there
is so far.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import yaml

from ...errors import RecipeError
from ...evaluation import metrics, tables
from ...evaluation.over_seeds import compute_mean
from ...system import run_files
from ...system.run_files import Json, format_seconds, list_benchmarks, read_json, read_rows, read_text
from .. import curves, plots
from ..plots import Models
from ..rendering import render_page, render_plot
from . import graph

PROMPTS = 4  # answered by all models, shown of a benchmark
LAST_LINES = 15  # of a failed stage's log
ENDED = graph.ENDED
SHARES = ("format", "language", "truncated")
HOUR = 3600


def write_pipeline_page(pipeline_dir: Path) -> Path:
    """Draw the page of a pipeline from what its directory holds.

    Args:
        pipeline_dir: with `state.json`; the claims are those of its `table.json`, if it is there.

    Returns:
        `pipeline_dir/report.html`.

    Raises:
        RecipeError: the directory is not that of a pipeline.
    """
    pipeline_dir = Path(pipeline_dir)
    state = read_json(pipeline_dir / "state.json")
    if not state:
        raise RecipeError(f"{pipeline_dir} is not the directory of a pipeline: it holds no state.json")
    stages, claims = _by_name(state["stages"]), read_json(pipeline_dir / "table.json")
    evaluated = _evaluated(pipeline_dir, stages)
    shown = {
        "name": [state.get("title") or pipeline_dir.name],
        "state": state["state"],
        "facts": _facts(pipeline_dir, state),
        "graph": graph.draw_graph(state["stages"]),
        "links": {graph.find_node(name): _link(pipeline_dir, runs[0]) for name, runs in reversed(stages.items())},
        "about": state.get("about"),
        "claims": claims,
        "marks_told": _marks_told(claims.get("lines") or []),
        "benchmarks": [_benchmark(name, models, pipeline_dir / "plots") for name, models in evaluated.items()],
        "trainings": list(_trainings(pipeline_dir, stages)),
        "funnels": list(_funnels(pipeline_dir, stages)),
        "answers": [_answers(name, models) for name, models in evaluated.items()],
        "costs": _costs(pipeline_dir, stages),
        "failures": [_failure(pipeline_dir, stage) for stage in state["stages"] if stage["state"] == "failed"],
        "held_up": _held_up(stages),
        "pipeline": read_text(pipeline_dir / "pipeline.yaml"),
    }
    target = pipeline_dir / "report.html"
    render_page("pipeline.html.jinja", target, shown)
    return target


def _marks_told(lines: list[Json]) -> str:
    """`Of 3 claims 2 hold and 1 is not clear.` with what the marks mean."""
    if not lines:
        return ""
    words = {"holds": ("holds", "hold"), "disagrees": ("disagrees", "disagree")}
    counts = Counter(line["mark"] for line in lines)
    told = [f"{count} {words.get(mark, (f'is {mark}', f'are {mark}'))[count > 1]}" for mark, count in counts.items()]
    return (
        f"Of {len(lines)} claims, {', '.join(told)}. A claim holds, or disagrees, where the 95% interval of its "
        "difference lies wholly on one side; it is not clear where it does not; and is only shown where nothing is "
        "compared. How much is enough (at least, at most, by) is this project's choice, not the paper's."
    )


def _by_name(stages: list[Json]) -> dict[str, list[Json]]:
    """The runs of each stage, one for each seed."""
    runs: dict[str, list[Json]] = {}
    for stage in stages:
        runs.setdefault(stage["name"], []).append(stage)
    return runs


def _ended(pipeline_dir: Path, runs: list[Json]) -> list[Path]:
    """The run directories of a stage that has ended, those that seeds share once."""
    found = {}
    for run in runs:
        folder = pipeline_dir / run["view"]
        if run["state"] in ENDED and folder.is_dir():
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _facts(pipeline_dir: Path, state: Json) -> list[str]:
    named = [f"{seed}" for seed in state["seeds"] if seed is not None]
    facts = [f"seed{'s' * (len(named) > 1)} {', '.join(named)}"] if named else []
    facts += [format_seconds(state["seconds"])] if state.get("seconds") else []
    facts.append(
        f"{state['jobs']} at a time on {state['cores']} cores" + f", {state['gpus']} GPUs" * bool(state["gpus"])
    )
    facts += [f"peak memory {state['peak_memory'] / 2**30:.1f} GiB"] if state.get("peak_memory") else []
    if state.get("commit"):
        commit, dirty, _ = state["commit"].partition("-dirty")
        facts.append(f"commit {commit[:10]}{dirty}")
    # All stages are at toy size, or none is.
    texts = (read_text(pipeline_dir / stage["view"] / "recipe.yaml") for stage in state["stages"])
    if (yaml.safe_load(next(filter(None, texts), "")) or {}).get("toy"):
        facts.insert(0, "toy size: the figures mean nothing")
    return facts


def _link(pipeline_dir: Path, run: Json) -> str | None:
    """The report of a run, relative to the page; nothing where there is none."""
    path = f"{run['view']}/report.html"
    return path if (pipeline_dir / path).is_file() else None


def _links(pipeline_dir: Path, runs: list[Json]) -> list[tuple[str, str]]:
    """(seed, report) of each run that has one."""
    return [(f"{run['seed']}", link) for run in runs if (link := _link(pipeline_dir, run))]


# What was measured: benchmark -> stage -> its evaluations with their run directories, one for each seed
Evaluated = dict[str, dict[str, list[tuple[Path, Json]]]]


def _evaluated(pipeline_dir: Path, stages: dict[str, list[Json]]) -> Evaluated:
    """All that the evaluations of the pipeline measured, in the order of the recipe's benchmarks."""
    found: Evaluated = {}
    for name, runs in stages.items():
        if runs[0]["task"] != "evaluate":
            continue
        for folder in _ended(pipeline_dir, runs):
            for path in _in_order(folder):
                of_benchmark = found.setdefault(path.stem, {})
                of_benchmark.setdefault(name, []).append((folder, read_json(path)))
    return {
        benchmark: {_model(name, models): of for name, of in models.items()} for benchmark, models in found.items()
    }


def _in_order(folder: Path) -> list[Path]:
    """The evaluations of a run, in the order of its recipe."""
    names = list_benchmarks(folder)
    paths = {path.stem: path for path in sorted((folder / "evaluations").glob("*.json"))}
    return [paths[name] for name in names if name in paths] + [paths[name] for name in paths if name not in names]


def _model(name: str, models: dict[str, Any]) -> str:
    """A model's name without that of the stage that measured it, where that is the same for all."""
    heads = {other.partition(".")[0] for other in models}
    return name.partition(".")[2] if len(heads) == 1 and "." in name else name


def _benchmark(name: str, models: dict[str, list[tuple[Path, Json]]], folder: Path) -> Json:
    """The table of a benchmark, and its first metric drawn."""
    columns: list[str] = []
    values: dict[str, dict[str, list[Json]]] = {}
    for model, of_seeds in models.items():
        values[model] = {}
        for _, found in of_seeds:
            shown = metrics.summarize_evaluation(found) | {"truncated": found["shares"]["truncated"]}
            for key, figure in shown.items():
                if figure["value"] is not None:
                    columns += [key] if key not in columns else []
                    values[model].setdefault(key, []).append(figure)
    found = next(iter(models.values()))[0][1]
    some_truncated = any(figure["value"] for of in values.values() for figure in of.get("truncated", []))
    others = [key for key in columns if "@" not in key and (key != "truncated" or some_truncated)]
    ordered = [key for key in columns if "@" in key] + others
    rows = [(model, [_cell(key, values[model].get(key)) for key in ordered]) for model in models]
    first = ordered[0] if ordered else None
    means = {
        model: (over_seeds(of[first]), [figure["value"] for figure in of[first]])
        for model, of in values.items()
        if first in of
    }
    drawing = Models(f"{first} of every model", "share correct", means) if means else None
    return {
        "title": found["title"] or name,
        "problems": found["problems"],
        "protocol": found["protocol"],
        "columns": [key.replace("_", " ") for key in ordered],
        "rows": rows,
        "most": max(map(len, models.values())),
        "unjudged": _unjudged(models),
        "drawing": render_plot(drawing, _made(folder) / f"{name}.png") if drawing else None,
    }


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def over_seeds(figures_S: list[Json]) -> Json:
    """The mean of a figure over the seeds with its band; of one seed, the figure with its interval over problems."""
    if len(figures_S) == 1:
        return {key: figures_S[0].get(key) for key in ("value", "low", "high")}
    return compute_mean([figure["value"] for figure in figures_S])


def _cell(key: str, figures_S: list[Json] | None) -> tables.Cell:
    if not figures_S:
        return "-", ""
    mean = over_seeds(figures_S)
    if key == "mean_length":
        return tables.format_count(mean)
    if mean["low"] is not None:
        mean |= {"low": max(0.0, mean["low"]), "high": min(1.0, mean["high"])}
    return tables.format_share(mean)


def _unjudged(models: dict[str, list[tuple[Path, Json]]]) -> list[str]:
    """What the verifier could not judge of each model, in words."""
    told = []
    for model, of_seeds in models.items():
        lines = [line for _, found in of_seeds for line in tables.describe_unjudged(found)[:1]]
        told += [f"{model}: {lines[0]}"] if lines else []
    return told


def _trainings(pipeline_dir: Path, stages: dict[str, list[Json]]) -> Iterator[Json]:
    """The curves of every training that has logged something, over its seeds."""
    for name, runs in stages.items():
        folders = {}
        for run in runs:
            folder = pipeline_dir / run["view"]
            if (folder / "metrics.jsonl").is_file():
                folders.setdefault(folder.resolve(), folder)
        rows_S = [list(read_rows(folder / "metrics.jsonl")) for folder in folders.values()]
        if grid := curves.plot_seeds(rows_S, runs[0]["task"]):
            drawn_plots = [{"plot": plot, "svg": plots.render_svg(plot, plots.SMALL)} for plot in grid]
            about = {"name": name, "title": runs[0]["title"], "links": _links(pipeline_dir, runs)}
            yield about | {"seeds": len(rows_S), "plots": drawn_plots}


def _funnels(pipeline_dir: Path, stages: dict[str, list[Json]]) -> Iterator[Json]:
    """The funnel of every selection, in the mean over its seeds."""
    for name, runs in stages.items():
        found = [read_json(folder / "funnel.json").get("steps") or [] for folder in _ended(pipeline_dir, runs)]
        found = [steps for steps in found if steps]
        if not found:
            continue
        mean = []
        for steps_S in zip(*found, strict=False):
            if len({step["name"] for step in steps_S}) == 1:
                counts = {key: round(fmean(step[key] for step in steps_S)) for key in ("kept", "dropped")}
                mean.append({"name": steps_S[0]["name"]} | counts)
        about = {"name": name, "title": runs[0]["title"], "seeds": len(found), "links": _links(pipeline_dir, runs)}
        yield about | {"funnel": render_plot(curves.plot_funnel(mean))}


def _answers(benchmark: str, models: dict[str, list[tuple[Path, Json]]]) -> Json:
    """What every model answered to the same few problems: its first sample, of the first seed that has ended."""
    firsts = {model: of_seeds[0] for model, of_seeds in models.items()}
    chosen = _chosen([found for _, found in firsts.values()])
    texts = {model: _samples(folder, benchmark, chosen) for model, (folder, _) in firsts.items()}
    problems = {}
    for _, found in firsts.values():
        problems |= {problem["id"]: problem for problem in found["by_problem"] if problem["id"] in chosen}
    return {
        "title": next(iter(firsts.values()))[1]["title"] or benchmark,
        "problems": [
            {
                "question": problems[one].get("question") or one,
                "samples": {model: of_model[one] for model, of_model in texts.items() if one in of_model},
            }
            for one in chosen
            if any(one in of_model for of_model in texts.values())
        ],
    }


def _chosen(evaluations: list[Json]) -> list[str]:
    """Ids of problems that all were asked, evenly from those that the models solve least to those they solve most."""
    rates: dict[str, list[float]] = {}
    for found in evaluations:
        for problem in found["by_problem"]:
            rates.setdefault(problem["id"], []).append(problem["correct"] / max(1, problem["evidence"]))
    common = [one for one, of_models in rates.items() if len(of_models) == len(evaluations)]
    order = sorted(common, key=lambda one: fmean(rates[one]))
    places = np.linspace(0, len(order) - 1, min(PROMPTS, len(order)))
    return [order[round(place)] for place in places]


def _samples(folder: Path, benchmark: str, chosen: list[str]) -> dict[str, Json]:
    """The first sample of each chosen problem with its verdict, from the files of the run."""
    import pyarrow.parquet

    wanted = [("benchmark", "=", benchmark), ("problem", "in", chosen), ("sample", "=", 0)]
    found: dict[str, Json] = {}
    for kind, columns in (("data", ["completion"]), ("judged", ["verdict", "answer", "tokens"])):
        for path in sorted((folder / kind).glob("*.parquet")) if chosen else []:
            for row in pyarrow.parquet.read_table(path, columns=["problem", *columns], filters=wanted).to_pylist():
                found.setdefault(row["problem"], {}).update(row)
    return {one: sample for one, sample in found.items() if {"completion", "verdict"} <= set(sample)}


def _costs(pipeline_dir: Path, stages: dict[str, list[Json]]) -> Json:
    """What each stage took, all its seeds together; a run that several share is counted once."""
    rows = []
    counted: set[str] = set()
    for name, runs in stages.items():
        own = [run for run in {run["dir"]: run for run in runs}.values() if run["dir"] not in counted]
        counted.update(run["dir"] for run in own)
        spent = [_spent(pipeline_dir, run) for run in own if run["seconds"] is not None]
        if spent:
            total = {key: sum(one[key] for one in spent) for key in spent[0]}
            rows.append({"name": name, "task": runs[0]["task"], "runs": len(spent)} | total)
    sums = {key: sum(row[key] for row in rows) for key in rows[0] if key not in ("name", "task")} if rows else {}
    return {
        "rows": [_cost_cells(row) for row in rows],
        "total": _cost_cells({"name": "all", "task": ""} | sums) if rows else [],
    }


def _spent(pipeline_dir: Path, run: Json) -> Json:
    """Seconds, core-hours, GPU-hours, and the tokens of a run that has ended."""
    folder = pipeline_dir / run["view"]
    environment, summary = (read_json(folder / f"{name}.json") for name in ("environment", "summary"))
    cores = (environment.get("threads") or 1) * (environment.get("processes") or 1)
    rows = list(read_rows(folder / "metrics.jsonl"))
    lengths = run_files.read_series(rows, "completions/mean_length")
    generated = _generated(lengths, folder, environment) if lengths else summary.get("tokens") or 0
    return {
        "cached": run["state"] == "cached",
        "seconds": run["seconds"],
        "core_hours": run["seconds"] * cores / HOUR,
        "gpu_hours": run["seconds"] * run["gpus"] / HOUR,
        "generated": generated,
        "trained": _trained(rows),
    }


def _generated(lengths: run_files.Points, folder: Path, environment: Json) -> float:
    """Tokens of the completions that a training sampled for itself, from their mean lengths at each step."""
    recipe = yaml.safe_load(read_text(folder / "recipe.yaml")) or {}
    completions = recipe.get("per_device_train_batch_size", 8) * recipe.get("gradient_accumulation_steps", 1)
    of_step = completions * (environment.get("processes") or 1) / recipe.get("num_iterations", 1)
    steps = itertools.pairwise([0, *lengths])
    return sum((step - before) * lengths[step] * of_step for before, step in steps)


def _trained(rows: list[Json]) -> float:
    """Tokens that a training has seen; SFT and DPO count from zero again where they were resumed."""
    total = before = 0.0
    for tokens in run_files.read_series(rows, "num_tokens").values():
        total += tokens - before if tokens >= before else tokens
        before = tokens
    return total


def _cost_cells(row: Json) -> list[str]:
    runs = f"{row['runs']}" + (f", {row['cached']} cached" if row["cached"] else "")
    hours = [f"{row[key]:.3g}" if row[key] else "-" for key in ("core_hours", "gpu_hours")]
    tokens = [f"{row[key]:,.0f}" if row[key] else "-" for key in ("generated", "trained")]
    return [row["name"], row["task"], runs, format_seconds(row["seconds"]), *hours, *tokens]


def _held_up(stages: dict[str, list[Json]]) -> dict[str, list[str]]:
    """What did not end though nothing of its own failed: state -> stages with their seeds."""
    told: dict[str, list[str]] = {}
    for state in ("interrupted", "blocked"):
        for name, runs in stages.items():
            if held := [run["seed"] for run in runs if run["state"] == state]:
                named = f" (seed{'s' * (len(held) > 1)} {', '.join(map(str, held))})" if held != [None] else ""
                told.setdefault(state, []).append(f"{name}{named}")
    return told


def _failure(pipeline_dir: Path, stage: Json) -> Json:
    """A failed stage with the last lines of its log."""
    log = read_text(pipeline_dir / stage["log"])
    return stage | {"log": "\n".join(log.splitlines()[-LAST_LINES:])}
