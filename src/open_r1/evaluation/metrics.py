"""Figures of an evaluation: pass@1, pass@k, majority votes, shares and lengths, each with an interval.

A sample's verdict is evidence if it is `correct` or `wrong`. Unknown and error are none: they are left out of every
metric, and their shares and the score's bounds stand beside it. Nested lists carry their axes: P problems, K samples.
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
REASONS = 20  # most frequent ones of unknown and error that are kept


@lru_cache(maxsize=1 << 12)
def fails_at(n: int, c: int) -> tuple[float, ...]:
    """Chance that none of k = 1..n samples is right, drawn without replacement from n of which c are.

    1 less this is the unbiased pass@k of Chen et al. 2021, equation 1: C(n - c, k) / C(n, k), one factor after the
    other, as the binomials of thousands do not fit into a float.
    """
    i = np.arange(n)
    return tuple(np.cumprod(np.maximum(n - c - i, 0) / (n - i)).tolist())


class Problem(NamedTuple):
    """What the metrics read of a problem's samples.

    Attributes:
        evidence: samples that are right or wrong.
        correct: right ones among them.
        doubtful: samples that are neither.
        votes: of those with evidence.
    """

    evidence: int
    correct: int
    doubtful: int
    votes: Votes

    @classmethod
    def of(cls, samples_K: list[Row]) -> Problem:
        evidence = [sample for sample in samples_K if sample["verdict"] in EVIDENCE]
        correct = sum(sample["verdict"] == "correct" for sample in evidence)
        return cls(len(evidence), correct, len(samples_K) - len(evidence), count_votes(evidence))

    def curve(self, kind: str) -> tuple[float, ...]:
        """pass@1 or maj@1 up to that of all samples with evidence."""
        if kind == "maj":
            return compute_majority(self.votes)
        return tuple(1 - fails for fails in fails_at(self.evidence, self.correct))

    def value(self, kind: str, n: int) -> float | None:
        """A metric of this problem, of all its samples with evidence if they are fewer than n; None without any."""
        if self.evidence == 0:
            return None
        n = min(n, self.evidence)
        return (
            compute_majority(self.votes)[n - 1] if kind == "maj" else 1 - fails_at(self.evidence, self.correct)[n - 1]
        )

    def settled(self, right: bool) -> Problem:
        """The same had all doubtful samples been right, or wrong, and voted for the best, or worst, answer given."""
        if not self.doubtful:
            return self
        classes, verdict = list(self.votes.classes), float(right)
        size, share = max(classes, key=lambda c: (c[1] if right else -c[1], c[0]), default=(0, 1 - verdict))
        if share == 1 - verdict:
            size, share = 0, verdict  # all there are say the contrary
        else:
            classes.remove((size, share))
        joined = size + self.doubtful
        classes.append((joined, (size * share + self.doubtful * verdict) / joined))
        samples, correct = self.evidence + self.doubtful, self.correct + (self.doubtful if right else 0)
        return Problem(samples, correct, 0, Votes(self.votes.silent, tuple(sorted(classes))))


def metric(name: str, problems_P: list[Problem], level: float, seed: int) -> dict[str, Any]:
    """Value of a metric and its intervals; `short` counts the problems with less evidence than it asks for."""
    kind, n = parse_metric(name)
    values_P = [problem.value(kind, n) for problem in problems_P]
    known_P = [value for value in values_P if value is not None]
    if not known_P:
        return {"value": None, "low": None, "high": None, "same_problems": None, "problems": 0}
    low, high = estimate_interval(values_P, level=level)
    again = samples_alone(kind, n, problems_P, level, seed)
    told = {
        "value": float(np.mean(known_P)),
        "low": low,
        "high": high,
        "same_problems": again and list(again),
        "problems": len(known_P),
    }
    short = sum(0 < problem.evidence < n for problem in problems_P)
    return told | ({"short": short} if short else {})


def samples_alone(kind: str, n: int, problems_P: list[Problem], level: float, seed: int) -> Interval | None:
    """Interval of a metric had the same problems been sampled again; None where these samples cannot say."""
    problems_P = [problem for problem in problems_P if problem.evidence]
    least = 2 * n if kind == "pass" else 2
    if any(problem.evidence < least for problem in problems_P):
        return None
    random = np.random.default_rng(seed)
    variance = sum(
        pass_variance(p.evidence, p.correct, n) if kind == "pass" else compute_vote_variance(p.votes, n, random)
        for p in problems_P
    )
    value = float(np.mean([problem.value(kind, n) for problem in problems_P]))
    samples = sum(p.evidence for p in problems_P)
    t = compute_t_quantile((1 + level) / 2, samples - len(problems_P))
    # A vote is one observation of all the samples it takes.
    observations = samples if kind == "pass" else max(len(problems_P), samples // n)
    return compute_wilson_interval(value, variance / len(problems_P) ** 2, observations, t)


def pass_variance(n: int, c: int, k: int) -> float:
    """Unbiased variance of pass@k over other samples of the problem, for 2k <= n.

    Its square less the chance that two sets of k samples without a common one both fail, which is an unbiased
    estimate of its expectation's square; for k = 1 the well-known p (1 - p) / (n - 1).
    """
    fails_N = fails_at(n, c)
    return max(0.0, fails_N[k - 1] ** 2 - fails_N[2 * k - 1])


def bounds(name: str, problems_P: list[Problem]) -> list[float] | None:
    """The metric had all samples without evidence been wrong, and had they been right; None without problems."""
    if not problems_P:
        return None
    kind, n = parse_metric(name)
    wrong, right = ([p.settled(all_right).value(kind, n) for p in problems_P] for all_right in (False, True))
    return [float(np.mean(wrong)), float(np.mean(right))]


def shares(judged_PK: list[list[Row]], level: float, seed: int) -> dict[str, Any]:
    """Shares of samples: well formed, in the problem's language, truncated, by verdict, refused, without an answer."""
    told = {name: _over_samples(judged_PK, name, level, seed) for name in ("format", "language")}
    cut_PK = [
        [{"truncated": float(s["finish_reason"] == "length")} for s in samples if s["finish_reason"] is not None]
        for samples in judged_PK
    ]
    told["truncated"] = _over_samples(cut_PK, "truncated", level, seed)
    samples = [sample for samples in judged_PK for sample in samples]
    counts = {verdict: sum(s["verdict"] == verdict for s in samples) for verdict in EVIDENCE + DOUBT}
    counts["refused"] = sum(s["finish_reason"] == "refused" for s in samples)
    answered = sum(s["answer"] is not None for s in samples)
    # Of programs, say, no answer is read, so none is missing.
    counts["no_answer"] = len(samples) - answered if answered else None
    return told | {
        name: {"value": None if count is None or not samples else count / len(samples)}
        for name, count in counts.items()
    }


def lengths(judged_PK: list[list[Row]], level: float, seed: int) -> dict[str, Any]:
    """Mean and quantiles of the completions' tokens, where they are known; a refused sample has none."""
    ended_PK = [[s for s in samples if s["finish_reason"] != "refused"] for samples in judged_PK]
    tokens = [s["tokens"] for samples in ended_PK for s in samples if s["tokens"] is not None]
    told = {"mean": _over_samples(ended_PK, "tokens", level, seed, bounded=False)}
    for name, quantile in (("p10", 0.1), ("median", 0.5), ("p90", 0.9), ("max", 1.0)):
        told[name] = float(np.quantile(tokens, quantile)) if tokens else None
    return told


def _over_samples(
    judged_PK: list[list[Row]], key: str, level: float, seed: int, bounded: bool = True
) -> dict[str, float | None]:
    """Mean over all samples that have a number there; a problem counts with as many as it has."""
    known_PK = [[s[key] for s in samples if s.get(key) is not None] for samples in judged_PK]
    known_PK = [numbers for numbers in known_PK if numbers]
    if not known_PK:
        return {"value": None, "low": None, "high": None}
    means_P, weights_P = [float(np.mean(x)) for x in known_PK], [len(x) for x in known_PK]
    told = estimate_interval(means_P, weights_P, bounds=(0.0, 1.0) if bounded else None, level=level, seed=seed)
    low, high = told or (None, None)
    return {"value": float(np.average(means_P, weights=weights_P)), "low": low, "high": high}


def curves(problems_P: list[Problem], K: int) -> dict[str, list[float] | None]:
    """pass@1 to pass@K and maj@1 to maj@K over the problems with evidence; None where no vote was cast."""
    known_P = [problem for problem in problems_P if problem.evidence]
    countable = K <= MOST_VOTES and any(problem.votes.classes for problem in known_P)
    return {"pass": _curve("pass", known_P, K), "maj": _curve("maj", known_P, K) if countable else None}


def _curve(kind: str, problems_P: list[Problem], K: int) -> list[float]:
    if not problems_P:
        return []
    rows_PK = [np.pad(p.curve(kind), (0, K - p.evidence), mode="edge") for p in problems_P]
    return np.mean(rows_PK, axis=0).tolist()


def by_problem(samples_K: list[Row], problem: Problem, names: list[str]) -> dict[str, Any]:
    """One problem's line."""
    ended = [sample for sample in samples_K if sample["finish_reason"] != "refused"]
    told = {
        "id": samples_K[0]["problem"],
        "row": samples_K[0]["row"],
        "samples": len(samples_K),
        "evidence": problem.evidence,
        "correct": problem.correct,
        "tokens": _known_mean(ended, "tokens"),
        "format": _known_mean(samples_K, "format"),
        "language": _known_mean(samples_K, "language"),
        "truncated": sum(sample["finish_reason"] == "length" for sample in samples_K),
    }
    return told | {name: problem.value(*parse_metric(name)) for name in names}


def get_problem_value(line: dict[str, Any], name: str) -> float | None:
    """A metric, `truncated` (a share) or `mean_length` (tokens) of one problem's line; None where it has none."""
    if name == "truncated":
        return line["truncated"] / line["samples"]
    return line.get("tokens" if name == "mean_length" else name)


def _known_mean(samples: list[Row], key: str) -> float | None:
    known = [sample[key] for sample in samples if sample.get(key) is not None]
    return float(np.mean(known)) if known else None


def compute_figures(
    judged_PK: list[list[Row]], metrics: list[str], *, level: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """The figures of an evaluation, for its JSON file.

    Args:
        judged_PK: judged samples of each problem; problems may have unequal numbers of them.
        metrics: `pass@<n>` and `maj@<n>`; a problem with fewer samples of evidence takes all it has.
        level: of the intervals.
        seed: of the resampling.

    Raises:
        ValueError: a problem without samples.
    """
    empty = [p for p, samples in enumerate(judged_PK) if not samples]
    if empty:
        raise ValueError(f"problem {empty[0]} of the evaluation has no samples")
    K = max(map(len, judged_PK), default=0)
    names = list(dict.fromkeys(f"{kind}@{n or K}" for kind, n in map(parse_metric, metrics)))
    told = [Problem.of(samples) for samples in judged_PK]
    samples = [sample for samples in judged_PK for sample in samples]
    silent = Counter(s.get("reason") or "" for s in samples if s["verdict"] in DOUBT)
    return {
        "problems": len(judged_PK),
        "samples": len(samples),
        "metrics": {name: metric(name, told, level, seed) for name in names},
        "shares": shares(judged_PK, level, seed),
        "tokens": lengths(judged_PK, level, seed),
        "bounds": {name: bounds(name, told) for name in names},
        "curves": curves(told, K),
        "reasons": dict(silent.most_common(REASONS)),
        "by_problem": [by_problem(samples, problem, names) for samples, problem in zip(judged_PK, told, strict=True)],
    }


def summarize_evaluation(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The figures of an evaluation for summary.json and metrics.jsonl, each `{"value", "low", "high"}`.

    Args:
        evaluation: as `figures` returns it.

    Returns:
        its metrics by their names, `mean_length` (tokens), and the shares `format` and `language`.
    """
    return evaluation["metrics"] | {
        "mean_length": evaluation["tokens"]["mean"],
        "format": evaluation["shares"]["format"],
        "language": evaluation["shares"]["language"],
    }
