"""Cleans the text of an answer and cuts it into tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .arithmetic import Unreadable

_UNICODE = str.maketrans(
    dict(zip("０１２３４５６７８９", "0123456789", strict=True))
    | dict.fromkeys("−–—﹣－", "-")
    | dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", "")
    | dict.fromkeys("\xa0\u2002\u2003\u2009\u202f\u3000\t\n\r", " ")
    | {"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*", "÷": "/", "⁄": "/", "±": r"\pm "}
    | {"π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "°": " degrees ", "∅": r"\emptyset "}
    | {"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∈": r"\in ", "∪": r"\cup "}
    | {"½": r"\frac12", "⅓": r"\frac13", "⅔": r"\frac23", "¼": r"\frac14", "¾": r"\frac34", "⅕": r"\frac15"}
    | {"⅛": r"\frac18", "⅙": r"\frac16", "％": "%", "，": ",", "；": ";", "（": "(", "）": ")", "：": ":", "＝": "="}
    | dict.fromkeys("£€¥₹", "")  # the currency does not matter
    | {"∛": r"\sqrt[3]", "ℝ": r"\mathbb{R}", "⟨": "(", "⟩": ")", "∖": r"\setminus "}
    | {"＋": "+", "．": ".", "、": ",", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda "}
)
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_FROM_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_ESCAPED_TWICE = re.compile(r"\\\\(?=[a-zA-Z]{2})")
_DELIMITER = re.compile(r"\\[()\[\]](?!\w*\])|\\boxed\s*(?=[{\d])")
_SPACING = re.compile(
    r"(?<!\\)\\[,;:> ]|~|\\q?quad(?=[a-z]_)|\\(?:quad|qquad|left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle"
    r"|limits|nolimits|enspace|thinspace|medspace|thickspace|rm|bf|it|cdots?punct|small|large|Large|LARGE|huge|Huge)(?![a-zA-Z])"
    r"|\\(?:hspace|vspace|phantom|color|textcolor)\*?\{[^{}]*\}"
)
_DEGREES = re.compile(r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree(?![a-zA-Z])")
_ARRAY = re.compile(r"\\begin\{array\}\{[clr| ]*\}")
_GROUPED = re.compile(r"(?<=\d)\s?(?:\{ ?, ?\}|,\\!|\\[,;:! ]|\{\\,\})\s*(?=\d{3}(?!\d))")  # 14{,}916 and 14\,916
_LABEL = re.compile(r"\\text\s*\{(?![^{}]*\bnot\b)[A-Z][^{}]{0,60}(?::|=| is| are)\s*\}\s*(?=\S)")  # \text{Area: } 5
_REPEATING = re.compile(r"(\d{0,15})\.(\d{0,15})\\(?:overline|bar|dot)\s*(?:\{(\d{1,15})\}|(\d))(?![\d\\])", re.ASCII)
_SCALED = re.compile(r"(?<=\d)\s*(\\text\s*\{)?\s*(thousand|million|billion|trillion)\b(\s*\})?")
_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_BRACED_SIGN = re.compile(r"(?<=\d)\{[:,]\}(?=\d)")  # 3{:}45 is a time, 0{,}5 is 0.5
_CHOOSE = re.compile(r"\{([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}")
_ROMAN = re.compile(r"\\mathrm\s*\{\s*([ie])\s*\}")
_HEDGE = re.compile(r"(?:approximately|approx\.?|about|roughly|exactly|only|\\approx|\\sim|=)\s*", re.IGNORECASE)
_TAIL = re.compile(
    r"\s*[,;]?\s*\\(?:text|mbox|mathrm)\s*\{\s*,?\s*(?:for (?:all|any|every|each)|where|when)\b.*", re.DOTALL
)


def clean_text(text: str) -> str:
    """The text as one line of LaTeX without spacing commands, delimiters and final punctuation; ¤ is money."""
    text = text.strip()
    if not text.isascii() or "\n" in text or "\t" in text:
        text = _SUPERSCRIPTS.sub(lambda found: "^{" + found[0].translate(_FROM_SUPERSCRIPT) + "}", text)
        text = text.translate(_UNICODE)
    if "\\" in text:
        if "\\\\" in text and "\\begin" not in text:
            text = _ESCAPED_TWICE.sub(r"\\", text)
        text = _GROUPED.sub("", text).replace("\\langle", "(").replace("\\rangle", ")")
        text = text.replace("\\!", "").replace("\\$", "¤").replace("\\%", "%").replace("\\&", "&")
        text = _ARRAY.sub(r"\\begin{matrix}", text).replace("\\end{array}", "\\end{matrix}")
        text = _DEGREES.sub(" degrees ", _SPACING.sub(" ", _DELIMITER.sub(" ", _TAIL.sub("", text))))
        text = _rewrite_rare_forms(text)
    elif "{" in text:
        text = _GROUPED.sub("", text)
    if "{:}" in text or "{,}" in text:
        text = _BRACED_SIGN.sub(lambda found: ":" if found[0] == "{:}" else ".", text)
    if "illion" in text or "thousand" in text:
        text = _SCALED.sub(_rewrite_scaled, text)
    if "$" in text:
        # An odd number of dollar signs is money: $18. A pair of them delimits LaTeX.
        text = text.replace("$", "¤" if text.replace("$$", "").count("$") % 2 else " ")
    text = text.strip().strip("*").strip()
    text = _HEDGE.sub("", text, count=1) if _HEDGE.match(text) else text
    return " ".join(text.rstrip(" .,;:。").split())


def _rewrite_rare_forms(text: str) -> str:
    """Rewrite \\mathrm{i}, {n \\choose k} and 0.\\overline{3}; drop \\text{Area: } before a value."""
    if "mathrm" in text:
        text = _ROMAN.sub(r" \1", text)
    if "choose" in text:
        text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    if "." in text and ("overline" in text or "bar" in text or "dot" in text):
        text = _REPEATING.sub(_rewrite_repeating, text)
    stripped = text.strip()
    return _LABEL.sub("", stripped, count=1) if stripped.startswith("\\text") and _LABEL.match(stripped) else text


def _rewrite_repeating(found: re.Match[str]) -> str:
    """0.1\\overline{6} as a fraction."""
    whole, start, block = found[1], found[2], found[3] or found[4]
    ninths = (10 ** len(block) - 1) * 10 ** len(start)
    return rf"\frac{{{int(whole + start + block) - int((whole + start) or 0)}}}{{{ninths}}}"


def _rewrite_scaled(found: re.Match[str]) -> str:
    """5 million as a product; \\text{ million dollars} keeps its dollars."""
    opening, word, closing = found.groups()
    rest = opening if opening and not closing else closing if closing and not opening else ""
    return rf"\cdot 10^{{{_SCALES[word]}}} {rest or ''}"


class Token(NamedTuple):
    """`kind` is number, word, text (a word in \\text{...}), command or symbol; `spaced`: white space precedes it."""

    kind: str
    text: str
    spaced: bool = False


Tokens = tuple[Token, ...]
_TOKEN = re.compile(
    r"(?P<space> *)(?:(?P<number>(?:\d+\.\d+|\.\d+|\d+)(?:[eE](?:\d{1,3}|[+-]\d{1,3})(?![\w.]))?)|(?P<word>[A-Za-z]+)"
    r"|\\(?:text|textbf|textit|textrm|textnormal|textsf|mathrm|mathbf|mathsf|mathit|mbox|hbox|operatorname)\*?\s*"
    r"\{(?P<text>(?:[^{}]|\{[^{}]*\})*)\}|(?P<command>\\[A-Za-z]+|\\[\\{}|&])|(?P<symbol>[-+*/^_(){}\[\],=<>!|;:'%¤&.?\"]))",
    re.ASCII,
)
_RELATIONS = {
    "\\leq": "<=", "\\le": "<=", "\\leqslant": "<=", "\\lt": "<", "\\geq": ">=", "\\ge": ">=", "\\geqslant": ">=",
    "\\gt": ">", "\\neq": "!=", "\\ne": "!=", "\\in": "in", "\\approx": "~", "\\simeq": "~", "\\approxeq": "~",
    "\\doteq": "~", "=": "=", "<": "<", ">": ">",
}  # fmt: skip
OPEN, CLOSE = frozenset(("(", "[", "{", "\\{")), frozenset((")", "]", "}", "\\}"))
FRACTIONS = frozenset(("\\frac", "\\dfrac", "\\tfrac", "\\cfrac"))
_GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega hbar ell"
)
_FUNCTIONS = "sin cos tan cot sec csc log ln exp lim max min gcd lcm mod arcsin arccos arctan det"
GREEK = frozenset("\\" + name for name in _GREEK.split())
FUNCTIONS = frozenset(_FUNCTIONS.split())


def tokenize(text: str) -> Iterator[Token]:
    end = 0
    while end < len(text):
        found = _TOKEN.match(text, end)
        if found is None:
            raise Unreadable("character")
        end = found.end()
        kind, spaced = found.lastgroup or "", bool(found["space"])
        if kind == "text":
            yield from _tokenize_text(found["text"])
        elif found[0].strip():
            yield _read_relation(text, found) or Token(kind, found[kind], spaced)
            end += len(_find_second_character(text, end, found[kind]))


def _tokenize_text(text: str) -> Iterator[Token]:
    for token in tokenize(text.strip()):
        yield Token("text", token.text, True) if token.kind == "word" else token


def _find_second_character(text: str, end: int, first: str) -> str:
    """The second character of `<=`, `>=`, `!=`, `==` and `**`."""
    following = text[end : end + 1]
    return following if first + following in ("<=", ">=", "!=", "==", "**") else ""


def _read_relation(text: str, found: re.Match[str]) -> Token | None:
    symbol = found["symbol"]
    if symbol is None or symbol not in "<>!=*" or not (second := _find_second_character(text, found.end(), symbol)):
        return None
    both = symbol + second
    return Token("symbol", {"**": "^", "==": "="}.get(both, both), bool(found["space"]))


def find_relation(token: Token) -> str | None:
    return token.text if token.text in ("<=", ">=", "!=") else _RELATIONS.get(token.text)


def split_tokens(tokens: Tokens, at: Callable[[Token], bool]) -> tuple[list[Tokens], list[Token]]:
    """The pieces between separators outside all brackets, and the separators."""
    pieces, separators, depth, start = [], [], 0, 0
    for i, token in enumerate(tokens):
        if token.text in OPEN or token.text == "\\begin":
            depth += 1
        elif token.text in CLOSE or token.text == "\\end":
            depth -= 1
        elif depth == 0 and at(token):
            pieces.append(tokens[start:i])
            separators.append(token)
            start = i + 1
    pieces.append(tokens[start:])
    return pieces, separators


def find_enclosed(tokens: Tokens, opening: str, closing: str) -> Tokens | None:
    """The tokens between the first and the last one, if these are a pair of brackets; else None."""
    if len(tokens) < 2 or tokens[0].text != opening or tokens[-1].text != closing:
        return None
    depth = 0
    for i, token in enumerate(tokens):
        depth += (token.text in OPEN) - (token.text in CLOSE)
        if depth == 0 and i < len(tokens) - 1:
            return None
    return tokens[1:-1]


def match_any(*texts: str) -> Callable[[Token], bool]:
    return lambda token: token.text in texts and token.kind in ("symbol", "command")


_CONJUNCTIONS = frozenset(("and", "or", "und", "oder"))


def is_conjunction(token: Token) -> bool:
    return (token.kind in ("word", "text") and token.text.lower() in _CONJUNCTIONS) or token.text in (";", "\\lor")
