"""A dataset as parquet files that are written atomically.

`train-00003-of-00008.parquet` holds a fixed range of rows. A restarted run sees from the folder which files are
missing, and several processes divide the work by file number.
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

ROW_GROUP_BYTES = 32 << 20  # size of the part of a file that is read at once


class Shards:
    """The files of one dataset.

    Args:
        folder: folder of the files, which is created if missing.
        rows: number of input rows to divide among the files. A file may have another number of output rows, e.g. `n`
            completions of each prompt.
        per_shard: input rows of each file but the last.
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
        """The input rows of a file."""
        return range(number * self.per_shard, min((number + 1) * self.per_shard, self.rows))

    def missing(self, part: int = 0, parts: int = 1) -> list[int]:
        """Numbers of the files of one part of the work that do not exist yet.

        A truncated file, as a crash of the machine may leave it, is deleted and counts as missing.
        """
        return [number for number in self.of_part(part, parts) if not is_whole(self.path(number))]

    def of_part(self, part: int, parts: int) -> range:
        """Numbers of all files of one part of the work."""
        return range(part, self.count, parts)

    @property
    def complete(self) -> bool:
        return all(self.path(number).is_file() for number in range(self.count))


def is_whole(path: Path) -> bool:
    """Whether a parquet file exists and is complete; an incomplete one is deleted.

    Raises:
        OSError: the file cannot be read because of the system, e.g. too many open files.
    """
    if not path.is_file():
        return False
    try:
        pyarrow.parquet.read_metadata(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        # The OSError that Arrow raises for an invalid footer has no errno.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        path.unlink()
        return False
    return True


def find_damaged_files(folder: Path) -> list[str]:
    """Names of the files of a finished dataset that are damaged or missing."""
    names = [path.name for path in folder.glob("train-*.parquet")]
    count = int(names[0][-13:-8]) if names else 0
    expected = [folder / f"train-{number:05d}-of-{count:05d}.parquet" for number in range(count)]
    return [path.name for path in expected if not is_whole(path)]


def write_file(path: Path, batches: Iterable[list[dict[str, Any]]], features: datasets.Features) -> int:
    """Write batches of rows to one parquet file, which gets its name when it is complete and on the disk.

    Args:
        path: path of the file.
        batches: batches of rows; one is in memory at a time.
        features: columns of the dataset, which also type a column whose values are all None.

    Returns:
        The number of rows.

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
    """Delete the partial files of killed processes; no other process may be writing to the folder."""
    for path in folder.glob(".*.partial"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def read_folder(
    folder: Path, columns: list[str] | None = None, batch_rows: int = 1000
) -> Iterator[list[dict[str, Any]]]:
    """Read the rows of a folder's parquet files in order, in batches."""
    for path in sorted(folder.glob("*.parquet")):
        yield from read_file(path, columns, batch_rows)


def read_file(path: Path, columns: list[str] | None = None, batch_rows: int = 1000) -> Iterator[list[dict[str, Any]]]:
    """Read the rows of one parquet file in batches.

    Raises:
        RecipeError: the file is damaged, or lacks one of the columns.
    """
    advice = "delete it, and the same command makes it again"
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            missing = [name for name in columns or () if name not in file.schema_arrow.names]
            if missing:
                raise RecipeError(f"{path} has no column {missing[0]!r}; {advice}")
            for batch in file.iter_batches(batch_rows, columns=columns):
                yield batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        # The OSError that Arrow raises for bytes that it cannot decode has no errno.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise RecipeError(f"{path} is damaged ({error}); {advice}") from error


def count_rows(folder: Path) -> int:
    """Number of rows of a folder's parquet files, from their footers."""
    return sum(pyarrow.parquet.read_metadata(path).num_rows for path in folder.glob("*.parquet"))
