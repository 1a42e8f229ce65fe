"""Significance of paired differences between two models on the same problems, and the power of the test.

Lists with the axis P have one entry for each problem.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

DRAWS = 50_000  # sign vectors, where the exact test would take too long
CHUNK = 2_000_000  # drawn signs held at once, 16 MB
EXACT = 3e8  # additions of the exact test, about a second
DENOMINATOR = 10_000  # largest of a difference; a share of 64 minus a share of 63 has at most 4,032
FINEST = 1_000_000  # largest common denominator of all differences
ROUNDING = 1e-9  # error of sums and differences of shares
UNEVEN, UNEVEN_TO_ONE = 4, 3  # largest ratio of two numbers of samples for the sign-flip test; of any number to one
UNEVEN_SHARE = 0.1  # share of the problems that may exceed it
LEAST = 6  # problems that can be significant at 5%; the signs of five all agree in 1 of 16 cases


def pair_differences(a_P: Sequence[float | None], b_P: Sequence[float | None]) -> list[float | None]:
    """Differences B - A, problem by problem; None where either has no evidence.

    Example:
        >>> pair_differences([0.25, 0.5, None], [0.75, 0.5, 1.0])
        [0.5, 0.0, None]
    """
    return [None if a is None or b is None else b - a for a, b in zip(a_P, b_P, strict=True)]


def compute_sign_flip_p(differences_P: Sequence[float | None], *, seed: int = 0, draws: int = DRAWS) -> float | None:
    """Two-sided p-value of the sign-flip test: how often random signs bring the sum at least as far from zero.

    If both models are equal and have as many samples of a problem, its difference has either sign with equal
    probability, however difficult the problem is. Nothing else is assumed. `are_uneven` shows where the numbers of
    samples differ too much.

    The p-value is exact where the differences are multiples of a common step, as those of pass@1 are for equal numbers
    of samples. Otherwise signs are drawn, and the observed ones count as a draw, so that p is never 0 (Phipson and
    Smyth 2010).

    Args:
        differences_P: differences by problem; None is left out.
        seed: of the drawn signs.
        draws: number of drawn sign vectors.

    Returns:
        The p-value; None without differences.

    Example:
        Five equal differences: all signs agree in 2 of 32 cases.

        >>> compute_sign_flip_p([0.5, 0.5, 0.5, 0.5, 0.5, None])
        0.0625
    """
    d = np.array([x for x in differences_P if x is not None], float)
    if not len(d):
        return None
    d = d[np.abs(d) > ROUNDING]
    steps = _steps(d)
    if steps is not None and len(d) * steps.sum() <= EXACT:
        return _exact(steps, int((np.sign(d) * steps).sum()))
    return _drawn(d, seed, draws)


def are_uneven(samples_a_P: Sequence[int], samples_b_P: Sequence[int]) -> bool:
    """True if numbers of samples differ so much that the sign-flip test and intervals of differences mislead.

    For two equal models, the difference of two shares of unequal numbers of samples is skewed, which random signs do
    not reproduce. With 30 problems that are solved in 5% or 95% of the samples, a test at 5% raises 4 to 6 false
    alarms in 100 with 16 against 4 or 64 against 16 samples, 10 with 4 against 1 or 64 against 4, and 20 to 26 with
    16 against 1 (simulated).

    Args:
        samples_a_P: A's samples with evidence, by problem; problems without any on either side are left out.
        samples_b_P: B's.

    Example:
        >>> are_uneven([16] * 30, [4] * 30), are_uneven([16] * 30, [1] * 30)
        (False, True)
    """
    counts = np.array([samples_a_P, samples_b_P])
    fewer, more = np.sort(counts[:, counts.min(0) > 0], axis=0)
    unlike = more > np.where(fewer == 1, UNEVEN_TO_ONE, UNEVEN) * fewer
    return bool(unlike.mean() > UNEVEN_SHARE) if len(unlike) else False


def _steps(d: np.ndarray) -> np.ndarray | None:
    """Sizes of the differences in multiples of their common step; None if that is too small."""
    parts = math.lcm(*(Fraction(x).limit_denominator(DENOMINATOR).denominator for x in set(d.tolist())))
    if parts > FINEST:
        return None
    steps = np.rint(np.abs(d) * parts)
    if np.abs(steps / parts - np.abs(d)).max(initial=0.0) > ROUNDING:
        return None
    return steps.astype(np.int64)


def _exact(steps_P: np.ndarray, seen: int) -> float:
    """Chance that the sum of the steps with random signs is at least as far from 0 as the one seen.

    Such a sum is twice that of the steps with a plus, less that of all; one step after the other joins their
    distribution.
    """
    total, reach = int(steps_P.sum()), 0
    chance = np.zeros(total + 1)  # of each sum of the steps with a plus
    chance[0] = 1.0
    for step in np.sort(steps_P).tolist():
        halved = chance[: reach + 1] / 2
        chance[: reach + 1] = halved
        chance[step : step + reach + 1] += halved
        reach += step
    sums = 2 * np.arange(total + 1) - total
    return min(1.0, float(chance[np.abs(sums) >= abs(seen)].sum()))


def _drawn(d: np.ndarray, seed: int, draws: int) -> float:
    random, reached = np.random.default_rng(seed), 0
    rows = max(1, CHUNK // max(1, len(d)))
    for begin in range(0, draws, rows):
        signs = random.integers(0, 2, size=(min(rows, draws - begin), len(d)), dtype=np.int8) * 2.0 - 1.0
        reached += int((np.abs(signs @ d) >= abs(d.sum()) - ROUNDING).sum())
    return (reached + 1) / (draws + 1)


def correct_holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction of p-values for multiple tests; None stays None and counts for no test.

    Source: Holm 1979.

    Example:
        >>> correct_holm([0.01, None, 0.04])
        [0.02, None, 0.04]
    """
    order = sorted((i for i, p in enumerate(p_values) if p is not None), key=lambda i: p_values[i])
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


class Power(NamedTuple):
    """Sizes that a significant difference takes.

    Attributes:
        detectable: smallest difference that these problems and samples detect.
        problems: number of problems like these that detect the difference, with as many samples of each; None for a
            difference of 0.
        samples: number of samples of each of these problems, from each model, that detects the difference; None if no
            number does, for a difference of 0, and where `within` is None.
        within: share of the variance that is the luck of the samples, which more samples reduce; None where a problem
            has a single sample.
    """

    detectable: float
    problems: int | None
    samples: int | None
    within: float | None


def estimate_power(
    right_a_P: Sequence[int],
    samples_a_P: Sequence[int],
    right_b_P: Sequence[int],
    samples_b_P: Sequence[int],
    difference: float | None = None,
    *,
    level: float = 0.95,
    power: float = 0.8,
) -> Power | None:
    """Numbers of problems, or of samples of each, that detect a difference in pass@1.

    The variance of the differences has two parts: the luck of the samples, p (1 - p) / k of each model, and the true
    differences between the models from problem to problem. More problems reduce both, more samples the first only.

    Args:
        right_a_P: right samples of A, by problem.
        samples_a_P: A's samples with evidence; problems without any on either side are left out.
        right_b_P: right samples of B.
        samples_b_P: B's samples with evidence.
        difference: to be detected; the observed one by default.
        level: 1 minus the share of false alarms.
        power: probability of detecting the difference.

    Returns:
        None with fewer than two problems.

    Source: Guenther 1981, for the problems lost by estimating the variance.

    Example:
        Twenty problems with four samples each: of half of them A solves one and B three, of the others both solve two.
        How many such problems detect a difference of 0.1?

        >>> estimate_power([1, 2] * 10, [4] * 20, [3, 2] * 10, [4] * 20, difference=0.1).problems
        54
    """
    counts = np.array([right_a_P, samples_a_P, right_b_P, samples_b_P], float)
    right_a, n_a, right_b, n_b = counts[:, (counts[1] > 0) & (counts[3] > 0)]
    P = len(n_a)
    if P < 2:
        return None
    a, b = right_a / n_a, right_b / n_b
    variance = float(np.var(b - a, ddof=1))
    difference = float(np.mean(b - a)) if difference is None else difference
    false_alarm = NormalDist().inv_cdf((1 + level) / 2)
    reach = false_alarm + NormalDist().inv_cdf(power)
    spared = false_alarm**2 / 2  # problems lost by estimating the variance (Guenther 1981)
    detectable = reach * math.sqrt(variance / max(1.0, P - spared))
    problems = max(LEAST, math.ceil(variance * (reach / difference) ** 2 + spared)) if difference else None
    if min(n_a.min(), n_b.min()) < 2:
        return Power(detectable, problems, None, None)
    of_one_a, of_one_b = a * (1 - a) * n_a / (n_a - 1), b * (1 - b) * n_b / (n_b - 1)  # variance of a single sample
    within = float(np.mean(of_one_a / n_a + of_one_b / n_b))
    room = (P - spared) * (difference / reach) ** 2 - max(0.0, variance - within)
    enough = room > 0 and P >= LEAST and difference
    samples = max(1, math.ceil(float(np.mean(of_one_a + of_one_b)) / room)) if enough else None
    return Power(detectable, problems, samples, min(1.0, within / variance) if variance else None)


class Flip(NamedTuple):
    """A problem whose pass rate crossed one half: its index in the lists, and both rates."""

    problem: int
    before: float
    after: float


def find_flips(a_P: Sequence[float | None], b_P: Sequence[float | None]) -> list[Flip]:
    """Problems that only one of two models solves in more than half of the samples, the greatest change first.

    Args:
        a_P: pass rates of A, by problem; None without evidence.
        b_P: pass rates of B.

    Example:
        >>> find_flips([0.25, 0.75, None], [1.0, 0.75, 1.0])
        [Flip(problem=0, before=0.25, after=1.0)]
    """
    flips = [
        Flip(i, a, b)
        for i, (a, b) in enumerate(zip(a_P, b_P, strict=True))
        if a is not None and b is not None and (a > 0.5) != (b > 0.5)
    ]
    return sorted(flips, key=lambda flip: (-abs(flip.after - flip.before), flip.problem))
