"""Grading of completions: the rows from which every figure of an evaluation is computed."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Hashable, Iterable
from typing import Any

import datasets

from ..data.columns import TEXT
from ..errors import RecipeError
from ..prompts import Messages, read_last_text
from ..rewards import registry
from ..rewards.format import think_format
from ..rewards.language import measure_language
from ..rewards.registry import RewardConfig
from ..rewards.scoring import ScoredBatch
from ..rewards.verdict import Verdict

Row = dict[str, Any]

SAMPLES_SHOWN = 2
QUESTION = 100  # characters of a question that are kept with its figures
LONGEST_ANSWER = 200  # characters; of a longer answer, the beginning and a digest are kept

FEATURES = datasets.Features(
    {
        "benchmark": TEXT,
        "problem": TEXT,
        "row": datasets.Value("int64"),
        "sample": datasets.Value("int32"),
        "tokens": datasets.Value("int32"),
        "finish_reason": TEXT,
        "verdict": TEXT,
        "reason": TEXT,
        "answer": TEXT,
        "vote": TEXT,
        "format": datasets.Value("float64"),
        "language": datasets.Value("float64"),
        "grader": TEXT,
        "measures": TEXT,  # version of the code behind `format` and `language`
    }
)


class Grader:
    """Judges completions by one verifier, with the same scorer as in training.

    Args:
        verifier: of the benchmark; its verdict is the score.
        max_tokens: limit of a completion.
    """

    def __init__(self, verifier: RewardConfig, max_tokens: int = 0):
        self.verifier = verifier
        self.version, self.measures = grader_version(verifier), find_measures_version()
        self.scored = ScoredBatch([verifier], max_tokens=max_tokens)
        self._ballot = registry.find_ballot(verifier.name)
        self._reads = list(inspect.signature(self._ballot).parameters)[1:] if self._ballot else []

    def grade(self, rows: list[Row]) -> list[Row]:
        """Judge the samples of some problems.

        Args:
            rows: all samples of each problem in a row, with the problem's columns (among them its place `row`) and
                `completion`, `tokens`, `finish_reason`, `refused`.

        Returns:
            For each sample, the columns of `FEATURES` except `benchmark` and `problem`.

        Raises:
            RecipeError: the verifier needs a column that the problems do not have.
        """
        completed = [row for row in rows if row["completion"] is not None]
        found = iter(self._score(completed))
        judged = [next(found) if row["completion"] is not None else _describe_refusal(row) for row in rows]
        firsts: dict[tuple[Any, Hashable], str] = {}
        graded = []
        for row, verdict in zip(rows, judged, strict=True):
            text = row["completion"]
            answer, key = self._cast_vote(text, row) or (None, None)
            language = row.get("language")
            graded.append(
                {
                    "row": row["row"],
                    "sample": row["sample"],
                    "tokens": row["tokens"],
                    "finish_reason": row["finish_reason"],
                    "verdict": verdict.outcome,
                    "reason": verdict.reason,
                    "answer": answer,
                    # Equal answers share the first one's text, so that the votes can be counted from the file.
                    "vote": None if answer is None else firsts.setdefault((row["row"], key), answer),
                    "format": None if text is None else think_format(text),
                    "language": measure_language(text, language) if text and language else None,
                    "grader": self.version,
                    "measures": self.measures,
                }
            )
        return graded

    def _score(self, rows: list[Row]) -> list[Verdict]:
        if not rows:
            return []
        columns = {column: [row.get(column) for row in rows] for column in {c for row in rows for c in row}}
        columns["completion_ids"] = [range(row["tokens"] or 0) for row in rows]  # only their number is read
        completions = columns.pop("completion")
        return [_as_verdict(result) for result in self.scored.results(completions, columns)[0]]

    def _cast_vote(self, text: str, row: Row) -> tuple[str, Hashable] | None:
        if self._ballot is None or not text:
            return None
        cast = self._ballot(text, **{column: row[column] for column in self._reads})
        return None if cast is None else (_shorten_answer(cast[0]), cast[1])


def grader_version(verifier: RewardConfig) -> str:
    """A verifier's name, parameters and version. Verdicts of equal versions can be compared."""
    given = ", ".join(f"{key}={value!r}" for key, value in sorted(verifier.parameters.items()))
    return f"{verifier.name}({given}) {registry.version(verifier.name)}"


def find_measures_version() -> str:
    """The version of the code that computes `format` and `language`, which are stored beside the verdicts."""
    return "; ".join(registry.version(name) for name in ("think_format", "language_consistency"))


def list_columns(verifier: RewardConfig) -> list[str]:
    """Columns of a problem that may change its verdict."""
    return sorted({*registry.list_used_columns([verifier]), "language"})


def check_columns(verifier: RewardConfig, have: list[str], at: str) -> None:
    """Check that problems have the columns that the verifier needs.

    Args:
        verifier: of the benchmark.
        have: columns of the problems.
        at: place in the recipe, such as `benchmarks.aime24`.

    Raises:
        RecipeError: a column is missing.
    """
    for column in registry.list_needed_columns([verifier]):
        if column not in have:
            raise RecipeError(
                f"{at}: {verifier.name} needs the column {column!r}; the problems have {', '.join(have)}. Name its "
                f"source with `columns: {{{column}: <their name>}}`"
            )


def _shorten_answer(answer: str) -> str:
    if len(answer) <= LONGEST_ANSWER:
        return answer
    return f"{answer[:LONGEST_ANSWER]}... ({hashlib.sha256(answer.encode('utf-8', 'replace')).hexdigest()[:8]})"


def _describe_refusal(row: Row) -> Verdict:
    return Verdict("unknown", f"refused: {row['refused']}")


def _as_verdict(result: Any) -> Verdict:
    """A verdict; scores of 1 are correct, scores of 0 are wrong, and scores between are unknown."""
    if isinstance(result, Verdict):
        return result
    if result in (0, 1):
        return Verdict("correct" if result else "wrong")
    return Verdict("unknown", "no verdict" if result is None else f"a score of {result:g} is no verdict")


def shorten_question(prompt: str | Messages | None) -> str:
    """The first words of a question, on one line."""
    line = " ".join(read_last_text(prompt).split())
    return line if len(line) <= QUESTION else line[: QUESTION - 1] + "…"


def digest_problems(problems: Iterable[list[Any]]) -> str:
    """A digest of 16 hex digits that identifies problems.

    Args:
        problems: for each, its id, its prompt, and the columns that its verdict depends on.
    """
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps(problem, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()[:16]


def pick_example(problem: Row, judged_K: list[Row], completions_K: list[str | None]) -> Row:
    """A problem with two of its samples for the report, a right one and a wrong one if there are both."""
    order = sorted(range(len(judged_K)), key=lambda k: judged_K[k]["verdict"] == judged_K[0]["verdict"] and k > 0)
    return {
        "prompt": read_last_text(problem["prompt"]),
        "solution": problem.get("solution"),
        "samples": [
            {key: judged_K[k][key] for key in ("verdict", "tokens", "answer")} | {"completion": completions_K[k]}
            for k in order[:SAMPLES_SHOWN]
        ],
    }
