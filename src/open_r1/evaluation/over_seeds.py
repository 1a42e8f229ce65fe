"""What several seeds of one recipe say: a mean with its interval, and whether one recipe spreads more than another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np

from .intervals import compute_t_quantile

LEVEL = 0.95


def compute_mean(values_S: Sequence[float], level: float = LEVEL) -> dict[str, Any]:
    """Mean over seeds, and Student's interval of where it lies for other seeds, as `{"value", "low", "high"}`.

    Of three seeds it reaches 2.5 of their standard deviations to either side. A single seed has no interval.
    """
    if not values_S:
        return {"value": None, "low": None, "high": None}
    value, seeds = fmean(values_S), len(values_S)
    if seeds < 2:
        return {"value": value, "low": None, "high": None}
    half = compute_t_quantile((1 + level) / 2, seeds - 1) * stdev(values_S) / math.sqrt(seeds)
    return {"value": value, "low": value - half, "high": value + half}


def compute_spread(values_TS: Sequence[Sequence[float]]) -> float:
    """Standard deviation over the seeds at each step, in the mean over the steps.

    Args:
        values_TS: at least one step, of at least two seeds.
    """
    return float(np.std(values_TS, axis=1, ddof=1).mean())


def compare_spreads(
    a_TS: Sequence[Sequence[float]], b_TS: Sequence[Sequence[float]], level: float = LEVEL
) -> dict[str, float] | None:
    """The spread of A over that of B, and its interval; None if B has none.

    The interval is that of two standard deviations of `freedom` degrees of freedom each. Of three seeds and 20 steps,
    recipes of the same spread are told apart in 0 to 7 of 100 cases, one of three times the other's in 20 (if a seed
    that is ahead stays ahead) to 94 (if every step is drawn anew), of five times in 39 to 100
    (benchmarks/spread.py).

    Args:
        a_TS: values at some steps, of each seed.
        b_TS: of as many steps and seeds.
        level: of the interval.
    """
    if compute_spread(b_TS) == 0:
        return None
    ratio, reach = compute_spread(a_TS) / compute_spread(b_TS), tellable_ratio(freedom(a_TS, b_TS), level)
    return {"value": ratio, "low": ratio / reach, "high": ratio * reach}


def freedom(a_TS: Sequence[Sequence[float]], b_TS: Sequence[Sequence[float]]) -> float:
    """Degrees of freedom of a spread in the mean over steps: of one step seeds - 1, of independent ones as much each.

    By Satterthwaite's approximation from the steps' covariance, that of both sides together, each to its own scale.
    With few seeds it is too small rather than too large.
    """
    joined_TN = np.concatenate([_deviations(side_TS) for side_TS in (a_TS, b_TS)], axis=1)
    covariance_NN = joined_TN.T @ joined_TN  # its trace, and that of its square, are those of the steps' covariance
    seeds = joined_TN.shape[1] // 2
    return (seeds - 1) * float(np.trace(covariance_NN) ** 2 / np.sum(covariance_NN**2))


def _deviations(values_TS: Sequence[Sequence[float]]) -> np.ndarray:
    """From the mean over the seeds, divided by their size over all steps."""
    deviations_TS = np.asarray(values_TS, float) - np.mean(values_TS, axis=1, keepdims=True)
    return deviations_TS / (np.sqrt(np.sum(deviations_TS**2)) or 1.0)


def tellable_ratio(freedom: float, level: float = LEVEL) -> float:
    """By which factor two standard deviations must differ to be told apart: 6.2 with two degrees of freedom each.

    The root of a quantile of the F distribution, by its relation to Student's t of the same degrees of freedom
    (Cacoullos 1965).

    Args:
        freedom: degrees of freedom of either one.
        level: 1 minus the share of false alarms.
    """
    # Between one and two degrees the expansion of Student's t is not good enough.
    freedom = freedom if freedom > 2 else math.floor(freedom + 1e-9)
    half = compute_t_quantile((1 + level) / 2, freedom) / math.sqrt(freedom)
    return half + math.sqrt(half**2 + 1)
