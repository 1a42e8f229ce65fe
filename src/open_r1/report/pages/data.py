"""The pages of the data engine: a sampling, a selection, a mixture."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

from ...evaluation import tables
from ...system.run_files import (
    Json,
    count_files,
    format_row,
    read_duration,
    read_first_rows,
    read_json,
    read_rows,
    shorten_text,
)
from .. import curves
from ..rendering import count_shares, render_plot

EXAMPLES = 3  # samples of each reason for rejection
REASONS = 12  # reasons of a step, the most frequent ones; a judge may give as many reasons as there are samples
TABLE_REASONS = 3  # reasons of a step in the table

FINISH_REASONS = {"stop": "ended by itself", "length": "truncated"}


def show_sampling(run_dir: Path, recipe: Json, status: Json, summary: Json) -> Json:
    """The values of the template for a sampling; before its end, those of the files that are there."""
    shards = {row["shard"]: row for row in read_rows(run_dir / "shards.jsonl")}.values()
    counts = summary or {key: sum(row[key] for row in shards) for key in ("completions", "tokens")}
    facts = [f"{counts[key]:,} {key}" for key in ("prompts", "completions", "tokens") if key in counts]
    if counts.get("tokens_per_second"):
        facts.append(f"{counts['tokens_per_second']:,.0f} tokens per second")
    engine = recipe.get("engine")
    engine = summary.get("engine") or (engine.get("name") if isinstance(engine, dict) else engine)
    source = {"engine": engine, "model": summary.get("model") or recipe.get("model_name_or_path")}
    lengths = curves.plot_lengths(summary["length_histogram"]) if "length_histogram" in summary else None
    return {
        "task": "sample",
        "facts": [
            *facts,
            *count_files(run_dir / "data"),
            *read_duration(status, summary),
            *(f"{key} {value}" for key, value in source.items() if value),
        ],
        "finish_reasons": _count_finish_reasons(summary),
        "lengths": render_plot(lengths, run_dir / "plots" / "lengths.png") if lengths and lengths.total else None,
        "samples": [format_row(row) for row in summary.get("samples") or []] or read_first_rows(run_dir / "data"),
    }


def show_selection(run_dir: Path, recipe: Json, status: Json, summary: Json) -> Json:
    """The values of the template for a selection; its funnel is written at the end."""
    funnel = read_json(run_dir / "funnel.json")
    steps = funnel.get("steps") or []
    rates = funnel.get("pass_rates") or {}
    pass_rates = curves.plot_pass_rates(rates) if rates else None
    unjudged, reasons = _describe_unjudged(funnel)
    return {
        "task": "select",
        "facts": [
            *_count_selected(steps),
            *count_files(run_dir / "judged", "judged files"),
            *read_duration(status, summary),
        ],
        "emptied": next((step for step in steps if step["dropped"] and not step["kept"]), None),
        "unjudged": unjudged,
        "reasons": reasons,
        "funnel": render_plot(curves.plot_funnel(steps), run_dir / "plots" / "funnel.png") if steps else None,
        "steps": [step | _summarize_step(step) for step in steps],
        "truncated": funnel.get("truncated") or {},
        "verdicts": count_shares(funnel.get("verdicts") or {}, {"": "not judged by a verifier"}),
        "pass_rates": (
            render_plot(pass_rates, run_dir / "plots" / "pass_rates.png") if pass_rates and pass_rates.total else None
        ),
        "unjudged_prompts": rates.get("unjudged", 0),
        "curriculum": count_shares(funnel.get("curriculum") or {}),
        "rejected": _read_rejected(steps, run_dir / "rejected.jsonl"),
        "samples": read_first_rows(run_dir / "data"),
    }


def show_mixture(run_dir: Path, recipe: Json, status: Json, summary: Json) -> Json:
    """The values of the template for a mixture."""
    total = summary.get("total")
    return {
        "task": "mix",
        "facts": [
            *([f"{total['samples']:,} samples"] if total else []),
            *count_files(run_dir / "data"),
            *read_duration(status, summary),
        ],
        "mixture": _tabulate_mixture(summary) if total else [],
        "unit": summary.get("unit"),
        "length_of": summary.get("length_of"),
        "samples": read_first_rows(run_dir / "data"),
    }


def _count_selected(steps: list[Json]) -> list[str]:
    """The samples and prompts at the end of a selection, out of those at its start."""
    if not steps:
        return []
    first, last = steps[0], steps[-1]
    preposition = "pairs from" if last["name"] == "pairs" else "of"
    return [
        f"{last['kept']:,} {preposition} {first['kept']:,} samples",
        f"{last['prompts']:,} of {first['prompts']:,} prompts",
    ]


def _count_finish_reasons(summary: Json) -> list[tuple[str, str, str]]:
    """The completions by finish reason; refused completions by the reason for the refusal."""
    counts, refused = summary.get("finish_reasons") or {}, summary.get("refused") or {}
    ended = {reason: count for reason, count in counts.items() if reason != "refused" or not refused}
    return count_shares(ended | {f"refused: {reason}": count for reason, count in refused.items()}, FINISH_REASONS)


def _summarize_step(step: Json) -> Json:
    """The share that a step dropped, and its most frequent reasons with their counts."""
    reasons = [(shorten_text(reason), count) for reason, count in step["reasons"].items()]
    others = sum(count for _, count in reasons[TABLE_REASONS:])
    return {
        "share": tables.format_percent(step["dropped"], step["kept"] + step["dropped"]),
        "top_reasons": reasons[:TABLE_REASONS] + ([("for other reasons", others)] if others else []),
    }


def _describe_unjudged(funnel: Json) -> tuple[list[str], list[tuple[str, str]]]:
    """The samples of a selection without a verdict, in words, and the reasons; both empty if there are none."""
    verdicts = {verdict: count for verdict, count in (funnel.get("verdicts") or {}).items() if count}
    lines = [
        f"{verdict}: {verdicts[verdict]:,} samples "
        f"({tables.format_percent(verdicts[verdict], sum(verdicts.values()))}), "
        "which count neither as right nor as wrong."
        for verdict in ("unknown", "error")
        if verdict in verdicts
    ]
    reasons: Counter[str] = Counter()
    for step in funnel.get("steps") or []:
        reasons.update({r: n for r, n in step["reasons"].items() if r.split(":")[0] in ("unknown", "error")})
    return lines, [(reason, f"{count:,}") for reason, count in reasons.most_common(8)] if lines else []


def _read_rejected(steps: list[Json], path: Path) -> list[Json]:
    """For each step that dropped samples: its most frequent reasons, each with a few samples."""
    rejected = []
    for step in steps:
        if step["dropped"]:
            top = itertools.islice(step["reasons"].items(), REASONS)
            reasons = {reason: {"count": count, "rows": []} for reason, count in top}
            others = max(0, len(step["reasons"]) - REASONS)
            rejected.append({"name": step["name"], "reasons": reasons, "others": others})
    examples = {(step["name"], name): reason["rows"] for step in rejected for name, reason in step["reasons"].items()}
    for row in read_rows(path):
        rows = examples.get((row["step"], row["reason"]))
        if rows is not None and len(rows) < EXAMPLES:
            rows.append(format_row(row, hidden=("step", "reason")))
    return rejected


def _tabulate_mixture(summary: Json) -> list[list[str]]:
    """Rows as in Table 5 of the R1 paper: the sources, their kinds, the total."""
    total = summary["total"]
    sources = zip(summary["sources"], summary["by_source"], strict=True)
    rows = [(source["name"], source | counts) for source, counts in sources]
    rows += [(f"of kind {kind['kind']}", kind) for kind in summary["by_kind"] if kind["kind"]]
    return [
        [
            name,
            f"{row['samples']:,}",
            tables.format_percent(row["samples"], total["samples"]),
            f"{row['epochs']:.4g}" if "epochs" in row else "",
            f"{row['rounds']:.1f}",
            *(f"{row[key]:,.1f}" for key in ("mean", "median")),
            f"{row['max']:,}",
            ", ".join(row.get("licenses") or []),
        ]
        for name, row in [*rows, ("total", total)]
    ]
