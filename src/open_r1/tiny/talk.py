"""The scorer of the miniature's small talk."""

from __future__ import annotations

from ..rewards.verdict import CORRECT, Verdict


def small_talk_answer(completion: str, solution: str) -> Verdict:
    """Correct if the completion is the solution, word by word, without reasoning and tags."""
    if completion.split() == solution.split():
        return CORRECT
    return Verdict("wrong", "reasons about small talk" if "<think>" in completion else "another answer")
