"""From the recipe's `datasets` to the columns a trainer or a data task reads.

Rows of a trainer pass through: load, rename and template, extract, filter, present (prompt and chat messages), mix.
Whatever is missing or malformed stops the run and names the source and the row. The data tasks read rows as they are
stored (`load_rows`) and present prompts themselves.
"""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets

from ..config.recipe import is_recipe, read_upstream
from ..config.schema import DatasetConfig
from ..errors import RecipeError
from ..system.registry import import_place
from .columns import Rows, list_columns

BUILDERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv"}
SHARD = re.compile(r"(\w+)-\d{5}-of-\d{5}\.parquet")  # as the hub, and our own tasks, name a split's files


def load_source(source: DatasetConfig, seed: int, streaming: bool = False) -> Rows:
    """Rows of a source as they are stored.

    Raises:
        RecipeError: no such file, folder, function or hub dataset; a malformed row (named by its line).
    """
    if is_recipe(source.path):
        made = read_upstream(source.path, seed)
        # Until it is finished its folder holds some of the rows, and looks like any other.
        if not _is_finished(made.run_dir):
            raise RecipeError(
                f"datasets: {source.path} has not been run to its end in {made.run_dir}; make it with: "
                f"open-r1 train {made.command}"
            )
        return load_source(replace(source, path=str(made.run_dir / "data")), seed, streaming)
    path = Path(source.path)
    if ":" in source.path and not path.exists():
        return _call(source, seed, streaming)
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        stored = datasets.load_from_disk(str(path))
        stored = stored[source.split] if isinstance(stored, datasets.DatasetDict) else stored
        return stored.to_iterable_dataset() if streaming else stored
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix in BUILDERS and not f.name.startswith("."))
        if not files:
            raise RecipeError(f"{path}: the folder holds no {', '.join(BUILDERS)} file")
        named = [SHARD.fullmatch(f.name) for f in files]
        if all(named):
            # By their names: of a folder with a card, datasets' cache knows only the card and the folder's last name,
            # and would give another run's rows.
            splits = {
                match[1]: [str(f) for f, m in zip(files, named, strict=True) if m[1] == match[1]] for match in named
            }
            return _read("parquet", {"data_files": splits}, files, source, streaming)
        return _read(str(path), {}, files, source, streaming)
    if path.is_file():
        if path.suffix not in BUILDERS:
            raise RecipeError(f"datasets: {path} is none of {', '.join(BUILDERS)}")
        options = {"data_files": {source.split: str(path)}} | ({"sep": "\t"} if path.suffix == ".tsv" else {})
        return _read(BUILDERS[path.suffix], options, [path], source, streaming)
    if path.suffix in BUILDERS or source.path.startswith((".", "/", "~")):
        raise RecipeError(f"datasets: there is no file or folder {source.path}")
    return _from_hub(source, streaming)


def _is_finished(run_dir: Path) -> bool:
    path = run_dir / "status.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("state") == "finished"


def load_named_columns(source: DatasetConfig, at: str, seed: int, streaming: bool = False) -> Rows:
    """Rows of a source under the recipe's column names."""
    rows = load_source(source, seed, streaming)
    have = list_columns(rows)
    for ours, theirs in source.columns.items():
        if theirs not in have:
            raise RecipeError(
                f"{at}: column {theirs!r} (for {ours!r}) is missing; it has {', '.join(have)}. "
                f"Name the one to take with `columns: {{{ours}: <its name>}}`"
            )
    taken = {theirs: ours for ours, theirs in source.columns.items() if theirs != ours}
    # A column that ours displaces would collide with the renamed one.
    displaced = [ours for ours in taken.values() if ours in have]
    return rows.remove_columns(displaced).rename_columns(taken) if taken else rows


def _call(source: DatasetConfig, seed: int, streaming: bool) -> Rows:
    maker = import_place(source.path, f"datasets: {source.path} is no file, and")
    args = {"seed": seed} | source.args
    try:
        inspect.signature(maker).bind(**args)
    except TypeError as error:
        raise RecipeError(f"datasets: {source.path} does not take these args: {source.args} ({error})") from error
    rows = maker(**args)
    return rows.to_iterable_dataset() if streaming else rows


def _from_hub(source: DatasetConfig, streaming: bool) -> Rows:
    try:
        return datasets.load_dataset(source.path, source.name, split=source.split, streaming=streaming)
    except (OSError, ValueError) as error:  # datasets' and the hub's own errors derive from these
        raise RecipeError(
            f"datasets: {source.path} is no local file or folder, and the hub did not give it: {error}"
        ) from error


def _read(builder: str, options: dict[str, Any], files: list[Path], source: DatasetConfig, streaming: bool) -> Rows:
    """Files by a builder of datasets; a folder is its own, and finds the splits in the files' names."""
    for file in files:
        if not file.stat().st_size:
            raise RecipeError(f"datasets: {file} is empty")
    if streaming:
        # A stream meets its bad row hours later; text files are cheap to read once beforehand.
        _check_lines(files)
    try:
        return datasets.load_dataset(builder, split=source.split, streaming=streaming, **options)
    except ValueError as error:
        raise RecipeError(f"datasets: {source.path}: {error}") from error
    except datasets.exceptions.DatasetGenerationError as error:
        _check_lines(files)
        raise RecipeError(f"datasets: {source.path} cannot be read: {error.__cause__ or error}") from error


def _check_lines(files: list[Path]) -> None:
    """Find the line of a jsonl file that is no JSON object."""
    for file in files:
        if file.suffix != ".jsonl":
            continue
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    row = json.loads(line) if line.strip() else {}
                except json.JSONDecodeError as error:
                    raise RecipeError(f"{file}, line {number}: not valid JSON ({error})") from None
                if not isinstance(row, dict):
                    raise RecipeError(f"{file}, line {number}: expected an object, got {type(row).__name__}")
