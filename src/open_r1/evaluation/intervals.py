"""Intervals of means over problems, each problem carrying its samples with it.

The spread is that of the bootstrap over problems: sets of as many problems drawn with replacement, whose means vary by
what the problems differ in and by the luck of their samples, in the right proportion. For a mean that spread has a
closed form and needs no drawing. Percentiles of the resampled means cover too little near the edges of a share: of 30
problems at 5% with one sample each, such 95% intervals hold the truth in 79 of 100 cases, and of 30 that all came out
right they are a single point. The score interval that is taken here holds it in 95 (simulated by
benchmarks/coverage.py, which also names the corners where it does not).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

RESAMPLES = 10_000
CHUNK = 2_000_000  # resampled numbers held at once, 16 MB
UNSEEN = 0.1  # of a problem at a bound, added to the spread: a few that are nearly alike say little of the others
NOTHING = 1e-18  # a variance of values that differ by rounding alone; one of 10^8 samples makes 10^-16

Interval = tuple[float, float]


def estimate_interval(
    values_P: Sequence[float | None],
    weights_P: Sequence[float] | None = None,
    *,
    bounds: Interval | None = (0.0, 1.0),
    level: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Where the mean over all problems of this kind lies, by those that were asked.

    Args:
        values_P: a figure of each problem; None is left out.
        weights_P: how much each counts, for instance its number of samples; all alike by default.
        bounds: (0, 1) for shares, (-1, 1) for differences of shares, None for what has none, as a length.
        level: how often such intervals hold the truth.
        seed: of the resampling, which only values without bounds need.

    Returns:
        None without a value, and for a single one without bounds. Of one problem with bounds, they are the interval.
    """
    values, weights = _present(values_P, weights_P)
    P = len(values)
    if P < 2:
        return bounds if P else None
    t = compute_t_quantile((1 + level) / 2, P - 1)
    if bounds is None:
        return _expanded_percentile(values, weights, t, seed)
    mean = float(np.average(values, weights=weights))
    of_each = weights * (values - mean) / weights.sum()
    variance = float(np.sum(of_each**2)) * P / (P - 1)
    if variance > NOTHING:
        # As much as values of 0 and 1 alone (of differences, of -1 too) would vary, of the same mean size.
        extreme = float(np.average(np.abs(values), weights=weights)) - mean**2
        variance += UNSEEN * extreme / P**2
    return compute_wilson_interval(mean, variance, P, t, bounds)


def compute_wilson_interval(
    mean: float, variance: float, observations: int, quantile: float, bounds: Interval = (0.0, 1.0)
) -> Interval:
    """Wilson's score interval of a mean of bounded values, for as many observations as would give its variance.

    All true means are in it that lie within `quantile` of their standard errors from the observed one, where the
    standard error shrinks towards the bounds as that of a share does. So it never leaves them, and near one it
    reaches further to the other side.

    Values that are all alike say nothing of their variance. Then the interval has room for `quantile`² more
    observations at either bound, which for a share of 0 or 1 is Wilson's again: never a single point.

    Args:
        mean: of the values.
        variance: of that mean.
        observations: what it is a mean of, where the variance is 0.
        quantile: of the normal or Student's distribution, for instance 1.96.
        bounds: of the values.
    """
    low, high = bounds
    unseen = quantile**2
    room = (mean - low) * (high - mean)
    if variance <= NOTHING * (high - low) ** 2 or room <= 0:
        total = observations + unseen
        return (observations * mean + unseen * low) / total, (observations * mean + unseen * high) / total
    n = room / variance
    centre = (n * mean + unseen * (low + high) / 2) / (n + unseen)
    half = quantile * math.sqrt(n * room + unseen * (high - low) ** 2 / 4) / (n + unseen)
    return max(low, centre - half), min(high, centre + half)


def resampled_means(values_P: np.ndarray, weights_P: np.ndarray, seed: int) -> np.ndarray:
    """Weighted means [RESAMPLES] of as many problems drawn with replacement."""
    P, random = len(values_P), np.random.default_rng(seed)
    rows = max(1, CHUNK // P)
    means = []
    for begin in range(0, RESAMPLES, rows):
        drawn = random.integers(P, size=(min(rows, RESAMPLES - begin), P), dtype=np.int32)
        weights = weights_P[drawn]
        means.append((values_P[drawn] * weights).sum(1) / weights.sum(1))
    return np.concatenate(means)


def _expanded_percentile(values_P: np.ndarray, weights_P: np.ndarray, t: float, seed: int) -> Interval:
    """Percentiles of resampled means, as far out as Student's t and n / (n - 1) ask (Hesterberg 2015, section 5.3)."""
    P = len(values_P)
    tail = NormalDist().cdf(-t * math.sqrt(P / (P - 1)))
    low, high = np.quantile(resampled_means(values_P, weights_P, seed), [tail, 1 - tail])
    return float(low), float(high)


def compute_t_quantile(probability: float, freedom: int) -> float:
    """Student's t: exact for 1 and 2 degrees of freedom, else by its Cornish-Fisher expansion.

    Within 0.2% of it at 0.975; the least near is that of 3 degrees at 0.995, 0.8%.

    Source: Abramowitz and Stegun 26.7.5. The product does without scipy.
    """
    p = probability
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    z = NormalDist().inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**i for i, term in enumerate(terms, start=1))


def _present(values_P: Sequence[float | None], weights_P: Sequence[float] | None) -> tuple[np.ndarray, np.ndarray]:
    """The values that are there, with their weights."""
    weights_P = [1.0] * len(values_P) if weights_P is None else weights_P
    pairs = [(v, w) for v, w in zip(values_P, weights_P, strict=True) if v is not None and w > 0]
    values, weights = np.array(pairs, float).reshape(-1, 2).T
    return values, weights
