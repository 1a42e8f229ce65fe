"""Completions of held-out problems, judged: the rows that every figure of an evaluation is computed from."""

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
QUESTION = 100  # characters of a question that are kept beside its figures
LONGEST_ANSWER = 200  # characters that are kept; what is longer goes by its beginning and a digest

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
    }
)


class Grader:
    """Judges completions by one verifier, which is the very scorer of the training.

    Args:
        verifier: of the benchmark; its verdict is the score.
        max_tokens: the limit of a completion.
    """

    def __init__(self, verifier: RewardConfig, max_tokens: int = 0):
        self.verifier = verifier
        self.version = grader_version(verifier)
        self.scored = ScoredBatch([verifier], max_tokens=max_tokens)
        self._ballot = registry.find_ballot(verifier.name)
        self._reads = list(inspect.signature(self._ballot).parameters)[1:] if self._ballot else []

    def grade(self, rows: list[Row]) -> list[Row]:
        """Each sample with what was found, under the names of `FEATURES` (all but `benchmark` and `problem`).

        Args:
            rows: all samples of some problems, those of one side by side under one `row`: the problem's columns, and
                `completion`, `tokens`, `finish_reason`, `refused`.

        Raises:
            RecipeError: the verifier needs a column that the problems do not have.
        """
        asked = [row for row in rows if row["completion"] is not None]
        found = iter(self._verdicts(asked))
        judged = [next(found) if row["completion"] is not None else _refused(row) for row in rows]
        firsts: dict[tuple[Any, Hashable], str] = {}
        graded = []
        for row, verdict in zip(rows, judged, strict=True):
            text = row["completion"]
            answer, key = self._vote(text, row) or (None, None)
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
                    # Equal answers by the first of them, so that anyone can count the votes again.
                    "vote": None if answer is None else firsts.setdefault((row["row"], key), answer),
                    "format": None if text is None else think_format(text),
                    "language": measure_language(text, language) if text and language else None,
                    "grader": self.version,
                }
            )
        return graded

    def _verdicts(self, rows: list[Row]) -> list[Verdict]:
        if not rows:
            return []
        columns = {column: [row.get(column) for row in rows] for column in {c for row in rows for c in row}}
        columns["completion_ids"] = [range(row["tokens"] or 0) for row in rows]  # only their number is read
        completions = columns.pop("completion")
        return [_as_verdict(result) for result in self.scored.results(completions, columns)[0]]

    def _vote(self, text: str, row: Row) -> tuple[str, Hashable] | None:
        if self._ballot is None or not text:
            return None
        cast = self._ballot(text, **{column: row[column] for column in self._reads})
        return None if cast is None else (_short(cast[0]), cast[1])


def grader_version(verifier: RewardConfig) -> str:
    """A verifier's name, parameters and version: equal for verdicts that can be compared."""
    given = ", ".join(f"{key}={value!r}" for key, value in sorted(verifier.parameters.items()))
    return f"{verifier.name}({given}) {registry.version(verifier.name)}"


def list_columns(verifier: RewardConfig) -> list[str]:
    """Columns of a problem that its verdict depends on, where it has them."""
    return sorted({*registry.list_used_columns([verifier]), "language"})


def check_columns(verifier: RewardConfig, have: list[str], at: str) -> None:
    """Refuse problems that lack what the verifier reads.

    Raises:
        RecipeError: naming the column and what to do.
    """
    for column in registry.list_needed_columns([verifier]):
        if column not in have:
            raise RecipeError(
                f"{at}: {verifier.name} needs the column {column!r}; the problems have {', '.join(have)}. Name its "
                f"source with `columns: {{{column}: <their name>}}`"
            )


def _short(answer: str) -> str:
    if len(answer) <= LONGEST_ANSWER:
        return answer
    return f"{answer[:LONGEST_ANSWER]}... ({hashlib.sha256(answer.encode('utf-8', 'replace')).hexdigest()[:8]})"


def _refused(row: Row) -> Verdict:
    return Verdict("unknown", f"refused: {row['refused']}")


def _as_verdict(result: Any) -> Verdict:
    """A verdict; of a scorer that gives numbers 1 is correct and 0 wrong, and anything between is neither."""
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
    """16 hex digits that tell these problems from others.

    Args:
        problems: of each what it is: its id, its prompt, and what its verdict depends on.
    """
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps(problem, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()[:16]


def pick_example(problem: Row, judged_K: list[Row], completions_K: list[str | None]) -> Row:
    """A problem with two of its samples, for the report: of right and wrong ones, one of each."""
    order = sorted(range(len(judged_K)), key=lambda k: judged_K[k]["verdict"] == judged_K[0]["verdict"] and k > 0)
    return {
        "prompt": read_last_text(problem["prompt"]),
        "solution": problem.get("solution"),
        "samples": [
            {key: judged_K[k][key] for key in ("verdict", "tokens", "answer")} | {"completion": completions_K[k]}
            for k in order[:SAMPLES_SHOWN]
        ],
    }
