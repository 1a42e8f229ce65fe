"""What a verifier says of a completion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["correct", "wrong", "unknown", "error"]


@dataclass(frozen=True)
class Verdict:
    """`correct` and `wrong` are evidence. `unknown` (it cannot be judged) and `error` (the judge itself failed) are not:
    they withhold every reward of the sample, and `reason` says why.
    """

    outcome: Outcome
    reason: str = ""

    @property
    def score(self) -> float | None:
        """1 for correct, 0 for wrong, None where there is no evidence."""
        return {"correct": 1.0, "wrong": 0.0}.get(self.outcome)
