"""The steps of a selection: small functions by name, each with its parameters in the recipe.

The first argument distinguishes the two kinds. A row filter takes `completion` first,
`f(completion, <columns>, *, <parameters>) -> str | None`: None keeps the sample, a text is the reason to reject it. A
group filter takes `samples` first, `f(samples, *, <parameters>) -> list[str | None]`: all remaining samples of one
prompt, ordered by (sample, row); it returns None or a reason for each. Columns without a default must be in the data;
keyword-only arguments are parameters, and those without a default must be given in the recipe.

Reasons are counted: a reason names the cause, not the case. Nothing here imports torch or datasets.
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
    """Words by white space; in scripts without spaces two characters count as a word, as in the repetition reward."""
    return repetition.WORD.findall(text)


def read_score(row: Row, metric: str) -> float | None:
    """A sample's score by a reward; None if it has none."""
    return (row.get("scores") or {}).get(metric)


def read_cause(reason: str) -> str:
    """The cause in a verdict's reason, which is `cause: case`."""
    return reason.split(": ")[0]


def measure_lengths(samples: list[Row]) -> list[int]:
    """Tokens of each sample, or characters of each if one has no token count."""
    tokens = [row.get("tokens") for row in samples]
    return [len(row["completion"]) for row in samples] if None in tokens else tokens


def correct(completion: str, verdict: str, reason: str) -> str | None:
    """Keep samples judged correct; those without a verdict are rejected for another reason than wrong ones."""
    if verdict in ("correct", "wrong"):
        return None if verdict == "correct" else "wrong"
    return f"{verdict}: {read_cause(reason)}" if verdict else "not judged"


def finished(completion: str, finish_reason: str | None = None) -> str | None:
    """Keep completions that are not cut at the length limit and close their `<think>`."""
    if finish_reason == "length":
        return "truncated"
    return "reasoning never closed" if "<think>" in completion and "</think>" not in completion else None


def has_answer(completion: str) -> str | None:
    """Keep completions from which the accuracy reward can extract a final answer."""
    return None if extract_answer(completion) else "no final answer"


def well_formed(
    completion: str, *, format: Literal["think_format", "think_answer_format"] = "think_format"
) -> str | None:
    """Keep completions whose tags are complete, in order and not empty, by that format reward."""
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
    """Keep completions that reason in one language: the row's `language`, or else that of the prompt.

    For a prompt without words it is the main language of the reasoning. Reasoning without words is kept. Foreign
    scripts are counted exactly; languages of the same script are distinguished by an estimate, which takes up to a
    tenth of English reasoning full of names for another language.

    Args:
        completion: the whole completion.
        prompt: the question.
        language: language of the row.
        min_share: least share of words in the language.
        min_script_share: least share of words in its script, if the prompt has words of no other script.
    """
    target = language or detect_language(prompt) or detect_language(extract_reasoning(completion))
    if target is None:
        return None
    try:
        script = counted_as(target)
        of_script = measure_language(completion, script)
        if of_script is None:
            return None
        if of_script < min_script_share and _has_one_script(prompt, script):
            return "mixed scripts"
        share = of_script if script == target else measure_language(completion, target)
    except RecipeError:  # a mistake in the row
        return "unknown language"
    return None if share >= min_share else "mixed languages"


@lru_cache(maxsize=4096)
def _has_one_script(text: str, script: str) -> bool:
    """True if all words of a text are of this script."""
    return measure_language(text, script) in (None, 1.0)


def counted_as(language: str) -> str:
    """The name under which words of a language are counted exactly: its script, or itself if no other shares it.

    Raises:
        RecipeError: unknown language.
    """
    code = re.split("[-_]", language.lower())[0]
    script = next((script for script, languages in LANGUAGES.items() if code == script or code in languages), None)
    if script is None:
        raise RecipeError(f"language: {language!r} is not known")
    # Kana distinguish Japanese from Chinese.
    return code if script == "cjk" or len(LANGUAGES[script]) == 1 else script


def short_paragraphs(completion: str, *, max_words: int = 300) -> str | None:
    """Keep completions whose reasoning has no paragraph of more than `max_words` words."""
    paragraphs = _BLANK_LINE.split(extract_reasoning(completion).replace("<think>", " "))
    # A word has at least one character: most paragraphs are too short to need counting.
    long = any(len(paragraph) > max_words and len(count_words(paragraph)) > max_words for paragraph in paragraphs)
    return "long paragraph" if long else None


def no_code_in_reasoning(completion: str) -> str | None:
    """Keep completions without a fenced code block in the reasoning; the answer may have one."""
    return "code in the reasoning" if _FENCE.search(extract_reasoning(completion)) else None


def little_repetition(completion: str, *, max_share: float = 0.5, ngram: int = 3) -> str | None:
    """Keep completions in which at most this share of the word n-grams repeats an earlier one."""
    share = repetition.repetition(completion, ngram=ngram, max_penalty=-1.0)
    return "repetition" if -share > max_share else None


def length(completion: str, tokens: int | None, *, min: int | None = None, max: int | None = None) -> str | None:
    """Keep completions of `min` to `max` tokens."""
    if tokens is None:
        return "unknown length"
    if min is not None and tokens < min:
        return "too short"
    return "too long" if max is not None and tokens > max else None


def min_reward(completion: str, scores: dict[str, float | None] | None, *, reward: str, min: float) -> str | None:
    """Keep samples with at least this score by a reward of the recipe; those without a score are rejected."""
    found = (scores or {}).get(reward)
    if found is None:
        return f"no {reward} score"
    return None if found >= min else f"{reward} too low"


def pass_rate(samples: list[Row], *, min: float | None = None, max: float | None = None) -> list[str | None]:
    """Keep prompts whose share of correct samples lies between the bounds, which are included.

    The share is correct / (correct + wrong) over all samples that were drawn, before any filter; samples without a
    verdict do not count. Without `min`, prompts that are never solved are rejected, and without `max`, those that are
    always solved (DAPO's dynamic sampling, arXiv 2503.14476, eq. 11).
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
    """Keep samples with the most frequent final answer; of two equally frequent ones, the first.

    Args:
        samples: the remaining samples, which vote.
        min_share: least share of the votes for that answer.
    """
    answers = [extract_answer(row["completion"]) for row in samples]
    keys = [compute_vote_key(answer) if answer else None for answer in answers]
    votes = Counter(key for key in keys if key is not None)
    if not votes:
        return ["no final answer"] * len(samples)
    winner, most = votes.most_common(1)[0]  # a Counter keeps ties in the order of first appearance
    if most < min_share * votes.total():
        return ["no majority" if key is not None else "no final answer" for key in keys]
    return [None if key == winner else "no final answer" if key is None else "outvoted" for key in keys]


def distinct(samples: list[Row]) -> list[str | None]:
    """Keep the first of completions that differ in white space only."""
    seen: set[str] = set()
    reasons: list[str | None] = []
    for row in samples:
        text = " ".join(row["completion"].split())
        reasons.append("repeats an earlier sample" if text in seen else None)
        seen.add(text)
    return reasons


def best(samples: list[Row], *, k: int = 1, by: str) -> list[str | None]:
    """Keep the k best samples of a prompt; of equal ones the first.

    Args:
        samples: the remaining samples.
        k: number of samples to keep.
        by: a reward of the recipe; `shortest` or `longest`; or `spread`, evenly over the lengths, both ends included.
    """
    reasons: list[str | None] = [f"not among the best {k}"] * len(samples)
    for i in _find_best(samples, k, by):
        reasons[i] = None
    if by not in LENGTHS:
        for i, row in enumerate(samples):
            reasons[i] = f"no {by} score" if read_score(row, by) is None else reasons[i]
    return reasons


LENGTHS = ("shortest", "longest", "spread")


def _find_best(samples: list[Row], k: int, by: str) -> list[int]:
    """Indices of the k best samples."""
    if by not in LENGTHS:
        scores = {i: found for i, row in enumerate(samples) if (found := read_score(row, by)) is not None}
        return sorted(scores, key=lambda i: -scores[i])[:k]
    size = measure_lengths(samples)
    ordered = sorted(range(len(samples)), key=lambda i: -size[i] if by == "longest" else size[i])
    if by != "spread" or k >= len(ordered):
        return ordered[:k]
    if k == 1:
        return [ordered[(len(ordered) - 1) // 2]]
    # The steps are at least 1: no index repeats.
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
        raise RecipeError(f"min: {low:g} is above max: {high:g}, and no sample would remain")


def _check_length(metrics: list[str] | None, **given: Any) -> None:
    if given.get("min") is None and given.get("max") is None:
        raise RecipeError("set `min`, `max` or both, in tokens")
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
        raise RecipeError(f"reward: this recipe has no reward {reward!r}{suggest_nearest(reward, metrics)}")


def _check_best(metrics: list[str] | None, *, by: str, k: int = 1) -> None:
    if k < 1:
        raise RecipeError(f"k: a number of samples, 1 or more, got {k}")
    if metrics is not None and by not in (*LENGTHS, *metrics):
        raise RecipeError(f"by: this recipe has no reward {by!r}{suggest_nearest(by, [*LENGTHS, *metrics])}")


def _check_max_words(metrics: list[str] | None, *, max_words: int = 1) -> None:
    if max_words < 1:
        raise RecipeError(f"max_words: 1 or more, got {max_words}")


one_language.check = majority.check = little_repetition.check = _check_shares  # type: ignore[attr-defined]
short_paragraphs.check = _check_max_words  # type: ignore[attr-defined]
length.check = _check_length  # type: ignore[attr-defined]
min_reward.check = _check_min_reward  # type: ignore[attr-defined]
pass_rate.check = _check_pass_rate  # type: ignore[attr-defined]
best.check = _check_best  # type: ignore[attr-defined]
