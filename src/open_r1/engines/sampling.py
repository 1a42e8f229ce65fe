"""Sample completions of prompts into files; `sample` and `evaluate` share this."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets

from ..data import presenting, shards
from ..data.columns import TEXT
from ..data.shards import Shards
from ..errors import RecipeError
from ..prompts import PROMPTS, Messages, hash_prompt
from ..system.files import read_jsonl
from ..system.progress import Progress
from . import registry

if TYPE_CHECKING:
    from ..run.run import Run


Row = dict[str, Any]

# The columns of a completion; those of its prompt stand beside them.
COLUMNS = {
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


@dataclass(frozen=True)
class SamplingPlan:
    """How prompts are presented and sampled.

    Args:
        n: completions of each prompt.
        sampling: how they are drawn.
        prompt: a name in `prompts.PROMPTS`.
        system_prompt: system message before every prompt.
    """

    n: int
    sampling: registry.Sampling
    prompt: str
    system_prompt: str | None = None


def fill_files(
    this: Run,
    files: Shards,
    todo: list[int],
    total: int,
    make: Callable[[registry.Engine, int, Progress], list[Row]],
    features: datasets.Features,
) -> None:
    """Write the missing files; each is written once all its completions exist.

    Args:
        this: the run, whose recipe names the engine.
        files: all files of completions.
        todo: numbers of the files to write.
        total: number of completions in them.
        make: returns the rows of one file.
        features: the columns of the rows.

    Raises:
        RecipeError: the engine cannot continue, or every prompt of the first file is refused.
    """
    if len(todo) < files.count:
        this.say(f"{files.count - len(todo)} of {files.count} files exist already, or belong to another part")
    with closing(registry.open_engine(this.recipe)) as engine:
        progress = Progress(total, this.say)
        numbers: dict[Future[tuple[int, int]], int] = {}
        with ThreadPoolExecutor(engine.at_once, thread_name_prefix="shard") as threads:
            try:
                for number in todo:
                    numbers[threads.submit(_fill_file, engine, files, number, progress, make, features)] = number
                for future in as_completed(numbers):
                    completions, tokens = future.result()
                    _record_file(this.dir, numbers[future], completions, tokens, progress)
            except BaseException:
                # Work that other threads wait for would keep this process from ending.
                threads.shutdown(wait=False, cancel_futures=True)
                engine.close()
                raise
        this.say(progress.line())


def _fill_file(
    engine: registry.Engine,
    files: Shards,
    number: int,
    progress: Progress,
    make: Callable[[registry.Engine, int, Progress], list[Row]],
    features: datasets.Features,
) -> tuple[int, int]:
    """Generate and write one file; returns its numbers of completions and tokens."""
    rows = make(engine, number, progress)
    if all(row["refused"] for row in rows) and not progress.tokens and not _has_answer(files.folder):
        raise RecipeError(
            f"every prompt of the rows {rows[0]['row']} to {rows[-1]['row']} is refused: {rows[0]['refused']}"
        )
    shards.write_file(files.path(number), [rows], features)
    return len(rows), sum(row["tokens"] for row in rows)


def _has_answer(folder: Path) -> bool:
    """True if an existing file contains a completion that is not refused."""
    return any(row["refused"] is None for batch in shards.read_folder(folder, ["refused"]) for row in batch)


def complete_prompts(
    engine: registry.Engine, rows: list[Row], numbers: list[int], plan: SamplingPlan, progress: Progress
) -> list[list[Row]]:
    """The `COLUMNS` of `n` completions of each row's prompt (rows x n).

    Args:
        engine: generates the completions.
        rows: with the columns `prompt` and `source`.
        numbers: of the rows in their dataset; their seeds derive from these.
        plan: how the prompts are presented and sampled.
        progress: counts the completions as they come.
    """
    prompts, completions = _present_prompts(rows, numbers, plan)
    sampled_PN = engine.generate(
        list(prompts.values()), plan.n, plan.sampling, rows=[numbers[i] for i in prompts], done=progress.add
    )
    completions |= dict(zip(prompts, sampled_PN, strict=True))
    seed = plan.sampling.seed
    return [
        [_build_columns(row, numbers[i], k, completions[i][k], seed) | {"model": engine.model} for k in range(plan.n)]
        for i, row in enumerate(rows)
    ]


def _present_prompts(
    rows: list[Row], numbers: list[int], plan: SamplingPlan
) -> tuple[dict[int, str | Messages], dict[int, list[registry.Completion]]]:
    """The prompts as the model reads them, and refusals of those that cannot be presented; both by index in `rows`."""
    prompts: dict[int, str | Messages] = {}
    refused: dict[int, list[registry.Completion]] = {}
    for i, (row, number) in enumerate(zip(rows, numbers, strict=True)):
        try:
            if not row["prompt"]:
                raise RecipeError("the prompt is empty")
            template = PROMPTS[plan.prompt]
            prompts[i] = presenting.present_prompt(row["prompt"], template, plan.system_prompt, row["source"], number)
        except RecipeError as error:
            refused[i] = [registry.make_refusal(str(error))] * plan.n
    return prompts, refused


def _build_columns(row: Row, number: int, k: int, completion: registry.Completion, seed: int) -> Row:
    text = completion.text
    return {
        "prompt_id": hash_prompt(row["prompt"] or f"row {number}"),
        "row": number,
        "sample": k,
        # A server may send half of a surrogate pair, which UTF-8 cannot encode.
        "completion": None if text is None else text.encode("utf-8", "replace").decode(),
        "tokens": completion.tokens,
        "finish_reason": completion.finish_reason,
        "refused": completion.refused,
        "seed": registry.derive_seed(seed, number, k),
    }


def _record_file(directory: Path, number: int, completions: int, tokens: int, progress: Progress) -> None:
    """Append a line about a finished file to `shards.jsonl`, which all processes share."""
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


def measure_speed(directory: Path) -> float | None:
    """Mean tokens per second of a process, without the time to load the model."""
    log = directory / "shards.jsonl"
    elapsed: dict[str, float] = {}
    tokens = 0
    for line in read_jsonl(log) if log.is_file() else []:
        elapsed[line["process"]] = max(line["elapsed"], elapsed.get(line["process"], 0.0))
        tokens += line["tokens"]
    seconds = sum(elapsed.values())
    return round(tokens / seconds, 1) if seconds else None
