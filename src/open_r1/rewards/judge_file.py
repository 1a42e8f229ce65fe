"""`open-r1 judge <reward> --input rows.jsonl --output verdicts.jsonl`: stored answers, judged as in training."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import RecipeError
from . import registry, verdict
from .scoring import Result, ScoredBatch

BATCH = 1024  # rows scored side by side


def judge_file(name: str, source: Path, target: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    """Judge every row of a file and write each back with its verdict.

    Args:
        name: a reward's name.
        source: jsonl or parquet; rows carry `completion` (a text or messages), or a bare `answer`, and the reward's
            columns. A row without them is unknown, with the reason.
        target: jsonl or parquet; the rows in order, with `verdict`, `reason` and `seconds` (wall time of the judging).
            Of a reward that is a number the verdict is `scored`, and `score` has it.
        parameters: of the reward.

    Returns:
        counts of the verdicts, `rows` and `seconds`.

    Raises:
        RecipeError: a file that cannot be read or written, or no row has what the reward needs.
    """
    check_target(target)
    entry = registry.RewardConfig(name, parameters=parameters)
    registry.check_rewards([entry])
    unknown = {"max_tokens", "verdict"} & set(registry.read_signature(registry.find_reward(name)).context)
    if unknown:
        raise RecipeError(f"{name} needs {' and '.join(sorted(unknown))}, which only a training has")
    rows = list(read(source))
    problems = [problem(row, entry) for row in rows]
    if all(problems):
        raise RecipeError(f"{source}: " + (f"row 1: {problems[0]}" if rows else "no rows"))
    began = time.perf_counter()
    judged = [
        row | {"verdict": "unknown", "reason": told, "seconds": 0.0} for row, told in zip(rows, problems, strict=True)
    ]
    whole = [i for i, told in enumerate(problems) if told is None]
    for start in range(0, len(whole), BATCH):
        chosen = whole[start : start + BATCH]
        for i, row in zip(chosen, judge_rows([rows[i] for i in chosen], entry), strict=True):
            judged[i] = row
    write(target, judged)
    counts = Counter(row["verdict"] for row in judged)
    return {"rows": len(judged), **dict(counts.most_common()), "seconds": round(time.perf_counter() - began, 2)}


def check_target(path: Path) -> None:
    """Before hours of judging: can the verdicts be written there?"""
    if path.suffix not in (".jsonl", ".parquet"):
        raise RecipeError(f"--output: {path} is neither .jsonl nor .parquet")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(f"--output: {path.parent} cannot be made: {error.strerror}") from error


def problem(row: dict[str, Any], entry: registry.RewardConfig) -> str | None:
    """What a row lacks to be judged."""
    wanted = registry.read_signature(registry.find_reward(entry.name))
    needed = [*wanted.columns, *(c for c in wanted.context if c in ("prompt", "tokens"))]
    if "completion" not in row and "answer" not in row:
        return "neither `completion` nor `answer` is there"
    if "completion" in row and not isinstance(row["completion"], str | list):
        return f"`completion` is {type(row['completion']).__name__}, not a text or messages"
    if "completion" not in row and entry.name not in registry.BARE:
        return f"{entry.name} judges whole completions, and the row has only a bare `answer`"
    missing = [column for column in needed if column not in row]
    return f"{entry.name} needs {', '.join(missing)}; the row has {', '.join(row)}" if missing else None


def judge_rows(rows: list[dict[str, Any]], entry: registry.RewardConfig) -> list[dict[str, Any]]:
    """Rows with their verdicts, in order; completions by the reward itself, bare answers by its own function."""
    judged: list[dict[str, Any]] = [{} for _ in rows]
    whole = [i for i, row in enumerate(rows) if "completion" in row]
    bare = [i for i, row in enumerate(rows) if "completion" not in row]
    for chosen, key, name in ((whole, "completion", entry.name), (bare, "answer", registry.BARE.get(entry.name))):
        if chosen:
            scored = ScoredBatch([registry.RewardConfig(str(name), parameters=entry.parameters)])
            columns = {column for i in chosen for column in rows[i]}
            batch = {column: [rows[i].get(column) for i in chosen] for column in columns}
            texts = [rows[i][key] if isinstance(rows[i][key], str | list) else str(rows[i][key]) for i in chosen]
            results = scored.results(texts, batch)[0]
            for i, result, seconds in zip(chosen, results, scored.seconds, strict=True):
                judged[i] = rows[i] | told(result) | {"seconds": round(seconds, 6)}
    return judged


def told(result: Result) -> dict[str, Any]:
    if isinstance(result, verdict.Verdict):
        return {"verdict": result.outcome, "reason": result.reason}
    if result is None:
        return {"verdict": "unknown", "reason": "the reward leaves itself out for this row"}
    return {"verdict": "scored", "reason": "", "score": result}


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a jsonl or parquet file.

    Raises:
        RecipeError: no such file, another format, or a line that is no JSON object.
    """
    if not path.is_file():
        raise RecipeError(f"--input: there is no file {path}")
    if path.suffix == ".parquet":
        import pyarrow.parquet

        yield from pyarrow.parquet.read_table(path).to_pylist()
        return
    if path.suffix != ".jsonl":
        raise RecipeError(f"--input: {path} is neither .jsonl nor .parquet")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise RecipeError(f"{path}, line {number}: not valid JSON ({error})") from None
            if not isinstance(row, dict):
                raise RecipeError(f"{path}, line {number}: expected an object, got {type(row).__name__}")
            yield row


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """All rows at once, so that a kill leaves no half of a file under its name."""
    partial = path.with_name(path.name + ".partial")
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), partial)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, UnicodeEncodeError) as error:
            raise RecipeError(f"--output: these rows do not fit a parquet table ({error}); write .jsonl") from error
    else:
        # Escaped, because a model may write half of a surrogate pair.
        partial.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)
