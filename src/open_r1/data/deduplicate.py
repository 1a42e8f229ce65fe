"""Rows that repeat an earlier one, exactly or nearly, found while they stream by.

No text is kept. Of each text the state holds an 8-byte fingerprint, and for near-duplicates a sketch of 64 bytes and
its places in the tables of bands (minhash.py). The first row of each kind stays; the result depends on the order of
the rows and on nothing else, not on how they are cut into batches.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from ..config.schema import DeduplicateConfig
from ..errors import RecipeError
from . import minhash, ngrams
from .rows import StoredRows

BATCH = 1000  # rows read at once
EMPTY = np.uint64(0)


class FirstSeen:
    """The first row that brought each key: a table with open addressing, 16 to 32 bytes for each key.

    A dict would take ten times as much. Rows are counted in 32 bits, up to four billion.
    """

    def __init__(self, bits: int = 10):
        self.keys = np.zeros(1 << bits, np.uint64)
        self.rows = np.zeros(1 << bits, np.uint32)
        self.used = 0

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.rows.nbytes

    def get(self, keys: np.ndarray) -> np.ndarray:
        """The row that brought each key; -1 for none."""
        keys = np.maximum(keys, np.uint64(1))
        found, left, places = np.full(len(keys), -1), np.arange(len(keys)), self._places(keys)
        while len(left):
            held = self.keys[places]
            same = held == keys[left]
            found[left[same]] = self.rows[places[same]]
            on = ~same & (held != EMPTY)
            left, places = left[on], self._next(places[on])
        return found

    def add(self, keys: np.ndarray, rows: np.ndarray) -> None:
        """Keys that are not there yet, each once."""
        if (self.used + len(keys)) * 4 > len(self.keys) * 3:
            self._grow(self.used + len(keys))
        self.used += len(keys)
        keys, rows = np.maximum(keys, np.uint64(1)), rows.astype(np.uint32)
        places = self._places(keys)
        while len(keys):
            free = self.keys[places] == EMPTY
            # Of several keys that claim a place, the last written has it; the others go on to the next.
            self.keys[places[free]] = keys[free]
            mine = self.keys[places] == keys
            self.rows[places[mine]] = rows[mine]
            keys, rows, places = keys[~mine], rows[~mine], self._next(places[~mine])

    def _places(self, keys: np.ndarray) -> np.ndarray:
        shift = np.uint64(64 - (len(self.keys).bit_length() - 1))
        return ((keys * np.uint64(0x9E3779B97F4A7C15)) >> shift).astype(np.intp)

    def _next(self, places: np.ndarray) -> np.ndarray:
        return (places + 1) & (len(self.keys) - 1)

    def _grow(self, needed: int) -> None:
        keys, rows = self.keys, self.rows
        grown = FirstSeen(max(len(keys).bit_length(), (needed * 4 // 3).bit_length()))
        held = keys != EMPTY
        grown.add(keys[held], rows[held])
        self.keys, self.rows = grown.keys, grown.rows


class Deduplicator:
    """Fed texts in order, says which repeat an earlier one.

    Args:
        exact: the same words (ngrams.py) in the same order count as the same text; texts without a word are compared
            as they are.
        near: Jaccard similarity of the pairs of words, as MinHash estimates it, from which a text repeats an earlier
            one; None does not ask. Texts of one word have no pair.

    Attributes:
        counts: rows that repeat an earlier one, `exact` and `near`, so far.
        kept: rows that repeat none, so far.
    """

    def __init__(self, exact: bool = True, near: float | None = None):
        self.near = near
        self.counts = {"exact": 0, "near": 0}
        self.kept = 0
        self._row = 0
        self._texts = FirstSeen() if exact else None
        if near is not None:
            self._band_rows = minhash.rows_per_band(near)
            bands = minhash.PERMUTATIONS // self._band_rows
            self._bands = [FirstSeen() for _ in range(bands)]
            # The lowest byte of each value: two sketches agree on one by chance in 1 of 256.
            self._sketches = np.zeros((1024, minhash.PERMUTATIONS), np.uint8)
            self._numbers = np.zeros(1024, np.uint32)  # of the row of each sketch
            self._held = 0

    @property
    def nbytes(self) -> int:
        """Bytes of state."""
        tables = [self._texts] if self._texts else []
        sketches = 0
        if self.near is not None:
            tables += self._bands
            sketches = self._sketches.nbytes + self._numbers.nbytes
        return sum(table.nbytes for table in tables) + sketches

    def repeats(self, texts: list[str]) -> list[int | None]:
        """For each text None, or the number of the first row that it repeats; rows are counted from 0 over all calls.

        A row that repeats one that was itself left out as a near-duplicate is an exact repetition of that row.
        """
        found: list[int | None] = []
        for cut in ngrams.batches(texts):
            first = len(found)
            numbers = self._row + np.arange(len(cut.counts))
            earlier = np.full(len(numbers), -1)
            if self._texts is not None:
                earlier = self._exact(cut, texts[first : first + len(numbers)], numbers)
                self.counts["exact"] += int((earlier >= 0).sum())
            if self.near is not None:
                fresh = np.flatnonzero((earlier < 0) & (cut.counts >= minhash.SHINGLE))
                earlier[fresh] = self._near(minhash.sketches(cut)[fresh], numbers[fresh])
                self.counts["near"] += int((earlier[fresh] >= 0).sum())
            self.kept += int((earlier < 0).sum())
            self._row += len(numbers)
            found += [row if row >= 0 else None for row in earlier.tolist()]
        return found

    def _exact(self, cut: ngrams.Words, texts: list[str], numbers: np.ndarray) -> np.ndarray:
        prints = ngrams.fingerprints(cut)
        for i in np.flatnonzero(cut.counts == 0).tolist():
            # A value that is missing repeats nothing.
            text = texts[i] or f"row {numbers[i]}"
            digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
            prints[i] = int.from_bytes(digest, "little")
        return first_seen(self._texts, prints, numbers)

    def _near(self, sketches_TP: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """The row that each sketch nearly repeats, or -1; those that repeat none are kept.

        Each band remembers the first sketch it met, so a lookup costs the same however alike the rows are.
        """
        keys_TB = minhash.band_keys(sketches_TP, self._band_rows)
        low_TP = sketches_TP.astype(np.uint8)
        heads_TB = np.stack([band.get(keys) for band, keys in zip(self._bands, keys_TB.T, strict=True)], axis=1)
        alike_TB = (heads_TB >= 0) & (similarity(low_TP[:, None, :], self._sketches[heads_TB]) >= self.near)
        first = np.where(alike_TB, heads_TB, self._held).min(axis=1)
        earlier = np.where(
            first < self._held, self._numbers[np.minimum(first, len(self._numbers) - 1)].astype(int), -1
        )
        self._keep_fresh(earlier, keys_TB, low_TP, heads_TB, numbers)
        return earlier

    def _keep_fresh(
        self,
        earlier: np.ndarray,
        keys_TB: np.ndarray,
        low_TP: np.ndarray,
        heads_TB: np.ndarray,
        numbers: np.ndarray,
    ) -> None:
        """Compare what is new with what is new before it in the batch, in order, and keep what repeats nothing."""
        new: list[dict[int, int]] = [{} for _ in self._bands]
        kept: list[int] = []
        for i in np.flatnonzero(earlier < 0).tolist():
            keys = keys_TB[i].tolist()
            heads = {band[key] for band, key in zip(new, keys, strict=True) if key in band}
            alike = [j for j in heads if similarity(low_TP[i], low_TP[j]) >= self.near]
            if alike:
                earlier[i] = numbers[min(alike)]
                continue
            kept.append(i)
            for band, key, head in zip(new, keys, heads_TB[i].tolist(), strict=True):
                if head < 0:
                    band.setdefault(key, i)
        at = self._held + np.arange(len(kept))
        self._hold(low_TP[kept], numbers[kept])
        place = dict(zip(kept, at.tolist(), strict=True))
        for band, first in zip(self._bands, new, strict=True):
            band.add(np.fromiter(first, np.uint64), np.array([place[i] for i in first.values()], np.uint32))

    def _hold(self, sketches: np.ndarray, numbers: np.ndarray) -> None:
        needed = self._held + len(numbers)
        if needed > len(self._numbers):
            size = max(needed, len(self._numbers) * 3 // 2)
            self._sketches = np.concatenate(
                [self._sketches, np.zeros((size - len(self._sketches), minhash.PERMUTATIONS), np.uint8)]
            )
            self._numbers = np.concatenate([self._numbers, np.zeros(size - len(self._numbers), np.uint32)])
        self._sketches[self._held : needed], self._numbers[self._held : needed] = sketches, numbers
        self._held = needed


def similarity(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Jaccard similarity by the lowest bytes of two sketches, of which 1 in 256 agrees by chance."""
    return ((left == right).mean(axis=-1) - 1 / 256) / (1 - 1 / 256)


def first_seen(table: FirstSeen, keys: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The row before each that had its key, or -1; new keys are added with their first row."""
    earlier = table.get(keys)
    new = np.flatnonzero(earlier < 0)
    distinct, once, which = np.unique(keys[new], return_index=True, return_inverse=True)
    table.add(distinct, numbers[new[once]])
    first = new[once][which]
    earlier[new] = np.where(first == new, -1, numbers[first])
    return earlier


def build_deduplicator(config: DeduplicateConfig) -> Deduplicator:
    return Deduplicator(config.exact, config.near)


def read_compared_text(value: Any) -> str:
    """What is compared of a column's value: a text, the texts of a list or conversation in a row, else its JSON."""
    if isinstance(value, str) or value is None:
        return value or ""
    if not isinstance(value, list):
        return json.dumps(value, default=str, sort_keys=True)
    parts = (one.get("content", one.get("value")) if isinstance(one, dict) else one for one in value)
    return "\n".join(str(part) for part in parts if part)


def compared_in(row: dict[str, Any], column: str) -> str:
    """The same for a row; in `messages` the last one is the completion, and the prompt is what comes before it."""
    messages = row.get("messages")
    if row.get(column) is None and messages and column in ("prompt", "completion"):
        return read_compared_text(messages[:-1] if column == "prompt" else messages[-1:])
    return read_compared_text(row.get(column))


def drop_duplicates(rows: StoredRows, config: DeduplicateConfig | None) -> tuple[StoredRows, dict[str, int] | None]:
    """The rows of a data task that repeat none before them, and how many did, `exact` and `near`; None is all of them.

    Raises:
        RecipeError: a source without the column.
    """
    if config is None:
        return rows, None
    for i, (source, part) in enumerate(rows.parts):
        have = [*part.column_names, *source.template, *source.extract]
        if config.column not in have and ("messages" not in have or config.column not in ("prompt", "completion")):
            raise RecipeError(
                f"deduplicate.column: datasets.{i} ({source.path}) has no {config.column!r}; it has {', '.join(have)}"
            )
    seen, kept = build_deduplicator(config), np.zeros(len(rows), bool)
    narrow = select_columns(rows, [config.column, "messages"])
    for begin in range(0, len(rows), BATCH):
        found = seen.repeats([compared_in(row, config.column) for row in narrow.slice(begin, begin + BATCH)])
        kept[begin : begin + len(found)] = [row is None for row in found]
    return rows if kept.all() else rows.keep(np.flatnonzero(kept)), seen.counts


def select_columns(rows: StoredRows, columns: list[str]) -> StoredRows:
    """The same rows with only these columns, so that long completions are not read for a look at the prompts."""
    parts = []
    for source, part in rows.parts:
        own = [column for column in columns if column in part.column_names]
        # A template or a pattern may need any of the others.
        whole = source.template or source.extract or not own
        parts.append((source, part if whole else part.select_columns(own)))
    return StoredRows(parts, rows.kept)
