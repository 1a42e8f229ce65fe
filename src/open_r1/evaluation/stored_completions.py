"""Completions from a file, judged without a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import datasets

from ..config.schema import DatasetConfig
from ..data.columns import TEXT
from ..data.rows import StoredRows, read_stored_rows
from ..data.shards import Shards
from ..errors import RecipeError
from ..prompts import hash_prompt
from .problems import Problems, Sets

Row = dict[str, Any]

KNOWN = ("tokens", "finish_reason", "seed", "model")  # optional columns
SHOWN = 3  # problems named in a message


class StoredCompletions:
    """A file of completions, matched with the problems.

    Args:
        source: with the columns `completion` (a text, or a list of texts), and `id` or `prompt` of the problem; with
            several benchmarks also `benchmark`; optionally those of `KNOWN`.
        sets: the problems. If they are only a part of their sources, completions of other problems are left out.
        seed: of a source that is a function.

    Raises:
        RecipeError: a missing column, a completion without a problem, or a problem without completions.
    """

    def __init__(self, source: DatasetConfig, sets: Sets, seed: int):
        self.at = f"completions ({source.path})"
        self.rows: datasets.Dataset = read_stored_rows([source], "imported", seed, "completions").parts[0][1]
        have = self.rows.column_names
        if not {"id", "prompt"} & {*have}:
            raise RecipeError(f"{self.at}: `id` or `prompt` must say which problem a row answers; it has {have}")
        if len(sets.sets) > 1 and "benchmark" not in have:
            raise RecipeError(f"{self.at}: with several benchmarks, the column `benchmark` must say whose a row is")
        completion = self.rows.features["completion"]
        text = completion.feature if isinstance(completion, datasets.List | datasets.LargeList) else completion
        if text not in (TEXT, datasets.Value("large_string"), datasets.Value("null")):
            raise RecipeError(f"{self.at}: `completion` must be a text, or a list of texts; it is {completion}")
        self._several = isinstance(self.rows.features["completion"], datasets.List | datasets.LargeList)
        self.k = {problems.benchmark.name: problems.benchmark.k for problems in sets.sets}
        # (benchmark, place) -> row, and index in its list of completions
        self.places: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
        self._match_problems(sets)
        for problems in sets.sets:
            self._check_counts(problems)

    def _match_problems(self, sets: Sets) -> None:
        known = {problems.benchmark.name: problems.index_places() for problems in sets.sets}
        only = next(iter(known)) if len(known) == 1 else None
        columns = [c for c in ("benchmark", "id", "prompt") if c in self.rows.column_names]
        lost = []
        for i, row in enumerate(self.rows.select_columns([*columns, *(["completion"] if self._several else [])])):
            benchmark = row.get("benchmark") or only
            name = str(row["id"]) if row.get("id") is not None else hash_prompt(row.get("prompt") or "")
            place = known.get(benchmark, {}).get(name)
            if place is None:
                lost.append(f"row {i} ({benchmark} {name})")
                continue
            count = len(row["completion"] or []) if self._several else 1
            self.places[benchmark, place] += [(i, j) for j in range(count)]
        if lost and all(len(problems) == problems.there for problems in sets.sets):
            raise RecipeError(
                f"{self.at}: {len(lost)} rows belong to no problem of the benchmark, {', '.join(lost[:SHOWN])} first; "
                "`id` must be the problem's id, or `prompt` its text as the benchmark has it"
            )

    def _check_counts(self, problems: Problems) -> None:
        """Check that every problem has k completions: the missing ones may be those of hard problems."""
        name, k = problems.benchmark.name, problems.benchmark.k
        counts = [len(self.places[name, p]) for p in range(len(problems))]
        short = [problems.ids[p] for p, count in enumerate(counts) if count < k]
        if short:
            least = min(counts)
            advice = f"`--k {least}`{' --metrics pass@1' if least == 1 else ''} takes what all have"
            if not least:
                advice = f"{counts.count(0)} have none; --problems N measures the first N only"
            raise RecipeError(
                f"{self.at}: {len(short)} of {len(counts)} problems of {name} have fewer than {k} completions, "
                f"{', '.join(short[:SHOWN])} first; {advice}"
            )

    def read_rows(self, sets: Sets, files: Shards, number: int) -> list[Row]:
        """The rows of one file of the evaluation."""
        return [
            row for problems, span in sets.split(files.range(number)) for row in self._read_problems(problems, span)
        ]

    def _read_problems(self, problems: Problems, span: range) -> Iterator[Row]:
        name, k = problems.benchmark.name, problems.benchmark.k
        for place in span:
            for sample, (i, j) in enumerate(self.places[name, place][:k]):
                row = self.rows[i]
                text = row["completion"][j] if self._several else row["completion"]
                known = {key: row.get(key) for key in KNOWN}
                if self._several:
                    known = {key: self._pick_value(i, key, value, j) for key, value in known.items()}
                yield known | {
                    "benchmark": name,
                    "problem": problems.ids[place],
                    "prompt_id": problems.hashes[place],
                    "row": place,
                    "sample": sample,
                    "completion": text,
                    "finish_reason": "refused" if text is None else known["finish_reason"],
                    "refused": "no completion" if text is None else None,
                    "model": known["model"] or self.at,
                }

    def _pick_value(self, i: int, column: str, value: Any, j: int) -> Any:
        """The value of completion j in a column that may hold one for each completion."""
        if not isinstance(value, list):
            return value
        if j >= len(value):
            raise RecipeError(
                f"{self.at}, row {i}: {column!r} has {len(value)} values, fewer than there are completions"
            )
        return value[j]

    def describe(self) -> str:
        """The numbers of completions that are judged and that are not."""
        taken = sum(min(len(found), self.k[name]) for (name, _), found in self.places.items())
        left = sum(map(len, self.places.values())) - taken
        more = f"; {left:,} more, beyond the first of each problem, are not" if left else ""
        return f"{taken:,} completions of {self.at} are judged{more}"

    def identity(self) -> dict[str, Any]:
        """What identifies this file, for `job_array.check_same_rows`."""
        return StoredRows([(DatasetConfig(self.at), self.rows)]).identity()["sources"][0]
