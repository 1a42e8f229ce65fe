"""From the recipe's `datasets` to the columns a trainer or a data task reads.

Rows of a trainer pass through: load, rename and template, extract, filter, present (prompt and chat messages), mix.
Whatever is missing or malformed stops the run and names the source and the row. The data tasks read rows as they are
stored (`load_rows`) and present prompts themselves.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow

from .checks import RL_TASKS
from .configs import DataConfig, DatasetConfig, Recipe, is_recipe, made_by, seed_override
from .errors import RecipeError
from .prompts import PROMPTS, Messages, Prompt
from .rewards import RewardConfig, columns_needed, columns_used

Rows = datasets.Dataset | datasets.IterableDataset

BUILDERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv"}
# Column layouts that each task's trainer reads; the first that the source has is used.
LAYOUTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "grpo": (("prompt",),),
    "rloo": (("prompt",),),
    # What was sampled comes before the messages that its source may have brought along.
    "sft": (("prompt", "completion"), ("messages",), ("text",)),
    "dpo": (("prompt", "chosen", "rejected"), ("chosen", "rejected")),
    "reward": (("prompt", "chosen", "rejected"), ("chosen", "rejected")),
    "sample": (("prompt",),),
    "select": (("prompt", "completion"), ("messages",)),
    "mix": (("messages",), ("prompt", "chosen", "rejected"), ("prompt", "completion"), ("prompt",)),
    "evaluate": (("prompt",),),
    "imported": (("completion",),),  # completions made elsewhere
}
SHARD = re.compile(r"(\w+)-\d{5}-of-\d{5}\.parquet")  # as the hub, and our own tasks, name a split's files
LOOKED_AT = 256  # rows of a source, from all over it, by which a change of it is noticed
TEXT = datasets.Value("string")
MESSAGES = datasets.List({"role": TEXT, "content": TEXT})


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
    names = [columns(part) for part in parts]
    if task in ("dpo", "reward") and len({"prompt" in own for own in names}) > 1:
        raise RecipeError(
            "datasets: some of these pairs have a `prompt`, some only repeat it in both answers, and in a mixture the "
            "first would lose it; name the others' with `columns`, or take a version that has one"
        )
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


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _is_text(feature: Any) -> bool:
    return feature is None or feature == TEXT or feature == datasets.Value("large_string")


def columns(rows: Rows) -> list[str]:
    """Column names; a stream may know them only from its first row."""
    return list(rows.column_names or next(iter(rows), {}))


def prepare(
    source: DatasetConfig, index: int, task: str, data: DataConfig, seed: int, rewards: list[RewardConfig]
) -> Rows:
    """One source, loaded and brought into the columns of `task`."""
    at = f"datasets.{index} ({source.path})"
    rows = _named(source, at, seed, data.streaming)
    have = [*columns(rows), *source.template]
    if source.kind is not None and "kind" in have:
        rows, have = rows.remove_columns("kind"), [c for c in have if c != "kind"]
    if source.kind is None and "kind" not in have and any(reward.kinds for reward in rewards):
        raise RecipeError(
            f"{at}: some rewards apply to `kinds` of rows only, and these rows have none; add e.g. `kind: math`"
        )

    _require([*source.extract, *source.filters, *columns_needed(rewards, source.kind)], have, at)
    layout = _layout(task, have, at)
    if source.filters:
        rows = rows.filter(row_filter(source.filters, at))
    if source.rows is not None:
        rows = rows.take(source.rows)
    rows = rows.map(_presenter(source, at, layout, data, rewards), with_indices=True)
    if isinstance(rows, datasets.Dataset) and not len(rows):
        raise RecipeError(f"{at}: no rows" + (" are left after the filters" if source.filters else ""))
    if task not in RL_TASKS:
        # What the trainer does not read must not reach its collator.
        rows = rows.select_columns(list(layout))
    return rows


def _joined(one: Any, other: Any) -> Any:
    """A column's type in two sources as one, None if they do not agree; fields of mappings stand side by side."""
    if isinstance(one, dict) and isinstance(other, dict):
        both = {name: (one.get(name, other.get(name)), other.get(name, one.get(name))) for name in one | other}
        fields = {name: _joined(*pair) for name, pair in both.items()}
        return None if None in fields.values() else fields
    if isinstance(one, datasets.List) and isinstance(other, datasets.List):
        inner = _joined(one.feature, other.feature)
        return None if inner is None else datasets.List(inner)
    if _is_text(one) and _is_text(other):
        return TEXT
    null = datasets.Value("null")
    return other if one == null else one if other in (null, one) else None


class StoredRows:
    """The sources of a data task one after another, read in slices: all their columns, prompts as they are stored.

    Rows stay on disk. Each says its `source`, and its `kind` where the recipe or the source tells; columns that only
    some of the sources have are None in the others. Text prompts beside conversations become conversations.

    Args:
        parts: the sources, each with its rows.
        kept: numbers of the rows that count, in order; None keeps all.
    """

    def __init__(self, parts: list[tuple[DatasetConfig, datasets.Dataset]], kept: np.ndarray | None = None):
        self.parts = parts
        self.ends = np.cumsum([len(rows) for _, rows in parts])
        self.kept = kept
        self.features = datasets.Features()
        self.conversations = any(not _is_text(rows.features.get("prompt")) for _, rows in parts)
        first: dict[str, str] = {}  # column -> the source that had it first
        for i, (source, rows) in enumerate(parts):
            told = {"source": TEXT} | ({"kind": TEXT} if source.kind is not None else {})
            made = dict.fromkeys([*source.template, *source.extract], TEXT)
            for column, feature in (rows.features | made | told).items():
                if column == "prompt" and self.conversations:
                    feature = MESSAGES
                known = self.features.get(column)
                joined = feature if known is None else _joined(known, feature)
                if joined is None:
                    raise RecipeError(
                        f"datasets.{i} ({source.path}): column {column!r} is {feature}, and {known} in "
                        f"{first[column]}; rename one of them with `columns`"
                    )
                self.features[column] = joined
                first.setdefault(column, source.path)

    def __len__(self) -> int:
        return int(self.ends[-1]) if self.kept is None else len(self.kept)

    def keep(self, positions: np.ndarray) -> StoredRows:
        """Only the rows at these positions, which ascend; they keep their numbers."""
        return StoredRows(self.parts, positions if self.kept is None else self.kept[positions])

    def numbers(self, start: int, stop: int) -> np.ndarray:
        """The numbers of the rows that stand at `start` to `stop` (exclusive), counted over all sources."""
        every = np.arange(start, min(stop, len(self)))
        return every if self.kept is None else self.kept[every]

    def identity(self) -> dict[str, Any]:
        """What tells these rows from others: of each source its size and some rows, and which rows are kept."""
        sources = []
        for source, rows in self.parts:
            some = rows[np.linspace(0, len(rows) - 1, min(len(rows), LOOKED_AT)).astype(int).tolist()]
            told = json.dumps(some, default=str, sort_keys=True)
            sources.append({"path": source.path, "rows": len(rows), "looks": _digest(told.encode())})
        return {"sources": sources, "kept": None if self.kept is None else _digest(self.kept.tobytes())}

    def slice(self, start: int, stop: int) -> list[dict[str, Any]]:
        """The rows that stand at `start` to `stop` (exclusive), each with every column of `features`."""
        numbers, found = self.numbers(start, stop), []
        for i, ((source, rows), end) in enumerate(zip(self.parts, self.ends, strict=True)):
            own = numbers[(numbers >= end - len(rows)) & (numbers < end)] - (end - len(rows))
            if len(own):
                # A range is read at once, single rows one after another.
                whole = own[-1] - own[0] + 1 == len(own)
                batch = rows[int(own[0]) : int(own[-1]) + 1] if whole else rows[own.tolist()]
                at = f"datasets.{i} ({source.path})"
                found += [self._row(source, batch, j, at, number) for j, number in enumerate(own.tolist())]
        return found

    def _row(self, source: DatasetConfig, batch: dict[str, list[Any]], j: int, at: str, number: int) -> dict[str, Any]:
        row = {column: batch[column][j] if column in batch else None for column in self.features}
        row["source"] = row["source"] or source.path
        row["kind"] = source.kind if source.kind is not None else row.get("kind")
        own = {column: values[j] for column, values in batch.items()}
        row |= {column: _filled(text, own, at, number) for column, text in source.template.items()}
        row |= _extracted(source.extract, row, at, number)
        if source.opens_think:
            row["completion"] = _reopened(row.get("completion"))
        if self.conversations and row["prompt"]:
            row["prompt"] = _conversation(row["prompt"])
        return row


def load_rows(recipe: Recipe, needed: list[str] | None = None) -> StoredRows:
    """All sources of a data task.

    Args:
        recipe: of a data task.
        needed: columns that every source must have, beside those of the task's layout.

    Raises:
        RecipeError: missing file or column, a source without rows, columns of different types.
    """
    return stored(recipe.data.datasets, recipe.task, recipe.seed, "datasets", needed)


def stored(
    sources: list[DatasetConfig], task: str, seed: int, key: str, needed: list[str] | None = None
) -> StoredRows:
    """Sources as they are stored.

    Args:
        sources: one after another.
        task: names the column layouts.
        seed: of sources that are functions.
        key: of the recipe, that errors name.
        needed: columns that every source must have, beside those of the layout.
    """
    parts = []
    for i, source in enumerate(sources):
        at = f"{key}.{i} ({source.path})"
        rows = _named(source, at, seed)
        have = columns(rows)
        _require([*source.extract, *source.filters, *(needed or [])], [*have, *source.template], at)
        _layout(task, [*have, *source.template], at)
        if source.filters:
            rows = rows.filter(row_filter(source.filters, at))
        if source.rows is not None and task != "mix":
            rows = rows.take(source.rows)
        if not len(rows):
            raise RecipeError(f"{at}: no rows" + (" are left after the filters" if source.filters else ""))
        parts.append((source, rows))
    return StoredRows(parts)


def load(source: DatasetConfig, seed: int, streaming: bool = False) -> Rows:
    """Rows of a source as they are stored.

    Raises:
        RecipeError: no such file, folder, function or hub dataset; a malformed row (named by its line).
    """
    if is_recipe(source.path):
        made = made_by(source.path, seed)
        # Until it is finished its folder holds some of the rows, and looks like any other.
        if not _is_finished(made):
            command = " ".join(["open-r1 train", source.path, *seed_override(source.path, seed)])
            raise RecipeError(
                f"datasets: {source.path} has not been run to its end in {made}; make it with: {command}"
            )
        return load(replace(source, path=str(made / "data")), seed, streaming)
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
        named = [SHARD.fullmatch(f.name) for f in files]
        if all(named):
            # By their names: of a folder with a card, datasets' cache knows only the card and the folder's last name,
            # and would give another run's rows.
            splits = {
                match[1]: [str(f) for f, m in zip(files, named, strict=True) if m[1] == match[1]] for match in named
            }
            return _read("parquet", {"data_files": splits}, files, source, streaming)
        return _read(str(path), {}, files, source, streaming)
    if path.is_file():
        if path.suffix not in BUILDERS:
            raise RecipeError(f"datasets: {path} is none of {', '.join(BUILDERS)}")
        options = {"data_files": {source.split: str(path)}} | ({"sep": "\t"} if path.suffix == ".tsv" else {})
        return _read(BUILDERS[path.suffix], options, [path], source, streaming)
    if path.suffix in BUILDERS or source.path.startswith((".", "/", "~")):
        raise RecipeError(f"datasets: there is no file or folder {source.path}")
    return _from_hub(source, streaming)


def _is_finished(run_dir: Path) -> bool:
    path = run_dir / "status.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("state") == "finished"


def _named(source: DatasetConfig, at: str, seed: int, streaming: bool = False) -> Rows:
    """Rows of a source under the recipe's column names."""
    rows = load(source, seed, streaming)
    have = columns(rows)
    for ours, theirs in source.columns.items():
        if theirs not in have:
            raise RecipeError(
                f"{at}: column {theirs!r} (for {ours!r}) is missing; it has {', '.join(have)}. "
                f"Name the one to take with `columns: {{{ours}: <its name>}}`"
            )
    taken = {theirs: ours for ours, theirs in source.columns.items() if theirs != ours}
    # A column that ours displaces would collide with the renamed one.
    displaced = [ours for ours in taken.values() if ours in have]
    return rows.remove_columns(displaced).rename_columns(taken) if taken else rows


def _require(wanted: list[str], have: list[str], at: str) -> None:
    for column in wanted:
        if column not in have:
            raise RecipeError(
                f"{at}: column {column!r} is missing; it has {', '.join(have)}. "
                f"Name its source with `columns: {{{column}: <their name>}}`"
            )


def _layout(task: str, have: list[str], at: str) -> tuple[str, ...]:
    """The first of the task's column layouts that a source has."""
    layout = next((layout for layout in LAYOUTS[task] if all(c in have for c in layout)), None)
    if layout is None:
        wanted = " or ".join(" + ".join(layout) for layout in LAYOUTS[task])
        raise RecipeError(f"{at}: {task} needs the columns {wanted}; it has {', '.join(have)}")
    return layout


def _filled(text: str, row: dict[str, Any], at: str, i: int) -> str:
    """A template with the row's columns in place of their names in braces; empty columns leave nothing."""
    try:
        return text.format_map({column: "" if value is None else value for column, value in row.items()}).strip()
    except (KeyError, ValueError, IndexError) as error:
        raise RecipeError(
            f"{at}, row {i}: the template {text!r} cannot be filled ({error}); its columns are {', '.join(row)}"
        ) from None


def _extracted(patterns: dict[str, str], row: dict[str, Any], at: str, i: int) -> dict[str, str]:
    """The first group of each column's pattern."""
    new = {}
    for column, pattern in patterns.items():
        found = re.search(pattern, str(row[column]))
        if found is None:
            raise RecipeError(f"{at}, row {i}: {column!r} does not match {pattern!r}: {row[column]!r}")
        new[column] = found.group(1).strip()
    return new


def _call(source: DatasetConfig, seed: int, streaming: bool) -> Rows:
    module, _, name = source.path.partition(":")
    try:
        maker = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"datasets: {source.path} is neither a file nor an importable function ({error})") from error
    args = {"seed": seed} | source.args
    try:
        inspect.signature(maker).bind(**args)
    except TypeError as error:
        raise RecipeError(f"datasets: {source.path} does not take these args: {source.args} ({error})") from error
    rows = maker(**args)
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

    def present(row: dict[str, Any], i: int) -> dict[str, Any]:
        new: dict[str, Any] = {column: _filled(text, row, at, i) for column, text in source.template.items()}
        new |= _extracted(source.extract, row | new, at, i)
        kind = source.kind if source.kind is not None else row.get("kind")
        if source.kind is not None:
            new["kind"] = kind
        for column in dict.fromkeys([*layout, *needed(kind)]):
            value = new.get(column, row.get(column))
            if value is None or (isinstance(value, str | list | dict) and not value):
                raise RecipeError(f"{at}, row {i}: {column!r} is empty")
            if column == "prompt":
                new[column] = presented(value, prompt, data.system_prompt, at, i)
            elif column == "messages":
                new[column] = _with_system(as_messages(value, at, i), data.system_prompt)
            elif column in ("completion", "chosen", "rejected"):
                messages = as_messages(value, at, i)
                new[column] = messages[-1]["content"] if prompt.plain else messages
        repeated = [] if prompt.plain or not {"prompt", "chosen"} <= new.keys() else _asked(new)
        if repeated:
            new["prompt"] = presented(repeated, prompt, data.system_prompt, at, i)
            new |= {side: new[side][len(repeated) :] for side in ("chosen", "rejected")}
        return new

    return present


def presented(value: Any, prompt: Prompt, system_prompt: str | None, at: str, i: int) -> str | Messages:
    if isinstance(value, str):
        return prompt.present(value, system_prompt)
    messages = as_messages(value, at, i)
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


def _reopened(completion: Any) -> Any:
    """Completions, one or a list of them, with the `<think>` that their prompt had opened."""
    if isinstance(completion, list):
        return [_reopened(one) if isinstance(one, str) else one for one in completion]
    lacks_it = isinstance(completion, str) and completion.strip() and not completion.lstrip().startswith("<think>")
    return f"<think>\n{completion}" if lacks_it else completion


def _conversation(prompt: Any) -> Any:
    """A prompt as OpenAI's messages, which is how it is stored; a malformed one as it is."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    try:
        return as_messages(prompt)
    except RecipeError:
        return prompt  # the task that reads it names its row


def as_messages(value: Any, at: str = "row", i: int = 0) -> Messages:
    """A text, a message or a list of them, in OpenAI's (`role`, `content`) or ShareGPT's (`from`, `value`) keys."""
    roles = {"human": "user", "gpt": "assistant"}
    if not isinstance(value, str | dict | list):
        raise RecipeError(f"{at}, row {i}: expected a text or messages, got {value!r}")
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    messages = []
    for message in [value] if isinstance(value, dict) else value:
        role = message.get("role") or message.get("from") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        content = message.get("value") if content is None and isinstance(message, dict) else content
        if not isinstance(role, str) or not isinstance(content, str):
            raise RecipeError(f"{at}, row {i}: a message needs a role and a text, got {message!r}")
        messages.append({"role": roles.get(role, role), "content": content})
    return messages
