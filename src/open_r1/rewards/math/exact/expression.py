"""Parses and evaluates one expression."""

from __future__ import annotations

from fractions import Fraction
from math import comb, factorial

from .arithmetic import IMAGINARY, Unreadable, Value, number, rational, variable
from .tokens import FRACTIONS, FUNCTIONS, GREEK, Token, Tokens
from .units import ORDINAL, is_unit

DEPTH = 24  # of nesting
NUMERAL = 400  # digits
_NO_PRODUCTS = "per of in for to at on by are the men new sq"
_SMALL_WORDS = frozenset(_NO_PRODUCTS.split())


class Scalar:
    """Recursive descent over tokens: sum > term > power > atom. It reads as far as it can, up to `position`.

    Every method raises Unreadable for tokens outside the grammar.
    """

    def __init__(self, tokens: Tokens, letters_are_units: bool = False):
        self.tokens = list(tokens)
        self.position = 0
        self.depth = 0
        self.letters_are_units = letters_are_units

    def whole(self) -> Value:
        value = self.sum()
        if self.position < len(self.tokens):
            raise Unreadable("trailing tokens")
        return value

    def peek(self) -> Token | None:
        return self.tokens[self.position] if self.position < len(self.tokens) else None

    def at(self, *texts: str) -> bool:
        token = self.peek()
        return token is not None and token.text in texts and token.kind in ("symbol", "command")

    def take(self, *texts: str) -> bool:
        if self.at(*texts):
            self.position += 1
            return True
        return False

    def need(self, text: str) -> None:
        if not self.take(text):
            raise Unreadable(f"expected {text}")

    def sum(self) -> Value:
        self.depth += 1
        if self.depth > DEPTH:
            raise Unreadable("nesting")
        value = self.signed_term()
        while self.at("+", "-"):
            value = value + self.signed_term()
        self.depth -= 1
        return value

    def signed_term(self) -> Value:
        sign = 1
        while self.at("+", "-"):
            sign = -sign if self.take("-") else sign
            self.take("+")
        value = self.term()
        return -value if sign < 0 else value

    def term(self) -> Value:
        start = self.position
        value = self.mixed_number() or self.power()
        divided = False
        while (token := self.peek()) is not None:
            if self.take("*", "\\cdot", "\\times", "\\ast"):
                sign = -1 if self.take("-") else 1
                value = value * self.power() * number(sign)
            elif self.take("/", "\\div"):
                value, divided = value / self.power(), True
            elif self.starts_factor(token, start):
                if divided:
                    raise Unreadable("a / b c")
                value = value * self.power()
            else:
                break
        return value

    def starts_factor(self, token: Token, start: int) -> bool:
        """True if `token` may be the second factor of a product without a sign."""
        before = self.tokens[self.position - 1]
        if token.kind == "number":
            raise Unreadable("adjacent numbers")
        if token.kind == "word":
            after_number = before.kind == "number"
            if after_number and not token.spaced and token.text in ORDINAL:
                return False
            if len(token.text) > 1:
                return len(token.text) < 4 and not (
                    after_number and (is_unit(token.text) or token.text in _SMALL_WORDS)
                )
            following = self.tokens[self.position + 1 : self.position + 2]
            is_last = not following or following[0].text in ("^", "/")
            return not (self.letters_are_units and is_last and token.spaced and after_number and is_unit(token.text))
        if token.text == "(" and before.kind == "word" and before.text[-1] in "fghFGHPQRSTW":
            raise Unreadable("function application")
        return token.text in ("(", "{", "\\sqrt", "\\pi", "\\binom", "\\dbinom") or token.text in FRACTIONS | GREEK

    def mixed_number(self) -> Value | None:
        """3 1/2 and 3\\frac{1}{2}."""
        here = self.tokens[self.position : self.position + 4]
        if not here or not here[0].text.isdigit() or len(here) < 2:
            return None
        if (
            len(here) == 4
            and here[1].spaced
            and here[1].text.isdigit()
            and here[2].text == "/"
            and here[3].text.isdigit()
        ):
            part = literal(here[1].text) / (literal(here[3].text) or Fraction(-1))
            if 0 < part < 1:
                self.position += 4
                return rational(literal(here[0].text) + part)
        if here[1].text in FRACTIONS:
            self.position += 1
            part = self.power().rational()
            if part is None or not 0 < part < 1:
                raise Unreadable("integer before a fraction")
            return rational(literal(here[0].text) + part)
        return None

    def power(self) -> Value:
        start = self.position
        value = self.atom()
        while self.at("^", "!"):
            if self.take("!"):
                n = value.rational()
                if n is None or n.denominator != 1 or not 0 <= n <= 200:
                    raise Unreadable("factorial")
                value = number(factorial(int(n)))
                continue
            self.position += 1
            exponent = self.exponent().rational()
            if exponent is None:
                raise Unreadable("symbolic exponent")
            if self.at("_") and self.position - start == 3 and self.tokens[start].kind == "word":
                value = variable(self.tokens[start].text + self.subscript())
            value = value.power(exponent)
        return value

    def exponent(self) -> Value:
        """A group, or a number as in plain text: 2^10, 2^-1."""
        sign = -1 if self.take("-") else 1
        token = self.peek()
        if token is not None and token.kind == "number":
            self.position += 1
            return rational(sign * literal(token.text))
        return number(sign) * (self.atom() if self.at("(") else self.argument())

    def argument(self) -> Value:
        """The argument of \\frac or \\sqrt: {...}, or a single digit or symbol."""
        if self.take("{"):
            value = self.sum()
            self.need("}")
            return value
        token = self.peek()
        if token is None:
            raise Unreadable("end")
        if token.kind == "number":
            first, rest = token.text[0], token.text[1:]
            if "." in token.text:
                raise Unreadable("decimal as an argument")
            if rest:
                self.tokens[self.position] = Token("number", rest)
            else:
                self.position += 1
            return number(int(first))
        if token.kind == "word":
            return self.letter(token)
        return self.atom()

    def atom(self) -> Value:
        token = self.peek()
        if token is None:
            raise Unreadable("end")
        if token.kind == "number":
            self.position += 1
            return rational(literal(token.text))
        if token.kind in ("word", "text"):
            return self.letter(token)
        if self.take("(", "{", "["):
            value = self.sum()
            self.need({"(": ")", "{": "}", "[": "]"}[token.text])
            return value
        self.position += 1
        if token.text in FRACTIONS:
            return self.argument() / self.argument()
        if token.text == "\\sqrt":
            return self.square_root()
        if token.text in ("\\binom", "\\dbinom"):
            return self.binomial()
        if token.text == "\\pi":
            return variable("\\pi")
        if token.text in GREEK:
            return variable(token.text + self.subscript())
        raise Unreadable(f"token {token.text}")

    def square_root(self) -> Value:
        index = Fraction(2)
        if self.take("["):
            index = self.sum().rational() or Fraction(0)
            self.need("]")
        token = self.peek()
        # `√12` is the root of 12; in LaTeX `\sqrt12` is \sqrt{1}2, which is never meant.
        if token is not None and token.kind == "number":
            self.position += 1
            argument = rational(literal(token.text))
        else:
            argument = self.atom() if self.at("(") else self.argument()
        if index.denominator != 1:
            raise Unreadable("index of a root")
        return argument.root(int(index))

    def binomial(self) -> Value:
        n, k = self.argument().rational(), self.argument().rational()
        if n is None or k is None or n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n <= 500:
            raise Unreadable("binomial")
        return number(comb(int(n), int(k)))

    def letter(self, token: Token) -> Value:
        """The next variable in a run of letters."""
        if token.text == "pi":
            self.position += 1
            return variable("\\pi")
        if token.text == "sqrt":
            self.position += 1
            return self.square_root()
        if token.text.lower() in FUNCTIONS or len(token.text) > 3:
            raise Unreadable("word")
        name, rest = token.text[0], token.text[1:]
        if rest:
            self.tokens[self.position] = Token(token.kind, rest)
            return IMAGINARY if name == "i" else variable(name)
        self.position += 1
        name += self.subscript()
        return IMAGINARY if name == "i" else variable(name)

    def subscript(self) -> str:
        """`_1`, `_{max}` and primes as part of a name; empty if there are none."""
        name = ""
        while self.take("'", "\\prime"):
            name += "'"
        if self.take("_"):
            if self.take("{"):
                start = self.position
                while not self.at("}"):
                    if self.peek() is None:
                        raise Unreadable("subscript")
                    self.position += 1
                name += "_" + "".join(token.text for token in self.tokens[start : self.position])
                self.position += 1
            elif (token := self.peek()) is not None and token.kind in ("number", "word", "command", "text"):
                self.position += 1
                name += "_" + token.text
            else:
                raise Unreadable("subscript")
        return name


def literal(text: str) -> Fraction:
    """The value of an integer, a decimal, or scientific notation with an exponent of up to three digits."""
    if len(text) > NUMERAL:
        raise Unreadable("long numeral")
    mantissa, _, exponent = text.lower().partition("e")
    if exponent and exponent[0] in "+-" and "." not in mantissa and len(exponent) == 2 and mantissa != "1":
        raise Unreadable("2e-1 may be 2e minus 1")
    return Fraction(mantissa if mantissa[0] != "." else "0" + mantissa) * Fraction(10) ** int(exponent or 0)
