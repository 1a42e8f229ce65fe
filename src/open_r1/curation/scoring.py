"""Scores samples with the scorers of training, the expensive part of a selection, and writes them to files."""

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
from .funnel import Row
from .rejection_sampling import find_row_problem

READ_ROWS = 256  # rows of a source read at once; each may hold many completions
JUDGED_ROWS = 512  # least number of samples scored at once, but for the last ones
INTEGERS = ("row", "sample", "seed", "tokens")
# A row with a list of completions may have lists of these columns too.
PER_SAMPLE = ("sample", "seed", "tokens", "model", "finish_reason", "refused")
OUTCOMES = ("correct", "wrong", "unknown", "error", "")


def check_sources(recipe: Recipe, rows: StoredRows) -> None:
    """Check that each source has the columns that the rewards read.

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
            missing = [column for column in list_needed(reward) if column not in have]
            if applies and missing:
                raise RecipeError(
                    f"{at}: {reward.metric} needs the column {missing[0]!r}; {_advise(missing[0], have)}"
                )


def _advise(column: str, have: set[str]) -> str:
    if column == "tokens":
        return "set `tokenizer_name_or_path` to have tokens counted"
    return f"it has {', '.join(sorted(have))}. Name its source with `columns: {{{column}: <their name>}}`"


def list_needed(reward: RewardConfig) -> list[str]:
    """Columns that a reward needs to score a completion."""
    wanted = registry.read_signature(registry.find_reward(reward.name))
    return [*wanted.columns, *(["tokens"] if "tokens" in wanted.context else [])]


def build_features(rows: StoredRows, recipe: Recipe) -> datasets.Features:
    """Features of the judged rows: the sources' columns, one completion, and its verdict, reason and scores."""
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
    """True if a source's samples are its conversations, with or without a column `prompt`."""
    have = {*part.column_names, *source.template}
    return not {"prompt", "completion"} <= have


def score_files(run: Run, rows: StoredRows, files: Shards, todo: list[int]) -> None:
    """Score samples and write the files `todo`.

    Raises:
        RecipeError: the verifiers themselves failed on too many samples of a file, which is not written.
    """
    recipe = run.recipe
    score = partial(score_batch, scored=ScoredBatch(recipe.run.rewards), count=build_token_counter(recipe))
    features, began = build_features(rows, recipe), time.monotonic()
    done = 0
    for position, number in enumerate(todo, start=1):
        batches = score_rows(rows, files.range(number), features, score, recipe.run.max_error_share)
        done += write_file(files.path(number), batches, features)
        left = (time.monotonic() - began) / position * (len(todo) - position)
        left = f", about {format_duration(left)} left" if left else ""
        run.say(f"judged {done:,} samples, file {position} of {len(todo)}{left}")


def build_token_counter(recipe: Recipe) -> Callable[[list[str]], list[int]] | None:
    """The function that counts tokens with the recipe's tokenizer; None if the recipe names none."""
    if recipe.data.tokenizer_name_or_path is None:
        return None
    tokenizer = models.load_named_tokenizer(recipe.data.tokenizer_name_or_path)
    return lambda texts: [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def score_rows(
    rows: StoredRows,
    span: range,
    features: datasets.Features,
    score: Callable[[list[Row]], list[Row]],
    max_error_share: float,
) -> Iterator[list[Row]]:
    """Score the prompts whose first row lies in `span`. A batch holds all samples of its prompts.

    Raises:
        RecipeError: more than `max_error_share` of the verdicts are `error`.
    """
    start, stop = find_prompt_start(rows, span.start), find_prompt_start(rows, span.stop)
    conversations = features["prompt"] == MESSAGES
    samples = (
        sample
        for first in range(start, stop, READ_ROWS)
        for row, number in _read_numbered(rows, first, min(first + READ_ROWS, stop))
        for sample in split_samples(row, number, conversations)
    )
    seen, errors = 0, Counter[str]()
    for batch in _batch_prompts(samples):
        seen += len(batch)
        scored = score(batch)
        errors.update(row["reason"] for row in scored if row["verdict"] == "error")
        # Too many errors for the whole span stop the run at once.
        _check_errors(errors, max(seen, stop - start), max_error_share)
        yield scored
    _check_errors(errors, seen, max_error_share)


def _batch_prompts(samples: Iterator[Row]) -> Iterator[list[Row]]:
    """Batches of at least JUDGED_ROWS samples that keep neighbouring samples of one prompt together."""
    batch: list[Row] = []
    for _, group in groupby(samples, key=itemgetter("prompt_id")):
        batch += group
        if len(batch) >= JUDGED_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _read_numbered(rows: StoredRows, start: int, stop: int) -> Iterator[tuple[Row, int]]:
    """Rows with their numbers; rows of conversations lose a prompt, which would only repeat their first messages."""
    whole = [holds_conversations(source, part) for source, part in rows.parts]
    numbers = rows.numbers(start, stop)
    of_source = np.searchsorted(rows.ends, numbers, side="right").tolist()
    for row, number, i in zip(rows.slice(start, stop), numbers.tolist(), of_source, strict=True):
        yield row | ({"prompt": None, "completion": None} if whole[i] else {}), number


def _check_errors(errors: Counter[str], samples: int, max_error_share: float) -> None:
    if errors.total() > max_error_share * samples:
        reason, times = errors.most_common(1)[0]
        raise RecipeError(
            f"rewards: the judge itself failed on {errors.total()} of {samples} samples, more than max_error_share: "
            f"{max_error_share:g} allows. {times} times: {reason}. What was judged before is kept; once the cause is "
            "gone, run the same command again to continue"
        )


def find_prompt_start(rows: StoredRows, position: int) -> int:
    """The first position, from this one on, at which a new prompt begins."""
    if position == 0:
        return 0
    before = _identify_prompt(rows.slice(position - 1, position)[0])
    while position < len(rows):
        for row in rows.slice(position, min(position + READ_ROWS, len(rows))):
            if _identify_prompt(row) != before:
                return position
            position += 1
    return position


def _identify_prompt(row: Row) -> Any:
    return row.get("prompt_id") or (row["prompt"] if row.get("prompt") else (row.get("messages") or [])[:-1])


def split_samples(row: Row, number: int, conversations: bool) -> list[Row]:
    """Split a row into samples, one for each of its completions.

    Args:
        row: row of a source.
        number: its number in the sources.
        conversations: turn a text prompt into a user message.

    Returns:
        Rows with `prompt_id`, `row`, `sample`, `prompt`, `completion` (or None) and `refused` (a reason, or None).
    """
    refused = row.get("refused")
    try:
        prompt, completions = split_row(row)
    except RecipeError as error:
        prompt = row["prompt"] if isinstance(row.get("prompt"), str) else ""
        completions, refused = [None], f"malformed messages: {error}"
    if conversations and isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}] if prompt else []
    # Each row without a prompt is a group by itself.
    name = str(row.get("prompt_id") or hash_prompt(prompt or f"row {number}"))
    several = isinstance(row.get("completion"), list) and len(completions) == len(row["completion"])
    rest = {column: value for column, value in row.items() if column != "messages"}
    samples = []
    for k, completion in enumerate(completions):
        own = {
            column: _pick(row[column], k, len(completions) if several else 0) for column in PER_SAMPLE if column in row
        }
        own |= {column: _integer(own.get(column)) for column in INTEGERS if column in row}
        own["sample"] = k if own.get("sample") is None or several else own["sample"]
        place = _integer(row.get("row"))
        own["row"] = number if place is None else place
        own["refused"] = refused if isinstance(refused, str) else own.get("refused")
        samples.append(rest | own | {"prompt_id": name, "prompt": prompt, "completion": completion})
    return samples


def _pick(value: Any, k: int, count: int) -> Any:
    """Sample k's value in a list with `count` values; None for a list of another length."""
    if not isinstance(value, list):
        return value
    return value[k] if k < len(value) == count else None


def _integer(value: Any) -> int | None:
    # A column with missing values may hold floats.
    return int(value) if isinstance(value, int) or (isinstance(value, float) and value.is_integer()) else None


def split_row(row: Row) -> tuple[str | Messages, list[str | None]]:
    """The prompt and the completions of a row, in any of the layouts.

    Raises:
        RecipeError: a message has no role or no text, or the last one is not the assistant's.
    """
    prompt, completion = row.get("prompt"), row.get("completion")
    for name, value in (("prompt", prompt), ("completion", completion)):
        if value is not None and not isinstance(value, str | list | dict):
            raise RecipeError(f"{name} is {type(value).__name__}, not a text or messages")
    if prompt is None and completion is None and row.get("messages"):
        *question, answer = parse_messages(row["messages"])
        if answer["role"] != "assistant":
            raise RecipeError("the conversation does not end with the assistant's message")
        return question, [answer["content"]]
    if prompt and not isinstance(prompt, str):
        prompt = parse_messages(prompt)
    if isinstance(completion, list) and completion and not isinstance(completion[0], dict):
        return prompt or "", [text if isinstance(text, str) else None for text in completion]
    if completion and not isinstance(completion, str):
        completion = parse_messages(completion)[-1]["content"]
    return prompt or "", [completion or None]


def score_batch(batch: list[Row], scored: ScoredBatch, count: Callable[[list[str]], list[int]] | None) -> list[Row]:
    """Add `verdict`, `reason` and `scores` (by metric) to samples.

    Without rewards, samples that already have a verdict keep it.
    """
    if count is not None:
        uncounted = [row for row in batch if row.get("tokens") is None and row["completion"]]
        for row, tokens in zip(uncounted, count([row["completion"] for row in uncounted]), strict=True):
            row["tokens"] = tokens
    valid = []
    for row in batch:
        problem = find_row_problem(row) or _find_missing(row, scored.rewards)
        if problem is None:
            valid.append(row)
        else:
            row |= {"verdict": "unknown", "reason": problem, "scores": None}
    if not scored.rewards:
        for row in valid:
            known = row.get("verdict") if row.get("verdict") in OUTCOMES else None
            row |= {"verdict": known or "", "reason": str(row.get("reason") or "") if known else ""}
    elif valid:
        columns = {column: [row.get(column) for row in valid] for column in {c for row in valid for c in row}}
        completions = columns.pop("completion")
        for row, results_R in zip(valid, zip(*scored.results(completions, columns), strict=True), strict=True):
            verdict = pick_gravest(results_R)
            row["verdict"] = "" if verdict is None else verdict.outcome
            row["reason"] = "" if verdict is None else verdict.reason
            row["scores"] = {r.metric: read_score(result) for r, result in zip(scored.rewards, results_R, strict=True)}
    return batch


def _find_missing(row: Row, rewards: list[RewardConfig]) -> str | None:
    """The reason if a reward needs a column that this row leaves empty."""
    for reward in rewards:
        if reward.applies(row.get("kind")):
            for column in list_needed(reward):
                value = row.get(column)
                if value is None or (isinstance(value, str | list | dict) and not value):
                    return f"{reward.metric} needs {column}, which the row leaves empty"
    return None
