"""Present rows for training: from sources to the columns that a trainer reads, with prompts as the model sees them.

The rows of a source are loaded, renamed, filled from templates, extracted, filtered, presented, and mixed.
"""

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
    """Load and mix all sources, with the columns that the trainer of `task` reads.

    Args:
        sources: the recipe's `datasets`, `eval_datasets` or `evaluation.datasets`.
        task: sft, grpo, rloo, dpo or reward.
        data: how prompts are presented, and whether rows are streamed.
        seed: seed of the mixture and of sources that are functions.
        rewards: rewards of the recipe; a row must have the columns of those that apply to its kind.

    Raises:
        RecipeError: a file or column is missing, a row is malformed or empty, or a source has no rows.
    """
    parts = [load_presented(source, i, task, data, seed, rewards or []) for i, source in enumerate(sources)]
    if len(parts) == 1:
        return parts[0]
    names = [list_columns(part) for part in parts]
    if task in ("dpo", "reward") and len({"prompt" in own for own in names}) > 1:
        raise RecipeError(
            "datasets: some sources have a column `prompt`, others only repeat the prompt in both answers; mixed, the "
            "first would lose theirs. Name the others' prompts with `columns`, or use a version that has them"
        )
    # A mixture keeps the columns that all sources have, and those that rewards of one kind of rows use.
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
        # Every row of every source is drawn at least once; smaller sources repeat.
        return datasets.interleave_datasets(kept, probabilities=shares, seed=seed, stopping_strategy="all_exhausted")
    except (ValueError, TypeError, pyarrow.ArrowInvalid) as error:
        raise RecipeError(
            f"datasets: the sources cannot be mixed, because a column has different types in them: {error}"
        ) from error


def load_eval_datasets(recipe: Recipe, rewards: list[RewardConfig] | None = None) -> Rows | None:
    """Rows for the trainer's evaluation loop; None without `eval_datasets`."""
    sources = recipe.data.eval_datasets
    return load_datasets(sources, recipe.task, recipe.data, recipe.args.seed, rewards) if sources else None


def load_presented(
    source: DatasetConfig, index: int, task: str, data: DataConfig, seed: int, rewards: list[RewardConfig]
) -> Rows:
    """Load one source, with the columns that the trainer of `task` reads."""
    at = f"datasets.{index} ({source.path})"
    rows = load_named_columns(source, at, seed, data.streaming)
    have = [*list_columns(rows), *source.template]
    if source.kind is not None and "kind" in have:
        rows, have = rows.remove_columns("kind"), [c for c in have if c != "kind"]
    if source.kind is None and "kind" not in have and any(reward.kinds for reward in rewards):
        raise RecipeError(
            f"{at}: some rewards apply to certain `kinds` of rows, and these rows have no kind; add e.g. `kind: math`"
        )

    require_columns([*source.extract, *source.filters, *list_needed_columns(rewards, source.kind)], have, at)
    layout = find_layout(task, have, at)
    if source.filters:
        rows = rows.filter(build_row_filter(source.filters, at))
    if source.rows is not None:
        rows = rows.take(source.rows)
    rows = rows.map(_build_presenter(source, at, layout, data, rewards), with_indices=True)
    if isinstance(rows, datasets.Dataset) and not len(rows):
        raise RecipeError(f"{at}: no rows" + (" are left after the filters" if source.filters else ""))
    if task not in RL_TASKS:
        # Columns that the trainer does not read must not reach its collator.
        rows = rows.select_columns(list(layout))
    return rows


def _build_presenter(
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
                new[column] = _add_system_prompt(parse_messages(value, at, i), data.system_prompt)
            elif column in ("completion", "chosen", "rejected"):
                messages = parse_messages(value, at, i)
                new[column] = messages[-1]["content"] if prompt.plain else messages
        shared = [] if prompt.plain or not {"prompt", "chosen"} <= new.keys() else _find_shared_prompt(new)
        if shared:
            new["prompt"] = present_prompt(shared, prompt, data.system_prompt, at, i)
            new |= {side: new[side][len(shared) :] for side in ("chosen", "rejected")}
        return new

    return present


def present_prompt(value: Any, prompt: Prompt, system_prompt: str | None, at: str, i: int) -> str | Messages:
    """Present a question or conversation as the model sees it.

    Args:
        value: a question, or messages.
        prompt: the presentation of `prompts.PROMPTS`; it applies to a single question.
        system_prompt: put before the messages if they do not begin with a system message.
        at: the source, for error messages.
        i: number of the row.

    Raises:
        RecipeError: a plain prompt gets a conversation, or the messages are malformed.
    """
    if isinstance(value, str):
        return prompt.present(value, system_prompt)
    messages = parse_messages(value, at, i)
    if [message["role"] for message in messages] == ["user"]:
        return prompt.present(messages[0]["content"], system_prompt)
    if prompt.plain:
        raise RecipeError(f"{at}, row {i}: a plain prompt takes one question, and this is a conversation: {messages}")
    return _add_system_prompt(messages, system_prompt)


def _find_shared_prompt(pair: dict[str, Any]) -> Messages:
    """The messages that both sides of a preference pair repeat before their answers; empty if there are none."""
    both = zip(pair["chosen"][:-1], pair["rejected"][:-1], strict=False)
    shared = [message for message, _ in takewhile(lambda pair: pair[0] == pair[1], both)]
    return shared if shared and shared[0]["role"] != "assistant" else []


def _add_system_prompt(messages: Messages, system_prompt: str | None) -> Messages:
    if system_prompt is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system_prompt}, *messages]
