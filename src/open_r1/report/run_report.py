"""The page and the plots of a run, made from its directory alone, and its figures for a terminal.

`write` draws `plots/*.png` and a `report.html` that needs nothing else; it works for a run that is still going on, and
leaves out what its directory does not hold.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import yaml

from ..errors import RecipeError
from ..evaluation import tables
from ..system.run_files import read_json, read_rows, read_text
from .pages.data import show_mixture, show_sampling, show_selection
from .pages.evaluation import show_evaluation
from .pages.training import show_training
from .rendering import render_page

Json = dict[str, Any]

PAGES = {
    "sample": show_sampling,
    "select": show_selection,
    "mix": show_mixture,
    "evaluate": show_evaluation,
}  # others are trainings
CONTAMINATED = 10  # contaminated rows shown


def write_report(run_dir: Path) -> Path:
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
    recipe_text = read_text(run_dir / "recipe.yaml")
    recipe = yaml.safe_load(recipe_text) or {}
    status, environment, summary = (
        read_json(run_dir / f"{name}.json") for name in ("status", "environment", "summary")
    )
    shown = PAGES.get(recipe.get("task"), show_training)(run_dir, recipe, status, summary)
    about = {
        "name": run_dir.parts[-3:],
        "state": status.get("state"),
        "facts": (["toy size: the figures mean nothing"] if recipe.get("toy") else [])
        + shown["counted"]
        + _facts(recipe, environment),
        "contamination": _contamination(run_dir),
        "recipe": recipe_text,
        "environment": {**environment, **(environment.get("packages") or {})},
    }
    target = run_dir / "report.html"
    render_page("report.html.jinja", target, shown | about)
    return target


def format_before_after(before: Json, after: Json) -> str:
    """The before/after table for the terminal.

    Args:
        before: figures (`{"value", "low", "high"}`) by name: metrics such as `pass@1`, `mean_length` (tokens),
            `format`, `language`; one that is missing or None shows as "-".
        after: the same of the trained model.

    Returns:
        Lines without a newline at the end.
    """
    return "\n".join(tables.align_rows([("", "before", "after"), *tables.pair_before_after(before, after)]))


def append_table(card: Path, run_dir: Path) -> None:
    """Add the before/after table to a model's card, if the run has evaluated it."""
    if summary := read_json(run_dir / "summary.json"):
        with card.open("a", encoding="utf-8") as file:
            file.write(f"\n```\n{format_before_after(summary['before'], summary['after'])}\n```\n")


def format_evaluations(evaluations: list[Json]) -> str:
    """The figures of benchmarks for the terminal; below each what departs from its protocol, and what was not judged.

    Args:
        evaluations: as in `evaluations/<benchmark>.json`.

    Returns:
        Lines without a newline at the end.
    """
    rows: list[tuple[str | tuple[str, str], ...]] = [("benchmark", "problems", "k", "", "", "tokens", "truncated", "")]
    for found in evaluations:
        first, others, tokens = tables.format_evaluation(found)
        counts = f"{found['problems']:,}", f"{found['protocol']['k']:,}"
        cut = tables.format_percent(found["shares"]["truncated"]["value"] or 0.0, 1)
        name = next(iter(found["metrics"]))
        rows.append((found["title"] or found["name"], *counts, name, first, tokens[0], cut, others))
    head, *lines = tables.align_rows(rows, left=(0, 3, 7))
    told = [head]
    for found, line in zip(evaluations, lines, strict=True):
        departed = tables.describe_departures(found)
        told.append(line)
        told += [f"    departs from its protocol: {', '.join(departed)}"] if departed else []
        told += [f"    {sentence}" for sentence in tables.describe_unjudged(found)]
    return "\n".join(told)


def _facts(recipe: Json, environment: Json) -> list[str]:
    """What there is of seed and commit."""
    facts = [f"seed {recipe['seed']}"] if recipe.get("seed") is not None else []
    if environment.get("commit"):
        commit, dirty, _ = environment["commit"].partition("-dirty")
        facts.append(f"commit {commit[:10]}{dirty}")
    return facts


def _contamination(run_dir: Path) -> Json | None:
    """What the contamination gate found: a table of the hits by set and kind, and the first rows."""
    found = read_json(run_dir / "contamination.json")
    if not found:
        return None
    kinds = sorted({kind for hits in found["hits"].values() for kind in hits})
    return found | {
        "share": tables.format_percent(found["contaminated"], found["rows"]),
        "kinds": kinds,
        "table": [
            [name, f"{size:,}", *(f"{found['hits'].get(name, {}).get(kind, 0):,}" for kind in kinds)]
            for name, size in found["sets"].items()
        ],
        "first": list(itertools.islice(read_rows(run_dir / "contaminated.jsonl"), CONTAMINATED)),
    }
