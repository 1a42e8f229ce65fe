"""The forms of an answer: values, lists, intervals, equations, words."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from .arithmetic import Value, rational
from .units import PERCENT, Unit


@dataclass(frozen=True, slots=True)
class Number:
    """A value; `decimals` and `digits` (significant) where it is written as a plain decimal."""

    value: Value
    decimals: int | None = None
    digits: int = 0
    unit: Unit | None = None

    def share(self) -> Value:
        """Its value, and 0.2 for 20%."""
        return self.value * rational(Fraction(1, 100)) if self.unit and self.unit[0] == PERCENT else self.value


@dataclass(frozen=True, slots=True)
class Infinite:
    sign: int


@dataclass(frozen=True, slots=True)
class Text:
    words: str


@dataclass(frozen=True, slots=True)
class Based:
    """Digits and the base they are written in."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Sequence:
    """Items in brackets, which are "()", "[]", "[)", "(]" (a point or an interval), "{}" (a set), or "" (a list).

    Those of "cases" are the points (value, condition), those of "<" and ">" a chain a < b < c.
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
class Named:
    """`name = answer`; `parameter` is the x of f(x). Also `name > 3`, whose answer is then the interval."""

    name: str
    parameter: str | None
    answer: Answer
    relation: str = "="


@dataclass(frozen=True, slots=True)
class Equation:
    """left - right = 0, or > 0 or >= 0."""

    difference: Value
    relation: str = "="


@dataclass(frozen=True, slots=True)
class Absurd:
    """A false equation between numbers (0 = 1 = 42), which equals nothing."""


@dataclass(frozen=True, slots=True)
class Extreme:
    """A rational number with a numerator or denominator too large to be that of any `Number`."""


Answer = (
    Absurd | Extreme | Number | Infinite | Text | Based | Sequence | Union | Ratio | Clock | Matrix | Named | Equation
)


class Parsed(NamedTuple):
    """The cleaned text, and its readings: several where it is ambiguous (`1,234`; `5 m`), none where it has none."""

    text: str
    readings: tuple[Answer, ...]
