"""Are two final answers equal? An exact decision without sympy, for the forms that most answers have.

These are integers, decimals, fractions, mixed numbers, percentages, scientific notation, thousands separators, surds,
pi, e, i, polynomials and quotients of them; units, degrees, money; words; lists, sets, tuples, intervals, unions,
simple inequalities, equations, ratios, times of day, matrices, functions by cases, numbers in a base; and names
before an answer (`x = 5`, `f(x) = 2x`, `(x, y) = (1, 2)`). For other forms `are_equal` returns None.

The conventions are those of the graders of MATH and AIME where they agree:
- A unit, a percent sign, a base or a name may be missing on one side; if both sides have one, they must agree (and
  60 minutes are an hour). `20%` equals 0.2 and 20.
- A bare list has no order; `(1, 2)` is a point and an open interval, but never the set `\\{1, 2\\}`.
- Two decimals are compared exactly. A decimal equals a number without a finite decimal (1/3, pi) if it is that number
  rounded or cut off to its digits; an answer needs at least `DIGITS` of them.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from fractions import Fraction

from .answers import (
    Answer,
    Assignment,
    Clock,
    Equation,
    FalseEquation,
    HugeNumber,
    Infinity,
    Matrix,
    Number,
    Numeral,
    Ratio,
    Sequence,
    Text,
    Union,
)
from .arithmetic import Unreadable, Value, are_proportional, number, rational, variable
from .expression import NUMERAL, Scalar
from .inequalities import INTERVALS
from .names import read_name
from .parse import INTEGER, TRUTH_WORDS, parse_answer
from .tokens import tokenize
from .units import ANGLE, PERCENT, TEMPERATURES

DIGITS = 4  # significant digits that a rounded answer needs to equal an exact gold
GOLD_DIGITS = 3  # significant digits that a rounded gold needs to equal an exact answer
PHRASE = 3  # words; longer texts are equal only if they are the same
# $1,234.00 as models write it: half of the answers that are not plain integers.
_AMOUNT = re.compile(
    r"(?:\\?\$)?(?P<whole>\d{1,3}(?:(?:,|,\\!|\{,\})\d{3}){1,4}|\d{1,15})(?:\.(?P<cents>\d{1,9}))?", re.ASCII
)
_PROSE = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{4,}(?= )")
_SEPARATORS = dict.fromkeys(map(ord, ",\\!{}"))


def are_equal(answer: str, gold: str) -> bool | None:
    """Is `answer` equal to `gold`? None if they are in a form that cannot be compared here.

    >>> are_equal("0.5", r"\\frac{1}{2}")
    True
    """
    if INTEGER.fullmatch(gold):
        if INTEGER.fullmatch(answer):
            return int(answer) == int(gold)
        amount = _AMOUNT.fullmatch(answer)
        if amount:
            cents = (amount["cents"] or "").rstrip("0")
            return not cents and int(amount["whole"].translate(_SEPARATORS)) == int(gold)
    if answer == gold and answer.strip():
        return True
    given, wanted = parse_answer(answer), parse_answer(gold)
    if given.text and given.text == wanted.text:
        return True
    if not given.readings or not wanted.readings:
        return None
    results = [_compare_safely(g, a) for g in wanted.readings for a in given.readings]
    return True if True in results else None if None in results else False


def compute_key(answer: str) -> Hashable:
    """A key that is the same for answers equal up to units and names; for an unreadable answer its cleaned text."""
    parsed = parse_answer(answer)
    return _compute_key(parsed.readings[0]) if parsed.readings else parsed.text


def is_readable(text: str) -> bool:
    """True if `text` can be read as an answer that is more than words."""
    if len(_PROSE.findall(text)) > PHRASE:  # most sentences end here, without the parser
        return False
    return any(not isinstance(reading, Text) for reading in parse_answer(text).readings)


def count_rounded_digits(answer: str, gold: str) -> int | None:
    """Digits after the point of a rounded decimal on one side, if the other side cannot be read; else None."""
    for text, other, digits in ((answer, gold, DIGITS), (gold, answer, GOLD_DIGITS)):
        decimal = next(
            (r for r in parse_answer(text).readings if isinstance(r, Number) and r.decimals is not None), None
        )
        if decimal is not None and decimal.digits >= digits and not parse_answer(other).readings:
            return decimal.decimals
    return None


def split_name(text: str) -> tuple[str | None, str]:
    """The name before the only equals sign of a cleaned text, and the text after it; (None, text) without a name."""
    left, equals, right = text.partition("=")
    try:
        name = read_name(tuple(tokenize(left.strip()))) if equals and "=" not in right else None
    except Unreadable:
        name = None
    return (None, text) if name is None else (name[0], right.strip())


def _compare_safely(gold: Answer, answer: Answer) -> bool | None:
    try:
        return _compare(gold, answer)
    except (Unreadable, RecursionError):
        return None


def _combine_results(results: Iterable[bool | None]) -> bool | None:
    """False if any result is False, else None if any is None, else True."""
    results = list(results)
    return False if False in results else None if None in results else True


def _compare(gold: Answer, answer: Answer) -> bool | None:
    if isinstance(gold, Assignment) or isinstance(answer, Assignment):
        return _compare_assignments(gold, answer)
    if isinstance(gold, Equation) or isinstance(answer, Equation):
        return _compare_equations(gold, answer)
    if isinstance(gold, HugeNumber) or isinstance(answer, HugeNumber):
        other = answer if isinstance(gold, HugeNumber) else gold
        return False if isinstance(other, Number) and other.value.rational() is not None else None
    if isinstance(gold, FalseEquation) or isinstance(answer, FalseEquation):
        return None if isinstance(gold, FalseEquation) else False
    pair = (gold, answer)
    match pair:
        case (Number(), Number()):
            return _compare_numbers(gold, answer)
        case (Infinity(), Infinity()) | (Numeral(), Numeral()) | (Clock(), Clock()):
            return gold == answer
        case (Clock(), Ratio() | Number()) | (Ratio() | Number(), Clock()):
            return _compare_clock(*(pair if isinstance(gold, Clock) else pair[::-1]))
        case (Text(), Text()):
            return _compare_texts(gold.words, answer.words)
        case (Text(), _):
            return None if len(gold.words.split()) > PHRASE else False
        case (Numeral(), Number()) | (Number(), Numeral()):
            return _compare_numeral(*(pair if isinstance(gold, Numeral) else pair[::-1]))
        case (Ratio(), Ratio()):
            return _compare_ratios(gold, answer)
        case (Ratio(), Number()) | (Number(), Ratio()):
            ratio, other = pair if isinstance(gold, Ratio) else pair[::-1]
            return (
                len(ratio.parts) == 2
                and bool(ratio.parts[1].value.numerator)
                and _compare_numbers(other, Number(ratio.parts[0].value / ratio.parts[1].value))
            )
        case (Matrix(), Matrix()):
            if [len(row) for row in gold.rows] != [len(row) for row in answer.rows]:
                return False
            return _combine_results(
                _compare(g, a)
                for gs, as_ in zip(gold.rows, answer.rows, strict=True)
                for g, a in zip(gs, as_, strict=True)
            )
        case (Matrix(), Sequence()) | (Sequence(), Matrix()):
            return _compare_vector(*(pair if isinstance(gold, Matrix) else pair[::-1]))
        case (Sequence(), Sequence()):
            return _compare_sequences(gold, answer)
        case (Union(), Union()):
            return _compare_unordered(gold.parts, answer.parts) or None
        case (Union(), Sequence()) | (Sequence(), Union()):
            return _compare_union(*(pair if isinstance(gold, Union) else pair[::-1]))
        case (Sequence(), _) | (_, Sequence()):
            sequence, other = pair if isinstance(gold, Sequence) else pair[::-1]
            if len(sequence.items) == 1 and sequence.brackets in ("", "{}"):
                return _compare(sequence.items[0], other)
            return False
    return False


def _compare_numbers(gold: Number, answer: Number) -> bool | None:
    wanted, given = gold.value, answer.value
    if gold.unit and answer.unit and gold.unit != answer.unit:
        if ANGLE in (gold.unit[0], answer.unit[0]) and {gold.unit[0], answer.unit[0]} & set(TEMPERATURES):
            return wanted == given  # degrees and a temperature
        if gold.unit[0] != answer.unit[0]:
            return (
                _convert_to_radians(gold) == _convert_to_radians(answer)
                if _convert_to_radians(gold) and _convert_to_radians(answer)
                else False
            )
        wanted, given = wanted * rational(gold.unit[1]), given * rational(answer.unit[1])
        return wanted == given
    if wanted == given:
        return _may_omit_percent(gold, answer)
    if bool(gold.unit) != bool(answer.unit):
        with_unit, bare = (gold, answer) if gold.unit else (answer, gold)
        if with_unit.unit[0] == PERCENT and _compare_numbers(*map(_convert_percent, (gold, answer))):
            return True
        if with_unit.unit[0] == ANGLE and "\\pi" in bare.value.variables():
            return with_unit.value * variable("\\pi") / number(180) == bare.value
    return _is_rounded(gold, answer)


def _convert_percent(quantity: Number) -> Number:
    """20% as 0.20, with its digits."""
    if not quantity.unit:
        return quantity
    decimals = None if quantity.decimals is None else quantity.decimals + 2
    return Number(quantity.value * rational(Fraction(1, 100)), decimals, quantity.digits)


def _convert_to_radians(quantity: Number) -> Value | None:
    """The value of an angle in radians; None for another unit."""
    return {
        (("angle", 1),): quantity.value * variable("\\pi") / number(180),
        (("radians", 1),): quantity.value,
    }.get(quantity.unit[0] if quantity.unit else ())


def _may_omit_percent(gold: Number, answer: Number) -> bool:
    """False if one side has a percent sign and the other could be a share: 20 equals 20%, but 0.5 is not 0.5%."""
    percents = [quantity for quantity in (gold, answer) if quantity.unit and quantity.unit[0] == PERCENT]
    value = gold.value.rational()
    return len(percents) != 1 or value is None or value == 0 or abs(value) > 1


def _is_rounded(gold: Number, answer: Number) -> bool:
    """True if one side is a decimal and the other, which has no finite decimal, rounds or is cut off to it."""
    if (gold.decimals is None) == (answer.decimals is None):
        return False
    rounded, exact, digits = (gold, answer, GOLD_DIGITS) if gold.decimals is not None else (answer, gold, DIGITS)
    fraction = exact.value.rational()
    if (
        rounded.digits < digits
        or rounded.decimals is None
        or (fraction is not None and _has_finite_decimal(fraction.denominator))
    ):
        return False
    value, given = exact.value.approximate(), rounded.value.rational()
    if value is None or given is None or abs(rounded.decimals) > NUMERAL:
        return False
    unit = Fraction(1, 10) ** rounded.decimals
    error = abs(value) - abs(given)
    return value * given > 0 and -unit / 2 <= error < unit


def _has_finite_decimal(denominator: int) -> bool:
    """True if 1/denominator has a finite decimal."""
    return pow(10, denominator.bit_length(), denominator) == 0


_FILLER = re.compile(r"\b(?:is|are|the|a|an|both|all|only|and|or)\b")


def _compare_texts(gold: str, answer: str) -> bool | None:
    """True for the same words, False for other short phrases, None for sentences, which cannot be compared here."""
    if gold == answer:
        return True
    wanted, given = (" ".join(_FILLER.sub(" ", text).split()) for text in (gold, answer))
    if wanted == given:
        return True
    if sorted(gold.split(" and ")) == sorted(answer.split(" and ")):
        return True
    if (gold in TRUTH_WORDS and answer.startswith(gold + ",")) or (
        answer in TRUTH_WORDS and gold.startswith(answer + ",")
    ):
        return True  # yes against "yes, it is"
    if len(gold.split()) > PHRASE or f" {wanted} " in f" {given} " or f" {given} " in f" {wanted} ":
        return None
    return False


def _compare_numeral(based: Numeral, plain: Number) -> bool | None:
    """True for the same digits: a number without a base has the base of the other."""
    value = plain.value.rational()
    return (
        value is not None and value.denominator == 1 and plain.decimals is None and str(value) == (based.digits or "0")
    )


def _compare_clock(clock: Clock, bare: Ratio | Number) -> bool:
    """True for 6:30 or 18:30 against 6:30 p.m."""
    parts = bare.parts if isinstance(bare, Ratio) else (bare,)
    values = [None if part.unit else part.value.rational() for part in parts]
    if len(values) > 3 or not all(value is not None and 0 <= value < 60 for value in values):
        return False
    seconds = sum(value * scale for value, scale in zip(values, (3600, 60, 1), strict=False))
    return seconds == clock.seconds or (seconds < 13 * 3600 and (seconds - clock.seconds) % (12 * 3600) == 0)


def _compare_ratios(gold: Ratio, answer: Ratio) -> bool:
    if len(gold.parts) != len(answer.parts):
        return False
    first_gold, first_answer = gold.parts[0].value, answer.parts[0].value
    if not first_gold.numerator or not first_answer.numerator or not gold.parts[-1].value.numerator:
        return [part.value for part in gold.parts] == [part.value for part in answer.parts]
    return all(g.value * first_answer == a.value * first_gold for g, a in zip(gold.parts, answer.parts, strict=True))


def _compare_vector(matrix: Matrix, point: Sequence) -> bool | None:
    """Compare a matrix of one row or column with a point."""
    cells = [cell for row in matrix.rows for cell in row]
    if point.brackets not in ("()", "[]", "") or (len(matrix.rows) > 1 and any(len(row) > 1 for row in matrix.rows)):
        return False
    if len(cells) != len(point.items):
        return False
    return _combine_results(_compare(g, a) for g, a in zip(cells, point.items, strict=True))


def _compare_sequences(gold: Sequence, answer: Sequence) -> bool | None:
    brackets = {gold.brackets, answer.brackets}
    if brackets == {"<", ">"}:
        answer = Sequence(gold.brackets, answer.items[::-1])
    elif len(brackets) > 1 and not _may_be_equal(brackets, len(gold.items)):
        return None if brackets & {"cases", "<", ">"} else False
    unordered = brackets <= {"", "{}"} or brackets == {"cases"}
    if unordered:
        return _compare_unordered(*(_drop_repeats(sequence) for sequence in (gold, answer)))
    if len(gold.items) != len(answer.items):
        return False
    return _combine_results(_compare(g, a) for g, a in zip(gold.items, answer.items, strict=True))


def _may_be_equal(brackets: set[str], items: int) -> bool:
    """A list may equal a set, a point or a chain; but (1, 2] and [1, 2] are intervals."""
    return "" in brackets and (not brackets.isdisjoint(("{}", "()", "<", ">")) or ("[]" in brackets and items > 2))


def _compare_union(union: Union, other: Sequence) -> bool | None:
    """A union of intervals equals no finite set, and a list only if a half-line shows that these are intervals."""
    if other.brackets == "{}" and any(isinstance(p, Sequence) and p.brackets in INTERVALS for p in union.parts):
        return False
    listed = not other.brackets and any(_is_half_line(item) for item in other.items)
    return (listed and _compare_unordered(union.parts, other.items)) or None


def _is_half_line(answer: Answer) -> bool:
    return isinstance(answer, Sequence) and any(isinstance(item, Infinity) for item in answer.items)


def _drop_repeats(sequence: Sequence) -> tuple[Answer, ...]:
    """The items; members of a set and points in a list count once."""
    if sequence.brackets != "{}" and not all(isinstance(item, Sequence) for item in sequence.items):
        return sequence.items
    return tuple({_compute_key(item): item for item in sequence.items}.values())


def _compare_unordered(gold: tuple[Answer, ...], answer: tuple[Answer, ...]) -> bool | None:
    if len(gold) != len(answer):
        return False
    left, undecided = list(answer), False
    for wanted in gold:
        results = [_compare_safely(wanted, given) for given in left]
        if True in results:
            del left[results.index(True)]
        elif None in results:
            undecided = True
        else:
            return False
    return None if undecided else True


def _compare_assignments(gold: Answer, answer: Answer) -> bool | None:
    """A name may be missing on one side; two plain variables must be the same."""
    if isinstance(gold, Equation) or isinstance(answer, Equation):
        return _compare_equations(_make_equation(gold), _make_equation(answer))
    if not isinstance(gold, Assignment):
        return _compare(gold, answer.answer)
    if not isinstance(answer, Assignment):
        return _compare(gold.answer, answer)
    if gold.name != answer.name and not (gold.parameter or answer.parameter):
        return None if len(gold.name) > 1 and len(answer.name) > 1 else False
    if gold.name[0] == answer.name[0] and ("'" in gold.name) != ("'" in answer.name):  # the inverse, a derivative
        return False
    given = answer.answer
    if gold.parameter != answer.parameter and gold.parameter and answer.parameter and isinstance(given, Number):
        renamed = given.value.substitute(answer.parameter, gold.parameter)
        given = Number(renamed, given.decimals, given.digits, given.unit)
    return _compare(gold.answer, given)


def _make_equation(named: Answer) -> Answer:
    """x = 5 as x - 5 = 0."""
    if (
        isinstance(named, Assignment)
        and isinstance(named.answer, Number)
        and named.relation == "="
        and named.parameter is None
    ):
        return Equation(Scalar(tuple(tokenize(named.name))).whole() - named.answer.value)
    return named


def _compare_equations(gold: Answer, answer: Answer) -> bool | None:
    if isinstance(gold, Equation) and isinstance(answer, Equation):
        return _compare_two_equations(gold, answer)
    if isinstance(gold, Equation) and isinstance(answer, Number) and gold.relation == "=":
        return _is_solution(gold.difference, answer.value)
    if isinstance(gold, Assignment) or isinstance(answer, Assignment):
        return None
    return False


def _compare_two_equations(gold: Equation, answer: Equation) -> bool | None:
    """True if they are equal up to a factor; False if both are linear or have other variables; else None."""
    a, b = gold.difference, answer.difference
    if gold.relation != answer.relation:
        return False
    if are_proportional(a.numerator, b.numerator) and (gold.relation == "=" or a.denominator == b.denominator):
        term = next(iter(a.numerator), None)
        return gold.relation == "=" or term is None or a.numerator[term] * b.numerator[term] > 0
    degrees = [sum(e for _, e in term.variables) for value in (a, b) for term in value.numerator]
    rational_only = not any(term.radicals or term.i for value in (a, b) for term in value.numerator)
    linear = all(0 <= d <= 1 for d in degrees) and len(a.denominator) == len(b.denominator) == 1
    if a.variables() != b.variables() or (linear and rational_only):
        return False
    return None


def _is_solution(difference: Value, expression: Value) -> bool:
    """True if `expression` is the equation solved for the one variable that it lacks."""
    free = difference.variables() - expression.variables() - {"\\pi", "e"}
    if len(free) != 1 or difference.variables() - free != expression.variables():
        return False
    (name,) = free
    linear = [term for term in difference.numerator if dict(term.variables).get(name)]
    if len(linear) != 1 or linear[0].variables != ((name, 1),) or len(difference.denominator) != 1:
        return False
    slope = Value({linear[0]: difference.numerator[linear[0]]}, difference.denominator)
    return (slope - difference) / (slope / variable(name)) == expression


def _compute_key(answer: Answer) -> Hashable:
    match answer:
        case Number():
            return answer.value.key()
        case Assignment():
            return _compute_key(answer.answer)
        case Equation():
            return answer.relation, answer.difference.key()
        case Sequence():
            keys = [_compute_key(item) for item in answer.items]
            if answer.brackets in ("", "{}"):
                return "items", frozenset((k, keys.count(k)) for k in keys)
            return answer.brackets, tuple(keys)
        case Union():
            return "union", frozenset(map(_compute_key, answer.parts))
        case Ratio():
            return "ratio", tuple(map(_compute_key, answer.parts))
        case Matrix():
            return "matrix", tuple(tuple(map(_compute_key, row)) for row in answer.rows)
    return answer
