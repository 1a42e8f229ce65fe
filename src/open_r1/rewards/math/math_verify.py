"""Math-Verify on one pair of answers. Runs in a worker of worker_pool.py: it may take any time and memory, or crash.

Math-Verify parses both, and compares sets, relations and matrices. Numbers and expressions are compared here by their
values to `PRECISION` digits, because Math-Verify rounds to six decimals (2.5 equals 2.4999999, and 1e-19 equals
1e-31). What it calls equal is checked again.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from itertools import permutations
from typing import Any, Literal

import sympy
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from sympy.core.random import seed

from .exact.compare import is_readable

PRECISION = 50  # decimal digits
AGREEMENT = sympy.Float("1e-30", PRECISION)  # largest relative difference of equal values
# Values of the variables at which expressions are compared: positive, because roots and logarithms are then real;
# small and large, rising and falling, because |a - b| must be neither a - b nor b - a; and unrelated.
_NUMERATORS = (13, 29, 47, 71, 101, 131, 163, 197)
POINTS = [[sympy.Rational(p, q) for p in _NUMERATORS[::way]] for q, way in ((7, 1), (17, -1), (37, 1), (89, -1))]
# Commands that Math-Verify understands. It drops others, and may take the rest for the whole answer.
_COMMANDS = (
    "frac dfrac tfrac cfrac sqrt binom dbinom cdot times div ast pm mp left right le leq leqslant ge geq geqslant lt "
    "gt ne neq in cup cap setminus infty pi emptyset varnothing mathbb mathrm mathbf text begin end lfloor rfloor "
    "lceil rceil lvert rvert vert sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp max min gcd "
    "lcm sum prod int iint lim to mid vec hat bar overline prime alpha beta gamma delta epsilon varepsilon zeta eta "
    "theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta "
    "Lambda Xi Pi Sigma Phi Psi Omega hbar ell quad land lor"
)
_UNDERSTOOD = frozenset(_COMMANDS.split())
_COMMAND = re.compile(r"\\([a-zA-Z]+)")

for _name in ("math_verify.parser", "math_verify.grader"):  # they warn that timeouts are off; the pool has its own
    logging.getLogger(_name).setLevel(logging.ERROR)

Outcome = Literal["correct", "wrong", "unknown"]


def compare(answer: str, gold: str, decimals: int | None = None) -> tuple[Outcome, str]:
    """Is `answer` equal to `gold`? The reason is empty if it is.

    Args:
        answer, gold: LaTeX without delimiters.
        decimals: digits after the point of the side that is a rounded decimal; None if neither or both are.
    """
    seed(0)  # sympy tests for zero at random points
    golds, answers = _parse(gold), _parse(answer)
    if not golds:
        return "unknown", f"the gold answer cannot be parsed: {gold!r}"
    if not answers:
        return "wrong", "the final answer cannot be parsed"
    if _is_incomplete(gold, golds[0]):
        return "unknown", f"Math-Verify does not read all of the gold answer: {gold!r}"
    outcome, reason = _compare(golds, answers, decimals)
    if outcome == "correct" and _is_incomplete(answer, answers[0]):
        return "unknown", f"Math-Verify does not read all of the final answer: {answer!r}"
    return outcome, reason


def _compare(golds: tuple[Any, ...], answers: tuple[Any, ...], decimals: int | None) -> tuple[Outcome, str]:
    given, wanted = answers[0], golds[0]
    if isinstance(wanted, sympy.Expr) and isinstance(given, sympy.Expr):
        same = _compare_values(wanted, given, decimals)
        if same is not None:
            return ("correct", "") if same else ("wrong", "")
    if wanted == given:
        return "correct", ""
    if not verify(list(golds), list(answers), timeout_seconds=None, raise_on_error=True):
        return "wrong", ""
    if _contradicts(wanted, given):
        return "wrong", "equal only after rounding, or as another kind of object"
    if _is_unevaluated(given) or _is_unevaluated(wanted):
        return "unknown", "an integral, sum or limit that is not evaluated"
    return "correct", ""


def _is_incomplete(text: str, parsed: Any) -> bool:
    """True if the text has more than Math-Verify has read. It evaluates nothing: only a written number gives one."""
    if not _UNDERSTOOD.issuperset(_COMMAND.findall(text)):
        return True
    return isinstance(parsed, sympy.Number) and not is_readable(text)


def math_verify(text: str, gold: str) -> tuple[Outcome, str]:
    """Math-Verify's own extraction, parsing and comparison."""
    golds = parse(_add_delimiters(gold), parsing_timeout=None, raise_on_error=True)
    if not golds:
        return "unknown", f"Math-Verify cannot parse the gold answer: {gold!r}"
    answers = parse(text, parsing_timeout=None, raise_on_error=True)
    return ("correct" if verify(golds, answers, timeout_seconds=None, raise_on_error=True) else "wrong"), ""


def _add_delimiters(text: str) -> str:
    """The text in dollar signs: without delimiters Math-Verify reads LaTeX only in an environment."""
    return text if "$" in text or "\\[" in text or "\\(" in text or "\\boxed" in text else f"${text}$"


@lru_cache(maxsize=4096)
def _parse(text: str) -> tuple[Any, ...]:
    delimited = "$" + " ".join(text.replace("$", " ").split()) + "$"
    configs = [LatexExtractionConfig(), ExprExtractionConfig()]
    return tuple(parse(delimited, configs, fallback_mode="no_fallback", parsing_timeout=None, raise_on_error=True))


def _compare_values(gold: sympy.Expr, answer: sympy.Expr, decimals: int | None = None) -> bool | None:
    """Are the values equal? None if there are none."""
    if _is_unevaluated(gold) or _is_unevaluated(answer) or gold.atoms(sympy.core.function.AppliedUndef):
        return None
    gold, answer = (e.xreplace({s: sympy.I for s in e.free_symbols if s.name == "i"}) for e in (gold, answer))
    names = sorted({symbol.name for expression in (gold, answer) for symbol in expression.free_symbols})
    if not names:
        return _compare_numbers(gold, answer, decimals)
    if len(names) > len(POINTS[0]):
        return None
    results = []
    points = POINTS
    if any(expression.has(sympy.Abs, sympy.Max, sympy.Min) for expression in (gold, answer)):
        points = POINTS + [[-x for x in point] for point in POINTS[:2]]
    for point in points:
        at = dict(zip(names, point, strict=False))
        values = [e.subs({symbol: at[symbol.name] for symbol in e.free_symbols}) for e in (gold, answer)]
        same = _compare_numbers(*values)
        if same is False:
            return False
        results.append(same)
    return True if results.count(True) >= 2 else None


def _compare_numbers(gold: sympy.Expr, answer: sympy.Expr, decimals: int | None = None) -> bool | None:
    a, b = (_evaluate(value) for value in (gold, answer))
    if a is None or b is None:
        return None
    if decimals is not None and a.is_real and b.is_real:
        return _is_rounded(a, b, decimals) or _is_rounded(b, a, decimals)
    if not abs(a - b) <= AGREEMENT * max(abs(a), abs(b)):
        return False
    if abs(a) < 1 / AGREEMENT:
        return True
    difference = (_make_exact(gold) - _make_exact(answer)).evalf(PRECISION, maxn=1000)  # 2^{2024} is not 2^{2024} - 1
    return bool(abs(difference) <= AGREEMENT)


def _is_rounded(decimal: sympy.Expr, exact: sympy.Expr, decimals: int) -> bool:
    """True if `decimal` has so many decimals, and `exact` rounds or is cut off to it."""
    unit = sympy.Rational(1, 10) ** decimals
    error = (abs(exact) - abs(decimal)) / unit
    return bool(sympy.Abs(decimal / unit - round(decimal / unit)) < AGREEMENT) and bool(
        decimal * exact > 0 and -sympy.Rational(1, 2) <= error < 1
    )


def _make_exact(expression: sympy.Expr) -> sympy.Expr:
    """The expression with its floats as exact decimals, as they were written."""
    return expression.xreplace({f: sympy.Rational(str(f)) for f in expression.atoms(sympy.Float)}).doit()


def _evaluate(expression: sympy.Expr) -> sympy.Expr | None:
    value = _make_exact(expression).evalf(PRECISION, maxn=400)
    finite = value.is_number and value.is_finite and value.has(sympy.nan, sympy.zoo) is False
    return value if finite and not value.has(sympy.Function) else None


def _is_unevaluated(expression: Any) -> bool:
    lazy = (sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit, sympy.Derivative)
    return isinstance(expression, sympy.Basic) and expression.has(*lazy)


def _contradicts(gold: Any, answer: Any) -> bool:
    """True for a point and a set, or members with different values, which Math-Verify may call equal."""
    if isinstance(gold, sympy.Tuple) != isinstance(answer, sympy.Tuple) and isinstance(
        answer, sympy.FiniteSet | sympy.Tuple
    ):
        return isinstance(gold, sympy.FiniteSet | sympy.Tuple)
    if isinstance(gold, sympy.MatrixBase) and isinstance(answer, sympy.MatrixBase):
        return any(_compare_members(g, a) is False for g, a in zip(gold.flat(), answer.flat(), strict=True))
    if isinstance(gold, sympy.Tuple) and isinstance(answer, sympy.Tuple):
        return any(_compare_members(g, a) is False for g, a in zip(gold.args, answer.args, strict=False))
    if isinstance(gold, sympy.FiniteSet) and isinstance(answer, sympy.FiniteSet) and len(gold) <= 6:
        return not any(
            all(_compare_members(g, a) is not False for g, a in zip(gold.args, order, strict=True))
            for order in permutations(answer.args, len(gold))
        )
    if isinstance(gold, sympy.Interval) and isinstance(answer, sympy.Interval):
        return any(_compare_members(g, a) is False for g, a in ((gold.start, answer.start), (gold.end, answer.end)))
    return False


def _compare_members(gold: Any, answer: Any) -> bool | None:
    if isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr):
        return _compare_values(gold, answer)
    return None
