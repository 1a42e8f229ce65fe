"""Paired comparison of runs on the same problems.

Every difference is taken problem by problem: problems differ far more than models do, and their difficulty cancels.
`report.comparison` formats the result for a terminal and writes it as JSON or as a page.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from ..benchmarks import registry
from ..errors import RecipeError, suggest_nearest
from . import compatibility, tables
from .compatibility import ALLOWED, LETTERS, Group, Side
from .intervals import estimate_interval
from .metrics import get_problem_value
from .significance import are_uneven, compute_sign_flip_p, correct_holm, estimate_power, find_flips, pair_differences

Json = dict[str, Any]

OF_SAMPLES = ("unjudged", "truncated", "format", "language")  # shares beside the metrics, where problems have them


def compare_runs(
    runs: Sequence[str], *, metric: str = "pass@1", allow: Sequence[str] = (), level: float = 0.95, seed: int = 0
) -> Json:
    """Compare runs with the first of them, on each benchmark that they share.

    Args:
        runs: run directories, or `RUN_DIR:name` for one of its evaluations; single evaluations are compared whatever
            their names.
        metric: whose difference is tested; `maj@k` is the vote of all samples.
        allow: names of `ALLOWED` that may differ. If the problems differ, those that all runs have are compared.
        level: of the intervals, and 1 minus the share of false alarms.
        seed: of the resampling.

    Returns:
        The comparison, for JSON: `runs`; `left_out`, the evaluations that not all runs have; `tests`, the number of
        p-values that are corrected for each other; and `benchmarks`, each with the figures of its `sides` and, in
        `pairs`, the differences from the first run.

    Raises:
        RecipeError: fewer than two evaluations, one that cannot be read, none in common, or incompatible ones.
    """
    _check_arguments(runs, metric, allow, level)
    loaded = [compatibility.load_evaluations(run, letter) for run, letter in zip(runs, LETTERS, strict=False)]
    groups = compatibility.group_evaluations(runs, loaded)
    compatibility.refuse_same_file(groups)
    compatibility.refuse_incompatible(runs, groups, allow)
    benchmarks = [_compare_benchmark(group, metric, level, seed) for group in groups]
    if all(benchmark["metric"] is None for benchmark in benchmarks):
        firsts = [group.sides[0].found["metrics"] for group in groups]
        every = [side.found["metrics"] for group in groups for side in group.sides]
        common = [name for name in dict.fromkeys(itertools.chain(*firsts)) if all(name in have for have in every)]
        raise RecipeError(
            f"--metric {metric}: not among the metrics that all runs have; there are {', '.join(common)}"
        )
    pairs = [pair for benchmark in benchmarks for pair in benchmark["pairs"]]
    tests = sum(pair["p"] is not None for pair in pairs)
    for pair, corrected in zip(pairs, correct_holm([pair["p"] for pair in pairs]), strict=True):
        pair["p_holm"] = corrected
    for group, benchmark in zip(groups, benchmarks, strict=True):
        for side, pair in zip(group.sides[1:], benchmark["pairs"], strict=False):  # empty without the metric
            pair["power"] = _estimate_power(
                group.sides[0], side, benchmark["metric"], pair, 1 - (1 - level) / max(1, tests)
            )
            pair["meaning"] = _explain(benchmark, pair, level, tests)
    named = [{"letter": letter, "run": run} for letter, run in zip(LETTERS, runs, strict=False)]
    return {
        "runs": named,
        "metric": metric,
        "level": level,
        "seed": seed,
        "tests": tests,
        "left_out": compatibility.describe_left_out(loaded),
        "benchmarks": benchmarks,
    }


def _check_arguments(runs: Sequence[str], metric: str, allow: Sequence[str], level: float) -> None:
    unknown = next((name for name in allow if name not in ALLOWED), None)
    if unknown is not None:
        raise RecipeError(f"--allow {unknown}: no such part of the protocol{suggest_nearest(unknown, list(ALLOWED))}")
    if not 0 < level < 1:
        raise RecipeError(f"--level {level:g}: must lie between 0 and 1, for instance 0.95")
    registry.parse_metric(metric)
    if len(runs) < 2:
        raise RecipeError(
            "compare takes two runs or more; the evaluations of one training are RUN_DIR:before and RUN_DIR:after"
        )
    if len(runs) > len(LETTERS):
        raise RecipeError(f"compare takes at most {len(LETTERS)} runs at once, not {len(runs)}")


def _compare_benchmark(group: Group, metric: str, level: float, seed: int) -> Json:
    """The figures of a group's sides and their differences from the first; `pairs` is empty without the metric."""
    first, *others = group.sides
    ids = [one for one in first.by_id if all(one in side.by_id for side in others)]
    if not ids:
        raise RecipeError(f"{group.name}: no problem is in all of the runs; compare them two by two")
    kind, n = registry.parse_metric(metric)
    ks = [side.found["protocol"]["k"] for side in group.sides]
    tested = f"{kind}@{n or min(ks)}"
    names = [name for name in first.found["metrics"] if all(name in side.found["metrics"] for side in others)]
    tested = tested if tested in names else None
    names = [*sorted(names, key=lambda name: name != tested), *OF_SAMPLES, "mean_length"]
    if not any(_compute_unjudged(side.by_id[one]) for side in group.sides for one in ids):
        names.remove("unjudged")
    return {
        "name": group.name,
        "title": first.found.get("title") or group.name,
        "problems": len(ids),
        "of": len(first.by_id),
        "metric": tested,
        "differing": list(dict.fromkeys(group.differing)),
        "sides": [
            {
                "run": side.letter,
                "file": str(side.path),
                "k": k,
                "figures": {name: _measure_figure(side, name, ids, level, seed) for name in names},
            }
            for side, k in zip(group.sides, ks, strict=True)
        ],
        "pairs": [_compare_pair(first, side, tested, names, ids, level, seed) for side in others] if tested else [],
    }


def _compare_pair(a: Side, b: Side, tested: str, names: list[str], ids: list[str], level: float, seed: int) -> Json:
    """B against A: differences, the test of one of them, and the problems that flipped.

    `samples` holds the mean number of judged samples per problem of each side, if these differ too much for the test.
    """
    differences_P = pair_differences(_list_values(a, tested, ids), _list_values(b, tested, ids))
    rates_a, rates_b = (_list_pass_rates(side, ids) for side in (a, b))
    evidence_a, evidence_b = (_list_counts(side, "evidence", ids) for side in (a, b))
    too_uneven = are_uneven(evidence_a, evidence_b)
    return {
        "run": b.letter,
        "differences": {name: _measure_difference(a, b, name, ids, level, seed) for name in names},
        "p": compute_sign_flip_p(differences_P, seed=seed),
        "samples": [fmean(evidence) for evidence in (evidence_a, evidence_b)] if too_uneven else None,
        "bounds": _bound_difference(a, b, tested, ids),
        "flips": [
            flip._asdict()
            | {"problem": ids[flip.problem], "question": a.by_id[ids[flip.problem]].get("question") or ""}
            for flip in find_flips(rates_a, rates_b)
        ],
        "by_problem": [
            {"problem": one, "before": old, "after": new, "difference": difference}
            for one, old, new, difference in zip(ids, rates_a, rates_b, differences_P, strict=True)
        ],
    }


def _compute_unjudged(problem: Json) -> float:
    """Share of a problem's samples that have no verdict."""
    return 1 - problem["evidence"] / problem["samples"]


def _bound_difference(a: Side, b: Side, tested: str, ids: list[str]) -> list[float] | None:
    """The difference with the samples without a verdict at their worst and at their best for B; None without any.

    Leaving these samples out would favour a run whose wrong answers cannot be judged.
    """
    if not any(_compute_unjudged(side.by_id[one]) for side in (a, b) for one in ids):
        return None
    if tested == "pass@1":
        (low_a, high_a), (low_b, high_b) = (_bound_pass_rate(side, ids) for side in (a, b))
    else:
        (low_a, high_a), (low_b, high_b) = (side.found["bounds"][tested] for side in (a, b))
    return [low_b - high_a, high_b - low_a]


def _bound_pass_rate(side: Side, ids: list[str]) -> tuple[float, float]:
    problems = [side.by_id[one] for one in ids]
    low = fmean(problem["correct"] / problem["samples"] for problem in problems)
    return low, low + fmean(map(_compute_unjudged, problems))


def _estimate_power(a: Side, b: Side, tested: str, pair: Json, level: float) -> Json | None:
    """Problems and samples that detect a difference in pass@1, at the level left to one of all tests."""
    if tested != "pass@1":
        return None
    ids = [problem["problem"] for problem in pair["by_problem"]]
    needed = estimate_power(
        *(_list_counts(side, key, ids) for side in (a, b) for key in ("correct", "evidence")), level=level
    )
    return needed._asdict() if needed else None


def _list_counts(side: Side, key: str, ids: list[str]) -> list[int]:
    return [side.by_id[one][key] for one in ids]


def _list_values(side: Side, name: str, ids: list[str]) -> list[float | None]:
    """A figure problem by problem; None where a problem has none."""
    problems = [side.by_id[one] for one in ids]
    return [
        _compute_unjudged(problem) if name == "unjudged" else get_problem_value(problem, name) for problem in problems
    ]


def _list_pass_rates(side: Side, ids: list[str]) -> list[float | None]:
    """Pass rates of the samples with evidence."""
    problems = [side.by_id[one] for one in ids]
    return [problem["correct"] / problem["evidence"] if problem["evidence"] else None for problem in problems]


def _measure_figure(side: Side, name: str, ids: list[str], level: float, seed: int) -> Json:
    """A figure of one side with its interval: the stored one, or over the common problems."""
    if name != "unjudged" and len(ids) == len(side.by_id) and side.found.get("level") == level:
        found = side.found
        stored = {**found["metrics"], **found["shares"], "mean_length": found["tokens"]["mean"]}[name]
        return {key: stored[key] for key in ("value", "low", "high")}
    return _measure_mean(_list_values(side, name, ids), None if name == "mean_length" else (0.0, 1.0), level, seed)


def _measure_difference(a: Side, b: Side, name: str, ids: list[str], level: float, seed: int) -> Json:
    """Mean of B - A over the problems where both have the figure, and the number of these problems.

    The value is None for a figure that is not stored problem by problem.
    """
    differences_P = pair_differences(_list_values(a, name, ids), _list_values(b, name, ids))
    known = sum(difference is not None for difference in differences_P)
    return _measure_mean(differences_P, None if name == "mean_length" else (-1.0, 1.0), level, seed) | {
        "problems": known
    }


def _measure_mean(values_P: list[float | None], bounds: tuple[float, float] | None, level: float, seed: int) -> Json:
    known = [value for value in values_P if value is not None]
    if not known:
        return {"value": None, "low": None, "high": None}
    low, high = estimate_interval(values_P, bounds=bounds, level=level, seed=seed) or (None, None)
    return {"value": sum(known) / len(known), "low": low, "high": high}


def _explain(benchmark: Json, pair: Json, level: float, tests: int) -> str:
    """The result of a comparison in a sentence or two."""
    a, b = benchmark["sides"][0]["run"], pair["run"]
    difference = pair["differences"][benchmark["metric"]]
    if difference["value"] is None:
        return f"Nothing can be said of {b} against {a}: no problem has samples with a verdict on both sides."
    size = tables.join_cell(tables.format_points(difference))
    p = f"p {tables.format_p_value(pair['p_holm'])}" + (f", corrected for {tests} tests" if tests > 1 else "")
    needs = pair["power"]
    if pair["samples"]:
        of_a, of_b = pair["samples"]
        return (
            f"These data do not show whether {b} is better than {a}: {size} points, {p}, but per problem {a} has "
            f"{of_a:.3g} judged samples and {b} {of_b:.3g}. With numbers so unequal p may be far too small and the "
            "interval too narrow: two runs of the same model look different in up to a quarter of the cases. "
            + ("Compare runs of the same k." if not pair["bounds"] else "Find a judge for the other samples.")
        )
    if pair["p_holm"] <= 1 - level and is_undecided(pair):
        low, high = (f"{100 * bound:+.1f}" for bound in pair["bounds"])
        more = "more" if difference["value"] > 0 else "less"
        return (
            f"On the samples that have a verdict {b} solves {more} than {a}: {size} points, {p}. But some have none, "
            f"and with these judged the difference could be anything from {low} to {high}: neither is better."
        )
    if pair["p_holm"] <= 1 - level:
        better = "better" if difference["value"] > 0 else "worse"
        text = f"{b} is {better} than {a}: {size} points, {p}."
        return text + (f" {needs['problems']:,} such problems would have been enough." if needs else "")
    text = f"No significant difference between {a} and {b}: {size} points, {p}."
    if not needs or needs["detectable"] == 0:
        return text
    text += f" These problems and samples detect one of about {100 * needs['detectable']:.1f} points or more"
    if not needs["problems"]:
        return f"{text}."
    of_each = f", or {needs['samples']:,} samples of each of these" if needs["samples"] else ""
    seen = abs(100 * difference["value"])
    return f"{text}; one of {seen:.1f} would take {needs['problems']:,} problems like them{of_each}."


def is_undecided(pair: Json) -> bool:
    """True if the samples without a verdict could reverse the difference."""
    return pair["bounds"] is not None and pair["bounds"][0] <= 0 <= pair["bounds"][1]
