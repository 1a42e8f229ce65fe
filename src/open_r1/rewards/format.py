"""Is the reasoning where it should be?"""

from __future__ import annotations


def think_format(completion: str) -> float:
    """1.0 for reasoning inside one pair of think tags, then an answer; else 0.0.

    The completion must begin with `<think>` (white space aside), and have each tag once, in this order, with text in
    both parts. TRL's `think_format_reward` also accepts empty reasoning, an empty answer and a second `</think>`.
    """
    text = completion.strip()
    if not text.startswith("<think>") or text.count("<think>") != 1 or text.count("</think>") != 1:
        return 0.0
    reasoning, answer = text.removeprefix("<think>").split("</think>")
    return float(bool(reasoning.strip()) and bool(answer.strip()))
