"""The rows of a folder prompt by prompt, in memory that does not grow with their number.

Samples of one prompt mostly stand side by side. Whether they do is found out from the ids alone; where they do not,
the rows are first spread over bucket files by a hash of the id, each small enough to be read at once.
"""

from __future__ import annotations

import errno
import shutil
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from ..data import shards
from ..errors import RecipeError

Row = dict[str, Any]

BUCKET_BYTES = 64 << 20  # of rows in memory, about; one prompt's rows are never parted
OPEN_FILES = 128  # buckets written in one pass over the rows
READ_ROWS = 1000


def group_by_prompt(folder: Path, scratch: Path) -> Iterator[list[Row]]:
    """All rows of each prompt, ordered by (sample, row).

    Args:
        folder: parquet files with the columns `prompt_id`, `sample` and `row`.
        scratch: a folder for files that are deleted again.
    """
    if stand_together(folder, scratch):
        rows = chain.from_iterable(shards.read_folder(folder, batch_rows=READ_ROWS))
        groups = (list(rows) for _, rows in groupby(rows, key=itemgetter("prompt_id")))
    else:
        groups = regrouped(folder, scratch)
    # Sorting is stable: rows that say the same of themselves stay in the order of the sources.
    return (sorted(group, key=itemgetter("sample", "row")) for group in groups)


def stand_together(folder: Path, scratch: Path) -> bool:
    """True if no prompt's rows are interrupted by another's."""
    path = scratch / "prompts.sqlite"
    path.unlink(missing_ok=True)
    with space(scratch), closing(sqlite3.connect(path)) as known:
        # The file is thrown away: it need not survive a crash.
        known.execute("PRAGMA journal_mode = OFF")
        known.execute("PRAGMA synchronous = OFF")
        known.execute("CREATE TABLE prompts (id TEXT PRIMARY KEY) WITHOUT ROWID")
        try:
            known.executemany("INSERT INTO prompts VALUES (?)", ((prompt,) for prompt, _ in groupby(_ids(folder))))
        except sqlite3.IntegrityError:
            return False
        finally:
            path.unlink()
    return True


@contextmanager
def space(folder: Path) -> Iterator[None]:
    """Says what to do where the disk is full.

    Raises:
        RecipeError: it is.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT) and "disk is full" not in str(error):
            raise
        raise RecipeError(
            f"the disk is full: {folder} could not be written. The verdicts are kept; free some space, and the same "
            "command goes on"
        ) from error


def _ids(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.parquet")):
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["prompt_id"]):
                yield from batch.column(0).to_pylist()


def regrouped(folder: Path, scratch: Path) -> Iterator[list[Row]]:
    """The rows of each prompt, in the order of the buckets, and there in that of their first rows."""
    buckets = scratch / "buckets"
    count = 1 + _bytes(folder) // BUCKET_BYTES
    for first in range(0, count, OPEN_FILES):
        shutil.rmtree(buckets, ignore_errors=True)
        buckets.mkdir(parents=True)
        for path in _spread(folder, buckets, range(first, min(first + OPEN_FILES, count)), count):
            groups: dict[str, list[Row]] = {}
            with pyarrow.ipc.open_stream(path) as stream:
                for batch in stream:
                    for row in batch.to_pylist():
                        groups.setdefault(row["prompt_id"], []).append(row)
            path.unlink()
            yield from groups.values()
    shutil.rmtree(buckets, ignore_errors=True)


def _bytes(folder: Path) -> int:
    """Of all rows, before compression."""
    files = [pyarrow.parquet.read_metadata(path) for path in folder.glob("*.parquet")]
    return sum(file.row_group(i).total_byte_size for file in files for i in range(file.num_row_groups))


def _spread(folder: Path, buckets: Path, chosen: range, count: int) -> list[Path]:
    """Write the rows of the chosen buckets, of `count`, each to its file."""
    schema = pyarrow.parquet.read_schema(min(folder.glob("*.parquet")))
    paths = [buckets / f"{number:06d}.arrow" for number in chosen]
    # A stream has no footer that would grow with every batch until it is closed.
    options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
    with space(buckets), ExitStack() as stack:
        writers = [stack.enter_context(pyarrow.ipc.new_stream(path, schema, options=options)) for path in paths]
        for path in sorted(folder.glob("*.parquet")):
            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(8 * READ_ROWS):
                    positions: dict[int, list[int]] = {}
                    for i, prompt in enumerate(batch.column("prompt_id").to_pylist()):
                        positions.setdefault(zlib.crc32(prompt.encode()) % count, []).append(i)
                    for bucket in positions.keys() & set(chosen):
                        writers[bucket - chosen.start].write_batch(batch.take(pyarrow.array(positions[bucket])))
    return paths
