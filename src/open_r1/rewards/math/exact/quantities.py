"""Numbers: with a unit, in a base, as a ratio, or too large to compute."""

from __future__ import annotations

from fractions import Fraction

from .answers import Number, Numeral, Ratio
from .arithmetic import BITS, Unreadable, Value
from .expression import NUMERAL, Scalar
from .tokens import Tokens, find_enclosed, split_tokens
from .units import MONEY, find_unit

_IN_UNITS = frozenset((*"^{}/%-.()", "\\cdot"))
_WORDS_AFTER = 8  # most words that may follow a number
_NUMERALS = "zero one two three four five six seven eight nine ten eleven twelve"
NUMBER_WORDS = {word: i for i, word in enumerate(_NUMERALS.split())}
_HUGE = 1 << (2 * BITS)


def read_quantity(tokens: Tokens, letters_are_units: bool) -> Number:
    """A value and its unit.

    Raises:
        Unreadable: the tokens are something else.
    """
    money = any(token.text == "¤" for token in tokens)
    tokens = tuple(token for token in tokens if token.text != "¤") if money else tokens
    scalar = Scalar(tokens, letters_are_units)
    value = scalar.sum()
    rest = tokens[len(tokens) - len(scalar.tokens) + scalar.position :]
    if scalar.position and rest:
        _check_rest(rest, value)
    decimals, digits = _count_places(tokens[: len(tokens) - len(rest)])
    return Number(value, decimals, digits, MONEY if money else find_unit(rest))


def _check_rest(rest: Tokens, value: Value) -> None:
    """Refuse what cannot follow a number: anything but a unit or a few words."""
    allowed = all(token.kind in ("word", "text", "number") or token.text in _IN_UNITS for token in rest)
    words = sum(token.kind in ("word", "text") for token in rest)
    starts = rest[0].kind in ("word", "text") or rest[0].text == "%"
    if not allowed or not starts or words > _WORDS_AFTER or value.variables() - {"\\pi", "e"}:
        raise Unreadable("what follows the number")
    if rest[0].text == "%" and len(rest) > 1 and rest[1].kind not in ("word", "text"):
        raise Unreadable("what follows the percent sign")
    before = [
        "".join(token.text for token in rest[max(0, i - 2) : i]) for i, t in enumerate(rest) if t.kind == "number"
    ]
    if not all(text.endswith(("^", "{", "^-", "{-")) for text in before):
        raise Unreadable("several numbers")


def _count_places(tokens: Tokens) -> tuple[int | None, int]:
    """Digits after the point and significant digits of a plain decimal; None and 0 for other tokens."""
    tokens = tokens[1:] if tokens and tokens[0].text in ("-", "+") else tokens
    if len(tokens) != 1 or tokens[0].kind != "number":
        return None, 0
    mantissa, _, exponent = tokens[0].text.lower().partition("e")
    whole, point, places = mantissa.partition(".")
    if not point and not exponent:
        return None, 0
    return len(places) - int(exponent or 0), len((whole + places).lstrip("0"))


def read_numeral(texts: list[str]) -> Numeral | None:
    sign = "-" if texts[0] == "-" else ""
    plain = [text for text in texts[len(sign) :] if text not in ("{", "}", "(", ")")]
    if len(plain) == 3 and plain[2] in NUMBER_WORDS:
        plain[2] = str(NUMBER_WORDS[plain[2]])
    if len(plain) != 3 or plain[1] != "_" or not plain[2].isdigit() or len(plain[2]) > 2 or not plain[0].isalnum():
        return None
    base = int(plain[2])
    if not 2 <= base <= 36 or not plain[0][0].isdigit() or any(int(digit, 36) >= base for digit in plain[0]):
        return None
    return Numeral(sign + plain[0].upper().lstrip("0"), base)


def read_ratio(tokens: Tokens) -> Ratio | None:
    parts, _ = split_tokens(tokens, lambda token: token.text in (":", "to") and token.kind != "command")
    if len(parts) < 2:
        return None
    return Ratio(tuple(read_quantity(part, False) for part in parts))


def is_huge(tokens: Tokens) -> bool:
    """True for a power or factorial of a literal too large to compute: 9^{9^9}, 0.1^{1000000}, 10000000!."""
    tokens = tokens[1:] if tokens and tokens[0].text == "-" else tokens
    return len(tokens) > 1 and tokens[0].kind == "number" and _compute_size(tokens) == _HUGE


def _compute_size(tokens: Tokens) -> int:
    """The absolute value of a literal, its factorial or a tower of powers, at most `_HUGE`; 0 for other tokens.

    For a fraction, the larger of numerator and denominator.
    """
    inner = find_enclosed(tokens, "{", "}") or find_enclosed(tokens, "(", ")")
    if inner is not None:
        return _compute_size(inner)
    if tokens and tokens[0].text == "-":
        return _compute_size(tokens[1:])
    if not tokens or tokens[0].kind != "number" or len(tokens[0].text) > NUMERAL:
        return 0
    base = Fraction(tokens[0].text)
    size = max(base.numerator, base.denominator)
    if len(tokens) == 1:
        return size
    if tokens[1].text == "!" and len(tokens) == 2 and base.denominator == 1:
        return _HUGE if size > BITS else 0
    if tokens[1].text != "^":
        return 0
    exponent = _compute_size(tokens[2:])
    return _HUGE if (size.bit_length() - 1) * exponent > 2 * BITS else size**exponent
