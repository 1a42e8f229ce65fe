"""The card of a dataset: its contents by source and by kind (as in Table 5 of the R1 paper), and how it was made.

All facts are read from the run directory, and from the run directories of the recipes that made its sources.
"""

from __future__ import annotations

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
from ..system.run_files import read_json
from . import shards

TEXT_COLUMNS = ("messages", "prompt", "completion", "chosen")
COUNTED = ("tokens", "kind", "language", "license")
# Lengths are counted in words if there is no tokenizer; a character of a script without spaces is a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_LANGUAGE = re.compile(r"[a-z]{2,3}")  # ISO 639, which the hub requires
SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}
SAMPLED = ("model", "engine", "prompts", "completions", "tokens", "finish_reasons", "refused")  # keys of summary.json
TASKS = {
    "sample": "Completions sampled from a model",
    "select": "Samples judged, filtered and selected",
    "mix": "A mixture of several sources",
}


def measure_dataset(
    folder: Path, source_of_row: np.ndarray | None = None, encode: Callable[[list[str]], list[int]] | None = None
) -> dict[str, Any]:
    """Count the samples, rounds and lengths of a dataset in one pass over its files.

    Args:
        folder: folder of parquet files with messages, completions, pairs or prompts.
        source_of_row: number of the source of each row [rows].
        encode: function from texts to their numbers of tokens. By default lengths are the column `tokens`, or words if
            there is no such column.

    Returns:
        `total`, and lists `by_source` and `by_kind`, each with `samples`, mean `rounds`, and `mean`, `min`, `median`
        and `max` length in `unit`; `length_of`, the texts whose length it is; `languages`, the samples by language.
    """
    have = _read_columns(folder)
    by_column = encode is None and "tokens" in have and not _has_nulls(folder, "tokens")
    texts = ["messages"] if "messages" in have else [column for column in TEXT_COLUMNS if column in have]
    read = [*(texts[:1] if by_column else texts), *(c for c in COUNTED if c in have)]
    lengths, rounds, kinds = array("q"), array("i"), array("i")
    numbers: dict[str, int] = {}
    languages: Counter[str] = Counter()
    licenses: dict[int, Counter[str]] = defaultdict(Counter)
    for rows in shards.read_folder(folder, read):
        lengths.extend(
            [row["tokens"] for row in rows] if by_column else _count_lengths(rows, texts, encode or _count_words)
        )
        rounds.extend(_count_rounds(row) for row in rows)
        if source_of_row is not None:
            for source, row in zip(source_of_row[len(kinds) :], rows, strict=False):
                licenses[int(source)][row["license"] or "unknown"] += 1
        kinds.extend(numbers.setdefault(row.get("kind") or "", len(numbers)) for row in rows)
        languages.update(row["language"] for row in rows if row.get("language"))
    lengths_N, rounds_N, kinds_N = np.array(lengths), np.array(rounds), np.array(kinds)
    one_group_N = np.zeros(len(lengths_N), int)
    by_source = [] if source_of_row is None else _summarize_groups(lengths_N, rounds_N, source_of_row)
    by_source = [row | {"licenses": sorted(licenses[source])} for source, row in enumerate(by_source)]
    by_kind = [
        {"kind": kind} | row
        for kind, row in zip(numbers, _summarize_groups(lengths_N, rounds_N, kinds_N), strict=True)
    ]
    return {
        "unit": "words" if encode is None and not by_column else "tokens",
        "length_of": "the completion" if by_column else " and ".join(texts),
        "total": _summarize_groups(lengths_N, rounds_N, one_group_N)[0],
        "by_source": by_source,
        "by_kind": sorted(by_kind, key=lambda row: row["kind"]),
        "languages": dict(languages.most_common()),
    }


def _summarize_groups(lengths_N: np.ndarray, rounds_N: np.ndarray, group_N: np.ndarray) -> list[dict[str, Any]]:
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


def _count_lengths(
    rows: list[dict[str, Any]], columns: list[str], encode: Callable[[list[str]], list[int]]
) -> list[int]:
    """The total length of the texts of each row; a chat template would add the tokens between messages."""
    texts_R = [[text for column in columns for text in _list_texts(row[column])] for row in rows]
    lengths = iter(encode([text for texts in texts_R for text in texts]))
    return [sum(next(lengths) for _ in texts) for texts in texts_R]


def _list_texts(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [message["content"] or "" for message in value]


def _count_words(texts: list[str]) -> list[int]:
    return [len(_WORD.findall(text)) for text in texts]


def _count_rounds(row: dict[str, Any]) -> int:
    """Number of user messages of a conversation; 1 for a text."""
    messages = row.get("messages", row.get("prompt"))
    return 1 if messages is None or isinstance(messages, str) else sum(one["role"] == "user" for one in messages)


def _read_columns(folder: Path) -> list[str]:
    return pyarrow.parquet.read_schema(min(folder.glob("*.parquet"))).names


def _has_nulls(folder: Path, column: str) -> bool:
    return any(row[column] is None for rows in shards.read_folder(folder, [column]) for row in rows)


def format_mixture_table(summary: dict[str, Any]) -> str:
    """Format the figures of a mixture by source and by kind as an aligned table for the terminal.

    Args:
        summary: result of `measure_dataset` with the key `sources`, as in the summary.json of a mix.
    """
    return _align_columns(_build_table(summary))


def _build_table(summary: dict[str, Any]) -> list[list[str]]:
    total = summary["total"]["samples"]
    unit = summary["unit"]
    head = ["source", "samples", "share", "asked", "epochs", "rounds", f"{unit}, mean", "min", "median", "max"]
    lines = [head]
    for source, figures in zip(summary["sources"], summary["by_source"], strict=True):
        lines.append([source["name"], *_format_cells(figures, total, source)])
    kinds = [row for row in summary["by_kind"] if row["kind"]]
    lines += [[f"of kind {row['kind']}", *_format_cells(row, total)] for row in kinds]
    lines.append(["total", *_format_cells(summary["total"], total)])
    return lines


def _format_cells(figures: dict[str, Any], total: int, source: dict[str, Any] | None = None) -> list[str]:
    asked, epochs = (source["asked"], f"{source['epochs']:.2f}") if source else ("", "")
    share = f"{figures['samples'] / total:.1%}"
    rounds, mean = f"{figures['rounds']:.1f}", f"{figures['mean']:,.1f}"
    lengths = [f"{figures['min']:,}", f"{figures['median']:,.0f}", f"{figures['max']:,}"]
    return [f"{figures['samples']:,}", share, asked, epochs, rounds, mean, *lengths]


def _align_columns(lines: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(columns)
        ).rstrip()
        for columns in ([*zip(line, widths, strict=True)] for line in lines)
    )


def write_card(run_dir: Path) -> Path:
    """Write the card of a finished sample, select or mix run as README.md beside its files."""
    recipe = yaml.safe_load((run_dir / "recipe.yaml").read_text(encoding="utf-8"))
    summary = read_json(run_dir / "summary.json")
    # A mixture has already been measured with its tokenizer.
    figures = summary if recipe["task"] == "mix" else measure_dataset(run_dir / "data")
    header = _build_header(run_dir, recipe, figures)
    describe = {
        "sample": lambda: _describe_kinds(figures) + _describe_samples(summary),
        "select": lambda: _describe_kinds(figures) + _describe_funnel(read_json(run_dir / "funnel.json")),
        "mix": lambda: _describe_mixture(figures),
    }
    sections = [
        f"# {header['pretty_name']}",
        f"{TASKS[recipe['task']]}, made by open-r1.",
        *describe[recipe["task"]](),
        *_describe_contamination(read_json(run_dir / "contamination.json")),
        *_describe_origin(run_dir, recipe),
    ]
    front = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    path = run_dir / "data" / "README.md"
    with replace_file(path) as partial:
        partial.write_text(f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n", encoding="utf-8")
    return path


def _build_header(run_dir: Path, recipe: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    """The metadata of the card, by which the hub finds datasets."""
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
        # No `configs`: file names state the split, and datasets would share one cache among folders of the same name.
    }


def _describe_mixture(summary: dict[str, Any]) -> list[str]:
    head, *lines = _build_table(summary)
    sources = zip(summary["sources"], summary["by_source"], strict=True)
    licenses = [", ".join(figures["licenses"]) for _, figures in sources]
    licenses += [""] * (len(lines) - len(licenses))
    sentences = [_describe_unit(summary)]
    if any(source["left_out"] for source in summary["sources"]):
        left_out = ", ".join(f"{source['left_out']:,} of {source['name']}" for source in summary["sources"])
        sentences.append(f"Dropped before the draw because they are repeated or contaminated: {left_out} rows.")
    if summary.get("repeated"):
        exact, near = summary["repeated"]["exact"], summary["repeated"]["near"]
        sentences.append(f"{exact:,} of them repeat an earlier row, and {near:,} are near-duplicates.")
    return [
        _format_markdown([[*head, "license"], *([*line, one] for line, one in zip(lines, licenses, strict=True))]),
        " ".join(sentences),
    ]


def _describe_kinds(figures: dict[str, Any]) -> list[str]:
    total = figures["total"]["samples"]
    head = ["kind", "samples", "share", "rounds", f"{figures['unit']}, mean", "min", "median", "max"]
    rows = [row | {"kind": row["kind"] or "-"} for row in figures["by_kind"]]
    rows = [*rows, figures["total"] | {"kind": "total"}] if len(rows) > 1 else rows
    cells = [[row["kind"], *(cell for cell in _format_cells(row, total) if cell)] for row in rows]
    return [_format_markdown([head, *cells]), _describe_unit(figures)]


def _describe_unit(figures: dict[str, Any]) -> str:
    if figures["unit"] == "words":
        of = figures["length_of"]
        return f"Lengths are words of {of}, not tokens; a character of a script without spaces is a word."
    counted = f"by the tokenizer of {figures['tokenizer']}" if figures.get("tokenizer") else "as they were generated"
    return f"Lengths are tokens of {figures['length_of']}, {counted}."


def _describe_samples(summary: dict[str, Any]) -> list[str]:
    facts = []
    for key in SAMPLED:
        value = summary.get(key)
        if isinstance(value, dict):
            value = ", ".join(f"{count:,} {name}" for name, count in value.items())
        if value:
            facts.append(f"- {key.replace('_', ' ')}: {value if isinstance(value, str) else f'{value:,}'}")
    return ["\n".join(facts)]


def _describe_funnel(funnel: dict[str, Any]) -> list[str]:
    """Rows that each step of a selection kept, and the reasons for dropping the others."""
    lines = [["step", "kept", "dropped", "reasons"]]
    for step in funnel["steps"]:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in step["reasons"].items())
        lines.append([step["name"], f"{step['kept']:,}", f"{step['dropped']:,}", reasons.replace("|", "\\|")])
    return ["## Selection", _format_markdown(lines)]


def _describe_contamination(found: dict[str, Any]) -> list[str]:
    """The evaluation sets that prompts were compared with, the hits, and the action."""
    if not found:
        return []
    sets = ", ".join(f"{name_source({'path': name})} ({size:,})" for name, size in found["sets"].items())
    near = f", or share {found['near']:.0%} of their word pairs" if found["near"] else ""
    overlap = f" ({found['overlap']:.0%} of its n-grams or more)" if found["overlap"] else ""
    count = f"{found['contaminated']:,}" if found["contaminated"] else "None"
    sentences = [
        f"{found['rows']:,} prompts were compared with {sets}. {count} of them share {found['ngram']} words in a row "
        f"with one of theirs{overlap}, or are the same{near}."
    ]
    sentences = sentences if sets else []  # no set could be loaded
    hits = [
        f"{name_source({'path': name})}: {', '.join(f'{count:,} {how}' for how, count in by.items())}"
        for name, by in found["hits"].items()
        if by
    ]
    if hits:
        action = f"they are kept. Reason: {found['reason']}" if found["action"] == "waive" else "they were dropped"
        sentences.append(f"By set: {'; '.join(hits)}; {action}.")
    if found["missing"]:
        sentences.append(f"Not compared, because they could not be loaded: {', '.join(found['missing'])}.")
    return ["## Contamination", " ".join(sentences)]


def _describe_origin(run_dir: Path, recipe: dict[str, Any]) -> list[str]:
    """The recipe, and the recipes that made its sources, recursively."""
    commit = read_json(run_dir / "environment.json").get("commit") or "unknown"
    shown = {key: value for key, value in recipe.items() if key not in PRESENTATION_KEYS - {"task"}}
    return [
        "## How it was made",
        f"Seed {recipe.get('seed', HF_SEED)}, commit {commit}, by this recipe:",
        f"```yaml\n{yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)}```",
        "Its sources:",
        "\n".join(_list_lineage(recipe, depth=0)),
    ]


def _list_lineage(recipe: dict[str, Any], depth: int) -> list[str]:
    """A nested Markdown list of the sources; a source made by a recipe is followed by that recipe's sources."""
    lines = []
    for source in recipe["datasets"]:
        source = {"path": source} if isinstance(source, str) else source
        indent = "  " * depth
        if not is_recipe(source["path"]):
            lines.append(f"{indent}- {name_source(source)}")
            continue
        run_dir = find_run_dir(source["path"], recipe.get("seed", HF_SEED))
        maker = yaml.safe_load((run_dir / "recipe.yaml").read_text(encoding="utf-8"))
        commit = read_json(run_dir / "environment.json").get("commit") or "unknown"
        model = maker.get("model_name_or_path")
        facts = [
            f"{maker['task']} of {shards.count_rows(run_dir / 'data'):,} rows",
            *([f"by {model}"] if model and maker["task"] == "sample" else []),
            f"seed {maker.get('seed', HF_SEED)}",
            f"commit {commit}",
        ]
        lines += [f"{indent}- {name_source(source)}: {', '.join(facts)}; from", *_list_lineage(maker, depth + 1)]
    return lines


def name_source(source: dict[str, Any]) -> str:
    """The short name of a source: a recipe's path under recipes/, or the name of a local file without its folders.

    >>> name_source({"path": "recipes/tiny/mix/r1_sft.yaml"})
    'tiny/mix/r1_sft'
    """
    path = source["path"]
    if is_recipe(path):
        return path.removeprefix("recipes/").rpartition(".")[0]
    local = Path(path).name if Path(path).exists() else path
    parts = [part for part in (source.get("name"), source.get("split")) if part not in (None, "train")]
    return f"{local} ({', '.join(parts)})" if parts else local


def _format_markdown(lines: list[list[str]]) -> str:
    head, *rest = lines
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ruler, *rest))
