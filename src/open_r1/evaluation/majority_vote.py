"""Expected accuracy of majority votes among a problem's samples, computed exactly.

Nested arrays carry their axes: M subset sizes, T numbers of votes, Y quadrature nodes, I votes of one class.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..benchmarks.registry import MOST_VOTES

Row = dict[str, Any]
REDRAWS = 200  # simulated votes of a problem for its variance, which is averaged over problems


class Votes(NamedTuple):
    """The votes of a problem's samples.

    Attributes:
        silent: number of samples without a vote.
        classes: for each answer, its number of votes and the share of right ones among them, in any order.
    """

    silent: int
    classes: tuple[tuple[int, float], ...]


def count_votes(samples_K: list[Row]) -> Votes:
    """Count the votes of samples with evidence.

    Args:
        samples_K: rows with `vote` (equal answers have equal votes, None is no vote) and `verdict`.

    Example:
        >>> votes = ["a", "a", "b", None]
        >>> count_votes([{"vote": v, "verdict": "correct" if v == "a" else "wrong"} for v in votes])
        Votes(silent=1, classes=((1, 0.0), (2, 1.0)))
    """
    verdicts = defaultdict(list)
    for sample in samples_K:
        verdicts[sample["vote"]].append(sample["verdict"] == "correct")
    silent = len(verdicts.pop(None, ()))
    return Votes(silent, tuple(sorted((len(right), sum(right) / len(right)) for right in verdicts.values())))


@lru_cache(maxsize=1 << 12)
def compute_majority(votes: Votes) -> tuple[float, ...]:
    """maj@1 to maj@n of a problem's n samples: how often the most frequent answer of a random subset is right.

    The result is exact; ties are shared equally. In a subset of m, let a class of s votes have t of them, and every
    other class at most t. The number of these subsets is the coefficient of x^m in

        C(s, t) x^t (1 + x)^silent prod_others [sum_{i < t} C(s', i) x^i + y C(s', t) x^t],

    where the power of y is the number j of other classes with t votes. The class wins 1 / (1 + j) of such a subset,
    which is the integral of y^j from 0 to 1. Gauss-Legendre quadrature with enough nodes computes this integral
    without error, and all terms are positive, so nothing cancels.

    Args:
        votes: of samples with evidence.

    Returns:
        Probabilities [n] for m = 1 to n.

    Raises:
        ValueError: more than `MOST_VOTES` samples, whose binomials overflow a float.

    Example:
        Two samples with the right answer and two different wrong ones. Of three samples, both right ones are drawn in
        two of four subsets; in the other two, three answers tie.

        >>> [round(x, 3) for x in compute_majority(Votes(0, ((2, 1.0), (1, 0.0), (1, 0.0))))]
        [0.5, 0.5, 0.667, 1.0]
    """
    n = votes.silent + sum(size for size, _ in votes.classes)
    if n > MOST_VOTES:
        raise ValueError(f"a problem has {n} samples with evidence; votes of at most {MOST_VOTES} can be counted")
    right_sizes = Counter[int]()
    for size, right in votes.classes:
        right_sizes[size] += right
    won_M = np.zeros(n + 1)
    for size, right in right_sizes.items():
        if right:
            others = [other for other, _ in votes.classes]
            others.remove(size)
            outvoted_TM = _count_outvoted(votes.silent, tuple(others), size)
            for t in range(1, size + 1):
                won_M[t : t + n - size + 1] += right * math.comb(size, t) * outvoted_TM[t - 1]
    return tuple(np.minimum(1.0, won_M / compute_binomials(n))[1:].tolist())


def _count_outvoted(silent: int, sizes: tuple[int, ...], most: int) -> np.ndarray:
    """Numbers [T, M] of subsets of m samples with no class over t = 1..most votes, weighted by 1 / (1 + j).

    j is the number of classes with exactly t votes.
    """
    found_TM = np.empty((most, silent + sum(sizes) + 1))
    tied = min(most, max(sizes, default=0))
    found_TM[tied:] = compute_binomials(silent + sum(sizes))
    for least in (2**i for i in range(tied.bit_length())):
        # Classes of fewer than t votes can neither win nor tie, so they count as silent.
        t_T = np.arange(least, min(2 * least - 1, tied) + 1)
        able = [size for size in sizes if size >= least]
        found_TM[t_T - 1] = _count_capped(silent + sum(sizes) - sum(able), able, t_T)
    return found_TM


def _count_capped(silent: int, sizes: list[int], t_T: np.ndarray) -> np.ndarray:
    """The same for the given t: the product's coefficients [T, M], summed over the nodes of y."""
    nodes_Y, weights_Y = compute_quadrature(len(sizes) // 2 + 1)
    t = t_T[:, None, None]
    product_TYM = np.zeros((len(t_T), len(nodes_Y), silent + sum(sizes) + 1))
    product_TYM[:, :, : silent + 1] = compute_binomials(silent)
    end = silent + 1
    for size in sizes:
        drawn = np.arange(min(size, t_T[-1]) + 1)
        ways_TYI = compute_binomials(size)[drawn] * np.where(
            drawn < t, 1.0, np.where(drawn == t, nodes_Y[:, None], 0.0)
        )
        others_TYM = product_TYM[:, :, :end].copy()
        product_TYM[:, :, :end] *= ways_TYI[:, :, :1]
        for i in drawn[1:]:
            product_TYM[:, :, i : i + end] += ways_TYI[:, :, i, None] * others_TYM
        end += size
    return np.einsum("y,tym->tm", weights_Y, product_TYM)


@lru_cache(maxsize=1 << 10)
def compute_binomials(n: int) -> np.ndarray:
    """Binomial coefficients C(n, 0) to C(n, n)."""
    return np.array([float(math.comb(n, i)) for i in range(n + 1)])


@lru_cache(maxsize=1 << 10)
def compute_quadrature(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [0, 1], exact for polynomials up to degree 2 * nodes - 1."""
    x, weights = np.polynomial.legendre.leggauss(nodes)
    return (x + 1) / 2, weights / 2


def compute_vote_variance(votes: Votes, m: int, random: np.random.Generator) -> float:
    """Variance of maj@m over other samples of the problem.

    Votes of m samples are simulated by drawing with replacement from the cast ones. Their variance is multiplied by
    m / n, because n samples hold n / m disjoint votes, and by n / (n - 1), because drawn samples vary less than new
    ones. For m < n, maj@m averages over overlapping subsets and varies less than this (Hoeffding 1948), so intervals
    are somewhat too wide.

    Args:
        votes: of n >= 2 samples with evidence.
        m: samples of a vote; at most n.
        random: generator of the simulated votes.
    """
    sizes = np.array([votes.silent, *(size for size, _ in votes.classes)])
    right = np.array([share for _, share in votes.classes])
    n = int(sizes.sum())
    m = min(m, n)
    cast = random.multinomial(m, sizes / n, size=REDRAWS)[:, 1:]
    top = (cast == cast.max(1, keepdims=True, initial=1)).astype(float)
    won = top @ right / np.maximum(1.0, top.sum(1))
    return float(won.var()) * m / (n - 1)
