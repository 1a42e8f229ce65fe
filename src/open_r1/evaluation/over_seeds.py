"""Statistics over the seeds of a recipe: a mean with its interval, and the ratio of two spreads.

Nested lists carry their axes: T steps, S seeds, N seeds of both sides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np

from .intervals import compute_t_quantile

LEVEL = 0.95


def compute_mean(values_S: Sequence[float], level: float = LEVEL) -> dict[str, Any]:
    """Mean over seeds with Student's confidence interval.

    Args:
        values_S: a figure of each seed. The interval of three reaches 2.5 standard deviations to each side.
        level: of the interval.

    Returns:
        `value`, `low` and `high`; None without seeds, and for the interval of a single seed.

    Example:
        >>> {key: round(value, 2) for key, value in compute_mean([1.0, 2.0, 3.0]).items()}
        {'value': 2.0, 'low': -0.48, 'high': 4.48}
    """
    if not values_S:
        return {"value": None, "low": None, "high": None}
    value, seeds = fmean(values_S), len(values_S)
    if seeds < 2:
        return {"value": value, "low": None, "high": None}
    half = compute_t_quantile((1 + level) / 2, seeds - 1) * stdev(values_S) / math.sqrt(seeds)
    return {"value": value, "low": value - half, "high": value + half}


def compute_spread(values_TS: Sequence[Sequence[float]]) -> float:
    """Standard deviation over the seeds at each step, averaged over the steps.

    Args:
        values_TS: at least one step, of at least two seeds.

    Example:
        >>> compute_spread([[1.0, 3.0], [2.0, 2.0]])  # 1.414 and 0
        0.7071067811865476
    """
    return float(np.std(values_TS, axis=1, ddof=1).mean())


def compare_spreads(
    a_TS: Sequence[Sequence[float]], b_TS: Sequence[Sequence[float]], level: float = LEVEL
) -> dict[str, float] | None:
    """Ratio of the spread of A to the spread of B with its interval.

    The interval is that of two standard deviations with `estimate_freedom` degrees of freedom each. With three seeds
    and 20 steps it excludes 1 in 0 to 7 of 100 cases if the spreads are equal, in 20 to 94 if one is three times the
    other, and in 39 to 100 if it is five times the other. The low numbers are for seeds that stay ahead or behind, the
    high ones for independent steps (benchmarks/spread.py).

    Args:
        a_TS: values of A.
        b_TS: values of B, with as many steps and seeds.
        level: of the interval.

    Returns:
        `value`, `low` and `high`; None if B does not vary.
    """
    if compute_spread(b_TS) == 0:
        return None
    ratio, reach = (
        compute_spread(a_TS) / compute_spread(b_TS),
        compute_detectable_ratio(estimate_freedom(a_TS, b_TS), level),
    )
    return {"value": ratio, "low": ratio / reach, "high": ratio * reach}


def estimate_freedom(a_TS: Sequence[Sequence[float]], b_TS: Sequence[Sequence[float]]) -> float:
    """Degrees of freedom of a spread: seeds - 1 for one step, and seeds - 1 more for every independent step.

    Satterthwaite's approximation from the covariance of the steps, pooled over both sides after scaling each. With few
    seeds it is too small rather than too large.
    """
    joined_TN = np.concatenate([_scale_deviations(side_TS) for side_TS in (a_TS, b_TS)], axis=1)
    covariance_NN = joined_TN.T @ joined_TN  # has the traces of the larger covariance of the steps
    seeds = joined_TN.shape[1] // 2
    return (seeds - 1) * float(np.trace(covariance_NN) ** 2 / np.sum(covariance_NN**2))


def _scale_deviations(values_TS: Sequence[Sequence[float]]) -> np.ndarray:
    """Deviations from the mean over the seeds, divided by their norm over all steps."""
    deviations_TS = np.asarray(values_TS, float) - np.mean(values_TS, axis=1, keepdims=True)
    return deviations_TS / (np.sqrt(np.sum(deviations_TS**2)) or 1.0)


def compute_detectable_ratio(freedom: float, level: float = LEVEL) -> float:
    """The factor by which two standard deviations must differ to be significant.

    This is the square root of a quantile of the F distribution, computed from Student's t with the same degrees of
    freedom.

    Args:
        freedom: degrees of freedom of each standard deviation.
        level: 1 minus the share of false alarms.

    Source: Cacoullos 1965.

    Example:
        >>> round(compute_detectable_ratio(2), 1)
        6.2
    """
    # Between one and two degrees of freedom the expansion of Student's t is not accurate enough.
    freedom = freedom if freedom > 2 else math.floor(freedom + 1e-9)
    half = compute_t_quantile((1 + level) / 2, freedom) / math.sqrt(freedom)
    return half + math.sqrt(half**2 + 1)
