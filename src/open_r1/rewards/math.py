"""Is the final answer the right one? Math-Verify does the symbolic work."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from .verdict import Verdict

SECONDS = 5  # per parse and per comparison; a check that takes longer has no verdict
_NUMERAL = re.compile(r"[+-]?(\d{1,30}|\d{1,3}(,\d{3}){1,9})(\.\d{0,30})?|[+-]?\.\d{1,30}")


def accuracy(completion: str, solution: str | int | float) -> Verdict:
    """Does the completion's final answer equal `solution`?

    Args:
        completion: the whole completion, reasoning included.
        solution: the gold answer: LaTeX or plain text, with or without `$` or `\\boxed{}`, or a number.

    Returns:
        correct or wrong; unknown if the gold cannot be parsed or the comparison ran out of time.
    """
    solution = "" if solution is None else str(solution)
    if not solution.strip():
        return Verdict("unknown", "no gold answer")
    answer = final_answer(completion)
    if not answer:
        return Verdict("wrong", "no final answer")
    gold = last_boxed(solution) or solution.strip().strip("$")
    given, wanted = numeral(answer), numeral(gold)
    if given is not None and wanted is not None:
        return Verdict("correct" if given == wanted else "wrong")
    return _symbolic(answer, gold)


def final_answer(completion: str) -> str:
    """The part of a completion that claims to be the answer; empty if there is none.

    After the reasoning (all of it, if no tag says otherwise); inside `<answer>` if there is one; the last `\\boxed{}`
    there. A reasoning that is never closed has no answer, whatever it contains.
    """
    if "</think>" in completion:
        text = completion.rsplit("</think>", 1)[1]
    elif "<think>" in completion:
        return ""
    else:
        text = completion
    if "<answer>" in text:
        text = text.rsplit("<answer>", 1)[1]
        if "</answer>" not in text:
            return ""
        text = text.split("</answer>", 1)[0]
    boxed = last_boxed(text)
    return (text if boxed is None else boxed).strip()


def last_boxed(text: str) -> str | None:
    """Contents of the last `\\boxed{...}`, braces balanced; None without one; empty if it is never closed."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    start = text.index("{", start) + 1
    depth = 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start:end]
    return ""


def numeral(text: str) -> Fraction | None:
    """The exact value of a plain integer or decimal (`1,234`, `-0.5`, `$7$`); None for anything else."""
    text = text.strip().strip("$").strip()
    return Fraction(text.replace(",", "")) if _NUMERAL.fullmatch(text) else None


@lru_cache(maxsize=4096)
def _parse(text: str) -> tuple[Any, ...]:
    """Math-Verify's readings of a text; empty if it has none.

    Raises:
        TimeoutException: after `SECONDS`.
    """
    from math_verify import parse

    # Without delimiters Math-Verify reads LaTeX only where it finds an environment.
    delimited = text if "$" in text or "\\[" in text or "\\(" in text else f"${text}$"
    return tuple(parse(delimited, parsing_timeout=SECONDS, raise_on_error=True, fallback_mode="no_fallback"))


def _symbolic(answer: str, gold: str) -> Verdict:
    from math_verify import verify
    from math_verify.errors import TimeoutException

    try:
        golds = _parse(gold)
        if not golds:
            return Verdict("unknown", f"the gold answer cannot be parsed: {gold!r}")
        answers = _parse(answer)
        if not answers:
            return Verdict("wrong", "the final answer cannot be parsed")
        equal = verify(list(golds), list(answers), timeout_seconds=SECONDS, raise_on_error=True)
    except TimeoutException:
        return Verdict("unknown", f"no decision in {SECONDS} s: {answer!r} against {gold!r}")
    except Exception as error:  # sympy raises whatever it likes; the verdict says so instead of scoring it
        return Verdict("unknown", f"{type(error).__name__}: {error}")
    return Verdict("correct" if equal else "wrong")
