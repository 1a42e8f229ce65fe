"""Confidence intervals of means over problems, clustered by problem.

The variance is that of the cluster bootstrap: sets of as many problems are drawn with replacement, each with all its
samples. Their means vary by the difficulty of the problems and by the luck of the samples, in the right proportion.
For a mean this variance has a closed form and needs no drawing. Percentiles of the resampled means cover too little
near the bounds of a share: for 30 problems at 5% with one sample each, such 95% intervals hold the true mean in 79 of
100 cases, and if all 30 are right, they are a single point. The score interval used here holds it in 95 (simulated by
benchmarks/coverage.py, which also names the cases where it does not).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

RESAMPLES = 10_000
CHUNK = 2_000_000  # resampled numbers held at once, 16 MB
UNSEEN = 0.1  # share of a problem at a bound, added to the variance: a few similar values say little of other problems
NOTHING = 1e-18  # variance of values that differ by rounding alone; one of 10^8 samples makes 10^-16

Interval = tuple[float, float]


def estimate_interval(
    values_P: Sequence[float | None],
    weights_P: Sequence[float] | None = None,
    *,
    bounds: Interval | None = (0.0, 1.0),
    level: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Confidence interval of the mean over all problems of this kind, from a sample of them.

    Args:
        values_P: a figure of each problem; None is left out.
        weights_P: weight of each, for instance its number of samples; equal by default.
        bounds: (0, 1) for shares, (-1, 1) for differences of shares, None for unbounded values such as lengths.
        level: probability that such an interval holds the true mean.
        seed: of the resampling, which is done for unbounded values only.

    Returns:
        Low and high. With one value: `bounds`, or None without bounds. Without a value: None.

    Example:
        >>> low, high = estimate_interval([0.0, 0.25, 0.5, 1.0, 1.0])
        >>> round(low, 2), round(high, 2)
        (0.15, 0.9)
        >>> low, high = estimate_interval([1.0] * 30)  # all right, but not a single point
        >>> round(low, 2), round(high, 2)
        (0.88, 1.0)
    """
    values, weights = _drop_missing(values_P, weights_P)
    P = len(values)
    if P < 2:
        return bounds if P else None
    t = compute_t_quantile((1 + level) / 2, P - 1)
    if bounds is None:
        return _estimate_percentile_interval(values, weights, t, seed)
    mean = float(np.average(values, weights=weights))
    of_each = weights * (values - mean) / weights.sum()
    variance = float(np.sum(of_each**2)) * P / (P - 1)
    if variance > NOTHING:
        # The variance that values of 0 and 1 only (for differences also -1) would have with the same mean size.
        extreme = float(np.average(np.abs(values), weights=weights)) - mean**2
        variance += UNSEEN * extreme / P**2
    return compute_wilson_interval(mean, variance, P, t, bounds)


def compute_wilson_interval(
    mean: float, variance: float, observations: int, quantile: float, bounds: Interval = (0.0, 1.0)
) -> Interval:
    """Wilson's score interval of a mean of bounded values with a given variance.

    The interval holds all true means that are at most `quantile` of their own standard errors from the observed mean.
    The standard error shrinks towards the bounds as that of a share does, so the interval stays within them, and near
    a bound it reaches further to the other side. The effective number of observations is the one at which a share
    would have this variance.

    Equal values do not show their variance. Then the interval has room for `quantile`² further observations at either
    bound. For a share of 0 or 1 this is Wilson's interval again, and never a single point.

    Args:
        mean: of the values.
        variance: of the mean.
        observations: number of values, used if the variance is 0.
        quantile: of the normal or Student's distribution, for instance 1.96.
        bounds: of the values.

    Returns:
        Low and high.

    Source: Wilson 1927.

    Example:
        >>> low, high = compute_wilson_interval(0.9, 0.9 * 0.1 / 10, 10, 1.96)  # 9 of 10
        >>> round(low, 3), round(high, 3)
        (0.596, 0.982)
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


def resample_means(values_P: np.ndarray, weights_P: np.ndarray, seed: int) -> np.ndarray:
    """Bootstrap means: weighted means [RESAMPLES] of as many problems drawn with replacement."""
    P, random = len(values_P), np.random.default_rng(seed)
    rows = max(1, CHUNK // P)
    means = []
    for begin in range(0, RESAMPLES, rows):
        drawn = random.integers(P, size=(min(rows, RESAMPLES - begin), P), dtype=np.int32)
        weights = weights_P[drawn]
        means.append((values_P[drawn] * weights).sum(1) / weights.sum(1))
    return np.concatenate(means)


def _estimate_percentile_interval(values_P: np.ndarray, weights_P: np.ndarray, t: float, seed: int) -> Interval:
    """Percentiles of bootstrap means, expanded for Student's t and by n / (n - 1) (Hesterberg 2015, section 5.3)."""
    P = len(values_P)
    tail = NormalDist().cdf(-t * math.sqrt(P / (P - 1)))
    low, high = np.quantile(resample_means(values_P, weights_P, seed), [tail, 1 - tail])
    return float(low), float(high)


def compute_t_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t: exact for 1 and 2 degrees of freedom, otherwise by its Cornish-Fisher expansion.

    The error at 0.975 is within 0.2%; the largest, at 0.995 with 3 degrees of freedom, is 0.8%. scipy would be exact,
    but takes 113 MB.

    Args:
        probability: between 0 and 1.
        freedom: degrees of freedom; fractions are allowed above 2.

    Source: Abramowitz and Stegun 26.7.5.

    Example:
        >>> round(compute_t_quantile(0.975, 2), 3), round(compute_t_quantile(0.975, 9), 3)
        (4.303, 2.262)
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


def _drop_missing(
    values_P: Sequence[float | None], weights_P: Sequence[float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """The values that are not None and have a weight, with their weights."""
    weights_P = [1.0] * len(values_P) if weights_P is None else weights_P
    pairs = [(v, w) for v, w in zip(values_P, weights_P, strict=True) if v is not None and w > 0]
    values, weights = np.array(pairs, float).reshape(-1, 2).T
    return values, weights
