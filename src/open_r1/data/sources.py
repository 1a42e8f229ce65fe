"""Load the sources of a recipe's `datasets`: files, folders, functions, hub datasets, and results of other recipes.

A missing or malformed source stops the run with an error that names the source and the row.
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
from ..system.files import is_finished
from ..system.registry import import_place
from .columns import Rows, list_columns

BUILDERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv"}
SHARD = re.compile(r"(\w+)-\d{5}-of-\d{5}\.parquet")  # a split's files on the hub and from `shards`


def load_source(source: DatasetConfig, seed: int, streaming: bool = False) -> Rows:
    """Load the rows of a source, unchanged.

    Args:
        source: its `path` is a file, a folder, a recipe, `module:function` or the name of a hub dataset.
        seed: seed of a function, and of the run whose result is read for a recipe.
        streaming: return an iterable dataset.

    Raises:
        RecipeError: the source does not exist, has a malformed row (named by its line), or is a recipe that has not
            finished.
    """
    if is_recipe(source.path):
        upstream = read_upstream(source.path, seed)
        # The folder of an unfinished run holds some of the rows, and looks like a complete dataset.
        if not is_finished(upstream.run_dir):
            raise RecipeError(
                f"datasets: {source.path} has not finished in {upstream.run_dir}; run it with: "
                f"open-r1 train {upstream.command}"
            )
        return load_source(replace(source, path=str(upstream.run_dir / "data")), seed, streaming)
    path = Path(source.path)
    if ":" in source.path and not path.exists():
        return _call_function(source, seed, streaming)
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        stored = datasets.load_from_disk(str(path))
        stored = stored[source.split] if isinstance(stored, datasets.DatasetDict) else stored
        return stored.to_iterable_dataset() if streaming else stored
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix in BUILDERS and not f.name.startswith("."))
        if not files:
            raise RecipeError(f"{path}: the folder has no {', '.join(BUILDERS)} file")
        matches = [SHARD.fullmatch(f.name) for f in files]
        if all(matches):
            # Named one by one: the cache of datasets identifies a folder with a card by the card and the folder's last
            # name only, and would return the rows of another run.
            splits = {
                match[1]: [str(f) for f, m in zip(files, matches, strict=True) if m[1] == match[1]]
                for match in matches
            }
            return _read("parquet", {"data_files": splits}, files, source, streaming)
        return _read(str(path), {}, files, source, streaming)
    if path.is_file():
        if path.suffix not in BUILDERS:
            raise RecipeError(f"datasets: {path} must end in one of {', '.join(BUILDERS)}")
        options = {"data_files": {source.split: str(path)}} | ({"sep": "\t"} if path.suffix == ".tsv" else {})
        return _read(BUILDERS[path.suffix], options, [path], source, streaming)
    if path.suffix in BUILDERS or source.path.startswith((".", "/", "~")):
        raise RecipeError(f"datasets: there is no file or folder {source.path}")
    return _from_hub(source, streaming)


def load_named_columns(source: DatasetConfig, at: str, seed: int, streaming: bool = False) -> Rows:
    """Load a source and rename its columns as the recipe's `columns` says.

    Raises:
        RecipeError: as in `load_source`, or a column is missing. The message begins with `at`.
    """
    rows = load_source(source, seed, streaming)
    have = list_columns(rows)
    for new, old in source.columns.items():
        if old not in have:
            raise RecipeError(
                f"{at}: column {old!r} (for {new!r}) is missing; it has {', '.join(have)}. "
                f"Name the one to take with `columns: {{{new}: <its name>}}`"
            )
    renamed = {old: new for new, old in source.columns.items() if old != new}
    # A column that already has the new name would collide with the renamed one.
    replaced = [new for new in renamed.values() if new in have]
    return rows.remove_columns(replaced).rename_columns(renamed) if renamed else rows


def _call_function(source: DatasetConfig, seed: int, streaming: bool) -> Rows:
    function = import_place(source.path, f"datasets: {source.path} is not a file, and")
    args = {"seed": seed} | source.args
    try:
        inspect.signature(function).bind(**args)
    except TypeError as error:
        raise RecipeError(f"datasets: {source.path} does not take these args: {source.args} ({error})") from error
    rows = function(**args)
    return rows.to_iterable_dataset() if streaming else rows


def _from_hub(source: DatasetConfig, streaming: bool) -> Rows:
    try:
        return datasets.load_dataset(source.path, source.name, split=source.split, streaming=streaming)
    except (OSError, ValueError) as error:  # datasets' and the hub's own errors derive from these
        raise RecipeError(
            f"datasets: {source.path} is neither a local file or folder nor a dataset that the hub returns: {error}"
        ) from error


def _read(builder: str, options: dict[str, Any], files: list[Path], source: DatasetConfig, streaming: bool) -> Rows:
    """Read files with a builder of datasets; the path of a folder as builder finds the splits in the file names."""
    for file in files:
        if not file.stat().st_size:
            raise RecipeError(f"datasets: {file} is empty")
    if streaming:
        # A stream would reach a malformed row hours later; reading text files once beforehand is cheap.
        _check_lines(files)
    try:
        return datasets.load_dataset(builder, split=source.split, streaming=streaming, **options)
    except ValueError as error:
        raise RecipeError(f"datasets: {source.path}: {error}") from error
    except datasets.exceptions.DatasetGenerationError as error:
        _check_lines(files)
        raise RecipeError(f"datasets: {source.path} cannot be read: {error.__cause__ or error}") from error


def _check_lines(files: list[Path]) -> None:
    """Raise at the first line of a jsonl file that is not a JSON object."""
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
