"""Is the reasoning where it should be, and the answer after it?

Scorers see `<think>` even where the prompt's template had already opened it.
"""

from __future__ import annotations

TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def think_format(completion: str) -> float:
    """1.0 for reasoning inside one pair of think tags, then an answer; else 0.0.

    The format of R1. The completion must begin with `<think>` (white space aside), and have each tag once, in this
    order, with text in both parts; answer tags may stand in it, but are no text.
    """
    parts = _between(completion, TAGS[:2])
    if parts is None:
        return 0.0
    before, reasoning, answer = parts
    return float(not before.strip() and _reasons(_untagged(reasoning)) and not _blank(_untagged(answer)))


def think_answer_format(completion: str) -> float:
    """1.0 for `<think>reasoning</think> <answer>answer</answer>` and nothing else but white space; else 0.0.

    The format of R1-Zero: each of the four tags once, in this order, with text inside both pairs.
    """
    parts = _between(completion, TAGS)
    if parts is None:
        return 0.0
    before, reasoning, gap, answer, after = parts
    outside = before + gap + after
    return float(not outside.strip() and _reasons(reasoning) and not _blank(answer))


def tag_count(completion: str) -> float:
    """A quarter for each of R1-Zero's four tags that is in its place; 1.0 just where `think_answer_format` gives it.

    A tag counts if it is there exactly once, on the right side of every other tag that is there once, and where it
    belongs: `<think>` opens the completion, `<answer>` follows `</think>` directly (if that is there), `</answer>`
    ends the completion, and a closing tag has something to close.
    """
    at = {tag: completion.index(tag) for tag in TAGS if completion.count(tag) == 1}
    placed = 0
    for tag in at:
        earlier = [other for other in at if TAGS.index(other) < TAGS.index(tag)]
        later = [other for other in at if TAGS.index(other) > TAGS.index(tag)]
        if any(at[other] > at[tag] for other in earlier) or any(at[other] < at[tag] for other in later):
            continue
        start = at[earlier[-1]] + len(earlier[-1]) if earlier else 0
        before, after = completion[start : at[tag]], completion[at[tag] + len(tag) :]
        placed += {
            "<think>": not before.strip(),
            "</think>": _reasons(before),
            "<answer>": "</think>" not in at or not before.strip(),
            "</answer>": not _blank(before) and not after.strip(),
        }[tag]
    return placed / len(TAGS)


def extract_reasoning(completion: str) -> str:
    """What stands before the last `</think>`; all of a completion that never closes its reasoning, or has no tags."""
    return completion.rsplit("</think>", 1)[0]


def _between(text: str, tags: tuple[str, ...]) -> list[str] | None:
    """The texts before, between and after the tags; None unless each is there exactly once, in this order."""
    if any(text.count(tag) != 1 for tag in tags):
        return None
    parts = []
    for tag in tags:
        before, found, text = text.partition(tag)
        if not found:
            return None
        parts.append(before)
    return [*parts, text]


def _untagged(text: str) -> str:
    for tag in TAGS:
        text = text.replace(tag, " ")
    return text


def _reasons(text: str) -> bool:
    """Not empty, and more than dots or dashes."""
    return any(character.isalnum() for character in text)


def _blank(text: str) -> bool:
    """Nothing that can be seen: white space, zero-width and control characters."""
    return not any(character.isprintable() and not character.isspace() for character in text)
