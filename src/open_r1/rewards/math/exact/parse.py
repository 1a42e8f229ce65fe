"""Reads an answer: its readings as values, lists, intervals, equations, words."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache

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
    ParsedAnswer,
    Sequence,
    Text,
    Union,
)
from .arithmetic import Unreadable, Value, number, rational
from .inequalities import (
    ALL_REALS,
    REALS,
    exclude_point,
    exclude_points,
    is_interval,
    join_intervals,
    read_bound,
    read_inequality,
    read_infinity,
)
from .names import read_name
from .quantities import NUMBER_WORDS, is_huge, read_numeral, read_quantity, read_ratio
from .tokens import (
    Token,
    Tokens,
    clean_text,
    find_enclosed,
    find_relation,
    is_conjunction,
    match_any,
    split_tokens,
    tokenize,
)
from .units import is_unit

LENGTH = 600  # characters; longer answers are not read
ITEMS = 60  # of a list
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


def _list_variants(text: str) -> Iterator[str]:
    """The text with each meaning that a comma or a space between digits may have."""
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
def parse_answer(text: str) -> ParsedAnswer:
    """Read an answer; never raises.

    >>> parse_answer("(1, 2)").readings[0].brackets
    '()'
    """
    if len(text) > LENGTH:
        return ParsedAnswer(text.strip(), ())
    cleaned = clean_text(text)
    if INTEGER.fullmatch(cleaned):
        return ParsedAnswer(cleaned, (Number(number(int(cleaned))),))
    clock = _read_clock(cleaned)
    if clock is not None:
        return ParsedAnswer(_IDLE_SPACE.sub("", cleaned), (clock,))
    readings: list[Answer] = []
    for variant in _list_variants(cleaned):
        try:
            tokens = tuple(tokenize(variant))
        except Unreadable:
            continue
        readings += _list_readings(tokens)
    return ParsedAnswer(
        _IDLE_SPACE.sub("", cleaned).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac"), tuple(readings)
    )


def _read_clock(text: str) -> Clock | None:
    found = _CLOCK.fullmatch(text)
    if found is None or not 1 <= int(found[1]) <= 12 or (found[5] and int(found[1]) < 12):
        return None
    late = found[4] in ("p", "P") or (found[5] or "").lower() == "noon"
    return Clock((int(found[1]) % 12 + 12 * late) * 3600 + int(found[2] or 0) * 60 + int(found[3] or 0))


def _list_readings(tokens: Tokens) -> Iterator[Answer]:
    """The text as mathematics (single letters as variables, then as units), as a huge number, and as words."""
    may_be_unit = any(t.kind == "word" and t.spaced and len(t.text) == 1 and is_unit(t.text) for t in tokens)
    for letters_are_units in (False, True)[: 1 + may_be_unit]:
        with contextlib.suppress(Unreadable, RecursionError):
            yield _read_answer(tokens, letters_are_units)
    if is_huge(tokens):
        yield HugeNumber()
    words = _read_words(tokens)
    if words is not None:
        yield words
        yield from (reading for phrase, reading in _PHRASES.items() if words.words == phrase)


_PHRASES = dict.fromkeys(("all real numbers", "all reals", "real numbers", "all real values"), ALL_REALS)
_PHRASES |= dict.fromkeys(
    ("no solution", "no solutions", "empty set", "no real solution", "no real solutions"), Sequence("{}", ())
)
_PHRASES |= dict.fromkeys(("infinity", "infinite", "infinitely many", "infinitely many solutions"), Infinity(1))
_SYNONYMS = dict.fromkeys(("dne", "limit does not exist"), "does not exist")
_OPENING = re.compile(r"(?:there (?:is|are|exists?) |the )")
TRUTH_WORDS = frozenset(("yes", "no", "true", "false"))


def _read_words(tokens: Tokens) -> Text | None:
    """The words of a text that has nothing else."""
    if not any(token.kind in ("word", "text") and len(token.text) > 1 for token in tokens):
        return None
    if any(token.kind not in ("word", "text") and token.text not in "-'.,:()\"?!;" for token in tokens):
        return None
    if tokens[0].text in ("-", "+"):
        return None
    words = [token.text.lower() for token in tokens if token.kind in ("word", "text")]
    if words[0] in TRUTH_WORDS and len(words) > 1 and tokens[1].text in ",.;:":  # "Yes, it is", but not "no solution"
        words[0] += ","
    text = " ".join(words)
    text = _OPENING.sub("", text, count=1) if words[0] in ("the", "there") else text
    return Text(_SYNONYMS.get(text, text))


def _read_answer(tokens: Tokens, letters_are_units: bool = False, depth: int = 0) -> Answer:
    """A list, or its only item.

    Raises:
        Unreadable: the tokens are neither.
    """
    if depth > 4 or not tokens:
        raise Unreadable("nesting" if tokens else "nothing")
    inner = find_enclosed(tokens, "{", "}")
    if inner is not None:  # braces that only group
        return _read_answer(inner, letters_are_units, depth + 1)
    pieces, conjunctions = split_tokens(tokens, is_conjunction)
    groups = [_split_items(piece) for piece in pieces]
    groups = [group for group in groups if group]
    if len(groups) == 1 and len(groups[0]) == 1:
        return _read_item(groups[0][0], letters_are_units, depth)
    if sum(map(len, groups)) > ITEMS or not groups:
        raise Unreadable("many items")
    items_GI = [[_read_item(item, letters_are_units, depth) for item in group] for group in groups]
    if _are_records(items_GI, conjunctions):  # p=5, q=2; p=7, q=2
        return Sequence("", tuple(Sequence("()", tuple(map(_drop_name, items))) for items in items_GI))
    items = [item for items in items_GI for item in items]
    if (compound := _add_quantities(items)) is not None:
        return compound
    name = items[0].name if isinstance(items[0], Assignment) else None
    if name is not None and all(isinstance(i, Assignment) and i.name == name for i in items):
        if all(i.relation == "in" and is_interval(i.answer) for i in items):
            return Assignment(name, None, join_intervals([i.answer for i in items], conjunctions), "in")
        return Assignment(name, items[0].parameter, Sequence("", tuple(_flatten(map(_drop_name, items)))))
    if name is not None and not any(isinstance(i, Assignment) for i in items[1:]):  # n = 1, 2, 3
        return Assignment(name, items[0].parameter, Sequence("", tuple(_flatten(map(_drop_name, items)))))
    return Sequence("", tuple(_flatten(items)))


def _add_quantities(items: list[Answer]) -> Number | None:
    """5 hours and 30 minutes as one quantity in the first unit, if the units have one dimension and get smaller."""
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


def _split_items(tokens: Tokens) -> list[Tokens]:
    return [piece for piece in split_tokens(tokens, match_any(","))[0] if piece]


def _are_records(items_GI: list[list[Answer]], conjunctions: list[Token]) -> bool:
    """True for several groups of equal size, separated by semicolons or by their names."""
    sizes = {len(items) for items in items_GI}
    if len(items_GI) < 2 or len(sizes) != 1 or sizes == {1}:
        return False
    if all(token.text == ";" for token in conjunctions):
        return True
    return all(isinstance(item, Assignment) for items in items_GI for item in items) and all(
        len({item.name for item in items if isinstance(item, Assignment)}) == len(items) for items in items_GI
    )


def _flatten(items: Iterable[Answer]) -> Iterator[Answer]:
    """The items, with those of lists inside the list (from a plus-minus sign)."""
    for item in items:
        if isinstance(item, Sequence) and not item.brackets:
            yield from item.items
        else:
            yield item


def _drop_name(answer: Answer) -> Answer:
    return answer.answer if isinstance(answer, Assignment) else answer


def _read_item(tokens: Tokens, letters_are_units: bool, depth: int) -> Answer:
    parts, signs = split_tokens(
        tokens, lambda token: find_relation(token) is not None and token.kind in ("symbol", "command")
    )
    relations = [find_relation(sign) for sign in signs]
    if not relations:
        return _read_object(tokens, letters_are_units, depth)
    if "~" in relations:  # keep what stands before it, unless that is only a name
        at = relations.index("~")
        head = tuple(token for i in range(at + 1) for token in (*parts[i], *signs[i : i + (i < at)]))
        if read_name(head) is not None:
            head = (*head, Token("symbol", "="), *parts[at + 1])
        return _read_item(head, letters_are_units, depth + 1)
    if set(relations) == {"="}:
        return _read_equation(parts, letters_are_units, depth)
    if relations == ["in"] or relations == ["!="]:
        name = read_name(parts[0])
        if name is None:
            raise Unreadable("relation")
        answer = (
            _read_answer(parts[1], depth=depth + 1) if relations == ["in"] else exclude_point(read_bound(parts[1]))
        )
        return Assignment(name[0], name[1], answer, "in")
    return read_inequality(parts, relations)


def _read_equation(parts: list[Tokens], letters_are_units: bool, depth: int) -> Answer:
    names = [read_name(part) for part in parts]
    if not parts[0] or not parts[-1]:
        raise Unreadable("half an equation")
    if parts[0][0].text in _OPERATORS and len(parts) == 2:  # \max f = 3: the operator is the name
        return Assignment(
            "".join(token.text for token in parts[0]), None, _read_answer(parts[1], letters_are_units, depth + 1)
        )
    if names[0] is not None:  # x = ..., x = y = ..., x = 1 + 1 = 2
        answer = _read_answer(parts[-1], letters_are_units, depth + 1)
        return Assignment(names[0][0], names[0][1], answer)
    if names[-1] is not None and len(parts) == 2:  # 5 = x
        return Assignment(names[-1][0], names[-1][1], _read_answer(parts[0], letters_are_units, depth + 1))
    quantities = [read_quantity(part, letters_are_units) for part in parts]
    values = [quantity.compute_share() for quantity in quantities]
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
    return FalseEquation()


def _is_near(exact: Value, quantity: Number) -> bool:
    """True for the exact value, or a decimal within one unit of its last place."""
    if quantity.value == exact:
        return True
    wanted, given = exact.approximate(), quantity.value.rational()
    if wanted is None or given is None or quantity.decimals is None:
        return False
    return abs(wanted - given) < Fraction(1, 10) ** quantity.decimals


_OPERATORS = frozenset(("\\lim", "\\max", "\\min", "\\sum", "\\prod", "\\int", "\\sup", "\\inf"))


def _read_object(tokens: Tokens, letters_are_units: bool, depth: int) -> Answer:
    """A set, an interval, a matrix, a number or another answer without a relation."""
    if not tokens:
        raise Unreadable("nothing")
    parts, _ = split_tokens(tokens, match_any("\\setminus", "\\backslash"))
    if len(parts) == 2:
        return exclude_points(parts)
    parts, _ = split_tokens(tokens, match_any("\\cup"))
    if len(parts) > 1:
        return Union(tuple(_read_object(part, False, depth + 1) for part in parts))
    if tokens[0].text == "\\begin":
        return _read_matrix(tokens, depth)
    infinite = read_infinity(tokens)
    if infinite is not None:
        return infinite
    texts = [token.text for token in tokens]
    if texts in (["\\emptyset"], ["\\varnothing"]):
        return Sequence("{}", ())
    if texts in REALS:
        return ALL_REALS
    if len(tokens) == 1 and tokens[0].text.lower() in NUMBER_WORDS:
        return Number(number(NUMBER_WORDS[tokens[0].text.lower()]))
    inner = find_enclosed(tokens, "\\{", "\\}")
    if inner is not None:
        return _read_set(inner, depth)
    bracketed = _read_bracketed(tokens, depth)
    if bracketed is not None:
        return bracketed
    if (
        len(tokens) > 5
        and len(texts[0]) == 1
        and texts[0].isupper()
        and find_enclosed(tokens[1:], "(", ")") is not None
    ):
        point = _read_bracketed(tokens[1:], depth)  # P(2, -3)
        if isinstance(point, Sequence):
            return Assignment(texts[0], None, point)
    if any(token.text in ("\\pm", "\\mp") for token in tokens):
        return _expand_plus_minus(tokens, letters_are_units, depth)
    return read_numeral(texts) or read_ratio(tokens) or read_quantity(tokens, letters_are_units)


def _expand_plus_minus(tokens: Tokens, letters_are_units: bool, depth: int) -> Answer:
    signs = ({"\\pm": "+", "\\mp": "-"}, {"\\pm": "-", "\\mp": "+"})
    return Sequence(
        "",
        tuple(
            _read_object(
                tuple(Token("symbol", sign[t.text], t.spaced) if t.text in sign else t for t in tokens),
                letters_are_units,
                depth + 1,
            )
            for sign in signs
        ),
    )


def _read_set(inner: Tokens, depth: int) -> Answer:
    if not inner:
        return Sequence("{}", ())
    parts, _ = split_tokens(inner, match_any("|", "\\mid", ":"))
    if len(parts) == 2 and read_name(split_tokens(parts[0], match_any("\\in"))[0][0]) is not None:  # {x | 0 < x < 1}
        condition = _read_answer(parts[1], depth=depth + 1)
        if isinstance(condition, Assignment) and condition.relation == "in":
            return condition.answer
        raise Unreadable("set builder")
    answer = _read_answer(inner, depth=depth + 1)
    items = answer.items if isinstance(answer, Sequence) and not answer.brackets else (answer,)
    return Sequence("{}", tuple(items))


def _read_bracketed(tokens: Tokens, depth: int) -> Answer | None:
    """A tuple or an interval."""
    for opening in "([":
        for closing in ")]":
            inner = find_enclosed(tokens, opening, closing)
            if inner is None:
                continue
            items = split_tokens(inner, match_any(",", ";"))[0]
            if 1 < len(items) <= ITEMS:
                answers = tuple(_read_answer(item, depth=depth + 1) for item in items)
                if any(isinstance(answer, Sequence) and not answer.brackets for answer in answers):
                    raise Unreadable("a list as a coordinate")
                if all(isinstance(answer, Assignment) and answer.relation == "=" for answer in answers):
                    return Sequence(opening + closing, tuple(map(_drop_name, answers)))
                return Sequence(opening + closing, answers)
            if len(items) == 1 and items[0] and items[0][0].text in ("\\begin", "(", "["):
                return _read_object(items[0], False, depth + 1)
    return None


_ENVIRONMENTS = frozenset(("pmatrix", "bmatrix", "matrix", "Bmatrix", "cases"))


def _read_matrix(tokens: Tokens, depth: int) -> Matrix | Sequence:
    """A matrix or cases environment: `\\begin { pmatrix } ... \\end { pmatrix }`."""
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
        return _read_cases(cells_RC, depth)
    return Matrix(tuple(tuple(_read_object(cell, False, depth + 1) for cell in cells) for cells in cells_RC))


_IF = frozenset(("if", "when", "for", "where"))


def _read_cases(cells_RC: list[list[Tokens]], depth: int) -> Sequence:
    """The values of a function by cases, or the solution of a system: x = 1, y = 2."""
    trimmed = [[tuple(_trim_cell(cell)) for cell in cells] for cells in cells_RC]
    answers = [tuple(_read_words(cell) or _read_answer(cell, depth=depth + 1) for cell in cells) for cells in trimmed]
    if answers and all(len(cells) == 2 for cells in answers):
        return Sequence("cases", tuple(Sequence("()", cells) for cells in answers))
    if len(answers) > 1 and all(
        len(c) == 1 and isinstance(c[0], Assignment) and c[0].relation == "=" for c in answers
    ):
        return Sequence("()", tuple(_drop_name(cells[0]) for cells in answers))
    raise Unreadable("cases")


def _trim_cell(cell: Tokens) -> Tokens:
    """The cell without a comma at its end and an "if" at its start."""
    cell = cell[:-1] if cell and cell[-1].text in (",", ";", ".") else cell
    return cell[1:] if cell and cell[0].kind in ("word", "text") and cell[0].text in _IF else cell
