"""Prompts sampled into files of completions: what `sample` and `evaluate` have in common."""

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

# What a completion is, beside the columns of its prompt.
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
class Asked:
    """How prompts are presented and sampled.

    Args:
        n: completions of each.
        sampling: how they are drawn.
        prompt: a name in `prompts.PROMPTS`.
        system_prompt: system message put before every prompt.
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
    """Fill the files that are missing; a file is written when all of its completions are there.

    Args:
        this: the run, whose recipe names the engine.
        files: of the completions.
        todo: numbers of those to fill.
        total: completions that they will hold.
        make: the rows of one file.
        features: their columns.

    Raises:
        RecipeError: the engine cannot go on, or the first prompts are all refused: something is wrong with all.
    """
    if len(todo) < files.count:
        this.say(f"{files.count - len(todo)} of {files.count} files are there already, or another part's")
    with closing(registry.open_engine(this.recipe)) as engine:
        progress = Progress(total, this.say)
        done: dict[Future[tuple[int, int]], int] = {}
        with ThreadPoolExecutor(engine.at_once, thread_name_prefix="shard") as threads:
            try:
                for number in todo:
                    done[threads.submit(_fill, engine, files, number, progress, make, features)] = number
                for work in as_completed(done):
                    completions, tokens = work.result()
                    _record(this.dir, done[work], completions, tokens, progress)
            except BaseException:
                # What waits in other threads would keep this process from ending.
                threads.shutdown(wait=False, cancel_futures=True)
                engine.close()
                raise
        this.say(progress.line())


def _fill(
    engine: registry.Engine,
    files: Shards,
    number: int,
    progress: Progress,
    make: Callable[[registry.Engine, int, Progress], list[Row]],
    features: datasets.Features,
) -> tuple[int, int]:
    """Generate and write one file; how many completions and tokens."""
    rows = make(engine, number, progress)
    if all(row["refused"] for row in rows) and not progress.tokens and not _any_answered(files.folder):
        raise RecipeError(
            f"every prompt of the rows {rows[0]['row']} to {rows[-1]['row']} is refused: {rows[0]['refused']}"
        )
    shards.write_file(files.path(number), [rows], features)
    return len(rows), sum(row["tokens"] for row in rows)


def _any_answered(folder: Path) -> bool:
    """True if a file that is there already holds an answer."""
    return any(row["refused"] is None for batch in shards.read_folder(folder, ["refused"]) for row in batch)


def complete_prompts(
    engine: registry.Engine, rows: list[Row], numbers: list[int], asked: Asked, progress: Progress
) -> list[list[Row]]:
    """The columns of `n` completions of each row's prompt (rows x n).

    Args:
        engine: what generates.
        rows: with `prompt` and `source`.
        numbers: of the rows in their dataset, on which their randomness rests.
        asked: how.
        progress: gets the completions as they come.
    """
    prompts, completions = _present(rows, numbers, asked)
    sampled_PN = engine.generate(
        list(prompts.values()), asked.n, asked.sampling, rows=[numbers[i] for i in prompts], done=progress.add
    )
    completions |= dict(zip(prompts, sampled_PN, strict=True))
    seed = asked.sampling.seed
    return [
        [_columns(row, numbers[i], k, completions[i][k], seed) | {"model": engine.model} for k in range(asked.n)]
        for i, row in enumerate(rows)
    ]


def _present(
    rows: list[Row], numbers: list[int], asked: Asked
) -> tuple[dict[int, str | Messages], dict[int, list[registry.Completion]]]:
    """The prompts as the model reads them, and the refusals of those that cannot be read, both by their place."""
    prompts: dict[int, str | Messages] = {}
    refused: dict[int, list[registry.Completion]] = {}
    for i, (row, number) in enumerate(zip(rows, numbers, strict=True)):
        try:
            if not row["prompt"]:
                raise RecipeError("the prompt is empty")
            how = PROMPTS[asked.prompt]
            prompts[i] = presenting.present_prompt(row["prompt"], how, asked.system_prompt, row["source"], number)
        except RecipeError as error:
            refused[i] = [registry.make_refusal(str(error))] * asked.n
    return prompts, refused


def _columns(row: Row, number: int, k: int, completion: registry.Completion, seed: int) -> Row:
    text = completion.text
    return {
        "prompt_id": hash_prompt(row["prompt"] or f"row {number}"),
        "row": number,
        "sample": k,
        # A server may send half of a surrogate pair, which no file can hold.
        "completion": None if text is None else text.encode("utf-8", "replace").decode(),
        "tokens": completion.tokens,
        "finish_reason": completion.finish_reason,
        "refused": completion.refused,
        "seed": registry.derive_seed(seed, number, k),
    }


def _record(directory: Path, number: int, completions: int, tokens: int, progress: Progress) -> None:
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


def measure_speed(directory: Path) -> float | None:
    """Tokens per second of one process, in the mean over all that took part; loading the model does not count."""
    log = directory / "shards.jsonl"
    elapsed: dict[str, float] = {}
    tokens = 0
    for line in read_jsonl(log) if log.is_file() else []:
        elapsed[line["process"]] = max(line["elapsed"], elapsed.get(line["process"], 0.0))
        tokens += line["tokens"]
    seconds = sum(elapsed.values())
    return round(tokens / seconds, 1) if seconds else None
