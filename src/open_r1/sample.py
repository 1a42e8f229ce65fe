"""Sampling: prompts in, n completions each out, to be judged and selected from (R1's step 3a)."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from open_r1 import contamination, data, deduplicate, engines, hub, models, run, shards
from open_r1.configs import Recipe, SamplingConfig
from open_r1.data import TEXT, StoredRows
from open_r1.errors import RecipeError
from open_r1.progress import Progress
from open_r1.prompts import PROMPTS, Messages, prompt_id
from open_r1.shards import Shards

BINS = 32  # of the histogram of lengths, at most
SHOWN = 5  # completions kept for the report
OWN = {
    "prompt_id": TEXT,
    "row": datasets.Value("int64"),
    "sample": datasets.Value("int32"),
    "completion": TEXT,
    "tokens": datasets.Value("int32"),
    "finish_reason": TEXT,
    "refused": TEXT,
    "seed": datasets.Value("int64"),
    "model": TEXT,
}


def main(recipe: Recipe) -> run.Run:
    args = recipe.args
    engines.check(args.engine)
    problem = hub.check(args.hub_dataset_id)
    this = run.start(recipe)
    if problem:
        this.say(problem)
    rows = data.load_rows(recipe)
    refuse_columns(rows)
    rows, repeated = deduplicate.distinct(rows, args.deduplicate)
    rows = contamination.guard(this, rows, recipe.data.contamination)
    run.same_rows(this, rows)
    files = Shards(this.dir / "data", len(rows), args.shard_rows)
    # Before the files are divided: a process that has none to fill loads no model, and the others would wait for it.
    this.recipe = models.with_model(recipe)
    todo = run.own_files(this, files)
    if todo:
        generate(this, rows, files, todo)
    with run.to_finish(this, files) as last:
        if last:
            summary = summarize(this.dir, len(rows), args.sampling.max_tokens)
            run.finish_data(this, summary | {"engine": args.engine.name, "repeated": repeated})
            this.say(told(summary))
    return this


def refuse_columns(rows: StoredRows) -> None:
    taken = sorted(OWN.keys() & rows.features.keys())
    if taken:
        raise RecipeError(
            f"datasets: sampling writes the columns {', '.join(taken)}, which a source has already; rename its own, "
            f"e.g. `columns: {{source_{taken[0]}: {taken[0]}}}`"
        )


def generate(this: run.Run, rows: StoredRows, files: Shards, todo: list[int]) -> None:
    """Fill the files that are missing; a file is written when all of its completions are there."""
    args = this.recipe.args
    total = args.sampling.n * sum(len(files.range(number)) for number in todo)
    if len(todo) < files.count:
        this.say(f"{files.count - len(todo)} of {files.count} files are there already, or another part's")
    with closing(engines.open_engine(this.recipe)) as engine:
        progress = Progress(total, this.say)
        done: dict[Future[tuple[int, int]], int] = {}
        with ThreadPoolExecutor(engine.at_once, thread_name_prefix="shard") as threads:
            try:
                for number in todo:
                    work = threads.submit(fill, this.recipe, engine, rows, files, number, progress)
                    done[work] = number
                for work in as_completed(done):
                    completions, tokens = work.result()
                    record(this.dir, done[work], completions, tokens, progress)
            except BaseException:
                # What waits in other threads would keep this process from ending.
                threads.shutdown(wait=False, cancel_futures=True)
                engine.close()
                raise
        this.say(progress.line())


def fill(
    recipe: Recipe, engine: engines.Engine, rows: StoredRows, files: Shards, number: int, progress: Progress
) -> tuple[int, int]:
    """Generate and write one file; how many completions and tokens.

    Raises:
        RecipeError: not one of its prompts is answered, nor any other so far: something is wrong with all of them.
    """
    settings, span = recipe.args.sampling, files.range(number)
    stored, numbers = rows.slice(span.start, span.stop), rows.numbers(span.start, span.stop).tolist()
    prompts, completions = present(recipe, stored, numbers)
    sampled_PN = engine.generate(
        list(prompts.values()),
        settings.n,
        as_sampling(settings, recipe.seed),
        rows=[numbers[i] for i in prompts],
        done=progress.add,
    )
    completions |= dict(zip(prompts, sampled_PN, strict=True))
    refused = all(completion.refused for completions_N in completions.values() for completion in completions_N)
    if refused and not progress.tokens and not any_answered(files.folder):
        raise RecipeError(
            f"datasets: every prompt of the rows {numbers[0]} to {numbers[-1]} is refused: {completions[0][0].refused}"
        )
    made = [
        row | columns(row, numbers[i], k, completions[i][k], recipe.seed) | {"model": engine.model}
        for i, row in enumerate(stored)
        for k in range(settings.n)
    ]
    shards.write(files.path(number), [made], datasets.Features({**rows.features, **OWN}))
    return len(made), sum(row["tokens"] for row in made)


def any_answered(folder: Path) -> bool:
    """True if a file that is there already holds an answer."""
    return any(row["refused"] is None for batch in shards.read(folder, ["refused"]) for row in batch)


def as_sampling(settings: SamplingConfig, seed: int) -> engines.Sampling:
    return engines.Sampling(
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_tokens=settings.max_tokens,
        stop=tuple(settings.stop),
        seed=seed,
    )


def present(
    recipe: Recipe, rows: list[dict[str, Any]], numbers: list[int]
) -> tuple[dict[int, str | Messages], dict[int, list[engines.Completion]]]:
    """The prompts as the model reads them, and the refusals of those that cannot be read, both by their place."""
    prompts: dict[int, str | Messages] = {}
    refused: dict[int, list[engines.Completion]] = {}
    for i, (row, number) in enumerate(zip(rows, numbers, strict=True)):
        try:
            if not row["prompt"]:
                raise RecipeError("the prompt is empty")
            how = PROMPTS[recipe.data.prompt]
            prompts[i] = data.presented(row["prompt"], how, recipe.data.system_prompt, row["source"], number)
        except RecipeError as error:
            refused[i] = [engines.refusal(str(error))] * recipe.args.sampling.n
    return prompts, refused


def columns(row: dict[str, Any], number: int, k: int, completion: engines.Completion, seed: int) -> dict[str, Any]:
    """What sampling adds to a row."""
    text = completion.text
    return {
        "prompt_id": prompt_id(row["prompt"] or f"row {number}"),
        "row": number,
        "sample": k,
        # A server may send half of a surrogate pair, which no file can hold.
        "completion": None if text is None else text.encode("utf-8", "replace").decode(),
        "tokens": completion.tokens,
        "finish_reason": completion.finish_reason,
        "refused": completion.refused,
        "seed": engines.seed_of(seed, number, k),
    }


def record(directory: Path, number: int, completions: int, tokens: int, progress: Progress) -> None:
    """One line for each file, from whichever process wrote it."""
    line = {
        "shard": number,
        "completions": completions,
        "tokens": tokens,
        "process": f"{os.uname().nodename}-{os.getpid()}",
        "elapsed": round(progress.seconds, 3),
        "time": round(time.time(), 1),
    }
    with (directory / "shards.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


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
    for batch in shards.read(directory / "data", ["tokens", "finish_reason", "refused", "model"]):
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
        "tokens_per_second": speed(directory / "shards.jsonl"),
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


def speed(log: Path) -> float | None:
    """Tokens per second of one process, in the mean over all that took part; loading the model does not count."""
    elapsed: dict[str, float] = {}
    tokens = 0
    for line in run.read_jsonl(log) if log.is_file() else []:
        elapsed[line["process"]] = max(line["elapsed"], elapsed.get(line["process"], 0.0))
        tokens += line["tokens"]
    seconds = sum(elapsed.values())
    return round(tokens / seconds, 1) if seconds else None


def examples(folder: Path) -> list[dict[str, Any]]:
    """The first completions of the first few prompts."""
    shown = ("prompt", "completion", "tokens", "finish_reason")
    first = next(shards.read(folder, [*shown, "sample"]))
    rows = [row for row in first if row["sample"] == 0][:SHOWN]
    return [{key: row[key] for key in shown} | {"prompt": last_text(row["prompt"])} for row in rows]


def last_text(prompt: str | Messages | None) -> str:
    if not prompt:
        return ""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"] or ""


def told(summary: dict[str, Any]) -> str:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in summary["finish_reasons"].items())
    return f"{summary['completions']:,} completions of {summary['prompts']:,} prompts ({reasons})"


if __name__ == "__main__":
    run.from_command_line(main)
