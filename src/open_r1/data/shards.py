"""A dataset as parquet files that appear whole or not at all.

`train-00003-of-00008.parquet` holds a fixed range of rows, so a run that was killed finds out from the folder alone
what is left to do, and several processes share the work by the files' numbers.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet

from ..errors import RecipeError
from ..system.files import replace_file

ROW_GROUP_BYTES = 32 << 20  # of a file's parts that are read at once; long chains of thought make them few rows


class Shards:
    """The files of one dataset.

    Args:
        folder: made if it is not there.
        rows: rows that are divided; what stands in a file may be more or less (`n` completions of each prompt).
        per_shard: rows of each file, the last one excepted.
    """

    def __init__(self, folder: Path, rows: int, per_shard: int):
        self.folder = folder
        self.rows = rows
        self.per_shard = per_shard
        self.count = -(-rows // per_shard)
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, number: int) -> Path:
        return self.folder / f"train-{number:05d}-of-{self.count:05d}.parquet"

    def range(self, number: int) -> range:
        """The rows that a file stands for."""
        return range(number * self.per_shard, min((number + 1) * self.per_shard, self.rows))

    def missing(self, part: int = 0, parts: int = 1) -> list[int]:
        """Numbers of the files that are not there yet, of one part of the work.

        A file that a crash of the machine has cut is deleted, and counts as missing.
        """
        return [number for number in self.of_part(part, parts) if not is_whole(self.path(number))]

    def of_part(self, part: int, parts: int) -> range:
        """Numbers of the files of one part, there or not."""
        return range(part, self.count, parts)

    @property
    def complete(self) -> bool:
        return all(self.path(number).is_file() for number in range(self.count))


def is_whole(path: Path) -> bool:
    """True if a parquet file is there and is one to its end; deletes one that is not.

    Raises:
        OSError: the system did not let it be read, which says nothing about the file.
    """
    if not path.is_file():
        return False
    try:
        pyarrow.parquet.read_metadata(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        # Arrow's own OSError, of a footer that is none, has no number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        path.unlink()
        return False
    return True


def find_damaged_files(folder: Path) -> list[str]:
    """Names of the files of a whole dataset that cannot be read, or are not there."""
    names = [path.name for path in folder.glob("train-*.parquet")]
    count = int(names[0][-13:-8]) if names else 0
    expected = [folder / f"train-{number:05d}-of-{count:05d}.parquet" for number in range(count)]
    return [path.name for path in expected if not is_whole(path)]


def write_file(path: Path, batches: Iterable[list[dict[str, Any]]], features: datasets.Features) -> int:
    """Write batches of rows as one parquet file, which is under its name only once it is whole and on the disk.

    Args:
        path: of the file.
        batches: each is held in memory by itself.
        features: every file of a dataset has the same, also where all values of a column are None.

    Returns:
        how many rows.

    Raises:
        RecipeError: the disk is full, or a value does not fit its column.
    """
    schema = features.arrow_schema
    count = 0
    with replace_file(path) as partial, pyarrow.parquet.ParquetWriter(partial, schema, compression="zstd") as writer:
        for rows in batches:
            count += len(rows)
            columns = {name: [row.get(name) for row in rows] for name in schema.names}
            try:
                table = pyarrow.Table.from_pydict(columns, schema=schema)
            except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, UnicodeEncodeError) as error:
                raise RecipeError(f"{path}: a value does not fit its column: {error}") from error
            per_group = max(1, int(len(rows) * ROW_GROUP_BYTES / max(table.nbytes, 1)))
            writer.write_table(table, row_group_size=per_group)
    return count


def remove_partial_files(folder: Path) -> None:
    """Delete what killed processes left half written; only while no other process writes there."""
    for path in folder.glob(".*.partial"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def read_folder(
    folder: Path, columns: list[str] | None = None, batch_rows: int = 1000
) -> Iterator[list[dict[str, Any]]]:
    """The rows of a folder's parquet files in order, batch by batch."""
    for path in sorted(folder.glob("*.parquet")):
        yield from read_file(path, columns, batch_rows)


def read_file(path: Path, columns: list[str] | None = None, batch_rows: int = 1000) -> Iterator[list[dict[str, Any]]]:
    """The same of one file.

    Raises:
        RecipeError: it is damaged, or lacks one of the columns.
    """
    again = "delete it, and the same command makes it again"
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            lacking = [name for name in columns or () if name not in file.schema_arrow.names]
            if lacking:
                raise RecipeError(f"{path} has no column {lacking[0]!r}; {again}")
            for batch in file.iter_batches(batch_rows, columns=columns):
                yield batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        # Arrow's own OSError, of bytes that it cannot read, has no number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise RecipeError(f"{path} is damaged ({error}); {again}") from error


def count_rows(folder: Path) -> int:
    """Rows of a folder's parquet files, by their footers."""
    return sum(pyarrow.parquet.read_metadata(path).num_rows for path in folder.glob("*.parquet"))
