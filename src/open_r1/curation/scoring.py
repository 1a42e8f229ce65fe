"""Samples judged by the scorers of training: the expensive part of a selection, in files that survive a kill."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

import datasets
import numpy as np

from .. import models
from ..config.recipe import Recipe
from ..config.schema import DatasetConfig
from ..data.columns import MESSAGES, TEXT, parse_messages
from ..data.rows import StoredRows
from ..data.shards import Shards, write_file
from ..errors import RecipeError
from ..prompts import Messages, hash_prompt
from ..rewards import registry
from ..rewards.registry import RewardConfig
from ..rewards.scoring import ScoredBatch, pick_gravest, read_score
from ..run.run import Run
from ..system.progress import format_duration
from .rejection_sampling import find_row_problem

Row = dict[str, Any]

READ_ROWS = 256  # rows of a source held at once; a list of completions makes each of them many
JUDGED_ROWS = 512  # samples judged at once, and the rest of the last one's group
INTEGERS = ("row", "sample", "seed", "tokens")
# A row with a list of completions may have a list of these beside it.
PER_SAMPLE = ("sample", "seed", "tokens", "model", "finish_reason", "refused")
OUTCOMES = ("correct", "wrong", "unknown", "error", "")


def check_sources(recipe: Recipe, rows: StoredRows) -> None:
    """Refuse sources that lack, in all of their rows, what the rewards read.

    Raises:
        RecipeError: naming the source, the column and what to do.
    """
    counted = recipe.data.tokenizer_name_or_path is not None
    for i, (source, part) in enumerate(rows.parts):
        have = {*part.column_names, *source.template, *source.extract, "source"}
        have |= ({"kind"} if source.kind is not None else set()) | ({"tokens"} if counted else set())
        at = f"datasets.{i} ({source.path})"
        if "kind" not in have and any(reward.kinds for reward in recipe.run.rewards):
            raise RecipeError(
                f"{at}: some rewards are for `kinds` of rows, and these have none; add e.g. `kind: math`"
            )
        for reward in recipe.run.rewards:
            applies = reward.kinds is None or (source.kind is not None and reward.applies(source.kind))
            missing = [column for column in needs(reward) if column not in have]
            if applies and missing:
                raise RecipeError(
                    f"{at}: {reward.metric} needs the column {missing[0]!r}; {_advice(missing[0], have)}"
                )


def _advice(column: str, have: set[str]) -> str:
    if column == "tokens":
        return "set `tokenizer_name_or_path` to have tokens counted"
    return f"it has {', '.join(sorted(have))}. Name its source with `columns: {{{column}: <their name>}}`"


def needs(reward: RewardConfig) -> list[str]:
    """What a row must have for a reward to score its completion."""
    wanted = registry.read_signature(registry.find_reward(reward.name))
    return [*wanted.columns, *(["tokens"] if "tokens" in wanted.context else [])]


def build_features(rows: StoredRows, recipe: Recipe) -> datasets.Features:
    """Columns of the judged rows: those of the sources, one completion each, and what the judges said."""
    features = dict(rows.features)
    for column in {*PER_SAMPLE, "row"} & features.keys():
        features[column] = datasets.Value("int64") if column in INTEGERS else TEXT
    if features.pop("messages", None) is not None and any(holds_conversations(s, part) for s, part in rows.parts):
        features["prompt"] = MESSAGES
    integer = datasets.Value("int64")
    features |= {"prompt_id": TEXT, "row": integer, "sample": integer, "completion": TEXT, "refused": TEXT}
    if recipe.data.tokenizer_name_or_path is not None:
        features["tokens"] = integer
    features |= {"verdict": TEXT, "reason": TEXT}
    if recipe.run.rewards:
        features["scores"] = {reward.metric: datasets.Value("float64") for reward in recipe.run.rewards}
    return datasets.Features(features)


def holds_conversations(source: DatasetConfig, part: datasets.Dataset) -> bool:
    """True if a source's samples are its conversations, whether or not a prompt stands beside them."""
    have = {*part.column_names, *source.template}
    return not {"prompt", "completion"} <= have


def score_files(this: Run, rows: StoredRows, files: Shards, todo: list[int]) -> None:
    """Write the files of judged rows that are missing.

    Raises:
        RecipeError: the judges themselves failed on too many rows of a file, which is not written.
    """
    recipe = this.recipe
    judged = partial(judged_batch, scored=ScoredBatch(recipe.run.rewards), count=build_token_counter(recipe))
    features, began = build_features(rows, recipe), time.monotonic()
    done = 0
    for position, number in enumerate(todo, start=1):
        batches = judged_rows(rows, files.range(number), features, judged, recipe.run.max_error_share)
        done += write_file(files.path(number), batches, features)
        seconds = time.monotonic() - began
        left = (
            f", about {format_duration(seconds / position * (len(todo) - position))} left"
            if position < len(todo)
            else ""
        )
        this.say(f"judged {done:,} samples, file {position} of {len(todo)}{left}")


def build_token_counter(recipe: Recipe) -> Callable[[list[str]], list[int]] | None:
    """Counts tokens by the recipe's tokenizer, if it names one."""
    if recipe.data.tokenizer_name_or_path is None:
        return None
    tokenizer = models.load_named_tokenizer(recipe.data.tokenizer_name_or_path)
    return lambda texts: [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def judged_rows(
    rows: StoredRows,
    span: range,
    features: datasets.Features,
    judged: Callable[[list[Row]], list[Row]],
    max_error_share: float,
) -> Iterator[list[Row]]:
    """The samples of the prompts that begin in `span`, judged, batch by batch; a prompt's neighbours stay together.

    Raises:
        RecipeError: verdicts `error` on more than `max_error_share` of them.
    """
    start, stop = first_of_prompt(rows, span.start), first_of_prompt(rows, span.stop)
    conversations = features["prompt"] == MESSAGES
    samples = (
        sample
        for first in range(start, stop, READ_ROWS)
        for row, number in _numbered(rows, first, min(first + READ_ROWS, stop))
        for sample in samples_of(row, number, conversations)
    )
    seen, errors = 0, Counter[str]()
    batch: list[Row] = []
    for _, group in groupby(samples, key=itemgetter("prompt_id")):
        batch += group
        if len(batch) >= JUDGED_ROWS:
            seen += len(batch)
            yield _watched(judged(batch), errors, max(seen, stop - start), max_error_share)
            batch = []
    if batch:
        seen += len(batch)
        yield _watched(judged(batch), errors, seen, max_error_share)
    _refuse(errors, seen, max_error_share)


def _numbered(rows: StoredRows, start: int, stop: int) -> Iterator[tuple[Row, int]]:
    """Rows with their numbers; of a source of conversations without a prompt that only repeats how they begin."""
    whole = [holds_conversations(source, part) for source, part in rows.parts]
    numbers = rows.numbers(start, stop)
    of_source = np.searchsorted(rows.ends, numbers, side="right").tolist()
    for row, number, i in zip(rows.slice(start, stop), numbers.tolist(), of_source, strict=True):
        yield row | ({"prompt": None, "completion": None} if whole[i] else {}), number


def _watched(batch: list[Row], errors: Counter[str], expected: int, max_error_share: float) -> list[Row]:
    """A batch whose errors are counted; too many of `expected` samples stop the run without waiting for the rest."""
    errors.update(row["reason"] for row in batch if row["verdict"] == "error")
    _refuse(errors, expected, max_error_share)
    return batch


def _refuse(errors: Counter[str], samples: int, max_error_share: float) -> None:
    if errors.total() > max_error_share * samples:
        reason, times = errors.most_common(1)[0]
        raise RecipeError(
            f"rewards: the judge itself failed on {errors.total()} of {samples} samples, more than max_error_share: "
            f"{max_error_share:g} allows. {times} times: {reason}. What was judged before is kept; once the cause is "
            "gone, the same command goes on"
        )


def first_of_prompt(rows: StoredRows, position: int) -> int:
    """The first position from this one on whose row has another prompt than the row before it."""
    if position == 0:
        return 0
    before = _prompt_of(rows.slice(position - 1, position)[0])
    while position < len(rows):
        for row in rows.slice(position, min(position + READ_ROWS, len(rows))):
            if _prompt_of(row) != before:
                return position
            position += 1
    return position


def _prompt_of(row: Row) -> Any:
    return row.get("prompt_id") or (row["prompt"] if row.get("prompt") else (row.get("messages") or [])[:-1])


def samples_of(row: Row, number: int, conversations: bool) -> list[Row]:
    """A row as one sample, or as one for each of its completions.

    Args:
        row: of a source.
        number: its position in the sources.
        conversations: prompts are messages, also where the row has a text.

    Returns:
        Rows with `prompt_id`, `row`, `sample`, `prompt`, `completion` (None if there is none) and `refused` (why).
    """
    refused = row.get("refused")
    try:
        prompt, completions = taken_apart(row)
    except RecipeError as error:
        prompt = row["prompt"] if isinstance(row.get("prompt"), str) else ""
        completions, refused = [None], f"malformed messages: {error}"
    if conversations and isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}] if prompt else []
    # Rows without a prompt have nothing in common: each is a group of its own.
    name = str(row.get("prompt_id") or hash_prompt(prompt or f"row {number}"))
    several = isinstance(row.get("completion"), list) and len(completions) == len(row["completion"])
    rest = {column: value for column, value in row.items() if column != "messages"}
    samples = []
    for k, completion in enumerate(completions):
        own = {
            column: _own(row[column], k, len(completions) if several else 0) for column in PER_SAMPLE if column in row
        }
        own |= {column: _integer(own.get(column)) for column in INTEGERS if column in row}
        own["sample"] = k if own.get("sample") is None or several else own["sample"]
        place = _integer(row.get("row"))
        own["row"] = number if place is None else place
        own["refused"] = refused if isinstance(refused, str) else own.get("refused")
        samples.append(rest | own | {"prompt_id": name, "prompt": prompt, "completion": completion})
    return samples


def _own(value: Any, k: int, count: int) -> Any:
    """A sample's part of a list with one value for each completion; another list says nothing of one sample."""
    if not isinstance(value, list):
        return value
    return value[k] if k < len(value) == count else None


def _integer(value: Any) -> int | None:
    # A column with gaps may come as numbers with a point.
    return int(value) if isinstance(value, int) or (isinstance(value, float) and value.is_integer()) else None


def taken_apart(row: Row) -> tuple[str | Messages, list[str | None]]:
    """Prompt and completions of a row, whichever layout it has.

    Raises:
        RecipeError: messages without a role or a text, or that do not end with the assistant's.
    """
    prompt, completion = row.get("prompt"), row.get("completion")
    for name, value in (("prompt", prompt), ("completion", completion)):
        if value is not None and not isinstance(value, str | list | dict):
            raise RecipeError(f"{name} is {type(value).__name__}, not a text or messages")
    if prompt is None and completion is None and row.get("messages"):
        *asked, answer = parse_messages(row["messages"])
        if answer["role"] != "assistant":
            raise RecipeError("the conversation does not end with the assistant's message")
        return asked, [answer["content"]]
    if prompt and not isinstance(prompt, str):
        prompt = parse_messages(prompt)
    if isinstance(completion, list) and completion and not isinstance(completion[0], dict):
        return prompt or "", [text if isinstance(text, str) else None for text in completion]
    if completion and not isinstance(completion, str):
        completion = parse_messages(completion)[-1]["content"]
    return prompt or "", [completion or None]


def judged_batch(batch: list[Row], scored: ScoredBatch, count: Callable[[list[str]], list[int]] | None) -> list[Row]:
    """Samples with what the judges say of them: `verdict`, `reason`, and `scores` by metric.

    Without rewards, samples that were judged before keep what was said of them.
    """
    if count is not None:
        uncounted = [row for row in batch if row.get("tokens") is None and row["completion"]]
        for row, tokens in zip(uncounted, count([row["completion"] for row in uncounted]), strict=True):
            row["tokens"] = tokens
    problems = [find_row_problem(row) or _lacks(row, scored.rewards) for row in batch]
    for row, told in zip(batch, problems, strict=True):
        if told is not None:
            row |= {"verdict": "unknown", "reason": told, "scores": None}
    asked = [row for row, told in zip(batch, problems, strict=True) if told is None]
    if not scored.rewards:
        for row in asked:
            known = row.get("verdict") if row.get("verdict") in OUTCOMES else None
            row |= {"verdict": known or "", "reason": str(row.get("reason") or "") if known else ""}
    elif asked:
        columns = {column: [row.get(column) for row in asked] for column in {c for row in asked for c in row}}
        completions = columns.pop("completion")
        for row, results_R in zip(asked, zip(*scored.results(completions, columns), strict=True), strict=True):
            verdict = pick_gravest(results_R)
            row["verdict"] = "" if verdict is None else verdict.outcome
            row["reason"] = "" if verdict is None else verdict.reason
            row["scores"] = {r.metric: read_score(result) for r, result in zip(scored.rewards, results_R, strict=True)}
    return batch


def _lacks(row: Row, entries: list[RewardConfig]) -> str | None:
    """What a reward that applies to the row would miss."""
    for reward in entries:
        if reward.applies(row.get("kind")):
            for column in needs(reward):
                value = row.get(column)
                if value is None or (isinstance(value, str | list | dict) and not value):
                    return f"{reward.metric} needs {column}, which the row leaves empty"
    return None
