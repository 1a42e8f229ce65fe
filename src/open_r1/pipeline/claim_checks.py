"""Checks of a pipeline's table of claims, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..benchmarks import registry
from ..config.schema import DATA_TASKS
from ..errors import RecipeError, suggest_nearest

Json = dict[str, Any]

SIDES = {"above": 1, "not_below": 1, "at_least": 1, "below": -1, "not_above": -1, "at_most": -1}
BOUNDS = ("at_least", "at_most")  # compare with a number, not with another figure
TOLERANT = ("not_below", "not_above")  # `by` is the allowed loss, and required
SHARES = ("format", "language", "truncated", "no_answer")
OF_SAMPLES = (*SHARES, "mean_length")
LOGGED = ("metric", "spread")  # read from metrics.jsonl
FIGURES = ("pass@1", "pass@k", "maj@k", *OF_SAMPLES, *LOGGED, "funnel")
ENTRY_KEYS = ("says", "paper", "source", "shows")
SHOW_KEYS = ("figure", "of", "benchmark", "metric", "steps", "by", *SIDES)


def check_claims(entries: Any, tasks: Mapping[str, str], benchmarks: Mapping[str, Sequence[str]]) -> None:
    """Check a table before anything runs.

    Args:
        entries: the pipeline's `table`.
        tasks: stage -> task, such as `measured.zero` -> `evaluate`.
        benchmarks: evaluation -> names of its benchmarks.

    Raises:
        RecipeError: the table cannot be computed. The message names the place, as `table.2.shows.0.of`, and the
            nearest known name.
    """
    if not isinstance(entries, list):
        raise RecipeError("table: must be a list of claims, each with `says` and `shows`")
    for i, entry in enumerate(entries):
        at = f"table.{i}"
        _check_keys(at, entry, ENTRY_KEYS)
        if "says" not in entry:
            raise RecipeError(f"{at}.says: is missing, the claim in words")
        for key in ("says", "paper", "source"):
            if not isinstance(entry.get(key, ""), str):
                raise RecipeError(f"{at}.{key}: must be a text")
        if not isinstance(entry.get("shows"), list) or not entry["shows"]:
            raise RecipeError(f"{at}.shows: must be a list of figures, at least one")
        for j, show in enumerate(entry["shows"]):
            _check_show(f"{at}.shows.{j}", show, tasks, benchmarks)


def _check_keys(at: str, given: Any, known: Sequence[str]) -> None:
    if not isinstance(given, dict):
        raise RecipeError(f"{at}: must be a mapping with the keys {', '.join(known)}")
    for key in given:
        if key not in known:
            raise RecipeError(f"{at}: unknown key {key!r}{suggest_nearest(str(key), list(known))}")


def _check_show(at: str, show: Any, tasks: Mapping[str, str], benchmarks: Mapping[str, Sequence[str]]) -> None:
    _check_keys(at, show, SHOW_KEYS)
    figure, stage = show.get("figure"), show.get("of")
    if not is_evaluated(figure) and figure not in (*LOGGED, "funnel"):
        raise RecipeError(f"{at}.figure: {figure!r} is no figure{suggest_nearest(str(figure), list(FIGURES))}")
    _check_stage(f"{at}.of", stage, figure, tasks)
    if figure not in LOGGED:
        _refuse_keys(at, show, ("metric", "steps"), f"belongs to {' and '.join(LOGGED)}, not to {figure}")
    elif not isinstance(show.get("metric"), str):
        raise RecipeError(f"{at}.metric: name the key of metrics.jsonl to read, such as reward")
    if figure in (*LOGGED, "funnel"):
        _refuse_keys(at, show, ("benchmark",), f"belongs to figures of evaluations, not to {figure}")
    if "steps" in show and not _is_range(show["steps"]):
        raise RecipeError(f"{at}.steps: must be the first and the last training step, such as [1, 20]")
    if show.get("benchmark") is not None and stage in benchmarks:
        _check_name(f"{at}.benchmark", show["benchmark"], benchmarks[stage], f"a benchmark of {stage}")
    _check_relation(at, show, tasks)


def _check_relation(at: str, show: Json, tasks: Mapping[str, str]) -> None:
    given = [key for key in SIDES if key in show]
    if len(given) > 1:
        raise RecipeError(f"{at}: {' and '.join(given)} cannot stand in one line; write two")
    if not given:
        return _refuse_keys(at, show, ("by",), f"needs one of {', '.join(key for key in SIDES if key not in BOUNDS)}")
    (relation,), figure = given, show["figure"]
    other = show[relation]
    if figure == "funnel":
        raise RecipeError(f"{at}.{relation}: a funnel is shown, and not compared")
    if relation in BOUNDS:
        _refuse_keys(at, show, ("by",), f"is part of the number of {relation} already")
        if figure == "spread":
            raise RecipeError(f"{at}.{relation}: a spread is only compared with another, by above or below")
        if isinstance(other, bool) or not isinstance(other, int | float):
            raise RecipeError(f"{at}.{relation}: must be a number; shares are between 0 and 1")
        return None
    if figure == "spread" and (relation in TOLERANT or "by" in show):
        raise RecipeError(f"{at}.{relation}: spreads are compared by their ratio: above or below, without `by`")
    if relation in TOLERANT and "by" not in show:
        raise RecipeError(f"{at}: {relation} needs `by`, the allowed loss, such as 0.02 for two points")
    by = show.get("by", 0)
    if isinstance(by, bool) or not isinstance(by, int | float) or by < 0 or (relation in TOLERANT and by == 0):
        raise RecipeError(f"{at}.by: must be a number above 0; of shares, 0.02 is two points")
    if other in list(tasks) or not is_evaluated(other):
        _check_stage(f"{at}.{relation}", other, figure, tasks)
    elif figure in LOGGED or (other == "mean_length") != (figure == "mean_length"):
        raise RecipeError(f"{at}.{relation}: {figure} and {other} have no unit in common")
    return None


def _refuse_keys(at: str, show: Json, keys: Sequence[str], why: str) -> None:
    for key in keys:
        if key in show:
            raise RecipeError(f"{at}.{key}: {why}")


def is_evaluated(name: Any) -> bool:
    """True for a figure of an evaluation."""
    if name in OF_SAMPLES:
        return True
    try:
        registry.parse_metric(name)
    except RecipeError:
        return False
    return True


def _check_stage(at: str, stage: Any, figure: str, tasks: Mapping[str, str]) -> None:
    _check_name(at, stage, list(tasks), "a stage of this pipeline")
    task = tasks[stage]
    if figure == "funnel":
        fits, wanted = task == "select", "a selection has one"
    elif figure in LOGGED:
        fits, wanted = task not in (*DATA_TASKS, "evaluate"), "a training has metrics"
    else:
        fits, wanted = task not in DATA_TASKS, "an evaluation has it, or a training with an `evaluation`"
    if not fits:
        raise RecipeError(f"{at}: {stage} is of the task {task}, which has no {figure}; {wanted}")


def _check_name(at: str, name: Any, known: Sequence[str], what: str) -> None:
    if name not in known:
        raise RecipeError(f"{at}: {name!r} is not {what}{suggest_nearest(str(name), list(known))}")


def _is_range(steps: Any) -> bool:
    whole = isinstance(steps, list) and len(steps) == 2 and all(type(step) is int for step in steps)
    return whole and 0 <= steps[0] <= steps[1]
