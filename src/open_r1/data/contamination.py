"""The contamination gate keeps problems of evaluation sets out of the training prompts.

A training prompt is contaminated if it shares an n-gram of words with an evaluation prompt (`ngram`, 10 in R1's
appendix D.1), if it has the same words as an evaluation prompt of fewer than n words, or, with `near`, if the sets of
word pairs of the two have at least that Jaccard similarity. `ngrams.split_words` defines the words.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import datasets
import numpy as np

from ..benchmarks import registry
from ..config.recipe import Recipe
from ..config.schema import ContaminationConfig, DatasetConfig
from ..errors import RecipeError, suggest_nearest
from ..prompts import PROMPTS
from ..system.files import write_json
from . import columns, deduplicate, ngrams, sources
from .columns import Rows
from .rows import StoredRows

if TYPE_CHECKING:
    from ..run.run import Run


_INSTRUCTIONS = [(before, after) for before, _, after in (p.text.partition("{question}") for p in PROMPTS.values())]
COMPARED = ("prompt", "messages", "chosen", "text")  # the first of these columns that a row has is compared
BATCH = 1000  # rows read at once
MAX_SHARERS = 16  # evaluation prompts indexed for an n-gram; one that more of them share is a stock phrase
SHOWN = 5  # contaminated rows quoted in a message; contaminated.jsonl has all of them
BEGINNING = 200  # characters
STREAM_PREVIEW = 10_000  # rows of a stream that `open-r1 check` compares


class Hit(NamedTuple):
    """What a training prompt has in common with an evaluation prompt.

    Args:
        set: name of the evaluation set in the recipe.
        row: its row, from 0.
        how: `10-gram` (for n = 10), `whole` (both prompts have the same words, fewer than n) or `near`.
        words: the longest run of words that both have; empty for `near`.
        overlap: share of the evaluation prompt's distinct n-grams that the training prompt has; for `near` the Jaccard
            similarity. A copy has 1.0, a stock phrase a few hundredths.
        text: beginning of the evaluation prompt.
    """

    set: str
    row: int
    how: str
    words: str
    overlap: float
    text: str


class Gate:
    """An index of evaluation prompts, with which training prompts are compared.

    Args:
        config: `contamination` of the recipe.
        seed: seed of sources that are functions.

    Attributes:
        sizes: number of prompts by evaluation set.
        missing: error by evaluation set that could not be loaded, with `action: waive`.
        texts: all evaluation prompts.

    Raises:
        RecipeError: `overlap` is not a share, or an evaluation set cannot be loaded and `action` is not `waive`.
    """

    def __init__(self, config: ContaminationConfig, seed: int):
        if not 0 <= config.overlap <= 1:
            raise RecipeError(f"contamination.overlap: a share from 0 to 1, got {config.overlap:g}")
        self.n, self.near, self.overlap = config.ngram, config.near, config.overlap
        self.sizes: dict[str, int] = {}
        self.missing: dict[str, str] = {}
        self.texts: list[str] = []
        self._places: list[tuple[str, int]] = []  # set and row of each text
        for source in config.against:
            try:
                prompts = load_prompts(source, seed)
            except RecipeError as error:
                if config.action != "waive":
                    raise
                self.missing[source.path] = str(error)
                continue
            name = source.path
            if name in self.sizes:
                name += f" ({source.name or 'default'}, {source.split})"
            self.sizes[name] = len(prompts)
            self.texts += prompts
            self._places += [(name, row) for row in range(len(prompts))]
        # The first evaluation prompts that have an n-gram, and the number of n-grams of each prompt.
        self._owners: dict[tuple[str, ...], list[int]] = {}
        self._counts: list[int] = []
        self._pairs: list[set[tuple[str, ...]]] = []
        self._pair_owners: dict[tuple[str, ...], list[int]] = {}
        for owner, text in enumerate(self.texts):
            # Interned: the n-grams of all prompts share one string for each distinct word.
            self._index(owner, [sys.intern(word) for word in ngrams.split_words(text)])

    def _index(self, owner: int, words: list[str]) -> None:
        found = set(ngrams.iterate_ngrams(words, self.n))
        self._counts.append(len(found))
        for ngram in found:
            owners = self._owners.setdefault(ngram, [])
            if len(owners) < MAX_SHARERS:
                owners.append(owner)
        if self.near is not None:
            self._pairs.append(set(ngrams.iterate_ngrams(words, 2)))
            for pair in self._pairs[owner]:
                self._pair_owners.setdefault(pair, []).append(owner)

    def find_hits(self, texts: list[str]) -> list[Hit | None]:
        """The hit of each text with the evaluation prompt that has most in common with it, or None."""
        return [self._find_ngram(words) or self._find_near(words) for words in map(ngrams.split_words, texts)]

    def _find_ngram(self, words: list[str]) -> Hit | None:
        if self._owners.keys().isdisjoint(ngrams.iterate_ngrams(words, self.n)):
            return None
        found = set(ngrams.iterate_ngrams(words, self.n))
        shared = Counter(owner for ngram in found for owner in self._owners.get(ngram, ()))
        eligible = [owner for owner, count in shared.items() if count / self._counts[owner] >= self.overlap]
        if not eligible:
            return None
        owner = max(eligible, key=lambda owner: (shared[owner], -owner))
        theirs = ngrams.split_words(self.texts[owner])
        begin, _, length = SequenceMatcher(None, words, theirs, autojunk=False).find_longest_match()
        how = "whole" if len(words) < self.n else f"{self.n}-gram"
        return self._make_hit(owner, how, words[begin : begin + length], shared[owner] / self._counts[owner])

    def _find_near(self, words: list[str]) -> Hit | None:
        """The hit with the most similar evaluation prompt, if its word pairs have a Jaccard similarity of `near`.

        Such a prompt lacks at most a share 1 - `near` of the training prompt's pairs, so it has at least one of any
        larger set of them: only the prompts of the rarest pairs are compared (the prefix filter of similarity joins).
        """
        if self.near is None:
            return None
        pairs = set(ngrams.iterate_ngrams(words, 2))
        rarest = sorted((self._pair_owners.get(pair, []) for pair in pairs), key=len)
        rarest = rarest[: math.ceil(len(pairs) * (1 - self.near)) + 1]
        compared = [(compute_jaccard(pairs, self._pairs[owner]), -owner) for owner in set().union(*rarest)]
        similarity, owner = max(compared, default=(-1.0, 0))
        return self._make_hit(-owner, "near", [], similarity) if similarity >= self.near else None

    def _make_hit(self, owner: int, how: str, words: list[str], overlap: float) -> Hit:
        beginning = self.texts[owner][:BEGINNING].strip()
        return Hit(*self._places[owner], how, " ".join(words), round(overlap, 3), beginning)


def compute_jaccard(left: set, right: set) -> float:
    both = len(left & right)
    return both / (len(left) + len(right) - both)


def load_prompts(source: DatasetConfig, seed: int) -> list[str]:
    """The prompts of an evaluation set.

    Args:
        source: a benchmark by name, or a source as in `datasets`.
        seed: seed of sources that are functions.

    Raises:
        RecipeError: the set cannot be loaded, or has no column of prompts.
    """
    at = f"contamination.against ({source.path})"
    if source.template or source.extract:
        raise RecipeError(f"{at}: `template` and `extract` are not used here; name the column of the problems")
    try:
        parts = [(part, sources.load_source(part, seed)) for part in _resolve_benchmark(source)]
    except (RecipeError, RuntimeError) as error:  # datasets raises a RuntimeError for a set that needs a script
        is_known = source.path in registry.list_benchmarks() or "/" in source.path
        suggestion = "" if is_known else suggest_nearest(source.path, registry.list_benchmarks())
        raise RecipeError(
            f"{at}: this evaluation set cannot be loaded{suggestion} ({error}). Name a local copy instead, e.g. "
            f"`against: [{{path: {source.path.rpartition('/')[2]}.jsonl, columns: {{prompt: <its column>}}}}]`, or "
            "set `action: waive` with a `reason` to continue without it"
        ) from error
    prompts = [prompt for part, rows in parts for prompt in _read_prompts(part, rows, at)]
    return prompts if source.rows is None else prompts[: source.rows]


def _resolve_benchmark(source: DatasetConfig) -> list[DatasetConfig]:
    """The sources of a benchmark, with the recipe's filters added to theirs; any other source by itself.

    A benchmark's templates put words around its problems, so its columns are read without them.
    """
    if source.path not in registry.list_benchmarks():
        return [source]
    parts = [DatasetConfig(**part) for part in registry.find_benchmark(source.path)["datasets"]]
    return [dataclasses.replace(part, filters=part.filters | source.filters) for part in parts]


def _read_prompts(source: DatasetConfig, rows: Rows, at: str) -> list[str]:
    """The first question of each row that meets the filters, which may name a column by its old or new name."""
    if source.filters:
        filters = {source.columns.get(column, column): condition for column, condition in source.filters.items()}
        rows = rows.filter(columns.build_row_filter(filters, at))
    column = source.columns.get("prompt", "prompt")
    if column not in rows.column_names:
        raise RecipeError(
            f"{at}: column {column!r} is missing; it has {', '.join(rows.column_names)}. "
            "Name the one with the problems: `columns: {prompt: <its column>}`"
        )
    return [extract_questions(value)[0] for value in rows[column]]


def extract_questions(value: Any) -> list[str]:
    """The texts of a prompt that are compared: a string itself, or the messages of a conversation but the assistant's.

    The user's messages come first; system messages are included because they may hold examples. The instruction that a
    prompt of `prompts.PROMPTS` puts around a question is removed: it must not make two prompts alike.

    >>> extract_questions([{"role": "user", "content": "What is 1 + 1?"}, {"role": "assistant", "content": "2"}])
    ['What is 1 + 1?']
    """
    if not value or isinstance(value, str):
        return [_strip_instruction(value or "")]
    try:
        messages = columns.parse_messages(value)
    except RecipeError:
        return [""]  # the task that reads the row reports it
    asked = [message for message in messages if message["role"] != "assistant"] or messages
    asked = sorted(asked, key=lambda message: message["role"] != "user")
    return [_strip_instruction(message["content"]) for message in asked]


def _strip_instruction(text: str) -> str:
    for before, after in _INSTRUCTIONS:
        if text.startswith(before) and text.endswith(after) and len(text) >= len(before) + len(after):
            text = text[len(before) : len(text) - len(after)]
    return text


def extract_row_questions(row: dict[str, Any]) -> list[str]:
    """The questions of a row in any column layout; both its prompt and its messages are compared if it has both."""
    values = [row[column] for column in ("prompt", "messages") if row.get(column)]
    values = values or [next((row[column] for column in COMPARED if row.get(column)), "")]
    return [text for value in values for text in extract_questions(value)]


@dataclass
class Tally:
    """The rows that the gate has compared so far, and their hits.

    Args:
        config: `contamination` of the recipe.
        gate: the evaluation prompts.
        folder: where contaminated.jsonl and contamination.json are written; None writes nothing.
        rows: number of rows compared.
        last: highest row number compared.
        seconds: time taken by the comparison.
        hits: number of hits by evaluation set and kind.
        first: the first contaminated rows: number, text and hit.
    """

    config: ContaminationConfig
    gate: Gate
    folder: Path | None = None
    rows: int = 0
    last: int = -1
    seconds: float = 0.0
    hits: Counter[tuple[str, str]] = field(default_factory=Counter)
    first: list[tuple[int, str, Hit]] = field(default_factory=list)

    def compare(self, texts_R: list[list[str]], numbers: list[int]) -> list[bool]:
        """Compare rows with the evaluation prompts.

        Args:
            texts_R: the questions of each row.
            numbers: number of each row. A number that was compared before, as in a second epoch, is not counted again.

        Returns:
            Whether each row is contaminated.
        """
        began = time.perf_counter()
        hits = iter(self.gate.find_hits([text for texts in texts_R for text in texts]))
        found = []
        for texts in texts_R:
            compared = [(text, next(hits)) for text in texts]
            found.append(next((pair for pair in compared if pair[1] is not None), compared[0]))
        new = [(n, text, hit) for n, (text, hit) in zip(numbers, found, strict=True) if n > self.last]
        contaminated = [row for row in new if row[2] is not None]
        if self.folder is not None and contaminated:
            with (self.folder / "contaminated.jsonl").open("a", encoding="utf-8") as file:
                for number, text, hit in contaminated:
                    row = {"row": number, "text": text[:BEGINNING], "hit": hit._asdict()}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.hits.update((hit.set, hit.how) for _, _, hit in contaminated)
        self.first += contaminated[: SHOWN - len(self.first)]
        self.rows += len(new)
        self.last = max(self.last, *numbers)
        self.seconds += time.perf_counter() - began
        return [hit is not None for _, hit in found]

    @property
    def contaminated(self) -> int:
        return sum(self.hits.values())

    def summarize(self) -> dict[str, Any]:
        """The contents of contamination.json."""
        by_set: dict[str, dict[str, int]] = {name: {} for name in self.gate.sizes}
        for (name, how), count in sorted(self.hits.items()):
            by_set[name][how] = count
        return {
            "sets": self.gate.sizes,
            "missing": self.gate.missing,
            "ngram": self.config.ngram,
            "near": self.config.near,
            "overlap": self.config.overlap,
            "rows": self.rows,
            "contaminated": self.contaminated,
            "hits": by_set,
            "action": self.config.action,
            "reason": self.config.reason,
            "seconds": round(self.seconds, 3),
        }

    def write(self) -> None:
        if self.folder is not None:
            write_json(self.folder / "contamination.json", self.summarize())

    def format_summary(self) -> str:
        """One line: how many rows were compared with which sets, and their hits."""
        sets = ", ".join(f"{name} ({size:,})" for name, size in self.gate.sizes.items()) or "nothing"
        if self.gate.missing:
            sets += f"; not compared, because they could not be loaded: {', '.join(self.gate.missing)}"
        compared = f"{self.rows:,} rows compared with {sets}"
        if not self.contaminated:
            return f"contamination: none in {compared}"
        hits = ", ".join(f"{count} {how} with {name}" for (name, how), count in self.hits.most_common())
        return f"contamination: {self.contaminated:,} of {compared}: {hits}"

    def format_first(self) -> list[str]:
        """A line for each of the first contaminated rows."""
        return [
            f"row {number}: {_shorten(text)!r} has {hit.overlap:.0%} of {hit.set} row {hit.row} ({hit.how}): "
            f"{_shorten(hit.words or hit.text)!r}"
            for number, text, hit in self.first
        ]


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:77] + "..."


def apply_gate(run: Run, rows: Rows | StoredRows, config: ContaminationConfig | None) -> Rows | StoredRows:
    """Compare the rows of a task with the evaluation sets, and drop, keep or refuse the contaminated ones.

    A stream is compared while it is read. The run directory gets `contamination.json` (the sets, and the number of
    rows and hits) and `contaminated.jsonl` (each contaminated row with its hit).

    Args:
        run: only its main process writes.
        rows: training rows, or stored rows of a data task.
        config: `contamination` of the recipe; None keeps all rows.

    Returns:
        The rows to train on, sample from or mix.

    Raises:
        RecipeError: contaminated rows with `action: fail`, no row left, or an evaluation set that cannot be loaded.
    """
    if config is None:
        return rows
    # Every part of a job array finds the same rows; the first one writes them.
    writes = run.main and not run.recipe.part
    if writes:
        (run.dir / "contaminated.jsonl").unlink(missing_ok=True)
    tally = Tally(config, Gate(config, run.recipe.seed), run.dir if writes else None)
    for name, error in tally.gate.missing.items():
        run.say(f"contamination: {name} is not compared: {error}")
    if isinstance(rows, datasets.IterableDataset):
        return _gate_stream(rows, tally)
    kept = np.flatnonzero(~np.fromiter(_compare_rows(rows, tally), bool, count=len(rows)))
    tally.write()
    run.say(tally.format_summary())
    if not tally.contaminated:
        return rows
    if config.action == "fail":
        raise RecipeError(format_refusal(tally))
    if config.action == "waive":
        run.say(f"contamination: the contaminated rows are kept. Reason: {config.reason}")
        return rows
    if not len(kept):
        raise RecipeError(f"{tally.format_summary()}; none is left")
    run.say(f"contamination: the contaminated rows are dropped; {len(kept):,} rows are left")
    return rows.keep(kept) if isinstance(rows, StoredRows) else rows.select(kept)


def preview_gate(recipe: Recipe, rows: Rows | StoredRows) -> Tally:
    """Compare rows for `open-r1 check`, which writes nothing; of a stream the first STREAM_PREVIEW rows.

    Raises:
        RecipeError: an evaluation set cannot be loaded.
    """
    config = recipe.data.contamination
    tally = Tally(config, Gate(config, recipe.seed))
    if isinstance(rows, datasets.IterableDataset):
        rows = datasets.Dataset.from_list(list(rows.take(STREAM_PREVIEW)))
    for _ in _compare_rows(rows, tally):
        pass
    return tally


def format_refusal(tally: Tally) -> str:
    """The error message of a run that stops at contaminated rows."""
    where = f" All are in {tally.folder / 'contaminated.jsonl'}." if tally.folder else ""
    advice = "Set `contamination.action` to drop to leave them out, or to waive with a `reason` to keep them"
    return "\n  ".join([f"{tally.format_summary()}.{where} {advice}. The first:", *tally.format_first()])


def _compare_rows(rows: datasets.Dataset | StoredRows, tally: Tally) -> Iterator[bool]:
    """Whether each row is contaminated, in order; BATCH rows are in memory at once."""
    if isinstance(rows, StoredRows):
        narrow = deduplicate.select_columns(rows, COMPARED)
        for begin in range(0, len(rows), BATCH):
            texts = [extract_row_questions(row) for row in narrow.slice(begin, begin + BATCH)]
            yield from tally.compare(texts, narrow.numbers(begin, begin + BATCH).tolist())
        return
    column = next(column for column in COMPARED if column in rows.column_names)
    narrow = rows.select_columns([column])
    for begin in range(0, len(rows), BATCH):
        texts = [extract_questions(value) for value in narrow[begin : begin + BATCH][column]]
        yield from tally.compare(texts, list(range(begin, begin + len(texts))))


def _gate_stream(rows: datasets.IterableDataset, tally: Tally) -> datasets.IterableDataset:
    column = next(column for column in COMPARED if column in columns.list_columns(rows))

    def filter_batch(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
        contaminated = tally.compare([extract_questions(value) for value in batch[column]], numbers)
        tally.write()
        if not any(contaminated) or tally.config.action == "waive":
            return batch
        if tally.config.action == "fail":
            raise RecipeError(format_refusal(tally))
        return {
            name: [value for value, drop in zip(values, contaminated, strict=True) if not drop]
            for name, values in batch.items()
        }

    tally.write()
    return rows.map(filter_batch, batched=True, batch_size=BATCH, with_indices=True, features=rows.features)
