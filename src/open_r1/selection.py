"""Rejection sampling: judge, filter, and choose what is trained on (R1's step 3a)."""

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

from .config.recipe import Recipe
from .config.sharded_tasks import SelectConfig
from .curation import by_prompt, rejection_sampling, scoring
from .curation.curriculum import Curriculum
from .curation.funnel import Funnel
from .data import contamination, deduplicate, hub, shards
from .data.columns import MESSAGES
from .data.deduplicate import Deduplicator
from .data.rows import load_rows
from .data.shards import Shards
from .errors import RecipeError
from .filters import registry
from .report import run_report
from .rewards.registry import Findings, check_ready
from .run import job_array, lifecycle
from .run.run import Run
from .system import worker_pool
from .system.files import replace_file, write_json
from .system.progress import EVERY, format_duration

Row = dict[str, Any]

WRITE_ROWS = 500
# What a worker gets at once: enough to be worth the way there, and not much to hold.
CHUNK_ROWS = 1000
CHUNK_CHARACTERS = 8 << 20
CHUNK_SECONDS = 3600.0  # of CPU; a filter that takes longer hangs
CHUNK_MEMORY_MB = 4096


def main(recipe: Recipe) -> Run:
    args = recipe.args
    problem = hub.check_push(args.hub_dataset_id)
    this = lifecycle.start_run(recipe)
    if problem:
        this.say(problem)
    rows = load_rows(recipe)
    scoring.check_sources(recipe, rows)
    features = scoring.build_features(rows, recipe)
    check_columns(recipe, features)
    rows = contamination.apply_gate(this, rows, recipe.data.contamination)
    job_array.check_same_rows(this, rows.identity())
    files = Shards(this.dir / "judged", len(rows), args.shard_rows)
    todo = job_array.list_own_files(this, files)
    if todo:
        try_judges(this)
        scoring.score_files(this, rows, files, todo)
    with job_array.claim_finish(this, files) as last:
        if last:
            lifecycle.finish_dataset(this, select(this, features))
    return this


def check_columns(recipe: Recipe, features: datasets.Features) -> None:
    """Refuse filters, before anything is judged, that read what the rows will not have.

    Raises:
        RecipeError: naming the filter, the column and what to do.
    """
    scores = features.get("scores")
    metrics = list(scores) if isinstance(scores, dict) else []
    registry.check_filters(recipe.args.filters, metrics)
    if recipe.args.pairs.by not in ("verdict", *metrics):
        raise RecipeError(f"pairs.by: {recipe.args.pairs.by!r} is neither `verdict` nor a score of these rows")
    for step in registry.build_filters(recipe.args.filters):
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


def try_judges(this: Run) -> None:
    """Before hours of judging: are the sandboxes and endpoints there that the rewards rest on?"""
    if not this.recipe.run.preflight:
        return
    findings = Findings()
    check_ready(this.recipe.run.rewards, findings)
    for told in findings.said:
        this.say(f"check: {told}")
    if findings.fatal:
        raise RecipeError(f"check: {'; '.join(findings.fatal)}. `preflight: false` starts anyway")


def select(this: Run, features: datasets.Features) -> dict[str, Any]:
    """From the judged rows to the files of the run directory; begun anew if a kill interrupted it.

    Args:
        this: the run.
        features: of the judged rows.

    Returns:
        figures for summary.json.

    Raises:
        RecipeError: no row is left; the funnel says why.
    """
    args = this.recipe.args
    staging = this.dir / ".selecting"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    funnel = Funnel(rejection_sampling.plan_selection(args).steps, args.examples)
    with Curriculum(staging / "curriculum", args.curriculum, features) as curriculum:
        parts = sifted(by_prompt.group_by_prompt(this.dir / "judged", staging), args)
        total = shards.count_rows(this.dir / "judged")
        rows = selected(told(parts, total, this.say), args, funnel, curriculum)
        count = write_shards(staging / "data", rows, output_features(args.output, features), args.shard_rows)
    write_jsonl(staging / "rejected.jsonl", funnel.rejected())
    counts = funnel.as_json(args.output, curriculum.counts)
    if not count:
        shutil.rmtree(staging / "data")  # a folder without a file cannot be loaded
    publish(staging, this.dir, ["rejected.jsonl", "curriculum", "data"])
    write_json(this.dir / "funnel.json", counts)
    this.say(funnel.table())
    if not count:
        run_report.write_report(this.dir)
        raise RecipeError(
            f"filters: nothing is left to train on: {funnel.end()}. Loosen that filter or leave it out, or sample "
            f"more (`sampling.n`, more prompts, a better model); {this.dir}/rejected.jsonl has examples, and the "
            "verdicts are kept"
        )
    return {
        "output": args.output,
        "rows": count,
        "prompts": counts["steps"][-1]["prompts"],
        "sampled": counts["steps"][0]["kept"],
        "verdicts": {verdict or "not judged": number for verdict, number in counts["verdicts"].items()},
    }


def selected(
    parts: Iterable[rejection_sampling.Sifted], args: SelectConfig, funnel: Funnel, curriculum: Curriculum
) -> Iterator[Row]:
    """Rows to train on, from what came of some prompts after another; counted, and their prompts written."""
    seen = None if args.deduplicate is None else deduplicate.build_deduplicator(args.deduplicate)
    for part in parts:
        funnel.add(part.funnel)
        curriculum.add(part.prompts)
        prompts = [list(rows) for _, rows in groupby(part.rows, key=itemgetter("prompt_id"))]
        if seen is not None:
            prompts = distinct(prompts, args.deduplicate.column, seen, funnel)
        for rows in prompts:
            if args.output == "messages":
                rows = funnel.passed("selected", rows, [None] * len(rows))
            yield from rows


def told(
    parts: Iterable[rejection_sampling.Sifted], total: int, say: Callable[[str], None]
) -> Iterator[rejection_sampling.Sifted]:
    """The parts, and now and then a line that says how far it is."""
    began = said = time.monotonic()
    done = 0
    for part in parts:
        yield part
        done += part.funnel.steps["sampled"].kept
        now = time.monotonic()
        if now - said > EVERY:
            said = now
            left = format_duration((now - began) * (total - done) / done)
            say(f"filtered {done:,} of {total:,} samples, about {left} left")


def distinct(prompts: list[list[Row]], column: str, seen: Deduplicator, funnel: Funnel) -> list[list[Row]]:
    """The rows of each prompt that repeat no earlier one; a prompt that repeats another loses all of them."""
    # The samples of one prompt share it, and are no repetition.
    texts_of = [compared(rows[:1] if column == "prompt" else rows, column) for rows in prompts]
    repeats = iter(seen.repeats([text for texts in texts_of for text in texts]))
    kept = []
    for rows, texts in zip(prompts, texts_of, strict=True):
        found = [next(repeats) is not None for _ in texts]
        reason = f"repeats an earlier {column}"
        reasons = [reason if repeated else None for repeated in (found * len(rows) if column == "prompt" else found)]
        kept.append(funnel.passed("deduplicate", [as_sample(row) for row in rows], reasons))
    return kept


def as_sample(row: Row) -> Row:
    """A selected row with what an example of a rejected sample shows; of a pair its better side."""
    if "messages" in row:
        *prompt, answer = row["messages"]
        return row | {"prompt": prompt, "completion": answer["content"]}
    better = {column: row[f"chosen_{column}"] for column in rejection_sampling.SIDE_LINEAGE}
    return row | better | {"completion": row["chosen"][-1]["content"]}


def compared(rows: list[Row], column: str) -> list[str]:
    """The texts of a column of selected rows; in messages the last one is the completion."""
    if "messages" not in rows[0]:
        return [deduplicate.read_compared_text(row[column]) for row in rows]
    part = slice(-1) if column == "prompt" else slice(-1, None)
    return [deduplicate.read_compared_text(row["messages"][part]) for row in rows]


def sifted(prompts: Iterable[list[Row]], args: SelectConfig) -> Iterator[rejection_sampling.Sifted]:
    """What came of all prompts, in their order, some at a time; on all cores if there are many.

    Raises:
        RecipeError: a filter failed.
    """
    several = chunks(prompts)
    few = list(islice(several, 2))
    several = chain(few, several)
    workers = worker_pool.count_cores()
    if len(few) < 2 or workers == 1:
        yield from (rejection_sampling.select_from_prompts(chunk, args) for chunk in several)
        return
    with (
        closing(worker_pool.Pool(workers, preload=rejection_sampling.__name__)) as processes,
        ThreadPoolExecutor(workers) as threads,
    ):
        waiting: deque[Future[rejection_sampling.Sifted]] = deque()
        for chunk in several:
            waiting.append(threads.submit(_in_process, processes, chunk, args))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _in_process(processes: worker_pool.Pool, chunk: list[list[Row]], args: SelectConfig) -> rejection_sampling.Sifted:
    try:
        function = f"{rejection_sampling.__name__}:{rejection_sampling.select_from_prompts.__name__}"
        return processes.call(function, chunk, args, seconds=CHUNK_SECONDS, memory_mb=CHUNK_MEMORY_MB)
    except worker_pool.CallFailed as failed:
        raise RecipeError(str(failed).removeprefix("RecipeError: ")) from None
    except (worker_pool.LimitReached, worker_pool.PoolError) as failed:
        raise RecipeError(f"filters: {failed}, on {sum(map(len, chunk))} samples; the verdicts are kept") from failed


def chunks(prompts: Iterable[list[Row]]) -> Iterator[list[list[Row]]]:
    """Some prompts with all of their samples at a time, by the number of samples and of characters."""
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


def output_features(output: str, features: datasets.Features) -> datasets.Features:
    """Columns of what is selected: the messages, or both sides of a pair, and where they come from."""
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
    """Write a stream of rows as numbered files, whose names tell how many they are; how many rows."""
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


def write_jsonl(path: Path, rows: list[Row]) -> None:
    # Escaped, because a model may write half of a surrogate pair.
    with replace_file(path) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def publish(staging: Path, directory: Path, names: list[str]) -> None:
    """Give finished files and folders their places in the run directory."""
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
    lifecycle.run_from_command_line(main)
