"""From the recipe's `datasets` to the columns a trainer reads.

Rows pass through: load, select columns, extract, filter, present (prompt and chat messages), mix. Whatever is missing
or malformed stops the run and names the source and the row.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import pyarrow

from .configs import DataConfig, DatasetConfig, Recipe
from .errors import RecipeError
from .prompts import PROMPTS, Messages, Prompt
from .rewards import RewardConfig, columns_needed, columns_used

Rows = datasets.Dataset | datasets.IterableDataset

BUILDERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv"}
# Column layouts that each task's trainer reads; the first that the source has is used.
LAYOUTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "grpo": (("prompt",),),
    "sft": (("messages",), ("prompt", "completion"), ("text",)),
    "dpo": (("prompt", "chosen", "rejected"), ("chosen", "rejected")),
    "reward": (("prompt", "chosen", "rejected"), ("chosen", "rejected")),
}


def load_datasets(
    sources: list[DatasetConfig], task: str, data: DataConfig, seed: int, rewards: list[RewardConfig] | None = None
) -> Rows:
    """The mixture of all sources in the columns of `task`.

    Args:
        sources: the recipe's `datasets`, `eval_datasets` or `evaluation.datasets`.
        task: sft, grpo, dpo or reward.
        data: how prompts are presented, and whether to stream.
        seed: of the mixture and of sources that are functions.
        rewards: of the recipe; a row must have the columns of those that apply to its kind.

    Raises:
        RecipeError: missing file or column, malformed or empty row, empty source.
    """
    parts = [prepare(source, i, task, data, seed, rewards or []) for i, source in enumerate(sources)]
    if len(parts) == 1:
        return parts[0]
    names = [columns(part) for part in parts]
    # Kept are the columns of all sources, and those that only rows of one kind have: others are None there.
    wanted = columns_used(rewards or []) | {"reference"}
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


def columns(rows: Rows) -> list[str]:
    """Column names; a stream may know them only from its first row."""
    return list(rows.column_names or next(iter(rows), {}))


def prepare(
    source: DatasetConfig, index: int, task: str, data: DataConfig, seed: int, rewards: list[RewardConfig]
) -> Rows:
    """One source, loaded and brought into the columns of `task`."""
    at = f"datasets.{index} ({source.path})"
    rows = load(source, seed, data.streaming)
    have = columns(rows)
    for ours, theirs in source.columns.items():
        if theirs not in have:
            raise RecipeError(f"{at}: column {theirs!r} (for {ours!r}) is missing; it has {', '.join(have)}")
    taken = {theirs: ours for ours, theirs in source.columns.items() if theirs != ours}
    # A column that ours displaces would collide with the renamed one.
    displaced = [ours for ours in taken.values() if ours in have]
    rows = rows.remove_columns(displaced).rename_columns(taken) if taken else rows
    have = [taken.get(c, c) for c in have if c not in displaced]
    if source.kind is not None and "kind" in have:
        rows, have = rows.remove_columns("kind"), [c for c in have if c != "kind"]
    if source.kind is None and "kind" not in have and any(reward.kinds for reward in rewards):
        raise RecipeError(
            f"{at}: some rewards apply to `kinds` of rows only, and these rows have none; add e.g. `kind: math`"
        )

    needed = columns_needed(rewards, source.kind)
    for column in [*source.extract, *source.filters, *needed]:
        if column not in have:
            raise RecipeError(
                f"{at}: column {column!r} is missing; it has {', '.join(have)}. "
                f"Name its source with `columns: {{{column}: <their name>}}`"
            )
    layout = next((layout for layout in LAYOUTS[task] if all(c in have for c in layout)), None)
    if layout is None:
        wanted = " or ".join(" + ".join(layout) for layout in LAYOUTS[task])
        raise RecipeError(f"{at}: {task} needs the columns {wanted}; it has {', '.join(have)}")

    if source.filters:
        keep = row_filter(source.filters, at)
        rows = rows.filter(keep)
    if source.rows is not None:
        rows = rows.take(source.rows)
    rows = rows.map(_presenter(source, at, layout, data, rewards), with_indices=True)
    if isinstance(rows, datasets.Dataset) and not len(rows):
        raise RecipeError(f"{at}: no rows" + (" are left after the filters" if source.filters else ""))
    if task != "grpo":
        # What the trainer does not read must not reach its collator.
        rows = rows.select_columns(list(layout))
    return rows


def load(source: DatasetConfig, seed: int, streaming: bool = False) -> Rows:
    """Rows of a source as they are stored.

    Raises:
        RecipeError: no such file, folder, function or hub dataset; a malformed row (named by its line).
    """
    path = Path(source.path)
    if ":" in source.path and not path.exists():
        return _call(source, seed, streaming)
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        stored = datasets.load_from_disk(str(path))
        stored = stored[source.split] if isinstance(stored, datasets.DatasetDict) else stored
        return stored.to_iterable_dataset() if streaming else stored
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix in BUILDERS and not f.name.startswith("."))
        if not files:
            raise RecipeError(f"{path}: the folder holds no {', '.join(BUILDERS)} file")
        return _read(str(path), {}, files, source, streaming)
    if path.is_file():
        if path.suffix not in BUILDERS:
            raise RecipeError(f"datasets: {path} is none of {', '.join(BUILDERS)}")
        options = {"data_files": {source.split: str(path)}} | ({"sep": "\t"} if path.suffix == ".tsv" else {})
        return _read(BUILDERS[path.suffix], options, [path], source, streaming)
    if path.suffix in BUILDERS or source.path.startswith((".", "/", "~")):
        raise RecipeError(f"datasets: there is no file or folder {source.path}")
    return _from_hub(source, streaming)


def _call(source: DatasetConfig, seed: int, streaming: bool) -> Rows:
    module, _, name = source.path.partition(":")
    try:
        maker = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"datasets: {source.path} is neither a file nor an importable function ({error})") from error
    try:
        inspect.signature(maker).bind(seed=seed, **source.args)
    except TypeError as error:
        raise RecipeError(f"datasets: {source.path} does not take these args: {source.args} ({error})") from error
    rows = maker(seed=seed, **source.args)
    return rows.to_iterable_dataset() if streaming else rows


def _from_hub(source: DatasetConfig, streaming: bool) -> Rows:
    try:
        return datasets.load_dataset(source.path, source.name, split=source.split, streaming=streaming)
    except (OSError, ValueError) as error:  # datasets' and the hub's own errors derive from these
        raise RecipeError(
            f"datasets: {source.path} is no local file or folder, and the hub did not give it: {error}"
        ) from error


def _read(builder: str, options: dict[str, Any], files: list[Path], source: DatasetConfig, streaming: bool) -> Rows:
    """Files by a builder of datasets; a folder is its own, and finds the splits in the files' names."""
    for file in files:
        if not file.stat().st_size:
            raise RecipeError(f"datasets: {file} is empty")
    if streaming:
        # A stream meets its bad row hours later; text files are cheap to read once beforehand.
        _check_lines(files)
    try:
        return datasets.load_dataset(builder, split=source.split, streaming=streaming, **options)
    except ValueError as error:
        raise RecipeError(f"datasets: {source.path}: {error}") from error
    except datasets.exceptions.DatasetGenerationError as error:
        _check_lines(files)
        raise RecipeError(f"datasets: {source.path} cannot be read: {error.__cause__ or error}") from error


def _check_lines(files: list[Path]) -> None:
    """Find the line of a jsonl file that is no JSON object."""
    for file in files:
        if file.suffix != ".jsonl":
            continue
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    row = json.loads(line) if line.strip() else {}
                except json.JSONDecodeError as error:
                    raise RecipeError(f"{file}, line {number}: not valid JSON ({error})") from None
                if not isinstance(row, dict):
                    raise RecipeError(f"{file}, line {number}: expected an object, got {type(row).__name__}")


def row_filter(filters: dict[str, Any], at: str) -> Callable[[dict[str, Any]], bool]:
    """`{level: {min: 3}, source: [aime, olympiads], solved: true}` as a predicate over rows."""
    tests: dict[str, Callable[[Any, Any], bool]] = {
        "min": lambda value, bound: value >= bound,
        "max": lambda value, bound: value <= bound,
        "not": lambda value, other: value not in other if isinstance(other, list) else value != other,
        "matches": lambda value, pattern: re.search(pattern, str(value)) is not None,
    }
    for column, condition in filters.items():
        for name in condition if isinstance(condition, dict) else ():
            if name not in tests:
                raise RecipeError(f"{at}: filter of {column!r}: {name!r} is not one of {', '.join(tests)}")

    def meets(value: Any, condition: Any) -> bool:
        if isinstance(condition, dict):
            return value is not None and all(tests[name](value, bound) for name, bound in condition.items())
        return value in condition if isinstance(condition, list) else value == condition

    return lambda row: all(meets(row[column], condition) for column, condition in filters.items())


def _presenter(
    source: DatasetConfig, at: str, layout: tuple[str, ...], data: DataConfig, rewards: list[RewardConfig]
) -> Callable[[dict[str, Any], int], dict[str, Any]]:
    prompt = PROMPTS[data.prompt]
    needed = cache(lambda kind: columns_needed(rewards, kind))
    patterns = {column: re.compile(pattern) for column, pattern in source.extract.items()}

    def present(row: dict[str, Any], i: int) -> dict[str, Any]:
        new: dict[str, Any] = {}
        for column, pattern in patterns.items():
            found = pattern.search(str(row[column]))
            if found is None:
                raise RecipeError(f"{at}, row {i}: {column!r} does not match {pattern.pattern!r}: {row[column]!r}")
            new[column] = found.group(1).strip()
        kind = source.kind if source.kind is not None else row.get("kind")
        if source.kind is not None:
            new["kind"] = kind
        for column in dict.fromkeys([*layout, *needed(kind)]):
            value = new.get(column, row.get(column))
            if value is None or (isinstance(value, str | list | dict) and not value):
                raise RecipeError(f"{at}, row {i}: {column!r} is empty")
            if column == "prompt":
                new[column] = _prompt(value, prompt, data.system_prompt, at, i)
            elif column == "messages":
                new[column] = _with_system(as_messages(value, at, i), data.system_prompt)
            elif column in ("completion", "chosen", "rejected"):
                messages = as_messages(value, at, i)
                new[column] = messages[-1]["content"] if prompt.plain else messages
        return new

    return present


def _prompt(value: Any, prompt: Prompt, system_prompt: str | None, at: str, i: int) -> str | Messages:
    if isinstance(value, str):
        return prompt.present(value, system_prompt)
    messages = as_messages(value, at, i)
    if [message["role"] for message in messages] == ["user"]:
        return prompt.present(messages[0]["content"], system_prompt)
    if prompt.plain:
        raise RecipeError(f"{at}, row {i}: a plain prompt takes one question, and this is a conversation: {messages}")
    return _with_system(messages, system_prompt)


def _with_system(messages: Messages, system_prompt: str | None) -> Messages:
    if system_prompt is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system_prompt}, *messages]


def as_messages(value: Any, at: str = "row", i: int = 0) -> Messages:
    """A text, a message or a list of them, in OpenAI's (`role`, `content`) or ShareGPT's (`from`, `value`) keys."""
    roles = {"human": "user", "gpt": "assistant"}
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    messages = []
    for message in [value] if isinstance(value, dict) else value:
        role = message.get("role") or message.get("from") if isinstance(message, dict) else None
        content = message.get("content", message.get("value")) if isinstance(message, dict) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise RecipeError(f"{at}, row {i}: a message needs a role and a text, got {message!r}")
        messages.append({"role": roles.get(role, role), "content": content})
    return messages
