"""The page of an evaluation: the figures of each benchmark, how they were measured, and what stands behind them."""

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
BANDS = 10  # of pass rates between never and always
PROBLEMS = 2000  # in the table of a benchmark
OPEN = 12  # problems; a longer table is folded
EXAMPLES = 2  # of a benchmark that were right, and as many that were not
ASIDE = {
    "format": "well formed",
    "language": "in the problem's language",
    "truncated": "truncated",
    "no_answer": "without an answer",
    "refused": "refused",
}
QUANTILES = ("p10", "median", "p90", "max")
VERDICTS = ("correct", "wrong", "unknown", "error")


def show_evaluation(run_dir: Path, recipe: Json, status: Json, summary: Json) -> Json:
    """What the template shows of an evaluation; of one under way, the benchmarks that are judged."""
    found = [read_json(path) for path in sorted((run_dir / "evaluations").glob("*.json"))]
    lengths = _lengths(run_dir / "judged")
    made_by = {key: found[0].get(key) if found else None for key in ("model", "engine")}
    made_by["model"] = made_by["model"] or recipe.get("model_name_or_path")
    return {
        "task": "evaluate",
        "counted": [
            *count_files(run_dir / "data", "files sampled"),
            *count_files(run_dir / "judged", "files judged"),
            *read_duration(status, summary),
            *(f"{key} {value}" for key, value in made_by.items() if value),
        ],
        "benchmarks": [
            _benchmark(one, lengths.get(one["name"]), recipe.get("reference"), run_dir / "plots") for one in found
        ],
    }


def _benchmark(found: Json, lengths: dict[str, list] | None, published: str | None, folder: Path) -> Json:
    """What the template shows of one benchmark."""
    problems = sorted(found["by_problem"], key=lambda problem: (_rate(problem) is None, _rate(problem) or 0.0))
    scaling, rates = _scaling(found), curves.plot_pass_rates(_pass_rates(problems), "problem")
    bars = curves.plot_lengths(lengths) if lengths else None
    drawings = {"samples": scaling, "pass_rates": rates if rates.total else None, "lengths": bars}
    columns = [name for name in found["metrics"] if name != "pass@1"]
    of_samples = found["shares"]
    return {
        "found": found,
        "figures": {name: tables.format_share(figure) for name, figure in found["metrics"].items()},
        "tokens": tables.format_count(found["tokens"]["mean"]),
        "cut": tables.format_share(of_samples["truncated"])[0],
        "lost": [tables.format_percent(of_samples[name]["value"] or 0.0, 1) for name in ("unknown", "error")],
        "departures": tables.describe_departures(found),
        "unjudged": tables.describe_unjudged(found),
        "protocol": {
            key: tables.format_setting(value) for key, value in found["protocol"].items() if value is not None
        },
        "published": [_beside(row) for row in compare_published(found, reference=published)],
        "drawings": [
            render_plot(drawing, folder / f"{found['name']}_{name}.png")
            for name, drawing in drawings.items()
            if drawing
        ],
        "verdicts": count_shares({name: _counted(found, name) for name in VERDICTS}, {}),
        "aside": [
            (told, tables.format_share(of_samples[name])) for name, told in ASIDE.items() if _told(of_samples[name])
        ],
        "quantiles": [
            (name, f"{found['tokens'][name]:,.0f}") for name in QUANTILES if found["tokens"][name] is not None
        ],
        "problems": [_problem_row(problem, columns) for problem in problems[:PROBLEMS]],
        "columns": columns,
        "left_out": len(problems[PROBLEMS:]),
        "open": len(problems) <= OPEN,
        "examples": _examples(found),
    }


def _told(figure: Json) -> bool:
    """A share that says something: one with an interval, or one that is not nothing."""
    return figure["value"] is not None and ("low" in figure or figure["value"] > 0)


def _rate(problem: Json) -> float | None:
    """Pass rate of the samples with evidence."""
    return problem["correct"] / problem["evidence"] if problem["evidence"] else None


def _problem_row(problem: Json, columns: list[str]) -> list[str]:
    rates = [_rate(problem), *(problem[name] for name in columns)]
    rate, *others = ["-" if value is None else f"{100 * value:.1f}%" for value in rates]
    counts = [f"{problem[key]:,}" for key in ("correct", "evidence")]
    tokens = "-" if problem["tokens"] is None else f"{problem['tokens']:,.1f}"
    told = [problem["id"], f"{problem['row']}", rate, *counts, *others, tokens, f"{problem['truncated']:,}"]
    return [*told, problem.get("question") or ""]


def _beside(row: Row) -> Json:
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


def _counted(found: Json, name: str) -> int:
    return round((found["shares"][name]["value"] or 0.0) * found["samples"])


def _scaling(found: Json) -> Scaling | None:
    """How the score grows with samples; nothing where one sample is all there is."""
    lines = {f"{kind}@k": scores for kind, scores in found["curves"].items() if scores}
    drawable = any(len(scores) > 1 for scores in lines.values())
    return Scaling("Score by number of samples", lines) if drawable else None


def _pass_rates(problems: list[Json]) -> Json:
    """How many problems lie in each band, as a selection counts its prompts."""
    judged = [rate for rate in map(_rate, problems) if rate is not None]
    never, always = judged.count(0.0), judged.count(1.0)
    between = np.histogram([rate for rate in judged if 0 < rate < 1], BANDS, (0, 1))[0].tolist()
    return {"never": never, "between": between, "always": always}


def _lengths(folder: Path) -> dict[str, dict[str, list]]:
    """Histograms of the lengths in the judged files, by benchmark; those being written count once they are whole."""
    import pyarrow.parquet

    tokens: dict[str, list[int]] = {}
    cut: dict[str, list[bool]] = {}
    for path in sorted(folder.glob("*.parquet")):
        try:
            rows = pyarrow.parquet.read_table(path, columns=["benchmark", "tokens", "finish_reason"]).to_pylist()
        except (OSError, ValueError):  # cut by a crash of the machine
            continue
        for row in rows:
            if row["finish_reason"] != "refused" and row["tokens"] is not None:
                tokens.setdefault(row["benchmark"], []).append(row["tokens"])
                cut.setdefault(row["benchmark"], []).append(row["finish_reason"] == "length")
    return {name: _histogram(np.array(of_name), np.array(cut[name], bool)) for name, of_name in tokens.items()}


def _histogram(tokens: np.ndarray, cut: np.ndarray) -> dict[str, list]:
    # Bins of whole tokens, so that none holds more lengths than its neighbour.
    most = max(int(tokens.max()), 1)
    width = -(-most // BINS)
    edges = np.arange(0, most + width, width) + 0.5
    edges[0] = 0.0
    counts, truncated = np.histogram(tokens, edges)[0], np.histogram(tokens[cut], edges)[0]
    return {"edges": edges.tolist(), "counts": counts.tolist(), "truncated": truncated.tolist()}


def _examples(found: Json) -> list[Json]:
    """The first samples of other problems that were right, and the first that were not."""
    picked: dict[bool, list[Json]] = {False: [], True: []}
    for problem in found.get("examples") or []:
        for right, of_kind in picked.items():
            samples = [sample for sample in problem["samples"] if (sample["verdict"] == "correct") == right]
            of_kind += [problem | {"sample": sample} for sample in samples[:1]]
    return [example for of_kind in picked.values() for example in of_kind[:EXAMPLES]]
