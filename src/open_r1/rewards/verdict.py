"""The verdict of a verifier on a completion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["correct", "wrong", "unknown", "error"]


@dataclass(frozen=True)
class Verdict:
    """One judgement, with its reason.

    `correct` and `wrong` are evidence. `unknown` (it cannot be judged) and `error` (the judge itself failed) are not:
    they withhold every reward of the sample.
    """

    outcome: Outcome
    reason: str = ""

    @property
    def score(self) -> float | None:
        """1 for correct, 0 for wrong, None without evidence."""
        return {"correct": 1.0, "wrong": 0.0}.get(self.outcome)

    def __str__(self) -> str:
        return f"{self.outcome}: {self.reason}" if self.reason else self.outcome


# Shared, because most verdicts are one of these, without a reason.
CORRECT, WRONG = Verdict("correct"), Verdict("wrong")
