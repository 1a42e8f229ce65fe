"""What slurm/train.slurm adds to a training: seconds from sbatch to the first step, and of each link of a chain.

    python benchmarks/slurm_jobs.py [--rounds 3] [--output FILE]

On the Slurm that `sbatch` reaches; on a machine without, where the tests can start one, on theirs (two nodes of this
machine, with the shortest delays that Slurm allows). On two nodes, CPU, DDP, one process on each:

- first step: `sbatch slurm/train.slurm RECIPE --processes 2`, against a script as accelerate's documentation has it,
  `srun accelerate launch` of TRL's own sft script with the rank of the task; the same model, rows and arguments
  (overhead.py). A step has ended when its line is there.
- curve: the losses of the two nodes against those of one process with the whole batch.
- chain: one job that is told to stop twice by the signal before the limit, against the same job left alone, on one
  node: what each start costs beside the steps, and how much of that is Slurm's own delay.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import overhead
import record
import yaml

from open_r1.slurm import commands
from open_r1.system.files import read_jsonl

ROOT = Path(__file__).parents[1]
ENDED_BADLY = set(commands.FINAL) - {"COMPLETED"}
CURVE_STEPS, CHAIN_STEPS, STOPS = 40, 200, (60, 120)
BY_HAND = """#!/bin/bash
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun bash -c '{python} -m accelerate.commands.launch --config_file recipes/accelerate_configs/cpu.yaml \\
    --num_machines 2 --num_processes 2 --machine_rank $SLURM_PROCID --main_process_ip $MASTER_ADDR \\
    --main_process_port 29511 -m trl.scripts.sft --config {recipe}'
"""


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of commands of Slurm's."""
    around = os.environ | {
        "OPEN_R1_JOBS": str(folder / "jobs"), "OPEN_R1_PYTHON": sys.executable, "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    if subprocess.run(["sinfo"], capture_output=True).returncode == 0:
        yield around
        return
    sys.path.insert(0, str(ROOT / "tests" / "slurm"))
    from cluster import Cluster

    with Cluster(folder / "cluster") as slurm:
        yield around | {name: slurm.environment[name] for name in ("PATH", "SLURM_CONF")}


class Jobs:
    """Jobs of this benchmark.

    Args:
        folder: of their logs.
        around: their environment.
    """

    def __init__(self, folder: Path, around: dict[str, str]):
        self.folder, self.around = folder, around

    def submit(self, *words: object) -> str:
        given = ["sbatch", "--parsable", f"--output={self.folder}/%j.log", "--open-mode=append", *map(str, words)]
        done = subprocess.run(given, cwd=ROOT, env=self.around, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return done.stdout.strip()

    def until(self, there: Callable[[], bool], id: str) -> float:
        """Seconds until something has happened."""
        began = looked = time.time()
        while not there():
            # Seldom: asking Slurm costs the processes that are measured.
            if time.time() - looked > 2:
                looked = time.time()
                if self.state(id) in ENDED_BADLY:
                    sys.exit(self.log(id))
            time.sleep(0.05)
        return time.time() - began

    def state(self, id: str) -> str:
        told = subprocess.run(["scontrol", "show", "job", id], env=self.around, capture_output=True, text=True).stdout
        return re.findall(r"JobState=(\w+)", told)[0]

    def finish(self, id: str) -> None:
        while (state := self.state(id)) != "COMPLETED":
            if state in ENDED_BADLY:
                sys.exit(self.log(id))
            time.sleep(0.5)

    def log(self, id: str) -> str:
        path = self.folder / f"{id}.log"
        return path.read_text(errors="replace") if path.exists() else ""


def losses(run: Path) -> list[float]:
    path = run / "metrics.jsonl"
    rows = read_jsonl(path) if path.exists() else []
    return [row["loss"] for row in rows if "loss" in row]


def first_step(jobs: Jobs, folder: Path, side: str) -> float:
    """Seconds from sbatch to the end of the first step, on two nodes."""
    recipe = folder / f"{side}_sft.yaml"
    if side == "ours":
        run = folder / "run_ours_sft"
        shutil.rmtree(run, ignore_errors=True)
        words = ["--nodes=2", "--gpus-per-node=0", "slurm/train.slurm", recipe, "--processes", 2]
        return finished_step(jobs, words, lambda id: bool(losses(run)))
    script = folder / "by_hand.slurm"
    script.write_text(BY_HAND.format(python=sys.executable, recipe=recipe))
    return finished_step(jobs, ["--nodes=2", "--ntasks-per-node=1", script], lambda id: "'loss'" in jobs.log(id))


def finished_step(jobs: Jobs, words: list[object], there: Callable[[str], bool]) -> float:
    began = time.time()
    id = jobs.submit(*words)
    jobs.until(lambda: there(id), id)
    took = time.time() - began
    jobs.finish(id)
    return took


def curve(jobs: Jobs, folder: Path) -> dict[str, Any]:
    """Losses of two nodes and of one process."""
    written = yaml.safe_load((folder / "ours_sft.yaml").read_text())
    found = {}
    for name, nodes, size in (("one_process", 1, 16), ("two_nodes", 2, 8)):
        keys = {"per_device_train_batch_size": size, "max_steps": CURVE_STEPS, "train_sampling_strategy": "sequential"}
        recipe = folder / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(written | keys | {"output_dir": str(folder / name), "learning_rate": 1e-3}))
        more = ["--processes", 2] if nodes > 1 else []
        jobs.finish(jobs.submit(f"--nodes={nodes}", "--gpus-per-node=0", "slurm/train.slurm", recipe, *more))
        found[name] = losses(folder / name)
    apart = max(abs(a - b) for a, b in zip(*found.values(), strict=True))
    return found | {"largest_difference": apart}


def chain(jobs: Jobs, folder: Path) -> dict[str, Any]:
    """Seconds of one long job and of a chain of three, and what was between their starts."""
    written = yaml.safe_load((folder / "ours_grpo.yaml").read_text())
    took = {}
    for name, stops in (("long", ()), ("chain", STOPS)):
        recipe = folder / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(written | {"max_steps": CHAIN_STEPS, "output_dir": str(folder / name)}))
        began = time.time()
        id = jobs.submit("--nodes=1", "--gpus-per-node=0", "slurm/train.slurm", recipe)
        for step in stops:
            jobs.until(lambda run=folder / name, step=step: len(losses(run)) >= step, id)
            subprocess.run(["scancel", "--batch", "--signal=USR1", id], env=jobs.around, check=True)
        jobs.finish(id)
        took[name] = time.time() - began
    stamps = re.findall(r"^(\S+ \S+) (?:requeued|job \S+ start [12])", jobs.log(id).replace("\r", "\n"), re.MULTILINE)
    at = [time.mktime(time.strptime(stamp, "%Y-%m-%d %H:%M:%S")) for stamp in stamps]
    waited = sum(b - a for a, b in zip(at[::2], at[1::2], strict=True))
    a, b = (losses(folder / name) for name in took)
    return took | {
        "starts": 1 + len(STOPS),
        "of_each_link": (took["chain"] - took["long"]) / len(STOPS),
        "of_that_slurms_delay": waited / len(STOPS),
        "equal_losses": a == b,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    machine = record.machine() | {"shared": "beside other jobs; ratios count, not seconds"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        overhead.prepare(folder, 10)
        with cluster(folder) as around:
            paths = (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))
            jobs = Jobs(folder, around | {"PYTHONPATH": os.pathsep.join(filter(None, paths))})
            found: dict[str, list[float]] = {"ours": [], "by_hand": []}
            for _ in range(arguments.rounds):
                found["ours"].append(first_step(jobs, folder, "ours"))
                found["by_hand"].append(first_step(jobs, folder, "trl"))
            ratio = statistics.median(a / b for a, b in zip(*found.values(), strict=True))
            a, b = (statistics.median(values) for values in found.values())
            print(f"sbatch to the first step: {a:.1f} s, by hand {b:.1f} s, ours / by hand {ratio:.2f}", flush=True)
            curves = curve(jobs, folder)
            apart = curves["largest_difference"]
            print(
                f"losses of two nodes and of one process: {apart:.1e} apart at most in {CURVE_STEPS} steps", flush=True
            )
            links = chain(jobs, folder)
            print(
                f"{CHAIN_STEPS} steps as {links['starts']} jobs {links['chain']:.1f} s, as one {links['long']:.1f} s: "
                f"{links['of_each_link']:.1f} s a link, {links['of_that_slurms_delay']:.1f} s of them Slurm's delay; "
                f"the same losses: {links['equal_losses']}"
            )
    content = {"machine": machine, "rounds": arguments.rounds, "model": overhead.MODEL, "tasks": overhead.TASKS}
    first = {side: record.told(values) for side, values in found.items()} | {"ratio": ratio}
    content |= {"first_step": first, "curve": curves, "chain": links}
    print(record.write("slurm_jobs", content, arguments.output))


if __name__ == "__main__":
    main()
