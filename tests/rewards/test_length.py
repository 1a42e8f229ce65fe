"""Length rewards at their corners, and what must hold everywhere between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_r1.errors import RecipeError
from open_r1.rewards.length import cosine_length, kimi_length, soft_overlong
from open_r1.rewards.verdict import Verdict

CORRECT, WRONG, UNKNOWN, ERROR = (Verdict(outcome) for outcome in ("correct", "wrong", "unknown", "error"))


@pytest.mark.parametrize(
    ("tokens", "cache", "score"),
    [
        (0, 20, 0.0),
        (80, 20, 0.0),
        (81, 20, -0.05),
        (90, 20, -0.5),
        (100, 20, -1.0),
        (101, 20, -1.0),
        (10**9, 20, -1.0),
        (90, 0.2, -0.5),
        (50, 100, -0.5),
        (100, 0, 0.0),
        (101, 0, -1.0),
        (100, 1, -1.0),
        (99, 1, 0.0),
    ],
)
def test_soft_overlong(tokens, cache, score):
    assert soft_overlong("", tokens, 100, cache=cache) == pytest.approx(score)


def test_soft_overlong_as_in_dapo():
    # 16,384 tokens free, 4,096 of cache
    assert [soft_overlong("", tokens, 20480) for tokens in (16384, 18432, 20480)] == pytest.approx([0.0, -0.5, -1.0])


@pytest.mark.parametrize("cache", [-1, -0.1, 101])
def test_a_cache_that_cannot_be(cache):
    with pytest.raises(RecipeError, match=r"soft_overlong: cache .* 100 tokens"):
        soft_overlong("", 50, 100, cache=cache)


@pytest.mark.parametrize(
    ("tokens", "verdict", "score"),
    [
        (0, CORRECT, 1.0),
        (25, CORRECT, 0.5 + 0.25 * (1 + 2**-0.5)),
        (50, CORRECT, 0.75),
        (100, CORRECT, 0.5),
        (150, CORRECT, 0.5),  # a cosine that went on would be at 0.75 again
        (200, CORRECT, 0.5),
        (0, WRONG, -1.0),
        (50, WRONG, -0.75),
        (100, WRONG, -0.5),
        (200, WRONG, -0.5),
        (50, UNKNOWN, None),
        (50, ERROR, None),
        (50, None, None),
    ],
)
def test_cosine_length(tokens, verdict, score):
    assert cosine_length("", tokens, 100, verdict) == pytest.approx(score)


def test_cosine_length_with_the_papers_figures():
    figures = {"max_correct": 2.0, "min_correct": 1.0, "min_wrong": -10.0, "max_wrong": 0.0, "exceeded": -10.0}
    expected = {(0, CORRECT): 2.0, (99, CORRECT): 1.0, (100, CORRECT): -10.0, (0, WRONG): -10.0, (100, WRONG): -10.0}
    for (tokens, verdict), score in expected.items():
        assert cosine_length("", tokens, 100, verdict, **figures) == pytest.approx(score, abs=1e-3)
    assert cosine_length("", 100, 100, UNKNOWN, **figures) is None


@pytest.mark.parametrize("scorer", [soft_overlong, lambda *a: cosine_length(*a, CORRECT)])
def test_without_a_limit_there_is_no_score(scorer):
    with pytest.raises(RecipeError, match="max_completion_length"):
        scorer("", 10, 0)


@pytest.mark.parametrize(
    ("tokens", "verdicts", "groups", "scores"),
    [
        ([10, 20, 30], [CORRECT] * 3, [0] * 3, [0.5, 0.0, -0.5]),
        ([10, 20, 30], [WRONG] * 3, [0] * 3, [0.0, 0.0, -0.5]),
        ([10, 15, 30], [WRONG, CORRECT, WRONG], [0] * 3, [0.0, 0.25, -0.5]),
        ([10, 10], [CORRECT, WRONG], [0] * 2, [0.0, 0.0]),
        ([10], [CORRECT], [0], [0.0]),
        ([], [], [], []),
        # each prompt has its own shortest and longest, wherever its samples stand
        ([10, 100, 30, 300], [CORRECT] * 4, [0, 7, 0, 7], [0.5, 0.5, -0.5, -0.5]),
        # what has no verdict is no yardstick
        ([1, 10, 30, 999], [UNKNOWN, CORRECT, CORRECT, None], [0] * 4, [None, 0.5, -0.5, None]),
        ([5, 9], [ERROR, UNKNOWN], [0] * 2, [None, None]),
    ],
)
def test_kimi_length(tokens, verdicts, groups, scores):
    assert kimi_length([""] * len(tokens), tokens, verdicts, groups) == pytest.approx(scores)


def test_kimi_length_of_a_batch_that_does_not_fit():
    with pytest.raises(ValueError):
        kimi_length(["", ""], [1, 2], [CORRECT], [0, 0])


LENGTHS = st.integers(0, 200)
VERDICTS = st.sampled_from([CORRECT, WRONG, UNKNOWN, ERROR, None])


@given(LENGTHS, LENGTHS, st.integers(1, 100), st.floats(0, 1, exclude_max=True))
def test_longer_is_never_better_or_worse_than_it_should(one, other, limit, cache):
    short, long = sorted((one, other))
    assert -1.0 <= soft_overlong("a", long, limit, cache=cache) <= soft_overlong("b", short, limit, cache=cache) <= 0.0
    assert 0.5 <= cosine_length("a", long, limit, CORRECT) <= cosine_length("b", short, limit, CORRECT) <= 1.0
    assert -1.0 <= cosine_length("a", short, limit, WRONG) <= cosine_length("b", long, limit, WRONG) <= -0.5


@given(st.lists(st.tuples(LENGTHS, VERDICTS, st.integers(0, 2))), st.randoms(use_true_random=False))
def test_kimi_length_depends_on_the_group_and_not_on_the_order(samples, random):
    def scores(samples):
        return kimi_length([""] * len(samples), *map(list, zip(*samples, strict=True))) if samples else []

    found = scores(samples)
    order = list(range(len(samples)))
    random.shuffle(order)
    assert scores([samples[i] for i in order]) == [found[i] for i in order]
    assert scores([(10 * tokens, verdict, group) for tokens, verdict, group in samples]) == found
    for (_, verdict, group), score in zip(samples, found, strict=True):
        assert (score is None) == (verdict is None or verdict.score is None)
        assert score is None or -0.5 <= score <= (0.5 if verdict is CORRECT else 0.0)
        of_group = [s for (_, _, g), s in zip(samples, found, strict=True) if g == group]
        assert scores([sample for sample in samples if sample[2] == group]) == of_group
