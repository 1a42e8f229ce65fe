"""In which language is the reasoning written?"""

from __future__ import annotations

import re

# A word: a run of Han characters, or of two or more letters (single letters are variables and list marks).
_WORD = re.compile(r"(?P<zh>[\u3400-\u9fff]+)|(?P<en>[A-Za-z]{2,})")
_TAG = re.compile(r"</?\w+>")


def language_share(completion: str, language: str) -> float | None:
    """Share of the words in the reasoning that are of `language` ("en" or "zh"); None without any word.

    R1 eq. 7: Num(Words_target) / Num(Words), over the chain of thought. Reasoning is what stands before `</think>`.
    """
    reasoning = _TAG.sub(" ", completion.split("</think>", 1)[0])
    kinds = [match.lastgroup for match in _WORD.finditer(reasoning)]
    return kinds.count(language) / len(kinds) if kinds else None
