"""`open-r1 judge <reward> --input rows.jsonl --output verdicts.jsonl`: judge stored answers as a training does."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import RecipeError
from ..system.files import replace_file, write_text
from . import registry, verdict
from .scoring import Result, ScoredBatch

BATCH = 1024  # rows scored in parallel


def judge_file(name: str, source: Path, target: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    """Judge every row of a file and write each back with its verdict.

    Args:
        name: a reward's name.
        source: jsonl or parquet; rows with `completion` (a text or messages) or a bare `answer`, and the reward's
            columns. The verdict of a row without them is unknown, with the reason.
        target: jsonl or parquet; the rows in order, with `verdict`, `reason` and `seconds` (wall time of judging). If
            the reward is a number, the verdict is `scored` and the number is in `score`.
        parameters: of the reward.

    Returns:
        the number of rows with each verdict, `rows` and `seconds`.

    Raises:
        RecipeError: a file cannot be read or written, or no row has what the reward needs.
    """
    check_target(target)
    entry = registry.RewardConfig(name, parameters=parameters)
    registry.check_rewards([entry])
    missing = {"max_tokens", "verdict"} & set(registry.read_signature(registry.find_reward(name)).context)
    if missing:
        raise RecipeError(f"{name} needs {' and '.join(sorted(missing))}, which only a training has")
    rows = list(read_rows(source))
    problems = [find_problem(row, entry) for row in rows]
    if all(problems):
        raise RecipeError(f"{source}: " + (f"row 1: {problems[0]}" if rows else "no rows"))
    began = time.perf_counter()
    judged = [
        row | {"verdict": "unknown", "reason": problem, "seconds": 0.0}
        for row, problem in zip(rows, problems, strict=True)
    ]
    complete = [i for i, problem in enumerate(problems) if problem is None]
    for start in range(0, len(complete), BATCH):
        chosen = complete[start : start + BATCH]
        for i, row in zip(chosen, judge_rows([rows[i] for i in chosen], entry), strict=True):
            judged[i] = row
    write_rows(target, judged)
    counts = Counter(row["verdict"] for row in judged)
    return {"rows": len(judged), **dict(counts.most_common()), "seconds": round(time.perf_counter() - began, 2)}


def check_target(path: Path) -> None:
    """Check, before hours of judging, that the output has a known format and its folder exists or can be made."""
    if path.suffix not in (".jsonl", ".parquet"):
        raise RecipeError(f"--output: {path} is neither .jsonl nor .parquet")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(f"--output: {path.parent} cannot be made: {error.strerror}") from error


def find_problem(row: dict[str, Any], entry: registry.RewardConfig) -> str | None:
    """Why a row cannot be judged; None if it can."""
    signature = registry.read_signature(registry.find_reward(entry.name))
    needed = [*signature.columns, *(c for c in signature.context if c in ("prompt", "tokens"))]
    if "completion" not in row and "answer" not in row:
        return "the row has neither `completion` nor `answer`"
    if "completion" in row and not isinstance(row["completion"], str | list):
        return f"`completion` is {type(row['completion']).__name__}, expected a text or messages"
    if "completion" not in row and entry.name not in registry.BARE:
        return f"{entry.name} judges whole completions, and the row has only a bare `answer`"
    missing = [column for column in needed if column not in row]
    return f"{entry.name} needs {', '.join(missing)}; the row has {', '.join(row)}" if missing else None


def judge_rows(rows: list[dict[str, Any]], entry: registry.RewardConfig) -> list[dict[str, Any]]:
    """Rows with their verdicts, in order; bare answers are judged by the reward's function in `registry.BARE`."""
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
                judged[i] = rows[i] | describe_result(result) | {"seconds": round(seconds, 6)}
    return judged


def describe_result(result: Result) -> dict[str, Any]:
    """The columns `verdict` and `reason`, and `score` if the result is a number."""
    if isinstance(result, verdict.Verdict):
        return {"verdict": result.outcome, "reason": result.reason}
    if result is None:
        return {"verdict": "unknown", "reason": "the reward does not apply to this row"}
    return {"verdict": "scored", "reason": "", "score": result}


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a jsonl or parquet file.

    Raises:
        RecipeError: there is no such file, it has another format, or a line is no JSON object.
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


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a jsonl or parquet file; a kill leaves no partial file under its name.

    Raises:
        RecipeError: the rows do not fit a parquet table, or the disk is full.
    """
    if path.suffix == ".jsonl":
        # json.dumps escapes what is not ASCII: a model may write half of a surrogate pair.
        write_text(path, "".join(json.dumps(row, default=str) + "\n" for row in rows))
        return
    import pyarrow
    import pyarrow.parquet

    try:
        with replace_file(path) as partial:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), partial)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, UnicodeEncodeError) as error:
        raise RecipeError(f"--output: the rows do not fit a parquet table ({error}); write .jsonl") from error
