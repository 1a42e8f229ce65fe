"""Sampling: prompts in, n completions each out, to be judged and selected from (R1's step 3a)."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from open_r1.config.recipe import Recipe
from open_r1.config.schema import SamplingConfig
from open_r1.data import contamination, deduplicate, hub, shards
from open_r1.data.rows import StoredRows, load_rows
from open_r1.data.shards import Shards
from open_r1.engines import registry
from open_r1.engines.sampling import COLUMNS, Asked, complete_prompts, fill_files, measure_speed
from open_r1.errors import RecipeError
from open_r1.models import ensure_model
from open_r1.prompts import read_last_text
from open_r1.run import job_array, lifecycle
from open_r1.run.run import Run
from open_r1.system.progress import Progress

BINS = 32  # of the histogram of lengths, at most
SHOWN = 5  # completions kept for the report


def main(recipe: Recipe) -> Run:
    args = recipe.args
    registry.check_engine(args.engine)
    problem = hub.check_push(args.hub_dataset_id)
    this = lifecycle.start_run(recipe)
    if problem:
        this.say(problem)
    rows = load_rows(recipe)
    refuse_columns(rows)
    rows, repeated = deduplicate.drop_duplicates(rows, args.deduplicate)
    rows = contamination.apply_gate(this, rows, recipe.data.contamination)
    job_array.check_same_rows(this, rows.identity())
    files = Shards(this.dir / "data", len(rows), args.shard_rows)
    # Before the files are divided: a process that has none to fill loads no model, and the others would wait for it.
    this.recipe = ensure_model(recipe)
    todo = job_array.list_own_files(this, files)
    if todo:
        total = args.sampling.n * sum(len(files.range(number)) for number in todo)
        make = partial(completions, recipe, rows, files)
        fill_files(this, files, todo, total, make, datasets.Features({**rows.features, **COLUMNS}))
    with job_array.claim_finish(this, files) as last:
        if last:
            summary = summarize(this.dir, len(rows), args.sampling.max_tokens)
            lifecycle.finish_dataset(this, summary | {"engine": args.engine.name, "repeated": repeated})
            this.say(told(summary))
    return this


def refuse_columns(rows: StoredRows) -> None:
    taken = sorted(COLUMNS.keys() & rows.features.keys())
    if taken:
        raise RecipeError(
            f"datasets: sampling writes the columns {', '.join(taken)}, which a source has already; rename its own, "
            f"e.g. `columns: {{source_{taken[0]}: {taken[0]}}}`"
        )


def completions(
    recipe: Recipe, rows: StoredRows, files: Shards, engine: registry.Engine, number: int, progress: Progress
) -> list[dict[str, Any]]:
    """The rows of one file: those of its prompts, once for each completion."""
    settings, span = recipe.args.sampling, files.range(number)
    stored, numbers = rows.slice(span.start, span.stop), rows.numbers(span.start, span.stop).tolist()
    asked = Asked(settings.n, as_sampling(settings, recipe.seed), recipe.data.prompt, recipe.data.system_prompt)
    made_PN = complete_prompts(engine, stored, numbers, asked, progress)
    return [row | made for row, made_N in zip(stored, made_PN, strict=True) for made in made_N]


def as_sampling(settings: SamplingConfig, seed: int) -> registry.Sampling:
    return registry.Sampling(
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_tokens=settings.max_tokens,
        stop=tuple(settings.stop),
        seed=seed,
    )


def summarize(directory: Path, prompts: int, max_tokens: int) -> dict[str, Any]:
    """Figures of a run, read back from its files."""
    # Bins of whole tokens, so that none holds more lengths than its neighbour.
    width = -(-max_tokens // BINS)
    edges = np.arange(0, max_tokens + width, width) + 0.5
    counts, truncated = np.zeros(len(edges) - 1, int), np.zeros(len(edges) - 1, int)
    reasons: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    tokens = completions = 0
    models: set[str] = set()
    for batch in shards.read_folder(directory / "data", ["tokens", "finish_reason", "refused", "model"]):
        reasons.update(row["finish_reason"] for row in batch)
        # A reason names the cause first and, after a colon, the case.
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
        "length_histogram": {
            "edges": edges.tolist(),
            "counts": counts.tolist(),
            "truncated": truncated.tolist(),
        },
        "model": ", ".join(sorted(models)),
        "samples": examples(directory / "data"),
    }


def examples(folder: Path) -> list[dict[str, Any]]:
    """The first completions of the first few prompts."""
    shown = ("prompt", "completion", "tokens", "finish_reason")
    first = next(shards.read_folder(folder, [*shown, "sample"]))
    rows = [row for row in first if row["sample"] == 0][:SHOWN]
    return [{key: row[key] for key in shown} | {"prompt": read_last_text(row["prompt"])} for row in rows]


def told(summary: dict[str, Any]) -> str:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in summary["finish_reasons"].items())
    return f"{summary['completions']:,} completions of {summary['prompts']:,} prompts ({reasons})"


if __name__ == "__main__":
    lifecycle.run_from_command_line(main)
