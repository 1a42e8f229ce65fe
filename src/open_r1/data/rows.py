"""Rows of a data task, which stay on disk and are read by position."""

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

FINGERPRINTED = 256  # rows of a source, evenly spaced, whose digest detects that the source has changed


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _is_text(feature: Any) -> bool:
    return feature is None or feature == TEXT or feature == datasets.Value("large_string")


def _merge_features(one: Any, other: Any) -> Any:
    """The common type of a column that two sources have; None if there is none. Mappings get the fields of both."""
    if isinstance(one, dict) and isinstance(other, dict):
        both = {name: (one.get(name, other.get(name)), other.get(name, one.get(name))) for name in one | other}
        fields = {name: _merge_features(*pair) for name, pair in both.items()}
        return None if None in fields.values() else fields
    if isinstance(one, datasets.List) and isinstance(other, datasets.List):
        item = _merge_features(one.feature, other.feature)
        return None if item is None else datasets.List(item)
    if _is_text(one) and _is_text(other):
        return TEXT
    null = datasets.Value("null")
    return other if one == null else one if other in (null, one) else None


class StoredRows:
    """The concatenated rows of all sources of a data task, with all of their columns, read in slices.

    Each row gets a column `source`, and `kind` if the recipe or the source has one. A column that only some sources
    have is None in the others. If some prompts are conversations, text prompts become conversations too.

    Args:
        parts: the sources, each with its rows.
        kept: ascending numbers of the rows to keep; None keeps all.

    Raises:
        RecipeError: a column has types in two sources that cannot be merged.
    """

    def __init__(self, parts: list[tuple[DatasetConfig, datasets.Dataset]], kept: np.ndarray | None = None):
        self.parts = parts
        self.ends = np.cumsum([len(rows) for _, rows in parts])
        self.kept = kept
        self.features = datasets.Features()
        self.conversations = any(not _is_text(rows.features.get("prompt")) for _, rows in parts)
        first: dict[str, str] = {}  # column to the first source that has it
        for i, (source, rows) in enumerate(parts):
            added = {"source": TEXT} | ({"kind": TEXT} if source.kind is not None else {})
            written = dict.fromkeys([*source.template, *source.extract], TEXT)
            for column, feature in (rows.features | written | added).items():
                if column == "prompt" and self.conversations:
                    feature = MESSAGES
                known = self.features.get(column)
                merged = feature if known is None else _merge_features(known, feature)
                if merged is None:
                    raise RecipeError(
                        f"datasets.{i} ({source.path}): column {column!r} is {feature}, and {known} in "
                        f"{first[column]}; rename one of them with `columns`"
                    )
                self.features[column] = merged
                first.setdefault(column, source.path)

    def __len__(self) -> int:
        return int(self.ends[-1]) if self.kept is None else len(self.kept)

    def keep(self, positions: np.ndarray) -> StoredRows:
        """The rows at these ascending positions; they keep their numbers."""
        return StoredRows(self.parts, positions if self.kept is None else self.kept[positions])

    def numbers(self, start: int, stop: int) -> np.ndarray:
        """Numbers, counted over all sources, of the rows at positions `start` to `stop` (exclusive)."""
        positions = np.arange(start, min(stop, len(self)))
        return positions if self.kept is None else self.kept[positions]

    def identity(self) -> dict[str, Any]:
        """A fingerprint: the size and a digest of some rows of each source, and a digest of the kept numbers."""
        sources = []
        for source, rows in self.parts:
            sample = rows[np.linspace(0, len(rows) - 1, min(len(rows), FINGERPRINTED)).astype(int).tolist()]
            text = json.dumps(sample, default=str, sort_keys=True)
            sources.append({"path": source.path, "rows": len(rows), "looks": _digest(text.encode())})
        return {"sources": sources, "kept": None if self.kept is None else _digest(self.kept.tobytes())}

    def slice(self, start: int, stop: int) -> list[dict[str, Any]]:
        """The rows at positions `start` to `stop` (exclusive), each with every column of `features`."""
        numbers, selected = self.numbers(start, stop), []
        for i, ((source, rows), end) in enumerate(zip(self.parts, self.ends, strict=True)):
            own = numbers[(numbers >= end - len(rows)) & (numbers < end)] - (end - len(rows))
            if len(own):
                # A contiguous range is read much faster than single rows.
                contiguous = own[-1] - own[0] + 1 == len(own)
                batch = rows[int(own[0]) : int(own[-1]) + 1] if contiguous else rows[own.tolist()]
                at = f"datasets.{i} ({source.path})"
                selected += [self._build_row(source, batch, j, at, number) for j, number in enumerate(own.tolist())]
        return selected

    def _build_row(
        self, source: DatasetConfig, batch: dict[str, list[Any]], j: int, at: str, number: int
    ) -> dict[str, Any]:
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
    """Load all sources of a data task.

    Args:
        recipe: recipe of a data task.
        needed: columns that every source must have besides those of the task's layout.

    Raises:
        RecipeError: a file or column is missing, a source has no rows, or a column's types cannot be merged.
    """
    return read_stored_rows(recipe.data.datasets, recipe.task, recipe.seed, "datasets", needed)


def read_stored_rows(
    sources: list[DatasetConfig], task: str, seed: int, key: str, needed: list[str] | None = None
) -> StoredRows:
    """Load sources without presenting their prompts.

    Args:
        sources: the sources, in order.
        task: task whose column layouts apply.
        seed: seed of sources that are functions.
        key: key of the recipe that holds the sources, for error messages.
        needed: columns that every source must have besides those of the layout.

    Raises:
        RecipeError: as in `load_rows`.
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
