"""The problems of benchmarks, as an evaluation reads them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..config import protocol
from ..config.recipe import Recipe
from ..config.schema import BenchmarkConfig
from ..data.rows import StoredRows, read_stored_rows
from ..errors import RecipeError
from ..prompts import hash_prompt
from . import grading

Row = dict[str, Any]

READ_ROWS = 64  # problems held at once; the hidden tests of one may take megabytes


def load_benchmarks(recipe: Recipe) -> list[BenchmarkConfig]:
    """The benchmarks by the recipe's protocol."""
    given = recipe.given
    return protocol.apply_protocol(recipe.args, given.get("prompt"), given.get("system_prompt"))


class Problems:
    """The problems of one benchmark.

    Args:
        benchmark: as it is measured.
        rows: with `prompt` and the verifier's columns.
        there: how many its sources have, of which `rows` may be the first; by default as many.

    Raises:
        RecipeError: two problems of one id.
    """

    def __init__(self, benchmark: BenchmarkConfig, rows: StoredRows, there: int | None = None):
        self.benchmark, self.rows = benchmark, rows
        self.there = len(rows) if there is None else there
        self.grader = grading.Grader(benchmark.verifier, benchmark.max_tokens)
        self.ids: list[str] = []
        self.hashes: list[str] = []  # of the prompts
        self.questions: list[str] = []  # their beginnings
        whole = hashlib.sha256()
        self.identity = grading.digest_problems(self._read_ids(whole))
        self.looks = whole.hexdigest()[:16]  # of all columns, so that it is the same for another verifier
        repeated = [name for name, count in Counter(self.ids).items() if count > 1]
        if repeated:
            places = ", ".join(str(i) for i, name in enumerate(self.ids) if name == repeated[0])
            raise RecipeError(
                f"benchmarks.{benchmark.name}: {len(repeated)} problem ids are there more than once, {repeated[0]!r} "
                f"first (rows {places}), and would count so often. Remove the repeated rows, or name another column "
                "with `columns: {id: ...}`"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def places(self) -> dict[str, int]:
        """The problems' places by their ids and by their prompts' hashes."""
        return {name: place for names in (self.hashes, self.ids) for place, name in enumerate(names)}

    def _read_ids(self, whole: hashlib._Hash) -> Iterator[list[Any]]:
        """Note the problems' ids, and all of each in `whole`; what each of them is."""
        columns = grading.list_columns(self.benchmark.verifier)
        for row in self.read(range(len(self))):
            whole.update(json.dumps(row, sort_keys=True, default=str).encode())
            name = row.get("id")
            self.hashes.append(hash_prompt(row["prompt"] or ""))
            self.questions.append(grading.shorten_question(row["prompt"]))
            self.ids.append(self.hashes[-1] if name is None else str(name))
            yield [self.ids[-1], row["prompt"], *(row.get(column) for column in columns)]

    def read(self, span: range) -> Iterator[Row]:
        """Problems at these places, each with its `row`."""
        for start in range(span.start, span.stop, READ_ROWS):
            stop = min(start + READ_ROWS, span.stop)
            for place, row in enumerate(self.rows.slice(start, stop), start=start):
                yield row | {"row": place}


class Sets:
    """The problems of all benchmarks one after another, as they are divided into files.

    Args:
        sets: of each benchmark.
        seed: of the sampling.
    """

    def __init__(self, sets: list[Problems], seed: int):
        self.sets, self.seed = sets, seed
        self.ends = np.cumsum([len(problems) for problems in sets])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def of(self, span: range) -> Iterator[tuple[Problems, range]]:
        """The benchmarks in a span, each with its own places in it."""
        for problems, end in zip(self.sets, self.ends.tolist(), strict=True):
            first = end - len(problems)
            own = range(max(span.start, first) - first, min(span.stop, end) - first)
            if own:
                yield problems, own

    def graders(self, span: range) -> dict[str, str]:
        """Benchmark -> the version that judges it now, of those in a span."""
        return {problems.benchmark.name: problems.grader.version for problems, _ in self.of(span)}

    def identity(self, *more: dict[str, Any]) -> dict[str, Any]:
        """What tells these problems, and `more` sources, from others, for `run.same_rows`."""
        told = [
            {"path": problems.benchmark.name, "rows": len(problems), "looks": problems.looks} for problems in self.sets
        ]
        return {"sources": [*told, *more], "kept": None}


def load_problems(benchmark: BenchmarkConfig, seed: int) -> Problems:
    """The problems of a benchmark.

    Raises:
        RecipeError: a source that cannot be loaded, a column that is missing, two problems of one id.
    """
    at = f"benchmarks.{benchmark.name}"
    try:
        rows = read_stored_rows(benchmark.datasets, "evaluate", seed, f"{at}.datasets")
    except RecipeError as error:
        # Of a source that cannot be had; what is missing in one that can, is told by its place in the recipe.
        told = str(error)
        if told.startswith("datasets: "):
            copy = f"{{name: {benchmark.name}, datasets: [{{path: {benchmark.name}.jsonl, columns: ...}}]}}"
            told = f"{at}: {told.removeprefix('datasets: ')}. A local copy goes in its place: `{copy}`"
        raise RecipeError(told) from error
    grading.check_columns(benchmark.verifier, list(rows.features), at)
    there = len(rows)
    if benchmark.problems is not None and benchmark.problems < there:
        rows = rows.keep(np.arange(benchmark.problems))
    return Problems(benchmark, rows, there)
