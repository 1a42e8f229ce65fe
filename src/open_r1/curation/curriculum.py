"""Prompts by difficulty: one parquet file for each band of pass rates, to be trained on in turn."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet

from ..system.files import replace_file
from .rejection_sampling import SAMPLE_COLUMNS

Row = dict[str, Any]

WRITE_ROWS = 500  # prompts held for each file


class Curriculum:
    """Prompts with their pass rate, one file for each difficulty; a context, whose files are whole once it is left.

    Args:
        folder: of the files.
        bounds: pass rates that part the prompts between never and always solved; None writes nothing.
        features: of the judged rows.
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
        """Rows of prompts, each by its `pass_rate`."""
        for row in prompts:
            name = self._name(row["pass_rate"])
            self.counts[name] += 1
            if row["pass_rate"] is not None:
                self._waiting[name].append(row)
                if len(self._waiting[name]) >= WRITE_ROWS:
                    self._flush(name)

    def _name(self, rate: float | None) -> str:
        names = [*self.counts]
        if rate is None or rate in (0, 1):
            return "unjudged" if rate is None else "always" if rate else "never"
        return names[1 + sum(rate > bound for bound in self.bounds)]

    def _flush(self, name: str) -> None:
        columns = {column: [row.get(column) for row in self._waiting[name]] for column in self.features}
        self._writers[name].write_table(pyarrow.Table.from_pydict(columns, schema=self.features.arrow_schema))
        self._waiting[name] = []

    def _finish(self, *raised: Any) -> None:
        """Before the files are closed, so that what fails here is told as theirs: a full disk, say."""
        if raised[0] is None:
            for name in self._writers:
                self._flush(name)

    def __exit__(self, *raised: Any) -> None:
        self._files.__exit__(*raised)
        # A difficulty without prompts is no file: nothing could be loaded from it.
        for name in self._writers:
            if not self.counts[name]:
                (self.folder / f"{name}.parquet").unlink()
