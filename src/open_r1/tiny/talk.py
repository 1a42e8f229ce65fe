"""The judge of the miniature's small talk."""

from __future__ import annotations

from ..rewards.verdict import CORRECT, Verdict


def small_talk_answer(completion: str, solution: str) -> Verdict:
    """Is the completion the answer to its remark, word by word, with neither reasoning nor tags around it?"""
    if completion.split() == solution.split():
        return CORRECT
    return Verdict("wrong", "reasons about small talk" if "<think>" in completion else "another answer")
