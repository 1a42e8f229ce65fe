"""The forms of an answer: values, lists, intervals, equations, words."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from .arithmetic import Value, rational
from .units import PERCENT, Unit


@dataclass(frozen=True, slots=True)
class Number:
    """A value, with its unit.

    Args:
        value: without the unit.
        decimals: digits after the point if it is written as a plain decimal, else None.
        digits: significant digits of that decimal.
        unit: dimension and factor.
    """

    value: Value
    decimals: int | None = None
    digits: int = 0
    unit: Unit | None = None

    def compute_share(self) -> Value:
        """Its value; 0.2 for 20%."""
        return self.value * rational(Fraction(1, 100)) if self.unit and self.unit[0] == PERCENT else self.value


@dataclass(frozen=True, slots=True)
class Infinity:
    sign: int


@dataclass(frozen=True, slots=True)
class Text:
    words: str


@dataclass(frozen=True, slots=True)
class Numeral:
    """Digits in a base: 101_2."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Sequence:
    """Items in brackets: "()", "[]", "[)", "(]" (a point or an interval), "{}" (a set), or "" (a list).

    The brackets "cases" hold points (value, condition); "<" and ">" hold the members of a chain a < b < c.
    """

    brackets: str
    items: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Union:
    parts: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Ratio:
    parts: tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day with a.m. or p.m., in seconds since midnight."""

    seconds: int


@dataclass(frozen=True, slots=True)
class Matrix:
    rows: tuple[tuple[Answer, ...], ...]


@dataclass(frozen=True, slots=True)
class Assignment:
    """`name = answer`; `parameter` is the x of f(x). `name > 3` has the relation "in" and an interval as answer."""

    name: str
    parameter: str | None
    answer: Answer
    relation: str = "="


@dataclass(frozen=True, slots=True)
class Equation:
    """difference = 0, or > 0, or >= 0."""

    difference: Value
    relation: str = "="


@dataclass(frozen=True, slots=True)
class FalseEquation:
    """A false equation between numbers (0 = 1 = 42), which equals nothing."""


@dataclass(frozen=True, slots=True)
class HugeNumber:
    """A rational number whose numerator or denominator is too large for a `Number`."""


Answer = (
    FalseEquation
    | HugeNumber
    | Number
    | Infinity
    | Text
    | Numeral
    | Sequence
    | Union
    | Ratio
    | Clock
    | Matrix
    | Assignment
    | Equation
)


class ParsedAnswer(NamedTuple):
    """The cleaned text, and its readings: several if it is ambiguous (`1,234`; `5 m`), none if it cannot be read."""

    text: str
    readings: tuple[Answer, ...]
