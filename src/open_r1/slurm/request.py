"""What a recipe asks of Slurm: nodes, GPUs and time, from its keys and the estimate."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.loading import resolve_recipe
from ..config.overrides import format_overrides
from ..config.schema import SHARDED_TASKS, TRAINERS
from ..errors import RecipeError
from ..estimate import estimate, workload
from ..estimate.estimate import Estimate
from ..estimate.text import format_hours as in_words
from ..launch.nodes import Allocation, plan_layout
from . import commands
from .commands import Partition
from .site import LOGS, SCRIPTS

MEMORY = {"mem", "mem-per-cpu", "mem-per-gpu"}  # of which sbatch takes one
MARGIN = 1.5  # of the estimated time, which nobody has measured
LEAST, UNKNOWN, MOST = 3600, 24 * 3600, 7 * 24 * 3600  # seconds: of a request, and where the estimate does not know
STARTING = 1800  # seconds to load libraries and weights in, and to evaluate before and after
IN_OTHER_WORDS = {  # beside what the scripts' own directives ask for, sbatch refuses these, or adds them up
    "gpus": "gpus-per-node",
    "gres": "gpus-per-node",
    "gpus-per-task": "gpus-per-node",
    "cpus-per-task": "cpus-per-gpu",
}
OPTION = "--slurm."  # what options of sbatch's begin with among a recipe's


@dataclass
class Request:
    """One sbatch.

    Args:
        script: of slurm/.
        words: after it.
        options: of sbatch, by their long names; None is one without a value.
        notes: for the person who submits.
    """

    script: Path
    words: list[str]
    options: dict[str, str | None]
    notes: list[str] = field(default_factory=list)

    @property
    def line(self) -> list[str]:
        options = [f"--{key}" if value is None else f"--{key}={value}" for key, value in self.options.items()]
        return ["sbatch", *options, str(self.script), *self.words]

    def log_of(self, id: str) -> str:
        """Where a job's log is; an array's with a star for the number of its tasks."""
        log = str(self.options["output"]).replace("%x", str(self.options["job-name"]))
        return log.replace("%j", id).replace("%A", id).replace("%a", "*")

    def __str__(self) -> str:
        return shlex.join(self.line)


def split_options(words: list[str]) -> tuple[dict[str, str | None], list[str]]:
    """Options of sbatch as they are written (YAML would make seconds of `--slurm.time 2:00:00`), and the rest.

    Raises:
        RecipeError: an option that does not go with what the scripts say, or goes past Slurm's other commands.
    """
    asked: dict[str, str | None] = {}
    rest: list[str] = []
    key = None
    for word in words:
        if word.startswith(OPTION):
            name, given, value = word.removeprefix(OPTION).partition("=")
            key = name.replace("_", "-")
            asked[key] = value if given else None
        elif key is not None and not word.startswith("--") and asked[key] is None:
            asked[key] = word
        else:
            key = None
            rest.append(word)
    if "clusters" in asked:
        raise RecipeError("--slurm.clusters: set SLURM_CLUSTERS instead, which all of Slurm's commands go by")
    for key, better in IN_OTHER_WORDS.items():
        if key in asked and (key != "gres" or "gpu" in (asked[key] or "")):
            raise RecipeError(f"--slurm.{key}: the scripts ask by --{better}; use --slurm.{better}")
    return asked, rest


def build_request(
    path: str,
    changes: dict[str, Any],
    asked: dict[str, str | None],
    there: Partition,
    processes: int | None = None,
    taken: Estimate | None = None,
) -> Request:
    """The request of a recipe.

    Args:
        path: of the recipe.
        changes: overrides of its keys.
        asked: options of sbatch that stand whatever the recipe says.
        there: the partition to which it goes.
        processes: of a training on CPU, one a node.
        taken: the recipe's estimate, if it has one.

    Raises:
        RecipeError: the partition's nodes are too small, or the job would refuse this.
    """
    task, given = resolve_recipe(Path(path), changes)
    gpus = 0 if given.get("toy") else int(given.get("gpus") or 0)
    server = 0 if given.get("toy") else int(given.get("vllm_server_gpus") or 0)
    notes: list[str] = []
    nodes, per_node = shape(path, gpus, server, there, asked) if gpus else (processes or 1, 0)
    if gpus and task in TRAINERS:
        try:
            plan_layout(Allocation(Path(), nodes, 0, per_node), gpus, gpus, server)
        except RecipeError as error:
            raise RecipeError(f"{error} (for submit: --slurm.nodes, --slurm.gpus-per-node)") from None
    elif nodes > 1 and task not in TRAINERS:
        have = f", and those of {there.name} have {there.gpus} GPUs: set --gpus" if gpus else ""
        raise RecipeError(
            f"{path}: one job does it on one node{have}; more jobs share the work as an array, --array 8"
        )
    parts = Path(str(given["output_dir"])).parts[-3:]
    options: dict[str, str | None] = {
        "job-name": "-".join(parts).replace("/", "-"),
        "nodes": str(nodes),
        "gpus-per-node": str(per_node),
        **_share(per_node, there),
        "time": commands.format_time_limit(_time(taken, there, bool(gpus), notes)),
        "output": str(LOGS / ("%x-%A_%a.out" if "array" in asked else "%x-%j.out")),
    }
    script = SCRIPTS / ("sample.slurm" if task in SHARDED_TASKS else "train.slurm")
    words = [path, *format_overrides(changes)] + (["--processes", str(processes)] if processes else [])
    if MEMORY & asked.keys():
        options.pop("mem", None)
    return Request(script, words, options | asked, notes)


def shape(path: str, gpus: int, server: int, there: Partition, asked: dict[str, str | None]) -> tuple[int, int]:
    """Nodes, and GPUs on each, which is what was asked for if it was.

    Raises:
        RecipeError: no node has as many.
    """
    told = asked.get("gpus-per-node")
    number = (told or "").rpartition(":")[2]
    if told and not number.isdigit():
        raise RecipeError(f"--slurm.gpus-per-node: a number, or a type and a number as in h100:8, got {told!r}")
    most = int(number) if told else there.gpus
    if not most:
        raise RecipeError(
            f"{path}: it is for {gpus} GPUs, and nodes of the partition {there.name} have none that Slurm knows of; "
            "name another (--slurm.partition), or say how many they have (--slurm.gpus-per-node 8)"
        )
    if told and there.gpus and most > there.gpus:
        raise RecipeError(
            f"--slurm.gpus-per-node: no node of the partition {there.name} has {most} GPUs; the most is {there.gpus}"
        )
    nodes = asked.get("nodes", "")
    if nodes and not (nodes == "1" and gpus + server <= most):
        trainers = int(nodes) - (server > 0) if nodes.isdigit() else 0
        if trainers < 1 or gpus % trainers:
            raise RecipeError(f"--slurm.nodes: {gpus} GPUs cannot be shared equally by {nodes} nodes")
        return int(nodes), most if told else max(gpus // trainers, server)
    if gpus + server <= most:
        return 1, most if told else gpus + server
    if server > most:
        raise RecipeError(f"vllm_server_gpus: a server runs on one node, and those of {there.name} have {most} GPUs")
    # As many on every node, and no node is used in part.
    per_node = next(count for count in range(min(most, gpus), 0, -1) if gpus % count == 0)
    if server > per_node:
        raise RecipeError(
            f"vllm_server_gpus: a job's nodes have as many GPUs each, and {gpus} to train are {per_node} on each; "
            f"set --vllm_server_gpus {per_node}"
        )
    count = gpus // per_node + (server > 0)
    if count > there.nodes and there.gpus and not told:  # then also those with fewer will do
        raise RecipeError(
            f"{path}: it takes {count} nodes with {per_node} GPUs each, and the partition {there.name} has "
            f"{there.nodes} with {there.gpus}; name another (--slurm.partition), or fewer --gpus with more "
            "gradient_accumulation_steps"
        )
    return count, most if told else per_node


def _share(gpus: int, there: Partition) -> dict[str, str]:
    """CPUs and memory of a node that go with so many of its GPUs; two cores for what runs without."""
    if not gpus:
        return {"mincpus": "2"}
    if not there.gpus:
        return {}
    # A part of what a node says it has may be kept for the system; 0 is all that it can give.
    memory = "0" if gpus >= there.gpus else f"{int(0.95 * there.memory * gpus / there.gpus)}M"
    return {"cpus-per-gpu": str(max(1, int(0.95 * there.cpus) // there.gpus)), "mem": memory}


def estimate_request(path: str, changes: dict[str, Any]) -> Estimate | None:
    """What a recipe takes; None on a CPU, or if it runs no model."""
    given = resolve_recipe(Path(path), changes)[1]
    if given.get("toy") or not given.get("gpus"):
        return None
    recipe = workload.load_planned_recipe(path, dict(changes))
    return estimate.estimate_recipe(recipe) if estimate.needs_model(recipe) else None


def _time(taken: Estimate | None, there: Partition, on_gpu: bool, notes: list[str]) -> float:
    """Seconds to ask for; what the partition does not allow at once is done in several starts."""
    wanted: float = UNKNOWN if on_gpu else LEAST
    if on_gpu:
        if taken is not None:
            notes.append(estimate.format_headline(taken))
        hours = taken.speed.hours if taken is not None and taken.speed is not None else None
        if hours is None:
            notes.append("how long it takes is not known; it goes on by itself if the time is not enough")
        else:
            notes.append(f"about {in_words(hours)} by assumed rates, asked for with a margin")
            wanted = max(LEAST, MARGIN * 3600 * hours + STARTING)
    wanted = 600 * -(-wanted // 600)
    most = MOST if there.limit is None else min(there.limit, MOST)
    if wanted > most:
        notes.append(
            f"{commands.format_time_limit(most)} at a time ({there.name}): then it writes a checkpoint and is queued "
            "again, as often as it takes"
        )
    return min(wanted, most)
