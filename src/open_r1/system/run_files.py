"""What a page reads of a run directory, and rows of data as texts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Points = dict[int, float]  # step -> value, in the order of the steps


def read_series(rows: list[dict[str, Any]], key: str) -> Points:
    """The finite values of a metric; of several at one step (a resumed run) the last."""
    found = {
        row["step"]: row[key] for row in rows if isinstance(row.get(key), int | float) and math.isfinite(row[key])
    }
    return dict(sorted(found.items()))


Json = dict[str, Any]

ROWS = 6  # of a dataset shown
SHORT = 100  # characters of a reason or value in a line


def read_text(path: Path) -> str:
    """The text of a file; none where there is no file."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def read_json(path: Path) -> Json:
    """The content of a file; nothing where there is none."""
    return json.loads(read_text(path) or "{}")


def read_rows(path: Path) -> Iterator[Json]:
    """The rows of a jsonl file, one by one, without a line that a kill has cut."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for line in file:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue


def list_benchmarks(run_dir: Path) -> list[str]:
    """Names of the benchmarks of an evaluation, in the order of its recipe; none of another run."""
    import yaml

    listed = (yaml.safe_load(read_text(run_dir / "recipe.yaml")) or {}).get("benchmarks") or []
    return [entry["name"] if isinstance(entry, dict) else str(entry) for entry in listed]


def count_files(folder: Path, what: str = "files") -> list[str]:
    """How many of a dataset's files are there, while some are missing."""
    totals = [int(path.stem.rpartition("-of-")[2]) for path in folder.glob("train-*-of-*.parquet")]
    return [f"{len(totals):,} of {totals[0]:,} {what}"] if totals and len(totals) < totals[0] else []


def read_duration(status: Json, summary: Json) -> list[str]:
    """How long a run took, or has taken so far."""
    seconds = summary.get("seconds") or status.get("seconds")
    return [format_seconds(seconds)] if seconds else []


def format_seconds(seconds: float) -> str:
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {int(seconds % 60)} s" if minutes else f"{seconds:.0f} s"


def read_first_rows(folder: Path) -> list[Json]:
    """Rows of a dataset's first readable file: the first one of each prompt."""
    import pyarrow.parquet

    for path in sorted(folder.glob("*.parquet")):
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                rows = next((batch.to_pylist() for batch in file.iter_batches(64)), [])
        except (OSError, ValueError):  # cut by a crash of the machine
            continue
        shown = {}
        for row in map(format_row, rows):
            shown.setdefault(row["prompt"], row)
        if shown:
            return list(shown.values())[:ROWS]
    return []


def format_row(row: Json, hidden: tuple[str, ...] = ()) -> Json:
    """A row's prompt and answers as texts, and its other values as short ones."""
    *asked, answer = row.get("messages") or [None]
    answers = {name: row[name] for name in ("completion", "chosen", "rejected") if name in row}
    if answer is not None:
        answers = {"completion": [answer]}
    others = {key: row[key] for key in row if key not in {*answers, *hidden, "prompt", "messages"}}
    return {
        "prompt": format_turns(row.get("prompt") or asked or ""),
        "answers": {name: None if value is None else format_turns(value) for name, value in answers.items()},
        "values": {key: shorten_text(format_value(value)) for key, value in others.items() if value not in (None, "")},
    }


def shorten_text(text: str, most: int = SHORT) -> str:
    """A text in one line of at most `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def format_turns(value: str | list[dict[str, Any]]) -> str:
    """A prompt or completion as text; the turns of a conversation follow one another under their roles."""
    if isinstance(value, str):
        return value
    if len(value) == 1:
        return str(value[0]["content"])
    return "\n".join(f"[{message['role']}] {message['content']}" for message in value)


def format_value(value: Any) -> str:
    """A value of a row in a few characters."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {format_value(of_key)}" for key, of_key in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)
