"""Expected accuracy of a majority vote, computed exactly."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..benchmarks.registry import MOST_VOTES

Row = dict[str, Any]
REDRAWS = 200  # votes of a problem, for their variance; it is averaged over problems


class Votes(NamedTuple):
    """How a problem's samples vote.

    Attributes:
        silent: samples without a vote.
        classes: votes of each answer, and the share of right ones among them; in no particular order.
    """

    silent: int
    classes: tuple[tuple[int, float], ...]


def count_votes(samples_K: list[Row]) -> Votes:
    """How the samples with evidence vote."""
    verdicts = defaultdict(list)
    for sample in samples_K:
        verdicts[sample["vote"]].append(sample["verdict"] == "correct")
    silent = len(verdicts.pop(None, ()))
    return Votes(silent, tuple(sorted((len(right), sum(right) / len(right)) for right in verdicts.values())))


@lru_cache(maxsize=1 << 12)
def compute_majority(votes: Votes) -> tuple[float, ...]:
    """maj@1 to maj@n of a problem's n samples: how often the most frequent answer of a random subset is right.

    Exact. In a subset of m, let a class of s votes have t of them, and every other class at most t. The subsets of
    this kind are the coefficient of x^m in

        C(s, t) x^t (1 + x)^silent prod_others [sum_{i < t} C(s', i) x^i + y C(s', t) x^t],

    where the power of y counts the j classes that tie with it. It gets 1 / (1 + j) of such a subset, and as that is
    the integral of y^j from 0 to 1, Gauss's quadrature of enough nodes sums over all ties without an error. All terms
    are positive, so nothing cancels.
    """
    n = votes.silent + sum(size for size, _ in votes.classes)
    if n > MOST_VOTES:
        raise ValueError(f"votes of {n} samples of one problem; at most {MOST_VOTES} can be counted")
    right_sizes = Counter[int]()
    for size, right in votes.classes:
        right_sizes[size] += right
    won_M = np.zeros(n + 1)
    for size, right in right_sizes.items():
        if right:
            others = [other for other, _ in votes.classes]
            others.remove(size)
            outvoted_TM = _outvoted(votes.silent, tuple(others), size)
            for t in range(1, size + 1):
                won_M[t : t + n - size + 1] += right * math.comb(size, t) * outvoted_TM[t - 1]
    return tuple(np.minimum(1.0, won_M / binomials(n))[1:].tolist())


def _outvoted(silent: int, sizes: tuple[int, ...], most: int) -> np.ndarray:
    """Subsets [T, M] of m samples with no class over t = 1..most votes; 1 / (1 + j) of each where j classes have t."""
    found_TM = np.empty((most, silent + sum(sizes) + 1))
    tied = min(most, max(sizes, default=0))
    found_TM[tied:] = binomials(silent + sum(sizes))
    for least in (2**i for i in range(tied.bit_length())):
        # Classes of fewer than t votes can neither win nor tie: they are as good as silent.
        t_T = np.arange(least, min(2 * least - 1, tied) + 1)
        able = [size for size in sizes if size >= least]
        found_TM[t_T - 1] = _capped(silent + sum(sizes) - sum(able), able, t_T)
    return found_TM


def _capped(silent: int, sizes: list[int], t_T: np.ndarray) -> np.ndarray:
    """The same for some t [T, M]: the product's coefficients, summed over the nodes of y."""
    nodes_Y, weights_Y = unit_quadrature(len(sizes) // 2 + 1)
    t = t_T[:, None, None]
    product_TYM = np.zeros((len(t_T), len(nodes_Y), silent + sum(sizes) + 1))
    product_TYM[:, :, : silent + 1] = binomials(silent)
    end = silent + 1
    for size in sizes:
        drawn = np.arange(min(size, t_T[-1]) + 1)
        ways_TYI = binomials(size)[drawn] * np.where(drawn < t, 1.0, np.where(drawn == t, nodes_Y[:, None], 0.0))
        others_TYM = product_TYM[:, :, :end].copy()
        product_TYM[:, :, :end] *= ways_TYI[:, :, :1]
        for i in drawn[1:]:
            product_TYM[:, :, i : i + end] += ways_TYI[:, :, i, None] * others_TYM
        end += size
    return np.einsum("y,tym->tm", weights_Y, product_TYM)


@lru_cache(maxsize=1 << 10)
def binomials(n: int) -> np.ndarray:
    """C(n, 0) to C(n, n)."""
    return np.array([float(math.comb(n, i)) for i in range(n + 1)])


@lru_cache(maxsize=1 << 10)
def unit_quadrature(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [0, 1], exact for polynomials of degree 2 nodes - 1."""
    x, weights = np.polynomial.legendre.leggauss(nodes)
    return (x + 1) / 2, weights / 2


def compute_vote_variance(votes: Votes, m: int, random: np.random.Generator) -> float:
    """Variance of maj@m over other samples of the problem.

    That of a vote of m, drawn with replacement from those that were cast, times m / n as the n samples hold so many
    separate votes. For m < n the votes that share samples make it smaller than this (Hoeffding 1948), so that
    intervals are somewhat too wide; n / (n - 1) stands in for the spread that the drawn samples lack.
    """
    sizes = np.array([votes.silent, *(size for size, _ in votes.classes)])
    right = np.array([share for _, share in votes.classes])
    n = int(sizes.sum())
    m = min(m, n)
    cast = random.multinomial(m, sizes / n, size=REDRAWS)[:, 1:]
    top = (cast == cast.max(1, keepdims=True, initial=1)).astype(float)
    won = top @ right / np.maximum(1.0, top.sum(1))
    return float(won.var()) * m / (n - 1)
