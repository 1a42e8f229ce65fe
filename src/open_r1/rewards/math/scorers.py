"""Is the final answer the right one?

Most answers are compared exactly by exact.py, in microseconds. What it cannot read goes to Math-Verify, in a pool of
workers with hard limits, behind guards against what Math-Verify is known to get wrong.
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

SECONDS = 3.0  # of CPU that Math-Verify gets for one comparison
LENGTH = 1000  # characters beyond which an answer is none, unless the gold is as long
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
_SAID = re.compile(r"[^\W_]+|[-+*/^<>=|!]|(?<=\d)\.(?=\d)")
_SUBSCRIPTED_NUMBER = re.compile(r"\d\s*_\s*\{?\s*\d")


def accuracy(completion: str, solution: str | int | float | list[str] | None) -> Verdict:
    """Does the completion's final answer equal `solution`?

    Args:
        completion: the whole completion, reasoning included.
        solution: the gold answer: LaTeX or plain text, with or without `$`, `\\boxed{}` or the whole solution around
            it, a number, or a list of alternatives of which any will do.

    Returns:
        correct or wrong; unknown if the gold cannot be read, or a limit was reached; error if the pool failed.
    """
    golds = _golds(solution)
    if not golds:
        return Verdict("unknown", "no gold answer")
    text = extract_answer_part(completion)
    return _any_of(golds, text, extract_boxed(text))


def equal(answer: str, solution: str | int | float | list[str] | None) -> Verdict:
    """`accuracy` for a bare answer, without a completion around it."""
    golds = _golds(solution)
    if not golds:
        return Verdict("unknown", "no gold answer")
    return _any_of(golds, "", extract_gold(str(answer)))


def compute_vote_key(answer: str) -> Hashable:
    """The same for answers that are equal (0.5, \\frac12, 1/2; with or without a unit or `x =`), to count votes by."""
    return compare.compute_key(answer)


def ballot(completion: str, solution: str | int | float | list[str] | None) -> tuple[str, Hashable] | None:
    """The final answer, and `vote_key` of it; of a multiple choice its letter. None if there is no answer.

    Args:
        completion: the whole completion.
        solution: the gold answer, which tells a multiple choice from other answers; nothing else is taken from it.
    """
    golds = _golds(solution)
    if golds and all(gold.choice is not None for gold in golds):
        text = extract_answer_part(completion)
        boxed = extract_boxed(text)
        letter = read_choice(text if boxed is None else boxed)
        return None if letter is None else (letter, letter)
    answer = extract_answer(completion)
    return (answer, compute_vote_key(answer)) if answer else None


def math_verify_alone(completion: str, solution: str | int | float | None) -> Verdict:
    """A second opinion, independent of `accuracy`: Math-Verify on all of the text after the reasoning."""
    golds = _golds(solution)
    if not golds:
        return Verdict("unknown", "no gold answer")
    text = extract_answer_part(completion)
    return _best([_in_pool("math_verify", text, gold.text) for gold in golds])


class Gold(NamedTuple):
    """One gold answer, and its letter if it is one of a multiple choice."""

    text: str
    choice: str | None


def _golds(solution: object) -> tuple[Gold, ...]:
    """The alternatives that say something."""
    alternatives = solution if isinstance(solution, list | tuple) else [solution]
    return _read_golds(*(str(gold) for gold in alternatives if gold is not None))


@lru_cache(maxsize=1 << 14)
def _read_golds(*solutions: str) -> tuple[Gold, ...]:
    texts = [extract_gold(solution) for solution in solutions]
    return tuple(Gold(text, read_gold_choice(text)) for text in texts if text)


def _any_of(golds: tuple[Gold, ...], text: str, boxed: str | None) -> Verdict:
    """The verdict on what is boxed, or else on what the text states, against several golds of which one will do."""
    answer = boxed
    if boxed is None and any(gold.choice is None for gold in golds):
        answer = extract_statement(text)
    whole = text if boxed is None else boxed
    return _best([_judge(answer, gold.text) if gold.choice is None else _judge_choice(whole, gold) for gold in golds])


def _best(verdicts: list[Verdict]) -> Verdict:
    """Correct if one is; wrong only if all are."""
    if len(verdicts) == 1:
        return verdicts[0]
    order = ("correct", "error", "unknown", "wrong")
    return min(verdicts, key=lambda verdict: order.index(verdict.outcome))


def _judge_choice(text: str, gold: Gold) -> Verdict:
    """A letter against a letter; the text of an option will do where the gold has it."""
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
    return _guard(answer, gold) or _symbolic(answer, gold)


def _symbolic(answer: str, gold: str) -> Verdict:
    """Math-Verify's verdict; it is shown values rather than their names, and no equation against a value."""
    (given_name, given), (wanted_name, wanted) = (compare.split_name(_bare(text)) for text in (answer, gold))
    if "=" in given or (given_name and wanted_name and given_name != wanted_name):
        given, wanted = _bare(answer), _bare(gold)
        if "=" not in wanted:
            return Verdict("wrong", "an equation is not a value")
    return _in_pool("compare", given, wanted, compare.count_rounded_digits(answer, gold))


def _bare(text: str) -> str:
    """Without what Math-Verify stumbles over: \\text{sin}, \\mathrm{e}, \\frac\\pi3, \\log_e, degrees."""
    text = _TEXT.sub(r"\1", _NAMED_FUNCTION.sub(r"\\\1 ", tokens.clean_text(text)))
    text = _ACCENT.sub(r"\\\1{\2}", text.replace("\\lg ", "\\log_{10} "))
    text = _NATURAL.sub(r"\\ln ", _BARE_FRACTION.sub(r"\\frac{\1}{\2}", text))
    if "degrees" in text and _TRIGONOMETRIC.search(text):
        text = _DEGREES.sub(r"\\left(\\frac{\1\\pi}{180}\\right)", text)
    return text.replace("degrees", "")


def _guard(answer: str, gold: str) -> Verdict | None:
    """What must not be left to Math-Verify: it drops words and subscripts, and takes the last part of any chain."""
    given, wanted = tokens.clean_text(answer), tokens.clean_text(gold)
    if _says_words(wanted):
        if _squeezed(given) == _squeezed(wanted):
            return CORRECT
        return Verdict("unknown", f"the gold answer is not mathematics: {gold[:SHOWN]!r}")
    if _says_words(given):
        return Verdict("wrong", f"the final answer is not mathematics: {answer[:SHOWN]!r}")
    if _OPERATORS.search(given) and not _OPERATORS.search(wanted):
        return Verdict("wrong", "the final answer is not evaluated")
    if sorted(_DECORATION.findall(given)) != sorted(_DECORATION.findall(wanted)):
        return Verdict("unknown", "notation that Math-Verify would drop")
    if _ELLIPSIS.search(given) or _ELLIPSIS.search(wanted):
        return Verdict("unknown", "an ellipsis cannot be compared")
    if "\\begin{cases}" in given or "\\begin{cases}" in wanted:
        return CORRECT if _squeezed(given) == _squeezed(wanted) else Verdict("unknown", "cases cannot be compared")
    if _SUBSCRIPTED_NUMBER.search(given) or _SUBSCRIPTED_NUMBER.search(wanted):
        return Verdict("unknown", "numbers in a base that cannot be compared")
    return None


def _says_words(cleaned: str) -> bool:
    """Are there words in it, other than functions and conjunctions?"""
    said = _PROSE.findall(_TEXT.sub(r" \1 ", cleaned))
    return any(word.lower() not in _NOT_PROSE for word in said)


def _squeezed(text: str) -> str:
    """Letters, digits and signs in lower case."""
    return "".join(_SAID.findall(_TEXT.sub(r"\1", text).lower()))


def _in_pool(function: str, answer: str, gold: str, *more: object) -> Verdict:
    pair = f"{answer[:SHOWN]!r} against {gold[:SHOWN]!r}"
    try:
        outcome, reason = worker_pool.call_in_worker(
            f"open_r1.rewards.math.math_verify:{function}", answer, gold, *more, seconds=SECONDS
        )
    except worker_pool.LimitReached as reached:
        return Verdict("unknown", f"{reached}: {pair}")
    except (
        worker_pool.CallFailed
    ) as failed:  # sympy raises whatever it likes; the verdict says so instead of scoring it
        return Verdict("unknown", f"Math-Verify failed with {str(failed)[:SHOWN]}: {pair}")
    except worker_pool.PoolError as broken:
        return Verdict("error", str(broken))
    return Verdict(outcome, reason)
