"""Is the final answer correct?

exact/ compares most answers exactly, in microseconds. The others go to Math-Verify, in a pool of workers with hard
limits and behind guards against its known mistakes.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from functools import lru_cache
from typing import NamedTuple

from ...system import worker_pool
from ..verdict import CORRECT, WRONG, Verdict
from .exact import compare, tokens
from .extraction import (
    extract_answer,
    extract_answer_part,
    extract_boxed,
    extract_gold,
    extract_statement,
    read_choice,
    read_gold_choice,
)

SECONDS = 3.0  # CPU time of Math-Verify for one comparison
LENGTH = 1000  # characters; a longer text is no answer, unless the gold is as long
SHOWN = 200  # characters of an answer in a reason
_OPERATORS = re.compile(r"\\(?:i{0,2}int|oint|sum|prod|lim)(?![a-zA-Z])")
_PROSE = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{4,}")
_TEXT = re.compile(r"\\(?:text\w*|mbox|mathrm|operatorname)\s*\{([^{}]*)\}")
_NAMED_FUNCTION = re.compile(r"\\(?:text|mathrm|operatorname)\s*\{\s*(sin|cos|tan|cot|sec|csc|log|ln|exp)\s*\}")
# f'(x), A^T, dy/dx, 3 mod 7, gcd(x, y)
_DECORATION = re.compile(
    r"[A-Za-z)]'(?![a-z])|\\prime|\^\s*\{?\s*(?:\\top|T)(?![A-Za-z])|\\frac\s*\{\s*d|\\[bp]mod|\\gcd"
)
_ELLIPSIS = re.compile(r"\\[cl]?dots|\.\.\.|…")
_FUNCTIONS = "arcsin arccos arctan sinh cosh tanh sqrt frac infinity pmatrix bmatrix matrix array cases begin degrees"
_NOT_PROSE = frozenset(_FUNCTIONS.split())
_TRIGONOMETRIC = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*degrees")
_BARE_FRACTION = re.compile(r"\\frac\s*(\\pi(?![a-zA-Z])|\w)\s*(\\pi(?![a-zA-Z])|\w)")
_ACCENT = re.compile(r"\\(vec|hat|bar|overline)\s+([a-zA-Z])(?![a-zA-Z])")
_NATURAL = re.compile(r"\\log\s*_\s*(?:\{\s*e\s*\}|e)(?![a-zA-Z])")
_MEANINGFUL = re.compile(r"[^\W_]+|[-+*/^<>=|!]|(?<=\d)\.(?=\d)")
_SUBSCRIPTED_NUMBER = re.compile(r"\d\s*_\s*\{?\s*\d")


def accuracy(completion: str, solution: str | int | float | list[str] | None) -> Verdict:
    """Does the completion's final answer equal `solution`?

    Args:
        completion: the whole completion, reasoning included.
        solution: the gold answer: LaTeX or plain text, with or without `$`, `\\boxed{}` or the whole solution around
            it, a number, or a list of alternatives.

    Returns:
        correct or wrong; unknown if the gold cannot be read or a limit was reached; error if the pool failed.
    """
    golds = _list_golds(solution)
    if not golds:
        return Verdict("unknown", "no gold answer")
    text = extract_answer_part(completion)
    return _judge_any(golds, text, extract_boxed(text))


def equal(answer: str, solution: str | int | float | list[str] | None) -> Verdict:
    """`accuracy` for a bare answer, without a completion around it."""
    golds = _list_golds(solution)
    if not golds:
        return Verdict("unknown", "no gold answer")
    return _judge_any(golds, "", extract_gold(str(answer)))


def compute_vote_key(answer: str) -> Hashable:
    """A key to count votes by: the same for equal answers (0.5, \\frac12, 1/2; with or without a unit or `x =`)."""
    return compare.compute_key(answer)


def ballot(completion: str, solution: str | int | float | list[str] | None) -> tuple[str, Hashable] | None:
    """The final answer and its `compute_vote_key`, or the letter of a multiple choice; None without an answer.

    Args:
        completion: the whole completion.
        solution: the gold answer, used only to distinguish a multiple choice from other answers.
    """
    golds = _list_golds(solution)
    if golds and all(gold.choice is not None for gold in golds):
        text = extract_answer_part(completion)
        boxed = extract_boxed(text)
        letter = read_choice(text if boxed is None else boxed)
        return None if letter is None else (letter, letter)
    answer = extract_answer(completion)
    return (answer, compute_vote_key(answer)) if answer else None


def math_verify_alone(completion: str, solution: str | int | float | None) -> Verdict:
    """A second opinion, independent of `accuracy`: Math-Verify on the whole text after the reasoning."""
    golds = _list_golds(solution)
    if not golds:
        return Verdict("unknown", "no gold answer")
    text = extract_answer_part(completion)
    return _pick_best([_call_in_pool("math_verify", text, gold.text) for gold in golds])


class Gold(NamedTuple):
    """One gold answer, and its letter if the problem is a multiple choice."""

    text: str
    choice: str | None


def _list_golds(solution: object) -> tuple[Gold, ...]:
    """The alternatives that are not empty."""
    alternatives = solution if isinstance(solution, list | tuple) else [solution]
    return _read_golds(*(str(gold) for gold in alternatives if gold is not None))


@lru_cache(maxsize=1 << 14)
def _read_golds(*solutions: str) -> tuple[Gold, ...]:
    texts = [extract_gold(solution) for solution in solutions]
    return tuple(Gold(text, read_gold_choice(text)) for text in texts if text)


def _judge_any(golds: tuple[Gold, ...], text: str, boxed: str | None) -> Verdict:
    """The verdict on the box, or without a box on the statement of the text, against alternative golds."""
    answer = boxed
    if boxed is None and any(gold.choice is None for gold in golds):
        answer = extract_statement(text)
    whole = text if boxed is None else boxed
    return _pick_best(
        [_judge(answer, gold.text) if gold.choice is None else _judge_choice(whole, gold) for gold in golds]
    )


def _pick_best(verdicts: list[Verdict]) -> Verdict:
    """Correct if any verdict is; wrong only if all are."""
    if len(verdicts) == 1:
        return verdicts[0]
    order = ("correct", "error", "unknown", "wrong")
    return min(verdicts, key=lambda verdict: order.index(verdict.outcome))


def _judge_choice(text: str, gold: Gold) -> Verdict:
    """Compare letters, or the text of the option if the gold has it."""
    given = read_choice(text)
    if given is not None:
        return CORRECT if given == gold.choice else WRONG
    option = re.sub(r"^\W*[A-J]\W+", "", gold.text).strip()
    if option and compare.are_equal(text, option):
        return CORRECT
    return Verdict("wrong", "no single choice" if text.strip() else "no final answer")


def _judge(answer: str, gold: str) -> Verdict:
    if not answer:
        return Verdict("wrong", "no final answer")
    if len(answer) > max(LENGTH, 2 * len(gold)):
        return Verdict("wrong", f"{len(answer)} characters are no final answer")
    same = compare.are_equal(answer, gold)
    if same is not None:
        return CORRECT if same else WRONG
    return _check_guards(answer, gold) or _judge_symbolically(answer, gold)


def _judge_symbolically(answer: str, gold: str) -> Verdict:
    """Math-Verify's verdict on the values without their names; it gets no equation against a value."""
    (given_name, given), (wanted_name, wanted) = (compare.split_name(_simplify_latex(text)) for text in (answer, gold))
    if "=" in given or (given_name and wanted_name and given_name != wanted_name):
        given, wanted = _simplify_latex(answer), _simplify_latex(gold)
        if "=" not in wanted:
            return Verdict("wrong", "an equation is not a value")
    return _call_in_pool("compare", given, wanted, compare.count_rounded_digits(answer, gold))


def _simplify_latex(text: str) -> str:
    """The text without forms that Math-Verify misreads: \\text{sin}, \\mathrm{e}, \\frac\\pi3, \\log_e, degrees."""
    text = _TEXT.sub(r"\1", _NAMED_FUNCTION.sub(r"\\\1 ", tokens.clean_text(text)))
    text = _ACCENT.sub(r"\\\1{\2}", text.replace("\\lg ", "\\log_{10} "))
    text = _NATURAL.sub(r"\\ln ", _BARE_FRACTION.sub(r"\\frac{\1}{\2}", text))
    if "degrees" in text and _TRIGONOMETRIC.search(text):
        text = _DEGREES.sub(r"\\left(\\frac{\1\\pi}{180}\\right)", text)
    return text.replace("degrees", "")


def _check_guards(answer: str, gold: str) -> Verdict | None:
    """The verdict on forms that Math-Verify misreads: it drops words and subscripts, and takes the end of a chain."""
    given, wanted = tokens.clean_text(answer), tokens.clean_text(gold)
    if _has_words(wanted):
        if _squeeze(given) == _squeeze(wanted):
            return CORRECT
        return Verdict("unknown", f"the gold answer is not mathematics: {gold[:SHOWN]!r}")
    if _has_words(given):
        return Verdict("wrong", f"the final answer is not mathematics: {answer[:SHOWN]!r}")
    if _OPERATORS.search(given) and not _OPERATORS.search(wanted):
        return Verdict("wrong", "the final answer is not evaluated")
    if sorted(_DECORATION.findall(given)) != sorted(_DECORATION.findall(wanted)):
        return Verdict("unknown", "notation that Math-Verify would drop")
    if _ELLIPSIS.search(given) or _ELLIPSIS.search(wanted):
        return Verdict("unknown", "an ellipsis cannot be compared")
    if "\\begin{cases}" in given or "\\begin{cases}" in wanted:
        return CORRECT if _squeeze(given) == _squeeze(wanted) else Verdict("unknown", "cases cannot be compared")
    if _SUBSCRIPTED_NUMBER.search(given) or _SUBSCRIPTED_NUMBER.search(wanted):
        return Verdict("unknown", "numbers in a base that cannot be compared")
    return None


def _has_words(cleaned: str) -> bool:
    """True if there are words other than functions."""
    words = _PROSE.findall(_TEXT.sub(r" \1 ", cleaned))
    return any(word.lower() not in _NOT_PROSE for word in words)


def _squeeze(text: str) -> str:
    """Letters, digits and signs in lower case."""
    return "".join(_MEANINGFUL.findall(_TEXT.sub(r"\1", text).lower()))


def _call_in_pool(function: str, answer: str, gold: str, *more: object) -> Verdict:
    pair = f"{answer[:SHOWN]!r} against {gold[:SHOWN]!r}"
    try:
        outcome, reason = worker_pool.call_in_worker(
            f"open_r1.rewards.math.math_verify:{function}", answer, gold, *more, seconds=SECONDS
        )
    except worker_pool.LimitReached as reached:
        return Verdict("unknown", f"{reached}: {pair}")
    except worker_pool.CallFailed as failed:  # sympy may raise anything
        return Verdict("unknown", f"Math-Verify failed with {str(failed)[:SHOWN]}: {pair}")
    except worker_pool.PoolError as broken:
        return Verdict("error", str(broken))
    return Verdict(outcome, reason)
