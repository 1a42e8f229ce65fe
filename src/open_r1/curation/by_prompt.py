"""The rows of a folder, prompt by prompt, without holding them all in memory.

Samples of one prompt mostly stand side by side, which the ids alone show. If they do not, the rows are first
distributed to bucket files by a hash of the id, each small enough to be read at once.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from ..data import shards
from ..system.files import explain_full_disk
from .funnel import Row

BUCKET_BYTES = 64 << 20  # approximate size of a bucket in memory; the rows of one prompt share a bucket
OPEN_FILES = 128  # buckets written in one pass over the rows
READ_ROWS = 1000


def group_by_prompt(folder: Path, scratch: Path) -> Iterator[list[Row]]:
    """All rows of each prompt, ordered by (sample, row).

    Args:
        folder: parquet files with the columns `prompt_id`, `sample` and `row`.
        scratch: a folder for temporary files.
    """
    if are_prompts_contiguous(folder):
        rows = chain.from_iterable(shards.read_folder(folder, batch_rows=READ_ROWS))
        groups = (list(rows) for _, rows in groupby(rows, key=itemgetter("prompt_id")))
    else:
        groups = regroup(folder, scratch)
    # Sorting is stable: rows with the same (sample, row) stay in the order of the sources.
    return (sorted(group, key=itemgetter("sample", "row")) for group in groups)


def are_prompts_contiguous(folder: Path) -> bool:
    """True if no prompt's rows are interrupted by another's."""
    # 8 bytes a prompt. Two prompts with one hash are harmless: the rows are regrouped.
    hashes = np.fromiter((hash(prompt) for prompt, _ in groupby(_read_ids(folder))), np.int64)
    return len(np.unique(hashes)) == len(hashes)


def _read_ids(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.parquet")):
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["prompt_id"]):
                yield from batch.column(0).to_pylist()


def regroup(folder: Path, scratch: Path) -> Iterator[list[Row]]:
    """The rows of each prompt: bucket after bucket, and in a bucket in the order of the prompts' first rows."""
    buckets = scratch / "buckets"
    count = 1 + _count_bytes(folder) // BUCKET_BYTES
    for first in range(0, count, OPEN_FILES):
        shutil.rmtree(buckets, ignore_errors=True)
        buckets.mkdir(parents=True)
        for path in _write_buckets(folder, buckets, range(first, min(first + OPEN_FILES, count)), count):
            groups: dict[str, list[Row]] = {}
            with pyarrow.ipc.open_stream(path) as stream:
                for batch in stream:
                    for row in batch.to_pylist():
                        groups.setdefault(row["prompt_id"], []).append(row)
            path.unlink()
            yield from groups.values()
    shutil.rmtree(buckets, ignore_errors=True)


def _count_bytes(folder: Path) -> int:
    """Bytes of all rows before compression."""
    files = [pyarrow.parquet.read_metadata(path) for path in folder.glob("*.parquet")]
    return sum(file.row_group(i).total_byte_size for file in files for i in range(file.num_row_groups))


def _write_buckets(folder: Path, buckets: Path, chosen: range, count: int) -> list[Path]:
    """Write the rows of the chosen buckets, out of `count`, each to its file.

    Raises:
        RecipeError: the disk is full.
    """
    schema = pyarrow.parquet.read_schema(min(folder.glob("*.parquet")))
    paths = [buckets / f"{number:06d}.arrow" for number in chosen]
    # The file format keeps a footer in memory that grows with every batch; the stream format has none.
    options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
    with explain_full_disk(buckets), ExitStack() as stack:
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
