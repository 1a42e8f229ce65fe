"""The card of a dataset: what is in it, by source and by kind, and how it was made (as Table 5 of the R1 paper).

Everything is read from the run directory, and from those of the recipes that made its sources.
"""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import yaml

from ..config.defaults import PRESENTATION_KEYS
from ..config.recipe import find_run_dir, is_recipe
from ..config.schema import HF_SEED
from ..system.files import replace_file
from . import shards

TEXT_COLUMNS = ("messages", "prompt", "completion", "chosen")
COUNTED = ("tokens", "kind", "language", "license")
# Words where there is no tokenizer; scripts that write without spaces count by the character.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_LANGUAGE = re.compile(r"[a-z]{2,3}")  # ISO 639, as the hub takes it
SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}
SAMPLED = ("model", "engine", "prompts", "completions", "tokens", "finish_reasons", "refused")  # of summary.json
TASKS = {
    "sample": "Completions sampled from a model",
    "select": "Samples judged, filtered and selected",
    "mix": "A mixture of several sources",
}


def measure_dataset(
    folder: Path, source_of_row: np.ndarray | None = None, encode: Callable[[list[str]], list[int]] | None = None
) -> dict[str, Any]:
    """Samples, rounds and lengths of a dataset, in one pass over its files.

    Args:
        folder: parquet files of messages, completions, pairs or prompts.
        source_of_row: the number of each row's source.
        encode: texts to their numbers of tokens. Without it the column `tokens` is taken, and words if there is none.

    Returns:
        `total`, and lists `by_source` and `by_kind`, each with `samples`, mean `rounds`, and the `mean`, `min`,
        `median` and `max` length in `unit`, of the texts that `length_of` names; `languages` with their samples.
    """
    have = _columns(folder)
    by_column = encode is None and "tokens" in have and not _has_nulls(folder, "tokens")
    texts = ["messages"] if "messages" in have else [column for column in TEXT_COLUMNS if column in have]
    read = [*(texts[:1] if by_column else texts), *(c for c in COUNTED if c in have)]
    lengths, rounds, kinds = array("q"), array("i"), array("i")
    numbers: dict[str, int] = {}
    languages: Counter[str] = Counter()
    licenses: dict[int, Counter[str]] = defaultdict(Counter)
    for rows in shards.read_folder(folder, read):
        lengths.extend([row["tokens"] for row in rows] if by_column else _lengths(rows, texts, encode or _words))
        rounds.extend(_rounds(row) for row in rows)
        if source_of_row is not None:
            for source, row in zip(source_of_row[len(kinds) :], rows, strict=False):
                licenses[int(source)][row["license"] or "unknown"] += 1
        kinds.extend(numbers.setdefault(row.get("kind") or "", len(numbers)) for row in rows)
        languages.update(row["language"] for row in rows if row.get("language"))
    lengths_N, rounds_N, kinds_N = np.array(lengths), np.array(rounds), np.array(kinds)
    every = np.zeros(len(lengths_N), int)
    by_source = [] if source_of_row is None else _figures(lengths_N, rounds_N, source_of_row)
    by_source = [row | {"licenses": sorted(licenses[source])} for source, row in enumerate(by_source)]
    by_kind = [{"kind": kind} | row for kind, row in zip(numbers, _figures(lengths_N, rounds_N, kinds_N), strict=True)]
    return {
        "unit": "words" if encode is None and not by_column else "tokens",
        "length_of": "the completion" if by_column else " and ".join(texts),
        "total": _figures(lengths_N, rounds_N, every)[0],
        "by_source": by_source,
        "by_kind": sorted(by_kind, key=lambda row: row["kind"]),
        "languages": dict(languages.most_common()),
    }


def _figures(lengths_N: np.ndarray, rounds_N: np.ndarray, group_N: np.ndarray) -> list[dict[str, Any]]:
    figures = []
    for group in range(int(group_N.max()) + 1):
        lengths, rounds = lengths_N[group_N == group], rounds_N[group_N == group]
        figures.append(
            {
                "samples": len(lengths),
                "rounds": round(float(rounds.mean()), 2),
                "mean": round(float(lengths.mean()), 1),
                "min": int(lengths.min()),
                "median": round(float(np.median(lengths)), 1),
                "max": int(lengths.max()),
            }
        )
    return figures


def _lengths(rows: list[dict[str, Any]], columns: list[str], encode: Callable[[list[str]], list[int]]) -> list[int]:
    """The length of each row: of all its messages together, without what a chat template puts between them."""
    texts_R = [[text for column in columns for text in _texts(row[column])] for row in rows]
    lengths = iter(encode([text for texts in texts_R for text in texts]))
    return [sum(next(lengths) for _ in texts) for texts in texts_R]


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [message["content"] or "" for message in value]


def _words(texts: list[str]) -> list[int]:
    return [len(_WORD.findall(text)) for text in texts]


def _rounds(row: dict[str, Any]) -> int:
    """Questions of a conversation; a prompt that is a text is one."""
    asked = row.get("messages", row.get("prompt"))
    return 1 if asked is None or isinstance(asked, str) else sum(message["role"] == "user" for message in asked)


def _columns(folder: Path) -> list[str]:
    return pyarrow.parquet.read_schema(min(folder.glob("*.parquet"))).names


def _has_nulls(folder: Path, column: str) -> bool:
    return any(row[column] is None for rows in shards.read_folder(folder, [column]) for row in rows)


def format_mixture_table(summary: dict[str, Any]) -> str:
    """The table of a mixture for the terminal, by source and, where there are several, by kind.

    Args:
        summary: of a mix: what `measure` gives, with `sources`.

    Returns:
        Lines without a newline at the end.
    """
    return _aligned(_table(summary))


def _table(summary: dict[str, Any]) -> list[list[str]]:
    total = summary["total"]["samples"]
    unit = summary["unit"]
    head = ["source", "samples", "share", "asked", "epochs", "rounds", f"{unit}, mean", "min", "median", "max"]
    lines = [head]
    for source, figures in zip(summary["sources"], summary["by_source"], strict=True):
        lines.append([source["name"], *_cells(figures, total, source)])
    kinds = [row for row in summary["by_kind"] if row["kind"]]
    lines += [[f"of kind {row['kind']}", *_cells(row, total)] for row in kinds]
    lines.append(["total", *_cells(summary["total"], total)])
    return lines


def _cells(figures: dict[str, Any], total: int, source: dict[str, Any] | None = None) -> list[str]:
    asked, epochs = (source["asked"], f"{source['epochs']:.2f}") if source else ("", "")
    share = f"{figures['samples'] / total:.1%}"
    rounds, mean = f"{figures['rounds']:.1f}", f"{figures['mean']:,.1f}"
    rest = [f"{figures['min']:,}", f"{figures['median']:,.0f}", f"{figures['max']:,}"]
    return [f"{figures['samples']:,}", share, asked, epochs, rounds, mean, *rest]


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(columns)
        ).rstrip()
        for columns in ([*zip(line, widths, strict=True)] for line in lines)
    )


def write_card(run_dir: Path) -> Path:
    """Write the card of a finished sample, select or mix run beside its files, in the form the hub reads."""
    recipe = yaml.safe_load((run_dir / "recipe.yaml").read_text(encoding="utf-8"))
    summary = _json(run_dir / "summary.json")
    # A mixture has been measured by its tokenizer already.
    figures = summary if recipe["task"] == "mix" else measure_dataset(run_dir / "data")
    header = _header(run_dir, recipe, figures)
    made = {
        "sample": lambda: _kinds(figures) + _sampled(summary),
        "select": lambda: _kinds(figures) + _funnel(_json(run_dir / "funnel.json")),
        "mix": lambda: _mixture(figures),
    }
    sections = [
        f"# {header['pretty_name']}",
        f"{TASKS[recipe['task']]}, made by open-r1.",
        *made[recipe["task"]](),
        *_gate(_json(run_dir / "contamination.json")),
        *_origin(run_dir, recipe),
    ]
    front = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    path = run_dir / "data" / "README.md"
    with replace_file(path) as partial:
        partial.write_text(f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n", encoding="utf-8")
    return path


def _header(run_dir: Path, recipe: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    """What the hub searches by."""
    rows = figures["total"]["samples"]
    languages = [language for language in figures["languages"] if _LANGUAGE.fullmatch(language)]
    licenses = sorted({license for source in figures["by_source"] for license in source["licenses"]})
    header = {"pretty_name": recipe.get("title") or "/".join(run_dir.parts[-3:])}
    if licenses:
        header["license"] = licenses[0] if len(licenses) == 1 else "other"
    if len(licenses) > 1:
        header["license_name"] = "mixed"
    if languages:
        header["language"] = languages
    return header | {
        "task_categories": ["text-generation"],
        "size_categories": [next((name for most, name in SIZES.items() if rows < most), "n>10M")],
        "tags": ["open-r1", recipe["task"]],
        # No `configs`: the files' names say the split, and with them datasets caches all folders of one name as one.
    }


def _mixture(summary: dict[str, Any]) -> list[str]:
    head, *lines = _table(summary)
    sources = zip(summary["sources"], summary["by_source"], strict=True)
    licenses = [", ".join(figures["licenses"]) for _, figures in sources]
    licenses += [""] * (len(lines) - len(licenses))
    told = [_unit(summary)]
    if any(source["left_out"] for source in summary["sources"]):
        left_out = ", ".join(f"{source['left_out']:,} of {source['name']}" for source in summary["sources"])
        told.append(f"Left out before the draw, as repeated or contaminated: {left_out} rows.")
    if summary.get("repeated"):
        exact, near = summary["repeated"]["exact"], summary["repeated"]["near"]
        told.append(f"{exact:,} of them repeat an earlier row, and {near:,} nearly.")
    return [
        _markdown([[*head, "license"], *([*line, one] for line, one in zip(lines, licenses, strict=True))]),
        " ".join(told),
    ]


def _kinds(figures: dict[str, Any]) -> list[str]:
    total = figures["total"]["samples"]
    head = ["kind", "samples", "share", "rounds", f"{figures['unit']}, mean", "min", "median", "max"]
    rows = [row | {"kind": row["kind"] or "-"} for row in figures["by_kind"]]
    rows = [*rows, figures["total"] | {"kind": "total"}] if len(rows) > 1 else rows
    cells = [[row["kind"], *(cell for cell in _cells(row, total) if cell)] for row in rows]
    return [_markdown([head, *cells]), _unit(figures)]


def _unit(figures: dict[str, Any]) -> str:
    if figures["unit"] == "words":
        return (
            f"Lengths are in words of {figures['length_of']}, where a character of a script without spaces is a word; "
            "they were not counted by a tokenizer."
        )
    return f"Lengths are in tokens of {figures['length_of']}" + (
        f", by the tokenizer of {figures['tokenizer']}." if figures.get("tokenizer") else ", as they were generated."
    )


def _sampled(summary: dict[str, Any]) -> list[str]:
    facts = []
    for key in SAMPLED:
        value = summary.get(key)
        if isinstance(value, dict):
            value = ", ".join(f"{count:,} {name}" for name, count in value.items())
        if value:
            facts.append(f"- {key.replace('_', ' ')}: {value if isinstance(value, str) else f'{value:,}'}")
    return ["\n".join(facts)]


def _funnel(funnel: dict[str, Any]) -> list[str]:
    """What each step of a selection kept, and why it dropped the rest."""
    lines = [["step", "kept", "dropped", "reasons"]]
    for step in funnel["steps"]:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in step["reasons"].items())
        lines.append([step["name"], f"{step['kept']:,}", f"{step['dropped']:,}", reasons.replace("|", "\\|")])
    return ["## Selection", _markdown(lines)]


def _gate(found: dict[str, Any]) -> list[str]:
    """What was compared with evaluation sets, what it hit, and what became of it."""
    if not found:
        return []
    sets = ", ".join(f"{name_source({'path': name})} ({size:,})" for name, size in found["sets"].items())
    near = f", or are {found['near']:.0%} alike" if found["near"] else ""
    overlap = f" ({found['overlap']:.0%} of its n-grams or more)" if found["overlap"] else ""
    count = f"{found['contaminated']:,}" if found["contaminated"] else "None"
    told = [
        f"{found['rows']:,} prompts were compared with {sets}. {count} of them share {found['ngram']} words in a row "
        f"with one there{overlap}, or are the same{near}."
    ]
    told = told if sets else []  # all of them are missing
    hits = [
        f"{name_source({'path': name})}: {', '.join(f'{count:,} {how}' for how, count in by.items())}"
        for name, by in found["hits"].items()
        if by
    ]
    if hits:
        became = f"they stay, because: {found['reason']}" if found["action"] == "waive" else "they were left out"
        told.append(f"By set: {'; '.join(hits)}; {became}.")
    if found["missing"]:
        told.append(f"Not compared, as they could not be loaded: {', '.join(found['missing'])}.")
    return ["## Contamination", " ".join(told)]


def _origin(run_dir: Path, recipe: dict[str, Any]) -> list[str]:
    """The recipe, and the chain of recipes behind each source."""
    commit = _json(run_dir / "environment.json").get("commit") or "unknown"
    told = {key: value for key, value in recipe.items() if key not in PRESENTATION_KEYS - {"task"}}
    return [
        "## How it was made",
        f"Seed {recipe.get('seed', HF_SEED)}, commit {commit}, by this recipe:",
        f"```yaml\n{yaml.safe_dump(told, sort_keys=False, allow_unicode=True)}```",
        "Its sources:",
        "\n".join(_chain(recipe, depth=0)),
    ]


def _chain(recipe: dict[str, Any], depth: int) -> list[str]:
    """A list of the sources, and under each that a recipe has made, those of that recipe."""
    lines = []
    for source in recipe["datasets"]:
        source = {"path": source} if isinstance(source, str) else source
        indent = "  " * depth
        if not is_recipe(source["path"]):
            lines.append(f"{indent}- {name_source(source)}")
            continue
        made = find_run_dir(source["path"], recipe.get("seed", HF_SEED))
        before = yaml.safe_load((made / "recipe.yaml").read_text(encoding="utf-8"))
        commit = _json(made / "environment.json").get("commit") or "unknown"
        model = before.get("model_name_or_path")
        told = [
            f"{before['task']} of {shards.count_rows(made / 'data'):,} rows",
            *([f"by {model}"] if model and before["task"] == "sample" else []),
            f"seed {before.get('seed', HF_SEED)}",
            f"commit {commit}",
        ]
        lines += [f"{indent}- {name_source(source)}: {', '.join(told)}; from", *_chain(before, depth + 1)]
    return lines


def name_source(source: dict[str, Any]) -> str:
    """A source as a reader knows it: a recipe by its path under recipes/, a local file without its folders."""
    path = source["path"]
    if is_recipe(path):
        return path.removeprefix("recipes/").rpartition(".")[0]
    local = Path(path).name if Path(path).exists() else path
    parts = [part for part in (source.get("name"), source.get("split")) if part not in (None, "train")]
    return f"{local} ({', '.join(parts)})" if parts else local


def _markdown(lines: list[list[str]]) -> str:
    head, *rest = lines
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ruler, *rest))


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
