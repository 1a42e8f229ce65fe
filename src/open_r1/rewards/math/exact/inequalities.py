"""Intervals, and inequalities as intervals."""

from __future__ import annotations

import itertools
from fractions import Fraction

from .answers import Answer, Assignment, Equation, Infinity, Number, Sequence, Union
from .arithmetic import Unreadable, rational, variable
from .expression import Scalar
from .names import read_name
from .quantities import read_quantity
from .tokens import Token, Tokens, find_enclosed, match_any, split_tokens

INTERVALS = frozenset(("()", "[]", "(]", "[)"))
ALL_REALS = Sequence("()", (Infinity(-1), Infinity(1)))
REALS = (["\\mathbb", "{", "R", "}"], ["\\R"], ["\\mathbb", "R"])
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def read_inequality(parts: list[Tokens], relations: list[str]) -> Answer:
    """1 < x < 2 as an interval, a < b < c as a chain.

    Raises:
        Unreadable: the relations do not form an inequality.
    """
    if len(parts) > 2 and len(set(relations)) == 1 and relations[0] in "<>" and read_name(parts[0]) is not None:
        return Sequence(relations[0], tuple(read_quantity(part, False) for part in parts))
    if any(relation not in _FLIPPED for relation in relations) or len(parts) > 3:
        raise Unreadable("relation")
    if len(parts) == 2:
        return _read_half_line(parts, relations[0])
    if relations[0][0] != relations[1][0]:
        raise Unreadable("relations that point both ways")
    if relations[0][0] == ">":
        parts, relations = parts[::-1], [_FLIPPED[relation] for relation in relations[::-1]]
    name = read_name(parts[1])
    low, high = read_bound(parts[0]), read_bound(parts[2])
    if name is None or "|" in name[0]:
        raise Unreadable("between two bounds")
    brackets = ("[" if relations[0] == "<=" else "(") + ("]" if relations[1] == "<=" else ")")
    return Assignment(name[0], name[1], Sequence(brackets, (low, high)), "in")


def _read_half_line(parts: list[Tokens], relation: str) -> Answer:
    """x > 3 and 2x <= 6 as an interval; an inequality in several variables as an `Equation`."""
    for name, other, way in (
        (read_name(parts[0]), parts[1], relation),
        (read_name(parts[1]), parts[0], _FLIPPED[relation]),
    ):
        if name is not None and "|" not in name[0]:
            bound = read_bound(other)
            return Assignment(name[0], name[1], _make_half_line(bound, way), "in")
    left, right = Scalar(parts[0]).whole(), Scalar(parts[1]).whole()
    difference = left - right if relation[0] == ">" else right - left
    names = difference.variables()
    if len(names) == 1 and len(difference.denominator) == 1:
        (name,) = names
        linear = variable(name)
        slope = sum(
            (c for t, c in difference.numerator.items() if t.variables == ((name, 1),) and not t.radicals), Fraction(0)
        )
        rest = difference - linear * rational(slope)
        if slope and not rest.variables():
            way = (">" if slope > 0 else "<") + ("=" if relation.endswith("=") else "")
            return Assignment(name, None, _make_half_line(Number(-rest / rational(slope)), way), "in")
    return Equation(difference, ">=" if relation.endswith("=") else ">")


def exclude_point(point: Number | Infinity) -> Union:
    """x != 3 as two intervals."""
    return Union((_make_half_line(point, "<"), _make_half_line(point, ">")))


def exclude_points(parts: list[Tokens]) -> Union:
    r"""\mathbb{R} \setminus \{a, b\} as intervals."""
    inner = find_enclosed(parts[1], "\\{", "\\}")
    points = [read_bound(point) for point in split_tokens(inner, match_any(","))[0]] if inner else []
    values = [point.value.approximate() if isinstance(point, Number) else None for point in points]
    if [token.text for token in parts[0]] not in REALS or not points or None in values:
        raise Unreadable("difference of sets")
    ordered = [point for _, point in sorted(zip(values, points, strict=True), key=lambda pair: pair[0])]
    ends = [Infinity(-1), *ordered, Infinity(1)]
    return Union(tuple(Sequence("()", pair) for pair in itertools.pairwise(ends)))


def _make_half_line(bound: Number | Infinity, relation: str) -> Sequence:
    if relation[0] == ">":
        return Sequence(("[" if relation == ">=" else "(") + ")", (bound, Infinity(1)))
    return Sequence("(" + ("]" if relation == "<=" else ")"), (Infinity(-1), bound))


def read_bound(tokens: Tokens) -> Number | Infinity:
    bound = read_infinity(tokens) or read_quantity(tokens, False)
    if isinstance(bound, Number) and bound.value.variables() - {"\\pi", "e"}:
        raise Unreadable("a bound that is not a number")
    return bound


def read_infinity(tokens: Tokens) -> Infinity | None:
    texts = [token.text for token in tokens]
    if texts and texts[-1] in ("\\infty", "infinity", "inf", "oo") and texts[:-1] in ([], ["+"], ["-"]):
        return Infinity(-1 if texts[0] == "-" else 1)
    return None


def is_interval(answer: Answer) -> bool:
    return isinstance(answer, Sequence) and len(answer.items) == 2 and answer.brackets in INTERVALS


def join_intervals(intervals: list[Sequence], conjunctions: list[Token]) -> Answer:
    """x < -1 or x > 3 as a union, x > 0 and x < 1 as an interval; after a comma, as an interval if it is not empty."""
    words = {token.text.lower() for token in conjunctions}
    if len(intervals) == 2 and words <= {"and"}:
        common = _intersect(*intervals)
        if common.items or words:
            return common
    if words - {"or"}:
        raise Unreadable("intervals that no `or` joins")
    return Union(tuple(intervals))


def _intersect(one: Sequence, other: Sequence) -> Sequence:
    """x > 0 and x < 1 as an interval."""
    right, left = (one, other) if isinstance(one.items[1], Infinity) else (other, one)
    (low, end), (start, high) = right.items, left.items
    if not isinstance(end, Infinity) or not isinstance(start, Infinity):
        raise Unreadable("not two half-lines")
    bounds = [bound.value.approximate() if isinstance(bound, Number) else None for bound in (low, high)]
    if None in bounds or bounds[0] == bounds[1]:
        raise Unreadable("half-lines that may not meet")
    if bounds[0] > bounds[1]:
        return Sequence("{}", ())
    return Sequence(right.brackets[0] + left.brackets[1], (low, high))
