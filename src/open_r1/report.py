"""The page and the plots of a run, made from its directory alone.

`write` draws `plots/*.png` and a `report.html` that needs nothing else; it works for a run that is still going on, and
leaves out what its directory does not hold. `table` is the same before and after for the terminal.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import yaml

from . import figures, plots
from .errors import RecipeError
from .plots import Plot

Json = dict[str, Any]

EXAMPLES = 3  # samples shown of those without a verdict, of disagreements, and of each reason to reject
REASONS = 12  # shown of one step of a funnel, the most frequent; a judge may give as many as there are samples
REASONS_TOLD = 3  # of them in tables
ROWS = 6  # sampled training completions shown, and rows of a dataset
CONTAMINATED = 10  # contaminated rows shown
CHARACTERS = 12_000  # of one text shown
SHORT = 100  # characters of a reason or value in a line

FINISH_REASONS = {"stop": "ended by itself", "length": "truncated"}


def write(run_dir: Path) -> Path:
    """Draw the plots and the page of a run from what its directory holds.

    Args:
        run_dir: a run directory, finished or not.

    Returns:
        `run_dir/report.html`.

    Raises:
        RecipeError: `run_dir` holds neither a recipe nor metrics.
    """
    run_dir = Path(run_dir).resolve()
    if not any((run_dir / name).is_file() for name in ("recipe.yaml", "metrics.jsonl")):
        raise RecipeError(f"{run_dir} is not a run directory: it holds neither recipe.yaml nor metrics.jsonl")
    recipe_text = _read(run_dir / "recipe.yaml")
    recipe = yaml.safe_load(recipe_text) or {}
    status, environment, summary = (_json(run_dir / f"{name}.json") for name in ("status", "environment", "summary"))
    content = {"sample": _sample, "select": _select, "mix": _mix}.get(recipe.get("task"), _training)
    shown = content(run_dir, recipe, status, summary)
    page = _template().render(
        shown,
        name=run_dir.parts[-3:],
        state=status.get("state"),
        facts=shown["counted"] + _facts(recipe, environment),
        contamination=_contamination(run_dir),
        recipe=recipe_text,
        environment={**environment, **(environment.get("packages") or {})},
    )
    target = run_dir / "report.html"
    partial = target.with_name("report.html.partial")
    partial.write_text(page, encoding="utf-8", errors="replace")
    partial.replace(target)
    return target


def _training(run_dir: Path, recipe: Json, status: Json, summary: Json) -> Json:
    """What the template shows of a training."""
    rows = list(_rows(run_dir / "metrics.jsonl"))
    before, after = (_json(run_dir / "evaluations" / f"{name}.json") for name in ("before", "after"))
    metrics = [side.get("metrics") or summary.get(name) for name, side in (("before", before), ("after", after))]
    task = recipe.get("task") or _task(rows)
    weights = _weights(recipe)
    large = [plot for plot in (figures.accuracy(rows), figures.length(rows)) if plot.lines]
    grids = {"rewards": figures.rewards(rows, list(weights)), "curves": figures.curves(rows, task)}
    last = max((row["step"] for row in rows), default=0)
    return {
        "task": task,
        "counted": _steps(status, recipe, rows),
        "table": _table(*(side or {} for side in metrics)) if any(metrics) else [],
        "before": before,
        "after": after,
        "live_rows": (recipe.get("evaluation") or {}).get("live_rows"),
        "unjudged": _unjudged(rows, before, after),
        "reasons": _reasons(rows),
        "withheld": list(itertools.islice(_rows(run_dir / "withheld.jsonl"), EXAMPLES)),
        "disagreement": _disagreement(rows),
        "second_opinions": list(itertools.islice(_rows(run_dir / "second_opinions.jsonl"), EXAMPLES)),
        "plots": _draw_all(large, grids, last, run_dir / "plots"),
        "weights": weights,
        "pairs": _pairs(before, after),
        "sampled": _sampled(run_dir / "completions"),
    }


def _sample(run_dir: Path, recipe: Json, status: Json, summary: Json) -> Json:
    """What the template shows of a sampling; of one under way, what its files hold so far."""
    done = {row["shard"]: row for row in _rows(run_dir / "shards.jsonl")}.values()
    counts = summary or {key: sum(row[key] for row in done) for key in ("completions", "tokens")}
    counted = [f"{counts[key]:,} {key}" for key in ("prompts", "completions", "tokens") if key in counts]
    if counts.get("tokens_per_second"):
        counted.append(f"{counts['tokens_per_second']:,.0f} tokens per second")
    named = recipe.get("engine")
    engine = summary.get("engine") or (named.get("name") if isinstance(named, dict) else named)
    made_by = {"engine": engine, "model": summary.get("model") or recipe.get("model_name_or_path")}
    bars = figures.lengths(summary["length_histogram"]) if "length_histogram" in summary else None
    return {
        "task": "sample",
        "counted": [
            *counted,
            *_files(run_dir / "data"),
            *_spent(status, summary),
            *(f"{key} {value}" for key, value in made_by.items() if value),
        ],
        "finish_reasons": _finish_reasons(summary),
        "lengths": _drawn(bars, run_dir / "plots" / "lengths.png") if bars and bars.total else None,
        "samples": [_shown(row) for row in summary.get("samples") or []] or _first_rows(run_dir / "data"),
    }


def _select(run_dir: Path, recipe: Json, status: Json, summary: Json) -> Json:
    """What the template shows of a selection: its funnel, which is there once it is finished."""
    funnel = _json(run_dir / "funnel.json")
    steps = funnel.get("steps") or []
    rates = funnel.get("pass_rates") or {}
    bars = figures.pass_rates(rates) if rates else None
    unjudged, reasons = _left_unjudged(funnel)
    return {
        "task": "select",
        "counted": [*_left(steps), *_files(run_dir / "judged", "judged files"), *_spent(status, summary)],
        "emptied": next((step for step in steps if step["dropped"] and not step["kept"]), None),
        "unjudged": unjudged,
        "reasons": reasons,
        "funnel": _drawn(figures.funnel(steps), run_dir / "plots" / "funnel.png") if steps else None,
        "steps": _funnel_rows(steps),
        "truncated": funnel.get("truncated") or {},
        "verdicts": _shares(funnel.get("verdicts") or {}, {"": "not judged by a verifier"}),
        "pass_rates": _drawn(bars, run_dir / "plots" / "pass_rates.png") if bars and bars.total else None,
        "unjudged_prompts": rates.get("unjudged", 0),
        "curriculum": _shares(funnel.get("curriculum") or {}, {}),
        "rejected": _rejected(steps, run_dir / "rejected.jsonl"),
        "samples": _first_rows(run_dir / "data"),
    }


def _mix(run_dir: Path, recipe: Json, status: Json, summary: Json) -> Json:
    """What the template shows of a mixture."""
    total = summary.get("total")
    return {
        "task": "mix",
        "counted": [
            *([f"{total['samples']:,} samples"] if total else []),
            *_files(run_dir / "data"),
            *_spent(status, summary),
        ],
        "mixture": _mixture(summary) if total else [],
        "unit": summary.get("unit"),
        "length_of": summary.get("length_of"),
        "samples": _first_rows(run_dir / "data"),
    }


def table(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The before/after table for the terminal.

    Args:
        before: an evaluation's metrics: `pass@1`, `maj@<k>`, `format`, `language` (0..1), `mean_length` (tokens). A
            metric that is missing or None shows as "-".
        after: the same of the trained model.

    Returns:
        Lines of equal width, without a newline at the end.
    """
    rows = [("", "before", "after"), *_table(before, after)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(f"{name:<{widths[0]}}  {old:>{widths[1]}}  {new:>{widths[2]}}" for name, old, new in rows)


def _table(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(name, before, after) as text, in the order of the table."""
    majority = next((key for key in {**before, **after} if key.startswith("maj@")), "maj@k")
    names = {"pass@1": "pass@1", majority: majority, "mean_length": "mean length (tokens)"}
    names |= {"format": "format", "language": "language"}

    def shown(key: str, value: float | None) -> str:
        if value is None:
            return "-"
        return f"{value:.1f}" if key == "mean_length" else f"{100 * value:.1f}%"

    return [(name, shown(key, before.get(key)), shown(key, after.get(key))) for key, name in names.items()]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _json(path: Path) -> dict[str, Any]:
    return json.loads(_read(path) or "{}")


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a jsonl file, one by one, without a line that a kill has cut."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for line in file:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue


def _task(rows: list[dict[str, Any]]) -> str:
    keys = set().union(*rows)
    told = {"reward": "grpo", "rewards/chosen": "dpo", "min_reward": "reward"}
    return next((task for key, task in told.items() if key in keys), "sft")


def _draw_all(large: list[Plot], grids: dict[str, list[Plot]], last: int, folder: Path) -> dict[str, list[dict]]:
    """Write the PNGs; return the plots of each group (`figures` and the grids) with their `svg` for the page."""
    large = [replace(plot, last=last) for plot in large]
    grids = {name: [replace(plot, last=last) for plot in grid] for name, grid in grids.items()}
    for plot in large:
        plots.png([plot], plots.LARGE, folder / ("length.png" if plot.unit == "tokens" else "accuracy.png"))
    for name, grid in grids.items():
        if grid:
            plots.png(grid, plots.SMALL, folder / f"{name}.png")
    groups = {"figures": (large, plots.LARGE)} | {name: (grid, plots.SMALL) for name, grid in grids.items()}
    return {
        group: [{"plot": plot, "svg": plots.svg(plot, size)} for plot in drawn]
        for group, (drawn, size) in groups.items()
    }


def _steps(status: dict, recipe: dict, rows: list[dict]) -> list[str]:
    """What there is of a training's steps, time and tokens."""
    step = max([status.get("step") or 0, *(row["step"] for row in rows)])
    seconds = max([status.get("seconds") or 0, *(row.get("seconds") or 0 for row in rows)])
    wanted = recipe.get("max_steps") or 0
    counted = [f"step {step} of {wanted}" if status.get("state") != "finished" and wanted > step else f"{step} steps"]
    counted.append(_duration(seconds))
    tokens = max(figures.series(rows, "num_tokens").values(), default=0)
    return [*counted, f"{tokens:,.0f} tokens seen"] if tokens else counted


def _duration(seconds: float) -> str:
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {int(seconds % 60)} s" if minutes else f"{seconds:.0f} s"


def _facts(recipe: dict, environment: dict) -> list[str]:
    """What there is of seed and commit."""
    facts = [f"seed {recipe['seed']}"] if recipe.get("seed") is not None else []
    if environment.get("commit"):
        commit, dirty, _ = environment["commit"].partition("-dirty")
        facts.append(f"commit {commit[:10]}{dirty}")
    return facts


def _files(folder: Path, what: str = "files") -> list[str]:
    """How many of a dataset's files are there, while some are missing."""
    totals = [int(path.stem.rpartition("-of-")[2]) for path in folder.glob("train-*-of-*.parquet")]
    return [f"{len(totals):,} of {totals[0]:,} {what}"] if totals and len(totals) < totals[0] else []


def _spent(status: Json, summary: Json) -> list[str]:
    seconds = summary.get("seconds") or status.get("seconds")
    return [_duration(seconds)] if seconds else []


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


def _drawn(plot: plots.Histogram | plots.Funnel, path: Path) -> Json:
    plots.png([plot], plot.size, path)
    return {"plot": plot, "svg": plots.svg(plot, plot.size)}


def _shares(counts: dict[str, int], names: dict[str, str]) -> list[tuple[str, int, str]]:
    """(name, count, share of all), under other names where `names` has them."""
    whole = sum(counts.values())
    return [(names.get(name, name), count, plots.percent(count, whole)) for name, count in counts.items()]


def _finish_reasons(summary: Json) -> list[tuple[str, int, str]]:
    """How completions ended; those that were refused by the reason."""
    counts, refused = summary.get("finish_reasons") or {}, summary.get("refused") or {}
    ended = {reason: count for reason, count in counts.items() if reason != "refused" or not refused}
    return _shares(ended | {f"refused: {reason}": count for reason, count in refused.items()}, FINISH_REASONS)


def _funnel_rows(steps: list[Json]) -> list[Json]:
    """The steps, each with the share that it dropped, and `told`: its most frequent reasons, short, with counts."""
    rows = []
    for step in steps:
        reasons = [(_shortened(reason), count) for reason, count in step["reasons"].items()]
        others = sum(count for _, count in reasons[REASONS_TOLD:])
        told = reasons[:REASONS_TOLD] + ([("for other reasons", others)] if others else [])
        rows.append(step | {"share": plots.percent(step["dropped"], step["kept"] + step["dropped"]), "told": told})
    return rows


def _left_unjudged(funnel: Json) -> tuple[list[str], list[tuple[str, str]]]:
    """What a selection could not judge, in words, and why; both empty if it judged all."""
    verdicts = funnel.get("verdicts") or {}
    told = [
        f"{verdict}: {verdicts[verdict]:,} samples ({plots.percent(verdicts[verdict], sum(verdicts.values()))}), "
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
    for row in _rows(path):
        rows = rows_of.get((row["step"], row["reason"]))
        if rows is not None and len(rows) < EXAMPLES:
            rows.append(_shown(row, hidden=("step", "reason")))
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
            plots.percent(row["samples"], total["samples"]),
            f"{row['epochs']:.4g}" if "epochs" in row else "",
            f"{row['rounds']:.1f}",
            *(f"{row[key]:,.1f}" for key in ("mean", "median")),
            f"{row['max']:,}",
            ", ".join(row.get("licenses") or []),
        ]
        for name, row in [*named, ("total", total)]
    ]


def _contamination(run_dir: Path) -> Json | None:
    """What the contamination gate found: a table of the hits by set and kind, and the first rows."""
    found = _json(run_dir / "contamination.json")
    if not found:
        return None
    kinds = sorted({kind for hits in found["hits"].values() for kind in hits})
    return found | {
        "share": plots.percent(found["contaminated"], found["rows"]),
        "kinds": kinds,
        "table": [
            [name, f"{size:,}", *(f"{found['hits'].get(name, {}).get(kind, 0):,}" for kind in kinds)]
            for name, size in found["sets"].items()
        ],
        "first": list(itertools.islice(_rows(run_dir / "contaminated.jsonl"), CONTAMINATED)),
    }


def _first_rows(folder: Path) -> list[Json]:
    """Rows of a dataset's first readable file: the first one of each prompt."""
    import pyarrow.parquet

    for path in sorted(folder.glob("*.parquet")):
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                rows = next((batch.to_pylist() for batch in file.iter_batches(64)), [])
        except (OSError, ValueError):  # cut by a crash of the machine
            continue
        shown = {}
        for row in map(_shown, rows):
            shown.setdefault(row["prompt"], row)
        if shown:
            return list(shown.values())[:ROWS]
    return []


def _shown(row: Json, hidden: tuple[str, ...] = ()) -> Json:
    """A row's prompt and answers as texts, and its other values as short ones."""
    *asked, answer = row.get("messages") or [None]
    answers = {name: row[name] for name in ("completion", "chosen", "rejected") if name in row}
    if answer is not None:
        answers = {"completion": [answer]}
    others = {key: row[key] for key in row if key not in {*answers, *hidden, "prompt", "messages"}}
    return {
        "prompt": _text(row.get("prompt") or asked or ""),
        "answers": {name: None if value is None else _text(value) for name, value in answers.items()},
        "values": {key: _shortened(_value(value)) for key, value in others.items() if value not in (None, "")},
    }


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHORT else line[: SHORT - 1] + "…"


def _unjudged(rows: list[dict], before: dict, after: dict) -> list[str]:
    """What was left without a verdict, in words; empty if nothing was."""
    told = []
    for key in ("verdict/unknown", "verdict/error"):
        points = figures.series(rows, key)
        if any(points.values()):
            step, most = max(points.items(), key=lambda point: point[1])
            mean = sum(points.values()) / len(points)
            told.append(
                f"{key}: {100 * mean:.2g}% of the training completions, at most {100 * most:.2g}% (step {step})."
            )
    for name, judged in (("before", before), ("after", after)):
        share = (judged.get("metrics") or {}).get("unknown") or 0
        if share:
            told.append(
                f"Evaluation {name} training: {100 * share:.2g}% of the samples, left out of pass@1 and maj@k."
            )
    return told


def _weights(recipe: dict[str, Any]) -> dict[str, float]:
    """Weight of each reward by its metric's name, in the recipe's order."""
    entries = [{"name": entry} if isinstance(entry, str) else entry for entry in recipe.get("rewards") or []]
    return {entry.get("label") or entry["name"].rpartition(":")[2]: entry.get("weight", 1.0) for entry in entries}


def _reasons(rows: list[dict]) -> list[tuple[str, int]]:
    """Why training completions were left without a verdict, and how often; the most frequent first."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(row.get("verdict/reasons") or {})
    return counts.most_common(8)


def _disagreement(rows: list[dict]) -> dict[str, float]:
    """Share of second opinions that differed, for each reward that asked for them."""
    found = {}
    for key in sorted({key for row in rows for key in row if key.startswith("second_opinion/")}):
        points = figures.series(rows, key)
        found[key.partition("/")[2]] = sum(points.values()) / len(points) if points else 0.0
    return found


def _pairs(before: dict, after: dict) -> list[dict[str, Any]]:
    """Each problem with one sample of the base model and one of the trained model (None where there is none)."""
    pairs = []
    for old, new in itertools.zip_longest(before.get("samples") or [], after.get("samples") or []):
        problem = old or new
        samples = [(side["samples"] or [None])[0] if side else None for side in (old, new)]
        pairs.append({"prompt": problem["prompt"], "solution": problem["solution"], "samples": samples})
    return pairs


def _sampled(folder: Path) -> dict[str, Any] | None:
    """The step and a few rows of the newest readable file of training completions, from as many prompts as it has."""
    import pyarrow.parquet

    for path in sorted(
        folder.glob("completions_*.parquet"), key=lambda path: (len(path.name), path.name), reverse=True
    ):
        try:
            rows = pyarrow.parquet.read_table(path).to_pylist()
        except (OSError, ValueError):  # cut by a kill
            continue
        by_prompt: dict[str, list[dict]] = {}
        for row in rows:
            by_prompt.setdefault(_text(row["prompt"]), []).append(row)
        # The first of every group, then the second of every group, and so on.
        turns = [row for turn in itertools.zip_longest(*by_prompt.values()) for row in turn if row is not None][:ROWS]
        shown = [
            {
                "prompt": _text(row["prompt"]),
                "completion": _text(row["completion"]),
                "values": {key: _value(row[key]) for key in row if key not in ("step", "prompt", "completion")},
            }
            for row in turns
        ]
        if shown:
            return {"step": rows[0].get("step"), "rows": shown}
    return None


def _text(value: str | list[dict[str, Any]]) -> str:
    """A prompt or completion as text; the turns of a conversation follow one another under their roles."""
    if isinstance(value, str):
        return value
    if len(value) == 1:
        return str(value[0]["content"])
    return "\n".join(f"[{message['role']}] {message['content']}" for message in value)


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(of_key)}" for key, of_key in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _marked(text: str) -> markupsafe.Markup:
    """A model's text, escaped, its middle left out if it is very long, its tags set apart."""
    left_out = len(text) - CHARACTERS
    if left_out > 0:
        text = f"{text[: CHARACTERS // 2]}\n[... {left_out:,} characters left out ...]\n{text[-CHARACTERS // 2 :]}"
    tag = r'<span class="tag">\g<0></span>'
    return markupsafe.Markup(re.sub(r"&lt;/?(?:think|answer)&gt;", tag, str(markupsafe.escape(text))))


def _template() -> jinja2.Template:
    # autoescape is by hand, since jinja2 would choose it by a file ending that a .jinja file hides.
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    pages = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters["marked"] = _marked
    return pages.get_template("report.html.jinja")
