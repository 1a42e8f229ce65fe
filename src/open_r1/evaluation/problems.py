"""The problems of benchmarks, in the order in which an evaluation divides them into files."""

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

READ_ROWS = 64  # problems in memory at once; the hidden tests of one may take megabytes


def load_benchmarks(recipe: Recipe) -> list[BenchmarkConfig]:
    """The benchmarks of a recipe with its protocol applied."""
    given = recipe.given
    return protocol.apply_protocol(recipe.args, given.get("prompt"), given.get("system_prompt"))


class Problems:
    """The problems of one benchmark.

    Args:
        benchmark: with the recipe's protocol.
        rows: with `prompt` and the verifier's columns.
        there: number of problems in the sources; `rows` may hold only the first of them. By default all.

    Attributes:
        ids: of the problems, by default the hashes of their prompts.
        hashes: of the prompts.
        questions: the first words of the prompts.
        identity: digest of the problems as this verifier reads them.
        looks: digest of all columns, the same for every verifier.

    Raises:
        RecipeError: two problems have the same id.
    """

    def __init__(self, benchmark: BenchmarkConfig, rows: StoredRows, there: int | None = None):
        self.benchmark, self.rows = benchmark, rows
        self.there = len(rows) if there is None else there
        self.grader = grading.Grader(benchmark.verifier, benchmark.max_tokens)
        self.ids: list[str] = []
        self.hashes: list[str] = []
        self.questions: list[str] = []
        whole = hashlib.sha256()
        self.identity = grading.digest_problems(self._read_ids(whole))
        self.looks = whole.hexdigest()[:16]
        repeated = [name for name, count in Counter(self.ids).items() if count > 1]
        if repeated:
            places = ", ".join(str(i) for i, name in enumerate(self.ids) if name == repeated[0])
            raise RecipeError(
                f"benchmarks.{benchmark.name}: {len(repeated)} problem ids are repeated, {repeated[0]!r} "
                f"first (rows {places}). Remove the repeated rows, or name another column with `columns: {{id: ...}}`"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def index_places(self) -> dict[str, int]:
        """Places of the problems by their ids and by their prompts' hashes."""
        return {name: place for names in (self.hashes, self.ids) for place, name in enumerate(names)}

    def _read_ids(self, whole: hashlib._Hash) -> Iterator[list[Any]]:
        """Fill `ids`, `hashes` and `questions`, and yield what identifies each problem; `whole` hashes all columns."""
        columns = grading.list_columns(self.benchmark.verifier)
        for row in self.read(range(len(self))):
            whole.update(json.dumps(row, sort_keys=True, default=str).encode())
            name = row.get("id")
            self.hashes.append(hash_prompt(row["prompt"] or ""))
            self.questions.append(grading.shorten_question(row["prompt"]))
            self.ids.append(self.hashes[-1] if name is None else str(name))
            yield [self.ids[-1], row["prompt"], *(row.get(column) for column in columns)]

    def read(self, span: range) -> Iterator[Row]:
        """The problems at these places, each with its place as `row`."""
        for start in range(span.start, span.stop, READ_ROWS):
            stop = min(start + READ_ROWS, span.stop)
            for place, row in enumerate(self.rows.slice(start, stop), start=start):
                yield row | {"row": place}


class Sets:
    """The problems of all benchmarks, one after another.

    Args:
        sets: the problems of each benchmark.
        seed: of the sampling.
    """

    def __init__(self, sets: list[Problems], seed: int):
        self.sets, self.seed = sets, seed
        self.ends = np.cumsum([len(problems) for problems in sets])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def split(self, span: range) -> Iterator[tuple[Problems, range]]:
        """Split a span of all problems into benchmarks, each with its own places."""
        for problems, end in zip(self.sets, self.ends.tolist(), strict=True):
            first = end - len(problems)
            own = range(max(span.start, first) - first, min(span.stop, end) - first)
            if own:
                yield problems, own

    def list_graders(self, span: range) -> dict[str, tuple[str, str]]:
        """Benchmark -> today's versions of its grader and of its other measures, for the benchmarks in a span."""
        graders = {problems.benchmark.name: problems.grader for problems, _ in self.split(span)}
        return {name: (grader.version, grader.measures) for name, grader in graders.items()}

    def identity(self, *more: dict[str, Any]) -> dict[str, Any]:
        """What identifies these problems and `more` sources, for `job_array.check_same_rows`."""
        sources = [
            {"path": problems.benchmark.name, "rows": len(problems), "looks": problems.looks} for problems in self.sets
        ]
        return {"sources": [*sources, *more], "kept": None}


def load_problems(benchmark: BenchmarkConfig, seed: int) -> Problems:
    """Load the problems of a benchmark.

    Raises:
        RecipeError: a source that cannot be loaded, a missing column, two problems with the same id.
    """
    at = f"benchmarks.{benchmark.name}"
    try:
        rows = read_stored_rows(benchmark.datasets, "evaluate", seed, f"{at}.datasets")
    except RecipeError as error:
        # This prefix means that a source cannot be loaded; other messages name their place in the recipe.
        message = str(error)
        if message.startswith("datasets: "):
            copy = f"{{name: {benchmark.name}, datasets: [{{path: {benchmark.name}.jsonl, columns: ...}}]}}"
            message = f"{at}: {message.removeprefix('datasets: ')}. A local copy goes in its place: `{copy}`"
        raise RecipeError(message) from error
    grading.check_columns(benchmark.verifier, list(rows.features), at)
    there = len(rows)
    if benchmark.problems is not None and benchmark.problems < there:
        rows = rows.keep(np.arange(benchmark.problems))
    return Problems(benchmark, rows, there)
