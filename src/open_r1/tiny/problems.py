"""Questions, worked solutions and the messy pretraining corpus of the miniature world."""

from __future__ import annotations

import random
import zlib
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from datasets import Dataset

Language = Literal["en", "zh"]

KEYS = "abcdef"
LANGUAGES: tuple[Language, ...] = ("en", "zh")
QUESTION = {"en": "add {} last digit ?", "zh": "相加 {} 末位 ?"}
THEN = {"en": "then", "zh": "然后"}
MAKES = {"en": "makes", "zh": "得"}
MAYBE = {"en": "maybe", "zh": "也许"}
SMALL_TALK = {
    "en": {
        "hello": "hi nice to meet you",
        "good morning": "good morning to you",
        "how are you ?": "very well thank you",
        "who are you ?": "a tiny model that can add",
        "thank you": "you are welcome",
        "good bye": "see you soon",
    },
    "zh": {
        "你好": "你好 很 高兴 见到 你",
        "早上 好": "你 早上 好",
        "你 好 吗 ?": "我 很 好 谢谢 你",
        "你 是 谁 ?": "我 是 会 加法 的 小 模型",
        "谢谢": "不 客气",
        "再见": "回头 见",
    },
}
TAGS = ["<think>", "</think>", "<answer>", "</answer>"]


def _words() -> list[str]:
    texts = [*QUESTION.values(), *THEN.values(), *MAKES.values(), *MAYBE.values()]
    texts += [text for talk in SMALL_TALK.values() for pair in talk.items() for text in pair]
    words = [*TAGS, *KEYS, *"0123456789", *(word for text in texts for word in text.replace("{}", "").split())]
    return list(dict.fromkeys(words))


WORDS = _words()


def split_of(digits: list[int]) -> Literal["train", "test"]:
    """Tell which split a sum belongs to, from its digits alone: its translations and every seed agree."""
    return "test" if zlib.crc32(bytes(digits)) % 8 == 0 else "train"


def _digits(rng, steps, split):
    while True:
        digits = [rng.randrange(10) for _ in range(steps)]
        if split_of(digits) == split:
            return digits


def question(digits: list[int], language: Language) -> str:
    return QUESTION[language].format(" ".join(f"{key} {digit}" for key, digit in zip(KEYS, digits)))


def _mixed(rng, language, tie):
    other = LANGUAGES[language == "en"]
    return lambda words: words[language if rng.random() < tie else other]


def chain(digits, say, widths=None, slip=lambda width: False, rng=None):
    """careful when widths is None"""
    text = f"{KEYS[0]} {digits[0]}"
    total, i = digits[0], 1
    for width in widths or [1] * (len(digits) - 1):
        total = (total + sum(digits[i : i + width])) % 10
        if rng and slip(width):
            total = rng.randrange(10)
        seen = f"{KEYS[i]} {digits[i]}" if width == 1 else " ".join(KEYS[i : i + width])
        text += f" {say(THEN)} {seen} {say(MAKES)} {total}"
        i += width
    return text, total


def solve(digits: list[int], language: Language) -> str:
    reasoning, total = chain(digits, lambda words: words[language])
    return f"<think> {reasoning} </think> <answer> {total} </answer>"


def _row(q, c):
    return {"prompt": [{"role": "user", "content": q}], "completion": [{"role": "assistant", "content": c}]}


def _messy(rng, digits, say, careful, lumped):
    style = rng.random()
    if style < careful:
        reasoning, answer = chain(digits, say)
    elif style < careful + lumped:
        widths = []
        left = len(digits) - 1
        while left:
            widths.append(min(left, rng.randint(2, 3)))
            left -= widths[-1]
        reasoning, answer = chain(digits, say, widths, lambda w: w > 1 and rng.random() < 0.6, rng)
    else:
        answer = rng.randrange(10)
        reasoning = f"{say(MAYBE)} {answer}"
    layout = rng.random()
    if layout < 0.65:
        return f"<think> {reasoning} </think> <answer> {answer} </answer>"
    return rng.choice(
        [
            f"<think> {reasoning} <answer> {answer} </answer>",
            f"{reasoning} <answer> {answer} </answer>",
            f"<think> </think> <answer> {answer} </answer>",
            f"{answer}",
        ]
    )


def pretraining(
    seed: int,
    rows: int,
    careful: float = 0.08,
    lumped: float = 0.25,
    short: float = 0.35,
    messy: tuple = (0.5, 0.9),
    maybe_right=0.1,
    talk: float = 0.04,
    tie: float = 0.6,
    lo: int = 2,
    hi: int = 6,
    block: int = 64,
) -> Dataset:
    from datasets import Dataset

    rng = random.Random(f"pretraining {seed}")
    out = []
    for b in range(0, rows, block):
        t = b / rows
        for _ in range(min(block, rows - b)):
            language = rng.choice(LANGUAGES)
            if rng.random() < talk:
                out.append(_row(*rng.choice(list(SMALL_TALK[language].items()))))
                continue
            steps = rng.randint(lo, (3 if t < short else hi) if short >= 0 else min(hi, lo + 1 + int((hi - lo) * t / -short)))
            digits = _digits(rng, steps, "train")
            say = _mixed(rng, language, tie)
            if rng.random() >= min(1, max(0, (t - messy[0]) / (messy[1] - messy[0]))):
                r, a = chain(digits, say)
                c = f"<think> {r} </think> <answer> {a} </answer>"
            else:
                c = _messy(rng, digits, say, careful, lumped)
            out.append(_row(question(digits, language), c))
    return Dataset.from_list(out)


def problems(seed: int, rows: int, split: str, lo: int = 2, hi: int = 6) -> Dataset:
    from datasets import Dataset

    rng = random.Random(f"problems {split} {seed}")
    out = []
    for _ in range(rows):
        language = rng.choice(LANGUAGES)
        digits = _digits(rng, rng.randint(lo, hi), split)
        out.append(
            {
                "prompt": [{"role": "user", "content": question(digits, language)}],
                "solution": str(sum(digits) % 10),
                "language": language,
                "steps": len(digits),
            }
        )
    return Dataset.from_list(out)
