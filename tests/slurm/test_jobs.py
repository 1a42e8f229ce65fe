"""Jobs of a real Slurm on two nodes: what they compute, how they stop and go on, and what they say when they fail."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import ROOT, path_with
from safetensors.torch import load_file
from support import cluster, warm

from open_r1.run import checkpoints
from open_r1.system.files import is_finished, read_json, read_status

pytest_plugins = ["support.login"]
pytestmark = pytest.mark.skipif(cluster.missing() is not None, reason=f"no Slurm here: {cluster.missing()}")

TRAIN = "slurm/train.slurm"
SFT = {"learning_rate": 1e-3, "train_sampling_strategy": "sequential", "save_strategy": "steps", "save_steps": 2}
# Steps that take some seconds while a file is there, to be stopped between.
SLOW = [{"name": "lively_reward:even_length_after_a_while"}, {"name": "think_format"}]


@pytest.fixture
def slow(tmp_path):
    """While this file is there, each completion takes so many seconds to be judged."""
    path = tmp_path / "slow"
    path.write_text("1")
    return path


def train_here(recipe: Path, out: Path) -> None:
    """One process on this machine, without Slurm."""
    done = warm.run(
        ["-m", "open_r1.cli", "train", recipe, "--output_dir", out],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": path_with(ROOT / "tests" / "support" / "scripts")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def rows(run_dir: Path) -> list[dict]:
    timed = ("seconds", "step_time", "runtime", "per_second", "total_flos", "train_loss")
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not any(t in k for t in timed)} for row in found]


def last_step(run_dir: Path) -> int:
    return rows(run_dir)[-1]["step"] if (run_dir / "metrics.jsonl").is_file() and rows(run_dir) else 0


def test_two_nodes_are_one_training_also_after_a_power_cut(site, write_recipe, tmp_path):
    """Losses and weights are those of one process; a node that dies costs the steps since the last checkpoint."""
    steps = {"max_steps": 40, "datasets": [{"path": "open_r1.tiny.problems:pretraining", "args": {"rows": 640}}]}
    one = write_recipe("sft", "one", per_device_train_batch_size=8, **SFT | steps)
    two = write_recipe("sft", "two", per_device_train_batch_size=4, **SFT | steps)
    out = tmp_path / "two"
    id = site.sbatch("--nodes=2", TRAIN, two, "--processes", 2, "--output_dir", out)
    site.until((out / "checkpoint-4" / checkpoints.MANIFEST).is_file, id)
    site.slurm.power_off("n2")
    site.until(lambda: site.slurm.job(id)["JobState"] == "PENDING", id)
    # What is left of a checkpoint that was being written.
    whole = checkpoints.last_whole_checkpoint(out)
    torn = out / "checkpoint-39"
    shutil.copytree(whole, torn)
    (torn / "model.safetensors").write_bytes(b"half")
    site.slurm.power_on("n2")
    job = site.done(id)
    log = site.log(id)
    assert job["Restarts"] == "1" and f"resuming from {whole}" in log
    assert f"{torn} was not completely written; it is removed" in log
    assert read_json(out / "environment.json")["processes"] == 2
    train_here(one, tmp_path / "one")
    both = [[row["loss"] for row in rows(path) if "loss" in row] for path in (tmp_path / "one", out)]
    assert len(both[0]) == 40 and both[1] == pytest.approx(both[0], abs=1e-4)
    first, second = (load_file(path / "model" / "model.safetensors") for path in (tmp_path / "one", out))
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-4, rtol=0)


def test_a_chain_of_short_jobs_is_one_long_job(site, write_recipe, slow, tmp_path):
    """Stopped by the limit, then by the same signal by hand: weights, metrics and completions are the same."""
    keys = {"max_steps": 120, "learning_rate": 1e-3, "steps_per_generation": 2, "num_iterations": 2}
    recipe = write_recipe("grpo", "chain", rewards=SLOW, **keys)
    slow.write_text("3")  # all of the steps would take longer than the limit
    train_here(recipe, tmp_path / "long")
    out = tmp_path / "chain"
    # Slurm looks each half minute at what will reach its limit: the signal comes after 30 to 60 s.
    limit = ("--time=2", "--signal=B:USR1@60")
    id = site.sbatch("--nodes=1", *limit, TRAIN, recipe, "--output_dir", out, SLOW_WHILE=str(slow))
    site.until(lambda: site.slurm.job(id)["Restarts"] == "1", id)
    by_limit = last_step(out)
    assert by_limit > 0, "it had begun"
    site.until(lambda: last_step(out) > by_limit, id)
    site.slurm.run("scancel", "--batch", "--signal=USR1", id)
    slow.unlink()
    job = site.done(id)
    assert job["Restarts"] == "2"
    log = site.log(id)
    assert log.count("stopped with a checkpoint") == 2 == len(re.findall(f"starts again: {out} from checkpoint-", log))
    assert log.count("resuming from") == 2 and [f"start {i}, on n" in log for i in range(3)] == [True] * 3
    long, short = (load_file(path / "model" / "model.safetensors") for path in (tmp_path / "long", out))
    assert all(long[name].equal(short[name]) for name in long)
    assert rows(tmp_path / "long") == rows(out)
    files = sorted((tmp_path / "long" / "completions").glob("*.parquet"))
    assert len(files) > 2
    for file in files:
        pd.testing.assert_frame_equal(pd.read_parquet(file), pd.read_parquet(out / "completions" / file.name))


@pytest.mark.long
def test_a_step_longer_than_the_notice_is_repeated(site, write_recipe, slow, tmp_path):
    slow.write_text("0")
    recipe = write_recipe("grpo", rewards=SLOW, max_steps=400, save_strategy="steps", save_steps=2)
    out = tmp_path / "run"
    id = site.sbatch("--nodes=1", "--time=1", "--signal=B:USR1@40", TRAIN, recipe, SLOW_WHILE=str(slow))
    site.until((out / "checkpoint-2" / checkpoints.MANIFEST).is_file, id)
    slow.write_text("300")
    site.until(lambda: site.slurm.job(id)["Restarts"] == "1", id)
    slow.unlink()
    site.until(lambda: "resuming from" in site.log(id), id)
    site.slurm.run("scancel", id)
    site.done(id, "CANCELLED")
    assert "it has not stopped by itself so shortly before the limit" in site.log(id)
    assert f"starts again: {out} from checkpoint-" in site.log(id)


def test_a_preempted_job_makes_way_with_a_checkpoint_and_goes_on(site, write_recipe, slow, tmp_path):
    """Its two processes stop after the same step, neither before the checkpoint is whole."""
    out = tmp_path / "run"
    recipe = write_recipe("grpo", rewards=SLOW, max_steps=12)
    id = site.sbatch("--nodes=1", "--exclusive", TRAIN, recipe, "--processes", 2, SLOW_WHILE=str(slow))
    site.until((out / "metrics.jsonl").is_file, id)
    urgent = site.slurm.submit("--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    site.done(urgent)
    slow.unlink()
    job = site.done(id)
    log = site.log(id)
    assert job["Restarts"] == "1" and "stopped with a checkpoint" in log and "resuming from" in log
    assert is_finished(out)


def test_the_first_error_is_on_top_and_ends_the_job_at_once(site, write_recipe, tmp_path):
    recipe = write_recipe("sft", datasets=[{"path": "lively_reward:rows_not_on_n2", "args": {"rows": 64}}])
    id = site.sbatch("--nodes=2", TRAIN, recipe, "--processes", 2)
    site.done(id, "FAILED", 90)
    top, *rest = site.log(id).splitlines()
    assert top.startswith("n2, rank 1, ") and top.endswith("OSError: the disk of n2 is on fire")
    assert "Traceback" in "\n".join(rest[:3]) and "after it 1 more failed" in "\n".join(rest)


def test_a_process_that_is_killed_is_named(site, write_recipe, tmp_path):
    rewards = [{"name": "lively_reward:killed_on_n2"}, {"name": "think_format"}]
    recipe = write_recipe("grpo", rewards=rewards, max_steps=9)
    id = site.sbatch("--nodes=2", TRAIN, recipe, "--processes", 2)
    site.done(id, "FAILED", 90)
    top = site.log(id).splitlines()[0]
    assert top.startswith("n2, rank 1, ") and "error: the process was ended by SIGKILL, by the system if" in top


def test_two_jobs_of_one_run_directory(site, write_recipe, slow, tmp_path):
    recipe = write_recipe("grpo", rewards=SLOW, max_steps=400)
    first = site.sbatch("--nodes=1", TRAIN, recipe, SLOW_WHILE=str(slow))
    site.until((tmp_path / "run" / "metrics.jsonl").is_file, first)
    second = site.sbatch("--nodes=1", TRAIN, recipe)
    job = site.done(second, "FAILED")
    assert job["ExitCode"] == "2:0"
    assert f"output_dir: job {first} on n1 is training in {tmp_path}/run; wait" in site.log(second).splitlines()[0]
    site.slurm.run("scancel", first)
    site.done(first, "CANCELLED")
    assert read_status(tmp_path / "run")["state"] == "interrupted", "cancelled with notice, so with a checkpoint"
    assert checkpoints.last_whole_checkpoint(tmp_path / "run") is not None


@pytest.mark.parametrize(
    ("options", "keys", "message"),
    [
        (["--nodes=2"], {}, "processes: 1 on 2 nodes; every node runs the same number: use --processes 2"),
        (["--nodes=1"], {"gpus": 2}, "gpus: the recipe is for 2 GPUs, and the job has none; add --gpus-per-node"),
        (
            ["--nodes=1", "--gpus-per-node=2"], {"gpus": 8},
            "gpus: the recipe is for 8 GPUs, and the job has 1 node with 2 GPUs each; use sbatch --nodes=4, or --gpus "
            "2 with gradient_accumulation_steps times 4, which keeps the batch size",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_allocation_is_refused(site, write_recipe, options, keys, message):
    id = site.sbatch(*options, TRAIN, write_recipe("sft", **keys))
    assert site.done(id, "FAILED")["ExitCode"] == "2:0"
    assert message in site.log(id).splitlines()[0]


def test_a_node_without_the_environment_is_named(site, write_recipe, tmp_path):
    id = site.sbatch("--nodes=2", TRAIN, write_recipe("sft"), OPEN_R1_PYTHON=str(tmp_path / "absent" / "python"))
    site.done(id, "FAILED", 30)
    assert "cannot run open-r1 here" in site.log(id).splitlines()[0]
    assert "set OPEN_R1_PYTHON in slurm/site.sh" in site.log(id).splitlines()[0]


def test_a_directory_that_one_node_cannot_write_is_refused(site, write_recipe, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    site.slurm.run("srun", "--nodelist=n2", "sh", "-c", f"mount --bind {out} {out} && mount -o remount,bind,ro {out}")
    id = site.sbatch("--nodes=2", TRAIN, write_recipe("sft"), "--processes", 2)
    site.done(id, "FAILED", 60)
    assert site.log(id).splitlines()[0].startswith("n2, ") and "Read-only file system" in site.log(id).splitlines()[0]


@pytest.mark.long
def test_fsdp2_over_two_nodes(site, write_recipe, tmp_path):
    """The weights are spread over the nodes, and the losses are those of one process."""
    one = write_recipe("sft", "one", per_device_train_batch_size=8, max_steps=4, **SFT)
    two = write_recipe(
        "sft", "two", per_device_train_batch_size=4, max_steps=4, use_cpu=False, accelerate_config="fsdp2", **SFT
    )
    out = tmp_path / "two"
    around = os.pathsep.join(str(ROOT / "tests" / "support" / "scripts" / name) for name in ("fsdp_on_cpu", "."))
    id = site.sbatch("--nodes=2", TRAIN, two, "--processes", 2, "--output_dir", out, PYTHONPATH=around)
    site.done(id)
    shards = list((out / "checkpoint-2").glob("pytorch_model_fsdp_0/*.distcp"))
    assert len(shards) == 2, "each process has written its part"
    train_here(one, tmp_path / "one")
    both = [[row["loss"] for row in rows(path) if "loss" in row] for path in (tmp_path / "one", out)]
    assert both[1] == pytest.approx(both[0], abs=2e-2)  # the config computes in bfloat16
