"""How often the spread of two recipes over few seeds is told apart (`seeds.spread_ratio`), by simulation.

    python benchmarks/spread.py [SIMULATIONS]

Each simulation draws 20 steps of some seeds of two recipes, the first with 1, 2, 3 or 5 times the deviation of the
second, and asks whether the 95% interval of the ratio excludes 1. Printed in per cent: false alarms where both spread
alike (5 are allowed), and beside them how often the others are told. How much the steps of one run have in common is
what it depends on: nothing, an autocorrelation, a lead that a seed keeps, or a take-off whose step differs by seed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import record

from open_r1.evaluation.over_seeds import compare_spreads

STEPS = 20
TIMES = (1, 2, 3, 5)


def autocorrelated(correlation: float, random: np.random.Generator, seeds: int, times: float) -> np.ndarray:
    """Curves [T, S] of which each step has this correlation with the one before it."""
    drawn_TS = random.normal(size=(STEPS, seeds))
    for t in range(1, STEPS):
        drawn_TS[t] = correlation * drawn_TS[t - 1] + np.sqrt(1 - correlation**2) * drawn_TS[t]
    return times * drawn_TS


def leading(share: float, random: np.random.Generator, seeds: int, times: float) -> np.ndarray:
    """Curves of which this share of the variance is a lead that a seed keeps."""
    lead_TS = random.normal(size=(1, seeds)) * np.sqrt(share)
    return times * (lead_TS + np.sqrt(1 - share) * random.normal(size=(STEPS, seeds)))


def taking_off(random: np.random.Generator, seeds: int, times: float) -> np.ndarray:
    """Rewards that rise from 0 to 1 at a step that differs by seed, and a little noise."""
    onset_TS = STEPS / 2 + 2 * times * random.normal(size=(1, seeds))
    rise_TS = 1 / (1 + np.exp(-(np.arange(STEPS)[:, None] - onset_TS) / 2))
    return rise_TS + 0.02 * random.normal(size=(STEPS, seeds))


CURVES: dict[str, Callable[[np.random.Generator, int, float], np.ndarray]] = {
    **{
        f"autocorrelation {correlation}": lambda *drawn, c=correlation: autocorrelated(c, *drawn)
        for correlation in (0.0, 0.5, 0.9, 0.99)
    },
    **{f"a lead of {share:.0%}": lambda *drawn, s=share: leading(s, *drawn) for share in (0.2, 0.5, 0.8, 1.0)},
    "a take-off": taking_off,
}


def told(curves: Callable, seeds: int, times: float, simulations: int, random: np.random.Generator) -> float:
    """Share of the simulations, in per cent, in which the two are told apart."""
    apart = 0
    for _ in range(simulations):
        ratio = compare_spreads(curves(random, seeds, times), curves(random, seeds, 1.0))
        apart += not ratio["low"] <= 1 <= ratio["high"]
    return 100 * apart / simulations


def main() -> None:
    simulations = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    random, found = np.random.default_rng(0), {}
    for seeds in (3, 5):
        print(f"\n{seeds} seeds, {STEPS} steps{'':14}" + "".join(f"{times:>5} x" for times in TIMES))
        for name, curves in CURVES.items():
            shares = [told(curves, seeds, times, simulations, random) for times in TIMES]
            found.setdefault(f"{seeds} seeds", {})[name] = {
                f"{t} times": s for t, s in zip(TIMES, shares, strict=True)
            }
            print(f"  {name:28}" + "".join(f"{share:7.1f}" for share in shares))
    ranges = {
        seeds: {
            times: [f(of[times] for of in shares.values()) for f in (min, max)]
            for times in next(iter(shares.values()))
        }
        for seeds, shares in found.items()
    }
    record.store("spread", simulations=simulations, told_apart_percent=found, least_and_most=ranges)


if __name__ == "__main__":
    main()
