"""pass@1, majority vote and the shares, on hand-made judgements."""

from __future__ import annotations

import pytest

from open_r1.evaluate import majority, metrics


def sample(answer: str, verdict: str, length: int = 4, form: float = 1.0, language: float | None = None) -> dict:
    return {"answer": answer, "verdict": verdict, "length": length, "format": form, "language": language}


RIGHT, WRONG, OTHER, NONE = (
    sample("7", "correct"), sample("3", "wrong"), sample("5", "wrong"), sample("", "wrong"),
)  # fmt: skip
UNKNOWN = sample("7", "unknown")


@pytest.mark.parametrize(
    ("judged_K", "expected"),
    [
        ([RIGHT, RIGHT, WRONG], 1.0),
        ([RIGHT, WRONG, WRONG], 0.0),
        ([RIGHT, WRONG], 0.5),
        ([RIGHT, WRONG, OTHER], 1 / 3),
        # Equal values are one answer, however they are written.
        ([sample("7.0", "correct"), RIGHT, WRONG, WRONG, sample("7", "correct")], 1.0),
        # No answer is no vote.
        ([NONE, NONE, RIGHT], 1.0),
        ([NONE, NONE], 0.0),
        # What could not be judged has no say.
        ([UNKNOWN, UNKNOWN, WRONG], 0.0),
        ([UNKNOWN], None),
    ],
)
def test_majority(judged_K, expected):
    assert majority(judged_K) == (None if expected is None else pytest.approx(expected))


def test_metrics_average_over_problems_and_leave_out_what_is_no_evidence():
    judged_PK = [
        [sample("7", "correct", 2, 1.0, 1.0), sample("3", "wrong", 4, 0.0, 0.0)],
        [sample("7", "correct", 6, 1.0, None), sample("7", "unknown", 8, 1.0, 0.5)],
    ]
    assert metrics(judged_PK) == {
        "pass@1": pytest.approx(0.75),
        "maj@2": pytest.approx(0.75),
        "mean_length": 5.0,
        "format": 0.75,
        "language": 0.5,
        "unknown": 0.25,
    }
