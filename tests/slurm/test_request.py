"""The sbatch request of a recipe."""

from __future__ import annotations

import pytest

from open_r1.errors import RecipeError
from open_r1.slurm import commands, request

PARTITION = commands.Partition("gpu", 8, 64, 1000000, 6, None)


@pytest.mark.parametrize(
    ("asked", "gpus", "server", "expected"),
    [({}, 8, 0, (1, 8)), ({}, 32, 0, (4, 8)), ({}, 12, 0, (2, 6)), ({}, 16, 8, (3, 8)), ({"nodes": "4"}, 8, 0, (4, 2)),
     ({"nodes": "1"}, 6, 2, (1, 8)), ({"nodes": "3"}, 16, 8, (3, 8)), ({"gpus-per-node": "h100:8"}, 2, 0, (1, 8)),
     ({"gpus-per-node": "4"}, 32, 0, (8, 4))],
)  # fmt: skip
def test_the_shape_of_a_request(asked, gpus, server, expected):
    assert request.plan_nodes("r.yaml", gpus, server, PARTITION, asked) == expected


@pytest.mark.parametrize(
    ("task", "keys", "asked", "message"),
    [
        ("sft", {"gpus": 12}, {"gpus-per-node": "8"}, "every node must use the same number"),
        ("grpo", {"gpus": 8, "vllm_mode": "server", "vllm_server_gpus": 8}, {"nodes": "3"}, "use sbatch --nodes=2"),
        ("sample", {"gpus": 16}, {}, "sample runs on one node, and the nodes of gpu have 8 GPUs"),
    ],
)
def test_a_request_that_the_job_would_refuse(write_recipe, task, keys, asked, message):
    with pytest.raises(RecipeError, match=message):
        request.build_request(str(write_recipe(task, **keys)), {}, asked, PARTITION)


def test_what_a_request_takes_of_a_node(write_recipe):
    of = {
        gpus: request.build_request(str(write_recipe("sft", gpus=gpus)), {}, {}, PARTITION).options for gpus in (2, 16)
    }
    assert [of[2][key] for key in ("nodes", "gpus-per-node", "cpus-per-gpu", "mem")] == ["1", "2", "7", "237500M"]
    assert [of[16][key] for key in ("nodes", "gpus-per-node", "cpus-per-gpu", "mem")] == ["2", "8", "7", "0"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("gres=gpu:2", "--slurm.gres: the scripts use --gpus-per-node; use --slurm.gpus-per-node"),
        ("gpus=8", "--slurm.gpus: the scripts use --gpus-per-node; use --slurm.gpus-per-node"),
        ("cpus-per-task=4", "--slurm.cpus-per-task: the scripts use --cpus-per-gpu; use --slurm.cpus-per-gpu"),
        ("clusters=other", "set SLURM_CLUSTERS instead"),
    ],
)
def test_options_that_do_not_go_with_the_scripts_are_refused(word, message):
    assert request.split_options(["--slurm.gres=lustre:1"])[0] == {"gres": "lustre:1"}
    with pytest.raises(RecipeError, match=message):
        request.split_options([f"--slurm.{word}"])


def test_options_of_sbatch_are_taken_as_they_are_written():
    """YAML would make seconds of a time, which Slurm would read as minutes."""
    words = ["--seed", "7", "--slurm.time", "2:00:00", "--slurm.gpus_per_node=h100:8", "--slurm.exclusive", "--toy"]
    asked, rest = request.split_options(words)
    assert asked == {"time": "2:00:00", "gpus-per-node": "h100:8", "exclusive": None} and rest == [
        "--seed",
        "7",
        "--toy",
    ]
