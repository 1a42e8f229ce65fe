"""The page of a pipeline: its graph, the claims, all models side by side, curves, samples, and costs.

The page reads `state.json`, `table.json` and the run directories of the stages. Of a running pipeline it shows what is
there so far.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import numpy as np
import yaml

from ...errors import RecipeError
from ...evaluation import metrics, tables
from ...evaluation.over_seeds import compute_mean
from ...system import run_files
from ...system.run_files import Json, format_seconds, list_benchmarks, read_json, read_rows, read_text
from .. import curves
from ..plots import Models
from ..rendering import describe_commit, render_page, render_plot
from . import graph

PROMPTS = 4  # problems of a benchmark for which the page shows the answers of all models
LAST_LINES = 15  # of the log of a failed stage
HOUR = 3600

Stages = dict[str, list[Json]]  # stage -> its runs, one for each seed
Evaluations = dict[str, list[tuple[Path, Json]]]  # model -> run directory and evaluation, one for each seed


def write_pipeline_page(pipeline_dir: Path) -> Path:
    """Write the page of a pipeline from the files of its directory.

    Args:
        pipeline_dir: holds `state.json`; the claims are read from `table.json`, if it is there.

    Returns:
        `pipeline_dir/report.html`.

    Raises:
        RecipeError: the directory is not that of a pipeline.
    """
    pipeline_dir = Path(pipeline_dir)
    state = read_json(pipeline_dir / "state.json")
    if not state:
        raise RecipeError(f"{pipeline_dir} is not the directory of a pipeline: it holds no state.json")
    stages, claims = _group_by_name(state["stages"]), read_json(pipeline_dir / "table.json")
    evaluations = _read_evaluations(pipeline_dir, stages)
    values = {
        "name": [state.get("title") or pipeline_dir.name],
        "state": state["state"],
        "facts": _describe_pipeline(pipeline_dir, state),
        "graph": graph.draw_graph(state["stages"]),
        "links": {graph.find_node(name): _find_report(pipeline_dir, stages[name][0]) for name in reversed(stages)},
        "about": state.get("about"),
        "claims": claims,
        "summary": _summarize_claims(claims.get("lines") or []),
        "benchmarks": [_show_benchmark(name, models, pipeline_dir) for name, models in evaluations.items()],
        "trainings": list(_show_trainings(pipeline_dir, stages)),
        "funnels": list(_show_funnels(pipeline_dir, stages)),
        "answers": [_show_answers(name, models) for name, models in evaluations.items()],
        "costs": _tabulate_costs(pipeline_dir, stages),
        "failures": [_show_failure(pipeline_dir, stage) for stage in state["stages"] if stage["state"] == "failed"],
        "held_up": _list_held_up(stages),
        "pipeline": read_text(pipeline_dir / "pipeline.yaml"),
    }
    target = pipeline_dir / "report.html"
    render_page("pipeline.html.jinja", target, values)
    return target


def _summarize_claims(lines: list[Json]) -> str:
    """`Of 3 claims, 2 hold, 1 is not clear.`, with the meaning of the marks."""
    if not lines:
        return ""
    verbs = {"holds": ("holds", "hold"), "disagrees": ("disagrees", "disagree")}
    counts = Counter(line["mark"] for line in lines)
    parts = [f"{count} {verbs.get(mark, (f'is {mark}', f'are {mark}'))[count > 1]}" for mark, count in counts.items()]
    return (
        f"Of {len(lines)} claims, {', '.join(parts)}. A claim holds or disagrees if the 95% interval of its "
        "difference lies entirely on one side; otherwise it is not clear. A claim without a comparison is only shown. "
        "This project, not the paper, chose the thresholds (at least, at most, by)."
    )


def _group_by_name(stages: list[Json]) -> Stages:
    runs: Stages = {}
    for stage in stages:
        runs.setdefault(stage["name"], []).append(stage)
    return runs


def _list_folders(pipeline_dir: Path, runs: list[Json], states: tuple[str, ...] = ()) -> list[Path]:
    """The run directories of a stage, in the given states or in any; a directory that seeds share is listed once."""
    folders: dict[Path, Path] = {}
    for run in runs:
        folder = pipeline_dir / run["view"]
        if folder.is_dir() and (not states or run["state"] in states):
            folders.setdefault(folder.resolve(), folder)
    return list(folders.values())


def _describe_pipeline(pipeline_dir: Path, state: Json) -> list[str]:
    """Seeds, time, resources and commit, for the line below the title."""
    seeds = [f"{seed}" for seed in state["seeds"] if seed is not None]
    facts = [f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"] if seeds else []
    facts += [format_seconds(state["seconds"])] if state.get("seconds") else []
    gpus = f", {state['gpus']} GPUs" if state["gpus"] else ""
    facts.append(f"{state['jobs']} at a time on {state['cores']} cores{gpus}")
    facts += [f"peak memory {state['peak_memory'] / 2**30:.1f} GiB"] if state.get("peak_memory") else []
    facts += describe_commit(state)
    # Either all stages have toy size or none has.
    texts = (read_text(pipeline_dir / stage["view"] / "recipe.yaml") for stage in state["stages"])
    if (yaml.safe_load(next(filter(None, texts), "")) or {}).get("toy"):
        facts.insert(0, "toy size: the figures mean nothing")
    return facts


def _find_report(pipeline_dir: Path, run: Json) -> str | None:
    """The report of a run, relative to the page; None if it does not exist."""
    path = f"{run['view']}/report.html"
    return path if (pipeline_dir / path).is_file() else None


def _describe_stage(pipeline_dir: Path, runs: list[Json]) -> Json:
    """The name and title of a stage, and the reports of its runs as (seed, link)."""
    links = [(f"{run['seed']}", link) for run in runs if (link := _find_report(pipeline_dir, run))]
    return {"name": runs[0]["name"], "title": runs[0]["title"], "links": links}


def _read_evaluations(pipeline_dir: Path, stages: Stages) -> dict[str, Evaluations]:
    """All evaluations of the pipeline by benchmark, in the order of the recipe's benchmarks."""
    benchmarks: dict[str, Evaluations] = {}
    for name, runs in stages.items():
        for folder in _list_folders(pipeline_dir, runs, graph.ENDED) if runs[0]["task"] == "evaluate" else []:
            for path in _list_evaluations(folder):
                models = benchmarks.setdefault(path.stem, {})
                models.setdefault(name, []).append((folder, read_json(path)))
    return {
        benchmark: {_name_model(name, models): found for name, found in models.items()}
        for benchmark, models in benchmarks.items()
    }


def _list_evaluations(folder: Path) -> list[Path]:
    """The evaluation files of a run, in the order of its recipe."""
    names = list_benchmarks(folder)
    paths = {path.stem: path for path in sorted((folder / "evaluations").glob("*.json"))}
    return [paths[name] for name in names if name in paths] + [paths[name] for name in paths if name not in names]


def _name_model(stage: str, stages: Evaluations) -> str:
    """The name of a model: `zero` for `measured.zero`, if all stages begin with `measured.`."""
    heads = {other.partition(".")[0] for other in stages}
    return stage.partition(".")[2] if len(heads) == 1 and "." in stage else stage


def _show_benchmark(name: str, models: Evaluations, pipeline_dir: Path) -> Json:
    """The table of a benchmark, and a plot of its first metric."""
    figures: dict[str, dict[str, list[Json]]] = {}  # column -> model -> the figure of each seed
    for model, evaluations in models.items():
        for _, found in evaluations:
            row = metrics.summarize_evaluation(found) | {"truncated": found["shares"]["truncated"]}
            for key, figure in row.items():
                if figure["value"] is not None:
                    figures.setdefault(key, {}).setdefault(model, []).append(figure)
    if not any(figure["value"] for figures_S in figures.get("truncated", {}).values() for figure in figures_S):
        figures.pop("truncated", None)
    columns = sorted(figures, key=lambda key: "@" not in key)
    means = {
        model: (average_seeds(figures_S), [figure["value"] for figure in figures_S])
        for model, figures_S in (figures[columns[0]] if columns else {}).items()
    }
    means = {model: means[model] for model in models if model in means}
    found = next(iter(models.values()))[0][1]
    plot = Models(f"{columns[0]} of every model", "share correct", means) if means else None
    return {
        "title": found["title"] or name,
        "problems": found["problems"],
        "protocol": found["protocol"],
        "columns": ["model", *(key.replace("_", " ") for key in columns)],
        "rows": [(model, *(_format_mean(key, figures[key].get(model)) for key in columns)) for model in models],
        "most": max(map(len, models.values())),
        "unjudged": _describe_unjudged(models),
        "drawing": render_plot(plot, pipeline_dir / "plots" / f"{name}.png") if plot else None,
    }


def average_seeds(figures_S: list[Json]) -> Json:
    """The mean of a figure over the seeds with its interval; with one seed, the figure itself."""
    if len(figures_S) == 1:
        return {key: figures_S[0].get(key) for key in ("value", "low", "high")}
    return compute_mean([figure["value"] for figure in figures_S])


def _format_mean(key: str, figures_S: list[Json] | None) -> tables.Cell:
    if not figures_S:
        return "-", ""
    mean = average_seeds(figures_S)
    if key == "mean_length":
        return tables.format_count(mean)
    if mean["low"] is not None:
        mean |= {"low": max(0.0, mean["low"]), "high": min(1.0, mean["high"])}
    return tables.format_share(mean)


def _describe_unjudged(models: Evaluations) -> list[str]:
    """The samples of each model without a verdict, in words."""
    sentences = []
    for model, evaluations in models.items():
        lines = [line for _, found in evaluations for line in tables.describe_unjudged(found)[:1]]
        sentences += [f"{model}: {lines[0]}"] if lines else []
    return sentences


def _show_trainings(pipeline_dir: Path, stages: Stages) -> Iterator[Json]:
    """The curves of every training over its seeds."""
    for runs in stages.values():
        rows_S = [list(read_rows(folder / "metrics.jsonl")) for folder in _list_folders(pipeline_dir, runs)]
        if plots := curves.plot_seeds(rows_S, runs[0]["task"]):
            yield _describe_stage(pipeline_dir, runs) | {"plots": [render_plot(plot) for plot in plots]}


def _show_funnels(pipeline_dir: Path, stages: Stages) -> Iterator[Json]:
    """The funnel of every selection, as the mean over its seeds."""
    for runs in stages.values():
        folders = _list_folders(pipeline_dir, runs, graph.ENDED)
        funnels_S = [steps for folder in folders if (steps := read_json(folder / "funnel.json").get("steps"))]
        mean = []
        for steps_S in zip(*funnels_S, strict=False):
            if len({step["name"] for step in steps_S}) == 1:
                counts = {key: round(fmean(step[key] for step in steps_S)) for key in ("kept", "dropped")}
                mean.append({"name": steps_S[0]["name"]} | counts)
        if mean:
            funnel = render_plot(curves.plot_funnel(mean))
            yield _describe_stage(pipeline_dir, runs) | {"seeds": len(funnels_S), "funnel": funnel}


def _show_answers(benchmark: str, models: Evaluations) -> Json:
    """The answers of all models to the same few problems: the first sample of the first seed that has ended."""
    first_runs = {model: evaluations[0] for model, evaluations in models.items()}
    chosen = _choose_problems([found for _, found in first_runs.values()])
    samples = {model: _read_samples(folder, benchmark, chosen) for model, (folder, _) in first_runs.items()}
    questions = {}
    for _, found in first_runs.values():
        questions |= {problem["id"]: problem.get("question") for problem in found["by_problem"]}
    return {
        "title": next(iter(first_runs.values()))[1]["title"] or benchmark,
        "problems": [
            {
                "question": questions[problem] or problem,
                "samples": {model: answers[problem] for model, answers in samples.items() if problem in answers},
            }
            for problem in chosen
            if any(problem in answers for answers in samples.values())
        ],
    }


def _choose_problems(evaluations: list[Json]) -> list[str]:
    """Ids of problems that all evaluations have, spread evenly from the least solved to the most solved."""
    rates: dict[str, list[float]] = {}
    for found in evaluations:
        for problem in found["by_problem"]:
            rates.setdefault(problem["id"], []).append(problem["correct"] / max(1, problem["evidence"]))
    common = [problem for problem, rates_M in rates.items() if len(rates_M) == len(evaluations)]
    order = sorted(common, key=lambda problem: fmean(rates[problem]))
    places = np.linspace(0, len(order) - 1, min(PROMPTS, len(order)))
    return [order[round(place)] for place in places]


def _read_samples(folder: Path, benchmark: str, problems: list[str]) -> dict[str, Json]:
    """The first sample of each of the problems with its verdict, from the files of the run."""
    import pyarrow.parquet

    filters = [("benchmark", "=", benchmark), ("problem", "in", problems), ("sample", "=", 0)]
    samples: dict[str, Json] = {}
    for kind, columns in (("data", ["completion"]), ("judged", ["verdict", "answer", "tokens"])):
        for path in sorted((folder / kind).glob("*.parquet")) if problems else []:
            table = pyarrow.parquet.read_table(path, columns=["problem", *columns], filters=filters)
            for row in table.to_pylist():
                samples.setdefault(row["problem"], {}).update(row)
    return {problem: sample for problem, sample in samples.items() if {"completion", "verdict"} <= set(sample)}


def _tabulate_costs(pipeline_dir: Path, stages: Stages) -> list[list[str]]:
    """Rows of the costs of each stage over all seeds, and of their total; a run that stages share is counted once."""
    rows = []
    counted: set[str] = set()
    total: Counter[str] = Counter()
    for name, runs in stages.items():
        own = [run for run in {run["dir"]: run for run in runs}.values() if run["dir"] not in counted]
        counted.update(run["dir"] for run in own)
        cost = sum((_measure_cost(pipeline_dir, run) for run in own if run["seconds"] is not None), Counter())
        if cost:
            rows.append(_format_cost(name, runs[0]["task"], cost))
            total += cost
    return [*rows, _format_cost("all", "", total)] if rows else []


def _measure_cost(pipeline_dir: Path, run: Json) -> Counter[str]:
    """Seconds, core-hours, GPU-hours, and the tokens of a run that has ended."""
    folder = pipeline_dir / run["view"]
    environment, summary = (read_json(folder / f"{name}.json") for name in ("environment", "summary"))
    cores = (environment.get("threads") or 1) * (environment.get("processes") or 1)
    rows = list(read_rows(folder / "metrics.jsonl"))
    lengths = run_files.read_series(rows, "completions/mean_length")
    generated = _count_generated(lengths, folder, environment) if lengths else summary.get("tokens") or 0
    return Counter(
        runs=1,
        cached=run["state"] == "cached",
        seconds=run["seconds"],
        core_hours=run["seconds"] * cores / HOUR,
        gpu_hours=run["seconds"] * run["gpus"] / HOUR,
        generated=generated,
        trained=_count_trained(rows),
    )


def _count_generated(lengths: run_files.Points, folder: Path, environment: Json) -> float:
    """Tokens of the completions that an RL training has sampled, from the mean length at each step."""
    recipe = yaml.safe_load(read_text(folder / "recipe.yaml")) or {}
    completions = recipe.get("per_device_train_batch_size", 8) * recipe.get("gradient_accumulation_steps", 1)
    completions *= (environment.get("processes") or 1) / recipe.get("num_iterations", 1)
    return sum((step - before) * lengths[step] * completions for before, step in itertools.pairwise([0, *lengths]))


def _count_trained(rows: list[Json]) -> float:
    """Tokens that the trainer has processed; the counter of SFT and DPO restarts at zero after a resumption."""
    total = before = 0.0
    for tokens in run_files.read_series(rows, "num_tokens").values():
        total += tokens - before if tokens >= before else tokens
        before = tokens
    return total


def _format_cost(name: str, task: str, cost: Counter[str]) -> list[str]:
    runs = f"{cost['runs']}" + (f", {cost['cached']} cached" if cost["cached"] else "")
    hours = [f"{cost[key]:.3g}" if cost[key] else "-" for key in ("core_hours", "gpu_hours")]
    tokens = [f"{cost[key]:,.0f}" if cost[key] else "-" for key in ("generated", "trained")]
    return [name, task, runs, format_seconds(cost["seconds"]), *hours, *tokens]


def _list_held_up(stages: Stages) -> dict[str, list[str]]:
    """Stages that did not end although they did not fail: state -> names with their seeds."""
    held_up: dict[str, list[str]] = {}
    for state in ("interrupted", "blocked"):
        for name, runs in stages.items():
            if seeds := [run["seed"] for run in runs if run["state"] == state]:
                suffix = f" (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})" if seeds != [None] else ""
                held_up.setdefault(state, []).append(f"{name}{suffix}")
    return held_up


def _show_failure(pipeline_dir: Path, stage: Json) -> Json:
    """A failed stage with the last lines of its log."""
    log = read_text(pipeline_dir / stage["log"])
    return stage | {"log": "\n".join(log.splitlines()[-LAST_LINES:])}
