"""Rewards for repetition and for explicit steps of reasoning."""

from __future__ import annotations

import re

from ..errors import RecipeError
from .format import TAGS, extract_reasoning

# Scripts without spaces: Han and its marks, kana, Thai, Lao, Burmese, Khmer. Two characters count as a word: by single
# characters, the Chinese problems of MGSM repeat 3 times as many of their trigrams as the English ones.
_SPACELESS = "々〇\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134fぁ-ゖァ-ヺー\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
WORD = re.compile(rf"[{_SPACELESS}]{{1,2}}|[^\s{_SPACELESS}]+")
_TAG = re.compile("|".join(TAGS))

_NUMBER = r"[一二三四五六七八九十\d]{1,3}"
_ITEM = rf"^[ \t]*(?:[-*+•][ \t]+|\#{{1,6}}[ \t]+|\(?\d{{1,3}}(?:[.):](?!\d)|[、）])[ \t]*|[①-⑳]|{_NUMBER}、)"
_ORDINAL = r"(?:first(?:ly|[ ]of[ ]all|[ ]off)?|second(?:ly)?|third(?:ly)?|next|finally|lastly)[ \t]*[,:]"
_CHINESE = rf"第{_NUMBER}步|步骤[ \t]*{_NUMBER}|第{_NUMBER}[，,、：:]|首先|其次|再次|接着|接下来|最后"
_WORDS = rf"(?:step[ \t]*\d{{1,3}}\b|{_ORDINAL}|{_CHINESE})"
# A mark opens a line or a sentence. "2. First, ..." is one mark, "In the first place" none.
_STEP = re.compile(rf"(?:{_ITEM}\**(?:{_WORDS})?|(?:^[ \t]*|(?<=[.!?;][ ])|(?<=[。！？；]))\**{_WORDS})", re.I | re.M)


def repetition(completion: str, *, ngram: int = 3, max_penalty: float = -1.0) -> float:
    """`max_penalty` times the share of repeated n-grams of words; 0.0 without any n-gram.

    (1 - unique / all) * max_penalty, "Demystifying Long Chain-of-Thought Reasoning" (arXiv 2502.03373, appendix C.2),
    over lower-case words in place of tokens: stored answers have no tokens, and a tokenizer splits one word in several
    ways. In scripts without spaces two characters are a word.

    Raises:
        RecipeError: `ngram` is less than 1, or `max_penalty` is positive.
    """
    if ngram < 1:
        raise RecipeError(f"repetition: ngram {ngram} must be at least 1")
    if max_penalty > 0:
        raise RecipeError(f"repetition: max_penalty {max_penalty} must not be positive")
    words = WORD.findall(_TAG.sub(" ", completion).lower())
    ngrams = list(zip(*(words[i:] for i in range(ngram)), strict=False))
    return (1 - len(set(ngrams)) / len(ngrams)) * max_penalty if ngrams else 0.0


def reasoning_steps(completion: str, *, wanted: int = 3) -> float:
    """The explicit steps of the reasoning as a share of `wanted`, at most 1.0.

    A step is a numbered line, a bullet, a heading, "Step 2", or a sentence opened by "First,", "Next,", "Finally,",
    第二步, 首先, 接下来, 最后 and the like. Equal steps count once, and the answer does not count.

    Raises:
        RecipeError: `wanted` is less than 1.
    """
    if wanted < 1:
        raise RecipeError(f"reasoning_steps: wanted {wanted} must be at least 1")
    texts = _STEP.split(_TAG.sub(" ", extract_reasoning(completion)))[1:]
    steps = {" ".join(re.findall(r"\w+", text.lower())) for text in texts} - {""}
    return min(1.0, len(steps) / wanted)
