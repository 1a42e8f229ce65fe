"""The nodes of a Slurm job as its processes see them: who trains, who serves, and the folder by which they talk.

`<job>/start-N/` lies on a file system that all nodes see, one for each start of the job: `orders/` are the first
node's, `errors/` what failed (`failures`), `stop` asks for a checkpoint.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RecipeError
from ..system.files import read_json, write_json
from ..system.network import START

LOOK = 0.2  # seconds between two looks at the folder


@dataclass(frozen=True)
class Allocation:
    """The nodes of one start of a job.

    Args:
        start: its folder.
        nodes: how many.
        rank: of this one.
        gpus: that Slurm gave on each; 0 if none were asked for.
    """

    start: Path
    nodes: int
    rank: int
    gpus: int


def find_allocation() -> Allocation | None:
    """The allocation that this process is part of; None outside of slurm/*.slurm."""
    if START not in os.environ:
        return None
    listed = [gpu for gpu in os.environ.get("SLURM_STEP_GPUS", "").split(",") if gpu]  # all that Slurm 20.11 says
    rank, nodes, gpus = (
        int(os.environ.get(f"SLURM_{name}") or default)
        for name, default in (("NODEID", 0), ("STEP_NUM_NODES", 1), ("GPUS_ON_NODE", len(listed)))
    )
    return Allocation(Path(os.environ[START]), nodes, rank, gpus)


def send_order(start: Path, nodes: list[int], kind: str, **more: Any) -> None:
    """Have these nodes do something: `run` words in an environment, `serve` them, or `end`."""
    folder = start / "orders"
    folder.mkdir(exist_ok=True)
    number = len(list(folder.glob("*.json")))
    write_json(folder / f"{number:04d}.json", {"nodes": nodes, "kind": kind, **more})


def read_orders(start: Path, rank: int, done: int) -> list[dict[str, Any]]:
    """All orders after the first `done`; those for other nodes are empty."""
    paths = sorted((start / "orders").glob("[0-9]*.json"))[done:]
    return [one if rank in (one := read_json(path))["nodes"] else {} for path in paths]


@dataclass(frozen=True)
class Layout:
    """Nodes by their rank in the job.

    Args:
        trainers: whose processes form the group; the first is the first node.
        server: that runs vLLM; None if none does, a trainer's if there is room on it.
    """

    trainers: list[int]
    server: int | None = None


def plan_layout(where: Allocation | None, processes: int, gpus: int, server_gpus: int) -> Layout:
    """Where a training's processes and its server go.

    Args:
        where: the job's nodes; None is one machine.
        processes: of the training.
        gpus: 0 if it runs on CPU, and then on every node alike.
        server_gpus: of its vLLM server; 0 if it has none of its own.

    Raises:
        RecipeError: the job has more or fewer nodes than that takes.
    """
    nodes = where.nodes if where else 1
    beside = server_gpus > 0
    if where and gpus:
        if not where.gpus:
            raise RecipeError(f"gpus: this is for {processes} GPUs, and the job has none; add --gpus-per-node")
        alone = processes + server_gpus <= where.gpus
        beside = beside and not alone
        _check_server(server_gpus if beside else 0, where.gpus)
        wanted = -(-processes // where.gpus) + beside
        uneven = processes > where.gpus and processes % where.gpus
        if nodes != wanted or uneven:
            raise RecipeError(_told(where, processes, server_gpus, wanted, bool(uneven)))
    elif beside:
        beside = nodes > 1
    machines = nodes - beside
    if processes % machines or processes < machines:
        raise RecipeError(
            f"processes: {processes} on {machines} nodes; as many on each are needed: --processes {machines} (or a "
            "multiple of it), or sbatch --nodes 1"
        )
    return Layout(list(range(machines)), (nodes - 1) if server_gpus else None)


def _check_server(server_gpus: int, per_node: int) -> None:
    if server_gpus > per_node:
        raise RecipeError(
            f"vllm_server_gpus: {server_gpus} are more than the {per_node} of a node, and a server runs on one"
        )


def _told(where: Allocation, processes: int, server_gpus: int, wanted: int, uneven: bool) -> str:
    has = f"the job has {where.nodes} node{'s' * (where.nodes > 1)} with {where.gpus} GPU{'s' * (where.gpus > 1)} each"
    beside = f" and {server_gpus} for the vLLM server" if server_gpus else ""
    if uneven:
        return (
            f"gpus: this is for {processes} GPUs{beside}, and {has}, of which every node is to use as many; choose "
            "--gpus-per-node so that it divides them"
        )
    have = where.nodes * where.gpus - server_gpus
    other = ""
    if have > 0:
        change = f"times {processes / have:g}" if have <= processes else f"divided by {have / processes:g}"
        other = f", or add --gpus {have} with gradient_accumulation_steps {change}, which keeps the batch"
    return f"gpus: this is for {processes} GPUs{beside}, and {has}; ask for them by sbatch --nodes={wanted}{other}"
