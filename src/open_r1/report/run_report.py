"""The report of a run, written from its directory alone, and its figures for a terminal.

`write_report` writes `plots/*.png` and a self-contained `report.html`. It works for a running run too, and leaves out
what is not there yet.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import yaml

from ..errors import RecipeError
from ..evaluation import tables
from ..system.run_files import Json, read_json, read_rows, read_text
from .pages.data import show_mixture, show_sampling, show_selection
from .pages.evaluation import show_evaluation
from .pages.training import show_training
from .rendering import describe_commit, render_page

PAGES = {
    "sample": show_sampling,
    "select": show_selection,
    "mix": show_mixture,
    "evaluate": show_evaluation,
}  # of a task; all other tasks are trainings
CONTAMINATED = 10  # contaminated rows on the page


def write_report(run_dir: Path) -> Path:
    """Write the plots and the page of a run from the files of its directory.

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
    recipe_text = read_text(run_dir / "recipe.yaml")
    recipe = yaml.safe_load(recipe_text) or {}
    status, environment, summary = (
        read_json(run_dir / f"{name}.json") for name in ("status", "environment", "summary")
    )
    values = PAGES.get(recipe.get("task"), show_training)(run_dir, recipe, status, summary)
    facts = ["toy size: the figures mean nothing"] if recipe.get("toy") else []
    facts += values["facts"]
    facts += [f"seed {recipe['seed']}"] if recipe.get("seed") is not None else []
    values |= {
        "name": run_dir.parts[-3:],
        "state": status.get("state"),
        "facts": facts + describe_commit(environment),
        "contamination": _show_contamination(run_dir),
        "recipe": recipe_text,
        "environment": {**environment, **(environment.get("packages") or {})},
    }
    target = run_dir / "report.html"
    render_page("report.html.jinja", target, values)
    return target


def format_before_after(before: Json, after: Json) -> str:
    """The before/after table for the terminal.

    Args:
        before: figures (`{"value", "low", "high"}`) by name: metrics such as `pass@1`, `mean_length` (tokens),
            `format`, `language`; a missing one, or None, is shown as "-".
        after: the same figures after the training.

    Returns:
        Lines without a newline at the end.
    """
    return "\n".join(tables.align_rows([("", "before", "after"), *tables.pair_before_after(before, after)]))


def append_table(card: Path, run_dir: Path) -> None:
    """Append the before/after table to the card of a model, if the run has evaluated the model."""
    if summary := read_json(run_dir / "summary.json"):
        with card.open("a", encoding="utf-8") as file:
            file.write(f"\n```\n{format_before_after(summary['before'], summary['after'])}\n```\n")


def format_evaluations(evaluations: list[Json]) -> str:
    """The figures of benchmarks for the terminal, with departures from the protocol and samples without a verdict.

    Args:
        evaluations: the content of `evaluations/<benchmark>.json` files.

    Returns:
        Lines without a newline at the end.
    """
    rows: list[tuple[str | tuple[str, str], ...]] = [("benchmark", "problems", "k", "", "", "tokens", "truncated", "")]
    for found in evaluations:
        first, others, tokens = tables.format_evaluation(found)
        counts = f"{found['problems']:,}", f"{found['protocol']['k']:,}"
        truncated = tables.format_percent(found["shares"]["truncated"]["value"] or 0.0, 1)
        name = next(iter(found["metrics"]))
        rows.append((found["title"] or found["name"], *counts, name, first, tokens[0], truncated, others))
    head, *lines = tables.align_rows(rows, left=(0, 3, 7))
    text = [head]
    for found, line in zip(evaluations, lines, strict=True):
        departures = tables.describe_departures(found)
        text.append(line)
        text += [f"    departs from its protocol: {', '.join(departures)}"] if departures else []
        text += [f"    {sentence}" for sentence in tables.describe_unjudged(found)]
    return "\n".join(text)


def _show_contamination(run_dir: Path) -> Json | None:
    """The result of the contamination gate: the hits by evaluation set and kind, and the first rows."""
    found = read_json(run_dir / "contamination.json")
    if not found:
        return None
    kinds = sorted({kind for hits in found["hits"].values() for kind in hits})
    return found | {
        "share": tables.format_percent(found["contaminated"], found["rows"]),
        "head": ["evaluation set", "problems", *(f"hits: {kind}" for kind in kinds)],
        "table": [
            [name, f"{size:,}", *(f"{found['hits'].get(name, {}).get(kind, 0):,}" for kind in kinds)]
            for name, size in found["sets"].items()
        ],
        "first": list(itertools.islice(read_rows(run_dir / "contaminated.jsonl"), CONTAMINATED)),
    }
