"""Rewards for the length of a completion, in tokens."""

from __future__ import annotations

import math

from ..errors import RecipeError
from .verdict import Verdict


def soft_overlong(completion: str, tokens: int, max_tokens: int, *, cache: float = 0.2) -> float:
    """DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13): from 0 down to -1 over the last `cache` tokens.

    Args:
        completion: the whole completion; only its length matters.
        tokens: its length.
        max_tokens: L_max, the recipe's limit.
        cache: L_cache, as a share of the limit if less than 1, else in tokens. DAPO: 4,096 of 20,480 tokens.

    Raises:
        RecipeError: there is no limit, or the cache is negative or longer than it.
    """
    _check_limit("soft_overlong", max_tokens)
    cache_tokens = cache * max_tokens if cache < 1 else cache
    if not 0 <= cache_tokens <= max_tokens:
        raise RecipeError(
            f"soft_overlong: cache {cache} must lie between 0 and the limit of {max_tokens} tokens "
            "(below 1 it is a share of the limit)"
        )
    over = tokens - (max_tokens - cache_tokens)
    if over <= 0:
        return 0.0
    return -min(over / cache_tokens, 1.0) if cache_tokens else -1.0


def cosine_length(
    completion: str,
    tokens: int,
    max_tokens: int,
    verdict: Verdict | None,
    *,
    min_correct: float = 0.5,
    max_correct: float = 1.0,
    min_wrong: float = -1.0,
    max_wrong: float = -0.5,
    exceeded: float | None = None,
) -> float | None:
    """The cosine-scaled reward of "Demystifying Long Chain-of-Thought Reasoning" (arXiv 2502.03373, appendix C.1).

    A correct completion earns more if it is short. A wrong one loses less if it is long: it should keep trying.

    Args:
        completion: the whole completion; only its length matters.
        tokens: its length; a longer one than the limit counts as the limit.
        max_tokens: the recipe's limit.
        verdict: the verdict of the recipe's verifiers.
        min_correct: reward of a correct completion at the limit.
        max_correct: reward of a correct completion of length 0.
        min_wrong: reward of a wrong completion of length 0.
        max_wrong: reward of a wrong completion at the limit.
        exceeded: reward of any completion that reached the limit, in place of the cosine (the paper's r_e: -10).

    Returns:
        the reward; None without evidence.

    Raises:
        RecipeError: there is no limit.
    """
    _check_limit("cosine_length", max_tokens)
    score = None if verdict is None else verdict.score
    if score is None:
        return None
    if exceeded is not None and tokens >= max_tokens:
        return exceeded
    short, long = (max_correct, min_correct) if score else (min_wrong, max_wrong)
    progress = min(tokens / max_tokens, 1.0)
    return long + (short - long) * (1 + math.cos(math.pi * progress)) / 2


def kimi_length(
    completions: list[str], tokens: list[int], verdict: list[Verdict | None], group: list[int]
) -> list[float | None]:
    """Kimi k1.5's length reward (arXiv 2501.12599, section 2.3.3): more for short correct completions of a prompt.

    lambda = 0.5 - (length - min) / (max - min), over the samples of the same prompt. A correct sample gets lambda, a
    wrong one min(0, lambda). All get 0 if they are equally long.

    Args:
        completions: the batch's completions; only their lengths matter.
        tokens: their lengths.
        verdict: the verdict of the recipe's verifiers on each.
        group: number of each one's prompt, in any order.

    Returns:
        one reward for each completion; None without evidence, and such a sample does not count in min and max.
    """
    scores = [None if v is None else v.score for v in verdict]
    lengths: dict[int, list[int]] = {}
    for count, score, prompt in zip(tokens, scores, group, strict=True):
        if score is not None:
            lengths.setdefault(prompt, []).append(count)
    return [
        None if score is None else _score_length(count, lengths[prompt], bool(score))
        for count, score, prompt in zip(tokens, scores, group, strict=True)
    ]


def _check_limit(name: str, max_tokens: int) -> None:
    if max_tokens < 1:
        raise RecipeError(f"{name}: needs a limit of tokens (max_completion_length) and has {max_tokens}")


def _score_length(tokens: int, group: list[int], correct: bool) -> float:
    shortest, longest = min(group), max(group)
    if shortest == longest:
        return 0.0
    share = 0.5 - (tokens - shortest) / (longest - shortest)
    return share if correct else min(0.0, share)
