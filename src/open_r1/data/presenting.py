"""Training rows as the model sees them: prompt, solution and messages columns."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import takewhile
from typing import Any

import datasets
import pyarrow

from ..config.recipe import Recipe
from ..config.schema import RL_TASKS, DataConfig, DatasetConfig
from ..errors import RecipeError
from ..prompts import PROMPTS, Messages, Prompt
from ..rewards.registry import RewardConfig, list_needed_columns, list_used_columns
from .columns import (
    Rows,
    build_row_filter,
    extract_columns,
    fill_template,
    find_layout,
    list_columns,
    parse_messages,
    require_columns,
)
from .sources import load_named_columns


def load_datasets(
    sources: list[DatasetConfig], task: str, data: DataConfig, seed: int, rewards: list[RewardConfig] | None = None
) -> Rows:
    """The mixture of all sources in the columns of `task`.

    Args:
        sources: the recipe's `datasets`, `eval_datasets` or `evaluation.datasets`.
        task: sft, grpo, rloo, dpo or reward.
        data: how prompts are presented, and whether to stream.
        seed: of the mixture and of sources that are functions.
        rewards: of the recipe; a row must have the columns of those that apply to its kind.

    Raises:
        RecipeError: missing file or column, malformed or empty row, empty source.
    """
    parts = [prepare(source, i, task, data, seed, rewards or []) for i, source in enumerate(sources)]
    if len(parts) == 1:
        return parts[0]
    names = [list_columns(part) for part in parts]
    if task in ("dpo", "reward") and len({"prompt" in own for own in names}) > 1:
        raise RecipeError(
            "datasets: some of these pairs have a `prompt`, some only repeat it in both answers, and in a mixture the "
            "first would lose it; name the others' with `columns`, or take a version that has one"
        )
    # Kept are the columns of all sources, and those that only rows of one kind have: others are None there.
    wanted = list_used_columns(rewards or []) | {"reference"}
    if any(reward.kinds for reward in rewards or []):
        wanted.add("kind")
    kept = [
        part.select_columns([c for c in own if c in wanted or all(c in other for other in names)])
        for part, own in zip(parts, names, strict=True)
    ]
    try:
        if sources[0].weight is None:
            return datasets.concatenate_datasets(kept)
        total = sum(source.weight or 0.0 for source in sources)
        shares = [(source.weight or 0.0) / total for source in sources]
        # Every row of every source is seen at least once; the smaller ones repeat.
        return datasets.interleave_datasets(kept, probabilities=shares, seed=seed, stopping_strategy="all_exhausted")
    except (ValueError, TypeError, pyarrow.ArrowInvalid) as error:
        raise RecipeError(
            f"datasets: the sources cannot be mixed, because a column has not the same type in all of them: {error}"
        ) from error


def load_eval_datasets(recipe: Recipe, rewards: list[RewardConfig] | None = None) -> Rows | None:
    """Rows for the trainer's own evaluation loop; None without `eval_datasets`."""
    sources = recipe.data.eval_datasets
    return load_datasets(sources, recipe.task, recipe.data, recipe.args.seed, rewards) if sources else None


def prepare(
    source: DatasetConfig, index: int, task: str, data: DataConfig, seed: int, rewards: list[RewardConfig]
) -> Rows:
    """One source, loaded and brought into the columns of `task`."""
    at = f"datasets.{index} ({source.path})"
    rows = load_named_columns(source, at, seed, data.streaming)
    have = [*list_columns(rows), *source.template]
    if source.kind is not None and "kind" in have:
        rows, have = rows.remove_columns("kind"), [c for c in have if c != "kind"]
    if source.kind is None and "kind" not in have and any(reward.kinds for reward in rewards):
        raise RecipeError(
            f"{at}: some rewards apply to `kinds` of rows only, and these rows have none; add e.g. `kind: math`"
        )

    require_columns([*source.extract, *source.filters, *list_needed_columns(rewards, source.kind)], have, at)
    layout = find_layout(task, have, at)
    if source.filters:
        rows = rows.filter(build_row_filter(source.filters, at))
    if source.rows is not None:
        rows = rows.take(source.rows)
    rows = rows.map(_presenter(source, at, layout, data, rewards), with_indices=True)
    if isinstance(rows, datasets.Dataset) and not len(rows):
        raise RecipeError(f"{at}: no rows" + (" are left after the filters" if source.filters else ""))
    if task not in RL_TASKS:
        # What the trainer does not read must not reach its collator.
        rows = rows.select_columns(list(layout))
    return rows


def _presenter(
    source: DatasetConfig, at: str, layout: tuple[str, ...], data: DataConfig, rewards: list[RewardConfig]
) -> Callable[[dict[str, Any], int], dict[str, Any]]:
    prompt = PROMPTS[data.prompt]
    needed = cache(lambda kind: list_needed_columns(rewards, kind))

    def present(row: dict[str, Any], i: int) -> dict[str, Any]:
        new: dict[str, Any] = {column: fill_template(text, row, at, i) for column, text in source.template.items()}
        new |= extract_columns(source.extract, row | new, at, i)
        kind = source.kind if source.kind is not None else row.get("kind")
        if source.kind is not None:
            new["kind"] = kind
        for column in dict.fromkeys([*layout, *needed(kind)]):
            value = new.get(column, row.get(column))
            if value is None or (isinstance(value, str | list | dict) and not value):
                raise RecipeError(f"{at}, row {i}: {column!r} is empty")
            if column == "prompt":
                new[column] = present_prompt(value, prompt, data.system_prompt, at, i)
            elif column == "messages":
                new[column] = _with_system(parse_messages(value, at, i), data.system_prompt)
            elif column in ("completion", "chosen", "rejected"):
                messages = parse_messages(value, at, i)
                new[column] = messages[-1]["content"] if prompt.plain else messages
        repeated = [] if prompt.plain or not {"prompt", "chosen"} <= new.keys() else _asked(new)
        if repeated:
            new["prompt"] = present_prompt(repeated, prompt, data.system_prompt, at, i)
            new |= {side: new[side][len(repeated) :] for side in ("chosen", "rejected")}
        return new

    return present


def present_prompt(value: Any, prompt: Prompt, system_prompt: str | None, at: str, i: int) -> str | Messages:
    if isinstance(value, str):
        return prompt.present(value, system_prompt)
    messages = parse_messages(value, at, i)
    if [message["role"] for message in messages] == ["user"]:
        return prompt.present(messages[0]["content"], system_prompt)
    if prompt.plain:
        raise RecipeError(f"{at}, row {i}: a plain prompt takes one question, and this is a conversation: {messages}")
    return _with_system(messages, system_prompt)


def _asked(pair: dict[str, Any]) -> Messages:
    """The conversation that both sides of a preference pair repeat before their answers; empty if they do not."""
    both = zip(pair["chosen"][:-1], pair["rejected"][:-1], strict=False)
    shared = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], both)]
    return shared if shared and shared[0]["role"] != "assistant" else []


def _with_system(messages: Messages, system_prompt: str | None) -> Messages:
    if system_prompt is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system_prompt}, *messages]
