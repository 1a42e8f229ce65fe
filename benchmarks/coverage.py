"""How often the intervals of an evaluation hold the truth, and how often two runs of one model look different.

    python benchmarks/coverage.py [SIMULATIONS]

Problems' difficulties are drawn from Beta distributions, their samples from the difficulties, so that the truth is
known. Printed, in per cent, by 500 simulations unless told otherwise, half as many for `same_problems` (the noise of a
share of 95% is then 1.0 and 1.4), after the seconds that a few things take:

- coverage of the 95% intervals over problems, beside that of the plain percentile bootstrap in brackets;
- coverage of `same_problems`, by simulations with the problems held fixed;
- false alarms of the sign-flip test at 5%, with the same model on both sides, and coverage of its difference;
- how often the test tells a difference with as many problems, or samples, as `power` asks for (80 are wanted).

A star marks what is outside of 93 to 97 by more than twice its noise. Known corners:

- problems of low and skewed difficulty: 92 of 30 with 64 samples of each, 91 of maj@16 of 100;
- values of few levels near a bound, as pass@k and maj@k of k samples: 98 to 100, too wide;
- pass@4 and maj@16 where pass@1 is 95%, and they 99.99%: 71 to 94, but no miss was as large as 0.2 points, and the
  truth of a vote, which is itself simulated, is not known exactly;
- on the same problems, votes of all 16 samples where few are won: 90 to 93; votes of 16 of 64, meant to be too
  wide rather than too narrow: 98 to 100.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import record

from open_r1.evaluation import majority_vote, metrics
from open_r1.evaluation.intervals import Interval, estimate_interval, resample_means
from open_r1.evaluation.significance import Power, compute_sign_flip_p, estimate_power

SHAPES = {  # of the share of right samples of a problem
    "U-shaped, mean 0.5": (0.3, 0.3),
    "even, mean 0.5": (2.0, 2.0),
    "alike, mean 0.5": (20.0, 20.0),
    "low, mean 0.05": (1.0, 19.0),
    "low and skewed, mean 0.05": (0.25, 4.75),
    "high, mean 0.95": (19.0, 1.0),
}
PROBLEMS = (30, 100, 500, 1319)
SAMPLES = (1, 4, 16, 64)
WRONG_ANSWERS = 6  # of a problem; how often each is given differs from problem to problem
LONG = 200_000  # problems that stand for all, where the truth has no closed form


class Tally:
    """Shares of simulations, in per cent, with a star where they lie outside of what is wanted."""

    def __init__(self, low: float, high: float):
        self.low, self.high = low, high
        self.outside: list[str] = []
        self.shares: dict[str, float] = {}  # all of them, in per cent

    def told(self, share: float, simulations: int, name: str) -> str:
        self.shares[name] = 100 * share
        noise = 200 * math.sqrt(max(share * (1 - share), 1e-9) / simulations)
        out = not self.low - noise <= 100 * share <= self.high + noise
        if out:
            self.outside.append(f"{name}: {100 * share:.1f}")
        return f"{100 * share:6.1f}{'*' if out else ' '}"


def holds(told: Interval, true: float) -> bool:
    low, high = told
    return bool(low <= true <= high)


def difficulties(random: np.random.Generator, shape: tuple[float, float], P: int) -> np.ndarray:
    """How often each answer of P problems is given [P, answers]; the right one stands first."""
    right = random.beta(*shape, size=P)
    wrong = random.dirichlet([0.5] * WRONG_ANSWERS, size=P)
    return np.concatenate([right[:, None], (1 - right)[:, None] * wrong], 1)


def voted(cast: np.ndarray) -> np.ndarray:
    """Of votes cast [..., answers], what the right answer, the first, gets of the majority."""
    top = cast == cast.max(-1, keepdims=True)
    return np.where(top[..., 0], 1 / top.sum(-1), 0.0)


def drawn(random: np.random.Generator, answers: np.ndarray, k: int) -> list[metrics.Problem]:
    """k samples of each problem."""
    problems = []
    for cast in random.multinomial(k, answers).tolist():
        classes = tuple(sorted((votes, float(i == 0)) for i, votes in enumerate(cast) if votes))
        problems.append(metrics.Problem(k, cast[0], 0, majority_vote.Votes(0, classes)))
    return problems


def truth(random: np.random.Generator, answers: np.ndarray, kind: str, n: int, draws: int = 1) -> float:
    """A metric's mean over problems whose answers are known."""
    if kind == "pass":
        return float(np.mean(1 - (1 - answers[:, 0]) ** n))
    return float(np.mean([voted(random.multinomial(n, answers)).mean() for _ in range(draws)]))


def over_problems(simulations: int) -> Tally:
    tally, random = Tally(93, 97), np.random.default_rng(1)
    print(f"\n{'over problems':<28}{'metric':<8}{'k':>4}   " + "".join(f"{P:>14} " for P in PROBLEMS))
    for shape, parameters in SHAPES.items():
        for (kind, n), ks in {("pass", 1): SAMPLES, ("pass", 4): SAMPLES[1:], ("maj", 16): (16,)}.items():
            true = truth(random, difficulties(random, parameters, LONG), kind, n, 5)
            for k in ks:
                cells = []
                for P in PROBLEMS:
                    held = percentile = 0
                    for seed in range(simulations):
                        values_P = values(random, parameters, P, kind, n, k)
                        held += holds(estimate_interval(values_P), true)
                        percentile += seed < simulations // 5 and PROBLEMS[0] == P and plain(values_P, true, seed)
                    told = tally.told(held / simulations, simulations, f"{shape}, {kind}@{n}, k {k}, {P} problems")
                    beside = f"({100 * percentile / (simulations // 5):5.1f})" if PROBLEMS[0] == P else " " * 7
                    cells.append(f"{told} {beside}")
                print(f"{shape:<28}{kind}@{n:<6}{k:>2}   " + "".join(cells), flush=True)
    print(f"outside of 93 to 97: {'; '.join(tally.outside) or 'none'}")
    return tally


def values(random: np.random.Generator, shape: tuple[float, float], P: int, kind: str, n: int, k: int) -> list[float]:
    """A metric of P new problems, by the formulas of the product where it is not the plain mean."""
    if kind == "maj":
        return voted(random.multinomial(k, difficulties(random, shape, P))).tolist()
    by_count = np.array([1 - metrics.compute_fail_chances(k, c)[n - 1] for c in range(k + 1)])
    return by_count[random.binomial(k, random.beta(*shape, size=P))].tolist()


def plain(values_P: list[float], true: float, seed: int) -> bool:
    low, high = np.quantile(resample_means(np.array(values_P), np.ones(len(values_P)), seed), [0.025, 0.975])
    return holds((low, high), true)


def over_samples(simulations: int) -> Tally:
    tally, random = Tally(93, 97), np.random.default_rng(2)
    asked = {("pass", 1): (4, 16, 64), ("pass", 4): (16, 64), ("maj", 16): (16, 64)}
    print(f"\n{'same problems':<28}{'metric':<8}{'k':>4}   {30:>8}{100:>8}")
    for shape, parameters in SHAPES.items():
        for (kind, n), ks in asked.items():
            for k in ks:
                cells = []
                for P in (30, 100):
                    held = 0
                    for seed in range(simulations):
                        answers = difficulties(random, parameters, P)
                        told = metrics.estimate_sample_interval(kind, n, drawn(random, answers, k), 0.95, seed)
                        held += holds(told, truth(random, answers, kind, n, 500))
                    name = f"{shape}, {kind}@{n}, k {k}, {P} problems"
                    cells.append(f"{tally.told(held / simulations, simulations, name):>8}")
                print(f"{shape:<28}{kind}@{n:<6}{k:>2}   " + "".join(cells), flush=True)
    print(f"outside of 93 to 97: {'; '.join(tally.outside) or 'none'}")
    return tally


def pairs(
    random: np.random.Generator, shape: tuple[float, float], P: int, k: int, gain: float
) -> tuple[np.ndarray, np.ndarray]:
    """Right samples of two models; the second fails less often by a share of up to twice `gain`."""
    before = random.beta(*shape, size=P)
    after = before + (1 - before) * 2 * gain * random.random(P)
    return random.binomial(k, before), random.binomial(k, after)


def false_alarms(simulations: int) -> tuple[Tally, Tally]:
    alarms, coverage, random = Tally(0, 5), Tally(93, 97), np.random.default_rng(3)
    print(f"\n{'the same model twice':<28}{'problems':>9}{'k':>4}{'alarms':>9}{'coverage':>10}")
    for shape, parameters in SHAPES.items():
        for P in (30, 500):
            for k in (1, 4, 16):
                found = held = 0
                for seed in range(simulations):
                    a, b = pairs(random, parameters, P, k, 0.0)
                    differences_P = ((b - a) / k).tolist()
                    found += compute_sign_flip_p(differences_P, seed=seed) <= 0.05
                    held += holds(estimate_interval(differences_P, bounds=(-1.0, 1.0)), 0.0)
                name = f"{shape}, k {k}, {P} problems"
                told = alarms.told(found / simulations, simulations, name)
                covered = coverage.told(held / simulations, simulations, name)
                print(f"{shape:<28}{P:>9}{k:>4}  {told}   {covered}", flush=True)
    print(f"alarms over 5: {'; '.join(alarms.outside) or 'none'}")
    print(f"coverage outside of 93 to 97: {'; '.join(coverage.outside) or 'none'}")
    return alarms, coverage


def tells(simulations: int) -> None:
    """What `power` asks for, by the counts of 20,000 problems, and how often the test then tells the difference."""
    random = np.random.default_rng(4)
    columns = ["difference", "k", "problems", "told", "| of problems", "samples", "told"]
    print(f"\n{'a better model':<28}" + "".join(f"{column:>14}" for column in columns))
    for shape, parameters in SHAPES.items():
        failing = parameters[1] / sum(parameters)
        gain = min(0.45, 0.05 / failing)
        for k in (1, 4, 16):
            a, b = pairs(random, parameters, LONG // 10, k, gain)
            problems = planned(a, b, k, gain * failing).problems
            told = told_share(random, parameters, problems, k, gain, simulations)
            line = f"{shape:<28}{gain * failing:>14.3f}{k:>14}{problems:>14}{100 * told:>14.1f}"
            if k > 1:
                fewer = problems * 3 // 4
                samples = planned(*(of_all(x, a, b, fewer) for x in (a, b)), k, gain * failing).samples
                share = told_share(random, parameters, fewer, samples, gain, simulations) if samples else math.nan
                line += f"{f'| {fewer}':>14}{samples or 'none':>14}{100 * share:>14.1f}"
            print(line, flush=True)


def planned(a: np.ndarray, b: np.ndarray, k: int, difference: float) -> Power:
    return estimate_power(a, [k] * len(a), b, [k] * len(b), difference)


def of_all(x: np.ndarray, a: np.ndarray, b: np.ndarray, P: int) -> np.ndarray:
    """x of P problems as unlike as all of them are."""
    order = np.argsort(b - a, kind="stable")
    return x[order[((np.arange(P) + 0.5) * len(a) / P).astype(int)]]


def told_share(
    random: np.random.Generator, shape: tuple[float, float], P: int, k: int, gain: float, simulations: int
) -> float:
    found = 0
    for seed in range(simulations):
        a, b = pairs(random, shape, P, k, gain)
        found += compute_sign_flip_p(((b - a) / k).tolist(), seed=seed) <= 0.05
    return found / simulations


def timed() -> Iterator[tuple[str, Callable[[], object]]]:
    random = np.random.default_rng(5)
    problems = drawn(random, difficulties(random, (0.5, 0.5), 1319), 64)
    values_P = [problem.correct / 64 for problem in problems]
    other_P = [problem.correct / 64 for problem in drawn(random, difficulties(random, (0.5, 0.5), 1319), 64)]
    yield (
        "maj@1 to maj@64 of 198 problems",
        lambda: [majority_vote.compute_majority.__wrapped__(p.votes) for p in problems[:198]],
    )
    yield "interval over 1,319 problems", lambda: estimate_interval(values_P)
    yield "10,000 resamples of 1,319 problems", lambda: estimate_interval(values_P, bounds=None)
    yield "exact test of 1,319 problems, k 64", lambda: compute_sign_flip_p(np.subtract(other_P, values_P).tolist())


def main() -> None:
    simulations = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    for name, call in timed():
        began = time.perf_counter()
        call()
        print(f"{name}: {time.perf_counter() - began:.3f} s")
    problems, samples = over_problems(simulations), over_samples(simulations // 2)
    alarms, differences = false_alarms(simulations)
    tells(simulations)
    found = {"problems": problems, "same_problems": samples, "alarms": alarms, "differences": differences}
    stored = {
        name: {"cells": len(tally.shares), "outside": len(tally.outside), "percent": tally.shares}
        for name, tally in found.items()
    }
    record.store("coverage", simulations=simulations, **stored)


if __name__ == "__main__":
    main()
