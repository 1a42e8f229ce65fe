"""The table of claims: what the paper says beside what a pipeline shows, computed from its run directories.

A claim has one or more comparisons, and its mark is `holds` if all of them hold. A comparison is marked by one of
three rules:

- seeds: Student's 95% interval of the mean difference over the seeds. `holds` if the interval lies wholly on the
  claimed side, `disagrees` if it lies wholly on the other side, else `not clear`. It covers what other seeds would
  show on the same problems.
- problems, with a single seed: the 95% interval of the paired differences by problem. Without a margin the sign-flip
  test at 5% must agree. It covers what other problems would show of the same models.
- spread: the ratio of two standard deviations over seeds and its 95% interval (`over_seeds.compare_spreads`).

Each comparison is tested by itself: of forty whose sides do not differ about one holds by chance, and one disagrees.
"""

from __future__ import annotations

import json
import textwrap
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from ..errors import RecipeError, suggest_nearest
from ..evaluation import metrics, over_seeds
from ..evaluation.intervals import estimate_interval
from ..evaluation.significance import are_uneven, compute_sign_flip_p, pair_differences
from ..evaluation.tables import format_count, format_more, format_p_value, format_points, format_share, join_cell
from ..system import run_files
from ..system.files import write_json
from ..system.run_files import read_json, read_rows, read_text
from .claim_checks import BOUNDS, LOGGED, SHARES, SIDES, TOLERANT, is_evaluated

Json = dict[str, Any]

ENDED = ("finished", "cached")
FALSE_ALARMS = 0.05
WIDTH, HEAD = 120, 13  # columns of the table in a terminal, and of its first column

RULES = {
    "seeds": "over seeds: 95% t interval of the mean difference; holds or disagrees if all of it lies on one side",
    "problems": "one seed: paired over its problems, 95% interval and, without a margin, sign-flip test at 5%",
    "spread": "spread: standard deviation over seeds in the mean over steps; the ratio and its 95% interval",
}


class Missing(Exception):
    """A figure that does not exist, or not yet; the message gives the reason."""


class Runs:
    """The run directories of a pipeline by stage and seed.

    Attributes:
        seeds: in the pipeline's order.
        read_evaluation: the content of an evaluation's file; read once.
        list_benchmarks: benchmarks of a run directory in its recipe's order, none of a training; read once.
    """

    def __init__(self, pipeline_dir: Path):
        self.dir = pipeline_dir
        stages = read_json(pipeline_dir / "state.json").get("stages") or []
        self.stages = {(stage["name"], stage["seed"]): stage for stage in stages}
        self.seeds = list(dict.fromkeys(stage["seed"] for stage in stages))
        self.read_evaluation, self.list_benchmarks = cache(_read_evaluation), cache(run_files.list_benchmarks)

    def find_folder(self, name: str, seed: Any) -> Path:
        """Run directory of a stage, by its link in the pipeline's directory."""
        stage = self.stages.get((name, seed)) or {}
        return self.dir / (stage.get("view") or f"seed={seed}/{name}")

    def find_file(self, name: str, seed: Any, file: str) -> Path:
        """A file of a stage that has ended; until then its directory may hold files of an earlier run.

        Raises:
            Missing: the stage has no such file, or has not ended.
        """
        path, stage = self.find_folder(name, seed) / file, self.stages.get((name, seed))
        if stage is None:
            raise Missing(f"{name} has no run of seed {seed}")
        if stage["state"] not in ENDED:
            raise Missing(f"{name} of seed {seed} is {stage['state']}")
        if not path.is_file():
            raise Missing(f"{path.relative_to(self.dir)} is not there")
        return path

    def describe_source(self, seed: Any, path: Path, key: str) -> Json:
        """Where a figure was read, for table.json."""
        return {"seed": seed, "file": path.relative_to(self.dir).as_posix(), "key": key}


def _read_evaluation(path: Path) -> Json:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecipeError(f"{path}: is damaged ({error}); delete the stage's directory and run again") from error


def _read_figures(runs: Runs, figure: str, show: Json, stage: str) -> tuple[list[Json], list[str]]:
    """The figure of each seed that has it, and why other seeds do not."""
    read = _read_logged if figure in LOGGED else _read_evaluated
    readings_S, missing = [], []
    for seed in runs.seeds:
        try:
            reading = read(runs, figure, show, stage, seed)
        except Missing as why:
            missing.append(str(why))
        else:
            readings_S.append(reading | {"run": str(runs.find_folder(stage, seed).resolve())})
    return readings_S, list(dict.fromkeys(missing))


def _read_evaluated(runs: Runs, figure: str, show: Json, stage: str, seed: Any) -> Json:
    """A figure of an evaluation; by default of its recipe's first benchmark, and of a training's `after`."""
    listed = runs.list_benchmarks(runs.find_folder(stage, seed))
    name = show.get("benchmark") or next(iter(listed), "after")
    try:
        path = runs.find_file(stage, seed, f"evaluations/{name}.json")
    except Missing:
        if listed and name not in listed and runs.stages[stage, seed]["state"] in ENDED:
            raise Missing(f"{stage} has no benchmark {name!r}{suggest_nearest(name, listed)}") from None
        raise
    found = runs.read_evaluation(path)
    key, stored = _find_figure(found, figure, path)
    if stored["value"] is None:
        raise Missing(f"{path.relative_to(runs.dir)} has no value of {figure}")
    bounds = {name: stored.get(name) for name in ("value", "low", "high")}
    unjudged = sum(found["shares"][verdict]["value"] or 0.0 for verdict in metrics.DOUBT)
    return runs.describe_source(seed, path, f"{key}.value") | bounds | {"unjudged": unjudged, "found": found}


def _find_figure(found: Json, figure: str, path: Path) -> tuple[str, Json]:
    """Key and content of a figure in an evaluation's file."""
    if figure == "mean_length":
        return "tokens.mean", found["tokens"]["mean"]
    if figure in SHARES:
        return f"shares.{figure}", found["shares"][figure]
    name = _resolve_k(found, figure)
    if name not in found["metrics"]:
        raise Missing(f"{path.name} of {path.parents[1].name} has no {name}, only {', '.join(found['metrics'])}")
    return f"metrics.{name}", found["metrics"][name]


def _resolve_k(found: Json, figure: str) -> str:
    """`maj@k` with its number of samples."""
    return figure.replace("@k", f"@{found['protocol']['k']}")


def _read_logged(runs: Runs, figure: str, show: Json, stage: str, seed: Any) -> Json:
    """A metric of metrics.jsonl at the steps of `show`: its `points`, and their mean as `value`."""
    path = runs.find_file(stage, seed, "metrics.jsonl")
    rows, metric = list(read_rows(path)), show["metric"]
    first, last = show.get("steps") or (0, float("inf"))
    points_T = {step: value for step, value in run_files.read_series(rows, metric).items() if first <= step <= last}
    if not points_T:
        logged = sorted({key for row in rows for key in row})
        why = " at these steps" if metric in logged else suggest_nearest(metric, logged)
        raise Missing(f"{stage} of seed {seed} has logged no {metric}{why}")
    source = runs.describe_source(seed, path, f"{metric}, steps {min(points_T)} to {max(points_T)}")
    return source | {"value": fmean(points_T.values()), "points": points_T}


def measure_claims(pipeline_dir: Path) -> Json:
    """Compute the table of a pipeline from its run directories. Figures that do not exist yet are `missing`.

    Args:
        pipeline_dir: with `pipeline.yaml` and `state.json`.

    Returns:
        For JSON: `seeds`, `level`, `rules` (in words), and `lines`: each claim with its `mark` (`holds`, `disagrees`,
        `not clear`; `missing` while a figure does not exist; `shown` without a comparison) and its `shows`. Each of
        these has the figures of both sides by seed with file and key, means with intervals, the differences, the
        rule, the mark, and a sentence (`told`).
    """
    pipeline_dir = Path(pipeline_dir)
    runs = Runs(pipeline_dir)
    entries = (yaml.safe_load(read_text(pipeline_dir / "pipeline.yaml")) or {}).get("table") or []
    lines = []
    for entry in entries:
        shows = [_measure_show(runs, show) for show in entry["shows"]]
        about = {key: entry.get(key, "") for key in ("says", "paper", "source")}
        lines.append(about | {"mark": _combine_marks([show["mark"] for show in shows]), "shows": shows})
    used = {show["rule"] for line in lines for show in line["shows"]}
    rules = {name: rule for name, rule in RULES.items() if name in used}
    return {"seeds": runs.seeds, "level": over_seeds.LEVEL, "rules": rules, "lines": lines}


def _combine_marks(marks: list[str]) -> str:
    """The mark of a claim from the marks of its comparisons, all of which must hold."""
    return next((mark for mark in ("disagrees", "missing", "not clear", "holds") if mark in marks), "shown")


def _measure_show(runs: Runs, show: Json) -> Json:
    """One entry of `shows`: a comparison, or a figure without one."""
    relation = next((key for key in SIDES if key in show), None)
    than = show.get(relation) if relation else None
    line = {key: show.get(key) for key in ("figure", "of", "benchmark", "metric", "steps")}
    line |= {"relation": relation, "than": than, "by": show.get("by", 0.0), "rule": None, "p": None, "why": ""}
    if show["figure"] == "funnel":
        return _measure_funnel(runs, line)
    a_S, missing = _read_figures(runs, show["figure"], show, show["of"])
    b_S: list[Json] = []
    if relation and relation not in BOUNDS:
        stages = {name for name, _ in runs.stages}
        other = (show["figure"], than) if than in stages or not is_evaluated(than) else (than, show["of"])
        b_S, also_missing = _read_figures(runs, other[0], show, other[1])
        missing = list(dict.fromkeys(missing + also_missing))
    line |= {"missing": missing, "values": a_S, "than_values": b_S}
    line |= {"mean": _compute_mean(line["figure"], a_S), "than_mean": _compute_mean(line["figure"], b_S)}
    line |= {"difference": None, "differences": []}
    line |= _mark_comparison(line)
    line["told"] = _format_sentence(line)
    for reading in a_S + b_S:  # table.json names the files instead of repeating them
        reading.pop("found", None)
        reading.pop("points", None)
    return line


def _compute_mean(figure: str, readings_S: list[Json]) -> Json:
    """Mean over different runs with its interval; of a single run, its interval over problems."""
    distinct = list({reading["run"]: reading for reading in readings_S}.values())
    if figure == "spread":
        values_TS = _align_steps(distinct)
        value = over_seeds.compute_spread(values_TS) if values_TS and len(distinct) > 1 else None
        return {"value": value, "low": None, "high": None}
    if len(distinct) == 1:
        return {key: distinct[0].get(key) for key in ("value", "low", "high")}
    mean = over_seeds.compute_mean([reading["value"] for reading in distinct])
    if figure in LOGGED or mean["low"] is None:
        return mean
    mean["low"] = max(0.0, mean["low"])
    return mean if figure == "mean_length" else mean | {"high": min(1.0, mean["high"])}


def _align_steps(readings_S: list[Json]) -> list[list[float]]:
    """Values [T, S] at the steps that all seeds have."""
    if not readings_S:
        return []
    common = set.intersection(*(set(reading["points"]) for reading in readings_S))
    return [[reading["points"][step] for reading in readings_S] for step in sorted(common)]


def _mark_comparison(line: Json) -> Json:
    """`mark` of a comparison, with `rule`, `difference`, `p` and `why` where they apply."""
    relation, a_S, b_S = line["relation"], line["values"], line["than_values"]
    if relation is None:
        return {"mark": "shown" if a_S else "missing"}
    if not a_S or (relation not in BOUNDS and not b_S):
        return {"mark": "missing"}
    if line["figure"] == "spread":
        return _mark_by_spread(line)
    if relation in BOUNDS:
        pairs = [(a, {"value": line["than"], "run": ""}) for a in a_S]
    else:
        by_seed = {reading["seed"]: reading for reading in b_S}
        pairs = [(a, by_seed[a["seed"]]) for a in a_S if a["seed"] in by_seed]
    if not pairs:
        return {"mark": "missing", "why": "no seed has both sides"}
    if relation not in BOUNDS and line["figure"] not in LOGGED:
        for a, b in pairs:
            if a["found"]["identity"] != b["found"]["identity"]:
                return {"mark": "not clear", "why": f"{a['file']} and {b['file']} asked different problems"}
    # A stage with a fixed seed is one run, however many seeds share it.
    distinct = list({(a["run"], b["run"]): (a, b) for a, b in pairs}.values())
    if len(distinct) == 1:
        return _mark_by_problems(line, *distinct[0])
    if relation not in BOUNDS and 1 in [len({pair[side]["run"] for pair in pairs}) for side in (0, 1)]:
        return {"mark": "not clear", "why": "one side is a single run, whose own chance the seeds do not show"}
    differences = [a["value"] - b["value"] for a, b in distinct]
    mean = over_seeds.compute_mean(differences)
    return {"rule": "seeds", "differences": differences, "difference": mean, "mark": _decide_mark(line, mean)}


def _decide_mark(line: Json, difference: Json) -> str:
    """The mark by an interval of the difference: wholly on the claimed side, wholly on the other, or neither."""
    side, relation = SIDES[line["relation"]], line["relation"]
    margin = -line["by"] if relation in TOLERANT else line["by"]
    low, high = sorted(side * difference[end] - margin for end in ("low", "high"))
    # Reaching an exact bound is enough: shares of 1 are at least 1.
    if low > 0 or (relation in BOUNDS and low == 0):
        return "holds"
    return "disagrees" if high < 0 else "not clear"


def _mark_by_problems(line: Json, a: Json, b: Json) -> Json:
    """The mark with a single seed, by its problems."""
    figure = line["figure"]
    if line["relation"] in BOUNDS:
        if a.get("low") is None:
            return {"mark": "not clear", "why": f"one seed, and {figure} has no interval over problems"}
        difference = {key: a[key] - line["than"] for key in ("value", "low", "high")}
        return {"rule": "problems", "difference": difference, "mark": _decide_mark(line, difference)}
    if figure in (*LOGGED, "no_answer"):
        return {"mark": "not clear", "why": f"one seed does not show how much {figure} varies by chance"}
    other = line["than"] if a["file"] == b["file"] else figure  # two figures of one evaluation, or of two
    problems_a, problems_b = ({one["id"]: one for one in side["found"]["by_problem"]} for side in (a, b))
    ids = [one for one in problems_a if one in problems_b]
    a_P = [metrics.get_problem_value(problems_a[one], _resolve_k(a["found"], figure)) for one in ids]
    b_P = [metrics.get_problem_value(problems_b[one], _resolve_k(b["found"], other)) for one in ids]
    differences_P = pair_differences(b_P, a_P)
    known = [difference for difference in differences_P if difference is not None]
    interval = estimate_interval(known, bounds=None if figure == "mean_length" else (-1.0, 1.0))
    if interval is None:
        return {"mark": "not clear", "why": f"one seed, and fewer than two problems have {figure}"}
    difference = {"value": fmean(known), "low": interval[0], "high": interval[1]}
    p = None if line["by"] else compute_sign_flip_p(differences_P)
    marked = {"rule": "problems", "difference": difference, "p": p, "mark": _decide_mark(line, difference)}
    if are_uneven(*([problems[one]["evidence"] for one in ids] for problems in (problems_a, problems_b))):
        return marked | {"mark": "not clear", "why": "the sides have too unequal numbers of judged samples"}
    return marked | ({"mark": "not clear"} if p is not None and p > FALSE_ALARMS else {})


def _mark_by_spread(line: Json) -> Json:
    """The mark of a spread against another, by their ratio."""
    a_S, b_S = (list({reading["run"]: reading for reading in line[key]}.values()) for key in ("values", "than_values"))
    seeds = min(len(a_S), len(b_S))
    if seeds < 2:
        return {"mark": "not clear", "why": "a spread takes two seeds or more of either side"}
    values_TN = _align_steps([*a_S[:seeds], *b_S[:seeds]])
    if not values_TN:
        return {"mark": "missing", "why": "no step that all seeds have logged"}
    ratio = over_seeds.compare_spreads([row[:seeds] for row in values_TN], [row[seeds:] for row in values_TN])
    if ratio is None:
        return {"mark": "not clear", "why": f"{line['than']} does not vary at all"}
    mark = _decide_mark(line, {end: ratio[end] - 1 for end in ("low", "high")})
    return {"rule": "spread", "difference": ratio, "mark": mark}


def _measure_funnel(runs: Runs, line: Json) -> Json:
    """The steps of a selection in the mean over the seeds; without a comparison."""
    found, missing = [], []
    for seed in runs.seeds:
        try:
            path = runs.find_file(line["of"], seed, "funnel.json")
        except Missing as why:
            missing.append(str(why))
            continue
        kept = {step["name"]: step["kept"] for step in read_json(path)["steps"]}
        found.append(runs.describe_source(seed, path, "steps.*.kept") | {"value": kept})
    names = [name for name in (found[0]["value"] if found else {}) if all(name in one["value"] for one in found)]
    mean = {name: fmean(one["value"][name] for one in found) for name in names}
    steps = " → ".join(f"{name} {kept:,.0f}" for name, kept in mean.items())
    sentence = f"funnel of {line['of']}: {steps}" if steps else f"funnel of {line['of']}"
    more = {"values": found, "mean": mean, "missing": missing, "told": sentence + _format_aside(missing)}
    return line | more | {"mark": "shown" if found else "missing"}


def _format_sentence(line: Json) -> str:
    """`pass@1 of measured.zero 96.9% [95.1, 98.8] above measured.base 14.0% [12.9, 15.1]: +82.9 [80.2, 85.6]`."""
    figure, relation = line["figure"], line["relation"]
    parts = [_format_name(line), "of", line["of"], _format_value(figure, line["mean"])]
    if relation in BOUNDS:
        parts += [relation.replace("_", " "), _format_value(figure, {"value": line["than"]})]
    elif relation:
        parts += [relation.replace("_", " "), line["than"], _format_value(figure, line["than_mean"])]
        parts += [f"by {_format_margin(figure, line['by'])}"] if line["by"] else []
    text = " ".join(filter(None, parts))
    if line["difference"] is not None and relation not in BOUNDS:
        text += f": {_format_difference(line)}"
    unjudged = max((reading.get("unjudged", 0.0) for reading in line["values"] + line["than_values"]), default=0.0)
    doubt = f"up to {100 * unjudged:.1f}% of the samples have no verdict" if unjudged else ""
    return text + _format_aside(line["missing"], line["why"], doubt)


def _format_name(line: Json) -> str:
    """The figure in words."""
    if line["figure"] not in LOGGED:
        return line["figure"].replace("_", " ") + (f" in {line['benchmark']}" if line["benchmark"] else "")
    steps = f" at steps {line['steps'][0]} to {line['steps'][1]}" if line["steps"] else ""
    return ("spread over seeds of " if line["figure"] == "spread" else "") + line["metric"] + steps


def _format_value(figure: str, value: Json) -> str:
    if value["value"] is None:
        return ""
    if figure in LOGGED:
        return _format_plain(value)
    return join_cell(format_count(value) if figure == "mean_length" else format_share(value))


def _format_margin(figure: str, by: float) -> str:
    if figure == "metric":
        return f"{by:g}"
    return f"{by:g} tokens" if figure == "mean_length" else f"{100 * by:g} points"


def _format_plain(value: Json, sign: str = "") -> str:
    """A number without a unit, to three significant digits."""
    interval = "" if value.get("low") is None else f" [{value['low']:.3g}, {value['high']:.3g}]"
    return f"{value['value']:{sign}.3g}{interval}"


def _format_difference(line: Json) -> str:
    figure, difference = line["figure"], line["difference"]
    if figure == "spread":
        return f"{_format_plain(difference)} times"
    if figure == "metric":
        return _format_plain(difference, "+")
    tokens = figure == "mean_length"
    value, interval = format_more(difference) if tokens else format_points(difference)
    rule = ", one seed, over its problems" if line["rule"] == "problems" else ""
    p = f", p {format_p_value(line['p'])}" if line["p"] is not None else ""
    return f"{value} {'tokens' if tokens else 'points'} {interval}{rule}{p}"


def _format_aside(missing: list[str], *remarks: str) -> str:
    more = f"and {len(missing) - 3} more" * (len(missing) > 3)
    text = "; ".join(filter(None, (*remarks, *missing[:3], more)))
    return f" ({text})" if text else ""


def format_claims(table: Json) -> str:
    """The table for a terminal, 120 columns wide, without a newline at the end."""
    if not table["lines"]:
        return ""
    seeds = len(table["seeds"])
    lines = [f"the paper says / this run shows ({seeds} {'seed' if seeds == 1 else 'seeds'})"]
    for line in table["lines"]:
        published = " ".join(filter(None, (line["paper"], f"({line['source']})" if line["source"] else "")))
        lines += ["", *_wrap(line["mark"], line["says"])]
        lines += _wrap("  paper", published) if published else []
        for show in line["shows"]:
            mark = "here" if len(line["shows"]) == 1 or show["mark"] == "shown" else show["mark"]
            lines += _wrap(f"  {mark}", show["told"])
    lines += ["", *(part for rule in table["rules"].values() for part in textwrap.wrap(rule, WIDTH))]
    return "\n".join(lines).rstrip()


def _wrap(head: str, text: str) -> list[str]:
    """Lines of a text with `head` in the first column."""
    return textwrap.wrap(text, WIDTH, initial_indent=f"{head:<{HEAD}}", subsequent_indent=" " * HEAD)


def write_claims(pipeline_dir: Path) -> Json:
    """Compute the table and write it as `table.json`."""
    table = measure_claims(pipeline_dir)
    write_json(Path(pipeline_dir) / "table.json", table)
    return table
