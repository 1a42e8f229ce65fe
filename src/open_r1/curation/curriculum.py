"""Prompts by difficulty: one parquet file for each band of pass rates, to train on in turn."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet

from ..system.files import replace_file
from .funnel import Row
from .rejection_sampling import SAMPLE_COLUMNS

WRITE_ROWS = 500  # prompts buffered for each file


class Curriculum:
    """Writes prompts with their pass rates to one file for each difficulty; a context manager.

    Args:
        folder: folder of the files.
        bounds: pass rates that divide the prompts between never and always solved; None writes nothing.
        features: features of the judged rows.
    """

    def __init__(self, folder: Path, bounds: list[float] | None, features: datasets.Features):
        self.bounds, self.folder = bounds, folder
        self.counts: dict[str, int] | None = None
        kept = {column: feature for column, feature in features.items() if column not in SAMPLE_COLUMNS}
        rate = {"pass_rate": datasets.Value("float64"), "samples": datasets.Value("int64")}
        self.features = datasets.Features(kept | rate)
        self._files = ExitStack()
        self._waiting: dict[str, list[Row]] = {}
        self._writers: dict[str, pyarrow.parquet.ParquetWriter] = {}

    def __enter__(self) -> Curriculum:
        if self.bounds is None:
            return self
        self.folder.mkdir(parents=True)
        edges = [0, *self.bounds, 1]
        bands = [f"{low:g}-{high:g}" for low, high in pairwise(edges)]
        self.counts = dict.fromkeys(["never", *bands, "always", "unjudged"], 0)
        for name in [*self.counts][:-1]:
            partial = self._files.enter_context(replace_file(self.folder / f"{name}.parquet"))
            writer = pyarrow.parquet.ParquetWriter(partial, self.features.arrow_schema, compression="zstd")
            self._writers[name] = self._files.enter_context(writer)
            self._waiting[name] = []
        self._files.push(self._finish)
        return self

    def add(self, prompts: list[Row]) -> None:
        """Add rows of prompts to the files of their `pass_rate`."""
        for row in prompts:
            name = self._find_file(row["pass_rate"])
            self.counts[name] += 1
            if row["pass_rate"] is not None:
                self._waiting[name].append(row)
                if len(self._waiting[name]) >= WRITE_ROWS:
                    self._flush(name)

    def _find_file(self, rate: float | None) -> str:
        names = [*self.counts]
        if rate is None or rate in (0, 1):
            return "unjudged" if rate is None else "always" if rate else "never"
        return names[1 + sum(rate > bound for bound in self.bounds)]

    def _flush(self, name: str) -> None:
        columns = {column: [row.get(column) for row in self._waiting[name]] for column in self.features}
        self._writers[name].write_table(pyarrow.Table.from_pydict(columns, schema=self.features.arrow_schema))
        self._waiting[name] = []

    def _finish(self, *raised: Any) -> None:
        """Flush before the files are closed, while `replace_file` still explains a full disk."""
        if raised[0] is None:
            for name in self._writers:
                self._flush(name)

    def __exit__(self, *raised: Any) -> None:
        self._files.__exit__(*raised)
        # A file without rows cannot be loaded.
        for name in self._writers:
            if not self.counts[name]:
                (self.folder / f"{name}.parquet").unlink()
