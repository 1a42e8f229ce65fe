"""What does an answer say? Its readings, as values, lists, intervals, equations, words."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from .arithmetic import BITS, Unreadable, Value, number, rational, variable
from .expression import NUMERAL, Scalar
from .tokens import (
    CLOSE,
    FRACTIONS,
    FUNCTIONS,
    GREEK,
    OPEN,
    Token,
    Tokens,
    clean_text,
    find_relation,
    is_conjunction,
    match_any,
    split_tokens,
    tokenize,
)
from .units import MONEY, PERCENT, Unit, find_unit, is_unit

LENGTH = 600  # characters; longer answers are not read
ITEMS = 60  # of a list


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


_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,/] )(?<![\d.,/])\d{1,3}(?: \d{3})+(?![\d,/])(?! ?/)")
INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)
_IDLE_SPACE = re.compile(r"(?<!\w) | (?!\w)")  # 3 1/2 is not 31/2
_DECIMAL_COMMA = re.compile(r"\D*?(?:\d+,(?:\d\d|\d{4,})|0,\d+)(?!\d|, ?\d)\D*")
_POINTS_AND_COMMA = re.compile(r"(?<![\d.,])\d{1,3}(?:\.\d{3})+,\d+(?![\d.,])")  # 1.234,5
_CLOCK = re.compile(
    r"(\d{1,2})(?: ?: ?([0-5]\d))?(?: ?: ?([0-5]\d))? ?(?:\\(?:text|mathrm|mbox) ?\{)? ?"
    r"(?:([ap]) ?\.? ?m\.?|(noon|midnight)) ?\}?",
    re.IGNORECASE | re.ASCII,
)


def _variants(text: str) -> Iterator[str]:
    """What a comma between digits may mean."""
    if "," not in text and " " not in text:
        yield text
        return
    joined = _SPACED_THOUSANDS.sub(lambda found: found[0].replace(" ", ""), text)
    outside = not any(bracket in joined for bracket in "([{")
    if outside and _THOUSANDS.search(joined):
        yield _THOUSANDS.sub(lambda found: found[0].replace(",", ""), joined)
    yield joined
    if _POINTS_AND_COMMA.search(joined):
        yield _POINTS_AND_COMMA.sub(lambda found: found[0].replace(".", "").replace(",", "."), joined)
    if outside and joined.count(",") == 1 and _DECIMAL_COMMA.fullmatch(joined):
        yield joined.replace(",", ".")


@lru_cache(maxsize=1 << 15)
def parse_answer(text: str) -> Parsed:
    """Read an answer; never raises."""
    if len(text) > LENGTH:
        return Parsed(text.strip(), ())
    cleaned = clean_text(text)
    if INTEGER.fullmatch(cleaned):
        return Parsed(cleaned, (Number(number(int(cleaned))),))
    clock = _clock(cleaned)
    if clock is not None:
        return Parsed(_IDLE_SPACE.sub("", cleaned), (clock,))
    readings: list[Answer] = []
    for variant in _variants(cleaned):
        try:
            tokens = tuple(tokenize(variant))
        except Unreadable:
            continue
        readings += _readings(tokens)
    return Parsed(
        _IDLE_SPACE.sub("", cleaned).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac"), tuple(readings)
    )


def _clock(text: str) -> Clock | None:
    found = _CLOCK.fullmatch(text)
    if found is None or not 1 <= int(found[1]) <= 12 or (found[5] and int(found[1]) < 12):
        return None
    late = found[4] in ("p", "P") or (found[5] or "").lower() == "noon"
    return Clock((int(found[1]) % 12 + 12 * late) * 3600 + int(found[2] or 0) * 60 + int(found[3] or 0))


def _readings(tokens: Tokens) -> Iterator[Answer]:
    """As mathematics, with single letters as variables and as units; as a number too large to compute; as words."""
    may_be_unit = any(t.kind == "word" and t.spaced and len(t.text) == 1 and is_unit(t.text) for t in tokens)
    for letters_are_units in (False, True)[: 1 + may_be_unit]:
        with contextlib.suppress(Unreadable, RecursionError):
            yield _answer(tokens, letters_are_units)
    if _is_extreme(tokens):
        yield Extreme()
    words = _text(tokens)
    if words is not None:
        yield words
        yield from (reading for phrase, reading in _PHRASES.items() if words.words == phrase)


def _is_extreme(tokens: Tokens) -> bool:
    """9^{9^9}, 0.1^{1000000}, 10000000!: a power or factorial of a literal, beyond every number that can be read."""
    tokens = tokens[1:] if tokens and tokens[0].text == "-" else tokens
    return len(tokens) > 1 and tokens[0].kind == "number" and _tower(tokens) == _EXTREME


_EXTREME = 1 << (2 * BITS)


def _tower(tokens: Tokens) -> int:
    """The value of a literal, its factorial, or its power to a tower, up to a sign and at most `_EXTREME`; else 0.

    For a fraction it is the larger of numerator and denominator.
    """
    inner = _enclosed(tokens, "{", "}") or _enclosed(tokens, "(", ")")
    if inner is not None:
        return _tower(inner)
    if tokens and tokens[0].text == "-":
        return _tower(tokens[1:])
    if not tokens or tokens[0].kind != "number" or len(tokens[0].text) > NUMERAL:
        return 0
    base = Fraction(tokens[0].text)
    size = max(base.numerator, base.denominator)
    if len(tokens) == 1:
        return size
    if tokens[1].text == "!" and len(tokens) == 2 and base.denominator == 1:
        return _EXTREME if size > BITS else 0
    if tokens[1].text != "^":
        return 0
    exponent = _tower(tokens[2:])
    return _EXTREME if (size.bit_length() - 1) * exponent > 2 * BITS else size**exponent


_REALS = (["\\mathbb", "{", "R", "}"], ["\\R"], ["\\mathbb", "R"])
INTERVALS = frozenset(("()", "[]", "(]", "[)"))
_ALL_REALS = Sequence("()", (Infinite(-1), Infinite(1)))
_PHRASES = dict.fromkeys(("all real numbers", "all reals", "real numbers", "all real values"), _ALL_REALS)
_PHRASES |= dict.fromkeys(
    ("no solution", "no solutions", "empty set", "no real solution", "no real solutions"), Sequence("{}", ())
)
_PHRASES |= dict.fromkeys(("infinity", "infinite", "infinitely many", "infinitely many solutions"), Infinite(1))
_SYNONYMS = dict.fromkeys(("dne", "limit does not exist"), "does not exist")
_OPENING = re.compile(r"(?:there (?:is|are|exists?) |the )")
VERDICTS = frozenset(("yes", "no", "true", "false"))


def _text(tokens: Tokens) -> Text | None:
    """Words and nothing else."""
    if not any(token.kind in ("word", "text") and len(token.text) > 1 for token in tokens):
        return None
    if any(token.kind not in ("word", "text") and token.text not in "-'.,:()\"?!;" for token in tokens):
        return None
    if tokens[0].text in ("-", "+"):
        return None
    words = [token.text.lower() for token in tokens if token.kind in ("word", "text")]
    if words[0] in VERDICTS and len(words) > 1 and tokens[1].text in ",.;:":  # "Yes, it is", but not "no solution"
        words[0] += ","
    said = _OPENING.sub("", " ".join(words), count=1) if words[0] in ("the", "there") else " ".join(words)
    return Text(_SYNONYMS.get(said, said))


def _answer(tokens: Tokens, letters_are_units: bool = False, depth: int = 0) -> Answer:
    """A list, or one item."""
    if depth > 4 or not tokens:
        raise Unreadable("nesting" if tokens else "nothing")
    inner = _enclosed(tokens, "{", "}")
    if inner is not None:  # braces that only group
        return _answer(inner, letters_are_units, depth + 1)
    pieces, conjunctions = split_tokens(tokens, is_conjunction)
    groups = [_items(piece) for piece in pieces]
    groups = [group for group in groups if group]
    if len(groups) == 1 and len(groups[0]) == 1:
        return _item(groups[0][0], letters_are_units, depth)
    if sum(map(len, groups)) > ITEMS or not groups:
        raise Unreadable("many items")
    items_GI = [[_item(item, letters_are_units, depth) for item in group] for group in groups]
    if _are_records(items_GI, conjunctions):  # p=5, q=2; p=7, q=2
        return Sequence("", tuple(Sequence("()", tuple(map(_unnamed, items))) for items in items_GI))
    items = [item for items in items_GI for item in items]
    if (compound := _compound(items)) is not None:
        return compound
    name = items[0].name if isinstance(items[0], Named) else None
    if name is not None and all(isinstance(i, Named) and i.name == name for i in items):
        if all(i.relation == "in" and _is_interval(i.answer) for i in items):
            return Named(name, None, _joined([i.answer for i in items], conjunctions), "in")
        return Named(name, items[0].parameter, Sequence("", tuple(_flat(map(_unnamed, items)))))
    if name is not None and not any(isinstance(i, Named) for i in items[1:]):  # n = 1, 2, 3
        return Named(name, items[0].parameter, Sequence("", tuple(_flat(map(_unnamed, items)))))
    return Sequence("", tuple(_flat(items)))


def _is_interval(answer: Answer) -> bool:
    return isinstance(answer, Sequence) and len(answer.items) == 2 and answer.brackets in INTERVALS


def _joined(intervals: list[Sequence], conjunctions: list[Token]) -> Answer:
    """x < -1 or x > 3 is a union, x > 0 and x < 1 an interval; with a comma between them it is what makes sense."""
    said = {token.text.lower() for token in conjunctions}
    if len(intervals) == 2 and said <= {"and"}:
        met = _meet(*intervals)
        if met.items or said:
            return met
    if said - {"or"}:
        raise Unreadable("intervals that are not joined by or")
    return Union(tuple(intervals))


def _meet(one: Sequence, other: Sequence) -> Sequence:
    """x > 0 and x < 1 as an interval."""
    right, left = (one, other) if isinstance(one.items[1], Infinite) else (other, one)
    (low, end), (start, high) = right.items, left.items
    if not isinstance(end, Infinite) or not isinstance(start, Infinite):
        raise Unreadable("not two half-lines")
    bounds = [bound.value.approximate() if isinstance(bound, Number) else None for bound in (low, high)]
    if None in bounds or bounds[0] == bounds[1]:
        raise Unreadable("half-lines that may not meet")
    if bounds[0] > bounds[1]:
        return Sequence("{}", ())
    return Sequence(right.brackets[0] + left.brackets[1], (low, high))


def _compound(items: list[Answer]) -> Number | None:
    """5 hours and 30 minutes, in the first unit: one quantity, if the units are of one kind and get smaller."""
    units = [item.unit for item in items if isinstance(item, Number) and item.unit]
    if len(units) < len(items) or len(units) < 2 or len({dimension for dimension, _ in units}) > 1:
        return None
    factors = [factor for _, factor in units]
    if any(small >= large for large, small in itertools.pairwise(factors)):
        return None
    total = number(0)
    for item, factor in zip(items, factors, strict=True):
        total = total + item.value * rational(factor / factors[0])
    return Number(total, unit=units[0])


def _items(tokens: Tokens) -> list[Tokens]:
    return [piece for piece in split_tokens(tokens, match_any(","))[0] if piece]


def _are_records(items_GI: list[list[Answer]], conjunctions: list[Token]) -> bool:
    """Several groups of as many items each, told apart by semicolons or by their names."""
    sizes = {len(items) for items in items_GI}
    if len(items_GI) < 2 or len(sizes) != 1 or sizes == {1}:
        return False
    if all(token.text == ";" for token in conjunctions):
        return True
    return all(isinstance(item, Named) for items in items_GI for item in items) and all(
        len({item.name for item in items if isinstance(item, Named)}) == len(items) for items in items_GI
    )


def _flat(items: Iterable[Answer]) -> Iterator[Answer]:
    """Lists inside a list (from a plus-minus sign) are part of it."""
    for item in items:
        if isinstance(item, Sequence) and not item.brackets:
            yield from item.items
        else:
            yield item


def _unnamed(answer: Answer) -> Answer:
    return answer.answer if isinstance(answer, Named) else answer


def _enclosed(tokens: Tokens, opening: str, closing: str) -> Tokens | None:
    """What stands between the first and the last token, if these are one pair of brackets."""
    if len(tokens) < 2 or tokens[0].text != opening or tokens[-1].text != closing:
        return None
    depth = 0
    for i, token in enumerate(tokens):
        depth += (token.text in OPEN) - (token.text in CLOSE)
        if depth == 0 and i < len(tokens) - 1:
            return None
    return tokens[1:-1]


def _item(tokens: Tokens, letters_are_units: bool, depth: int) -> Answer:
    parts, signs = split_tokens(
        tokens, lambda token: find_relation(token) is not None and token.kind in ("symbol", "command")
    )
    relations = [find_relation(sign) for sign in signs]
    if not relations:
        return _object(tokens, letters_are_units, depth)
    if "~" in relations:  # what is exact stands before; after a name it is all there is
        at = relations.index("~")
        head = tuple(token for i in range(at + 1) for token in (*parts[i], *signs[i : i + (i < at)]))
        if read_name(head) is not None:
            head = (*head, Token("symbol", "="), *parts[at + 1])
        return _item(head, letters_are_units, depth + 1)
    if set(relations) == {"="}:
        return _equation(parts, letters_are_units, depth)
    if relations == ["in"] or relations == ["!="]:
        name = read_name(parts[0])
        if name is None:
            raise Unreadable("relation")
        answer = _answer(parts[1], depth=depth + 1) if relations == ["in"] else _all_but(_bound(parts[1]))
        return Named(name[0], name[1], answer, "in")
    return _inequality(parts, relations)


def _equation(parts: list[Tokens], letters_are_units: bool, depth: int) -> Answer:
    names = [read_name(part) for part in parts]
    if not parts[0] or not parts[-1]:
        raise Unreadable("half an equation")
    if parts[0][0].text in _OPERATORS and len(parts) == 2:  # what is evaluated names the value
        return Named("".join(token.text for token in parts[0]), None, _answer(parts[1], letters_are_units, depth + 1))
    if names[0] is not None:  # x = ..., x = y = ..., x = 1 + 1 = 2
        answer = _answer(parts[-1], letters_are_units, depth + 1)
        return Named(names[0][0], names[0][1], answer)
    if names[-1] is not None and len(parts) == 2:  # 5 = x
        return Named(names[-1][0], names[-1][1], _answer(parts[0], letters_are_units, depth + 1))
    quantities = [_quantity(part, letters_are_units) for part in parts]
    values = [quantity.share() for quantity in quantities]
    if any(value.variables() - {"\\pi", "e"} for value in values):
        if len(values) != 2:
            if values[-1] == values[-2] and not values[-1].variables() - {"\\pi", "e"}:
                return quantities[-1]  # m + n = 5 + 7 = 12
            raise Unreadable("chain")
        return Equation(values[0] - values[1])
    if all(a == b for a, b in itertools.pairwise(values)):
        return quantities[-1]  # 2 + 2 = 4
    if all(_is_near(values[0], quantity) for quantity in quantities):
        return quantities[0]  # 1/3 = 0.33
    return Absurd()


def _is_near(exact: Value, quantity: Number) -> bool:
    """Is it the exact value itself, or a decimal within one unit of its last place?"""
    if quantity.value == exact:
        return True
    wanted, given = exact.approximate(), quantity.value.rational()
    if wanted is None or given is None or quantity.decimals is None:
        return False
    return abs(wanted - given) < Fraction(1, 10) ** quantity.decimals


_OPERATORS = frozenset(("\\lim", "\\max", "\\min", "\\sum", "\\prod", "\\int", "\\sup", "\\inf"))
_NAMING = frozenset("(){}[]|_',:") | {
    "\\angle",
    "\\triangle",
    "\\overline",
    "\\vec",
    "\\hat",
    "\\bar",
    "\\mid",
    "\\prime",
}
_NAMING |= {"\\mathbf", "\\frac", "\\dfrac", "\\widehat", "\\overrightarrow", "\\lvert", "\\rvert"}


def read_name(tokens: Tokens) -> tuple[str, str | None] | None:
    """The name that `tokens` are (x, x_1, f(x), (x, y), |AB|, \\frac{NO}{BO}, ...) and the parameter of a function."""
    inverse = [token.text for token in tokens[1:6]] == ["^", "{", "-", "1", "}"] and len(tokens) > 6
    if inverse and tokens[6].text == "(":  # f^{-1}(x)
        tokens = (tokens[0]._replace(text=tokens[0].text + "'"), *tokens[6:])
    words = [t.text for t in tokens[1:] if t.spaced and t.kind == "word" and len(t.text) > 1]
    if not all(map(str.isupper, words)) or len(tokens) > 40:  # angle ABC is a name
        return None  # a sentence
    depth = 0
    for i, token in enumerate(tokens):
        depth += (token.text in OPEN) - (token.text in CLOSE)
        if token.kind == "number" and depth == 0 and (i == 0 or tokens[i - 1].text != "_"):
            return None
        if token.text.lower() in FUNCTIONS and depth == 0:
            return None
        if (
            token.kind in ("symbol", "command")
            and token.text not in _NAMING
            and token.text not in GREEK
            and not (depth > 0 and token.kind == "command" and token.text != "\\sqrt")
        ):
            return None
    if not any(token.kind in ("word", "text") or token.text in GREEK for token in tokens):
        return None
    name = "".join(token.text for token in tokens if token.text not in "{}")
    numbers = [i for i, token in enumerate(tokens) if token.kind == "number"]
    if FRACTIONS.intersection(token.text for token in tokens) and any(tokens[i - 1].text != "_" for i in numbers):
        return None  # AB/CD is a name, x/2 is not
    if len(tokens) == 4 and tokens[1].text == "(" and tokens[3].text == ")" and tokens[2].kind == "word":
        return tokens[0].text, tokens[2].text
    return name, None


_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def _inequality(parts: list[Tokens], relations: list[str]) -> Answer:
    if len(parts) > 2 and len(set(relations)) == 1 and relations[0] in "<>" and read_name(parts[0]) is not None:
        return Sequence(relations[0], tuple(_quantity(part, False) for part in parts))
    if any(relation not in _FLIPPED for relation in relations) or len(parts) > 3:
        raise Unreadable("relation")
    if len(parts) == 2:
        return _half_line(parts, relations[0])
    if relations[0][0] != relations[1][0]:
        raise Unreadable("relations that point both ways")
    if relations[0][0] == ">":
        parts, relations = parts[::-1], [_FLIPPED[relation] for relation in relations[::-1]]
    name = read_name(parts[1])
    low, high = _bound(parts[0]), _bound(parts[2])
    if name is None or "|" in name[0]:
        raise Unreadable("between two bounds")
    brackets = ("[" if relations[0] == "<=" else "(") + ("]" if relations[1] == "<=" else ")")
    return Named(name[0], name[1], Sequence(brackets, (low, high)), "in")


def _half_line(parts: list[Tokens], relation: str) -> Answer:
    """x > 3, 2x <= 6 as an interval; an inequality in several variables as it is."""
    for name, other, way in (
        (read_name(parts[0]), parts[1], relation),
        (read_name(parts[1]), parts[0], _FLIPPED[relation]),
    ):
        if name is not None and "|" not in name[0]:
            bound = _bound(other)
            return Named(name[0], name[1], _beyond(bound, way), "in")
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
            return Named(name, None, _beyond(Number(-rest / rational(slope)), way), "in")
    return Equation(difference, ">=" if relation.endswith("=") else ">")


def _all_but(point: Number | Infinite) -> Union:
    return Union((_beyond(point, "<"), _beyond(point, ">")))


def _beyond(bound: Number | Infinite, relation: str) -> Sequence:
    if relation[0] == ">":
        return Sequence(("[" if relation == ">=" else "(") + ")", (bound, Infinite(1)))
    return Sequence("(" + ("]" if relation == "<=" else ")"), (Infinite(-1), bound))


def _bound(tokens: Tokens) -> Number | Infinite:
    bound = _infinite(tokens) or _quantity(tokens, False)
    if isinstance(bound, Number) and bound.value.variables() - {"\\pi", "e"}:
        raise Unreadable("a bound that is not a number")
    return bound


def _infinite(tokens: Tokens) -> Infinite | None:
    texts = [token.text for token in tokens]
    if texts and texts[-1] in ("\\infty", "infinity", "inf", "oo") and texts[:-1] in ([], ["+"], ["-"]):
        return Infinite(-1 if texts[0] == "-" else 1)
    return None


def _object(tokens: Tokens, letters_are_units: bool, depth: int) -> Answer:
    """Anything without a relation."""
    if not tokens:
        raise Unreadable("nothing")
    parts, _ = split_tokens(tokens, match_any("\\setminus", "\\backslash"))
    if len(parts) == 2:
        return _all_reals_but(parts)
    parts, _ = split_tokens(tokens, match_any("\\cup"))
    if len(parts) > 1:
        return Union(tuple(_object(part, False, depth + 1) for part in parts))
    if tokens[0].text == "\\begin":
        return _matrix(tokens, depth)
    infinite = _infinite(tokens)
    if infinite is not None:
        return infinite
    texts = [token.text for token in tokens]
    if texts in (["\\emptyset"], ["\\varnothing"]):
        return Sequence("{}", ())
    if texts in _REALS:
        return _ALL_REALS
    if len(tokens) == 1 and tokens[0].text.lower() in _NUMBER_WORDS:
        return Number(number(_NUMBER_WORDS[tokens[0].text.lower()]))
    inner = _enclosed(tokens, "\\{", "\\}")
    if inner is not None:
        return _set(inner, depth)
    bracketed = _bracketed(tokens, depth)
    if bracketed is not None:
        return bracketed
    if len(tokens) > 5 and len(texts[0]) == 1 and texts[0].isupper() and _enclosed(tokens[1:], "(", ")") is not None:
        point = _bracketed(tokens[1:], depth)  # P(2, -3)
        if isinstance(point, Sequence):
            return Named(texts[0], None, point)
    if any(token.text in ("\\pm", "\\mp") for token in tokens):
        return _plus_minus(tokens, letters_are_units, depth)
    return _based(texts) or _ratio(tokens) or _quantity(tokens, letters_are_units)


def _all_reals_but(parts: list[Tokens]) -> Union:
    r"""\mathbb{R} \setminus \{a, b\}, as intervals."""
    inner = _enclosed(parts[1], "\\{", "\\}")
    points = [_bound(point) for point in split_tokens(inner, match_any(","))[0]] if inner else []
    values = [point.value.approximate() if isinstance(point, Number) else None for point in points]
    if [token.text for token in parts[0]] not in _REALS or not points or None in values:
        raise Unreadable("difference of sets")
    ordered = [point for _, point in sorted(zip(values, points, strict=True), key=lambda pair: pair[0])]
    ends = [Infinite(-1), *ordered, Infinite(1)]
    return Union(tuple(Sequence("()", pair) for pair in itertools.pairwise(ends)))


def _plus_minus(tokens: Tokens, letters_are_units: bool, depth: int) -> Answer:
    signs = ({"\\pm": "+", "\\mp": "-"}, {"\\pm": "-", "\\mp": "+"})
    return Sequence(
        "",
        tuple(
            _object(
                tuple(Token("symbol", sign[t.text], t.spaced) if t.text in sign else t for t in tokens),
                letters_are_units,
                depth + 1,
            )
            for sign in signs
        ),
    )


def _set(inner: Tokens, depth: int) -> Answer:
    if not inner:
        return Sequence("{}", ())
    parts, _ = split_tokens(inner, match_any("|", "\\mid", ":"))
    if len(parts) == 2 and read_name(split_tokens(parts[0], match_any("\\in"))[0][0]) is not None:  # {x | 0 < x < 1}
        condition = _answer(parts[1], depth=depth + 1)
        if isinstance(condition, Named) and condition.relation == "in":
            return condition.answer
        raise Unreadable("set builder")
    answer = _answer(inner, depth=depth + 1)
    items = answer.items if isinstance(answer, Sequence) and not answer.brackets else (answer,)
    return Sequence("{}", tuple(items))


def _bracketed(tokens: Tokens, depth: int) -> Answer | None:
    """A tuple or an interval."""
    for opening in "([":
        for closing in ")]":
            inner = _enclosed(tokens, opening, closing)
            if inner is None:
                continue
            items = split_tokens(inner, match_any(",", ";"))[0]
            if 1 < len(items) <= ITEMS:
                answers = tuple(_answer(item, depth=depth + 1) for item in items)
                if any(isinstance(answer, Sequence) and not answer.brackets for answer in answers):
                    raise Unreadable("a list as a coordinate")
                if all(isinstance(answer, Named) and answer.relation == "=" for answer in answers):
                    return Sequence(opening + closing, tuple(map(_unnamed, answers)))
                return Sequence(opening + closing, answers)
            if len(items) == 1 and items[0] and items[0][0].text in ("\\begin", "(", "["):
                return _object(items[0], False, depth + 1)
    return None


_ENVIRONMENTS = frozenset(("pmatrix", "bmatrix", "matrix", "Bmatrix", "cases"))


def _matrix(tokens: Tokens, depth: int) -> Matrix | Sequence:
    """pmatrix, bmatrix, matrix: `\\begin { pmatrix } ... \\end { pmatrix }`."""
    kind = tokens[2].text if len(tokens) > 8 else ""
    end = tokens[-4:]
    if kind not in _ENVIRONMENTS or [t.text for t in end] != ["\\end", "{", kind, "}"]:
        raise Unreadable("environment")
    body = tokens[4:-4]
    if any(token.text == "\\begin" for token in body):
        raise Unreadable("nested environment")
    rows = [row for row in split_tokens(body, match_any("\\\\"))[0] if row]
    cells_RC = [split_tokens(row, match_any("&"))[0] for row in rows]
    if sum(map(len, cells_RC)) > ITEMS:
        raise Unreadable("many cells")
    if kind == "cases":
        return _cases(cells_RC, depth)
    return Matrix(tuple(tuple(_object(cell, False, depth + 1) for cell in cells) for cells in cells_RC))


_IF = frozenset(("if", "when", "for", "where"))


def _cases(cells_RC: list[list[Tokens]], depth: int) -> Sequence:
    """The values of a function by cases, or the solution of a system: x = 1, y = 2."""
    trimmed = [[tuple(_trimmed(cell)) for cell in cells] for cells in cells_RC]
    answers = [tuple(_text(cell) or _answer(cell, depth=depth + 1) for cell in cells) for cells in trimmed]
    if answers and all(len(cells) == 2 for cells in answers):
        return Sequence("cases", tuple(Sequence("()", cells) for cells in answers))
    if len(answers) > 1 and all(len(c) == 1 and isinstance(c[0], Named) and c[0].relation == "=" for c in answers):
        return Sequence("()", tuple(_unnamed(cells[0]) for cells in answers))
    raise Unreadable("cases")


def _trimmed(cell: Tokens) -> Tokens:
    """Without the comma at its end, or the "if" at its start."""
    cell = cell[:-1] if cell and cell[-1].text in (",", ";", ".") else cell
    return cell[1:] if cell and cell[0].kind in ("word", "text") and cell[0].text in _IF else cell


def _based(texts: list[str]) -> Based | None:
    sign = "-" if texts[0] == "-" else ""
    plain = [text for text in texts[len(sign) :] if text not in ("{", "}", "(", ")")]
    if len(plain) == 3 and plain[2] in _NUMBER_WORDS:
        plain[2] = str(_NUMBER_WORDS[plain[2]])
    if len(plain) != 3 or plain[1] != "_" or not plain[2].isdigit() or len(plain[2]) > 2 or not plain[0].isalnum():
        return None
    base = int(plain[2])
    if not 2 <= base <= 36 or not plain[0][0].isdigit() or any(int(digit, 36) >= base for digit in plain[0]):
        return None
    return Based(sign + plain[0].upper().lstrip("0"), base)


def _ratio(tokens: Tokens) -> Ratio | None:
    parts, _ = split_tokens(tokens, lambda token: token.text in (":", "to") and token.kind != "command")
    if len(parts) < 2:
        return None
    return Ratio(tuple(_quantity(part, False) for part in parts))


_IN_UNITS = frozenset((*"^{}/%-.()", "\\cdot"))
_WORDS_AFTER = 8  # a number may be followed by
_NUMERALS = "zero one two three four five six seven eight nine ten eleven twelve"
_NUMBER_WORDS = {word: i for i, word in enumerate(_NUMERALS.split())}


def _quantity(tokens: Tokens, letters_are_units: bool) -> Number:
    """A value, and its unit."""
    money = any(token.text == "¤" for token in tokens)
    tokens = tuple(token for token in tokens if token.text != "¤") if money else tokens
    scalar = Scalar(tokens, letters_are_units)
    value = scalar.sum()
    rest = tokens[len(tokens) - len(scalar.tokens) + scalar.position :]
    if scalar.position and rest:
        rest = _after_number(rest, value)
    decimals, digits = _places(tokens[: len(tokens) - len(rest)])
    return Number(value, decimals, digits, MONEY if money else find_unit(rest))


def _after_number(rest: Tokens, value: Value) -> Tokens:
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
    return rest


def _places(tokens: Tokens) -> tuple[int | None, int]:
    """Digits after the point and significant digits of a plain decimal; None and 0 for anything else."""
    tokens = tokens[1:] if tokens and tokens[0].text in ("-", "+") else tokens
    if len(tokens) != 1 or tokens[0].kind != "number":
        return None, 0
    mantissa, _, exponent = tokens[0].text.lower().partition("e")
    whole, point, places = mantissa.partition(".")
    if not point and not exponent:
        return None, 0
    return len(places) - int(exponent or 0), len((whole + places).lstrip("0"))
