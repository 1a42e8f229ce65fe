"""The sbatch request of a recipe: nodes, GPUs, memory and time, from its keys and its estimate."""

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
from ..estimate.text import format_hours
from ..launch.nodes import Allocation, count_gpus, plan_layout
from . import commands
from .commands import Partition
from .site import LOGS, SCRIPTS

MEMORY = {"mem", "mem-per-cpu", "mem-per-gpu"}  # options of sbatch that exclude each other
MARGIN = 1.5  # times the estimated time, because the rates of the estimate are assumed
LEAST, UNKNOWN, MOST = 3600, 24 * 3600, 7 * 24 * 3600  # seconds of a request; UNKNOWN without an estimate
STARTING = 1800  # seconds to load libraries and weights, and to evaluate before and after
REPLACED = {  # sbatch refuses these options beside the directives of the scripts, or adds them up
    "gpus": "gpus-per-node",
    "gres": "gpus-per-node",
    "gpus-per-task": "gpus-per-node",
    "cpus-per-task": "cpus-per-gpu",
}
OPTION = "--slurm."  # prefix of sbatch options on the command line


@dataclass
class Request:
    """A call of sbatch.

    Args:
        script: script in slurm/.
        words: arguments of the script.
        options: options of sbatch by their long names; None for an option without a value.
        notes: lines for the person who submits.
    """

    script: Path
    words: list[str]
    options: dict[str, str | None]
    notes: list[str] = field(default_factory=list)

    @property
    def line(self) -> list[str]:
        """The command, as a list of words."""
        options = [f"--{key}" if value is None else f"--{key}={value}" for key, value in self.options.items()]
        return ["sbatch", *options, str(self.script), *self.words]

    def find_log(self, id: str) -> str:
        """The path of a job's log; for an array a pattern, with a star for the number of the task."""
        log = str(self.options["output"]).replace("%x", str(self.options["job-name"]))
        return log.replace("%j", id).replace("%A", id).replace("%a", "*")

    def __str__(self) -> str:
        return shlex.join(self.line)


def split_options(words: list[str]) -> tuple[dict[str, str | None], list[str]]:
    """Split off the sbatch options, without parsing their values (in YAML `2:00:00` is a number of seconds).

    Raises:
        RecipeError: an option that conflicts with the directives of the scripts, or with the other commands of Slurm.

    >>> split_options(["--seed", "7", "--slurm.time", "2:00:00", "--slurm.exclusive"])
    ({'time': '2:00:00', 'exclusive': None}, ['--seed', '7'])
    """
    options: dict[str, str | None] = {}
    rest: list[str] = []
    key = None
    for word in words:
        if word.startswith(OPTION):
            name, given, value = word.removeprefix(OPTION).partition("=")
            key = name.replace("_", "-")
            options[key] = value if given else None
        elif key is not None and not word.startswith("--") and options[key] is None:
            options[key] = word
        else:
            key = None
            rest.append(word)
    if "clusters" in options:
        raise RecipeError("--slurm.clusters: set SLURM_CLUSTERS instead, which all commands of Slurm use")
    for key, better in REPLACED.items():
        if key in options and (key != "gres" or "gpu" in (options[key] or "")):
            raise RecipeError(f"--slurm.{key}: the scripts use --{better}; use --slurm.{better}")
    return options, rest


def build_request(
    path: str,
    changes: dict[str, Any],
    options: dict[str, str | None],
    partition: Partition,
    processes: int | None = None,
    estimated: Estimate | None = None,
) -> Request:
    """The request of a recipe.

    Args:
        path: path of the recipe.
        changes: overrides of its keys.
        options: options of sbatch, which override those derived from the recipe.
        partition: partition of the job.
        processes: number of processes of a training on CPU, one on each node.
        estimated: estimate of the recipe, if there is one.

    Raises:
        RecipeError: the nodes of the partition are too small, or the job would refuse these nodes.
    """
    task, given = resolve_recipe(Path(path), changes)
    gpus, server = count_gpus(given)
    notes: list[str] = []
    nodes, per_node = plan_nodes(path, gpus, server, partition, options) if gpus else (processes or 1, 0)
    if gpus and task in TRAINERS:
        try:
            plan_layout(Allocation(Path(), nodes, 0, per_node), gpus, gpus, server)
        except RecipeError as error:
            raise RecipeError(f"{error} (with submit: --slurm.nodes, --slurm.gpus-per-node)") from None
    elif nodes > 1 and task not in TRAINERS:
        have = f", and the nodes of {partition.name} have {partition.gpus} GPUs: set --gpus" if gpus else ""
        raise RecipeError(f"{path}: {task} runs on one node{have}; --array 8 shares the work between 8 jobs")
    parts = Path(str(given["output_dir"])).parts[-3:]
    derived: dict[str, str | None] = {
        "job-name": "-".join(parts).replace("/", "-"),
        "nodes": str(nodes),
        "gpus-per-node": str(per_node),
        **_share_node(per_node, partition),
        "time": commands.format_time_limit(_choose_time(estimated, partition, bool(gpus), notes)),
        "output": str(LOGS / ("%x-%A_%a.out" if "array" in options else "%x-%j.out")),
    }
    script = SCRIPTS / ("sample.slurm" if task in SHARDED_TASKS else "train.slurm")
    words = [path, *format_overrides(changes)] + (["--processes", str(processes)] if processes else [])
    if MEMORY & options.keys():
        derived.pop("mem", None)
    return Request(script, words, derived | options, notes)


def plan_nodes(
    path: str, gpus: int, server: int, partition: Partition, options: dict[str, str | None]
) -> tuple[int, int]:
    """The number of nodes, and of GPUs on each; explicit `nodes` and `gpus-per-node` are kept.

    Args:
        path: path of the recipe, for messages.
        gpus, server: number of GPUs of the training, and of its vLLM server.
        partition, options: as in `build_request`.

    Raises:
        RecipeError: the nodes of the partition are too few or too small.
    """
    chosen = options.get("gpus-per-node")
    number = (chosen or "").rpartition(":")[2]
    if chosen and not number.isdigit():
        raise RecipeError(
            f"--slurm.gpus-per-node: expected a number, or a type and a number as in h100:8, got {chosen!r}"
        )
    most = int(number) if chosen else partition.gpus
    if not most:
        raise RecipeError(
            f"{path}: the recipe is for {gpus} GPUs, and Slurm lists no GPUs for the partition {partition.name}; "
            "choose another (--slurm.partition), or give their number on a node (--slurm.gpus-per-node 8)"
        )
    if chosen and partition.gpus and most > partition.gpus:
        raise RecipeError(
            f"--slurm.gpus-per-node: no node of the partition {partition.name} has {most} GPUs; the most is "
            f"{partition.gpus}"
        )
    nodes = options.get("nodes", "")
    if nodes and not (nodes == "1" and gpus + server <= most):
        trainers = int(nodes) - (server > 0) if nodes.isdigit() else 0
        if trainers < 1 or gpus % trainers:
            raise RecipeError(f"--slurm.nodes: {gpus} GPUs cannot be shared equally by {nodes} nodes")
        return int(nodes), most if chosen else max(gpus // trainers, server)
    if gpus + server <= most:
        return 1, most if chosen else gpus + server
    # The same number on every node, and no node in part.
    per_node = next(count for count in range(min(most, gpus), 0, -1) if gpus % count == 0)
    if server > per_node:
        raise RecipeError(
            f"vllm_server_gpus: all nodes of a job have the same number of GPUs, {per_node} for a training on {gpus}; "
            f"set --vllm_server_gpus {per_node}"
        )
    count = gpus // per_node + (server > 0)
    if count > partition.nodes and partition.gpus and not chosen:  # a chosen number may count on smaller nodes too
        raise RecipeError(
            f"{path}: it takes {count} nodes with {per_node} GPUs each, and the partition {partition.name} has "
            f"{partition.nodes} with {partition.gpus}; choose another (--slurm.partition), or fewer --gpus with more "
            "gradient_accumulation_steps"
        )
    return count, most if chosen else per_node


def _share_node(gpus: int, partition: Partition) -> dict[str, str]:
    """The options for CPUs and memory, in proportion to the GPUs of a node; two cores without GPUs."""
    if not gpus:
        return {"mincpus": "2"}
    if not partition.gpus:
        return {}
    # 5% may be reserved for the system. `--mem=0` asks for all the memory of a node.
    memory = "0" if gpus >= partition.gpus else f"{int(0.95 * partition.memory * gpus / partition.gpus)}M"
    return {"cpus-per-gpu": str(max(1, int(0.95 * partition.cpus) // partition.gpus)), "mem": memory}


def estimate_request(path: str, changes: dict[str, Any]) -> Estimate | None:
    """The estimate of a recipe; None on a CPU, or if the recipe runs no model."""
    if not count_gpus(resolve_recipe(Path(path), changes)[1])[0]:
        return None
    recipe = workload.load_planned_recipe(path, dict(changes))
    return estimate.estimate_recipe(recipe) if estimate.needs_model(recipe) else None


def _choose_time(estimated: Estimate | None, partition: Partition, on_gpu: bool, notes: list[str]) -> float:
    """The seconds of a request. A run that takes longer than the partition allows is requeued at the limit."""
    wanted: float = UNKNOWN if on_gpu else LEAST
    if on_gpu:
        if estimated is not None:
            notes.append(estimate.format_headline(estimated))
        hours = estimated.speed.hours if estimated is not None and estimated.speed is not None else None
        if hours is None:
            notes.append("the duration is not known; a run that reaches the time limit is requeued and continues")
        else:
            notes.append(f"about {format_hours(hours)} by assumed rates; the request has a margin")
            wanted = max(LEAST, MARGIN * 3600 * hours + STARTING)
    wanted = 600 * -(-wanted // 600)
    most = MOST if partition.limit is None else min(partition.limit, MOST)
    if wanted > most:
        notes.append(
            f"{commands.format_time_limit(most)} at a time ({partition.name}): at the limit the run writes a "
            "checkpoint, and the job is requeued until it is done"
        )
    return min(wanted, most)
