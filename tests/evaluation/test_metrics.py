"""Every metric against the plain count of all subsets, or exact fractions; what is no evidence; real votes."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st

from open_r1.benchmarks.registry import parse_metric, resolve_metric
from open_r1.errors import RecipeError
from open_r1.evaluation import majority_vote, metrics
from open_r1.evaluation.intervals import compute_t_quantile, compute_wilson_interval
from open_r1.evaluation.majority_vote import Votes, compute_majority
from open_r1.evaluation.metrics import Problem, compute_figures, fails_at
from open_r1.rewards.math.scorers import compute_vote_key


def row(verdict: str = "correct", vote: str | None = "7", *, problem: str = "p0", **columns: object) -> dict:
    sample = {
        "benchmark": "b", "problem": problem, "row": int(problem[1:]), "sample": 0, "tokens": 100, "answer": vote,
        "finish_reason": "stop", "verdict": verdict, "reason": "", "vote": vote, "format": 1.0, "language": None,
    }  # fmt: skip
    return sample | columns


def rows(marks: str, problem: str = "p0", **columns: object) -> list[dict]:
    """`ccw?!`: right and wrong ones, unknown and error."""
    verdicts = {"c": "correct", "w": "wrong", "?": "unknown", "!": "error"}
    return [
        row(verdicts[mark], {"c": "7", "w": "8"}.get(mark), problem=problem, reason={"?": "no gold"}.get(mark, ""))
        | columns
        for mark in marks
    ]


def value(judged_PK: list[list[dict]], name: str) -> float | None:
    return compute_figures(judged_PK, [name])["metrics"][name]["value"]


# One sample: its vote and whether it is right. Votes for one answer may be right and wrong.
SAMPLES = st.lists(st.tuples(st.sampled_from([None, "a", "b", "c", "d"]), st.booleans()), min_size=1, max_size=8)


def counted(samples: list[tuple[str | None, bool]], m: int) -> float:
    """maj@m by its definition, over all subsets."""
    share = {
        vote: Fraction(sum(r for v, r in samples if v == vote), sum(v == vote for v, _ in samples))
        for vote, _ in samples
    }
    won, subsets = Fraction(0), 0
    for subset in itertools.combinations([vote for vote, _ in samples], m):
        votes = Counter(vote for vote in subset if vote is not None)
        top = [vote for vote, count in votes.items() if count == max(votes.values())]
        won += sum(share[vote] for vote in top) / max(1, len(top))
        subsets += 1
    return float(won / subsets)


def as_votes(samples: list[tuple[str | None, bool]]) -> Votes:
    return majority_vote.count_votes([row("correct" if right else "wrong", vote) for vote, right in samples])


@given(SAMPLES)
def test_majority_is_the_count_of_all_subsets(samples):
    exact = compute_majority(as_votes(samples))
    assert len(exact) == len(samples)
    assert exact == pytest.approx([counted(samples, m) for m in range(1, len(samples) + 1)], abs=1e-12)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcdefghijkl"), st.just(False)), min_size=10, max_size=12), st.integers(0, 3)
)
def test_majority_with_many_classes_and_ties(wrong, right):
    samples = [*wrong, *[("right", True)] * right]
    assert compute_majority(as_votes(samples)) == pytest.approx(
        [counted(samples, m) for m in range(1, len(samples) + 1)], abs=1e-12
    )


def test_majority_by_hand():
    # Three answers, one vote each: always a tie of all that were drawn.
    assert compute_majority(Votes(0, ((1, 0.0), (1, 0.0), (1, 1.0)))) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    # Two right of three: a pair is right-right once, and a tie twice.
    assert compute_majority(Votes(0, ((1, 0.0), (2, 1.0)))) == pytest.approx((2 / 3, 2 / 3, 1))
    # One that does not vote takes a place; alone it is wrong.
    assert compute_majority(Votes(1, ((1, 1.0),))) == pytest.approx((1 / 2, 1))
    assert compute_majority(Votes(3, ())) == (0, 0, 0)
    assert compute_majority(Votes(0, ((4, 0.25),))) == pytest.approx([0.25] * 4)


@pytest.mark.parametrize("n", [64, 200, 1000])
def test_majority_of_two_answers_is_the_hypergeometric_tail(n):
    """An independent closed form, in exact integers, at sizes no enumeration reaches."""
    right = n * 11 // 20
    exact = compute_majority(Votes(0, ((n - right, 0.0), (right, 1.0))))
    for m in {1, 2, 3, n // 3, n // 2, n - 1, n}:
        ways = [math.comb(right, t) * math.comb(n - right, m - t) for t in range(m + 1)]
        won = sum(ways[t] for t in range(m + 1) if 2 * t > m) + Fraction(ways[m // 2], 2) * (m % 2 == 0)
        assert exact[m - 1] == pytest.approx(float(won / math.comb(n, m)), abs=1e-12)


@pytest.mark.parametrize("n", [64, 300])
def test_majority_where_all_answers_differ(n):
    """Every subset is a tie of all that it holds."""
    assert compute_majority(Votes(0, tuple([(1, 0.0)] * (n - 1) + [(1, 1.0)]))) == pytest.approx(
        [1 / n] * n, abs=1e-12
    )


@pytest.mark.parametrize(("n", "c"), [(4, 0), (4, 1), (4, 4), (16, 3), (64, 1), (64, 40), (3000, 7), (3000, 2990)])
def test_pass_at_k_is_the_ratio_of_binomials(n, c):
    fails_N = fails_at(n, c)
    for k in {1, 2, n // 2, n - 1, n}:
        assert fails_N[k - 1] == pytest.approx(float(Fraction(math.comb(n - c, k), math.comb(n, k))), rel=1e-10)


@pytest.mark.parametrize(("n", "p", "k"), [(8, 0.3, 1), (8, 0.3, 4), (12, 0.8, 3), (6, 0.05, 2)])
def test_the_variance_of_pass_at_k_is_unbiased(n, p, k):
    """Over all outcomes of n samples: its mean is the variance that pass@k truly has."""
    chance = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    told = [1 - fails_at(n, c)[k - 1] for c in range(n + 1)]
    mean = sum(w * x for w, x in zip(chance, told, strict=True))
    assert mean == pytest.approx(1 - (1 - p) ** k)
    true = sum(w * (x - mean) ** 2 for w, x in zip(chance, told, strict=True))
    assert sum(w * metrics.pass_variance(n, c, k) for c, w in enumerate(chance)) == pytest.approx(true)


def test_the_variance_of_a_vote_is_that_of_votes_cast_again():
    """Of 20 problems whose answers are near a tie or not; told from one set of samples, and from 2,000 in truth."""
    random = np.random.default_rng(0)
    true = told = 0.0
    for p in np.linspace(0.1, 0.9, 20):
        cast = random.binomial(32, p, size=2000)
        true += np.where(2 * cast == 32, 0.5, cast > 16).var()
        votes = [Votes(0, tuple(sorted([(32 - c, 0.0), (c, 1.0)]))) for c in cast[:20].tolist()]
        told += np.mean([majority_vote.compute_vote_variance(vote, 32, random) for vote in votes])
    assert told == pytest.approx(true, rel=0.2)


def test_drawing_only_those_that_do_not_vote_is_wrong():
    """One sample, right and voting in half of the draws: 1/4, of 15 as of 16 samples."""
    told = majority_vote.compute_vote_variance(Votes(8, ((8, 1.0),)), 1, np.random.default_rng(0))
    assert told == pytest.approx(1 / 4 / 15, rel=0.1)


@pytest.mark.parametrize(
    ("name", "k", "resolved"),
    [("pass@1", 1, "pass@1"), ("pass@k", 16, "pass@16"), ("maj@k", 64, "maj@64"), ("maj@8", 64, "maj@8")],
)
def test_resolve(name, k, resolved):
    assert resolve_metric(name, k) == resolved
    assert parse_metric(resolved) == (resolved.split("@")[0], int(resolved.split("@")[1]))


@pytest.mark.parametrize(
    ("name", "k", "message"),
    [
        ("maj@k", 1, "k is 1 and maj@k asks for a vote"),
        ("maj@1", 8, "maj@1 asks for a vote, which takes 2"),
        ("pass@8", 4, "pass@8 needs 8 samples of each problem, and k is 4"),
        ("maj@64", 16, "needs 64 samples"),
        ("accuracy", 4, "'accuracy' is none; known: pass@<n>, maj@<n>"),
        ("pass@0", 4, "'pass@0' is none"),
        ("pass@-1", 4, "is none"),
        ("pass@1 ", 4, "is none"),
        ("cons@64", 64, "is none"),
        (3, 4, "3 is none"),
        ("maj@16", 2000, "at most 1,000"),
    ],
)
def test_metrics_that_cannot_be_had(name, k, message):
    with pytest.raises(RecipeError, match="metrics: ") as told:
        resolve_metric(name, k)
    assert message in str(told.value)


def test_unknown_and_error_are_no_evidence():
    told = compute_figures([rows("cw??"), rows("c!!!", "p1"), rows("??", "p2")], ["pass@1"])
    assert told["metrics"]["pass@1"] | {"low": 0, "high": 0} == {
        "value": 0.75, "low": 0, "high": 0, "same_problems": None, "problems": 2,
    }  # fmt: skip
    # All eight others wrong, then right: by problem 1/4 or 3/4, 1/4 or 1, 0 or 1.
    assert told["bounds"]["pass@1"] == pytest.approx([(1 / 4 + 1 / 4 + 0) / 3, (3 / 4 + 1 + 1) / 3])
    assert told["shares"]["unknown"]["value"] == 0.4 and told["shares"]["error"]["value"] == 0.3
    assert told["shares"]["correct"]["value"] == 0.2 and told["shares"]["wrong"]["value"] == 0.1
    assert told["reasons"] == {"no gold": 4, "": 3}
    assert [line["pass@1"] for line in told["by_problem"]] == [0.5, 1.0, None]
    assert [(line["samples"], line["evidence"], line["correct"]) for line in told["by_problem"]] == [
        (4, 2, 1), (4, 1, 1), (2, 0, 0),
    ]  # fmt: skip


def test_errors_are_not_wrong_answers():
    """The near miss: a judge that failed on every second sample changes the share of evidence, not the score."""
    assert value([rows("cw!!")], "pass@1") == value([rows("cw")], "pass@1") == 0.5 != value([rows("cwww")], "pass@1")


def test_all_unknown_has_no_score():
    told = compute_figures([rows("????"), rows("!!", "p1")], ["pass@1", "maj@4"])
    nothing = {"value": None, "low": None, "high": None, "same_problems": None, "problems": 0}
    assert told["metrics"] == {"pass@1": nothing, "maj@4": nothing}
    assert told["bounds"] == {"pass@1": [0, 1], "maj@4": [0, 1]}
    assert told["curves"] == {"pass": [], "maj": None}


def test_nothing_at_all():
    told = compute_figures([], ["pass@1"])
    assert told["problems"] == told["samples"] == 0
    assert told["metrics"]["pass@1"]["value"] is None and told["bounds"]["pass@1"] is None
    assert told["tokens"]["median"] is None and told["shares"]["truncated"]["value"] is None
    with pytest.raises(ValueError, match="problem 1 of the evaluation has no samples"):
        compute_figures([rows("c"), []], ["pass@1"])


def test_one_sample_of_one_problem():
    told = compute_figures([rows("c")], ["pass@1"])
    assert told["metrics"]["pass@1"] == {"value": 1, "low": 0, "high": 1, "same_problems": None, "problems": 1}
    assert told["curves"] == {"pass": [1], "maj": [1]}
    assert told["tokens"] == {"mean": {"value": 100, "low": None, "high": None}} | dict.fromkeys(
        ("p10", "median", "p90", "max"), 100
    )


def test_problems_count_alike_whatever_their_evidence():
    """Three of four and one of one: 7/8, not 4/5; and a problem with less evidence takes all it has."""
    judged = [rows("cccw"), rows("c???", "p1")]
    told = compute_figures(judged, ["pass@2", "maj@2", "pass@1"])["metrics"]
    assert told["pass@1"]["value"] == pytest.approx(7 / 8) and "short" not in told["pass@1"]
    assert told["pass@2"]["value"] == pytest.approx(1) and told["pass@2"]["short"] == 1
    assert told["maj@2"]["value"] == pytest.approx((3 / 6 + 3 / 6 * 1 / 2 + 1) / 2)
    curves = compute_figures(judged, ["pass@1"])["curves"]
    assert curves["pass"] == pytest.approx([7 / 8, 1, 1, 1])
    assert curves["maj"] == pytest.approx([7 / 8, 7 / 8, 1, 1])


def test_the_curves_end_at_the_metrics():
    judged = [rows("ccwcw"), rows("wwwcw", "p1"), rows("ccccc", "p2")]
    told = compute_figures(judged, ["pass@k", "maj@5", "pass@5", "maj@3"])
    assert list(told["metrics"]) == ["pass@5", "maj@5", "maj@3"]
    for name, metric in told["metrics"].items():
        kind, n = parse_metric(name)
        assert told["curves"][kind][n - 1] == pytest.approx(metric["value"])
        assert metric["low"] <= metric["value"] <= metric["high"]
        assert metric["value"] == pytest.approx(np.mean([line[name] for line in told["by_problem"]]))


def test_no_votes_no_curve_of_them():
    """A verifier of programs compares no answers."""
    told = compute_figures([[row("correct", None), row("wrong", None)]], ["pass@1"])
    assert told["curves"]["maj"] is None and told["shares"]["no_answer"]["value"] is None


def test_an_answer_judged_both_ways_counts_with_its_mean():
    samples = [row("correct", "7"), row("wrong", "7"), row("wrong", "8")]
    assert value([samples], "maj@3") == pytest.approx(0.5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("cw?!", min_size=1, max_size=6), min_size=1, max_size=5))
def test_the_bounds_hold_the_score(marks):
    told = compute_figures([rows(m, f"p{i}") for i, m in enumerate(marks)], ["pass@1", "pass@2", "maj@2", "maj@6"])
    for name, metric in told["metrics"].items():
        low, high = told["bounds"][name]
        assert 0 <= low <= high <= 1
        if metric["value"] is not None:
            assert low - 1e-12 <= metric["value"] <= high + 1e-12
        if not {"?", "!"} & set("".join(marks)):
            assert low == high == pytest.approx(metric["value"])


def test_the_bounds_of_a_vote():
    """Two right, two wrong, two unknown: the unknown decide it either way."""
    told = compute_figures([rows("ccww??")], ["maj@6"])
    assert told["metrics"]["maj@6"]["value"] == 0.5 and told["bounds"]["maj@6"] == [0, 1]
    assert compute_figures([rows("ccccw?")], ["maj@6"])["bounds"]["maj@6"] == [1, 1]
    assert compute_figures([rows("ww?")], ["maj@3"])["bounds"]["maj@3"] == [0, 0]


def test_same_problems_only_where_the_samples_can_say():
    few = compute_figures([rows("cw", f"p{i}") for i in range(30)], ["pass@1", "pass@2", "maj@2"])["metrics"]
    assert few["pass@2"]["same_problems"] is None  # no two sets of two among two
    low, high = few["pass@1"]["same_problems"]
    assert low < 0.5 < high and few["maj@2"]["same_problems"] is not None
    scores_PK = [[1, 0], [1, 1], [0, 0]] * 10
    judged = [rows("".join("wc"[s] for s in scores), f"p{i}") for i, scores in enumerate(scores_PK)]
    # A third of the problems have a variance, 1/4 of two samples, of p (1 - p) k / (k - 1) = 1/2 of one.
    by_hand = compute_wilson_interval(0.5, 10 * (1 / 2) / 2 / 30**2, 60, compute_t_quantile(0.975, 30))
    assert compute_figures(judged, ["pass@1"])["metrics"]["pass@1"]["same_problems"] == pytest.approx(by_hand)


def test_shares_and_lengths_are_of_samples():
    judged = [
        [row(tokens=10, format=0.0), row(tokens=20, finish_reason="length", language=0.5)],
        [
            row(problem="p1", tokens=60),
            row("unknown", None, problem="p1", tokens=0, finish_reason="refused", format=None),
        ],
        [row("wrong", None, problem="p2", tokens=30, language=1.0)],
    ]  # fmt: skip
    told = compute_figures(judged, ["pass@1"])
    shares = {name: share["value"] for name, share in told["shares"].items()}
    assert shares == pytest.approx(
        {
            "format": 3 / 4, "language": 0.75, "truncated": 1 / 5, "correct": 3 / 5, "wrong": 1 / 5, "unknown": 1 / 5,
            "error": 0, "refused": 1 / 5, "no_answer": 2 / 5,
        }
    )  # fmt: skip
    low, high = (told["shares"]["format"][end] for end in ("low", "high"))
    assert 0 <= low < 0.75 < high <= 1
    assert told["tokens"]["mean"]["value"] == 30 and told["tokens"]["max"] == 60 and told["tokens"]["median"] == 25
    assert told["tokens"]["mean"]["low"] <= 30 <= told["tokens"]["mean"]["high"]
    assert [line["tokens"] for line in told["by_problem"]] == [15, 60, 30]
    assert [line["truncated"] for line in told["by_problem"]] == [1, 0, 0]


def test_the_figures_are_the_same_every_time_and_are_json():
    random = np.random.default_rng(0)
    judged = [
        rows("".join(random.choice(list("ccww?"), 8)), f"p{i}", tokens=int(random.integers(9, 900))) for i in range(40)
    ]
    names = ["pass@1", "pass@4", "maj@k"]
    first, again = compute_figures(judged, names, seed=5), compute_figures(judged, names, seed=5)
    assert first == again == json.loads(json.dumps(first, allow_nan=False))
    wide, narrow = (compute_figures(judged, names, level=level)["metrics"]["pass@1"] for level in (0.99, 0.8))
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]


def long_run(samples: list[tuple[str | None, bool]], m: int, draws: int) -> tuple[float, float]:
    """maj@m by many random subsets, and its standard error."""
    random = np.random.default_rng(m)
    names = sorted({vote for vote, _ in samples if vote is not None})
    share = np.array([np.mean([r for v, r in samples if v == name]) for name in names])
    place = {name: i for i, name in enumerate([None, *names])}
    of_sample = np.eye(len(names) + 1)[[place[vote] for vote, _ in samples]]
    chosen = random.permuted(np.tile(np.arange(len(samples)), (draws, 1)), axis=1)[:, :m]
    votes = of_sample[chosen].sum(1)[:, 1:]
    top = (votes == votes.max(1, keepdims=True)) & (votes > 0)
    won = top @ share / np.maximum(1, top.sum(1))
    return float(won.mean()), float(won.std() / math.sqrt(draws))


def test_votes_of_real_predictions():
    """Every m of real problems: all subsets where they are few, random ones where they are not; and pass@k."""
    problems = [json.loads(line) for line in shared("oracle", "votes.jsonl").read_text().splitlines()]
    assert len(problems) == 70
    counted_ones = 0
    for problem in problems:
        keys = [None if answer is None else str(compute_vote_key(answer)) for answer in problem["preds"]]
        samples = list(zip(keys, problem["correct"], strict=True))
        n, c = len(samples), sum(problem["correct"])
        exact, fails_N = compute_majority(as_votes(samples)), fails_at(n, c)
        # A right answer that casts no vote counts for pass@1, and is lost in a vote.
        assert exact[0] == pytest.approx(sum(r for v, r in samples if v is not None) / n)
        for m in range(1, n + 1):
            assert fails_N[m - 1] == pytest.approx(float(Fraction(math.comb(n - c, m), math.comb(n, m))), abs=1e-12)
            if math.comb(n, m) <= 800:
                assert exact[m - 1] == pytest.approx(counted(samples, m), abs=1e-12)
                counted_ones += 1
            elif m % 6 == 0:
                mean, error = long_run(samples, m, 400)
                assert abs(exact[m - 1] - mean) <= 5 * error + 0.01
    assert counted_ones > 400


def test_problem_values_take_what_there_is():
    problem = Problem.of(rows("cw?"))
    assert problem == Problem(2, 1, 1, Votes(0, ((1, 0.0), (1, 1.0))))
    assert [problem.value("pass", n) for n in (1, 2, 9)] == [0.5, 1, 1]
    assert [problem.value("maj", n) for n in (1, 2, 9)] == pytest.approx([0.5, 0.5, 0.5])
