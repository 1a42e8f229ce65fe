"""Exact arithmetic for short answers: quotients of polynomials, with radicals, pi and i, over the rationals.

A term is a rational coefficient times radicals of primes (2^(1/2) 3^(1/3)), a power of i, and powers of variables, pi
and e among them. Radicals of distinct primes with exponents in (0, 1) are linearly independent over the rationals
(Besicovitch 1940), and the ring has no zero divisors, so two values are equal if and only if their dictionaries are,
after cross-multiplication. There are no floats, and every loop is bounded: no input takes much over a millisecond.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import isqrt
from typing import NamedTuple

TERMS = 60  # of one polynomial
PRODUCTS = 400  # term-by-term multiplications in one product
BITS = 4000  # of a numerator or denominator
EXPONENT = 128
RADICAND = 10**9  # trial division goes to its square root
INDEX = 12  # of a root
PI = Fraction("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803")
E = Fraction("2.71828182845904523536028747135266249775724709369995957496696762772407663035354759457138")
_SCALE = 10**60  # radicals are approximated to this many digits


class Unreadable(Exception):
    """Something that this arithmetic or its grammar does not cover."""


class Term(NamedTuple):
    """A term without its coefficient: radicals ((prime, exponent in (0, 1)), ...), i^0 or i^1, variables."""

    radicals: tuple[tuple[int, Fraction], ...] = ()
    i: int = 0
    variables: tuple[tuple[str, int], ...] = ()


Polynomial = dict[Term, Fraction]
_ONE = Term()
_UNIT: Polynomial = {_ONE: Fraction(1)}


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """numerator / denominator. The denominator is 1 if it was a single term, or a sum with a conjugate."""

    numerator: Polynomial
    denominator: Polynomial

    def __add__(self, other: Value) -> Value:
        if self.denominator == other.denominator:
            return Value(_add(self.numerator, other.numerator), self.denominator)
        left, right = _multiply(self.numerator, other.denominator), _multiply(other.numerator, self.denominator)
        return Value(_add(left, right), _multiply(self.denominator, other.denominator))

    def __neg__(self) -> Value:
        return Value({term: -c for term, c in self.numerator.items()}, self.denominator)

    def __sub__(self, other: Value) -> Value:
        return self + -other

    def __mul__(self, other: Value) -> Value:
        return Value(_multiply(self.numerator, other.numerator), _multiply(self.denominator, other.denominator))

    def __truediv__(self, other: Value) -> Value:
        return self * other.inverse()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Value):
            return NotImplemented
        if self.denominator == other.denominator:
            return self.numerator == other.numerator
        return _multiply(self.numerator, other.denominator) == _multiply(other.numerator, self.denominator)

    __hash__ = None  # type: ignore[assignment]

    def inverse(self) -> Value:
        """1 / value.

        Raises:
            Unreadable: the value is zero.
        """
        if not self.numerator:
            raise Unreadable("division by zero")
        if len(self.numerator) == 1:
            ((term, coefficient),) = self.numerator.items()
            return Value(_multiply(self.denominator, _invert_term(term, coefficient)), _UNIT)
        conjugate = _find_conjugate(self.numerator)
        if conjugate is not None:
            norm = _multiply(self.numerator, conjugate)
            if len(norm) == 1 and _ONE in norm:
                scaled = {term: c / norm[_ONE] for term, c in conjugate.items()}
                return Value(_multiply(self.denominator, scaled), _UNIT)
        return Value(self.denominator, self.numerator)

    def rational(self) -> Fraction | None:
        """Its value if it is a rational number, else None."""
        if self.denominator != _UNIT or any(term != _ONE for term in self.numerator):
            return None
        return self.numerator.get(_ONE, Fraction(0))

    def variables(self) -> set[str]:
        """Names of its variables, with pi and e."""
        return {name for part in (self.numerator, self.denominator) for term in part for name, _ in term.variables}

    def power(self, exponent: Fraction) -> Value:
        if exponent.denominator != 1:
            return self._raise_radical(exponent)
        n = int(exponent)
        base = self.rational()
        if base is not None:
            return rational(_raise_rational(base, n))
        if abs(n) > EXPONENT:
            raise Unreadable("large exponent")
        base, result = (self, number(1)) if n >= 0 else (self.inverse(), number(1))
        for _ in range(abs(n)):
            result = result * base
        return result

    def root(self, index: int) -> Value:
        """The real root; the square root of a negative number is imaginary."""
        value = self.rational()
        if not 2 <= index <= INDEX:
            raise Unreadable("index of a root")
        if value is not None and value < 0:
            if index == 2:
                return rational(-value).root(2) * Value({Term(i=1): Fraction(1)}, _UNIT)
            if index % 2:
                return -rational(-value).root(index)
        return self._raise_radical(Fraction(1, index))

    def _raise_radical(self, exponent: Fraction) -> Value:
        """A fractional power of one positive term without variables."""
        if not self.numerator:
            return self
        ((term, coefficient),) = self.numerator.items() if len(self.numerator) == 1 else ((None, Fraction(-1)),)
        if term is None or self.denominator != _UNIT or term.i or term.variables or coefficient <= 0:
            raise Unreadable("root of a sum or of a variable")
        if abs(exponent) > EXPONENT or exponent.denominator > INDEX:
            raise Unreadable("large exponent")
        primes = dict.fromkeys((p for p, _ in term.radicals), Fraction(0))
        exponents = primes | dict(term.radicals)
        for sign, part in ((1, coefficient.numerator), (-1, coefficient.denominator)):
            for p, e in factorize(part):
                exponents[p] = exponents.get(p, Fraction(0)) + sign * e
        return _make_radical({p: e * exponent for p, e in exponents.items()})

    def approximate(self) -> Fraction | None:
        """The value within 1e-50 relative to its largest term; None with i, or with variables other than pi and e."""
        parts = [_approximate(part) for part in (self.numerator, self.denominator)]
        return None if None in parts or parts[1] == 0 else parts[0] / parts[1]

    def key(self) -> tuple[frozenset, frozenset]:
        """A hashable key, the same for equal values with proportional denominators."""
        leading = self.denominator[max(self.denominator)]
        scaled = [frozenset((t, c / leading) for t, c in part.items()) for part in (self.numerator, self.denominator)]
        return scaled[0], scaled[1]

    def substitute(self, old: str, new: str) -> Value:
        """The value with one variable renamed."""
        return Value(_rename(self.numerator, old, new), _rename(self.denominator, old, new))


def rational(value: Fraction) -> Value:
    return Value({_ONE: value} if value else {}, _UNIT)


def number(value: int) -> Value:
    return rational(Fraction(value))


def variable(name: str) -> Value:
    return Value({Term(variables=((name, 1),)): Fraction(1)}, _UNIT)


IMAGINARY = Value({Term(i=1): Fraction(1)}, _UNIT)


def are_proportional(a: Polynomial, b: Polynomial) -> bool:
    """True if one polynomial is a non-zero rational multiple of the other."""
    if a.keys() != b.keys() or not a:
        return not a and not b
    term = next(iter(a))
    return all(b[t] * a[term] == c * b[term] for t, c in a.items())


@lru_cache(maxsize=4096)
def factorize(n: int) -> tuple[tuple[int, int], ...]:
    """Prime factors of a positive integer with their exponents.

    Raises:
        Unreadable: trial division leaves a factor that may not be prime.
    """
    found = []
    p = 2
    while p * p <= n and p * p <= RADICAND:
        e = 0
        while n % p == 0:
            n, e = n // p, e + 1
        if e:
            found.append((p, e))
        p += 1 + (p > 2)
    if n > RADICAND:
        r = isqrt(n)
        if r * r != n or r > RADICAND:
            raise Unreadable("large radicand")
        found.append((r, 2))
    elif n > 1:
        found.append((n, 1))
    return tuple(found)


def _add(a: Polynomial, b: Polynomial) -> Polynomial:
    total = dict(a)
    for term, coefficient in b.items():
        value = total.get(term, 0) + coefficient
        if value:
            total[term] = value
        else:
            total.pop(term, None)
    if len(total) > TERMS:
        raise Unreadable("many terms")
    return total


def _multiply(a: Polynomial, b: Polynomial) -> Polynomial:
    if b == _UNIT:
        return a
    if a == _UNIT:
        return b
    if len(a) * len(b) > PRODUCTS:
        raise Unreadable("many terms")
    total: Polynomial = {}
    for s, c in a.items():
        for t, d in b.items():
            factor, term = _multiply_terms(s, t)
            value = total.get(term, 0) + factor * c * d
            if value:
                total[term] = value
            else:
                total.pop(term, None)
    if len(total) > TERMS or any(c.numerator.bit_length() + c.denominator.bit_length() > BITS for c in total.values()):
        raise Unreadable("large product")
    return total


def _multiply_terms(s: Term, t: Term) -> tuple[Fraction, Term]:
    factor, radicals = Fraction(1), s.radicals or t.radicals
    if s.radicals and t.radicals:
        exponents = dict(s.radicals)
        for p, e in t.radicals:
            exponents[p] = exponents.get(p, Fraction(0)) + e
        factor, radicals = _carry_powers(exponents)
    if s.i and t.i:
        factor = -factor
    variables = s.variables or t.variables
    if s.variables and t.variables:
        powers = dict(s.variables)
        for name, e in t.variables:
            powers[name] = powers.get(name, 0) + e
        variables = tuple(sorted((name, e) for name, e in powers.items() if e))
    return factor, Term(radicals, s.i ^ t.i, variables)


def _carry_powers(exponents: dict[int, Fraction]) -> tuple[Fraction, tuple[tuple[int, Fraction], ...]]:
    """The rational factor and the radicals, with exponents in (0, 1), of a product of powers of primes."""
    factor, radicals = Fraction(1), []
    for p, e in sorted(exponents.items()):
        whole = e.numerator // e.denominator
        factor *= _raise_rational(Fraction(p), whole)
        if e != whole:
            radicals.append((p, e - whole))
    return factor, tuple(radicals)


def _make_radical(exponents: dict[int, Fraction]) -> Value:
    factor, radicals = _carry_powers(exponents)
    return Value({Term(radicals): factor}, _UNIT)


def _invert_term(term: Term, coefficient: Fraction) -> Polynomial:
    factor, radicals = _carry_powers({p: -e for p, e in term.radicals})
    variables = tuple((name, -e) for name, e in term.variables)
    return {Term(radicals, term.i, variables): factor * (-1 if term.i else 1) / coefficient}


def _find_conjugate(polynomial: Polynomial) -> Polynomial | None:
    """a - b for a + b if both are constants, else None."""
    if len(polynomial) != 2 or any(term.variables for term in polynomial):
        return None
    (s, c), (t, d) = sorted(polynomial.items())
    return {s: c, t: -d}


def _raise_rational(base: Fraction, n: int) -> Fraction:
    if base == 0 and n <= 0:
        raise Unreadable("power of zero")
    if abs(base) == 1 or base == 0:
        return base ** (n % 2) if base else base
    if max(abs(base.numerator), base.denominator).bit_length() * abs(n) > BITS:
        raise Unreadable("large power")
    return base**n


def _approximate(polynomial: Polynomial) -> Fraction | None:
    total = Fraction(0)
    for term, coefficient in polynomial.items():
        if term.i or any(name not in ("\\pi", "e") for name, _ in term.variables):
            return None
        for p, e in term.radicals:
            coefficient *= Fraction(_integer_root(p**e.numerator * _SCALE**e.denominator, e.denominator), _SCALE)
        for name, e in term.variables:
            if abs(e) > EXPONENT:
                return None
            coefficient *= (PI if name == "\\pi" else E) ** e
        total += coefficient
    return total


def _integer_root(n: int, k: int) -> int:
    """The largest r with r^k <= n, by Newton's method from above."""
    r = 1 << -(-n.bit_length() // k)
    while True:
        better = ((k - 1) * r + n // r ** (k - 1)) // k
        if better >= r:
            return r
        r = better


def _rename(polynomial: Polynomial, old: str, new: str) -> Polynomial:
    return {
        term._replace(variables=tuple(sorted((new if name == old else name, e) for name, e in term.variables))): c
        for term, c in polynomial.items()
    }
