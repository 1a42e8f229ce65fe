"""The part of a completion that is its answer: for numbers and for programs the same."""


def find_answer_part(completion: str) -> str:
    """The text after the reasoning, or the inside of its last `<answer>`; empty if either is never closed.

    >>> find_answer_part("<think>1 + 1</think> So: <answer>2</answer>")
    '2'
    """
    _, closed, text = completion.rpartition("</think>")
    if not closed and "<think>" in completion:
        return ""
    _, opened, inner = text.rpartition("<answer>")
    if not opened:
        return text
    inner, closed, _ = inner.partition("</answer>")
    return inner if closed else ""
