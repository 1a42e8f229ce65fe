"""Seconds from a command to its first optimizer step, and between steps, of `open-r1 train` against TRL's own scripts.

    python benchmarks/startup.py [--rounds 3] [--steps 40] [--output FILE]

The commands are what users type: `open-r1 train recipe.yaml`, and `python -m trl.scripts.sft` or `... .grpo` with
`--config`. Model, rows and trainer's arguments are those of overhead.py, the same for both: a Qwen2 of 0.3 million
parameters and files on disk, so that what is measured is the way there. Ours also checks the recipe, the data and the
rewards and opens a run directory on that way. The first step has ended when its line is there: in metrics.jsonl of
ours, on the output of TRL's. The seconds of a step are the mean from the fifth step's line to the last one's, a
checkpoint, a report and the model's card left out. Printed: medians over rounds, ours and TRL's in turn, and the
median of their ratios. Set OMP_NUM_THREADS. On a machine that others use as well, the CPU seconds of the whole command
(ours with its report), which are printed beside the clock's, are the steadier figure.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import overhead
import record

WARM_UP = 5  # steps before the time between steps counts
ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1",
    "PYTHONPATH": str(Path(__file__).parent),
}  # fmt: skip


def command(side: str, task: str, recipe: Path) -> list[str]:
    if side == "ours":
        return [str(Path(sys.executable).with_name("open-r1")), "train", str(recipe)]
    return [sys.executable, "-m", f"trl.scripts.{task}", "--config", str(recipe)]


def measure(side: str, task: str, recipe: Path, folder: Path, steps: int) -> dict[str, float]:
    """One run, in seconds: to the first step, of a step, and of CPU for all of it."""
    used, began, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.time(), []
    with (folder / "errors.log").open("w") as errors:
        process = subprocess.Popen(
            command(side, task, recipe), env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            if side == "trl" and line.startswith("{") and "'loss'" in line:
                ended.append(time.time() - began)
        process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if side == "ours":
        ended = written(folder / f"run_ours_{task}" / "metrics.jsonl", began)
    if process.returncode or len(ended) != steps:
        sys.exit((folder / "errors.log").read_text() + f"\n{side} {task}: {len(ended)} steps of {steps} were seen")
    return {
        "first_step": ended[0],
        "step": (ended[-1] - ended[WARM_UP - 1]) / (steps - WARM_UP),
        "cpu": after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime,
    }


def written(metrics: Path, began: float) -> list[float]:
    """When our steps ended: the file's time is that of its last line, and the lines say how far apart they are.

    They count from the start of the process, which Linux tells to a second only.
    """
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    last = metrics.stat().st_mtime - began
    return [last - (rows[-1]["seconds"] - row["seconds"]) for row in rows if "loss" in row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    machine = record.machine() | {"shared": "beside other jobs; ratios count, not seconds"}
    print(f"{machine['gpus'] or machine['cpu']}, {machine['threads']} threads, load {machine['load']}")
    shown = {"first_step": "to the first step (s)", "step": "a step (ms)", "cpu": "CPU of the command (s)"}
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipes = overhead.prepare(folder, arguments.steps)
        for task in overhead.TASKS:
            found: dict[str, list[dict[str, float]]] = {"ours": [], "trl": []}
            for _ in range(arguments.rounds):
                for side, runs in found.items():
                    runs.append(measure(side, task, recipes[side, task], folder, arguments.steps))
            results[task] = {}
            print(f"{task:5}{'':24}{'ours':>9}{'TRL':>9}{'ours / TRL':>12}")
            for key, told in shown.items():
                ours, trl = ([run[key] for run in found[side]] for side in ("ours", "trl"))
                ratio = statistics.median(a / b for a, b in zip(ours, trl, strict=True))
                results[task][key] = {"ours": record.told(ours), "trl": record.told(trl), "ratio": ratio}
                times = 1000 if key == "step" else 1
                a, b = statistics.median(ours) * times, statistics.median(trl) * times
                print(f"     {told:24}{a:9.1f}{b:9.1f}{ratio:12.2f}", flush=True)
    content = {
        "machine": machine, "rounds": arguments.rounds, "steps": arguments.steps, "model": overhead.MODEL,
        "arguments": overhead.COMMON, "tasks": overhead.TASKS, "seconds": results,
    }  # fmt: skip
    print(record.write("startup", content, arguments.output))


if __name__ == "__main__":
    main()
