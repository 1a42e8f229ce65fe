"""Rows that repeat an earlier row, exactly or nearly, found in one pass.

No text is kept in memory. The result depends on the order of the rows, not on the batches in which they are read.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import rensa

from ..config.schema import DeduplicateConfig
from ..errors import RecipeError
from . import ngrams
from .rows import StoredRows

BATCH = 1000  # rows read at once
PERMUTATIONS = 64  # the estimate of a similarity J has a standard error of at most sqrt(J (1 - J) / 64), 0.06
SKETCHED = 64  # texts per call of rensa, which starts threads from some hundreds on; a fork after that hangs
RECALL = 0.97  # least share of the pairs exactly at the threshold that have a band in common
SEED = 1


class Deduplicator:
    """Finds the texts that repeat an earlier one.

    The memory of each distinct text is an 8-byte digest of its words, about 100 bytes as an element of a set. `near`
    adds a MinHash sketch of 64 bytes and one dictionary entry for each of its bands, about 2 kB at 0.7.

    Args:
        exact: texts with the same words (see `ngrams.split_words`) in the same order are equal. Texts without a word
            are compared literally.
        near: least Jaccard similarity of the sets of word pairs, as estimated by MinHash, at which a text repeats an
            earlier one; None disables the comparison. Texts of one word have no pair.

    Attributes:
        counts: number of texts so far that repeat an earlier one, by kind: `exact` and `near`.

    >>> deduplicator = Deduplicator()
    >>> deduplicator.find_repeats(["What is 1,000 + 1?", "Add 2 and 3.", "what is 1000+1"])
    [False, False, True]
    """

    def __init__(self, exact: bool = True, near: float | None = None):
        self.exact = exact
        self.near = near
        self.counts = {"exact": 0, "near": 0}
        self._digests: set[bytes] = set()
        self._sketches: list[bytes] = []  # the lowest byte of each value
        self._first_in_band: dict[int, int] = {}  # band key to the index of the first sketch with it
        self._band_rows = None if near is None else count_band_rows(near)

    def find_repeats(self, texts: list[str]) -> list[bool]:
        """Whether each text repeats an earlier one, of this call or a previous one."""
        repeats = []
        for begin in range(0, len(texts), SKETCHED):
            batch = texts[begin : begin + SKETCHED]
            words = [ngrams.split_words(text) for text in batch]
            sketches = [None] * len(batch) if self.near is None else sketch_word_pairs(words)
            repeats += map(self._is_repeat, batch, words, sketches)
        return repeats

    def _is_repeat(self, text: str, words: list[str], sketch: np.ndarray | None) -> bool:
        # A missing value repeats nothing.
        if self.exact and text and self._is_known(" ".join(words) or text):
            self.counts["exact"] += 1
            return True
        if sketch is not None and len(words) > 1 and self._is_near(sketch):
            self.counts["near"] += 1
            return True
        return False

    def _is_known(self, text: str) -> bool:
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
        known = digest in self._digests
        self._digests.add(digest)
        return known

    def _is_near(self, sketch_P: np.ndarray) -> bool:
        """Whether the sketch is similar to an earlier one of the same band; it is stored if not.

        A band refers to its first sketch only: a lookup takes the same time however many texts share a phrase.
        """
        bands = enumerate(sketch_P.reshape(-1, self._band_rows).tolist())
        keys = [hash((band, *values)) for band, values in bands]
        sketch = sketch_P.astype(np.uint8).tobytes()
        candidates = {self._first_in_band[key] for key in keys if key in self._first_in_band}
        if any(estimate_similarity(sketch, self._sketches[index]) >= self.near for index in candidates):
            return True
        for key in keys:
            self._first_in_band.setdefault(key, len(self._sketches))
        self._sketches.append(sketch)
        return False


def sketch_word_pairs(words_T: list[list[str]]) -> np.ndarray:
    """MinHash sketches of the sets of word pairs [texts, PERMUTATIONS]; a text without a pair has an arbitrary one."""
    pairs_T = [list(map(" ".join, itertools.pairwise(words))) for words in words_T]
    matrix = rensa.RMinHash.digest_matrix_from_token_sets(pairs_T, PERMUTATIONS, SEED)
    return np.array(matrix.to_rows(), np.uint32)


def estimate_similarity(left: bytes, right: bytes) -> float:
    """Jaccard similarity by the lowest bytes of two sketches; 1 in 256 of them is equal by chance."""
    return (sum(map(operator.eq, left, right)) / PERMUTATIONS - 1 / 256) / (1 - 1 / 256)


def count_band_rows(threshold: float) -> int:
    """Values per band: the most with which a pair at the threshold has a band in common with probability RECALL.

    Two texts of similarity J have equal values in a band of r with probability J^r, and in one of b bands with
    1 - (1 - J^r)^b.
    """
    fits = [r for r in (1, 2, 4, 8) if 1 - (1 - threshold**r) ** (PERMUTATIONS // r) >= RECALL]
    return max(fits, default=1)


def build_deduplicator(config: DeduplicateConfig) -> Deduplicator:
    return Deduplicator(config.exact, config.near)


def read_compared_text(value: Any) -> str:
    """The text that is compared: a string, the joined texts of a list or conversation, or else the value as JSON."""
    if isinstance(value, str) or value is None:
        return value or ""
    if not isinstance(value, list):
        return json.dumps(value, default=str, sort_keys=True)
    parts = (part.get("content", part.get("value")) if isinstance(part, dict) else part for part in value)
    return "\n".join(str(part) for part in parts if part)


def read_compared_column(row: dict[str, Any], column: str) -> str:
    """The text of a row that is compared; the last of `messages` is the completion, those before it the prompt."""
    messages = row.get("messages")
    if row.get(column) is None and messages and column in ("prompt", "completion"):
        return read_compared_text(messages[:-1] if column == "prompt" else messages[-1:])
    return read_compared_text(row.get(column))


def drop_duplicates(rows: StoredRows, config: DeduplicateConfig | None) -> tuple[StoredRows, dict[str, int] | None]:
    """Drop the rows of a data task that repeat an earlier one.

    Args:
        rows: of all sources.
        config: the recipe's `deduplicate`; None keeps all rows.

    Returns:
        The other rows, and the number of dropped ones by kind (`exact`, `near`); None without a config.

    Raises:
        RecipeError: a source lacks the column.
    """
    if config is None:
        return rows, None
    for i, (source, part) in enumerate(rows.parts):
        have = [*part.column_names, *source.template, *source.extract]
        if config.column not in have and ("messages" not in have or config.column not in ("prompt", "completion")):
            raise RecipeError(
                f"deduplicate.column: datasets.{i} ({source.path}) has no {config.column!r}; it has {', '.join(have)}"
            )
    deduplicator, kept = build_deduplicator(config), np.zeros(len(rows), bool)
    narrow = select_columns(rows, [config.column, "messages"])
    for begin in range(0, len(rows), BATCH):
        texts = [read_compared_column(row, config.column) for row in narrow.slice(begin, begin + BATCH)]
        kept[begin : begin + len(texts)] = np.logical_not(deduplicator.find_repeats(texts))
    return rows if kept.all() else rows.keep(np.flatnonzero(kept)), deduplicator.counts


def select_columns(rows: StoredRows, columns: Iterable[str]) -> StoredRows:
    """The same rows with these columns only, to compare prompts without reading long completions."""
    parts = []
    for source, part in rows.parts:
        present = [column for column in columns if column in part.column_names]
        # A template or a pattern may need any other column.
        needs_all = source.template or source.extract or not present
        parts.append((source, part if needs_all else part.select_columns(present)))
    return StoredRows(parts, rows.kept)
