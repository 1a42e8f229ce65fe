"""Figures of an evaluation: pass@1, pass@k, majority votes, shares and lengths, each with an interval.

A sample's verdict is evidence if it is `correct` or `wrong`. Metrics leave out samples with `unknown` or `error`; the
shares of these are reported, with bounds of each metric. Nested lists carry their axes: P problems, K samples.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..benchmarks.registry import MOST_VOTES, parse_metric
from .intervals import Interval, compute_t_quantile, compute_wilson_interval, estimate_interval
from .majority_vote import Row, Votes, compute_majority, compute_vote_variance, count_votes

EVIDENCE = ("correct", "wrong")
DOUBT = ("unknown", "error")
REASONS = 20  # kept reasons of unknown and error, the most frequent first


@lru_cache(maxsize=1 << 12)
def compute_fail_chances(n: int, c: int) -> tuple[float, ...]:
    """Probabilities that none of k = 1..n samples is right, drawn without replacement from n of which c are right.

    1 minus this is the unbiased pass@k of Chen et al. 2021, equation 1: 1 - C(n - c, k) / C(n, k). The ratio is
    multiplied factor by factor, because binomials of thousands overflow a float.

    Args:
        n: number of samples.
        c: number of right ones.

    Returns:
        Probabilities [n] for k = 1 to n.

    Example:
        >>> compute_fail_chances(4, 1)
        (0.75, 0.5, 0.25, 0.0)
    """
    i = np.arange(n)
    return tuple(np.cumprod(np.maximum(n - c - i, 0) / (n - i)).tolist())


class Problem(NamedTuple):
    """Counts of one problem's samples, from which all metrics are computed.

    Attributes:
        evidence: number of samples with the verdict correct or wrong.
        correct: number of correct ones.
        doubtful: number of samples with the verdict unknown or error.
        votes: votes of the samples with evidence.

    Example:
        >>> verdicts = {"a": "correct", "b": "wrong", None: "unknown"}
        >>> votes = ["a", "a", "b", None]
        >>> Problem.from_samples([{"verdict": verdicts[vote], "vote": vote} for vote in votes])
        Problem(evidence=3, correct=2, doubtful=1, votes=Votes(silent=0, classes=((1, 0.0), (2, 1.0))))
    """

    evidence: int
    correct: int
    doubtful: int
    votes: Votes

    @classmethod
    def from_samples(cls, samples_K: list[Row]) -> Problem:
        evidence = [sample for sample in samples_K if sample["verdict"] in EVIDENCE]
        correct = sum(sample["verdict"] == "correct" for sample in evidence)
        return cls(len(evidence), correct, len(samples_K) - len(evidence), count_votes(evidence))

    def compute_curve(self, kind: str) -> tuple[float, ...]:
        """pass@1 or maj@1 up to the metric of all samples with evidence."""
        if kind == "maj":
            return compute_majority(self.votes)
        return tuple(1 - fails for fails in compute_fail_chances(self.evidence, self.correct))

    def compute_metric(self, kind: str, n: int) -> float | None:
        """pass@n or maj@n of this problem; with fewer than n samples with evidence, of these; None without any."""
        return self.compute_curve(kind)[min(n, self.evidence) - 1] if self.evidence else None

    def settle_doubtful(self, right: bool) -> Problem:
        """The problem with all doubtful samples right and voting for the best answer, or wrong and for the worst."""
        if not self.doubtful:
            return self
        classes, verdict = list(self.votes.classes), float(right)
        size, share = max(classes, key=lambda c: (c[1] if right else -c[1], c[0]), default=(0, 1 - verdict))
        if share == 1 - verdict:
            size, share = 0, verdict  # no class has this verdict
        else:
            classes.remove((size, share))
        joined = size + self.doubtful
        classes.append((joined, (size * share + self.doubtful * verdict) / joined))
        samples, correct = self.evidence + self.doubtful, self.correct + (self.doubtful if right else 0)
        return Problem(samples, correct, 0, Votes(self.votes.silent, tuple(sorted(classes))))


def measure_metric(name: str, problems_P: list[Problem], level: float, seed: int) -> dict[str, Any]:
    """A metric with its intervals.

    Args:
        name: `pass@<n>` or `maj@<n>`.
        problems_P: problems without evidence are left out.
        level: of the intervals.
        seed: of the resampling.

    Returns:
        `value`; `low` and `high`, for other problems of this kind; `same_problems`, the interval for other samples of
        the same problems, None if these samples do not show it; `problems`, the number with evidence; and `short`, the
        number with less evidence than n, if there are any.
    """
    kind, n = parse_metric(name)
    values_P = [problem.compute_metric(kind, n) for problem in problems_P]
    known_P = [value for value in values_P if value is not None]
    if not known_P:
        return {"value": None, "low": None, "high": None, "same_problems": None, "problems": 0}
    low, high = estimate_interval(values_P, level=level)
    again = estimate_sample_interval(kind, n, problems_P, level, seed)
    figure = {
        "value": float(np.mean(known_P)),
        "low": low,
        "high": high,
        "same_problems": again and list(again),
        "problems": len(known_P),
    }
    short = sum(0 < problem.evidence < n for problem in problems_P)
    return figure | ({"short": short} if short else {})


def estimate_sample_interval(kind: str, n: int, problems_P: list[Problem], level: float, seed: int) -> Interval | None:
    """Interval of a metric over other samples of the same problems; None where these samples do not show it.

    pass@n needs 2n samples with evidence of every problem, a vote needs two.
    """
    problems_P = [problem for problem in problems_P if problem.evidence]
    least = 2 * n if kind == "pass" else 2
    if any(problem.evidence < least for problem in problems_P):
        return None
    random = np.random.default_rng(seed)
    variance = sum(
        compute_pass_variance(p.evidence, p.correct, n)
        if kind == "pass"
        else compute_vote_variance(p.votes, n, random)
        for p in problems_P
    )
    value = float(np.mean([problem.compute_metric(kind, n) for problem in problems_P]))
    samples = sum(p.evidence for p in problems_P)
    t = compute_t_quantile((1 + level) / 2, samples - len(problems_P))
    # A vote of n samples is one observation.
    observations = samples if kind == "pass" else max(len(problems_P), samples // n)
    return compute_wilson_interval(value, variance / len(problems_P) ** 2, observations, t)


def compute_pass_variance(n: int, c: int, k: int) -> float:
    """Unbiased variance of pass@k over other samples of the problem, for 2k <= n.

    The square of the estimate minus the probability that two disjoint sets of k samples both fail, which is an
    unbiased estimate of the squared expectation. For k = 1 this is the well-known p (1 - p) / (n - 1).

    Args:
        n: number of samples.
        c: number of right ones.
        k: of pass@k.

    Example:
        >>> round(compute_pass_variance(4, 1, 1), 6)  # 0.25 * 0.75 / 3
        0.0625
    """
    fails_N = compute_fail_chances(n, c)
    return max(0.0, fails_N[k - 1] ** 2 - fails_N[2 * k - 1])


def compute_bounds(name: str, problems_P: list[Problem]) -> list[float] | None:
    """A metric with all samples without evidence counted as wrong, and as right; None without problems."""
    if not problems_P:
        return None
    kind, n = parse_metric(name)
    wrong, right = (
        [p.settle_doubtful(all_right).compute_metric(kind, n) for p in problems_P] for all_right in (False, True)
    )
    return [float(np.mean(wrong)), float(np.mean(right))]


def compute_shares(judged_PK: list[list[Row]], level: float, seed: int) -> dict[str, Any]:
    """Shares of samples: well formed, in the problem's language, truncated, by verdict, refused, without an answer."""
    found = {name: _average_samples(judged_PK, name, level, seed) for name in ("format", "language")}
    cut_PK = [
        [{"truncated": float(s["finish_reason"] == "length")} for s in samples if s["finish_reason"] is not None]
        for samples in judged_PK
    ]
    found["truncated"] = _average_samples(cut_PK, "truncated", level, seed)
    samples = [sample for samples in judged_PK for sample in samples]
    counts = {verdict: sum(s["verdict"] == verdict for s in samples) for verdict in EVIDENCE + DOUBT}
    counts["refused"] = sum(s["finish_reason"] == "refused" for s in samples)
    answered = sum(s["answer"] is not None for s in samples)
    # A verifier of programs, for instance, reads no answers, so none is missing.
    counts["no_answer"] = len(samples) - answered if answered else None
    return found | {
        name: {"value": None if count is None or not samples else count / len(samples)}
        for name, count in counts.items()
    }


def compute_lengths(judged_PK: list[list[Row]], level: float, seed: int) -> dict[str, Any]:
    """Mean and quantiles of the completions' lengths in tokens, where known; refused samples are left out."""
    ended_PK = [[s for s in samples if s["finish_reason"] != "refused"] for samples in judged_PK]
    tokens = [s["tokens"] for samples in ended_PK for s in samples if s["tokens"] is not None]
    found: dict[str, Any] = {"mean": _average_samples(ended_PK, "tokens", level, seed, bounded=False)}
    for name, quantile in (("p10", 0.1), ("median", 0.5), ("p90", 0.9), ("max", 1.0)):
        found[name] = float(np.quantile(tokens, quantile)) if tokens else None
    return found


def _average_samples(
    judged_PK: list[list[Row]], key: str, level: float, seed: int, bounded: bool = True
) -> dict[str, float | None]:
    """Mean over all samples that have a number under `key`; the interval weights problems by these samples."""
    known_PK = [[s[key] for s in samples if s.get(key) is not None] for samples in judged_PK]
    known_PK = [numbers for numbers in known_PK if numbers]
    if not known_PK:
        return {"value": None, "low": None, "high": None}
    means_P, weights_P = [float(np.mean(x)) for x in known_PK], [len(x) for x in known_PK]
    interval = estimate_interval(means_P, weights_P, bounds=(0.0, 1.0) if bounded else None, level=level, seed=seed)
    low, high = interval or (None, None)
    return {"value": float(np.average(means_P, weights=weights_P)), "low": low, "high": high}


def compute_curves(problems_P: list[Problem], K: int) -> dict[str, list[float] | None]:
    """pass@1 to pass@K and maj@1 to maj@K over the problems with evidence; None where no vote was cast.

    Example:
        >>> right_and_wrong = Problem(2, 1, 0, Votes(0, ((1, 0.0), (1, 1.0))))
        >>> compute_curves([right_and_wrong], 2)
        {'pass': [0.5, 1.0], 'maj': [0.5, 0.5]}
    """
    known_P = [problem for problem in problems_P if problem.evidence]
    countable = K <= MOST_VOTES and any(problem.votes.classes for problem in known_P)
    return {
        "pass": _average_curve("pass", known_P, K),
        "maj": _average_curve("maj", known_P, K) if countable else None,
    }


def _average_curve(kind: str, problems_P: list[Problem], K: int) -> list[float]:
    if not problems_P:
        return []
    rows_PK = [np.pad(p.compute_curve(kind), (0, K - p.evidence), mode="edge") for p in problems_P]
    return np.mean(rows_PK, axis=0).tolist()


def describe_problem(samples_K: list[Row], problem: Problem, names: list[str]) -> dict[str, Any]:
    """One problem's entry in `by_problem`: its counts, mean length, shares and metrics."""
    ended = [sample for sample in samples_K if sample["finish_reason"] != "refused"]
    counts = {
        "id": samples_K[0]["problem"],
        "row": samples_K[0]["row"],
        "samples": len(samples_K),
        "evidence": problem.evidence,
        "correct": problem.correct,
        "tokens": _average_known(ended, "tokens"),
        "format": _average_known(samples_K, "format"),
        "language": _average_known(samples_K, "language"),
        "truncated": sum(sample["finish_reason"] == "length" for sample in samples_K),
    }
    return counts | {name: problem.compute_metric(*parse_metric(name)) for name in names}


def get_problem_value(line: dict[str, Any], name: str) -> float | None:
    """A metric, `truncated` (a share) or `mean_length` (tokens) of one problem's line; None where it has none."""
    if name == "truncated":
        return line["truncated"] / line["samples"]
    return line.get("tokens" if name == "mean_length" else name)


def _average_known(samples: list[Row], key: str) -> float | None:
    known = [sample[key] for sample in samples if sample.get(key) is not None]
    return float(np.mean(known)) if known else None


def compute_figures(
    judged_PK: list[list[Row]], metrics: list[str], *, level: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """Compute all figures of an evaluation, for its JSON file.

    Args:
        judged_PK: judged samples of each problem, as `Grader.grade` returns them; numbers of samples may differ.
        metrics: `pass@<n>` and `maj@<n>`; of a problem with less evidence than n, all samples with evidence count.
        level: of the intervals.
        seed: of the resampling.

    Returns:
        `problems` and `samples` (counts), `metrics`, `shares`, `tokens`, `bounds` of the metrics, `curves`, `reasons`
        of samples without evidence, and `by_problem`, one entry for each problem.

    Raises:
        ValueError: a problem has no samples.

    Example:
        >>> sample = {"problem": "p", "row": 0, "tokens": 9, "finish_reason": "stop", "answer": "4", "vote": "4"}
        >>> judged_PK = [[sample | {"verdict": "correct"}, sample | {"verdict": "wrong", "answer": "5", "vote": "5"}]]
        >>> figures = compute_figures(judged_PK, ["pass@1"])
        >>> figures["metrics"]["pass@1"]["value"], figures["shares"]["wrong"], figures["tokens"]["max"]
        (0.5, {'value': 0.5}, 9.0)
    """
    empty = [p for p, samples in enumerate(judged_PK) if not samples]
    if empty:
        raise ValueError(f"problem {empty[0]} of the evaluation has no samples")
    K = max(map(len, judged_PK), default=0)
    names = list(dict.fromkeys(f"{kind}@{n or K}" for kind, n in map(parse_metric, metrics)))
    problems_P = [Problem.from_samples(samples) for samples in judged_PK]
    samples = [sample for samples in judged_PK for sample in samples]
    reasons = Counter(s.get("reason") or "" for s in samples if s["verdict"] in DOUBT)
    return {
        "problems": len(judged_PK),
        "samples": len(samples),
        "metrics": {name: measure_metric(name, problems_P, level, seed) for name in names},
        "shares": compute_shares(judged_PK, level, seed),
        "tokens": compute_lengths(judged_PK, level, seed),
        "bounds": {name: compute_bounds(name, problems_P) for name in names},
        "curves": compute_curves(problems_P, K),
        "reasons": dict(reasons.most_common(REASONS)),
        "by_problem": [
            describe_problem(samples, problem, names) for samples, problem in zip(judged_PK, problems_P, strict=True)
        ],
    }


def summarize_evaluation(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The figures of an evaluation for summary.json and metrics.jsonl, each `{"value", "low", "high"}`.

    Args:
        evaluation: as `compute_figures` returns it.

    Returns:
        Its metrics by name, `mean_length` (tokens), and the shares `format` and `language`.
    """
    return evaluation["metrics"] | {
        "mean_length": evaluation["tokens"]["mean"],
        "format": evaluation["shares"]["format"],
        "language": evaluation["shares"]["language"],
    }
