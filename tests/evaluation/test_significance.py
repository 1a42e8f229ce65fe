"""The sign-flip test against all signs there are, Holm against its table, and the level and the power they promise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open_r1.evaluation.intervals import estimate_interval
from open_r1.evaluation.significance import (
    Flip,
    are_uneven,
    compute_sign_flip_p,
    correct_holm,
    estimate_power,
    find_flips,
    pair_differences,
)

EIGHTHS = st.lists(st.integers(-8, 8).map(lambda x: x / 8), min_size=1, max_size=10)
THIRDS = st.lists(st.sampled_from([-1, -2 / 3, -1 / 3, 0, 1 / 3, 2 / 3, 1]), min_size=1, max_size=9)


def all_signs(d: list[float]) -> float:
    seen = abs(sum(d))
    sums = [sum(s * x for s, x in zip(signs, d, strict=True)) for signs in itertools.product((1, -1), repeat=len(d))]
    return sum(abs(total) >= seen - 1e-9 for total in sums) / len(sums)


@given(EIGHTHS | THIRDS)
def test_the_exact_test_counts_all_signs(d):
    assert compute_sign_flip_p(d) == pytest.approx(all_signs(d), abs=1e-12)


@given(EIGHTHS)
def test_none_zeros_order_and_sides_change_nothing(d):
    p = compute_sign_flip_p(d)
    assert 0 < p <= 1
    assert compute_sign_flip_p([None, *d[::-1], 0.0, None]) == pytest.approx(p, abs=1e-12)
    assert compute_sign_flip_p([-x for x in d]) == pytest.approx(p, abs=1e-12)


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.integers(1, 8))
def test_without_a_common_step_signs_are_drawn(seed, P):
    d = np.random.default_rng(seed).uniform(-1, 1, P).tolist()
    drawn = compute_sign_flip_p(d, draws=20_000)
    assert 0 < drawn <= 1
    assert drawn == pytest.approx(all_signs(d), abs=0.02)


def test_unequal_numbers_of_samples_are_still_exact():
    """Of 4, 3 and 2 samples: multiples of a twelfth."""
    d = [3 / 4 - 1 / 3, 1 / 2 - 1 / 4, -1 / 3, 2 / 3 - 1 / 2, 1.0]
    assert compute_sign_flip_p(d, draws=1) == pytest.approx(
        all_signs(d), abs=1e-12
    )  # one drawn sign could only say 1/2 or 1


def test_drawn_signs_are_the_same_every_time_and_never_zero():
    d = [math.sqrt(i + 2) / 10 for i in range(40)]
    assert compute_sign_flip_p(d, draws=999) == pytest.approx(1 / 1000)
    mixed = [x * (-1) ** (i % 3 == 0) for i, x in enumerate(d)]
    first, again, other = (compute_sign_flip_p(mixed, draws=999, seed=seed) for seed in (3, 3, 4))
    assert first == again != other


def test_extremes():
    assert compute_sign_flip_p([]) is None and compute_sign_flip_p([None]) is None
    assert compute_sign_flip_p([0.0, 0.0]) == 1
    assert compute_sign_flip_p([0.5]) == 1  # one problem tells nothing
    assert compute_sign_flip_p([0.1] * 5) == 2 / 32 and compute_sign_flip_p([0.1] * 6) == 2 / 64
    assert compute_sign_flip_p([1.0] * 500) == pytest.approx(2.0**-499)


def test_a_thousand_problems_are_still_exact():
    """The binomial tail for differences of one size: 700 of 1,319 up."""
    d = [1 / 64] * 700 + [-1 / 64] * 619
    tail = sum(math.comb(1319, i) for i in range(700, 1320)) * 2 / 2**1319
    assert compute_sign_flip_p(d) == pytest.approx(tail, rel=1e-9)


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # the usual worked example
        ([0.01, None, 0.04], [0.02, None, 0.04]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.03], [0.03]),
        ([], []),
    ],
)
def test_holm(p_values, corrected):
    assert correct_holm(p_values) == [None if p is None else pytest.approx(p) for p in corrected]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_what_its_steps_reject(p_values):
    """Step by step from the smallest: at 5% of what is left, until the first that is not."""
    left, rejected = sorted(range(len(p_values)), key=p_values.__getitem__), set()
    while left and p_values[left[0]] * len(left) <= 0.05:
        rejected.add(left.pop(0))
    assert {i for i, p in enumerate(correct_holm(p_values)) if p <= 0.05} == rejected


def runs(random: np.random.Generator, shape: tuple[float, float], P: int, k: int, gain: float = 0.0):
    p = random.beta(*shape, size=P)
    better = p + (1 - p) * 2 * gain * random.random(P)
    return random.binomial(k, p), random.binomial(k, better)


@pytest.mark.parametrize("shape", [(0.3, 0.3), (20, 20), (1, 19)])
@pytest.mark.parametrize(("P", "k"), [(30, 1), (30, 4), (30, 16), (500, 1), (500, 16)])
def test_two_runs_of_one_model_rarely_differ(shape, P, k):
    random, simulations = np.random.default_rng(P + k), 400 if P == 30 else 150
    alarms = missed = 0
    for _ in range(simulations):
        a, b = runs(random, shape, P, k)
        d = ((b - a) / k).tolist()
        alarms += compute_sign_flip_p(d) <= 0.05
        low, high = estimate_interval(d, bounds=(-1.0, 1.0))
        missed += not low <= 0 <= high
    noise = 2.5 * math.sqrt(0.05 * 0.95 * simulations)
    assert alarms <= 0.05 * simulations + noise
    assert missed <= 0.07 * simulations + noise


def unequal_alarms(a: int, b: int) -> int:
    """Of 400 tests of 30 hard problems, with a and b samples from the same model."""
    random, alarms = np.random.default_rng(a + b), 0
    for _ in range(400):
        p = random.beta(1, 19, size=30)
        d = random.binomial(b, p) / b - random.binomial(a, p) / a
        alarms += compute_sign_flip_p(d.tolist(), draws=2000) <= 0.05
    return alarms


@pytest.mark.parametrize(("a", "b"), [(16, 4), (64, 16), (8, 4)])
def test_somewhat_unequal_numbers_of_samples_raise_no_more_false_alarms(a, b):
    assert not are_uneven([a] * 30, [b] * 30) and unequal_alarms(a, b) <= 20 + 2.5 * math.sqrt(0.05 * 0.95 * 400)


@pytest.mark.parametrize(("a", "b"), [(16, 1), (1, 16), (64, 1)])
def test_where_numbers_are_called_uneven_the_test_does_raise_false_alarms(a, b):
    assert are_uneven([a] * 30, [b] * 30) and unequal_alarms(a, b) > 60


def test_uneven():
    assert are_uneven([4] * 30, [1] * 30) and not are_uneven([3] * 30, [1] * 30)
    assert not are_uneven([16] * 30, [1] * 3 + [16] * 27) and are_uneven([16] * 30, [1] * 4 + [16] * 26)
    assert not are_uneven([16] * 30, [0] * 20 + [16] * 10), "a problem without a verdict is no difference"
    assert not are_uneven([], []) and not are_uneven([4], [0])


def test_a_test_that_takes_samples_for_problems_raises_false_alarms():
    """What the level above is there to see: differences that all problems share are no evidence of each sample."""
    random, alarms = np.random.default_rng(0), 0
    for _ in range(200):
        a, b = random.binomial(4, random.beta(0.3, 0.3, size=(2, 30)))  # other problems on the other side
        alarms += compute_sign_flip_p(np.repeat((b - a) / 4, 4).tolist()) <= 0.05
    assert alarms > 30


@pytest.mark.parametrize(("shape", "k", "gain"), [((2, 2), 4, 0.1), ((0.3, 0.3), 16, 0.1), ((1, 19), 4, 0.05)])
def test_as_many_problems_as_it_asks_for_tell_the_difference(shape, k, gain):
    random = np.random.default_rng(5)
    a, b = runs(random, shape, 20_000, k, gain)
    true = gain * shape[1] / sum(shape)
    plan = estimate_power(a, [k] * len(a), b, [k] * len(b), true)

    def told(P: int) -> int:
        tests = 0
        for _ in range(200):
            a, b = runs(random, shape, P, k, gain)
            tests += compute_sign_flip_p(((b - a) / k).tolist()) <= 0.05
        return tests

    assert 140 <= told(plan.problems) <= 185
    assert told(plan.problems // 3) < 110


def test_power_splits_the_variance():
    """Two models with p = 1/2 everywhere: all of the spread is luck, 2 p (1 - p) / k of each difference."""
    random, k = np.random.default_rng(1), 8
    a, b = random.binomial(k, 0.5, size=(2, 5000))
    plan = estimate_power(a, [k] * 5000, b, [k] * 5000, 0.05)
    assert plan.within == pytest.approx(1, abs=0.05)
    reach = 1.959964 + 0.841621
    assert plan.problems == pytest.approx(2 * 0.25 / k * (reach / 0.05) ** 2, rel=0.06)
    assert plan.detectable == pytest.approx(reach * math.sqrt(2 * 0.25 / k / 5000), rel=0.03)
    # As many samples in all, whether of many problems or of few.
    few = estimate_power(a[:100], [k] * 100, b[:100], [k] * 100, 0.05)
    assert few.samples * 100 == pytest.approx(plan.problems * k, rel=0.3)


def test_power_by_hand():
    """Of two samples each, A has one right everywhere: p (1 - p) k / (k - 1) = 1/2 of one, 1/4 of two."""
    plan = estimate_power([1] * 10, [2] * 10, [0, 2] * 5, [2] * 10, 0.5)
    variance = 0.25 * 10 / 9
    assert plan.within == pytest.approx(0.25 / variance)
    plan = estimate_power([0, 2] * 5, [2] * 10, [1] * 10, [2] * 10, 0.5)
    assert plan.within == pytest.approx(0.25 / variance)
    # 2/7 (1.96 + 0.84)^2 / 0.5^2 = 8.97, and 1.92 as the variance is not known.
    assert estimate_power([0] * 8, [1] * 8, [1, 0] * 4, [1] * 8).problems == 11


def test_no_number_of_samples_helps_where_the_problems_differ():
    """Half of the problems won, half but two lost, all for sure: only more problems tell."""
    a, b = [0] * 11 + [8] * 9, [8] * 11 + [0] * 9
    plan = estimate_power(a, [8] * 20, b, [8] * 20)
    assert plan.samples is None and plan.within == 0
    assert plan.problems > 500


def test_power_where_little_can_be_said():
    assert estimate_power([1], [4], [2], [4]) is None
    assert estimate_power([1, 2], [4, 0], [2, 1], [4, 4]) is None
    single = estimate_power([1, 0, 1, 0], [1] * 4, [1, 1, 1, 0], [1] * 4)
    assert single.within is None and single.samples is None and single.problems > 6
    same = estimate_power([2, 3, 1, 4], [4] * 4, [2, 3, 1, 4], [4] * 4)
    assert same.problems is None and same.samples is None and same.detectable == 0 and same.within is None
    sure = estimate_power([0] * 3, [4] * 3, [4] * 3, [4] * 3)
    assert sure.problems == 6 and sure.samples is None  # three problems are too few, however sure


def test_a_larger_difference_takes_less():
    a, b = runs(np.random.default_rng(2), (2, 2), 200, 4, 0.1)
    plans = [estimate_power(a, [4] * 200, b, [4] * 200, difference) for difference in (0.02, 0.05, -0.05, 0.2)]
    assert plans[0].problems > plans[1].problems == plans[2].problems > plans[3].problems
    assert estimate_power(a, [4] * 200, b, [4] * 200, 0.05, power=0.9).problems > plans[1].problems


def test_paired_and_flipped():
    a, b = [0.25, 1.0, None, 0.5, 0.75, 0.0], [0.75, 0.0, 1.0, 0.75, 1.0, None]
    assert pair_differences(a, b) == [0.5, -1.0, None, 0.25, 0.25, None]
    # At one half neither has solved it; from there to three quarters it is.
    assert find_flips(a, b) == [Flip(1, 1.0, 0.0), Flip(0, 0.25, 0.75), Flip(3, 0.5, 0.75)]
    assert find_flips([0.5], [0.25]) == [] and find_flips([], []) == []
    with pytest.raises(ValueError):
        pair_differences([0.5], [])
