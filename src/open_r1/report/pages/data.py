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

EXAMPLES = 3  # samples shown of each reason to reject
REASONS = 12  # shown of one step of a funnel, the most frequent; a judge may give as many as there are samples
REASONS_TOLD = 3  # of them in tables

FINISH_REASONS = {"stop": "ended by itself", "length": "truncated"}


def show_sampling(run_dir: Path, recipe: Json, status: Json, summary: Json) -> Json:
    """What the template shows of a sampling; of one under way, what its files hold so far."""
    done = {row["shard"]: row for row in read_rows(run_dir / "shards.jsonl")}.values()
    counts = summary or {key: sum(row[key] for row in done) for key in ("completions", "tokens")}
    counted = [f"{counts[key]:,} {key}" for key in ("prompts", "completions", "tokens") if key in counts]
    if counts.get("tokens_per_second"):
        counted.append(f"{counts['tokens_per_second']:,.0f} tokens per second")
    named = recipe.get("engine")
    engine = summary.get("engine") or (named.get("name") if isinstance(named, dict) else named)
    made_by = {"engine": engine, "model": summary.get("model") or recipe.get("model_name_or_path")}
    bars = curves.plot_lengths(summary["length_histogram"]) if "length_histogram" in summary else None
    return {
        "task": "sample",
        "counted": [
            *counted,
            *count_files(run_dir / "data"),
            *read_duration(status, summary),
            *(f"{key} {value}" for key, value in made_by.items() if value),
        ],
        "finish_reasons": _finish_reasons(summary),
        "lengths": render_plot(bars, run_dir / "plots" / "lengths.png") if bars and bars.total else None,
        "samples": [format_row(row) for row in summary.get("samples") or []] or read_first_rows(run_dir / "data"),
    }


def show_selection(run_dir: Path, recipe: Json, status: Json, summary: Json) -> Json:
    """What the template shows of a selection: its funnel, which is there once it is finished."""
    funnel = read_json(run_dir / "funnel.json")
    steps = funnel.get("steps") or []
    rates = funnel.get("pass_rates") or {}
    bars = curves.plot_pass_rates(rates) if rates else None
    unjudged, reasons = _left_unjudged(funnel)
    return {
        "task": "select",
        "counted": [*_left(steps), *count_files(run_dir / "judged", "judged files"), *read_duration(status, summary)],
        "emptied": next((step for step in steps if step["dropped"] and not step["kept"]), None),
        "unjudged": unjudged,
        "reasons": reasons,
        "funnel": render_plot(curves.plot_funnel(steps), run_dir / "plots" / "funnel.png") if steps else None,
        "steps": _funnel_rows(steps),
        "truncated": funnel.get("truncated") or {},
        "verdicts": count_shares(funnel.get("verdicts") or {}, {"": "not judged by a verifier"}),
        "pass_rates": render_plot(bars, run_dir / "plots" / "pass_rates.png") if bars and bars.total else None,
        "unjudged_prompts": rates.get("unjudged", 0),
        "curriculum": count_shares(funnel.get("curriculum") or {}, {}),
        "rejected": _rejected(steps, run_dir / "rejected.jsonl"),
        "samples": read_first_rows(run_dir / "data"),
    }


def show_mixture(run_dir: Path, recipe: Json, status: Json, summary: Json) -> Json:
    """What the template shows of a mixture."""
    total = summary.get("total")
    return {
        "task": "mix",
        "counted": [
            *([f"{total['samples']:,} samples"] if total else []),
            *count_files(run_dir / "data"),
            *read_duration(status, summary),
        ],
        "mixture": _mixture(summary) if total else [],
        "unit": summary.get("unit"),
        "length_of": summary.get("length_of"),
        "samples": read_first_rows(run_dir / "data"),
    }


def _left(steps: list[Json]) -> list[str]:
    """What a selection began and ended with."""
    if not steps:
        return []
    first, last = steps[0], steps[-1]
    made = "pairs from" if last["name"] == "pairs" else "of"
    return [
        f"{last['kept']:,} {made} {first['kept']:,} samples",
        f"{last['prompts']:,} of {first['prompts']:,} prompts",
    ]


def _finish_reasons(summary: Json) -> list[tuple[str, int, str]]:
    """How completions ended; those that were refused by the reason."""
    counts, refused = summary.get("finish_reasons") or {}, summary.get("refused") or {}
    ended = {reason: count for reason, count in counts.items() if reason != "refused" or not refused}
    return count_shares(ended | {f"refused: {reason}": count for reason, count in refused.items()}, FINISH_REASONS)


def _funnel_rows(steps: list[Json]) -> list[Json]:
    """The steps, each with the share that it dropped, and `told`: its most frequent reasons, short, with counts."""
    rows = []
    for step in steps:
        reasons = [(shorten_text(reason), count) for reason, count in step["reasons"].items()]
        others = sum(count for _, count in reasons[REASONS_TOLD:])
        told = reasons[:REASONS_TOLD] + ([("for other reasons", others)] if others else [])
        rows.append(
            step | {"share": tables.format_percent(step["dropped"], step["kept"] + step["dropped"]), "told": told}
        )
    return rows


def _left_unjudged(funnel: Json) -> tuple[list[str], list[tuple[str, str]]]:
    """What a selection could not judge, in words, and why; both empty if it judged all."""
    verdicts = funnel.get("verdicts") or {}
    told = [
        f"{verdict}: {verdicts[verdict]:,} samples "
        f"({tables.format_percent(verdicts[verdict], sum(verdicts.values()))}), "
        "which count neither as right nor as wrong."
        for verdict in ("unknown", "error")
        if verdicts.get(verdict)
    ]
    reasons: Counter[str] = Counter()
    for step in funnel.get("steps") or []:
        reasons.update({r: n for r, n in step["reasons"].items() if r.split(":")[0] in ("unknown", "error")})
    return told, [(reason, f"{count:,}") for reason, count in reasons.most_common(8)] if told else []


def _rejected(steps: list[Json], path: Path) -> list[Json]:
    """For each step that dropped something: its most frequent reasons, each with a few of the samples."""
    shown = [
        {
            "name": step["name"],
            "reasons": {
                reason: {"count": count, "rows": []}
                for reason, count in itertools.islice(step["reasons"].items(), REASONS)
            },
            "others": max(0, len(step["reasons"]) - REASONS),
        }
        for step in steps
        if step["dropped"]
    ]
    rows_of = {(step["name"], reason): kept["rows"] for step in shown for reason, kept in step["reasons"].items()}
    for row in read_rows(path):
        rows = rows_of.get((row["step"], row["reason"]))
        if rows is not None and len(rows) < EXAMPLES:
            rows.append(format_row(row, hidden=("step", "reason")))
    return shown


def _mixture(summary: Json) -> list[list[str]]:
    """Rows of the table as the R1 paper's Table 5: the sources, their kinds, all of it."""
    total = summary["total"]
    sources = zip(summary["sources"], summary["by_source"], strict=True)
    named = [(source["name"], source | of_source) for source, of_source in sources]
    named += [(f"of kind {of_kind['kind']}", of_kind) for of_kind in summary["by_kind"] if of_kind["kind"]]
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
        for name, row in [*named, ("total", total)]
    ]
