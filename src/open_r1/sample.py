"""Sampling: n completions of each prompt, for rejection sampling (R1's step 3a)."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from open_r1.config.recipe import Recipe
from open_r1.data import shards
from open_r1.data.contamination import apply_gate
from open_r1.data.deduplicate import drop_duplicates
from open_r1.data.rows import StoredRows, load_rows
from open_r1.data.shards import Shards
from open_r1.engines import registry
from open_r1.engines.sampling import COLUMNS, SamplingPlan, complete_prompts, fill_files, measure_speed
from open_r1.errors import RecipeError
from open_r1.models import ensure_model
from open_r1.prompts import read_last_text
from open_r1.run.job_array import check_same_rows, claim_finish, list_own_files
from open_r1.run.lifecycle import finish_dataset, run_from_command_line, start_run
from open_r1.run.run import Run
from open_r1.system.progress import Progress

BINS = 32  # at most, in the histogram of lengths
SHOWN = 5  # completions in the report


def main(recipe: Recipe) -> Run:
    args = recipe.args
    registry.check_engine(args.engine)
    run = start_run(recipe)
    rows = load_rows(recipe)
    check_columns(rows)
    rows, repeated = drop_duplicates(rows, args.deduplicate)
    rows = apply_gate(run, rows, recipe.data.contamination)
    check_same_rows(run, rows.identity())
    files = Shards(run.dir / "data", len(rows), args.shard_rows)
    # All processes make the model together, also those without files to write.
    run.recipe = ensure_model(recipe)
    todo = list_own_files(run, files)
    if todo:
        total = args.sampling.n * sum(len(files.range(number)) for number in todo)
        complete = partial(complete_file, recipe, rows, files)
        fill_files(run, files, todo, total, complete, datasets.Features({**rows.features, **COLUMNS}))
    with claim_finish(run, files) as last:
        if last:
            summary = summarize(run.dir, len(rows), args.sampling.max_tokens)
            finish_dataset(run, summary | {"engine": args.engine.name, "repeated": repeated})
            run.say(format_summary(summary))
    return run


def check_columns(rows: StoredRows) -> None:
    """Raise RecipeError if a source already has a column that sampling writes."""
    taken = sorted(COLUMNS.keys() & rows.features.keys())
    if taken:
        raise RecipeError(
            f"datasets: sampling writes the columns {', '.join(taken)}, which a source has already; rename them, "
            f"e.g. `columns: {{source_{taken[0]}: {taken[0]}}}`"
        )


def complete_file(
    recipe: Recipe, rows: StoredRows, files: Shards, engine: registry.Engine, number: int, progress: Progress
) -> list[dict[str, Any]]:
    """The rows of one file: each prompt's row, once for each of its completions."""
    settings, span = recipe.args.sampling, files.range(number)
    stored, numbers = rows.slice(span.start, span.stop), rows.numbers(span.start, span.stop).tolist()
    sampling = registry.Sampling(
        settings.temperature, settings.top_p, settings.top_k, settings.max_tokens, tuple(settings.stop), recipe.seed
    )
    plan = SamplingPlan(settings.n, sampling, recipe.data.prompt, recipe.data.system_prompt)
    made_PN = complete_prompts(engine, stored, numbers, plan, progress)
    return [row | made for row, made_N in zip(stored, made_PN, strict=True) for made in made_N]


def summarize(directory: Path, prompts: int, max_tokens: int) -> dict[str, Any]:
    """The contents of summary.json, computed from the run's files."""
    # Edges between whole numbers of tokens, so that all bins hold equally many lengths.
    width = -(-max_tokens // BINS)
    edges = np.arange(0, max_tokens + width, width) + 0.5
    counts, truncated = np.zeros(len(edges) - 1, int), np.zeros(len(edges) - 1, int)
    reasons: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    tokens = completions = 0
    models: set[str] = set()
    for batch in shards.read_folder(directory / "data", ["tokens", "finish_reason", "refused", "model"]):
        reasons.update(row["finish_reason"] for row in batch)
        # A reason is a cause, and after a colon the single case.
        refused.update(row["refused"].split(": ")[0] for row in batch if row["refused"])
        models.update(row["model"] for row in batch)
        answered = [row for row in batch if row["finish_reason"] != "refused"]
        lengths = np.array([row["tokens"] for row in answered])
        cut = np.array([row["finish_reason"] == "length" for row in answered], bool)
        counts += np.histogram(lengths, edges)[0]
        truncated += np.histogram(lengths[cut], edges)[0]
        tokens += int(lengths.sum())
        completions += len(batch)
    return {
        "prompts": prompts,
        "completions": completions,
        "tokens": tokens,
        "tokens_per_second": measure_speed(directory),
        "finish_reasons": dict(reasons.most_common()),
        "refused": dict(refused.most_common()),
        "length_histogram": {"edges": edges.tolist(), "counts": counts.tolist(), "truncated": truncated.tolist()},
        "model": ", ".join(sorted(models)),
        "samples": pick_examples(directory / "data"),
    }


def pick_examples(folder: Path) -> list[dict[str, Any]]:
    """The first completions of the first few prompts."""
    shown = ("prompt", "completion", "tokens", "finish_reason")
    first = next(shards.read_folder(folder, [*shown, "sample"]))
    rows = [row for row in first if row["sample"] == 0][:SHOWN]
    return [{key: row[key] for key in shown} | {"prompt": read_last_text(row["prompt"])} for row in rows]


def format_summary(summary: dict[str, Any]) -> str:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in summary["finish_reasons"].items())
    return f"{summary['completions']:,} completions of {summary['prompts']:,} prompts ({reasons})"


if __name__ == "__main__":
    run_from_command_line(main)
