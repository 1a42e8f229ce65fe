"""Which part of a completion is its final answer?

It stands after the reasoning, inside `<answer>` tags if there are any. There it is the last box, or without a box the
content of the final statement: after "the answer is", in bold, in LaTeX, after the last equals sign, or the only
number. The time is linear in the length of the completion.
"""

from __future__ import annotations

import re

from ..answer_part import find_answer_part
from .exact import compare, parse

STATEMENT = 4000  # last characters of an answer, which are searched for its final statement


def extract_answer(completion: str) -> str:
    """The final answer of a completion; empty if there is none.

    A reasoning, an `<answer>` or a box that is never closed has no answer. Adjacent boxes (`x = \\boxed{1} and y =
    \\boxed{2}`) are one answer, a list: several candidates are correct only if the gold answer is that list. Of other
    boxes the last one counts.
    """
    text = extract_answer_part(completion)
    boxed = extract_boxed(text)
    return extract_statement(text) if boxed is None else boxed


def extract_answer_part(completion: str) -> str:
    """`find_answer_part` without the white space around it."""
    return find_answer_part(completion).strip()


def extract_gold(solution: str) -> str:
    """The answer in a gold solution: after GSM8K's `####`, in its boxes, or the whole text."""
    if "####" in solution:
        return solution.rsplit("####", 1)[1].strip()
    boxed = extract_boxed(solution)
    if boxed == "":  # a gold may have lost its last brace
        boxed = _read_unclosed_box(solution)
    return (solution if boxed is None else boxed).strip()


_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_PLAIN_BOX = re.compile(r"\\boxed\{([^{}\\]*)\}")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_WRAPPED = re.compile(r"\\(?:text\w*|mbox|mathrm)\s*\{([^{}]*)\}")
_COMMAND = re.compile(r"\\[a-zA-Z]+|\\.|[$&]", re.DOTALL)
_NAME = re.compile(r"[A-Za-z]\w{0,3}(?:_\{?\w+\}?)?(?:\([a-z]\))?\s*(?:=|\\in|:)\s*\Z")
_CONCLUSION = "so thus therefore hence answer final which gives means implies is equals equivalently but not"
_CONCLUDES = frozenset(_CONCLUSION.split())
_FINAL = re.compile(r"\bfinal answer(?: is\b|\W{0,4}:)", re.IGNORECASE)
_GAP_WORDS = 4  # between boxes that stand together


def extract_boxed(text: str) -> str | None:
    """The last box, joined with those adjacent to it; None without a box; empty if the last box is no answer.

    A later "final answer is" overrules it.
    """
    boxes = _find_boxes(text)
    if not boxes:
        return None
    later = _FINAL.search(text, boxes[-1][1])
    if later and compare.is_readable(overruling := extract_statement(text[later.start() :])):
        return overruling
    if len(boxes) == 1:
        return boxes[0][2].strip()
    first = len(boxes) - 1
    while first and boxes[first][2].strip() and boxes[first - 1][2].strip():
        gap = text[boxes[first - 1][1] : boxes[first][0]]
        if not _are_adjacent(gap):
            break
        first -= 1
    answers = [contents.strip() for _, _, contents in boxes[first:]]
    if len({compare.compute_key(answer) for answer in answers}) == 1:
        return answers[-1]
    return ", ".join(answers)


def _find_boxes(text: str) -> list[tuple[int, int, str]]:
    """(start, end, contents) of the innermost boxes in order; a last box that is never closed has empty contents."""
    if "\\boxed" not in text and "\\fbox" not in text:
        return []
    only = _PLAIN_BOX.search(text) if text.count("\\boxed") == 1 and "\\fbox" not in text else None
    if only:
        return [(only.start(), only.end(), only[1])]
    starts = [(found.start(), found.end() - 1) for found in _BOX.finditer(text)]
    if not starts:
        return []
    closing, open_braces = {}, []
    for brace in _BRACE.finditer(text, starts[0][0]):
        if brace[0] == "{":
            open_braces.append(brace.start())
        elif brace[0] == "}" and open_braces:
            closing[open_braces.pop()] = brace.start()
    boxes = []
    for i, (start, opening) in enumerate(starts):
        end = closing.get(opening)
        last = i + 1 == len(starts)
        if end is None and last:
            boxes.append((start, len(text), ""))
        elif end is not None and (last or starts[i + 1][0] > end):
            boxes.append((start, end + 1, text[opening + 1 : end]))
    return boxes


def _read_unclosed_box(text: str) -> str:
    """The contents of the last box, which is never closed."""
    return text[[found.end() for found in _BOX.finditer(text)][-1] :].rstrip(" $.}")


def _are_adjacent(gap: str) -> bool:
    """True if the gap between two boxes is only a conjunction, a noun, or the name of the second."""
    if len(gap) > 120 or "\n\n" in gap:
        return False
    words = _NAME.sub("", _WRAPPED.sub(r" \1 ", gap).rstrip(" $([\\"))
    words = _COMMAND.sub(" ", words)
    if "=" in words or ". " in words or ":" in words:
        return False
    gap_words = re.findall(r"\w+", words.lower())
    return len(gap_words) <= _GAP_WORDS and not _CONCLUDES.intersection(gap_words)


_MARKER = re.compile(
    r"(?:\b(?:final answer|answer|réponse|respuesta|antwort|result|ответ)\b|答案|回答|答え|정답|답)"
    r"(?:[^.\n:：$\d]{0,60}?\b(?:is|are|est|be|es|ist)\b|[\s*_]{0,4}[:：=]|是|为|は|은|는)\s*(?:[:：]\s*)?",
    re.IGNORECASE,
)
_BOILERPLATE = re.compile(r"(?:<\|[^|]{0,40}\|?>.*|I hope it is correct\.?\s*)+\Z", re.DOTALL)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^a-z])|(?<=[。！？])|\n+")
_BOLD = re.compile(r"\*\*([^*\n]{1,300})\*\*")
_LATEX = re.compile(
    r"(?<!\\)\$\$(?P<display>[^$]{1,600})\$\$|(?<![\\\d])\$(?P<inline>(?:[^$\\\n]|\\.){1,600})\$(?!\d)"
    r"|\\\((?P<round>[^\n]{1,600}?)\\\)|\\\[(?P<square>.{1,600}?)\\\]",
    re.DOTALL,
)
_STATES = re.compile(r"\b(?:is|are|was|were|equals|be|by|ist|sind|est|sont)\b")
_DENIED = re.compile(r"(?:\bnot|n't|\bcannot|\bthan|\bbetween|不是)(?:\s+be)?[\s*$(\\]*\Z", re.IGNORECASE)
_FORMULA_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_IN_FORMULAS = "and or sin cos tan cot sec csc log ln exp sqrt pi mod gcd lcm max min"
_FORMULA_WORDS = frozenset(_IN_FORMULAS.split())
_BETWEEN = re.compile(r"\s*(?:,|;|,?\s*and|,?\s*or|,?\s*\\text\{\s*(?:and|or)\s*\})\s*", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.,^])[-−]?(?:\\?[$€£¥])?\s?(?:\d[\d,]*(?:\.\d+)?(?:\s?/\s?\d+)?|\.\d+)(?:\s?(?:\\?[%$€£¥]))?"
    r"|-?\\[dt]?frac\{[^{}]{1,60}\}\{[^{}]{1,60}\}"
)


def extract_statement(text: str) -> str:
    """The last answer that a text without a box states."""
    text = _BOILERPLATE.sub("", text[-STATEMENT:]).strip()
    whole = _strip_markup(text)
    if len(whole) <= parse.LENGTH and (_is_formula(whole) or ("\n" not in whole and compare.is_readable(whole))):
        return whole
    markers = [found.end() for found in _MARKER.finditer(text)]
    for end in reversed(markers):
        claimed = _split_sentences(text[end:].lstrip("*_ \n"))
        if claimed:
            return _read_claim(claimed[0], first=True)
    sentences = _split_sentences(text)
    return _read_claim(sentences[-1]) if sentences else ""


def _split_sentences(text: str) -> list[str]:
    """The sentences that have letters or digits; display LaTeX is not cut at its line breaks."""
    text = _LATEX.sub(lambda found: " ".join(found[0].split()), text)
    return [sentence.strip() for sentence in _SENTENCE.split(text) if any(map(str.isalnum, sentence))]


def _is_formula(text: str) -> bool:
    """True for LaTeX or a number without words around it."""
    if not text.isascii() or "\n\n" in text:
        return False
    words = _FORMULA_WORD.findall(_WRAPPED.sub(" ", text))
    return all(word.lower() in _FORMULA_WORDS for word in words)


def _read_claim(sentence: str, first: bool = False) -> str:
    """The answer in a sentence: in bold, after "is", LaTeX, a number (`first` or last); else the whole sentence."""
    whole = _strip_markup(sentence)
    if compare.is_readable(whole):
        return whole
    bold = [
        _take_last_member(found[1]) for found in _BOLD.finditer(sentence) if not _is_denied(sentence, found.start())
    ]
    bold = [text for text in bold if compare.is_readable(text)]
    if bold:
        return bold[-1]
    stated = _strip_markup(_STATES.split(sentence)[-1])
    if compare.is_readable(stated) and not _is_denied(sentence, sentence.rindex(stated)):
        return stated
    latex = _find_last_latex(sentence)
    if latex:
        return _take_last_member(latex)
    return _choose_number(sentence, first) or whole


def _strip_markup(text: str) -> str:
    return _BOLD.sub(r"\1", text).strip().strip("*_#\"' ").rstrip(". ")


def _take_last_member(text: str) -> str:
    """The part after the last equals sign of a chain, if only that part can be read; else the whole text."""
    if compare.is_readable(text) or "=" not in text:
        return text
    last = text.rsplit("=", 1)[1]
    return last if compare.is_readable(last) else text


def _find_last_latex(sentence: str) -> str | None:
    """The last piece of LaTeX, with the pieces joined to it by a comma, "and" or "or"."""
    pieces: list[tuple[int, int, str]] = []
    for found in _LATEX.finditer(sentence):
        contents = found[found.lastgroup or 0]
        spaced = found.lastgroup == "inline" and contents != contents.strip()
        if spaced and "\\" not in contents and not compare.is_readable(contents):  # two amounts of money, not LaTeX
            continue
        if _is_denied(sentence, found.start()):
            continue
        if pieces and not _BETWEEN.fullmatch(sentence[pieces[-1][1] : found.start()]):
            pieces.clear()
        pieces.append((found.start(), found.end(), contents))
    return ", ".join(contents for _, _, contents in pieces) or None


def _choose_number(sentence: str, first: bool) -> str | None:
    """The number after the last equals sign; the only one; the only amount or percentage; the first or last."""
    numbers = _find_numbers(sentence.rsplit("=", 1)[-1])
    if not numbers:
        numbers = _find_numbers(sentence)
    elif "=" in sentence:
        return numbers[0]
    marked = [text for text in numbers if any(sign in text for sign in "$€£¥%")]
    numbers = marked if len(marked) == 1 else numbers
    return numbers[0 if first else -1] if numbers else None


def _is_denied(sentence: str, at: int) -> bool:
    """True if a "not" or "than" precedes this position."""
    return _DENIED.search(sentence[max(0, at - 20) : at]) is not None


def _find_numbers(text: str) -> list[str]:
    """The numbers that do not follow "not" or "than"."""
    found = [number for number in _NUMBER.finditer(text) if not _is_denied(text, number.start())]
    return [number[0].rstrip(", ").strip() for number in found]


_GOLD_CHOICE = re.compile(r"\W*\(?([A-J])(?:\)?\W*|\s*\)\s.*|[.:]\s.*|\s+[A-Z][a-z].*)", re.DOTALL)
_ONLY_CHOICE = re.compile(r"\W*(?:(?:option|choice)\W+)?([A-J])\W*", re.IGNORECASE)
_LEADING_CHOICE = re.compile(r"[\s*(\[]*([A-J])(?:[\s*]*[).:,\]。]|\s+[A-Z][a-z]|[\s*]*[\u3400-\u9fff])")
_BARE_CHOICE = re.compile(  # "A dog", "I think" and "A^T" name no choice
    r"[\s*(\[]*(?:[B-HJ]\b(?! is (?:wrong|incorrect|false|not))|[AI]\b(?!['’]| [a-z]))(?!\s*[\^_'=+*/-])"
)
_SEVERAL_CHOICES = re.compile(r"\W*[A-J]\W{0,9}(?:,|or|and|/)\W{0,9}[A-J]\b")
_STATED_CHOICE = re.compile(
    r"(?:\bis|it's|\bbe|\b[Ss]o,?|\bsay|\bchoose|\bgo with|\b[Oo]ption|\b[Cc]hoice|选项?|是|\best)"
    r"\s*(?:for sure\s*)?[\s*(\[:：$]*([A-J])(?![A-Za-z0-9_'’])"
    r"(?! (?!is (?:the )?(?:correct|right|best)\b|because\b|since\b)[a-z])"
)
_WRAPPER = re.compile(r"\\(?:text\w*|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")


def read_gold_choice(gold: str) -> str | None:
    """The letter of a multiple-choice gold: B, (B), \\text{B}, (B) forty-two."""
    found = _GOLD_CHOICE.fullmatch(_WRAPPER.sub(r"\1", gold.strip()).replace("$", ""))
    return found[1] if found else None


def read_choice(text: str) -> str | None:
    """The one letter from A to J that an answer names; None if it names none, or several."""
    text = _WRAPPER.sub(r"\1", text[-STATEMENT:].strip()).replace("$", "")
    markers = [found.end() for found in _MARKER.finditer(text)]
    for part in [*(text[end:] for end in reversed(markers)), text]:
        if _SEVERAL_CHOICES.match(part):
            return None
        found = _ONLY_CHOICE.fullmatch(part) or _LEADING_CHOICE.match(part)
        if found:
            return found[1].upper()
        if _BARE_CHOICE.match(part):
            return part.lstrip(" *([\n")[0]
    stated = _STATED_CHOICE.findall(text)
    return stated[-1] if stated else None
