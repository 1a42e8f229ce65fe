"""A comparison of runs as text, as a JSON file and as a page."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from ..errors import RecipeError
from ..evaluation import tables
from ..evaluation.compare import Json, is_undecided
from ..system.files import write_text
from .plots import Differences
from .rendering import render_page, render_plot

FLIPS = 10  # problems listed in a terminal
WIDTH = 100  # characters of a line in a terminal
ENDINGS = (".json", ".html")


def format_comparison(compared: Json) -> str:
    """A comparison, as `compare` returns it, for the terminal; without a newline at the end."""
    lines = [f"{run['letter']}  {run['run']}" for run in compared["runs"]]
    lines += [f"not in all of them: {words}" for words in compared["left_out"]]
    for benchmark in compared["benchmarks"]:
        lines += ["", "", *_format_benchmark(benchmark)]
    return "\n".join(lines)


def check_output(path: Path) -> None:
    """Refuse a file that `write_comparison` cannot write.

    Raises:
        RecipeError: the name ends neither in .json nor in .html.
    """
    if Path(path).suffix not in ENDINGS:
        raise RecipeError(f"--output {path}: must end in {' or '.join(ENDINGS)}")


def write_comparison(compared: Json, path: Path) -> None:
    """Write a comparison as JSON or as a self-contained page, by the ending of `path`.

    Raises:
        RecipeError: as `check_output`.
    """
    path = Path(path)
    check_output(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        write_text(path, json.dumps(compared, indent=1) + "\n")
        return
    tests = compared["tests"]
    facts = [f"{len(compared['runs'])} runs, {tests} {'difference' if tests == 1 else 'differences'} tested"]
    benchmarks = [_show_benchmark(benchmark) for benchmark in compared["benchmarks"]]
    values = {"name": ["comparison", compared["metric"]], "facts": facts, "benchmarks": benchmarks}
    render_page("compare.html.jinja", path, compared | values)


def _format_benchmark(benchmark: Json) -> list[str]:
    first = benchmark["sides"][0]["run"]
    lines = [f"{benchmark['title']}: {_count_compared(benchmark)}"]
    lines += [f"  not the same, and allowed: {words}" for words in benchmark["differing"]]
    if not benchmark["pairs"]:
        return [*lines, f"  {_describe_missing_metric(benchmark)}"]
    head = ("", "", "", f"against {first}", "")
    lines += ["", *tables.align_rows([head, *_tabulate_figures(benchmark)], left=(0, 1, 4))]
    for pair in benchmark["pairs"]:
        lines += ["", *_format_flips(first, pair), *textwrap.wrap(pair["meaning"], WIDTH)]
    return lines


def _format_flips(first: str, pair: Json) -> list[str]:
    """The problems whose pass rate crossed one half, with the largest changes first."""
    flips = pair["flips"]
    if not flips:
        return []
    table = tables.align_rows([("problem", first, pair["run"], ""), *_tabulate_flips(flips[:FLIPS])], left=(0, 3))
    others = [f"  and {len(flips) - FLIPS:,} more"] if len(flips) > FLIPS else []
    return [_count_flips(first, pair), *(f"  {line}" for line in table), *others, ""]


def _tabulate_flips(flips: list[Json]) -> list[tuple[str, ...]]:
    return [
        (
            tables.format_setting(flip["problem"]),
            *(f"{100 * flip[key]:.1f}%" for key in ("before", "after")),
            flip["question"],
        )
        for flip in flips
    ]


def _count_flips(first: str, pair: Json) -> str:
    gained = sum(flip["after"] > flip["before"] for flip in pair["flips"])
    lost = len(pair["flips"]) - gained
    return f"Solved in more than half of the samples by {pair['run']} only: {gained:,}; by {first} only: {lost:,}"


def _count_compared(benchmark: Json) -> str:
    """The number of problems and samples that were compared."""
    ks = sorted({side["k"] for side in benchmark["sides"]})
    part = "" if benchmark["problems"] == benchmark["of"] else f" of {benchmark['of']:,}"
    samples = " or ".join(f"{k:,}" for k in ks) + (" sample" if ks == [1] else " samples")
    text = f"{benchmark['problems']:,}{part} problems, {samples} of each"
    pairs = [(pair["run"], pair["differences"][benchmark["metric"]]["problems"]) for pair in benchmark["pairs"]]
    if any(count < benchmark["problems"] for _, count in pairs):
        text += f"; with a verdict on both sides: {', '.join(f'{count:,} for {run}' for run, count in pairs)}"
    return text


def _describe_missing_metric(benchmark: Json) -> str:
    names = dict.fromkeys(name for side in benchmark["sides"] for name in side["figures"] if "@" in name)
    return f"not compared: the metric is not among those that all of them have ({', '.join(names) or 'none'})"


def _tabulate_figures(benchmark: Json) -> list[tuple[str | tables.Cell, ...]]:
    """Rows of (name, run, figure, difference to the first run, p-value), for each figure of each run."""
    first = benchmark["sides"][0]
    pairs = {pair["run"]: pair for pair in benchmark["pairs"]}
    rows = []
    for name in first["figures"]:
        if all(side["figures"][name]["value"] is None for side in benchmark["sides"]):
            continue
        label, format_figure, format_difference = name, tables.format_share, tables.format_points
        if name == "mean_length":
            label, format_figure, format_difference = "mean length", tables.format_count, tables.format_more
        for side in benchmark["sides"]:
            pair = pairs.get(side["run"])
            difference = format_difference(pair["differences"][name]) if pair else ("", "")
            is_tested = pair and name == benchmark["metric"] and pair["p_holm"] is not None
            p_value = _format_test(pair) if is_tested else ""
            figure = format_figure(side["figures"][name])
            rows.append((label if side is first else "", side["run"], figure, difference, p_value))
    return rows


def _format_test(pair: Json) -> str:
    """The p-value, its correction for several tests, and a reason to doubt it."""
    text = f"p {tables.format_p_value(pair['p'])}"
    if pair["p_holm"] > pair["p"]:
        text += f", corrected {tables.format_p_value(pair['p_holm']).lstrip('= ')}"
    if pair["samples"]:
        return f"{text}, not reliable: unequal samples"
    return f"{text}, open: unjudged samples" if is_undecided(pair) else text


def _show_benchmark(benchmark: Json) -> Json:
    """The values of the template for a benchmark."""
    first = benchmark["sides"][0]["run"]
    pairs = [
        pair
        | {
            "drawing": _plot_differences(benchmark, pair),
            "flip_counts": _count_flips(first, pair),
            "flip_rows": _tabulate_flips(pair["flips"]),
        }
        for pair in benchmark["pairs"]
    ]
    return benchmark | {
        "first": first,
        "counted": _count_compared(benchmark),
        "without_metric": _describe_missing_metric(benchmark),
        "rows": _tabulate_figures(benchmark) if pairs else [],
        "pairs": pairs,
    }


def _plot_differences(benchmark: Json, pair: Json) -> Json | None:
    mean = pair["differences"][benchmark["metric"]]
    if mean["value"] is None:
        return None
    differences = [problem["difference"] for problem in pair["by_problem"] if problem["difference"] is not None]
    title = f"{benchmark['metric']} of {pair['run']} less that of {benchmark['sides'][0]['run']}, by problem"
    return render_plot(Differences(title, differences, mean["value"], (mean["low"], mean["high"])))
