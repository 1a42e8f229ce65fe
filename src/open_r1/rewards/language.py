"""The language of the reasoning.

Most languages differ by their script. Among languages of one script lingua decides, on a few sentences at a time: a
single word such as "table" or "Restaurant" belongs to many.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from ..errors import RecipeError
from .format import extract_reasoning

if TYPE_CHECKING:
    from lingua import LanguageDetector


_LATIN = "A-Za-zÀ-ÖØ-öø-ɏ\u0300-\u036fḀ-ỿ"
_CJK = "々〇\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134fぁ-ゖァ-ヺー"
# Script -> pattern of a word. Single letters are variables and list marks, except in scripts of syllables.
_LETTERS = {
    "latin": rf"[{_LATIN}]{{2,}}(?:['’][{_LATIN}]+)*",
    "cjk": rf"[{_CJK}]+",
    "cyrillic": r"[Ѐ-ԯ]{2,}",
    "hangul": r"[가-힣ᄀ-ᇿㄱ-ㆎ]+",
    "arabic": r"[ء-ٟٮ-ۓەۮۯۺ-ۿݐ-ݿ]{2,}",
    "devanagari": r"[\u0900-\u0963\u0971-\u097f]{2,}",
    "thai": r"[\u0e01-\u0e3a\u0e40-\u0e4e]+",
    "greek": r"[Ͱ-Ͽἀ-῿]{2,}",
    "hebrew": r"[\u05d0-\u05ea]{2,}",
    "bengali": r"[\u0980-\u09e3]{2,}",
    "tamil": r"[\u0b80-\u0be5]{2,}",
    "telugu": r"[\u0c00-\u0c65]{2,}",
    "gujarati": r"[\u0a81-\u0ae5]{2,}",
    "armenian": r"[\u0531-\u0587]{2,}",
    "georgian": r"[\u10a0-\u10ff]{2,}",
}
# Each branch begins with a fixed character, which makes the search fast, and an unclosed formula ends its paragraph.
_MARKUP = re.compile(
    r"""
    ```.*?(?:```|\Z) | `[^`\n]*`
    | \$\$.*?(?:\$\$|\n\n|\Z) | \\\[.*?(?:\\\]|\n\n|\Z) | \\\(.*?(?:\\\)|\n\n|\Z)
    | \\begin\{(\w+\*?)\}.*?(?:\\end\{\1\}|\n\n|\Z)
    | \$(?=\S)[^$\n]+(?<=\S)\$(?!\d)            # but not the text in "$5 and then $6"
    | \\[A-Za-z]+(?:\{[^{}]*\})*
    | </?\w[\w-]*\s*/?> | <[|｜][^<>\s]*[|｜]>  # tags and special tokens
    | https?://[!-~]+ | www\.[!-~]+
    """,
    re.S | re.X,
)
# Text that looks like a word but is none.
_SYMBOL = rf"""
    [A-Za-z_][A-Za-z0-9_]*\([^()\s]*\)                                          # f(x)
    | [A-Za-z]*[0-9_][A-Za-z0-9_]*(?:[ ][A-Za-z]{{1,2}}(?![{_LATIN}]))?          # x1, max_value, 60 km
    | [A-Za-z]+(?:\.[a-z][A-Za-z]*)+                                             # np.array
    | [a-z]+[A-Z][A-Za-z]*                                                       # maxValue
    | (?<![A-Za-z][ ])[A-Z]{{2,5}}(?![{_LATIN}]|[ ][A-Za-z])                     # 三角形ABC, but not "THE ANSWER IS"
"""
_WORD = re.compile(
    rf"(?P<symbol>{_SYMBOL})|{'|'.join(f'(?P<{s}>{p})' for s, p in _LETTERS.items())}|(?P<end>[.!?。！？؟।…\n]+)", re.X
)
_KANA = re.compile(r"[ぁ-ゖァ-ヺ]")

# script -> ISO 639-1 codes.
LANGUAGES = {
    "latin": (
        *("en", "fr", "de", "es", "it", "pt", "nl", "sv", "da"),
        *("nb", "fi", "pl", "cs", "ro", "hu", "tr", "vi", "id"),
    ),
    "cjk": ("zh", "ja"),
    "cyrillic": ("ru", "uk", "bg"),
    "hangul": ("ko",),
    "arabic": ("ar", "fa", "ur"),
    "devanagari": ("hi", "mr"),
    "thai": ("th",),
    "greek": ("el",),
    "hebrew": ("he",),
    "bengali": ("bn",),
    "tamil": ("ta",),
    "telugu": ("te",),
    "gujarati": ("gu",),
    "armenian": ("hy",),
    "georgian": ("ka",),
}  # fmt: skip
_SCRIPT = {language: script for script, languages in LANGUAGES.items() for language in languages}

# Letters per word in languages without spaces. zh: 1.66 by a segmenter on MGSM, 1.54 for an English word of the
# parallel text; ja: 1.74 (morphemes) and 2.31; th: a rule of thumb.
_LETTERS_PER_WORD = {"zh": 1.6, "ja": 2.0, "th": 4.5}

# Letters of different words that lingua needs; with fewer it errs on 1 in 9 sentences of MGSM, with more on 1 in 100.
ENOUGH = 40
SAMPLED = 128  # most stretches of a text that lingua reads, at 0.2 ms each
# A stretch is foreign if the target's confidence is below this. It is low because of names and cognates.
DOUBT = 0.01
# Confidence that a prompt's language needs; 10 of 7,474 English problems of MATH are then mistaken.
SURE = 0.99


def language_consistency(completion: str, prompt: str, *, language: str | None = None) -> float | None:
    """Share of the words in the reasoning that are in the target language (R1 eq. 7).

    Args:
        completion: the whole completion.
        prompt: the question; its language is the target, unless `language` is given.
        language: the target as an ISO 639-1 code (`en`, `zh-CN`).

    Returns:
        the share; None without a word in the reasoning, or in a prompt that sets the target.

    Raises:
        RecipeError: a language that is not in `LANGUAGES`.
    """
    target = language or detect_language(prompt)
    return None if target is None else measure_language(completion, target)


def measure_language(completion: str, language: str) -> float | None:
    """Share of the words in the reasoning that are in `language`; None without any word.

    R1 eq. 7: Num(Words_target) / Num(Words), over the chain of thought. Tags, code, formulas, numbers, identifiers and
    single letters are not words. Text too short to decide between languages of one script counts as the target's. For
    long texts the share within the target's script is estimated from `SAMPLED` stretches, always the same ones.

    Args:
        completion: the whole completion; the reasoning is the text before the last `</think>`.
        language: an ISO 639-1 code, with or without a region; or a script, for all its languages.

    Raises:
        RecipeError: a language that is not in `LANGUAGES`.
    """
    target = _check_language(language)
    sentences = list(_split_sentences(extract_reasoning(completion)))
    counts = _count_words(sentences)
    if not counts:
        return None
    mine = counts[target]
    script = _SCRIPT.get(target)
    if script and counts[script]:
        mine = counts[script] * _estimate_share([words[script] for words in sentences if script in words], target)
    return mine / counts.total()


@lru_cache(maxsize=4096)
def detect_language(prompt: str) -> str | None:
    """The language of most words of a prompt, as an ISO 639-1 code; None without a word.

    For a prompt too short to decide between languages of one script, the script (a key of `LANGUAGES`): "Compute",
    which precedes many formulas, is not Chinese, but may be English or French.
    """
    sentences = list(_split_sentences(prompt))
    counts = _count_words(sentences)
    if not counts:
        return None
    most = max(counts, key=counts.__getitem__)
    if most not in LANGUAGES:
        return most
    words = [word for sentence in sentences for word in sentence.get(most, ())]
    confidences = _compute_confidences(words)
    return next((language for language, value in confidences.items() if value >= SURE), most)


def _check_language(language: str) -> str:
    code = re.split("[-_]", language.lower())[0]
    if code not in _SCRIPT and code not in LANGUAGES:
        raise RecipeError(f"language: {language!r} is not known; give one of {', '.join(sorted(_SCRIPT))}")
    return code


def _split_sentences(text: str) -> Iterator[dict[str, list[str]]]:
    """The words of each sentence, by script."""
    words: dict[str, list[str]] = {}
    for match in _WORD.finditer(_MARKUP.sub(" ", text)):
        if match.lastgroup == "end":
            if words:
                yield words
            words = {}
        elif match.lastgroup != "symbol":
            words.setdefault(match.lastgroup, []).append(match[0])
    if words:
        yield words


def _count_words(sentences: list[dict[str, list[str]]]) -> Counter[str]:
    """Number of words by language if the script has only one, else by script."""
    counts: Counter[str] = Counter()
    for words in sentences:
        for script, found in words.items():
            kind = LANGUAGES[script][0] if len(LANGUAGES[script]) == 1 else script
            if script == "cjk":
                letters = "".join(found)
                # Japanese is about half kana; one の does not make a Chinese sentence Japanese.
                kind = "ja" if 10 * len(_KANA.findall(letters)) >= len(letters) else "zh"
            per_word = _LETTERS_PER_WORD.get(kind)
            counts[kind] += sum(max(1, round(len(w) / per_word)) for w in found) if per_word else len(found)
    return counts


def _estimate_share(sentences: list[list[str]], target: str) -> float:
    """Share of the words of one script that are in `target`, one of its languages."""
    stretches = _join_sentences(sentences)
    if len(stretches) > SAMPLED:
        # A random one from each part of the text: of two languages that alternate, even spacing may see only one.
        pick, parts = random.Random(0), [i * len(stretches) // SAMPLED for i in range(SAMPLED + 1)]
        stretches = [stretches[pick.randrange(*part)] for part in pairwise(parts)]
    mine = sum(len(words) for words in stretches if _may_be(words, target))
    return mine / sum(map(len, stretches))


def _join_sentences(sentences: list[list[str]]) -> list[list[str]]:
    """Stretches of neighbouring sentences, each with enough different words to decide on its language."""
    stretches: list[list[str]] = []
    stretch: list[str] = []
    different: set[str] = set()
    for words in sentences:
        stretch.extend(words)
        different.update(words)
        if sum(map(len, different)) >= ENOUGH:  # repeated words count once
            stretches.append(stretch)
            stretch, different = [], set()
    if stretches:
        stretches[-1].extend(stretch)
        return stretches
    return [stretch]


def _may_be(words: list[str], target: str) -> bool:
    if sum(map(len, set(words))) < ENOUGH:
        return True
    return _compute_confidences(words).get(target, 0.0) >= DOUBT


def _compute_confidences(words: list[str]) -> dict[str, float]:
    """lingua's confidence in each language, by ISO 639-1 code; the sum is 1, or 0 if lingua cannot decide."""
    text = " ".join(words)[:1000]  # lingua takes 2 ms for it
    values = _load_detector().compute_language_confidence_values(text)
    return {v.language.iso_code_639_1.name.lower(): v.value for v in values if v.value > 0}


@cache
def _load_detector() -> LanguageDetector:
    # Trigrams only: 33 MB and 0.3 s to load instead of over 500 MB and 4 s, and as good on stretches of this length.
    from lingua import IsoCode639_1, LanguageDetectorBuilder

    several = [code for languages in LANGUAGES.values() if len(languages) > 1 for code in languages]
    codes = [IsoCode639_1.from_str(code) for code in several if _SCRIPT[code] != "cjk"]
    return LanguageDetectorBuilder.from_iso_codes_639_1(*codes).with_low_accuracy_mode().build()
