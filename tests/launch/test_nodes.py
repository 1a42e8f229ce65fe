"""The layout of a training on the nodes of a job, and the orders between nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from open_r1.errors import RecipeError
from open_r1.launch import nodes, process_group
from open_r1.launch.nodes import Allocation, Layout


def allocation(count: int, gpus: int = 8) -> Allocation:
    return Allocation(Path("start"), count, 0, gpus)


@pytest.mark.parametrize(
    ("where", "processes", "gpus", "server", "expected"),
    [
        (None, 8, 8, 0, Layout([0])),
        (None, 4, 4, 2, Layout([0], 0)),
        (allocation(1), 8, 8, 0, Layout([0])),
        (allocation(4), 32, 32, 0, Layout([0, 1, 2, 3])),
        (allocation(1), 6, 6, 2, Layout([0], 0)),
        (allocation(3), 16, 16, 8, Layout([0, 1], 2)),
        (allocation(2), 8, 8, 4, Layout([0], 1)),
        (allocation(2, 0), 4, 0, 0, Layout([0, 1])),
        (allocation(2, 0), 1, 0, 1, Layout([0], 1)),
    ],
)
def test_layout(where, processes, gpus, server, expected):
    assert nodes.plan_layout(where, processes, gpus, server) == expected


@pytest.mark.parametrize(
    ("where", "processes", "gpus", "server", "message"),
    [
        (allocation(1), 32, 32, 0, "1 node with 8 GPUs each; use sbatch --nodes=4, or --gpus 8"),
        (allocation(4), 8, 8, 0, r"4 nodes with 8 GPUs each; .* --nodes=1, or --gpus 32 .*steps divided by 4"),
        (allocation(2), 12, 12, 0, "every node must use the same number"),
        (allocation(2), 8, 8, 16, "vllm_server_gpus: 16 are more than the 8 GPUs of a node"),
        (allocation(1), 8, 8, 8, "for 8 GPUs and 8 for the vLLM server, and the job has 1 node .* --nodes=2"),
        (allocation(1, 0), 8, 8, 0, "the job has none; add --gpus-per-node"),
        (allocation(2, 0), 3, 0, 0, "processes: 3 on 2 nodes"),
        (allocation(3, 0), 2, 0, 0, "processes: 2 on 3 nodes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(where, processes, gpus, server, message):
    with pytest.raises(RecipeError, match=message):
        nodes.plan_layout(where, processes, gpus, server)


def test_orders_are_read_once_and_in_order(tmp_path):
    nodes.send_order(tmp_path, [1, 2], "run", words=["a"])
    nodes.send_order(tmp_path, [2], "serve", words=["b"])
    assert [one.get("words") for one in nodes.read_orders(tmp_path, 1, 0)] == [["a"], None]
    assert [one.get("kind") for one in nodes.read_orders(tmp_path, 2, 1)] == ["serve"]


@pytest.mark.parametrize("config", ["ddp", "fsdp2", "zero2", "zero3", "cpu"])
def test_every_config_goes_over_several_machines(config):
    """One launcher on each machine, also for DeepSpeed, whose own launcher needs ssh."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    words = process_group.build_command(
        "open_r1.sft", ["--config", "r.yaml"], config, 16, process_group.Place(2, 1, "n1", 20001)
    )
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(words[3:]))
    assert (args.num_machines, args.machine_rank, args.num_processes) == (2, 1, 16)
    assert (args.main_process_ip, args.main_process_port) == ("n1", 20001)
    assert args.deepspeed_multinode_launcher == ("standard" if config.startswith("zero") else None)
