"""The contamination gate: no problem of an evaluation set among the training prompts.

A training prompt is contaminated if it shares n words in a row with an evaluation prompt (`ngram`, 10 in R1's appendix
D.1), if it is the same as one that has fewer words, or, with `near`, if the two have nearly the same pairs of words.
What words are is said in ngrams.py; a hit found by hashes is confirmed on the words themselves.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import itemgetter
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
from . import columns, deduplicate, minhash, ngrams, sources
from .columns import Rows
from .ngrams import Words
from .rows import StoredRows

if TYPE_CHECKING:
    from ..run.run import Run


_AROUND = [(before, after) for before, _, after in (p.text.partition("{question}") for p in PROMPTS.values())]
COMPARED = ("prompt", "messages", "chosen", "text")  # the first of these that a row has
BATCH = 1000  # rows read at once
SHARERS = 16  # evaluation prompts counted of those that have an n-gram; what more have is a stock phrase
SHOWN = 5  # rows told of in a message; the run directory has them all
BEGINNING = 200  # characters
CHECKED_OF_STREAM = 10_000  # rows of a stream that `open-r1 check` looks at


class Hit(NamedTuple):
    """What a training prompt has in common with an evaluation set.

    Args:
        set: the evaluation set, as the recipe names it.
        row: row of it, from 0.
        how: `10-gram`, `whole` (the evaluation prompt has fewer words, and this is all of it) or `near`.
        words: the words that both have in a row; of a near-duplicate, none.
        overlap: share of the evaluation prompt's n-grams that the training prompt has; of a near-duplicate, the
            Jaccard similarity. 1.0 is a copy, a few hundredths are a phrase.
        text: the evaluation prompt's beginning.
    """

    set: str
    row: int
    how: str
    words: str
    overlap: float
    text: str


class Gate:
    """The evaluation prompts, ready to be looked for.

    Args:
        config: of the recipe.
        seed: of sources that are functions.

    Raises:
        RecipeError: a set cannot be loaded; with `action: waive` it is left out and named in `missing`.
    """

    def __init__(self, config: ContaminationConfig, seed: int):
        if not 0 <= config.overlap <= 1:
            raise RecipeError(f"contamination.overlap: a share from 0 to 1, got {config.overlap:g}")
        self.n, self.near, self.overlap = config.ngram, config.near, config.overlap
        self.sizes: dict[str, int] = {}
        self.missing: dict[str, str] = {}
        self.names: list[str] = []  # of the set of each evaluation prompt
        self.rows: list[int] = []
        self.texts: list[str] = []
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
            self.names += [name] * len(prompts)
            self.rows += range(len(prompts))
            self.texts += prompts
        cuts = list(ngrams.batches(self.texts))
        self.words = [cut.of(row) for cut in cuts for row in range(len(cut.counts))]
        self._index_ngrams(cuts)
        self._index_short(cuts)
        if self.near is not None:
            self._index_near(cuts)

    def _index_ngrams(self, cuts: list[Words]) -> None:
        keys, owners, places, first = [np.zeros(0, np.uint64)], [np.zeros(0, int)], [np.zeros(0, int)], 0
        for cut in cuts:
            index, counts = cut.windows(self.n)
            owner = np.repeat(np.arange(len(counts)), counts)
            keys.append(ngrams.ngram_hashes(cut.hashes, self.n)[index])
            owners.append(owner + first)
            places.append(index - cut.starts[owner])
            first += len(counts)
        # The prompts of an n-gram stand side by side in their order, each with the first of its places.
        every, owner = np.concatenate(keys), np.concatenate(owners)
        order = np.lexsort((owner, every))
        every, owner, place = every[order], owner[order], np.concatenate(places)[order]
        again = np.zeros(len(every), bool)
        again[1:] = (every[1:] == every[:-1]) & (owner[1:] == owner[:-1])
        every, self._owners, self._places = every[~again], owner[~again], place[~again]
        self._sizes = np.bincount(self._owners, minlength=len(self.words))
        self._keys, self._first, counts = np.unique(every, return_index=True, return_counts=True)
        self._counts = np.minimum(counts, SHARERS)
        # Two tables rule out nearly every n-gram before the sorted keys are searched: a small one by the first bits of
        # the hash, which stays in the processor's cache, and for what passes it a larger one by the last bits.
        size = max(1, len(self._keys)).bit_length()
        self._shift, self._mask = np.uint64(64 - size - 1), np.uint64((1 << size + 5) - 1)
        self._coarse, self._fine = np.zeros(1 << size + 1, bool), np.zeros(1 << size + 5, bool)
        self._coarse[self._keys >> self._shift] = True
        self._fine[self._keys & self._mask] = True

    def _index_short(self, cuts: list[Words]) -> None:
        """Evaluation prompts of fewer than n words, by their fingerprints."""
        self._short: dict[int, int] = {}
        first = 0
        for cut in cuts:
            for row, fingerprint in self._short_rows(cut):
                self._short.setdefault(fingerprint, first + row)
            first += len(cut.counts)

    def _short_rows(self, cut: Words) -> Iterator[tuple[int, int]]:
        few = np.flatnonzero((cut.counts > 0) & (cut.counts < self.n))
        if len(few):
            yield from zip(few.tolist(), ngrams.fingerprints(cut, few).tolist(), strict=True)

    def _index_near(self, cuts: list[Words]) -> None:
        """Evaluation prompts by the bands of their sketches, sorted."""
        self._band_rows = minhash.rows_per_band(self.near)
        self._shingles = [np.unique(hashes) for cut in cuts for hashes in minhash.shingle_sets(cut)]
        owners = np.array([i for i, hashes in enumerate(self._shingles) if len(hashes)], int)
        none = np.zeros((0, minhash.PERMUTATIONS), np.uint32)
        sketches = np.concatenate([none, *map(minhash.sketches, cuts)])[owners]
        bands = minhash.band_keys(sketches, self._band_rows)
        order = np.argsort(bands, axis=None, kind="stable")
        self._bands = bands.ravel()[order]
        self._band_owners = np.repeat(owners, bands.shape[1])[order]

    def hits(self, texts: list[str]) -> list[Hit | None]:
        """What each training prompt hits, or None; of several the one with most in common."""
        found: list[Hit | None] = []
        for cut in ngrams.batches(texts):
            hits: list[Hit | None] = [None] * len(cut.counts)
            # The kinds in order of their weight: a later one does not replace an earlier one.
            for kind in (self._ngram_hits, self._whole_hits, self._near_hits):
                for row, hit in kind(cut):
                    hits[row] = hits[row] or hit
            found += hits
        return found

    def _ngram_hits(self, cut: Words) -> Iterator[tuple[int, Hit]]:
        hashes = ngrams.ngram_hashes(cut.hashes, self.n)
        at = np.flatnonzero(self._coarse.take((hashes >> self._shift).view(np.int64)))
        at = at[self._fine.take((hashes[at] & self._mask).view(np.int64))]
        known = np.minimum(np.searchsorted(self._keys, hashes[at]), len(self._keys) - 1)
        same = self._keys[known] == hashes[at]
        known = known[same]
        if not len(known):
            return
        at = np.repeat(at[same], self._counts[known])
        known, _ = ngrams.ranges(self._first[known], self._counts[known])
        rows = np.searchsorted(cut.starts, at, side="right") - 1
        shared = np.stack([rows, self._owners[known], at - cut.starts[rows], self._places[known]])
        shared = shared[:, np.lexsort((shared[2], shared[3] - shared[2], shared[1], shared[0]))]
        # N-grams that follow one another in both are one run of words.
        breaks = np.flatnonzero((np.diff(shared) != [[0], [0], [1], [1]]).any(axis=0)) + 1
        first = np.concatenate([[0], breaks])
        runs = zip(*shared[:, first].tolist(), np.diff(first, append=len(at)).tolist(), strict=True)
        for row, group in itertools.groupby(runs, key=itemgetter(0)):
            hit = self._confirmed(cut, row, list(group))
            if hit is not None:
                yield row, hit

    def _confirmed(self, cut: Words, row: int, runs: list[tuple[int, int, int, int, int]]) -> Hit | None:
        """The hit on the evaluation prompt with most of the row's n-grams, if the words are the same as the hashes.

        Args:
            cut: the batch.
            row: the text in it.
            runs: row, evaluation prompt, first word in the row, first word there, and length in n-grams.
        """
        had: dict[int, set[int]] = {}  # of each evaluation prompt, the places of the n-grams that the row has
        for _, owner, _, there, length in runs:
            had.setdefault(owner, set()).update(range(there, there + length))
        for owner in sorted(had, key=lambda owner: len(had[owner]), reverse=True):
            theirs = self.words[owner]
            overlap = len(had[owner]) / int(self._sizes[owner])
            if overlap < self.overlap:
                continue
            own = [run[2:] for run in runs if run[1] == owner]
            for mine, there, length in sorted(own, key=itemgetter(2), reverse=True):
                words = cut.of(row, mine, length + self.n - 1)
                if words == theirs[there : there + len(words)]:
                    return self._hit(owner, f"{self.n}-gram", words, overlap)
        return None

    def _whole_hits(self, cut: Words) -> Iterator[tuple[int, Hit]]:
        if not self._short:
            return
        for row, fingerprint in self._short_rows(cut):
            owner = self._short.get(fingerprint)
            if owner is not None and (words := cut.of(row)) == self.words[owner]:
                yield row, self._hit(owner, "whole", words, 1.0)

    def _near_hits(self, cut: Words) -> Iterator[tuple[int, Hit]]:
        if self.near is None or not len(self._bands):
            return
        shingles = minhash.shingle_sets(cut)
        bands = minhash.band_keys(minhash.sketches(cut), self._band_rows)
        first = np.searchsorted(self._bands, bands, side="left")
        last = np.searchsorted(self._bands, bands, side="right")
        for row in np.flatnonzero((last > first).any(axis=1)).tolist():
            mine = np.unique(shingles[row])
            if not len(mine):
                continue
            ranges = zip(first[row], last[row], strict=True)
            owners = sorted({int(owner) for a, b in ranges for owner in self._band_owners[a:b]})
            similarity, owner = max((jaccard(mine, self._shingles[owner]), -owner) for owner in owners)
            if similarity >= self.near:
                yield row, self._hit(-owner, "near", [], similarity)

    def _hit(self, owner: int, how: str, words: list[str], overlap: float) -> Hit:
        beginning = self.texts[owner][:BEGINNING].strip()
        return Hit(self.names[owner], self.rows[owner], how, " ".join(words), round(overlap, 3), beginning)


def jaccard(left: np.ndarray, right: np.ndarray) -> float:
    """Similarity of two sets, each given without repetition."""
    both = len(np.intersect1d(left, right, assume_unique=True))
    return both / (len(left) + len(right) - both)


def load_prompts(source: DatasetConfig, seed: int) -> list[str]:
    """The prompts of an evaluation set.

    Raises:
        RecipeError: it cannot be loaded, or has no such column.
    """
    at = f"contamination.against ({source.path})"
    if source.template or source.extract:
        raise RecipeError(f"{at}: `template` and `extract` are not used here; name the column of the problems")
    try:
        parts = [(part, sources.load_source(part, seed)) for part in _parts(source)]
    except (RecipeError, RuntimeError) as error:  # datasets' error of a set that needs a script is a RuntimeError
        known = source.path in registry.list_benchmarks() or "/" in source.path
        meant = "" if known else suggest_nearest(source.path, registry.list_benchmarks())
        raise RecipeError(
            f"{at}: this evaluation set cannot be loaded{meant} ({error}). Name a local copy instead, e.g. `against: "
            f"[{{path: {source.path.rpartition('/')[2]}.jsonl, columns: {{prompt: <its column>}}}}]`, or set `action: "
            "waive` with a `reason` to go on without it"
        ) from error
    prompts = [prompt for part, rows in parts for prompt in _prompts(part, rows, at)]
    return prompts if source.rows is None else prompts[: source.rows]


def _parts(source: DatasetConfig) -> list[DatasetConfig]:
    """The sources of a benchmark that is named, with the recipe's filters beside its own; or the source itself.

    A benchmark's templates put words around its problems, and its own columns hold the problems alone.
    """
    if source.path not in registry.list_benchmarks():
        return [source]
    parts = [DatasetConfig(**part) for part in registry.find_benchmark(source.path)["datasets"]]
    return [dataclasses.replace(part, filters=part.filters | source.filters) for part in parts]


def _prompts(source: DatasetConfig, rows: Rows, at: str) -> list[str]:
    """The column of the problems, in the rows that meet the filters, which may go by either name of a column."""
    if source.filters:
        filters = {source.columns.get(column, column): condition for column, condition in source.filters.items()}
        rows = rows.filter(columns.build_row_filter(filters, at))
    column = source.columns.get("prompt", "prompt")
    if column not in rows.column_names:
        raise RecipeError(
            f"{at}: column {column!r} is missing; it has {', '.join(rows.column_names)}. "
            "Name the one with the problems: `columns: {prompt: <its column>}`"
        )
    return [questions(value)[0] for value in rows[column]]


def questions(value: Any) -> list[str]:
    """The texts that are compared: a text itself, or of a conversation each message that is not the assistant's.

    The user's come first; a system message may hold examples. What a prompt of `prompts.PROMPTS` puts around a
    question is taken off: a training and an evaluation prompt do not become alike by the same instruction.
    """
    if not value or isinstance(value, str):
        return [_bare(value or "")]
    try:
        messages = columns.parse_messages(value)
    except RecipeError:
        return [""]  # there is no question to compare; whoever reads the row says what is wrong with it
    asked = [message for message in messages if message["role"] != "assistant"] or messages
    return [_bare(message["content"]) for message in sorted(asked, key=lambda message: message["role"] != "user")]


def _bare(text: str) -> str:
    for before, after in _AROUND:
        if text.startswith(before) and text.endswith(after) and len(text) >= len(before) + len(after):
            text = text[len(before) : len(text) - len(after)]
    return text


def asked(row: dict[str, Any]) -> list[str]:
    """The questions of a row, whatever the layout of its source; of one with a prompt and messages those of both."""
    values = [row[column] for column in ("prompt", "messages") if row.get(column)]
    values = values or [next((row[column] for column in COMPARED if row.get(column)), "")]
    return [text for value in values for text in questions(value)]


@dataclass
class Tally:
    """What the gate has found so far.

    Args:
        config: of the recipe.
        gate: what the rows are compared with.
        folder: where contaminated rows are listed; None lists them nowhere.
        rows: how many have been compared.
        last: number of the last of them.
        hits: by set and kind.
        first: the first contaminated rows: number, beginning of the text, hit.
    """

    config: ContaminationConfig
    gate: Gate
    folder: Path | None = None
    rows: int = 0
    last: int = -1
    seconds: float = 0.0
    hits: Counter[tuple[str, str]] = field(default_factory=Counter)
    first: list[tuple[int, str, Hit]] = field(default_factory=list)

    def check(self, texts_R: list[list[str]], numbers: list[int]) -> list[bool]:
        """Whether each row is contaminated; rows whose number has been checked before are not counted again."""
        began = time.perf_counter()
        hits = iter(self.gate.hits([text for texts in texts_R for text in texts]))
        found = []
        for texts in texts_R:
            compared = [(text, next(hits)) for text in texts]
            found.append(next((one for one in compared if one[1] is not None), compared[0]))
        new = [(n, text, hit) for n, (text, hit) in zip(numbers, found, strict=True) if n > self.last]
        listed = [row for row in new if row[2] is not None]
        if self.folder is not None and listed:
            with (self.folder / "contaminated.jsonl").open("a", encoding="utf-8") as log:
                for number, text, hit in listed:
                    row = {"row": number, "text": text[:BEGINNING], "hit": hit._asdict()}
                    log.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.hits.update((hit.set, hit.how) for _, _, hit in listed)
        self.first += listed[: SHOWN - len(self.first)]
        self.rows += len(new)
        self.last = max(self.last, *numbers)
        self.seconds += time.perf_counter() - began
        return [hit is not None for _, hit in found]

    @property
    def contaminated(self) -> int:
        return sum(self.hits.values())

    def result(self) -> dict[str, Any]:
        """What contamination.json says."""
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
            write_json(self.folder / "contamination.json", self.result())

    def told(self) -> str:
        """One line: how many rows hit what."""
        sets = ", ".join(f"{name} ({size:,})" for name, size in self.gate.sizes.items()) or "nothing"
        if self.gate.missing:
            sets += f"; not compared, as they could not be loaded: {', '.join(self.gate.missing)}"
        what = f"{self.rows:,} rows compared with {sets}"
        if not self.contaminated:
            return f"contamination: none in {what}"
        hits = ", ".join(f"{count} {how} with {name}" for (name, how), count in self.hits.most_common())
        return f"contamination: {self.contaminated:,} of {what}: {hits}"

    def shown(self) -> list[str]:
        """A line for each of the first contaminated rows."""
        return [
            f"row {number}: {_clipped(text)!r} has {hit.overlap:.0%} of {hit.set} row {hit.row} ({hit.how}): "
            f"{_clipped(hit.words or hit.text)!r}"
            for number, text, hit in self.first
        ]


def _clipped(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:77] + "..."


def apply_gate(run: Run, rows: Rows | StoredRows, config: ContaminationConfig | None) -> Rows | StoredRows:
    """The rows that may be trained on, sampled from or mixed; a stream is checked as it flows.

    The run directory gets `contamination.json` (what was compared, and how many rows hit what) and
    `contaminated.jsonl` (each such row, and what it hits).

    Args:
        run: under way; only its main process writes.
        rows: of a task, presented or as they are stored.
        config: of the recipe; None lets everything through.

    Raises:
        RecipeError: contaminated rows, with `action: fail`; a set that cannot be loaded.
    """
    if config is None:
        return rows
    # The parts of a job array all find the same.
    writes = run.main and not run.recipe.part
    if writes:
        (run.dir / "contaminated.jsonl").unlink(missing_ok=True)
    tally = Tally(config, Gate(config, run.recipe.seed), run.dir if writes else None)
    for name, reason in tally.gate.missing.items():
        run.say(f"contamination: {name} is not compared: {reason}")
    if isinstance(rows, datasets.IterableDataset):
        return _guarded_stream(rows, tally)
    kept = np.flatnonzero(~np.fromiter(_checked(rows, tally), bool, count=len(rows)))
    tally.write()
    run.say(tally.told())
    if not tally.contaminated:
        return rows
    if config.action == "fail":
        raise RecipeError(format_refusal(tally))
    if config.action == "waive":
        run.say(f"contamination: they stay, because: {config.reason}")
        return rows
    if not len(kept):
        raise RecipeError(f"{tally.told()}; none is left")
    run.say(f"contamination: they are dropped; {len(kept):,} rows are left")
    return rows.keep(kept) if isinstance(rows, StoredRows) else rows.select(kept)


def preview_gate(recipe: Recipe, rows: Rows | StoredRows) -> Tally:
    """The same for `open-r1 check`, which writes nothing; of a stream the first rows.

    Raises:
        RecipeError: a set that cannot be loaded.
    """
    config = recipe.data.contamination
    tally = Tally(config, Gate(config, recipe.seed))
    if isinstance(rows, datasets.IterableDataset):
        rows = datasets.Dataset.from_list(list(rows.take(CHECKED_OF_STREAM)))
    for _ in _checked(rows, tally):
        pass
    return tally


def format_refusal(tally: Tally) -> str:
    """What a run that stops on contaminated rows says."""
    where = f" All are in {tally.folder / 'contaminated.jsonl'}." if tally.folder else ""
    advice = "Set `contamination.action` to drop to leave them out, or to waive with a `reason` to keep them"
    return "\n  ".join([f"{tally.told()}.{where} {advice}. The first:", *tally.shown()])


def _checked(rows: datasets.Dataset | StoredRows, tally: Tally) -> Iterator[bool]:
    """Row after row, whether it is contaminated."""
    if isinstance(rows, StoredRows):
        narrow = deduplicate.select_columns(rows, list(COMPARED))
        for begin in range(0, len(rows), BATCH):
            texts = [asked(row) for row in narrow.slice(begin, begin + BATCH)]
            yield from tally.check(texts, narrow.numbers(begin, begin + BATCH).tolist())
        return
    column = next(column for column in COMPARED if column in rows.column_names)
    narrow = rows.select_columns([column])
    for begin in range(0, len(rows), BATCH):
        texts = [questions(value) for value in narrow[begin : begin + BATCH][column]]
        yield from tally.check(texts, list(range(begin, begin + len(texts))))


def _guarded_stream(rows: datasets.IterableDataset, tally: Tally) -> datasets.IterableDataset:
    column = next(column for column in COMPARED if column in columns.list_columns(rows))

    def checked(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
        bad = tally.check([questions(value) for value in batch[column]], numbers)
        tally.write()
        if not any(bad) or tally.config.action == "waive":
            return batch
        if tally.config.action == "fail":
            raise RecipeError(format_refusal(tally))
        return {name: [v for v, b in zip(values, bad, strict=True) if not b] for name, values in batch.items()}

    tally.write()
    return rows.map(checked, batched=True, batch_size=BATCH, with_indices=True, features=rows.features)
