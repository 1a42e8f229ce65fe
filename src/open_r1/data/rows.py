"""Rows of a data task, stored once and read by position."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import datasets
import numpy as np

from ..config.recipe import Recipe
from ..config.schema import DatasetConfig
from ..errors import RecipeError
from .columns import (
    MESSAGES,
    TEXT,
    build_row_filter,
    extract_columns,
    fill_template,
    find_layout,
    list_columns,
    parse_prompt,
    reopen_reasoning,
    require_columns,
)
from .sources import load_named_columns

LOOKED_AT = 256  # rows of a source, from all over it, by which a change of it is noticed


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _is_text(feature: Any) -> bool:
    return feature is None or feature == TEXT or feature == datasets.Value("large_string")


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
        row |= {column: fill_template(text, own, at, number) for column, text in source.template.items()}
        row |= extract_columns(source.extract, row, at, number)
        if source.opens_think:
            row["completion"] = reopen_reasoning(row.get("completion"))
        if self.conversations and row["prompt"]:
            row["prompt"] = parse_prompt(row["prompt"])
        return row


def load_rows(recipe: Recipe, needed: list[str] | None = None) -> StoredRows:
    """All sources of a data task.

    Args:
        recipe: of a data task.
        needed: columns that every source must have, beside those of the task's layout.

    Raises:
        RecipeError: missing file or column, a source without rows, columns of different types.
    """
    return read_stored_rows(recipe.data.datasets, recipe.task, recipe.seed, "datasets", needed)


def read_stored_rows(
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
        rows = load_named_columns(source, at, seed)
        have = list_columns(rows)
        require_columns([*source.extract, *source.filters, *(needed or [])], [*have, *source.template], at)
        find_layout(task, [*have, *source.template], at)
        if source.filters:
            rows = rows.filter(build_row_filter(source.filters, at))
        if source.rows is not None and task != "mix":
            rows = rows.take(source.rows)
        if not len(rows):
            raise RecipeError(f"{at}: no rows" + (" are left after the filters" if source.filters else ""))
        parts.append((source, rows))
    return StoredRows(parts)
