"""Two CPU processes are one run: same losses, same weights; a launch that would be two runs is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, group
from safetensors.torch import load_file
from support import warm

from open_r1.errors import RecipeError
from open_r1.run import environment

CPU = "recipes/accelerate_configs/cpu.yaml"


def accelerate(script: str, recipe: Path, out: Path, *launcher: str, config: str = CPU, **env: str):
    return subprocess.run(
        [
            sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "--main_process_port", "0",
            *launcher, script, "--config", str(recipe), "--output_dir", str(out),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"} | env,
    )  # fmt: skip


def single(script: str, recipe: Path, out: Path) -> None:
    done = warm.run([script, "--config", recipe, "--output_dir", out], cwd=ROOT)
    assert done.returncode == 0, done.stderr


def losses(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def assert_close(one: Path, two: Path) -> None:
    assert len(losses(one)) == 3
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    first, second = (load_file(out / "model" / "model.safetensors") for out in (one, two))
    start = load_file(one / "init" / "model.safetensors")
    moved = max((first[name] - start[name]).abs().max().item() for name in first)
    assert moved > 1e-3, "nothing was learned, so nothing was compared"
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-5, rtol=0)


def test_sft_matches_one_process(write_recipe, tmp_path):
    keys = {"max_steps": 3, "learning_rate": 1e-3, "train_sampling_strategy": "sequential"}
    one = write_recipe("sft", "one", per_device_train_batch_size=8, **keys)
    two = write_recipe("sft", "two", per_device_train_batch_size=4, **keys)
    single("src/open_r1/sft.py", one, tmp_path / "one")
    done = accelerate("src/open_r1/sft.py", two, tmp_path / "two", "--num_processes", "2")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == 2
    assert_close(tmp_path / "one", tmp_path / "two")


def test_grpo_matches_one_process(write_recipe, tmp_path):
    """With the same completions whatever the split: the script replaces sampling, which differs by process."""
    script = "tests/support/scripts/grpo_with_fixed_completions.py"
    keys = {"max_steps": 3, "learning_rate": 1e-3, "num_generations": 4, "shuffle_dataset": False}
    one = write_recipe("grpo", "one", per_device_train_batch_size=8, **keys)
    two = write_recipe("grpo", "two", per_device_train_batch_size=4, **keys)
    single(script, one, tmp_path / "one")
    group(script, "--config", two, "--output_dir", tmp_path / "two")
    assert_close(tmp_path / "one", tmp_path / "two")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the traps are those of a machine without a GPU")
def test_processes_that_accelerate_does_not_start_are_missed(write_recipe, tmp_path):
    """With --cpu, and with MULTI_CPU, accelerate starts one process of the two it was asked for and says nothing."""
    config = tmp_path / "multi_cpu.yaml"
    config.write_text((ROOT / CPU).read_text().replace("MULTI_GPU", "MULTI_CPU"))
    words = ["--cpu", "--num_processes", "2"]
    done = accelerate("src/open_r1/sft.py", write_recipe("sft"), tmp_path / "out", *words, config=str(config))
    assert done.returncode != 0 and "asked for several processes and started one" in done.stderr
    assert not (tmp_path / "out" / "model").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="the traps are those of a machine without a GPU")
def test_a_gpu_config_on_a_machine_without_one_is_still_one_run(write_recipe, tmp_path):
    """Elsewhere each of the two believes it is alone, and both write to one directory."""
    config = "recipes/accelerate_configs/ddp.yaml"
    words = ["--num_processes", "2", "--mixed_precision", "no"]
    done = accelerate("src/open_r1/sft.py", write_recipe("sft", max_steps=3), tmp_path / "out", *words, config=config)
    assert done.returncode == 0, done.stderr
    assert len(losses(tmp_path / "out")) == 3
    assert json.loads((tmp_path / "out" / "environment.json").read_text())["processes"] == 2


def test_processes_that_form_no_group_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(RecipeError, match="4 processes were started, but they do not form one group"):
        environment.check_processes()
