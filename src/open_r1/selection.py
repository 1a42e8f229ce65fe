"""Rejection sampling: score samples, filter them, and write training rows (R1's step 3a)."""

from __future__ import annotations

import json
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import datasets

from open_r1.config.recipe import Recipe
from open_r1.config.sharded_tasks import SelectConfig
from open_r1.curation import rejection_sampling, scoring
from open_r1.curation.by_prompt import group_by_prompt
from open_r1.curation.curriculum import Curriculum
from open_r1.curation.funnel import Funnel, Row
from open_r1.curation.rejection_sampling import Selection
from open_r1.data import shards
from open_r1.data.columns import MESSAGES
from open_r1.data.contamination import apply_gate
from open_r1.data.deduplicate import Deduplicator, build_deduplicator, read_compared_text
from open_r1.data.rows import load_rows
from open_r1.data.shards import Shards
from open_r1.errors import RecipeError
from open_r1.filters.registry import build_filters, check_filters
from open_r1.report.run_report import write_report
from open_r1.rewards.registry import Findings, check_ready
from open_r1.run.job_array import check_same_rows, claim_finish, list_own_files
from open_r1.run.lifecycle import finish_dataset, run_from_command_line, start_run
from open_r1.run.run import Run
from open_r1.system import worker_pool
from open_r1.system.files import write_json, write_text
from open_r1.system.processes import count_cores
from open_r1.system.progress import EVERY, format_duration

WRITE_ROWS = 500
# Samples sent to a worker at once: enough to outweigh the transfer, few enough to hold.
CHUNK_ROWS = 1000
CHUNK_CHARACTERS = 8 << 20
CHUNK_SECONDS = 3600.0  # of CPU; a filter that takes longer hangs
CHUNK_MEMORY_MB = 4096


def main(recipe: Recipe) -> Run:
    run = start_run(recipe)
    rows = load_rows(recipe)
    scoring.check_sources(recipe, rows)
    features = scoring.build_features(rows, recipe)
    check_columns(recipe, features)
    rows = apply_gate(run, rows, recipe.data.contamination)
    check_same_rows(run, rows.identity())
    files = Shards(run.dir / "judged", len(rows), recipe.args.shard_rows)
    todo = list_own_files(run, files)
    if todo:
        check_verifiers(run)
        scoring.score_files(run, rows, files, todo)
    with claim_finish(run, files) as last:
        if last:
            finish_dataset(run, select(run, features))
    return run


def check_columns(recipe: Recipe, features: datasets.Features) -> None:
    """Check before judging that the rows will have the columns that the filters read.

    Raises:
        RecipeError: naming the filter, the column and what to do.
    """
    scores = features.get("scores")
    metrics = list(scores) if isinstance(scores, dict) else []
    check_filters(recipe.args.filters, metrics)
    if recipe.args.pairs.by not in ("verdict", *metrics):
        raise RecipeError(f"pairs.by: {recipe.args.pairs.by!r} is neither `verdict` nor a score of these rows")
    for step in build_filters(recipe.args.filters):
        if step.kinds is not None and "kind" not in features:
            raise RecipeError(
                f"filters: {step.name} is for `kinds` of rows, and these have none; add e.g. `kind: math`"
            )
        for column in step.columns:
            if column in features or column in step.optional:
                continue
            if column == "tokens":
                raise RecipeError(
                    f"filters: {step.name} needs the column `tokens`, and the rows have none; set "
                    "`tokenizer_name_or_path` to have them counted"
                )
            raise RecipeError(f"filters: {step.name} needs the column {column!r}; the rows have {', '.join(features)}")


def check_verifiers(run: Run) -> None:
    """Check before judging that the sandboxes and endpoints of the rewards can be reached.

    Raises:
        RecipeError: one cannot be reached.
    """
    if not run.recipe.run.preflight:
        return
    findings = Findings()
    check_ready(run.recipe.run.rewards, findings)
    for message in findings.said:
        run.say(f"check: {message}")
    if findings.fatal:
        raise RecipeError(f"check: {'; '.join(findings.fatal)}. `preflight: false` starts anyway")


def select(run: Run, features: datasets.Features) -> dict[str, Any]:
    """Select from the judged rows and write `data`, `curriculum`, rejected.jsonl and funnel.json.

    After a kill it starts from the beginning.

    Args:
        run: the run.
        features: features of the judged rows.

    Returns:
        The contents of summary.json.

    Raises:
        RecipeError: no row is left; the message names the step that dropped the last ones.
    """
    args = run.recipe.args
    staging = run.dir / ".selecting"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    funnel = Funnel(rejection_sampling.list_steps(args, build_filters(args.filters)), args.examples)
    with Curriculum(staging / "curriculum", args.curriculum, features) as curriculum:
        parts = select_in_chunks(group_by_prompt(run.dir / "judged", staging), args)
        parts = report_progress(parts, shards.count_rows(run.dir / "judged"), run.say)
        rows = collect_rows(parts, args, funnel, curriculum)
        count = write_shards(staging / "data", rows, build_output_features(args.output, features), args.shard_rows)
    # Escaped, because a model may write half of a surrogate pair.
    write_text(staging / "rejected.jsonl", "".join(json.dumps(row) + "\n" for row in funnel.rejected()))
    counts = funnel.as_json(args.output, curriculum.counts)
    if not count:
        shutil.rmtree(staging / "data")  # a folder without a file cannot be loaded
    publish_files(staging, run.dir, ["rejected.jsonl", "curriculum", "data"])
    write_json(run.dir / "funnel.json", counts)
    run.say(funnel.table())
    if not count:
        write_report(run.dir)
        raise RecipeError(
            f"filters: nothing is left to train on: {funnel.explain_empty()}. Loosen that filter or leave it out, or "
            f"sample more (`sampling.n`, more prompts, a better model); {run.dir}/rejected.jsonl has examples. The "
            "verdicts are kept"
        )
    return {
        "output": args.output,
        "rows": count,
        "prompts": counts["steps"][-1]["prompts"],
        "sampled": counts["steps"][0]["kept"],
        "verdicts": {verdict or "not judged": number for verdict, number in counts["verdicts"].items()},
    }


def collect_rows(
    parts: Iterable[Selection], args: SelectConfig, funnel: Funnel, curriculum: Curriculum
) -> Iterator[Row]:
    """Training rows of all parts without repeats; counts go to the funnel, prompts to the curriculum."""
    seen = None if args.deduplicate is None else build_deduplicator(args.deduplicate)
    for part in parts:
        funnel.add(part.funnel)
        curriculum.add(part.prompts)
        prompts = [list(rows) for _, rows in groupby(part.rows, key=itemgetter("prompt_id"))]
        if seen is not None:
            prompts = drop_repeats(prompts, args.deduplicate.column, seen, funnel)
        for rows in prompts:
            if args.output == "messages":
                rows = funnel.apply_step("selected", rows, [None] * len(rows))
            yield from rows


def report_progress(parts: Iterable[Selection], total: int, say: Callable[[str], None]) -> Iterator[Selection]:
    """Pass the parts on; every few seconds say how many of `total` samples are done."""
    began = reported = time.monotonic()
    done = 0
    for part in parts:
        yield part
        done += part.funnel.steps["sampled"].kept
        now = time.monotonic()
        if now - reported > EVERY:
            reported = now
            left = format_duration((now - began) * (total - done) / done)
            say(f"filtered {done:,} of {total:,} samples, about {left} left")


def drop_repeats(prompts: list[list[Row]], column: str, seen: Deduplicator, funnel: Funnel) -> list[list[Row]]:
    """Drop rows that repeat an earlier `column`; a prompt that repeats another loses all of its rows."""
    # The samples of one prompt share it, which is no repeat: one of them is compared.
    texts_P = [list_compared_texts(rows[:1] if column == "prompt" else rows, column) for rows in prompts]
    repeats = iter(seen.find_repeats([text for texts in texts_P for text in texts]))
    kept = []
    for rows, texts in zip(prompts, texts_P, strict=True):
        reasons = [f"repeats an earlier {column}" if next(repeats) else None for _ in texts]
        reasons = reasons * len(rows) if column == "prompt" else reasons
        kept.append(funnel.apply_step("deduplicate", [add_sample_columns(row) for row in rows], reasons))
    return kept


def add_sample_columns(row: Row) -> Row:
    """A selected row with the columns that rejected.jsonl shows; of a pair, those of the chosen side."""
    if "messages" in row:
        *prompt, answer = row["messages"]
        return row | {"prompt": prompt, "completion": answer["content"]}
    better = {column: row[f"chosen_{column}"] for column in rejection_sampling.SIDE_LINEAGE}
    return row | better | {"completion": row["chosen"][-1]["content"]}


def list_compared_texts(rows: list[Row], column: str) -> list[str]:
    """The texts of a column of selected rows; in messages the last one is the completion."""
    if "messages" not in rows[0]:
        return [read_compared_text(row[column]) for row in rows]
    part = slice(-1) if column == "prompt" else slice(-1, None)
    return [read_compared_text(row["messages"][part]) for row in rows]


def select_in_chunks(prompts: Iterable[list[Row]], args: SelectConfig) -> Iterator[Selection]:
    """Select from chunks of prompts, in order; on all cores if there are several chunks.

    Raises:
        RecipeError: a filter failed.
    """
    chunks = split_chunks(prompts)
    first = list(islice(chunks, 2))
    chunks = chain(first, chunks)
    workers = count_cores()
    if len(first) < 2 or workers == 1:
        yield from (rejection_sampling.select_from_prompts(chunk, args) for chunk in chunks)
        return
    with (
        closing(worker_pool.Pool(workers, preload=rejection_sampling.__name__)) as processes,
        ThreadPoolExecutor(workers) as threads,
    ):
        waiting: deque[Future[Selection]] = deque()
        for chunk in chunks:
            waiting.append(threads.submit(_select_in_worker, processes, chunk, args))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _select_in_worker(processes: worker_pool.Pool, chunk: list[list[Row]], args: SelectConfig) -> Selection:
    try:
        function = f"{rejection_sampling.__name__}:{rejection_sampling.select_from_prompts.__name__}"
        return processes.call(function, chunk, args, seconds=CHUNK_SECONDS, memory_mb=CHUNK_MEMORY_MB)
    except worker_pool.CallFailed as failed:
        raise RecipeError(str(failed).removeprefix("RecipeError: ")) from None
    except (worker_pool.LimitReached, worker_pool.PoolError) as failed:
        raise RecipeError(f"filters: {failed}, on {sum(map(len, chunk))} samples; the verdicts are kept") from failed


def split_chunks(prompts: Iterable[list[Row]]) -> Iterator[list[list[Row]]]:
    """Split prompts with all of their samples into chunks of about CHUNK_ROWS or CHUNK_CHARACTERS."""
    chunk: list[list[Row]] = []
    rows = characters = 0
    for samples in prompts:
        chunk.append(samples)
        rows += len(samples)
        characters += sum(len(row["completion"] or "") for row in samples)
        if rows >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, rows, characters = [], 0, 0
    if chunk:
        yield chunk


def build_output_features(output: str, features: datasets.Features) -> datasets.Features:
    """Features of the selected rows: the messages, or both sides of a pair, and their lineage."""
    known = features | {"pass_rate": datasets.Value("float64")}
    if output == "messages":
        return datasets.Features(
            {"messages": MESSAGES} | {c: known[c] for c in rejection_sampling.LINEAGE if c in known}
        )
    number = datasets.Value("float64")
    sides = {c: known[c] for c in rejection_sampling.SIDE_LINEAGE if c in known}
    return datasets.Features(
        {"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES, "margin": number, "length_ratio": number}
        | {c: known[c] for c in rejection_sampling.PROMPT_LINEAGE if c in known}
        | {f"{side}_{column}": feature for side in ("chosen", "rejected") for column, feature in sides.items()}
    )


def write_shards(folder: Path, rows: Iterator[Row], features: datasets.Features, per_shard: int) -> int:
    """Write rows to numbered files, whose final names hold the number of files; returns the number of rows."""
    folder.mkdir(parents=True)
    count = 0
    parts: list[Path] = []
    while (first := next(rows, None)) is not None:
        parts.append(folder / f"part-{len(parts):05d}.parquet")
        batches = batched(chain([first], islice(rows, per_shard - 1)), WRITE_ROWS)
        count += shards.write_file(parts[-1], batches, features)
    files = Shards(folder, count, per_shard)
    for number, part in enumerate(parts):
        part.replace(files.path(number))
    return count


def batched(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    rows = iter(rows)
    while batch := list(islice(rows, size)):
        yield batch


def publish_files(staging: Path, directory: Path, names: list[str]) -> None:
    """Move finished files and folders from the staging folder to the run directory."""
    for name in names:
        target = directory / name
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        if (staging / name).exists():
            (staging / name).replace(target)
    shutil.rmtree(staging)


if __name__ == "__main__":
    run_from_command_line(main)
