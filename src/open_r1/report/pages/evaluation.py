"""The page of an evaluation: for each benchmark its figures, its protocol, published figures, and samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...evaluation import tables
from ...evaluation.reference.published import Row, compare_published, describe_departures, describe_difference
from ...system.run_files import Json, count_files, read_duration, read_json
from .. import curves
from ..plots import Scaling
from ..rendering import count_shares, render_plot

BINS = 32  # of the histogram of lengths, at most
BANDS = 10  # of pass rates strictly between 0 and 1
COLUMNS = ("problem", "row", "pass rate", "right", "judged", "tokens, mean", "truncated", "question")
PROBLEMS = 2000  # rows in the table of a benchmark
OPEN = 12  # problems; a longer table is folded
EXAMPLES = 2  # right samples of a benchmark, and as many others
SHARES = {
    "format": "well formed",
    "language": "in the problem's language",
    "truncated": "truncated",
    "no_answer": "without an answer",
    "refused": "refused",
}
QUANTILES = ("p10", "median", "p90", "max")
VERDICTS = ("correct", "wrong", "unknown", "error")


def show_evaluation(run_dir: Path, recipe: Json, status: Json, summary: Json) -> Json:
    """The values of the template for an evaluation; before its end, those of the benchmarks that are judged."""
    evaluations = [read_json(path) for path in sorted((run_dir / "evaluations").glob("*.json"))]
    lengths = _count_lengths(run_dir / "judged")
    source = {key: evaluations[0].get(key) if evaluations else None for key in ("model", "engine")}
    source["model"] = source["model"] or recipe.get("model_name_or_path")
    return {
        "task": "evaluate",
        "facts": [
            *count_files(run_dir / "data", "files sampled"),
            *count_files(run_dir / "judged", "files judged"),
            *read_duration(status, summary),
            *(f"{key} {value}" for key, value in source.items() if value),
        ],
        "benchmarks": [
            _show_benchmark(found, lengths.get(found["name"]), recipe.get("reference"), run_dir / "plots")
            for found in evaluations
        ],
    }


def _show_benchmark(found: Json, lengths: dict[str, list] | None, reference: str | None, folder: Path) -> Json:
    """The values of the template for one benchmark."""
    problems = sorted(found["by_problem"], key=lambda problem: (_rate(problem) is None, _rate(problem) or 0.0))
    pass_rates = curves.plot_pass_rates(_count_pass_rates(problems), "problem")
    drawings = {
        "samples": _plot_scaling(found),
        "pass_rates": pass_rates if pass_rates.total else None,
        "lengths": curves.plot_lengths(lengths) if lengths else None,
    }
    metrics = [name for name in found["metrics"] if name != "pass@1"]
    shares, tokens, protocol = found["shares"], found["tokens"], found["protocol"]
    counts = {name: round((shares[name]["value"] or 0.0) * found["samples"]) for name in VERDICTS}
    return {
        "found": found,
        "figures": {name: tables.format_share(figure) for name, figure in found["metrics"].items()},
        "tokens": tables.format_count(tokens["mean"]),
        "truncated": tables.format_share(shares["truncated"])[0],
        "unjudged_shares": [tables.format_percent(shares[name]["value"] or 0.0, 1) for name in ("unknown", "error")],
        "departures": tables.describe_departures(found),
        "unjudged": tables.describe_unjudged(found),
        "protocol": {key: tables.format_setting(value) for key, value in protocol.items() if value is not None},
        "published": [_show_published(row) for row in compare_published(found, reference=reference)],
        "drawings": [
            render_plot(drawing, folder / f"{found['name']}_{name}.png")
            for name, drawing in drawings.items()
            if drawing
        ],
        "verdicts": count_shares(counts),
        "shares": [
            (label, tables.format_share(shares[name]))
            for name, label in SHARES.items()
            if _is_informative(shares[name])
        ],
        "quantiles": [(name, f"{tokens[name]:,.0f}") for name in QUANTILES if tokens[name] is not None],
        "problems": [_format_problem(problem, metrics) for problem in problems[:PROBLEMS]],
        "columns": [*COLUMNS[:5], *metrics, *COLUMNS[5:]],
        "left_out": len(problems[PROBLEMS:]),
        "open": len(problems) <= OPEN,
        "examples": _choose_examples(found),
    }


def _is_informative(share: Json) -> bool:
    """Whether a share has an interval, or is above zero."""
    return share["value"] is not None and ("low" in share or share["value"] > 0)


def _rate(problem: Json) -> float | None:
    """Pass rate over the samples with evidence; None without evidence."""
    return problem["correct"] / problem["evidence"] if problem["evidence"] else None


def _format_problem(problem: Json, metrics: list[str]) -> list[str]:
    """The row of a problem."""
    rates = [_rate(problem), *(problem[name] for name in metrics)]
    rate, *others = ["-" if value is None else f"{100 * value:.1f}%" for value in rates]
    counts = [f"{problem[key]:,}" for key in ("correct", "evidence")]
    tokens = "-" if problem["tokens"] is None else f"{problem['tokens']:,.1f}"
    row = [problem["id"], f"{problem['row']}", rate, *counts, *others, tokens, f"{problem['truncated']:,}"]
    return [*row, problem.get("question") or ""]


def _show_published(row: Row) -> Json:
    """A row of the table of published figures."""
    return {
        "metric": row.metric,
        "ours": tables.format_share({"value": row.ours, "low": row.low, "high": row.high}),
        "theirs": tables.format_share({"value": row.theirs})[0],
        "difference": tables.format_points({"value": row.difference})[0],
        "words": describe_difference(row),
        "model": row.figure.model,
        "source": row.figure.source,
        "note": row.figure.protocol.get("note"),
        "departures": describe_departures(row),
    }


def _plot_scaling(found: Json) -> Scaling | None:
    """The scores by number of samples; None if there is only one sample."""
    lines = {f"{kind}@k": scores for kind, scores in found["curves"].items() if scores}
    return Scaling("Score by number of samples", lines) if max(map(len, lines.values()), default=0) > 1 else None


def _count_pass_rates(problems: list[Json]) -> Json:
    """The number of problems in each band of pass rates, in the format of a selection's funnel."""
    judged = [rate for rate in map(_rate, problems) if rate is not None]
    never, always = judged.count(0.0), judged.count(1.0)
    between = np.histogram([rate for rate in judged if 0 < rate < 1], BANDS, (0, 1))[0].tolist()
    return {"never": never, "between": between, "always": always}


def _count_lengths(folder: Path) -> dict[str, dict[str, list]]:
    """Histograms of the lengths in the judged files, by benchmark; incomplete files are left out."""
    import pyarrow.parquet

    tokens: dict[str, list[int]] = {}
    truncated: dict[str, list[bool]] = {}
    for path in sorted(folder.glob("*.parquet")):
        try:
            rows = pyarrow.parquet.read_table(path, columns=["benchmark", "tokens", "finish_reason"]).to_pylist()
        except (OSError, ValueError):  # a crash of the machine has cut the file
            continue
        for row in rows:
            if row["finish_reason"] != "refused" and row["tokens"] is not None:
                tokens.setdefault(row["benchmark"], []).append(row["tokens"])
                truncated.setdefault(row["benchmark"], []).append(row["finish_reason"] == "length")
    return {name: _bin_lengths(np.array(tokens[name]), np.array(truncated[name], bool)) for name in tokens}


def _bin_lengths(tokens: np.ndarray, truncated: np.ndarray) -> dict[str, list]:
    # The edges lie halfway between integers, so every bin covers the same number of lengths.
    most = max(int(tokens.max()), 1)
    width = -(-most // BINS)
    edges = np.arange(0, most + width, width) + 0.5
    edges[0] = 0.0
    counts = {"counts": tokens, "truncated": tokens[truncated]}
    return {"edges": edges.tolist()} | {key: np.histogram(part, edges)[0].tolist() for key, part in counts.items()}


def _choose_examples(found: Json) -> list[Json]:
    """The first samples that were not right, and the first that were, each from another problem."""
    examples: dict[bool, list[Json]] = {False: [], True: []}
    for problem in found.get("examples") or []:
        for right, chosen in examples.items():
            samples = [sample for sample in problem["samples"] if (sample["verdict"] == "correct") == right]
            chosen += [problem | {"sample": sample} for sample in samples[:1]]
    return [example for chosen in examples.values() for example in chosen[:EXAMPLES]]
