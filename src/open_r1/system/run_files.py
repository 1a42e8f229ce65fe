"""Read the files of a run directory for reports, and format rows of data as text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Points = dict[int, float]  # step -> value, sorted by step

ROWS = 6  # rows of a dataset that are shown
SHORT = 100  # characters of a reason or value in a line


def read_series(rows: list[dict[str, Any]], key: str) -> Points:
    """The finite values of a metric by step; of several values at one step (after a resumption) the last.

    >>> read_series([{"step": 1, "loss": 2.0}, {"step": 2, "loss": float("nan")}], "loss")
    {1: 2.0}
    """
    found = {
        row["step"]: row[key] for row in rows if isinstance(row.get(key), int | float) and math.isfinite(row[key])
    }
    return dict(sorted(found.items()))


def read_text(path: Path) -> str:
    """The text of a file; an empty text without the file."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def read_json(path: Path) -> Json:
    """The content of a JSON file; an empty dict without the file."""
    return json.loads(read_text(path) or "{}")


def read_rows(path: Path) -> Iterator[Json]:
    """The rows of a jsonl file, without lines that a kill has cut; none without the file."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for line in file:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue


def list_benchmarks(run_dir: Path) -> list[str]:
    """Names of the benchmarks of an evaluation, in the order of its recipe; none for a run of another task."""
    import yaml

    listed = (yaml.safe_load(read_text(run_dir / "recipe.yaml")) or {}).get("benchmarks") or []
    return [entry["name"] if isinstance(entry, dict) else str(entry) for entry in listed]


def count_files(folder: Path, what: str = "files") -> list[str]:
    """`["3 of 8 files"]` while files of a dataset are missing; else an empty list."""
    totals = [int(path.stem.rpartition("-of-")[2]) for path in folder.glob("train-*-of-*.parquet")]
    return [f"{len(totals):,} of {totals[0]:,} {what}"] if totals and len(totals) < totals[0] else []


def read_duration(status: Json, summary: Json) -> list[str]:
    """The duration of a run so far, in a list; an empty list if it is unknown."""
    seconds = summary.get("seconds") or status.get("seconds")
    return [format_seconds(seconds)] if seconds else []


def format_seconds(seconds: float) -> str:
    """A duration in its two largest units: `45 s`, `12 min 5 s`, `3 h 30 min`."""
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {int(seconds % 60)} s" if minutes else f"{seconds:.0f} s"


def read_first_rows(folder: Path) -> list[Json]:
    """The first row of each prompt, from the first readable file of a dataset; at most `ROWS`."""
    import pyarrow.parquet

    for path in sorted(folder.glob("*.parquet")):
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                rows = next((batch.to_pylist() for batch in file.iter_batches(64)), [])
        except (OSError, ValueError):  # a crash of the machine has cut the file
            continue
        shown = {}
        for row in map(format_row, rows):
            shown.setdefault(row["prompt"], row)
        if shown:
            return list(shown.values())[:ROWS]
    return []


def format_row(row: Json, hidden: tuple[str, ...] = ()) -> Json:
    """The prompt and answers of a row as texts, and its other values as short texts.

    Args:
        row: a row of a dataset.
        hidden: columns to leave out.
    """
    *prompt, answer = row.get("messages") or [None]
    answers = {name: row[name] for name in ("completion", "chosen", "rejected") if name in row}
    if answer is not None:
        answers = {"completion": [answer]}
    others = {key: row[key] for key in row if key not in {*answers, *hidden, "prompt", "messages"}}
    return {
        "prompt": format_turns(row.get("prompt") or prompt or ""),
        "answers": {name: None if value is None else format_turns(value) for name, value in answers.items()},
        "values": {key: shorten_text(format_value(value)) for key, value in others.items() if value not in (None, "")},
    }


def shorten_text(text: str, most: int = SHORT) -> str:
    """A text in one line of at most `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def format_turns(value: str | list[dict[str, Any]]) -> str:
    """A prompt or completion as text; each turn of a conversation begins with its role."""
    if isinstance(value, str):
        return value
    if len(value) == 1:
        return str(value[0]["content"])
    return "\n".join(f"[{message['role']}] {message['content']}" for message in value)


def format_value(value: Any) -> str:
    """A value of a row as a short text."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {format_value(item)}" for key, item in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)
