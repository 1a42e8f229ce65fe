"""Are two final answers equal? Decided exactly, for the forms that most answers have, without sympy.

Read here: integers, decimals, fractions, mixed numbers, percentages, scientific notation, thousands separators, surds,
pi, e, i, polynomials and quotients of them; units, degrees, money; words; lists, sets, tuples, intervals, unions,
simple inequalities, equations, ratios, times of day, matrices, functions by cases, numbers in a base; and names
before an answer (`x = 5`, `f(x) = 2x`, `(x, y) = (1, 2)`). Everything else is not ours: `equal` says None.

Conventions, which are those of the graders of MATH and AIME where they agree:
- A unit, a percent sign, a base or a name may be missing on one side; where both have one they must agree (and
  60 minutes are an hour). `20%` equals 0.2, and 20.
- A bare list has no order; `(1, 2)` is a point and an open interval, but never the set `\\{1, 2\\}`.
- Two decimals are compared exactly. A decimal equals a number that no decimal can write (1/3, pi) if it is that number
  rounded or cut off to the digits given, at least `DIGITS` of them in an answer.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from fractions import Fraction

from .answers import (
    Absurd,
    Answer,
    Based,
    Clock,
    Equation,
    Extreme,
    Infinite,
    Matrix,
    Named,
    Number,
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

DIGITS = 4  # significant ones that an answer needs where a rounded decimal stands for an exact number
PHRASE = 3  # words; of a longer text only the same text is known to be the same
GOLD_DIGITS = 3  # the same where the gold answer is the rounded one
# $1,234.00 as models write it: half of the answers that are no plain integers.
_AMOUNT = re.compile(
    r"(?:\\?\$)?(?P<whole>\d{1,3}(?:(?:,|,\\!|\{,\})\d{3}){1,4}|\d{1,15})(?:\.(?P<cents>\d{1,9}))?", re.ASCII
)
_PROSE = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{4,}(?= )")
_SEPARATORS = dict.fromkeys(map(ord, ",\\!{}"))


def are_equal(answer: str, gold: str) -> bool | None:
    """Is `answer` equal to `gold`? None where that cannot be told here."""
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
    results = [_guarded(g, a) for g in wanted.readings for a in given.readings]
    return True if True in results else None if None in results else False


def compute_key(answer: str) -> Hashable:
    """The same for answers that `equal` calls equal up to units and names; the cleaned text where it cannot read."""
    parsed = parse_answer(answer)
    return _key(parsed.readings[0]) if parsed.readings else parsed.text


def is_readable(text: str) -> bool:
    """Can `text` be read as an answer, other than as words?"""
    if len(_PROSE.findall(text)) > PHRASE:  # what most sentences are, told without parsing them
        return False
    return any(not isinstance(reading, Text) for reading in parse_answer(text).readings)


def count_rounded_digits(answer: str, gold: str) -> int | None:
    """Digits after the point of the one that is a decimal with enough of them to stand for the other, if one is."""
    for text, other, digits in ((answer, gold, DIGITS), (gold, answer, GOLD_DIGITS)):
        decimal = next(
            (r for r in parse_answer(text).readings if isinstance(r, Number) and r.decimals is not None), None
        )
        if decimal is not None and decimal.digits >= digits and not parse_answer(other).readings:
            return decimal.decimals
    return None


def split_name(text: str) -> tuple[str | None, str]:
    """The name before the only equals sign of a cleaned text, and what stands after it."""
    left, equals, right = text.partition("=")
    try:
        name = read_name(tuple(tokenize(left.strip()))) if equals and "=" not in right else None
    except Unreadable:
        name = None
    return (None, text) if name is None else (name[0], right.strip())


def _guarded(gold: Answer, answer: Answer) -> bool | None:
    try:
        return _compare(gold, answer)
    except (Unreadable, RecursionError):
        return None


def _all(results: Iterable[bool | None]) -> bool | None:
    """False if one is False; else None if one is None."""
    results = list(results)
    return False if False in results else None if None in results else True


def _compare(gold: Answer, answer: Answer) -> bool | None:
    if isinstance(gold, Named) or isinstance(answer, Named):
        return _compare_named(gold, answer)
    if isinstance(gold, Equation) or isinstance(answer, Equation):
        return _compare_equations(gold, answer)
    if isinstance(gold, Extreme) or isinstance(answer, Extreme):
        other = answer if isinstance(gold, Extreme) else gold
        return False if isinstance(other, Number) and other.value.rational() is not None else None
    if isinstance(gold, Absurd) or isinstance(answer, Absurd):
        return None if isinstance(gold, Absurd) else False
    pair = (gold, answer)
    match pair:
        case (Number(), Number()):
            return _compare_numbers(gold, answer)
        case (Infinite(), Infinite()) | (Based(), Based()) | (Clock(), Clock()):
            return gold == answer
        case (Clock(), Ratio() | Number()) | (Ratio() | Number(), Clock()):
            return _compare_clock(*(pair if isinstance(gold, Clock) else pair[::-1]))
        case (Text(), Text()):
            return _compare_texts(gold.words, answer.words)
        case (Text(), _):
            return None if len(gold.words.split()) > PHRASE else False
        case (Based(), Number()) | (Number(), Based()):
            return _compare_based(*(pair if isinstance(gold, Based) else pair[::-1]))
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
            return _all(
                _compare(g, a)
                for gs, as_ in zip(gold.rows, answer.rows, strict=True)
                for g, a in zip(gs, as_, strict=True)
            )
        case (Matrix(), Sequence()) | (Sequence(), Matrix()):
            return _compare_vector(*(pair if isinstance(gold, Matrix) else pair[::-1]))
        case (Sequence(), Sequence()):
            return _compare_sequences(gold, answer)
        case (Union(), Union()):
            return _unordered(gold.parts, answer.parts) or None
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
            return wanted == given  # degrees of something
        if gold.unit[0] != answer.unit[0]:
            return _angle(gold) == _angle(answer) if _angle(gold) and _angle(answer) else False
        wanted, given = wanted * rational(gold.unit[1]), given * rational(answer.unit[1])
        return wanted == given
    if wanted == given:
        return _percent_may_miss(gold, answer)
    if bool(gold.unit) != bool(answer.unit):
        with_unit, bare = (gold, answer) if gold.unit else (answer, gold)
        if with_unit.unit[0] == PERCENT and _compare_numbers(*map(_share, (gold, answer))):
            return True
        if with_unit.unit[0] == ANGLE and "\\pi" in bare.value.variables():
            return with_unit.value * variable("\\pi") / number(180) == bare.value
    return _is_rounded(gold, answer)


def _share(quantity: Number) -> Number:
    """20% as 0.20."""
    if not quantity.unit:
        return quantity
    decimals = None if quantity.decimals is None else quantity.decimals + 2
    return Number(quantity.value * rational(Fraction(1, 100)), decimals, quantity.digits)


def _angle(quantity: Number) -> Value | None:
    """In radians."""
    return {
        (("angle", 1),): quantity.value * variable("\\pi") / number(180),
        (("radians", 1),): quantity.value,
    }.get(quantity.unit[0] if quantity.unit else ())


def _percent_may_miss(gold: Number, answer: Number) -> bool:
    """20 stands for 20%, but 0.5 does not stand for 0.5%: it is 50%."""
    percents = [quantity for quantity in (gold, answer) if quantity.unit and quantity.unit[0] == PERCENT]
    value = gold.value.rational()
    return len(percents) != 1 or value is None or value == 0 or abs(value) > 1


def _is_rounded(gold: Number, answer: Number) -> bool:
    """Is one the other rounded or cut off to the digits it has? Only a number without a finite decimal may be."""
    if (gold.decimals is None) == (answer.decimals is None):
        return False
    rounded, exact, digits = (gold, answer, GOLD_DIGITS) if gold.decimals is not None else (answer, gold, DIGITS)
    fraction = exact.value.rational()
    if (
        rounded.digits < digits
        or rounded.decimals is None
        or (fraction is not None and _terminates(fraction.denominator))
    ):
        return False
    value, given = exact.value.approximate(), rounded.value.rational()
    if value is None or given is None or abs(rounded.decimals) > NUMERAL:
        return False
    unit = Fraction(1, 10) ** rounded.decimals
    error = abs(value) - abs(given)
    return value * given > 0 and -unit / 2 <= error < unit


def _terminates(denominator: int) -> bool:
    """Has 1/denominator a finite decimal?"""
    return pow(10, denominator.bit_length(), denominator) == 0


_SAID_WITH = re.compile(r"\b(?:is|are|the|a|an|both|all|only|and|or)\b")


def _compare_texts(gold: str, answer: str) -> bool | None:
    """Up to a few words they must be the same; what is said in a sentence is not for us to compare."""
    if gold == answer:
        return True
    wanted, given = (" ".join(_SAID_WITH.sub(" ", text).split()) for text in (gold, answer))
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


def _compare_based(based: Based, plain: Number) -> bool | None:
    """A base that is not named is taken to be the other's."""
    value = plain.value.rational()
    return (
        value is not None and value.denominator == 1 and plain.decimals is None and str(value) == (based.digits or "0")
    )


def _compare_clock(clock: Clock, bare: Ratio | Number) -> bool:
    """6:30 or 18:30 for 6:30 p.m."""
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
    """A row or a column may be written as a point."""
    cells = [cell for row in matrix.rows for cell in row]
    if point.brackets not in ("()", "[]", "") or (len(matrix.rows) > 1 and any(len(row) > 1 for row in matrix.rows)):
        return False
    if len(cells) != len(point.items):
        return False
    return _all(_compare(g, a) for g, a in zip(cells, point.items, strict=True))


def _compare_sequences(gold: Sequence, answer: Sequence) -> bool | None:
    brackets = {gold.brackets, answer.brackets}
    if brackets == {"<", ">"}:
        answer = Sequence(gold.brackets, answer.items[::-1])
    elif len(brackets) > 1 and not _may_be_same(brackets, len(gold.items)):
        return None if brackets & {"cases", "<", ">"} else False
    unordered = brackets <= {"", "{}"} or brackets == {"cases"}
    if unordered:
        return _unordered(*(_distinct(sequence) for sequence in (gold, answer)))
    if len(gold.items) != len(answer.items):
        return False
    return _all(_compare(g, a) for g, a in zip(gold.items, answer.items, strict=True))


def _may_be_same(brackets: set[str], items: int) -> bool:
    """A list may be a set, a point, or what is put in order; but (1, 2] and [1, 2] are intervals."""
    return "" in brackets and (not brackets.isdisjoint(("{}", "()", "<", ">")) or ("[]" in brackets and items > 2))


def _compare_union(union: Union, other: Sequence) -> bool | None:
    """A union of intervals is no finite set; it may be listed, if it is plain that these are intervals."""
    if other.brackets == "{}" and any(isinstance(p, Sequence) and p.brackets in INTERVALS for p in union.parts):
        return False
    listed = not other.brackets and any(_is_half_line(item) for item in other.items)
    return (listed and _unordered(union.parts, other.items)) or None


def _is_half_line(answer: Answer) -> bool:
    return isinstance(answer, Sequence) and any(isinstance(item, Infinite) for item in answer.items)


def _distinct(sequence: Sequence) -> tuple[Answer, ...]:
    """Members of a set, and points in a list, count once."""
    if sequence.brackets != "{}" and not all(isinstance(item, Sequence) for item in sequence.items):
        return sequence.items
    return tuple({_key(item): item for item in sequence.items}.values())


def _unordered(gold: tuple[Answer, ...], answer: tuple[Answer, ...]) -> bool | None:
    if len(gold) != len(answer):
        return False
    left, undecided = list(answer), False
    for wanted in gold:
        results = [_guarded(wanted, given) for given in left]
        if True in results:
            del left[results.index(True)]
        elif None in results:
            undecided = True
        else:
            return False
    return None if undecided else True


def _compare_named(gold: Answer, answer: Answer) -> bool | None:
    """A name may be missing; where both have one, two plain variables must be the same."""
    if isinstance(gold, Equation) or isinstance(answer, Equation):
        return _compare_equations(_as_equation(gold), _as_equation(answer))
    if not isinstance(gold, Named):
        return _compare(gold, answer.answer)
    if not isinstance(answer, Named):
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


def _as_equation(named: Answer) -> Answer:
    """x = 5 as x - 5 = 0."""
    if (
        isinstance(named, Named)
        and isinstance(named.answer, Number)
        and named.relation == "="
        and named.parameter is None
    ):
        return Equation(Scalar(tuple(tokenize(named.name))).whole() - named.answer.value)
    return named


def _compare_equations(gold: Answer, answer: Answer) -> bool | None:
    if isinstance(gold, Equation) and isinstance(answer, Equation):
        return _same_equation(gold, answer)
    if isinstance(gold, Equation) and isinstance(answer, Number) and gold.relation == "=":
        return _solves(gold.difference, answer.value)
    if isinstance(gold, Named) or isinstance(answer, Named):
        return None
    return False


def _same_equation(gold: Equation, answer: Equation) -> bool | None:
    """Equal up to a factor; different where both are linear in the same variables."""
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


def _solves(difference: Value, expression: Value) -> bool:
    """Is `expression` the equation solved for the one variable that it lacks?"""
    free = difference.variables() - expression.variables() - {"\\pi", "e"}
    if len(free) != 1 or difference.variables() - free != expression.variables():
        return False
    (name,) = free
    linear = [term for term in difference.numerator if dict(term.variables).get(name)]
    if len(linear) != 1 or linear[0].variables != ((name, 1),) or len(difference.denominator) != 1:
        return False
    slope = Value({linear[0]: difference.numerator[linear[0]]}, difference.denominator)
    return (slope - difference) / (slope / variable(name)) == expression


def _key(answer: Answer) -> Hashable:
    match answer:
        case Number():
            return answer.value.key()
        case Named():
            return _key(answer.answer)
        case Equation():
            return answer.relation, answer.difference.key()
        case Sequence():
            keys = [_key(item) for item in answer.items]
            if answer.brackets in ("", "{}"):
                return "items", frozenset((k, keys.count(k)) for k in keys)
            return answer.brackets, tuple(keys)
        case Union():
            return "union", frozenset(map(_key, answer.parts))
        case Ratio():
            return "ratio", tuple(map(_key, answer.parts))
        case Matrix():
            return "matrix", tuple(tuple(map(_key, row)) for row in answer.rows)
    return answer
