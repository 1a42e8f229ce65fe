"""A selection of up to a million samples: rows per second of judging and of selecting, and whether memory grows.

    python benchmarks/selection.py [rows ...]

Synthetic samples, 16 of each prompt, go through a whole `select` recipe: judged by `accuracy`, filtered by tags,
language, paragraphs, code, repetition, length, pass rate and best of 4, written as messages and as a curriculum. Each
size is a process of its own. Printed: seconds and rows per second of both parts, and the most anonymous memory that
the process and its workers held above what its imports take, sampled every 20 ms; pages of files that are mapped into
memory are the system's to take back, and are left out. `--apart` interleaves the samples of all prompts, so that they
must first be brought together.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import psutil
import record
import yaml

from open_r1 import selection
from open_r1.data import shards

SAMPLES = 16  # of each prompt
SENTENCES = (
    "Let me check whether the sum of the first three terms is really divisible by seven.",
    "Wait, that cannot be right, because the remainder of \\(2^{10}\\) is one.",
    "So the second train leaves an hour later and catches up with the first one after $t = 3$ hours.",
    "First, we write the equation down and move everything to the left side.",
    "Then the product of both roots is the constant term, as it should be.",
    "The triangle has a right angle, so its area is half the product of the short sides.",
)
RECIPE = {
    "rewards": ["accuracy"],
    "filters": [
        "correct",
        "finished",
        "well_formed",
        "one_language",
        "short_paragraphs",
        "no_code_in_reasoning",
        "little_repetition",
        {"name": "length", "min": 10, "max": 4000},
        "pass_rate",
        {"name": "best", "k": 4, "by": "spread"},
    ],
    "curriculum": [0.25, 0.75],
}


def samples(rows: int, apart: bool) -> Iterator[dict[str, object]]:
    prompts = rows // SAMPLES
    for i in range(prompts * SAMPLES):
        prompt, k = (i % prompts, i // prompts) if apart else divmod(i, SAMPLES)
        pick = random.Random(1000 * prompt + k)
        thought = " ".join(pick.choices(SENTENCES, k=6))
        # Prompts differ in difficulty; some samples have no tags, and some are cut off.
        answer = 7 * prompt + (pick.random() < (prompt % 10) / 9)
        completion = f"<think>{thought}</think>\nThe answer is \\boxed{{{answer}}}."
        yield {
            "prompt": f"What is seven times the number {prompt}, if we count from zero?",
            "solution": str(7 * prompt),
            "completion": completion.removeprefix("<think>" if pick.random() < 0.05 else ""),
            "tokens": len(completion) // 4,
            "finish_reason": "length" if pick.random() < 0.05 else "stop",
            "sample": k,
        }


def memory() -> int:
    """Anonymous resident memory of this process and those it started, in bytes."""
    me, total = psutil.Process(), 0
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(OSError, IndexError):  # it has just ended
            status = Path(f"/proc/{process.pid}/status").read_text()
            total += 1024 * int(status.split("RssAnon:")[1].split()[0])
    return total


class Watch:
    """The most memory and the time of a block."""

    def __enter__(self) -> Watch:
        self.most, self.began, self.over = memory(), time.perf_counter(), threading.Event()
        threading.Thread(target=self._look, daemon=True).start()
        return self

    def _look(self) -> None:
        while not self.over.wait(0.02):
            self.most = max(self.most, memory())

    def __exit__(self, *raised: object) -> None:
        self.over.set()
        self.seconds = time.perf_counter() - self.began


def measure(path: Path, rows: int) -> None:
    """Run the recipe in this process and print one line."""
    import pyarrow

    from open_r1.config.loading import load_recipe
    from open_r1.curation import scoring
    from open_r1.data import rows as data_rows
    from open_r1.data.shards import Shards
    from open_r1.run import lifecycle

    recipe = load_recipe(path)
    base = memory()
    this = lifecycle.start_run(recipe)
    stored = data_rows.load_rows(recipe)
    files = Shards(this.dir / "judged", len(stored), recipe.args.shard_rows)
    with Watch() as judging:
        scoring.score_files(this, stored, files, files.missing())
    held = pyarrow.total_allocated_bytes()
    assert held < 64 << 20, f"{held} bytes of Arrow's are still held after judging"
    with Watch() as selecting:
        summary = selection.select(this, scoring.build_features(stored, recipe))
    parts = {
        name: {"rows_per_second": rows / part.seconds, "megabytes": (part.most - base) / 2**20}
        for name, part in (("judged", judging), ("selected", selecting))
    }
    shown = [f"{k}: {v['rows_per_second']:,.0f} rows/s, {v['megabytes']:.0f} MB" for k, v in parts.items()]
    print(f"{rows:>9,} rows  {'   '.join(shown)}   {summary['rows']:,} left", file=sys.stderr)
    (path.parent / "measured.json").write_text(json.dumps(parts))


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("rows", nargs="*", type=int, default=[100_000, 300_000, 1_000_000])
    words.add_argument("--apart", action="store_true", help="the samples of a prompt do not stand side by side")
    words.add_argument("--recipe", type=Path, help=argparse.SUPPRESS)
    given = words.parse_args()
    if given.recipe:
        measure(given.recipe, given.rows[0])
        return
    text, number = datasets.Value("string"), datasets.Value("int64")
    features = datasets.Features(
        dict.fromkeys(("prompt", "solution", "completion", "finish_reason"), text)
        | {"tokens": number, "sample": number}
    )
    found = {}
    for rows in given.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "recipes" / "benchmark" / "select" / "million.yaml"
            path.parent.mkdir(parents=True)
            source = Path(folder) / "rows.parquet"
            shards.write_file(source, selection.batched(samples(rows, given.apart), 5000), features)
            recipe = {"datasets": [str(source)], "output_dir": f"{folder}/run"} | RECIPE
            path.write_text(yaml.safe_dump(recipe))
            environment = os.environ | {"HF_DATASETS_CACHE": f"{folder}/cache", "OMP_NUM_THREADS": "1"}
            command = [sys.executable, __file__, str(rows), "--recipe", str(path)]
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
            found[f"{rows} rows"] = json.loads((path.parent / "measured.json").read_text())
    record.store("selection", **found)


if __name__ == "__main__":
    main()
