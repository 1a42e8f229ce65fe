"""A comparison of two runs as text and as a page."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from ..errors import RecipeError
from ..evaluation import tables
from ..evaluation.compare import Json, is_undecided
from .plots import Differences
from .rendering import render_page, render_plot

FLIPS = 10  # told in a terminal
WIDTH = 100  # of its sentences
ENDINGS = (".json", ".html")


def format_comparison(compared: Json) -> str:
    """A comparison, as `compare` makes it, for the terminal; without a newline at the end."""
    lines = [f"{run['letter']}  {run['run']}" for run in compared["runs"]]
    lines += [f"not in all of them: {words}" for words in compared["left_out"]]
    for benchmark in compared["benchmarks"]:
        lines += ["", "", *_lines(benchmark)]
    return "\n".join(lines)


def _told_tests(compared: Json) -> str:
    tests = compared["tests"]
    return f"{len(compared['runs'])} runs, {tests} {'difference' if tests == 1 else 'differences'} tested"


def check_output(path: Path) -> None:
    """Refuse a file that `write` would not know how to write.

    Raises:
        RecipeError: it ends in neither .json nor .html.
    """
    if Path(path).suffix not in ENDINGS:
        raise RecipeError(f"--output {path}: must end in {' or '.join(ENDINGS)}")


def write_comparison(compared: Json, path: Path) -> None:
    """Keep a comparison as a JSON file, or as a page that needs nothing else, by the ending of `path`.

    Raises:
        RecipeError: as `check_output`.
    """
    path = Path(path)
    check_output(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".html":
        pages = [_page(benchmark) for benchmark in compared["benchmarks"]]
        about = {"name": ["comparison", compared["metric"]], "facts": [_told_tests(compared)], "benchmarks": pages}
        render_page("compare.html.jinja", path, compared | about)
        return
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(compared, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _lines(benchmark: Json) -> list[str]:
    first = benchmark["sides"][0]["run"]
    lines = [f"{benchmark['title']}: {_counted(benchmark)}"]
    lines += [f"  not the same, and allowed: {words}" for words in benchmark["differing"]]
    if not benchmark["pairs"]:
        return [*lines, f"  {_without_metric(benchmark)}"]
    head = ("", "", "", f"against {first}", "")
    rows = [(row["name"], row["run"], row["value"], row["difference"], row["p"]) for row in _rows(benchmark)]
    lines += ["", *tables.align_rows([head, *rows], left=(0, 1, 4))]
    for pair in benchmark["pairs"]:
        lines += ["", *_flips(first, pair), *textwrap.wrap(pair["meaning"], WIDTH)]
    return lines


def _flips(first: str, pair: Json) -> list[str]:
    """The problems whose pass rate crossed one half, those that changed most."""
    flips = pair["flips"]
    if not flips:
        return []
    rates = [
        (
            tables.format_setting(flip["problem"]),
            *(f"{100 * flip[key]:.1f}%" for key in ("before", "after")),
            flip["question"],
        )
        for flip in flips[:FLIPS]
    ]
    head = ("problem", first, pair["run"], "")
    table = [f"  {line}" for line in tables.align_rows([head, *rates], left=(0, 3))]
    more = [f"  and {len(flips) - FLIPS:,} more"] if len(flips) > FLIPS else []
    return [_told_flips(first, pair), *table, *more, ""]


def _told_flips(first: str, pair: Json) -> str:
    won = sum(flip["after"] > flip["before"] for flip in pair["flips"])
    lost = len(pair["flips"]) - won
    return f"Solved in more than half of the samples by {pair['run']} only: {won:,}; by {first} only: {lost:,}"


def _counted(benchmark: Json) -> str:
    """How many problems and samples were compared."""
    ks = sorted({side["k"] for side in benchmark["sides"]})
    part = "" if benchmark["problems"] == benchmark["of"] else f" of {benchmark['of']:,}"
    samples = " or ".join(f"{k:,}" for k in ks) + (" sample" if ks == [1] else " samples")
    told = f"{benchmark['problems']:,}{part} problems, {samples} of each"
    pairs = [(pair["run"], pair["differences"][benchmark["metric"]]["problems"]) for pair in benchmark["pairs"]]
    if any(count < benchmark["problems"] for _, count in pairs):
        told += f"; with a verdict on both sides: {', '.join(f'{count:,} for {run}' for run, count in pairs)}"
    return told


def _without_metric(benchmark: Json) -> str:
    there = ", ".join(dict.fromkeys(name for side in benchmark["sides"] for name in side["figures"] if "@" in name))
    return f"not compared: the metric is not among those that all of them have ({there or 'none'})"


def _rows(benchmark: Json) -> list[Json]:
    """Rows of the table: each figure of each run, and what it is against the first."""
    first = benchmark["sides"][0]
    pairs = {pair["run"]: pair for pair in benchmark["pairs"]}
    rows = []
    for name in first["figures"]:
        if all(side["figures"][name]["value"] is None for side in benchmark["sides"]):
            continue
        tokens = name == "mean_length"
        for side in benchmark["sides"]:
            pair = pairs.get(side["run"])
            tested = pair and name == benchmark["metric"] and pair["p_holm"] is not None
            rows.append(
                {
                    "name": ("mean length" if tokens else name) if side is first else "",
                    "run": side["run"],
                    "value": (tables.format_count if tokens else tables.format_share)(side["figures"][name]),
                    "difference": (tables.format_more if tokens else tables.format_points)(pair["differences"][name])
                    if pair
                    else ("", ""),
                    "p": _p(pair) if tested else "",
                }
            )
    return rows


def _p(pair: Json) -> str:
    corrected = (
        f", corrected {tables.format_p_value(pair['p_holm']).lstrip('= ')}" if pair["p_holm"] > pair["p"] else ""
    )
    doubt = (
        ", not reliable: unequal samples"
        if pair["samples"]
        else ", open: unjudged samples"
        if is_undecided(pair)
        else ""
    )
    return f"p {tables.format_p_value(pair['p'])}{corrected}{doubt}"


def _page(benchmark: Json) -> Json:
    """What the template shows of a benchmark."""
    first = benchmark["sides"][0]["run"]
    pairs = [
        pair | {"drawing": _drawing(benchmark, pair), "told_flips": _told_flips(first, pair)}
        for pair in benchmark["pairs"]
    ]
    more = {"first": first, "counted": _counted(benchmark), "without_metric": _without_metric(benchmark)}
    return benchmark | more | {"rows": _rows(benchmark) if pairs else [], "pairs": pairs}


def _drawing(benchmark: Json, pair: Json) -> Json | None:
    mean = pair["differences"][benchmark["metric"]]
    if mean["value"] is None:
        return None
    differences = [problem["difference"] for problem in pair["by_problem"] if problem["difference"] is not None]
    title = f"{benchmark['metric']} of {pair['run']} less that of {benchmark['sides'][0]['run']}, by problem"
    return render_plot(Differences(title, differences, mean["value"], (mean["low"], mean["high"])))
