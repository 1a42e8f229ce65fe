"""The steps of a selection: small functions by name, each with its parameters in the recipe.

The first argument tells the two kinds apart. `completion` begins a row filter,
`f(completion, <columns>, *, <parameters>) -> str | None`: None keeps the sample, a text says why it goes. `samples`
begins a group filter, `f(samples, *, <parameters>) -> list[str | None]`: it is given all samples of one prompt that
are left, ordered by (sample, row), and says the same of each. Columns without a default must be in the data;
keyword-only arguments are parameters, and those without a default must be given.

A reason is counted, so it names the cause and not the case. Nothing here imports torch or datasets.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import lru_cache
from typing import Any, Literal

from ..errors import RecipeError, suggest_nearest
from ..rewards import repetition
from ..rewards.format import extract_reasoning, think_answer_format, think_format
from ..rewards.language import LANGUAGES, detect_language, measure_language
from ..rewards.math.extraction import extract_answer
from ..rewards.math.scorers import compute_vote_key

Row = dict[str, Any]

_FENCE = re.compile(r"```|^[ \t]*~~~", re.MULTILINE)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")


def count_words(text: str) -> list[str]:
    """Words by white space; in scripts without spaces two characters are one, as for the repetition reward."""
    return repetition.WORD.findall(text)


def read_score(row: Row, metric: str) -> float | None:
    """A sample's score by a reward; None if it has none."""
    return (row.get("scores") or {}).get(metric)


def read_cause(reason: str) -> str:
    """What a verdict's reason begins with: it names the cause first and, after a colon, the case."""
    return reason.split(": ")[0]


def measure_lengths(samples: list[Row]) -> list[int]:
    """Tokens of each sample; characters of all if the tokens of one are not known."""
    tokens = [row.get("tokens") for row in samples]
    return [len(row["completion"]) for row in samples] if None in tokens else tokens


def correct(completion: str, verdict: str, reason: str) -> str | None:
    """Only what was judged correct; what could not be judged goes as well, but not as wrong."""
    if verdict in ("correct", "wrong"):
        return None if verdict == "correct" else "wrong"
    return f"{verdict}: {read_cause(reason)}" if verdict else "not judged"


def finished(completion: str, finish_reason: str | None = None) -> str | None:
    """Not cut off at the length limit, and without a `<think>` that is never closed."""
    if finish_reason == "length":
        return "truncated"
    return "reasoning never closed" if "<think>" in completion and "</think>" not in completion else None


def has_answer(completion: str) -> str | None:
    """A final answer can be read from it, as the accuracy reward reads it."""
    return None if extract_answer(completion) else "no final answer"


def well_formed(
    completion: str, *, format: Literal["think_format", "think_answer_format"] = "think_format"
) -> str | None:
    """The tags are all there, in order, with text in them, by that format reward."""
    judge = {"think_format": think_format, "think_answer_format": think_answer_format}[format]
    return None if judge(completion) == 1.0 else "malformed tags"


def one_language(
    completion: str,
    prompt: str,
    language: str | None = None,
    *,
    min_share: float = 0.9,
    min_script_share: float = 0.998,
) -> str | None:
    """The reasoning is in one language: the row's `language`, or else the prompt's.

    For a prompt without words it is the one that most of the reasoning is in. Reasoning without words is in no other
    language. Foreign scripts are counted exactly; languages of one script are told apart by an estimate that takes up
    to a tenth of an English chain full of names for something else.

    Args:
        completion: the whole completion.
        prompt: the question.
        language: of the row.
        min_share: of the words, that are of the language.
        min_script_share: of the words, that are of its script, where the prompt has no other.
    """
    target = language or detect_language(prompt) or detect_language(extract_reasoning(completion))
    if target is None:
        return None
    try:
        script = counted_as(target)
        of_script = measure_language(completion, script)
        if of_script is None:
            return None
        if of_script < min_script_share and _only(prompt, script):
            return "mixed scripts"
        share = of_script if script == target else measure_language(completion, target)
    except RecipeError:  # the row's own mistake
        return "unknown language"
    return None if share >= min_share else "mixed languages"


@lru_cache(maxsize=4096)
def _only(text: str, script: str) -> bool:
    """True if all words of a text, if any, are of one script."""
    return measure_language(text, script) in (None, 1.0)


def counted_as(language: str) -> str:
    """What tells words of a language apart without an estimate: its script, or itself if it shares it with none.

    Raises:
        RecipeError: a language that is not known.
    """
    code = re.split("[-_]", language.lower())[0]
    script = next((script for script, languages in LANGUAGES.items() if code == script or code in languages), None)
    if script is None:
        raise RecipeError(f"language: {language!r} is not known")
    # Chinese and Japanese are told apart by the kana.
    return code if script == "cjk" or len(LANGUAGES[script]) == 1 else script


def short_paragraphs(completion: str, *, max_words: int = 300) -> str | None:
    """No paragraph of the reasoning, between blank lines, is longer."""
    paragraphs = _BLANK_LINE.split(extract_reasoning(completion).replace("<think>", " "))
    # Most are too short to need counting: a word has at least one character.
    long = any(len(paragraph) > max_words and len(count_words(paragraph)) > max_words for paragraph in paragraphs)
    return "long paragraph" if long else None


def no_code_in_reasoning(completion: str) -> str | None:
    """No fenced code block in the reasoning; the answer may have one."""
    return "code in the reasoning" if _FENCE.search(extract_reasoning(completion)) else None


def little_repetition(completion: str, *, max_share: float = 0.5, ngram: int = 3) -> str | None:
    """At most this share of the n-grams of words has occurred before."""
    share = repetition.repetition(completion, ngram=ngram, max_penalty=-1.0)
    return "repetition" if -share > max_share else None


def length(completion: str, tokens: int | None, *, min: int | None = None, max: int | None = None) -> str | None:
    """Between these numbers of tokens, bounds included."""
    if tokens is None:
        return "unknown length"
    if min is not None and tokens < min:
        return "too short"
    return "too long" if max is not None and tokens > max else None


def min_reward(completion: str, scores: dict[str, float | None] | None, *, reward: str, min: float) -> str | None:
    """A reward of the recipe is at least this; without a score of it there is no evidence, and the sample goes."""
    found = (scores or {}).get(reward)
    if found is None:
        return f"no {reward} score"
    return None if found >= min else f"{reward} too low"


def pass_rate(samples: list[Row], *, min: float | None = None, max: float | None = None) -> list[str | None]:
    """Prompts whose share of right samples lies between the bounds, which are included.

    The share is right / (right + wrong) over all samples that were drawn, whatever filters came before; samples
    without a verdict are no evidence. Without a bound, prompts that are never, or always, solved go (DAPO's dynamic
    sampling, arXiv 2503.14476, eq. 11).
    """
    rate = samples[0]["pass_rate"]
    if rate is None:
        reason = "no judged sample"
    elif rate == 0 and min is None:
        reason = "never solved"
    elif rate == 1 and max is None:
        reason = "always solved"
    elif min is not None and rate < min:
        reason = "too seldom solved"
    elif max is not None and rate > max:
        reason = "too often solved"
    else:
        reason = None
    return [reason] * len(samples)


def majority(samples: list[Row], *, min_share: float = 0.0) -> list[str | None]:
    """Samples whose final answer is that of most; of two answers as frequent, the one that was given first.

    Args:
        samples: those that are left vote.
        min_share: of the votes, that the answer must have.
    """
    answers = [extract_answer(row["completion"]) for row in samples]
    keys = [compute_vote_key(answer) if answer else None for answer in answers]
    votes = Counter(key for key in keys if key is not None)
    if not votes:
        return ["no final answer"] * len(samples)
    winner, most = votes.most_common(1)[0]  # ties in the order in which they were first met
    if most < min_share * votes.total():
        return ["no majority" if key is not None else "no final answer" for key in keys]
    return [None if key == winner else "no final answer" if key is None else "outvoted" for key in keys]


def distinct(samples: list[Row]) -> list[str | None]:
    """The first of completions that differ in white space only."""
    seen: set[str] = set()
    reasons: list[str | None] = []
    for row in samples:
        text = " ".join(row["completion"].split())
        reasons.append("repeats an earlier sample" if text in seen else None)
        seen.add(text)
    return reasons


def best(samples: list[Row], *, k: int = 1, by: str) -> list[str | None]:
    """The k best samples of a prompt; of equal ones the first.

    Args:
        samples: those that are left.
        k: how many stay.
        by: a reward of the recipe; `shortest` or `longest`; or `spread`, evenly over the lengths, both ends included.
    """
    reasons: list[str | None] = [f"not among the best {k}"] * len(samples)
    for i in _best(samples, k, by):
        reasons[i] = None
    if by not in LENGTHS:
        for i, row in enumerate(samples):
            reasons[i] = f"no {by} score" if read_score(row, by) is None else reasons[i]
    return reasons


LENGTHS = ("shortest", "longest", "spread")


def _best(samples: list[Row], k: int, by: str) -> list[int]:
    """Positions of the k best."""
    if by not in LENGTHS:
        scores = {i: found for i, row in enumerate(samples) if (found := read_score(row, by)) is not None}
        return sorted(scores, key=lambda i: -scores[i])[:k]
    size = measure_lengths(samples)
    ordered = sorted(range(len(samples)), key=lambda i: -size[i] if by == "longest" else size[i])
    if by != "spread" or k >= len(ordered):
        return ordered[:k]
    if k == 1:
        return [ordered[(len(ordered) - 1) // 2]]
    # Steps of at least one, so that no position is taken twice.
    return [ordered[round(j * (len(ordered) - 1) / (k - 1))] for j in range(k)]


def _check_shares(metrics: list[str] | None, **given: Any) -> None:
    for key, value in given.items():
        if key.endswith("share") and not 0 <= value <= 1:
            raise RecipeError(f"{key}: a share from 0 to 1, got {value:g}")
    if given.get("ngram", 1) < 1:
        raise RecipeError(f"ngram: a number of words, 1 or more, got {given['ngram']}")


def _check_bounds(metrics: list[str] | None, **given: Any) -> None:
    low, high = given.get("min"), given.get("max")
    if low is not None and high is not None and low > high:
        raise RecipeError(f"min: {low:g} is above max: {high:g}, and nothing would be left")


def _check_length(metrics: list[str] | None, **given: Any) -> None:
    if given.get("min") is None and given.get("max") is None:
        raise RecipeError("give it `min`, `max` or both, in tokens")
    _check_bounds(metrics, **given)


def _check_pass_rate(metrics: list[str] | None, **given: Any) -> None:
    for key in ("min", "max"):
        if given.get(key) is not None and not 0 <= given[key] <= 1:
            raise RecipeError(f"{key}: a share from 0 to 1, got {given[key]:g}")
    _check_bounds(metrics, **given)


def _check_min_reward(metrics: list[str] | None, *, reward: str, min: float) -> None:
    if not math.isfinite(min):
        raise RecipeError(f"min: a number, got {min}")
    if metrics is not None and reward not in metrics:
        raise RecipeError(f"reward: {reward!r} is no reward of this recipe{suggest_nearest(reward, metrics)}")


def _check_best(metrics: list[str] | None, *, by: str, k: int = 1) -> None:
    if k < 1:
        raise RecipeError(f"k: a number of samples, 1 or more, got {k}")
    if metrics is not None and by not in (*LENGTHS, *metrics):
        raise RecipeError(f"by: {by!r} is no reward of this recipe{suggest_nearest(by, [*LENGTHS, *metrics])}")


def _check_max_words(metrics: list[str] | None, *, max_words: int = 1) -> None:
    if max_words < 1:
        raise RecipeError(f"max_words: 1 or more, got {max_words}")


one_language.check = majority.check = little_repetition.check = _check_shares  # type: ignore[attr-defined]
short_paragraphs.check = _check_max_words  # type: ignore[attr-defined]
length.check = _check_length  # type: ignore[attr-defined]
min_reward.check = _check_min_reward  # type: ignore[attr-defined]
pass_rate.check = _check_pass_rate  # type: ignore[attr-defined]
best.check = _check_best  # type: ignore[attr-defined]
