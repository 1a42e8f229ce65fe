"""Judging stored completions: an evaluation's whole second half against Math-Verify alone.

    python benchmarks/evaluation.py [--data DIR] [--rows 100000] [--alone N]

Real responses of R1 and of a distilled Qwen to GSM8K and MATH, as many samples of each problem as make up `--rows`;
every second one ends in another boxed number, so that answers vary and nothing is right twice for free. Ours reads the
completions from parquet, judges them, finds the votes, the format and the language, writes the verdicts, reads them
back and computes all figures with their intervals. Math-Verify alone parses each completion and its gold and compares
them, one after the other, of texts that are in memory already (`--alone` of them, the rate is what is told). One run.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import record
from math_rewards import real_rows

from open_r1 import evaluate
from open_r1.config.schema import BenchmarkConfig, DatasetConfig
from open_r1.data import shards
from open_r1.data.shards import Shards
from open_r1.evaluation import metrics
from open_r1.evaluation.problems import Sets, load_problems
from open_r1.rewards import registry

PER_FILE = 32  # problems


def stored(rows: list[tuple[str, str]], k: int, folder: Path) -> Sets:
    """The problems, and files of `k` completions of each as `evaluate` writes them."""
    problems = [{"id": i, "prompt": f"problem {i}", "solution": gold} for i, (_, gold) in enumerate(rows)]
    source = folder / "problems.parquet"
    datasets.Dataset.from_list(problems).to_parquet(str(source))
    benchmark = BenchmarkConfig("stored", [DatasetConfig(str(source))], k=k)
    sets = Sets([load_problems(benchmark, 0)], 0)
    files, rng = Shards(folder / "data", len(sets), PER_FILE), random.Random(0)
    for number in range(files.count):
        made = [completion(i, n, rows[i][0], rng) for i in files.range(number) for n in range(k)]
        shards.write_file(files.path(number), [made], evaluate.COLUMNS)
    return sets


def completion(problem: int, sample: int, text: str, rng: random.Random) -> dict[str, Any]:
    if sample % 2:
        text += f"\n\nOn second thought, the answer is $\\boxed{{{rng.randrange(10**6)}}}$."
    own = {"benchmark": "stored", "problem": str(problem), "row": problem, "sample": sample, "completion": text}
    return own | {"tokens": len(text) // 4, "finish_reason": "stop", "model": "stored"}


def ours(sets: Sets, folder: Path) -> tuple[float, float, dict[str, Any]]:
    """Seconds of judging and of all figures, and the figures."""
    completions = Shards(folder / "data", len(sets), PER_FILE)
    verdicts = Shards(folder / "judged", len(sets), PER_FILE)
    this: Any = SimpleNamespace(recipe=SimpleNamespace(run=SimpleNamespace(max_error_share=1.0)))
    began = time.perf_counter()
    for number in range(completions.count):
        evaluate.judge(this, sets, completions, verdicts, number)
    judged = time.perf_counter()
    of_problem: dict[int, list[dict[str, Any]]] = {}
    for batch in shards.read_folder(folder / "judged"):
        for row in batch:
            of_problem.setdefault(row["row"], []).append(row)
    told = metrics.compute_figures(list(of_problem.values()), ["pass@1", "pass@8", f"maj@{sets.sets[0].benchmark.k}"])
    return judged - began, time.perf_counter() - judged, told


def alone(rows: list[tuple[str, str]], count: int) -> list[float]:
    """Seconds that Math-Verify takes for each of `count` completions."""
    from math_verify import parse, verify

    logging.disable(logging.ERROR)  # it logs every limit it reaches
    rng, seconds = random.Random(0), []
    for i in range(count):
        text, gold = rows[i % len(rows)]
        text = completion(0, i, text, rng)["completion"]
        began = time.perf_counter()
        verify(parse(f"${gold}$"), parse(text))
        seconds.append(time.perf_counter() - began)
    logging.disable(logging.NOTSET)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--alone", type=int, default=20_000)
    arguments = parser.parse_args()
    rows = real_rows(arguments.data)
    k = -(-arguments.rows // len(rows))
    with tempfile.TemporaryDirectory() as folder:
        sets = stored(rows, k, Path(folder))
        judging, figuring, told = ours(sets, Path(folder))
    count = told["samples"]
    shown = f"{count:,} completions ({len(rows):,} problems, {k} samples), {os.cpu_count()} cores"
    print(f"{shown}, grader {registry.version('accuracy')}")
    print(f"ours: judged in {judging:.1f} s ({count / judging:,.0f} a second), figures in {figuring:.1f} s")
    print({name: figure["value"] for name, figure in told["metrics"].items()}, told["shares"]["unknown"])
    seconds = alone(rows, arguments.alone)
    mean, median = statistics.mean(seconds), statistics.median(seconds)
    whole = mean * count
    record.store(
        "evaluation", completions=count, judging_seconds=judging, figures_seconds=figuring, alone_minutes=whole / 60,
        ratio=whole / (judging + figuring),
    )  # fmt: skip
    print(
        f"Math-Verify alone: {sum(seconds):.1f} s for {len(seconds):,} (median {1000 * median:.2f} ms, mean "
        f"{1000 * mean:.2f} ms), so {whole:.0f} s for {count:,}: {whole / (judging + figuring):.1f} times ours"
    )


if __name__ == "__main__":
    main()
