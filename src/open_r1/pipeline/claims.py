"""What the paper says and what a pipeline shows: the table of claims, computed from the run directories alone.

A claim's mark is computed, by one of three rules, and every one of its comparisons must hold:

- over seeds: the difference for each seed, and Student's 95% interval of its mean. It holds if the interval lies
  wholly on the wanted side, disagrees if it lies wholly on the other, and is not clear otherwise. What is told is what
  other seeds would show on these same problems.
- over problems, where a single seed was run: the paired difference of each problem and its 95% interval, and where no
  margin is given the sign-flip test at 5% as well. What is told is what other problems would show of these models.
- spread: the ratio of two spreads over seeds, and its 95% interval (`seeds.spread_ratio`).

Each comparison is tested by itself: of forty whose sides do not differ about one holds by chance, and one disagrees.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import yaml

from ..benchmarks import registry
from ..errors import RecipeError, suggest_nearest
from ..evaluation import metrics, over_seeds
from ..evaluation.intervals import estimate_interval
from ..evaluation.significance import are_uneven, compute_sign_flip_p, pair_differences
from ..evaluation.tables import format_count, format_p_value, format_points, format_share, join_cell
from ..system import run_files
from ..system.files import write_json
from ..system.run_files import list_benchmarks, read_json, read_rows, read_text

Json = dict[str, Any]

SIDES = {"above": 1, "not_below": 1, "at_least": 1, "below": -1, "not_above": -1, "at_most": -1}
BOUNDS = ("at_least", "at_most")  # by a number, not by another figure
SPARING = ("not_below", "not_above")  # which need `by`
SHARES = ("format", "language", "truncated", "no_answer")
OF_SAMPLES = (*SHARES, "mean_length")
LOGGED = ("metric", "spread")  # of metrics.jsonl
FIGURES = ("pass@1", "pass@k", "maj@k", *OF_SAMPLES, *LOGGED, "funnel")
ENTRY_KEYS = ("says", "paper", "source", "shows")
SHOW_KEYS = ("figure", "of", "benchmark", "metric", "steps", "by", *SIDES)
DATA_TASKS = ("sample", "select", "mix")
FALSE_ALARMS = 0.05
WIDTH, HEAD = 120, 13  # of the table in a terminal, and of what stands before its texts

RULES = {
    "seeds": "over seeds: 95% t interval of the mean difference; holds or disagrees if all of it lies on one side",
    "problems": "one seed: paired over its problems, 95% interval and, without a margin, sign-flip test at 5%",
    "spread": "spread: standard deviation over seeds in the mean over steps; the ratio and its 95% interval",
}


class Known(NamedTuple):
    """What a table can be about: stages, and where they are known their tasks and the names of their benchmarks."""

    stages: Sequence[str]
    tasks: Mapping[str, str]
    benchmarks: Mapping[str, Sequence[str]]


def check_claims(
    entries: Any,
    stages: Sequence[str],
    tasks: Mapping[str, str] | None = None,
    benchmarks: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Refuse a table that could not be computed, before anything runs.

    Args:
        entries: the pipeline's `table`.
        stages: names of its stages, such as `zero` and `measured.zero`.
        tasks: of stages, where they are known: a figure that a task cannot have is refused.
        benchmarks: names of the benchmarks of evaluations, where they are known.

    Raises:
        RecipeError: with the place, as `table.2.shows.0.of`, and the nearest name there is.
    """
    known = Known(stages, tasks or {}, benchmarks or {})
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
            _check_show(f"{at}.shows.{j}", show, known)


def _check_keys(at: str, given: Any, known: Sequence[str]) -> None:
    if not isinstance(given, dict):
        raise RecipeError(f"{at}: must be a mapping with the keys {', '.join(known)}")
    for key in given:
        if key not in known:
            raise RecipeError(f"{at}: unknown key {key!r}{suggest_nearest(str(key), list(known))}")


def _check_show(at: str, show: Any, known: Known) -> None:
    _check_keys(at, show, SHOW_KEYS)
    figure, stage = show.get("figure"), show.get("of")
    _check_figure(f"{at}.figure", figure)
    _check_stage(f"{at}.of", stage, figure, known)
    if figure not in LOGGED:
        _refuse_keys(at, show, ("metric", "steps"), f"belongs to {' and '.join(LOGGED)}, not to {figure}")
    elif not isinstance(show.get("metric"), str):
        raise RecipeError(f"{at}.metric: name the key of metrics.jsonl that {figure} is of, such as reward")
    if figure in (*LOGGED, "funnel"):
        _refuse_keys(at, show, ("benchmark",), f"belongs to figures of evaluations, not to {figure}")
    if "steps" in show and not _is_range(show["steps"]):
        raise RecipeError(f"{at}.steps: must be the first and the last training step, such as [1, 20]")
    if show.get("benchmark") is not None and stage in known.benchmarks:
        _check_name(f"{at}.benchmark", show["benchmark"], known.benchmarks[stage], f"a benchmark of {stage}")
    _check_relation(at, show, known)


def _check_relation(at: str, show: Json, known: Known) -> None:
    given = [key for key in SIDES if key in show]
    if len(given) > 1:
        raise RecipeError(f"{at}: {' and '.join(given)} cannot stand in one line; write two")
    if not given:
        return _refuse_keys(at, show, ("by",), f"needs one of {', '.join(set(SIDES) - set(BOUNDS))}")
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
    if figure == "spread" and (relation in SPARING or "by" in show):
        raise RecipeError(f"{at}.{relation}: spreads are compared by their ratio: above or below, without `by`")
    if relation in SPARING and "by" not in show:
        raise RecipeError(f"{at}: {relation} needs `by`, how much may be lost, such as 0.02 for two points")
    by = show.get("by", 0)
    if isinstance(by, bool) or not isinstance(by, int | float) or by < 0 or (relation in SPARING and by == 0):
        raise RecipeError(f"{at}.by: must be a number above 0; of shares, 0.02 is two points")
    if other in known.stages or not _is_figure(other):
        _check_stage(f"{at}.{relation}", other, figure, known)
    elif figure in LOGGED or (other == "mean_length") != (figure == "mean_length"):
        raise RecipeError(f"{at}.{relation}: {figure} and {other} have no unit in common")
    return None


def _refuse_keys(at: str, show: Json, keys: Sequence[str], why: str) -> None:
    for key in keys:
        if key in show:
            raise RecipeError(f"{at}.{key}: {why}")


def _check_figure(at: str, figure: Any) -> None:
    if not _is_figure(figure) and figure not in (*LOGGED, "funnel"):
        raise RecipeError(f"{at}: {figure!r} is no figure{suggest_nearest(str(figure), list(FIGURES))}")


def _is_figure(name: Any) -> bool:
    """A figure of an evaluation."""
    if name in OF_SAMPLES:
        return True
    try:
        registry.parse_metric(name)
    except RecipeError:
        return False
    return True


def _check_stage(at: str, stage: Any, figure: str, known: Known) -> None:
    _check_name(at, stage, known.stages, "a stage of this pipeline")
    task = known.tasks.get(stage)
    if task is None:
        return
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


class Runs:
    """The stages of a pipeline's directory by name and seed; evaluations are read once.

    Attributes:
        seeds: in the pipeline's order.
    """

    def __init__(self, pipeline_dir: Path):
        self.dir = pipeline_dir
        stages = read_json(pipeline_dir / "state.json").get("stages") or []
        self.stages = {(stage["name"], stage["seed"]): stage for stage in stages}
        self.seeds = list(dict.fromkeys(stage["seed"] for stage in stages))
        self.evaluations: dict[Path, Json] = {}
        self.listed: dict[Path, list[str]] = {}

    def missing(self, name: str, seed: Any, path: Path) -> str:
        """Why a file of a stage is not there."""
        stage = self.stages.get((name, seed))
        if stage is None:
            return f"{name} has no run of seed {seed}"
        if stage["state"] in ("finished", "cached"):
            return f"{path.relative_to(self.dir)} is not there"
        return f"{name} of seed {seed} is {stage['state']}"

    def folder(self, name: str, seed: Any) -> Path:
        """Run directory of a stage, as the pipeline's directory shows it."""
        stage = self.stages.get((name, seed)) or {}
        return self.dir / (stage.get("view") or f"seed={seed}/{name}")

    def whole(self, name: str, seed: Any) -> bool:
        """True if the stage has ended: what its directory holds until then may belong to no result."""
        return self.stages.get((name, seed), {}).get("state") in ("finished", "cached")

    def benchmarks(self, name: str, seed: Any) -> list[str]:
        """Those of an evaluation, in the order of its recipe; none of a training."""
        folder = self.folder(name, seed)
        if folder not in self.listed:
            self.listed[folder] = list_benchmarks(folder)
        return self.listed[folder]

    def evaluation(self, path: Path) -> Json:
        if path not in self.evaluations:
            try:
                self.evaluations[path] = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise RecipeError(
                    f"{path}: is damaged ({error}); delete the stage's directory and run again"
                ) from error
        return self.evaluations[path]


class Missing(Exception):
    """A figure that is not there, or not yet; the message says why."""


def _reading(runs: Runs, figure: str, show: Json, stage: str, seed: Any) -> Json:
    """A figure of one stage and seed, with the file and the key that it was read from.

    Raises:
        Missing: there is none.
    """
    if figure in LOGGED:
        points_T, path, key = _logged(runs, show, stage, seed)
        return _told_source(runs, seed, path, key) | {"value": fmean(points_T.values()), "points": points_T}
    path = _evaluation_path(runs, show, stage, seed)
    found = runs.evaluation(path)
    key, of_file = _place(found, figure, path)
    doubtful = sum(found["shares"][verdict]["value"] or 0.0 for verdict in metrics.DOUBT)
    if of_file["value"] is None:
        raise Missing(f"{path.relative_to(runs.dir)} has no value of {figure}")
    bounds = {name: of_file.get(name) for name in ("value", "low", "high")}
    return _told_source(runs, seed, path, f"{key}.value") | bounds | {"unjudged": doubtful, "found": found}


def _told_source(runs: Runs, seed: Any, path: Path, key: str) -> Json:
    return {"seed": seed, "file": path.relative_to(runs.dir).as_posix(), "key": key}


def _evaluation_path(runs: Runs, show: Json, stage: str, seed: Any) -> Path:
    """The file of a benchmark; by default an evaluation's first, in its recipe's order, and a training's `after`."""
    folder, listed = runs.folder(stage, seed), runs.benchmarks(stage, seed)
    name = show.get("benchmark") or next(iter(listed), "after")
    path = folder / "evaluations" / f"{name}.json"
    if runs.whole(stage, seed) and path.is_file():
        return path
    if runs.whole(stage, seed) and listed and name not in listed:
        raise Missing(f"{stage} has no benchmark {name!r}{suggest_nearest(name, listed)}")
    raise Missing(runs.missing(stage, seed, path))


def _place(found: Json, figure: str, path: Path) -> tuple[str, Json]:
    """Key and content of a figure of an evaluation."""
    if figure == "mean_length":
        return "tokens.mean", found["tokens"]["mean"]
    if figure in SHARES:
        return f"shares.{figure}", found["shares"][figure]
    name = _resolved(found, figure)
    if name not in found["metrics"]:
        raise Missing(f"{path.name} of {path.parents[1].name} has no {name}, only {', '.join(found['metrics'])}")
    return f"metrics.{name}", found["metrics"][name]


def _resolved(found: Json, figure: str) -> str:
    """`maj@k` by its number of samples."""
    return figure.replace("@k", f"@{found['protocol']['k']}")


def _logged(runs: Runs, show: Json, stage: str, seed: Any) -> tuple[dict[int, float], Path, str]:
    """The values of a logged metric at the steps that the claim is about."""
    path = runs.folder(stage, seed) / "metrics.jsonl"
    if not runs.whole(stage, seed) or not path.is_file():
        raise Missing(runs.missing(stage, seed, path))
    rows, metric = list(read_rows(path)), show["metric"]
    first, last = show.get("steps") or (0, float("inf"))
    found = {step: value for step, value in run_files.read_series(rows, metric).items() if first <= step <= last}
    if not found:
        logged = sorted({key for row in rows for key in row})
        why = " at these steps" if metric in logged else suggest_nearest(metric, logged)
        raise Missing(f"{stage} of seed {seed} has logged no {metric}{why}")
    return found, path, f"{metric}, steps {min(found)} to {max(found)}"


def measure(pipeline_dir: Path) -> Json:
    """The table of a pipeline, from what its run directories hold; what is not there yet is told as missing.

    Args:
        pipeline_dir: with `pipeline.yaml` and `state.json`.

    Returns:
        For JSON: `seeds`, `level`, `rules` (in words), and `lines`: each claim with its `mark` (`holds`, `disagrees`,
        `not clear`; `missing` while a figure is not there; `shown` if nothing was to be compared) and its `shows`:
        readings by seed with file and key, means with bands, the differences, the rule, the mark, and all that `told`
        in a sentence.
    """
    pipeline_dir = Path(pipeline_dir)
    runs = Runs(pipeline_dir)
    entries = (yaml.safe_load(read_text(pipeline_dir / "pipeline.yaml")) or {}).get("table") or []
    lines = []
    for entry in entries:
        shows = [_shown(runs, show) for show in entry["shows"]]
        about = {key: entry.get(key, "") for key in ("says", "paper", "source")}
        lines.append(about | {"mark": _together([show["mark"] for show in shows]), "shows": shows})
    used = {show["rule"] for line in lines for show in line["shows"]}
    return {
        "seeds": runs.seeds,
        "level": over_seeds.LEVEL,
        "rules": {name: rule for name, rule in RULES.items() if name in used},
        "lines": lines,
    }


def _together(marks: list[str]) -> str:
    """The mark of a claim by those of its comparisons, all of which must hold."""
    return next((mark for mark in ("disagrees", "missing", "not clear", "holds") if mark in marks), "shown")


def _shown(runs: Runs, show: Json) -> Json:
    """One comparison, or one figure that is only shown."""
    relation = next((key for key in SIDES if key in show), None)
    than = show.get(relation) if relation else None
    told = {key: show.get(key) for key in ("figure", "of", "benchmark", "metric", "steps")}
    told |= {"relation": relation, "than": than, "by": show.get("by", 0.0), "rule": None, "p": None, "why": ""}
    if show["figure"] == "funnel":
        return _funnel(runs, told)
    a_S, missing = _readings(runs, show["figure"], show, show["of"])
    b_S: list[Json] = []
    if relation and relation not in BOUNDS:
        stages = {name for name, _ in runs.stages}
        other = (show["figure"], than) if than in stages or not _is_figure(than) else (than, show["of"])
        b_S, of_other = _readings(runs, other[0], show, other[1])
        missing = list(dict.fromkeys(missing + of_other))
    told |= {"missing": missing, "values": a_S, "than_values": b_S}
    told |= {"mean": _mean(told["figure"], a_S), "than_mean": _mean(told["figure"], b_S)}
    told |= {"difference": None, "differences": []}
    told |= _marked(told)
    told["told"] = _sentence(told)
    # What the comparison was made from is in the files that are named.
    for reading in a_S + b_S:
        reading.pop("found", None)
        reading.pop("points", None)
    return told


def _readings(runs: Runs, figure: str, show: Json, stage: str) -> tuple[list[Json], list[str]]:
    """The figure of each seed that has it, and why others have not."""
    found, missing = [], []
    for seed in runs.seeds:
        try:
            reading = _reading(runs, figure, show, stage, seed)
        except Missing as why:
            missing.append(str(why))
        else:
            found.append(reading | {"run": str(runs.folder(stage, seed).resolve())})
    return found, list(dict.fromkeys(missing))


def _mean(figure: str, readings_S: list[Json]) -> Json:
    """Mean over different runs, with a band; of a single one its own interval over problems."""
    distinct = list({reading["run"]: reading for reading in readings_S}.values())
    if figure == "spread":
        values_TS = _by_step(distinct)
        value = over_seeds.compute_spread(values_TS) if values_TS and len(distinct) > 1 else None
        return {"value": value, "low": None, "high": None}
    if len(distinct) == 1:
        return {key: distinct[0].get(key) for key in ("value", "low", "high")}
    mean = over_seeds.compute_mean([reading["value"] for reading in distinct])
    if figure in LOGGED or mean["low"] is None:
        return mean
    if figure == "mean_length":
        return mean | {"low": max(0.0, mean["low"])}
    return mean | {"low": max(0.0, mean["low"]), "high": min(1.0, mean["high"])}


def _by_step(readings_S: list[Json]) -> list[list[float]]:
    """Values at the steps that all seeds have."""
    if not readings_S:
        return []
    common = set.intersection(*(set(reading["points"]) for reading in readings_S))
    return [[reading["points"][step] for reading in readings_S] for step in sorted(common)]


def _marked(told: Json) -> Json:
    """The mark of a comparison, with the differences, the rule, and what must be said of them."""
    relation, a_S, b_S = told["relation"], told["values"], told["than_values"]
    if relation is None:
        return {"mark": "shown" if a_S else "missing"}
    if not a_S or (relation not in BOUNDS and not b_S):
        return {"mark": "missing"}
    if told["figure"] == "spread":
        return _spread_marked(told)
    if relation in BOUNDS:
        pairs = [(a, {"value": told["than"], "run": ""}) for a in a_S]
    else:
        of_seed = {reading["seed"]: reading for reading in b_S}
        pairs = [(a, of_seed[a["seed"]]) for a in a_S if a["seed"] in of_seed]
    if not pairs:
        return {"mark": "missing", "why": "no seed has both sides"}
    if relation not in BOUNDS and told["figure"] not in LOGGED:
        for a, b in pairs:
            if a["found"]["identity"] != b["found"]["identity"]:
                return {"mark": "not clear", "why": f"{a['file']} and {b['file']} asked different problems"}
    # A stage whose seed is fixed is one run, however many seeds share it.
    distinct = list({(a["run"], b["run"]): (a, b) for a, b in pairs}.values())
    if len(distinct) > 1 and relation not in BOUNDS and 1 in [len({p[side]["run"] for p in pairs}) for side in (0, 1)]:
        return {"mark": "not clear", "why": "one side is a single run, whose own chance the seeds do not show"}
    if len(distinct) > 1:
        differences = [a["value"] - b["value"] for a, b in distinct]
        mean = over_seeds.compute_mean(differences)
        return {"rule": "seeds", "differences": differences, "difference": mean, "mark": _verdict(told, mean)}
    return _problems_marked(told, *distinct[0])


def _margin(told: Json) -> float:
    """How far the difference must be above, or may be below, zero to the wanted side."""
    return -told["by"] if told["relation"] in SPARING else told["by"]


def _verdict(told: Json, difference: Json) -> str:
    """By an interval of the difference: wholly on the wanted side, wholly on the other, or neither."""
    side = SIDES[told["relation"]]
    ends = sorted(side * difference[end] - _margin(told) for end in ("low", "high"))
    # An exact bound is met by what reaches it: shares of 1 are at least 1.
    if ends[0] > 0 or (told["relation"] in BOUNDS and ends[0] == 0):
        return "holds"
    return "disagrees" if ends[1] < 0 else "not clear"


def _problems_marked(told: Json, a: Json, b: Json) -> Json:
    """The mark of a single seed, by its problems."""
    if told["relation"] in BOUNDS:
        if a.get("low") is None:
            return {"mark": "not clear", "why": f"one seed, and {told['figure']} has no interval over problems"}
        difference = {key: a[key] - told["than"] for key in ("value", "low", "high")}
        return {"rule": "problems", "difference": difference, "mark": _verdict(told, difference)}
    if told["figure"] in (*LOGGED, "no_answer"):
        return {"mark": "not clear", "why": f"one seed says nothing of how much {told['figure']} differs by chance"}
    theirs = told["than"] if a["file"] == b["file"] else told["figure"]
    problems_a, problems_b = ({one["id"]: one for one in side["found"]["by_problem"]} for side in (a, b))
    ids = [one for one in problems_a if one in problems_b]
    values_a = [_of_problem(problems_a[one], _resolved(a["found"], told["figure"])) for one in ids]
    values_b = [_of_problem(problems_b[one], _resolved(b["found"], theirs)) for one in ids]
    differences_P = pair_differences(values_b, values_a)
    known = [difference for difference in differences_P if difference is not None]
    bounds = None if told["figure"] == "mean_length" else (-1.0, 1.0)
    found = estimate_interval(known, bounds=bounds)
    if found is None:
        return {"mark": "not clear", "why": f"one seed, and fewer than two problems have {told['figure']}"}
    low, high = found
    difference = {"value": fmean(known), "low": low, "high": high}
    p = None if told["by"] else compute_sign_flip_p(differences_P)
    marked = {"rule": "problems", "difference": difference, "p": p, "mark": _verdict(told, difference)}
    if are_uneven(*([problems[one]["evidence"] for one in ids] for problems in (problems_a, problems_b))):
        return marked | {"mark": "not clear", "why": "the sides have too unequal numbers of judged samples"}
    return marked | ({"mark": "not clear"} if p is not None and p > FALSE_ALARMS else {})


def _of_problem(problem: Json, figure: str) -> float | None:
    if figure == "truncated":
        return problem["truncated"] / problem["samples"]
    return problem.get("tokens" if figure == "mean_length" else figure)


def _spread_marked(told: Json) -> Json:
    """The mark of a spread against another, by their ratio."""
    a_S, b_S = ({reading["run"]: reading for reading in told[key]} for key in ("values", "than_values"))
    few = min(len(a_S), len(b_S))
    if few < 2:
        return {"mark": "not clear", "why": "a spread takes two seeds or more of either side"}
    # As many seeds of either side, and the steps that all of them have.
    both = [*list(a_S.values())[:few], *list(b_S.values())[:few]]
    values_TN = _by_step(both)
    if not values_TN:
        return {"mark": "missing", "why": "no step that all seeds have logged"}
    a_TS, b_TS = [row[:few] for row in values_TN], [row[few:] for row in values_TN]
    ratio = over_seeds.compare_spreads(a_TS, b_TS)
    if ratio is None:
        return {"mark": "not clear", "why": f"{told['than']} does not vary at all"}
    wanted = SIDES[told["relation"]]
    if (ratio["low"] if wanted > 0 else -ratio["high"]) > wanted:
        mark = "holds"
    elif (ratio["high"] if wanted > 0 else -ratio["low"]) < wanted:
        mark = "disagrees"
    else:
        mark = "not clear"
    return {"rule": "spread", "difference": ratio, "mark": mark}


def _funnel(runs: Runs, told: Json) -> Json:
    """The steps of a selection in the mean over the seeds; shown, and not compared."""
    found, missing = [], []
    for seed in runs.seeds:
        path = runs.folder(told["of"], seed) / "funnel.json"
        steps = read_json(path).get("steps") if runs.whole(told["of"], seed) else None
        if steps:
            kept = {step["name"]: step["kept"] for step in steps}
            found.append(_told_source(runs, seed, path, "steps.*.kept") | {"value": kept})
        else:
            missing.append(runs.missing(told["of"], seed, path))
    names = [name for name in (found[0]["value"] if found else {}) if all(name in one["value"] for one in found)]
    mean = {name: fmean(one["value"][name] for one in found) for name in names}
    steps = [f"{name} {kept:,.0f}" for name, kept in mean.items()]
    sentence = f"funnel of {told['of']}: {' → '.join(steps)}" if steps else f"funnel of {told['of']}"
    more = {"values": found, "mean": mean, "missing": missing, "told": sentence + _aside(missing, "")}
    return told | more | {"mark": "shown" if found else "missing"}


def _sentence(told: Json) -> str:
    """`pass@1 of measured.zero 96.9% [95.1, 98.8] above measured.base 14.0% [12.9, 15.1]: +82.9 [80.2, 85.6]`."""
    figure, relation = told["figure"], told["relation"]
    named = _named(told)
    parts = [f"{named} of {told['of']} {_value(figure, told['mean'])}".strip()]
    if relation in BOUNDS:
        parts.append(f"{relation.replace('_', ' ')} {_value(figure, {'value': told['than']})}")
    elif relation:
        margin = f" by {_size(figure, told['by'])}" if told["by"] else ""
        other = _value(figure, told["than_mean"])
        parts.append(f"{relation.replace('_', ' ')} {told['than']} {other}".strip() + margin)
    line = " ".join(parts)
    if told["difference"] is not None and relation not in BOUNDS:
        line += f": {_difference(told)}"
    unjudged = max((reading.get("unjudged", 0.0) for reading in told["values"] + told["than_values"]), default=0.0)
    doubt = f"up to {100 * unjudged:.1f}% of the samples have no verdict" if unjudged else ""
    return line + _aside(told["missing"], "; ".join(filter(None, (told["why"], doubt))))


def _named(told: Json) -> str:
    """The figure in words."""
    if told["figure"] not in LOGGED:
        return told["figure"].replace("_", " ") + (f" in {told['benchmark']}" if told["benchmark"] else "")
    steps = f" at steps {told['steps'][0]} to {told['steps'][1]}" if told["steps"] else ""
    return ("spread over seeds of " if told["figure"] == "spread" else "") + told["metric"] + steps


def _value(figure: str, value: Json) -> str:
    if value["value"] is None:
        return ""
    if figure in LOGGED:
        return _plain(value)
    return join_cell(format_count(value) if figure == "mean_length" else format_share(value))


def _size(figure: str, by: float) -> str:
    """A margin with its unit."""
    if figure == "metric":
        return f"{by:g}"
    return f"{by:g} tokens" if figure == "mean_length" else f"{100 * by:g} points"


def _plain(value: Json, sign: str = "") -> str:
    """A number without a unit, with three digits that say something."""
    told = f"{value['value']:{sign}.3g}"
    if value.get("low") is None:
        return told
    return f"{told} [{value['low']:.3g}, {value['high']:.3g}]"


def _difference(told: Json) -> str:
    figure, difference = told["figure"], told["difference"]
    p = ", one seed, over its problems" if told["rule"] == "problems" else ""
    p += f", p {format_p_value(told['p'])}" if told["p"] is not None else ""
    if figure == "spread":
        return f"{_plain(difference)} times"
    if figure == "metric":
        return _plain(difference, "+")
    if figure == "mean_length":
        return f"{difference['value']:+,.1f} tokens {format_count(difference)[1]}{p}"
    return f"{format_points(difference)[0]} points {format_points(difference)[1]}{p}"


def _aside(missing: list[str], why: str) -> str:
    told = "; ".join(filter(None, (why, "; ".join(missing[:3]), f"and {len(missing) - 3} more" * (len(missing) > 3))))
    return f" ({told})" if told else ""


def format_claims(table: Json) -> str:
    """The table for a terminal, 120 columns wide, without a newline at the end."""
    if not table["lines"]:
        return ""
    lines = [f"the paper says / this run shows ({_seeds_told(table['seeds'])})"]
    for line in table["lines"]:
        published = " ".join(filter(None, (line["paper"], f"({line['source']})" if line["source"] else "")))
        lines += ["", *_wrapped(line["mark"], line["says"])]
        lines += _wrapped("  paper", published) if published else []
        for show in line["shows"]:
            mark = "here" if len(line["shows"]) == 1 or show["mark"] == "shown" else show["mark"]
            lines += _wrapped(f"  {mark}", show["told"])
    lines += ["", *(part for rule in table["rules"].values() for part in textwrap.wrap(rule, WIDTH))]
    return "\n".join(lines).rstrip()


def _seeds_told(seeds_S: list[Any]) -> str:
    return f"{len(seeds_S)} {'seed' if len(seeds_S) == 1 else 'seeds'}"


def _wrapped(head: str, text: str) -> list[str]:
    """A text beside its head, in lines that stand below one another."""
    return textwrap.wrap(text, WIDTH, initial_indent=f"{head:<{HEAD}}", subsequent_indent=" " * HEAD)


def write_claims(pipeline_dir: Path) -> Json:
    """Measure the table, and keep it as `table.json`."""
    table = measure(pipeline_dir)
    write_json(Path(pipeline_dir) / "table.json", table)
    return table
