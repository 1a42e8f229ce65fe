"""The miniature's questions, worked solutions and pretraining corpus, with a space between all words.

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
Step = tuple[str, int]  # the keys that a step adds, and the last digit of the sum after it

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
TALK = [(language, *pair) for language in LANGUAGES for pair in SMALL_TALK[language].items()]
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
    texts += [text for _, *pair in TALK for text in pair]
    return list(dict.fromkeys(word for text in texts for word in text.split() if "{" not in word))


WORDS = _words()


def split_of(digits: list[int]) -> Split:
    """The split of a sum: an eighth of all sums is `test`, in both languages and for all seeds."""
    return "test" if zlib.crc32(bytes(digits)) % 8 == 0 else "train"


def question(digits: list[int], language: Language) -> str:
    """The question for the last digit of the sum of one to six digits; more digits raise a ValueError.

    >>> question([4, 5, 2], "en")
    'add a 4 b 5 c 2 last digit ?'
    """
    return QUESTION[language].format(" ".join(seen for seen, _ in _careful(digits)))


def solve(digits: list[int], language: Language) -> str:
    """The correct solution in one language, with one step for each digit."""
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
    """The base model's corpus, in the order of training: `prompt` and `completion`, one message each.

    It is a curriculum. Up to the fraction `short` of the rows, sums have two or three digits; after it, two to six.
    Up to the fraction `messy[0]` all solutions are careful; then messy ones become more frequent, and from `messy[1]`
    on there are no others.

    Args:
        seed: seed of the draw.
        rows: number of rows.
        careful: share of messy solutions that add one digit at a time.
        lumped: share of messy solutions that add two or three digits at once, mostly wrongly; the rest are guesses.
            A third of all messy solutions has broken tags.
        talk: share of small talk in all rows.
        tie: probability that a word is in the question's language.
        short: fraction of the rows, see above.
        messy: fractions of the rows, see above.
    """
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
        prompts.append(_ask(prompt))
        completions.append(_answer(completion))
    return _build_dataset(prompt=prompts, completion=completions)


def problems(
    seed: int, rows: int, split: Split = "train", distinct: bool = False, steps: tuple[int, int] = (2, len(KEYS))
) -> Dataset:
    """Questions of one split: `prompt` (one message), `solution`, `language`, `steps` (number of digits).

    Args:
        seed: seed of the draw.
        rows: number of questions.
        split: `train` or `test`, which share no sum.
        distinct: draw without repetition, as a benchmark needs.
        steps: least and most digits of a sum, from 2 to 6.

    Raises:
        ValueError: `steps` is out of range, or there are not enough distinct questions.
    """
    least, most = steps
    if not 2 <= least <= most <= len(KEYS):
        raise ValueError(f"steps: the least and the most digits, of 2 to {len(KEYS)}, got {least} and {most}")
    rng = random.Random(f"problems {split} {seed}")
    sums: list[tuple[list[int], Language]] = []
    for _ in range(100 * rows if distinct else rows):
        drawn = _digits(rng, most, split, least), rng.choice(LANGUAGES)
        if len(sums) < rows and not (distinct and drawn in sums):
            sums.append(drawn)
    if len(sums) < rows:
        raise ValueError(f"there are not {rows} distinct {split} problems to draw")
    return _build_dataset(
        prompt=[_ask(question(digits, language)) for digits, language in sums],
        solution=[str(sum(digits) % 10) for digits, _ in sums],
        language=[language for _, language in sums],
        steps=[len(digits) for digits, _ in sums],
    )


def small_talk(seed: int, rows: int) -> Dataset:
    """Conversations without a sum: `prompt` (one message), `completion`, `language`, `kind` (general)."""
    rng = random.Random(f"small talk {seed}")
    chosen = [rng.choice(TALK) for _ in range(rows)]
    return _build_dataset(
        prompt=[_ask(remark) for _, remark, _ in chosen],
        completion=[answer for _, _, answer in chosen],
        language=[language for language, _, _ in chosen],
        kind=["general"] * rows,
    )


def remarks(seed: int) -> Dataset:
    """Every remark of the small talk once: `prompt` (one message), `solution` (its answer), `language`.

    The seed, which all sources get, changes nothing.
    """
    return _build_dataset(
        prompt=[_ask(remark) for _, remark, _ in TALK],
        solution=[answer for _, _, answer in TALK],
        language=[language for language, _, _ in TALK],
    )


def conversations(seed: int, rows: int, steps: tuple[int, int] = (2, len(KEYS))) -> Dataset:
    """Solved problems in the columns of a select run: `messages`, `kind` (math), `language`, `tokens`.

    Args:
        seed: seed of the draw.
        rows: number of problems.
        steps: least and most digits of a sum.
    """
    made = problems(seed, rows, steps=steps)
    solved = [solve(_read_digits(row["prompt"]), row["language"]) for row in made]
    return _build_dataset(
        messages=[[*prompt, *_answer(answer)] for prompt, answer in zip(made["prompt"], solved, strict=True)],
        kind=["math"] * rows,
        language=list(made["language"]),
        tokens=[len(answer.split()) + 1 for answer in solved],
    )


def samples(seed: int, rows: int, n: int = 4) -> Dataset:
    """`n` completions of each problem in the columns of a sample run: careful, spoilt, or guesses."""
    from ..prompts import hash_prompt

    rng = random.Random(f"samples {seed}")
    made: dict[str, list[Any]] = {}
    for row, problem in enumerate(problems(seed, max(1, rows // n))):
        digits = _read_digits(problem["prompt"])
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
    return _build_dataset(**made)


def preferences(seed: int, rows: int, split: Split = "train", close: float = 0.0) -> Dataset:
    """Preference pairs of one split: `prompt`, `chosen` (a careful solution in its language), `rejected`.

    The rejected side is a guess or, with probability `close`, a careful solution in mixed languages or with an answer
    that its reasoning does not give.
    """
    rng = random.Random(f"preferences {seed}")
    sums = [(_digits(rng, len(KEYS), split), rng.choice(LANGUAGES)) for _ in range(rows)]
    guesses = [
        FULL.format(reasoning=f"{MAYBE[language]} {guess}", answer=guess)
        for (_, language), guess in zip(sums, rng.choices(range(10), k=rows), strict=True)
    ]
    rejected = [
        _spoilt(rng, digits, language) if rng.random() < close else guess
        for (digits, language), guess in zip(sums, guesses, strict=True)
    ]
    return _build_dataset(
        prompt=[_ask(question(digits, language)) for digits, language in sums],
        chosen=[_answer(solve(digits, language)) for digits, language in sums],
        rejected=[_answer(answer) for answer in rejected],
    )


def talk_preferences(seed: int, rows: int) -> Dataset:
    """Preference pairs of small talk: `prompt`, `chosen` (the answer in SMALL_TALK), `rejected`.

    The rejected side is the answer to another remark, the answer in the other language, an incomplete answer, or a
    guess at a sum that was not asked for.
    """
    rng = random.Random(f"talk preferences {seed}")
    pairs = [_disliked(rng, rng.choice(LANGUAGES)) for _ in range(rows)]
    return _build_dataset(
        prompt=[_ask(remark) for remark, _, _ in pairs],
        chosen=[_answer(answer) for _, answer, _ in pairs],
        rejected=[_answer(answer) for _, _, answer in pairs],
    )


def _disliked(rng: random.Random, language: Language) -> tuple[str, str, str]:
    """A remark, its answer, and a worse answer."""
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


def _build_dataset(**columns: list[Any]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_dict(columns)


def _ask(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _read_digits(prompt: list[dict[str, str]]) -> list[int]:
    return [int(word) for word in prompt[0]["content"].split() if word.isdigit()]


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
    """A careful solution made worse: in mixed languages, or with another answer."""
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
