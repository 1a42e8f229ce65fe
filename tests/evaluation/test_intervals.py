"""Intervals: closed forms, edges, and a light version of benchmarks/coverage.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_r1.evaluation.intervals import (
    Interval,
    compute_t_quantile,
    compute_wilson_interval,
    estimate_interval,
    resample_means,
)
from open_r1.evaluation.majority_vote import Votes
from open_r1.evaluation.metrics import Problem, estimate_sample_interval


def same_problems(scores_PK: list[list[float | None]]) -> Interval | None:
    """That of pass@1, from the scores of the samples; None is no evidence."""
    known_PK = [[score for score in scores if score is not None] for scores in scores_PK]
    problems = [Problem(len(scores), int(sum(scores)), 0, Votes(0, ())) for scores in known_PK]
    return estimate_sample_interval("pass", 1, problems, 0.95, seed=0)


SHARES = st.lists(st.integers(0, 8).map(lambda c: c / 8), min_size=2, max_size=40)
# Of Student's t at 97.5%, from any printed table.
T_TABLE = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 10: 2.2281, 29: 2.0452, 120: 1.9799}


@pytest.mark.parametrize(("freedom", "quantile"), T_TABLE.items())
def test_t_quantile_is_the_printed_one(freedom, quantile):
    assert compute_t_quantile(0.975, freedom) == pytest.approx(quantile, rel=2e-3)
    assert compute_t_quantile(0.025, freedom) == pytest.approx(-quantile, rel=2e-3)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [  # Newcombe 1998, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_the_score_interval_is_wilsons(right, n, low, high):
    share = right / n
    assert compute_wilson_interval(share, share * (1 - share) / n, n, 1.959964) == pytest.approx((low, high), abs=6e-5)


@given(SHARES)
def test_the_interval_holds_the_mean_and_stays_within_its_bounds(values):
    low, high = estimate_interval(values)
    assert 0 <= low <= np.mean(values) + 1e-12 and np.mean(values) - 1e-12 <= high <= 1
    assert high - low > 1e-6


@given(SHARES)
def test_the_mirror_image_has_the_mirrored_interval(values):
    low, high = estimate_interval(values)
    assert estimate_interval([1 - v for v in values]) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@given(SHARES, SHARES)
def test_differences_the_other_way_round_have_the_mirrored_interval(a, b):
    d = [x - y for x, y in zip(a, b, strict=False)]
    low, high = estimate_interval(d, bounds=(-1.0, 1.0))
    assert -1 <= low <= np.mean(d) + 1e-12 and np.mean(d) - 1e-12 <= high <= 1
    assert estimate_interval([-x for x in d], bounds=(-1.0, 1.0)) == pytest.approx((-high, -low), abs=1e-12)


@given(SHARES)
def test_none_and_the_order_change_nothing(values):
    gaps = [*values[:1], None, *values[1:], None]
    assert estimate_interval(gaps) == estimate_interval(values)
    assert estimate_interval(values[::-1]) == pytest.approx(estimate_interval(values), abs=1e-12)


@given(SHARES.filter(lambda values: len(set(values)) > 1))
def test_the_ends_lie_t_standard_errors_away(values):
    """Those of their own, by the observed spread of the problems and a tenth of an unseen one."""
    P, mean = len(values), np.mean(values)
    n = 1 / (np.var(values, ddof=1) / (P * mean * (1 - mean)) + 0.1 / P**2)
    for end in estimate_interval(values):
        assert abs(end - mean) == pytest.approx(
            compute_t_quantile(0.975, P - 1) * math.sqrt(end * (1 - end) / n), abs=1e-7
        )


def test_nearly_alike_is_not_nearly_certain():
    """One sample of 64 wrong on one of 30 problems: there may be other problems yet."""
    low, high = estimate_interval([1.0] * 29 + [63 / 64])
    assert estimate_interval([1.0] * 30)[0] < low < 0.9966 and high > 0.99992


def test_all_alike_is_not_certain():
    low, high = estimate_interval([1.0] * 30)
    assert high == 1 and low == pytest.approx(30 / (30 + 2.0452**2), abs=1e-4)
    assert estimate_interval([0.0] * 30) == pytest.approx((0, 1 - low))
    low, high = estimate_interval([0.0] * 30, bounds=(-1.0, 1.0))
    assert -0.13 < low == -high < -0.1
    low, high = estimate_interval([0.1] * 30)  # 0.1 is no binary fraction: its mean differs from it by rounding
    assert low < 0.095 and high > 0.13


def test_one_problem_says_nothing_and_none_less():
    assert estimate_interval([0.7]) == (0, 1) and estimate_interval([0.2], bounds=(-1.0, 1.0)) == (-1, 1)
    assert estimate_interval([812.0], bounds=None) is None
    assert estimate_interval([]) is None and estimate_interval([None, None]) is None


def test_the_problems_are_the_clusters_not_the_samples():
    """100 samples of each of 10 problems that are all or nothing are 10 observations."""
    low, high = estimate_interval([1.0] * 5 + [0.0] * 5)
    assert low < 0.25 and high > 0.75


def test_weights_count_problems_as_often():
    """The ratio of sums: 10 of 10 and 0 of 30 are 25%."""
    low, high = estimate_interval([1.0, 0.0] * 20, [10, 30] * 20)
    assert low < 0.25 < high < 0.45
    assert estimate_interval([1.0, 0.0, 0.5] * 5, [0, 2, 2] * 5) == pytest.approx(estimate_interval([0.0, 0.5] * 5))
    even, uneven = (np.diff(estimate_interval([0.2, 0.4, 0.7, 0.9] * 8, [1, w, 1, w] * 8))[0] for w in (1, 9))
    assert uneven > even


def test_lengths_are_resampled_and_the_same_every_time():
    lengths = (np.random.default_rng(0).lognormal(8, 1, 60)).tolist()
    first, again, other = (estimate_interval(lengths, bounds=None, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    low, high = first
    mean, error = np.mean(lengths), np.std(lengths, ddof=1) / math.sqrt(60)
    assert low == pytest.approx(mean - 2 * error, rel=0.1) and high == pytest.approx(mean + 2 * error, rel=0.1)
    assert high - mean > mean - low  # long ones are rare and heavy


def test_resampling_is_a_mean_of_what_was_drawn():
    means = resample_means(np.array([0.0, 1.0]), np.array([1.0, 3.0]), seed=0)
    found, counts = np.unique(means, return_counts=True)
    assert found.tolist() == [0.0, 0.75, 1.0]
    assert counts / len(means) == pytest.approx([0.25, 0.5, 0.25], abs=0.02)


def test_same_problems_is_narrower_by_what_the_problems_differ():
    scores_PK = [[1, 1, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]] * 10
    low, high = same_problems(scores_PK)
    wide_low, wide_high = estimate_interval([np.mean(scores) for scores in scores_PK])
    assert wide_low < low < 0.5 < high < wide_high
    # Variance of the mean by hand: half of the problems have 3/16 / 3 each.
    half = compute_t_quantile(0.975, 120) * math.sqrt(20 * (3 / 16 / 3)) / 40
    assert high - low == pytest.approx(2 * half, rel=0.02)


def test_same_problems_cannot_be_told_from_one_sample_each():
    assert same_problems([[1], [0], [1]]) is None
    assert same_problems([[1, None], [0, 1]]) is None
    assert same_problems([[1, None, 0], [], [0, 1]]) is not None


def test_same_problems_all_right_is_not_certain():
    low, high = same_problems([[1] * 16] * 30)
    assert high == 1 and 0.99 < low < 1


CASES = [  # Beta difficulties, problems, samples; the corners that benchmarks/coverage.py names are not among them
    ((0.3, 0.3), 30, 1), ((0.3, 0.3), 30, 16), ((2, 2), 30, 4), ((20, 20), 30, 16), ((1, 19), 100, 1),
    ((1, 19), 30, 4), ((19, 1), 100, 4), ((19, 1), 30, 64), ((0.25, 4.75), 100, 16), ((0.3, 0.3), 500, 4),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "P", "k"), CASES)
def test_coverage_over_problems(shape, P, k):
    random, true, held = np.random.default_rng(7), shape[0] / sum(shape), 0
    for _ in range(1000):
        low, high = estimate_interval((random.binomial(k, random.beta(*shape, size=P)) / k).tolist())
        held += low <= true <= high
    assert 916 <= held <= 984  # 930 to 970, and two standard deviations of 7


@pytest.mark.parametrize(("shape", "k"), [((0.3, 0.3), 4), ((2, 2), 2), ((1, 19), 16), ((19, 1), 4)])
def test_coverage_on_the_same_problems(shape, k):
    random, held = np.random.default_rng(8), 0
    for _ in range(500):
        p = random.beta(*shape, size=30)
        low, high = same_problems((random.random((k, 30)) < p).T.astype(float).tolist())
        held += low <= p.mean() <= high
    assert 455 <= held <= 495


def test_the_simulation_would_see_intervals_that_are_too_narrow():
    """Counting samples instead of problems is the usual mistake; it holds the truth in far too few cases."""
    random, held = np.random.default_rng(7), 0
    for _ in range(300):
        mean = np.mean(random.binomial(16, random.beta(0.3, 0.3, size=30)) / 16)
        low, high = compute_wilson_interval(mean, mean * (1 - mean) / (30 * 16), 480, 1.96)
        held += low <= 0.5 <= high
    assert held < 180
