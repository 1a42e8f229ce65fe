"""The nodes of a Slurm job: which of them train, which one runs the vLLM server, and how they exchange messages.

Every start of a job has a folder `<job>/start-N/` on a file system that all nodes share. It holds `orders/` (what the
first node asks the others to start), `errors/` (see `system.failures`) and `stop` (asks for a checkpoint).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RecipeError
from ..system.files import read_json, write_json
from ..system.network import START


@dataclass(frozen=True)
class Allocation:
    """The nodes of one start of a job, as one of them sees them.

    Args:
        start: the folder of this start.
        nodes: number of nodes.
        rank: rank of this node.
        gpus: number of GPUs that Slurm gave on each node; 0 if the job asked for none.
    """

    start: Path
    nodes: int
    rank: int
    gpus: int


def find_allocation() -> Allocation | None:
    """The allocation that this process belongs to; None outside the jobs of slurm/*.slurm."""
    if START not in os.environ:
        return None
    # Slurm 20.11 sets no SLURM_GPUS_ON_NODE in a step.
    step_gpus = [gpu for gpu in os.environ.get("SLURM_STEP_GPUS", "").split(",") if gpu]
    rank, nodes, gpus = (
        int(os.environ.get(f"SLURM_{name}") or default)
        for name, default in (("NODEID", 0), ("STEP_NUM_NODES", 1), ("GPUS_ON_NODE", len(step_gpus)))
    )
    return Allocation(Path(os.environ[START]), nodes, rank, gpus)


def send_order(start: Path, nodes: list[int], kind: str, **arguments: Any) -> None:
    """Ask nodes to start something: `run` (processes of the training) or `serve` (a vLLM server)."""
    folder = start / "orders"
    folder.mkdir(exist_ok=True)
    number = len(list(folder.glob("*.json")))
    write_json(folder / f"{number:04d}.json", {"nodes": nodes, "kind": kind, **arguments})


def read_orders(start: Path, rank: int, done: int) -> list[dict[str, Any]]:
    """All orders after the first `done`; orders for other nodes are empty."""
    paths = sorted((start / "orders").glob("[0-9]*.json"))[done:]
    return [order if rank in (order := read_json(path))["nodes"] else {} for path in paths]


def count_gpus(given: dict[str, Any]) -> tuple[int, int]:
    """GPUs of a training and of its vLLM server, by the keys of its recipe; zeros at toy size, which runs on CPU."""
    return (0, 0) if given.get("toy") else (int(given.get("gpus") or 0), int(given.get("vllm_server_gpus") or 0))


@dataclass(frozen=True)
class Layout:
    """The part that each node takes in a training, by its rank in the job.

    Args:
        trainers: the nodes whose processes train; the first one is node 0.
        server: the node that runs vLLM, which may also train; None without a server.
    """

    trainers: list[int]
    server: int | None = None


def plan_layout(where: Allocation | None, processes: int, gpus: int, server_gpus: int) -> Layout:
    """Distribute the processes of a training and its vLLM server over the nodes.

    Args:
        where: the nodes of the job; None for one machine without Slurm.
        processes: number of training processes.
        gpus: number of GPUs of the training; 0 on CPU, where every node runs the same number of processes.
        server_gpus: number of GPUs of the vLLM server; 0 without a server of its own.

    Raises:
        RecipeError: the job has too few or too many nodes.

    >>> plan_layout(Allocation(start, nodes=3, rank=0, gpus=8), processes=16, gpus=16, server_gpus=8)
    Layout(trainers=[0, 1], server=2)
    """
    nodes = where.nodes if where else 1
    server_nodes = int(server_gpus > 0)  # nodes that only serve
    if where and gpus:
        if not where.gpus:
            raise RecipeError(
                f"gpus: the recipe is for {processes} GPUs, and the job has none; add --gpus-per-node to sbatch"
            )
        if processes + server_gpus <= where.gpus:
            server_nodes = 0
        elif server_gpus > where.gpus:
            raise RecipeError(
                f"vllm_server_gpus: {server_gpus} are more than the {where.gpus} GPUs of a node, and a server "
                "runs on one node; lower it"
            )
        wanted = -(-processes // where.gpus) + server_nodes
        uneven = processes > where.gpus and processes % where.gpus > 0
        if nodes != wanted or uneven:
            raise RecipeError(_describe_mismatch(where, processes, server_gpus, wanted, uneven))
    elif nodes == 1:
        server_nodes = 0
    machines = nodes - server_nodes
    if processes % machines or processes < machines:
        raise RecipeError(
            f"processes: {processes} on {machines} nodes; every node runs the same number: use --processes "
            f"{machines} or a multiple of it, or sbatch --nodes 1"
        )
    return Layout(list(range(machines)), (nodes - 1) if server_gpus else None)


def _describe_mismatch(where: Allocation, processes: int, server_gpus: int, wanted: int, uneven: bool) -> str:
    has = f"the job has {where.nodes} node{'s' * (where.nodes > 1)} with {where.gpus} GPU{'s' * (where.gpus > 1)} each"
    server = f" and {server_gpus} for the vLLM server" if server_gpus else ""
    problem = f"gpus: the recipe is for {processes} GPUs{server}, and {has}"
    if uneven:
        return f"{problem}; every node must use the same number: choose a --gpus-per-node that divides {processes}"
    have = where.nodes * where.gpus - server_gpus
    other = ""
    if have > 0:
        change = f"times {processes / have:g}" if have <= processes else f"divided by {have / processes:g}"
        other = f", or --gpus {have} with gradient_accumulation_steps {change}, which keeps the batch size"
    return f"{problem}; use sbatch --nodes={wanted}{other}"
