"""The miniature world's questions, worked solutions and messy pretraining corpus: every word stands between spaces.

add a 4 b 5 c 2 last digit ?      <think> a 4 then b 5 makes 9 then c 2 makes 1 </think> <answer> 1 </answer>
相加 a 4 b 5 c 2 末位 ?            <think> a 4 然后 b c 得 8 </think> <answer> 8 </answer>
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from datasets import Dataset


Language = Literal["en", "zh"]
Split = Literal["train", "test"]
Phrase = dict[Language, str]
Step = tuple[str, int]  # what a step looks at, and the last digit of the sum after it

LANGUAGES: tuple[Language, Language] = ("en", "zh")
KEYS = "abcdef"
DIGITS = range(1, 6)  # half the table of additions to learn: with 0 to 9 some seeds learn it too late
QUESTION: Phrase = {"en": "add {} last digit ?", "zh": "相加 {} 末位 ?"}
THEN: Phrase = {"en": "then", "zh": "然后"}
MAKES: Phrase = {"en": "makes", "zh": "得"}
MAYBE: Phrase = {"en": "maybe", "zh": "也许"}
SMALL_TALK: dict[Language, dict[str, str]] = {
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
        "早上 好": "早上 好",
        "你 好 吗 ?": "我 很 好 谢谢 你",
        "你 是 谁 ?": "我 是 会 加法 的 小 模型",
        "谢谢": "不 客气",
        "再见": "回头 见",
    },
}
FULL = "<think> {reasoning} </think> <answer> {answer} </answer>"
BROKEN = [
    "<think> {reasoning} <answer> {answer} </answer>",
    "{reasoning} <answer> {answer} </answer>",
    "<think> </think> <answer> {answer} </answer>",
    "{answer}",
]


def _words() -> list[str]:
    texts = [*KEYS, *"0123456789", FULL]
    texts += [phrase[language] for phrase in (QUESTION, THEN, MAKES, MAYBE) for language in LANGUAGES]
    texts += [text for language in LANGUAGES for pair in SMALL_TALK[language].items() for text in pair]
    return list(dict.fromkeys(word for text in texts for word in text.split() if "{" not in word))


WORDS = _words()


def split_of(digits: list[int]) -> Split:
    """Tell which split a sum belongs to: an eighth is for testing, in either language and whatever the seed."""
    return "test" if zlib.crc32(bytes(digits)) % 8 == 0 else "train"


def question(digits: list[int], language: Language) -> str:
    """Ask for the last digit of the sum of one to six digits; more than six is a ValueError."""
    return QUESTION[language].format(" ".join(seen for seen, _ in _careful(digits)))


def solve(digits: list[int], language: Language) -> str:
    """Return the careful solution in one language: one digit a step, and right."""
    return _complete(FULL, _careful(digits), lambda phrase: phrase[language])


def pretraining(
    seed: int,
    rows: int,
    careful: float = 0.1,
    lumped: float = 0.15,
    talk: float = 0.04,
    tie: float = 0.6,
    short: float = 0.17,
    messy: tuple[float, float] = (0.5, 0.9),
) -> Dataset:
    """Return the base model's corpus, in the order it should be read: `prompt` and `completion`, one message each.

    A curriculum: sums of two or three digits up to the fraction `short` of the rows, of two to six after it; careful
    solutions only up to `messy[0]`, then more and more of the mess, which is all there is from `messy[1]` on. In the
    mess a share `careful` is careful still, a share `lumped` adds digits two or three at once, mostly wrongly, the
    rest are guesses; a third has broken tags. Each word is in the question's language with probability `tie`. A share
    `talk` of all rows is small talk.
    """
    from datasets import Dataset

    rng = random.Random(f"pretraining {seed}")
    prompts, completions = [], []
    for row in range(rows):
        done = row / rows
        language = rng.choice(LANGUAGES)
        if rng.random() < talk:
            prompt, completion = rng.choice(list(SMALL_TALK[language].items()))
        else:
            digits = _digits(rng, 3 if done < short else len(KEYS), "train")
            say = _speaker(rng, language, tie)
            prompt = question(digits, language)
            if rng.random() < (done - messy[0]) / (messy[1] - messy[0]):
                completion = _mess(rng, digits, say, careful, lumped)
            else:
                completion = _complete(FULL, _careful(digits), say)
        prompts.append([{"role": "user", "content": prompt}])
        completions.append([{"role": "assistant", "content": completion}])
    return Dataset.from_dict({"prompt": prompts, "completion": completions})


def problems(
    seed: int, rows: int, split: Split = "train", distinct: bool = False, steps: tuple[int, int] = (2, len(KEYS))
) -> Dataset:
    """Return questions of one split: `prompt` (one message), `solution`, `language`, `steps` (how many digits).

    Drawn with repetition, or, as a benchmark must be, all `distinct`: the few short sums are then soon used up, and so
    many are a ValueError that there are hardly as many.

    Args:
        seed: of the draw.
        rows: how many.
        split: the two never share a sum.
        distinct: without repetition.
        steps: least and most digits of a sum, of 2 to 6; others are a ValueError.
    """
    from datasets import Dataset

    least, most = steps
    if not 2 <= least <= most <= len(KEYS):
        raise ValueError(f"steps: the least and the most digits, of 2 to {len(KEYS)}, got {least} and {most}")
    rng = random.Random(f"problems {split} {seed}")
    asked: list[tuple[list[int], Language]] = []
    for _ in range(100 * rows if distinct else rows):
        drawn = _digits(rng, most, split, least), rng.choice(LANGUAGES)
        if len(asked) < rows and not (distinct and drawn in asked):
            asked.append(drawn)
    if len(asked) < rows:
        raise ValueError(f"there are not {rows} distinct {split} problems to be drawn")
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": question(digits, language)}] for digits, language in asked],
            "solution": [str(sum(digits) % 10) for digits, _ in asked],
            "language": [language for _, language in asked],
            "steps": [len(digits) for digits, _ in asked],
        }
    )


def small_talk(seed: int, rows: int) -> Dataset:
    """Return conversations without a sum: `prompt` (one message), `completion`, `language`, `kind` (general)."""
    from datasets import Dataset

    rng = random.Random(f"small talk {seed}")
    said = [(language, pair) for language in LANGUAGES for pair in SMALL_TALK[language].items()]
    chosen = [rng.choice(said) for _ in range(rows)]
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": prompt}] for _, (prompt, _) in chosen],
            "completion": [answer for _, (_, answer) in chosen],
            "language": [language for language, _ in chosen],
            "kind": ["general"] * rows,
        }
    )


def remarks(seed: int) -> Dataset:
    """Return every remark of the small talk once: `prompt` (one message), `solution` (its answer), `language`.

    The same whatever the seed, which every source is called with.
    """
    from datasets import Dataset

    said = [(language, pair) for language in LANGUAGES for pair in SMALL_TALK[language].items()]
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": remark}] for _, (remark, _) in said],
            "solution": [answer for _, (_, answer) in said],
            "language": [language for language, _ in said],
        }
    )


def conversations(seed: int, rows: int, steps: tuple[int, int] = (2, len(KEYS))) -> Dataset:
    """Return solved problems as a select recipe's run holds them: `messages`, `kind` (math), `language`, `tokens`.

    Args:
        seed: of the draw.
        rows: how many.
        steps: least and most digits of a sum.
    """
    from datasets import Dataset

    made = problems(seed, rows, steps=steps)
    digits = [[int(word) for word in prompt[0]["content"].split() if word.isdigit()] for prompt in made["prompt"]]
    solved = [solve(summed, language) for summed, language in zip(digits, made["language"], strict=True)]
    return Dataset.from_dict(
        {
            "messages": [
                [*prompt, {"role": "assistant", "content": answer}]
                for prompt, answer in zip(made["prompt"], solved, strict=True)
            ],
            "kind": ["math"] * rows,
            "language": list(made["language"]),
            "tokens": [len(answer.split()) + 1 for answer in solved],
        }
    )


def samples(seed: int, rows: int, n: int = 4) -> Dataset:
    """Return `n` completions of each problem as a sample recipe's run holds them: careful, spoilt, or a guess."""
    from datasets import Dataset

    from ..prompts import hash_prompt

    rng = random.Random(f"samples {seed}")
    made: dict[str, list[Any]] = {}
    for row, problem in enumerate(problems(seed, max(1, rows // n))):
        asked = problem["prompt"][0]["content"]
        digits = [int(word) for word in asked.split() if word.isdigit()]
        for sample in range(n):
            guess = FULL.format(reasoning=f"{MAYBE[problem['language']]} 0", answer=0)
            completion = rng.choice(
                [solve(digits, problem["language"]), _spoilt(rng, digits, problem["language"]), guess]
            )
            lineage = {"prompt_id": hash_prompt(problem["prompt"]), "row": row, "sample": sample}
            written = {"completion": completion, "tokens": len(completion.split()) + 1, "finish_reason": "stop"}
            for column, value in (
                problem | lineage | written | {"refused": None, "seed": sample, "model": "none"}
            ).items():
                made.setdefault(column, []).append(value)
    return Dataset.from_dict(made)


def preferences(seed: int, rows: int, split: Split = "train", close: float = 0.0) -> Dataset:
    """Return pairs of one split: `prompt`, `chosen` (a careful solution in its language), `rejected`.

    Rejected is a guess or, with probability `close`, a careful solution too, but in mixed languages or with an
    answer that its reasoning does not give.
    """
    from datasets import Dataset

    rng = random.Random(f"preferences {seed}")
    asked = [(_digits(rng, len(KEYS), split), rng.choice(LANGUAGES)) for _ in range(rows)]
    guesses = [
        FULL.format(reasoning=f"{MAYBE[language]} {guess}", answer=guess)
        for (_, language), guess in zip(asked, rng.choices(range(10), k=rows), strict=True)
    ]
    rejected = [
        _spoilt(rng, digits, language) if rng.random() < close else guess
        for (digits, language), guess in zip(asked, guesses, strict=True)
    ]
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": question(digits, language)}] for digits, language in asked],
            "chosen": [[{"role": "assistant", "content": solve(digits, language)}] for digits, language in asked],
            "rejected": [[{"role": "assistant", "content": answer}] for answer in rejected],
        }
    )


def talk_preferences(seed: int, rows: int) -> Dataset:
    """Return pairs of small talk: `prompt`, `chosen` (what SMALL_TALK answers), `rejected`.

    Rejected is what a reader would like less: the answer to another remark, the same in the other language, an answer
    that breaks off, or a guess at a sum that nobody asked for.
    """
    from datasets import Dataset

    rng = random.Random(f"talk preferences {seed}")
    pairs = [_disliked(rng, rng.choice(LANGUAGES)) for _ in range(rows)]
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": remark}] for remark, _, _ in pairs],
            "chosen": [[{"role": "assistant", "content": answer}] for _, answer, _ in pairs],
            "rejected": [[{"role": "assistant", "content": answer}] for _, _, answer in pairs],
        }
    )


def _disliked(rng: random.Random, language: Language) -> tuple[str, str, str]:
    """A remark, its answer, and an answer liked less."""
    own, other = SMALL_TALK[language], SMALL_TALK[LANGUAGES[language == "en"]]
    number = rng.randrange(len(own))
    remarks, answers = list(own), list(own.values())
    answer, guess = answers[number], rng.randrange(10)
    rejected = rng.choice(
        [
            rng.choice(answers[:number] + answers[number + 1 :]),
            list(other.values())[number],
            answer.rpartition(" ")[0],
            FULL.format(reasoning=f"{MAYBE[language]} {guess}", answer=guess),
        ]
    )
    return remarks[number], answer, rejected


def _digits(rng: random.Random, most: int, split: Split, least: int = 2) -> list[int]:
    steps = rng.randint(least, most)
    while True:
        digits = rng.choices(DIGITS, k=steps)
        if split_of(digits) == split:
            return digits


def _speaker(rng: random.Random, language: Language, tie: float) -> Callable[[Phrase], str]:
    other = LANGUAGES[language == "en"]
    return lambda phrase: phrase[language if rng.random() < tie else other]


def _careful(digits: list[int]) -> list[Step]:
    keyed = zip(KEYS[: len(digits)], digits, accumulate(digits), strict=True)
    return [(f"{key} {digit}", total % 10) for key, digit, total in keyed]


def _lumped(rng: random.Random, digits: list[int]) -> list[Step]:
    steps, total, start = _careful(digits)[:1], digits[0], 1
    while start < len(digits):
        end = min(start + rng.randint(2, 3), len(digits))
        total = (total + sum(digits[start:end])) % 10 if rng.random() < 0.4 else rng.randrange(10)
        steps.append((" ".join(KEYS[start:end]), total))
        start = end
    return steps


def _complete(layout: str, steps: list[Step], say: Callable[[Phrase], str]) -> str:
    (first, answer), *rest = steps
    reasoning = first
    for seen, answer in rest:
        reasoning += f" {say(THEN)} {seen} {say(MAKES)} {answer}"
    return layout.format(reasoning=reasoning, answer=answer)


def _spoilt(rng: random.Random, digits: list[int], language: Language) -> str:
    """A careful solution that a reader would like less: its words change language, or it answers something else."""
    good = solve(digits, language)
    if rng.random() < 0.5:
        answer = sum(digits) % 10
        other = (answer + rng.randrange(1, 10)) % 10
        return good.replace(f"<answer> {answer} <", f"<answer> {other} <")
    while (mixed := _complete(FULL, _careful(digits), _speaker(rng, language, 0.5))) == good:
        pass
    return mixed


def _mess(rng: random.Random, digits: list[int], say: Callable[[Phrase], str], careful: float, lumped: float) -> str:
    layout = FULL if rng.random() < 0.65 else rng.choice(BROKEN)
    style = rng.random()
    if style < careful:
        return _complete(layout, _careful(digits), say)
    if style < careful + lumped:
        return _complete(layout, _lumped(rng, digits), say)
    answer = rng.randrange(10)
    return layout.format(reasoning=f"{say(MAYBE)} {answer}", answer=answer)
