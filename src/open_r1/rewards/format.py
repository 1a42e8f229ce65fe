"""Is the reasoning in its tags, and the answer after it?

Scorers see `<think>` even if the prompt's template has already opened it.
"""

from __future__ import annotations

TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def think_format(completion: str) -> float:
    """1.0 for reasoning inside one pair of think tags, then an answer; else 0.0.

    The format of R1. The completion must begin with `<think>` (after optional white space) and have each tag once, in
    this order, with text in both parts. Answer tags are allowed, but are not text.
    """
    parts = _split_at_tags(completion, TAGS[:2])
    if parts is None:
        return 0.0
    before, reasoning, answer = parts
    return float(not before.strip() and _has_text(_remove_tags(reasoning)) and not _is_blank(_remove_tags(answer)))


def think_answer_format(completion: str) -> float:
    """1.0 for `<think>reasoning</think> <answer>answer</answer>` and nothing else but white space; else 0.0.

    The format of R1-Zero: each of the four tags once, in this order, with text inside both pairs.
    """
    parts = _split_at_tags(completion, TAGS)
    if parts is None:
        return 0.0
    before, reasoning, gap, answer, after = parts
    outside = before + gap + after
    return float(not outside.strip() and _has_text(reasoning) and not _is_blank(answer))


def tag_count(completion: str) -> float:
    """A quarter for each of R1-Zero's four tags in its place; 1.0 exactly where `think_answer_format` returns 1.0.

    A tag counts if it occurs exactly once, in the right order with every other tag that occurs once, and in its place:
    `<think>` opens the completion, `<answer>` directly follows `</think>` (if that counts), `</answer>` ends the
    completion, and a closing tag follows some text.

    >>> tag_count("<think>1 + 1</think> 2")
    0.5
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
            "</think>": _has_text(before),
            "<answer>": "</think>" not in at or not before.strip(),
            "</answer>": not _is_blank(before) and not after.strip(),
        }[tag]
    return placed / len(TAGS)


def extract_reasoning(completion: str) -> str:
    """The text before the last `</think>`; the whole completion without that tag."""
    return completion.rsplit("</think>", 1)[0]


def _split_at_tags(text: str, tags: tuple[str, ...]) -> list[str] | None:
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


def _remove_tags(text: str) -> str:
    for tag in TAGS:
        text = text.replace(tag, " ")
    return text


def _has_text(text: str) -> bool:
    """True if there is more than dots or dashes."""
    return any(character.isalnum() for character in text)


def _is_blank(text: str) -> bool:
    """True if nothing is visible: white space, zero-width and control characters."""
    return not any(character.isprintable() and not character.isspace() for character in text)
