"""Texts as normalised words, and the n-grams of words.

Two texts that differ only in case, white space, punctuation, LaTeX spacing and delimiters, thousands separators or the
Unicode form of their characters have the same words. A word is a run of letters, a run of digits, an operator, a LaTeX
command, or one character of a script that is written without spaces.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# LaTeX commands that only arrange or set type.
_LAYOUT_COMMANDS = r"""
\left \right \middle \big \bigl \bigr \bigg \biggl \biggr \displaystyle \textstyle \limits \nolimits \quad \qquad
\thinspace \hspace \text \textrm \textbf \textit \textup \textnormal \mathrm \mathbf \mathit \mathsf \mathtt
\boldsymbol \rm \bf \it \operatorname \mbox \hbox \ldots \cdots \dots \dotsc \dotsb \nonumber \ensuremath
"""
_SYNONYMS = {
    "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac", "\\dbinom": "\\binom", "\\tbinom": "\\binom",
    "\\cdot": "*", "\\times": "*", "\\ast": "*", "\\div": "/", "\\lt": "<", "\\gt": ">",
    "\\le": "\\leq", "\\leqslant": "\\leq", "\\ge": "\\geq", "\\geqslant": "\\geq", "\\ne": "\\neq",
    "\\to": "\\rightarrow",
}  # fmt: skip
_COMMANDS = dict.fromkeys(_LAYOUT_COMMANDS.split(), "") | _SYNONYMS
_SIGNS = {
    "×": "*", "·": "*", "⋅": "*", "∙": "*", "∗": "*", "÷": "/", "⁄": "/", "∕": "/",
    "≤": "\\leq ", "≥": "\\geq ", "≠": "\\neq ", "→": "\\rightarrow ", "π": "\\pi ", "∞": "\\infty ", "√": "\\sqrt ",
}  # fmt: skip

_WORD = re.compile(r"\\?[a-z\x80-\U0010ffff]+|[0-9]+|[-+*/=<>^]")
# A comma, `{,}`, `\,` or `,\!` between a digit and exactly three more.
_THOUSANDS = re.compile(r"([0-9])(?:\{,\}|\\?,(?:\\!)?)(?=[0-9]{3}(?![0-9]))")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
# Han and its marks, kana, Thai, Lao, Burmese, Khmer.
_SPACELESS = re.compile(
    "[々〇\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134fぁ-ゖァ-ヺー\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"
)


def split_words(text: str) -> list[str]:
    r"""The normalised words of a text.

    >>> split_words(r"Find $\dfrac{1}{2}$ of 1,000 apples.")
    ['find', '\\frac', '1', '2', 'of', '1000', 'apples']
    """
    text = text.lower() if text.isascii() else _fold_unicode(text)
    if "," in text:
        text = _THOUSANDS.sub(r"\1", text)
    words = _WORD.findall(text)
    return [word for word in (_COMMANDS.get(word, word) for word in words) if word] if "\\" in text else words


def iterate_ngrams(words: list[str], n: int) -> Iterator[tuple[str, ...]]:
    """All runs of n words; fewer than n words have one, which is all of them.

    >>> list(iterate_ngrams(["what", "is", "1", "+", "1"], 4))
    [('what', 'is', '1', '+'), ('is', '1', '+', '1')]
    """
    if 0 < len(words) < n:
        return iter([tuple(words)])
    return zip(*(words[i:] for i in range(n)), strict=False)


def _fold_unicode(text: str) -> str:
    """NFKC without case, with ASCII digits and operators, and spaces around characters of spaceless scripts."""
    # NFKC alone would turn 10² into 102.
    text = _SUPERSCRIPT.sub(lambda match: "^" + match.group(), text)
    return unicodedata.normalize("NFKC", text).casefold().translate(_FOLDED)


class _FoldTable(dict[int, str]):
    """The replacement of each character, computed when the character is first seen."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        kind, digit = unicodedata.category(char), unicodedata.decimal(char, None)
        if code < 128:
            folded = char
        elif char in _SIGNS:
            folded = _SIGNS[char]
        elif digit is not None:
            folded = str(digit)
        elif kind == "Cf":
            folded = ""  # joiners and soft hyphens stand inside a word
        elif kind == "Pd" or char == "−":
            folded = "-"
        elif kind[0] in "LMN":
            folded = f" {char} " if _SPACELESS.match(char) else char
        else:
            folded = " "
        self[code] = folded
        return folded


_FOLDED = _FoldTable()
