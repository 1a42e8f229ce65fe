"""Interrupted anywhere, the same command carries on, and the result is the same bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from accelerate.data_loader import prepare_data_loader
from conftest import ROOT, TASKS, command, group, path_with
from safetensors.torch import load_file
from support import warm
from torch.utils.data import BatchSampler, DataLoader
from trl.trainer.utils import RepeatSampler

from open_r1.config.loading import load_recipe
from open_r1.errors import RecipeError
from open_r1.run import checkpoints, job_array, lifecycle
from open_r1.run.exit import Interruption
from open_r1.run.run import Run
from open_r1.system import files
from open_r1.training import exact_resume

STEPS = 6
# A batch of completions is made every 4 steps, so the checkpoint of step 2 lies inside a cycle.
CYCLE = {"steps_per_generation": 2, "num_iterations": 2}


@pytest.fixture
def grpo(write_recipe):
    """A GRPO recipe whose rewards vary, with checkpoints at the steps given."""

    def make(name: str, **keys: object) -> Path:
        rewards = [{"name": "lively_reward:even_length"}, {"name": "think_format"}]
        keys |= {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-3}
        return write_recipe("grpo", name, rewards=rewards, **keys)

    return make


def start(recipe: Path, out: Path, processes: int = 1, fresh: bool = False) -> subprocess.Popen:
    words = ["-m", "open_r1.cli", "train", recipe, "--output_dir", out]
    words += ["--processes", processes] if processes > 1 else []
    return warm.Popen(
        words, cwd=ROOT, stdout=warm.PIPE, stderr=warm.STDOUT, start_new_session=True, fresh=fresh,
        env=os.environ | {"PYTHONPATH": path_with(ROOT / "tests" / "support" / "scripts")},
    )  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 200
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.005)


def figures(out: Path) -> list[dict]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "step_time", "runtime", "per_second", "total_flos", "train_loss")
    return [{k: v for k, v in row.items() if not any(t in k for t in timed)} for row in rows]


def assert_same(a: Path, b: Path) -> None:
    weights = [load_file(out / "model" / "model.safetensors") for out in (a, b)]
    assert weights[0].keys() == weights[1].keys()
    for name in weights[0]:
        assert weights[0][name].equal(weights[1][name]), name
    assert figures(a) == figures(b)
    for file in sorted((a / "completions").glob("*.parquet")):
        pd.testing.assert_frame_equal(pd.read_parquet(file), pd.read_parquet(b / "completions" / file.name))


def killed_after(whole: Path, killed: Path, step: int) -> Path:
    """A copy of a run as a kill after a checkpoint leaves it."""
    shutil.copytree(whole, killed)
    shutil.rmtree(killed / "model")
    (killed / "status.json").unlink()
    for checkpoint in killed.glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > step:
            shutil.rmtree(checkpoint)
    (killed / "recipe.yaml").write_text((killed / "recipe.yaml").read_text().replace(str(whole), str(killed)))
    return killed


def test_killed_inside_a_generation_cycle(grpo, tmp_path):
    recipe = grpo("cycle", **CYCLE)
    whole = start(recipe, tmp_path / "whole")
    finish(whole)
    first = start(recipe, tmp_path / "killed", fresh=True)
    wait_for(tmp_path / "killed" / "checkpoint-2" / checkpoints.MANIFEST, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    # What a kill in the middle of the next checkpoint leaves behind.
    torn = tmp_path / "killed" / "checkpoint-5"
    shutil.copytree(tmp_path / "killed" / "checkpoint-2", torn)
    (torn / "model.safetensors").write_bytes(b"half")
    output = finish(start(recipe, tmp_path / "killed"))
    assert "checkpoint-5 was not completely written; it is removed" in output
    assert "resuming from" in output
    rewards = [row["reward_std"] for row in figures(tmp_path / "whole") if "reward_std" in row]
    assert max(rewards) > 0, "without a spread of rewards nothing would have been learned"
    assert_same(tmp_path / "whole", tmp_path / "killed")


def test_sigterm_writes_a_checkpoint_and_says_so(write_recipe, tmp_path):
    recipe = write_recipe("sft", max_steps=100, save_strategy="no", logging_steps=3)
    process = start(recipe, tmp_path / "sft", fresh=True)
    wait_for(tmp_path / "sft" / "metrics.jsonl", process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "run the same command again to continue" in output
    stopped = checkpoints.last_whole_checkpoint(tmp_path / "sft")
    assert stopped is not None and json.loads((tmp_path / "sft" / "status.json").read_text())["state"] == "interrupted"
    assert "resuming from" in finish(start(recipe, tmp_path / "sft"))
    finish(start(recipe, tmp_path / "whole"))
    assert_same(tmp_path / "whole", tmp_path / "sft")


def test_two_processes_killed_inside_a_generation_cycle(grpo, tmp_path, monkeypatch):
    recipe = grpo("two", **CYCLE)
    monkeypatch.setenv("PYTHONPATH", path_with(ROOT / "tests" / "support" / "scripts"))
    words = ["-m", "open_r1.grpo", "--config", recipe, "--output_dir"]
    group(*words, tmp_path / "whole")
    first = start(recipe, tmp_path / "killed", processes=2)
    wait_for(tmp_path / "killed" / "checkpoint-2" / checkpoints.MANIFEST, first)
    # The launcher alone: its processes have sessions of their own, and must not train on unseen.
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert "resuming from" in group(*words, tmp_path / "killed")
    assert_same(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize(
    ("task", "keys", "processes"),
    [
        ("sft", {}, 1),
        ("sft", {"train_sampling_strategy": "group_by_length"}, 1),
        ("grpo", {}, 1),
        pytest.param("sft", {"per_device_train_batch_size": 2}, 2, marks=pytest.mark.long),
        pytest.param("grpo", {"per_device_train_batch_size": 4}, 2, marks=pytest.mark.long),
    ],
)
def test_killed_in_a_later_epoch(write_recipe, tmp_path, task, keys, processes):
    """Rows come in that epoch's order and in those of the next, from within an epoch and from its end."""
    (rows,) = TASKS[task]["datasets"]
    keys |= {"datasets": [rows | {"args": rows["args"] | {"rows": 16 if task == "sft" else 8}}], "max_steps": 13}
    keys |= {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 6, "learning_rate": 1e-3}
    recipe = write_recipe(task, **keys)
    finish(start(recipe, tmp_path / "whole", processes))
    for step in (6, 8):
        killed = killed_after(tmp_path / "whole", tmp_path / f"killed-{step}", step)
        assert f"resuming from {killed}/checkpoint-{step}" in finish(start(recipe, killed, processes))
        assert_same(tmp_path / "whole", killed)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_epochs_order_is_drawn_again(processes):
    """That of a sampler which goes by its generator, as GRPO's, also where each process takes a part."""
    batches = BatchSampler(RepeatSampler(range(8), mini_repeat_count=2, seed=3), 4, drop_last=False)
    loader = prepare_data_loader(DataLoader(range(8), batch_sampler=batches), num_processes=processes, process_index=0)
    orders, states = [], []
    for _ in range(3):
        states.append(exact_resume.read_random_states(loader))
        orders.append([batch.tolist() for batch in loader])
    assert orders[0] != orders[1] != orders[2]
    for order, state in zip(orders, states, strict=True):
        exact_resume.set_random_states(loader, state)
        assert [batch.tolist() for batch in loader] == order


def test_killed_in_the_last_evaluation(grpo, tmp_path):
    problems = {"path": "open_r1.tiny.problems:problems", "args": {"rows": 8, "split": "test"}}
    recipe = grpo("evaluated", evaluation={"datasets": [problems], "k": 4, "every": 2})
    finish(start(recipe, tmp_path / "whole"))
    killed = killed_after(tmp_path / "whole", tmp_path / "killed", STEPS)
    for name in ("summary.json", "evaluations/after.json"):
        (killed / name).unlink()
    rows = (killed / "metrics.jsonl").read_text().splitlines(keepends=True)
    (killed / "metrics.jsonl").write_text("".join(rows[:-1]))
    finish(start(recipe, killed))
    after = (tmp_path / "whole" / "evaluations" / "after.json").read_text()
    assert (killed / "evaluations" / "after.json").read_text() == after.replace(str(tmp_path / "whole"), str(killed))
    assert [r for r in figures(killed) if "evaluation/pass@1" in r] == [
        r for r in figures(tmp_path / "whole") if "evaluation/pass@1" in r
    ]
    assert json.loads((killed / "status.json").read_text())["step"] == STEPS


def test_a_checkpoint_is_whole_only_with_every_file_at_its_size(tmp_path):
    for step in (2, 10):
        checkpoint = tmp_path / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "model.safetensors").write_bytes(b"weights")
        checkpoints.seal_checkpoint(checkpoint, seconds=1.0)
    assert checkpoints.last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    (tmp_path / "checkpoint-10" / "model.safetensors").write_bytes(b"weigh")
    assert checkpoints.last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    (tmp_path / "checkpoint-2" / checkpoints.MANIFEST).unlink()
    assert checkpoints.last_whole_checkpoint(tmp_path) is None


def prepared(recipe: Path, *overrides: str) -> Run:
    made = Run(load_recipe(recipe, list(overrides)), load_recipe(recipe, list(overrides)).run_dir)
    lifecycle.prepare_directory(made)
    return made


def test_another_recipe_does_not_continue_a_run(write_recipe, tmp_path):
    recipe = write_recipe("sft")
    made = prepared(recipe)
    prepared(recipe, "--report_to", "tensorboard")
    with pytest.raises(RecipeError, match=r"begun by another recipe \(learning_rate: None -> 0.5\)"):
        prepared(recipe, "--learning_rate", "0.5")
    made.set_status("finished")
    with pytest.raises(RecipeError, match="holds a finished run; add --overwrite"):
        prepared(recipe)
    (made.dir / "old").write_text("")
    prepared(recipe, "--overwrite")
    assert not (made.dir / "old").exists()
    assert "overwrite" not in (made.dir / "recipe.yaml").read_text()
    # The same command again goes on with what it began.
    (made.dir / "new").write_text("")
    prepared(recipe, "--overwrite")
    assert (made.dir / "new").exists()


def test_a_directory_of_other_files_is_left_alone(write_recipe, tmp_path):
    other = tmp_path / "run" / "checkpoint-500"
    other.mkdir(parents=True)
    (other / "model.safetensors").write_text("precious")
    with pytest.raises(RecipeError, match="holds other files and no recipe"):
        prepared(write_recipe("sft"))
    assert (other / "model.safetensors").read_text() == "precious"


def test_a_data_task_that_is_told_twice_puts_things_in_order():
    before = signal.signal(signal.SIGTERM, job_array.stop_on_signal)
    try:
        with pytest.raises(Interruption, match="run the same command again to continue after the last whole file"):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # by Slurm, then by node.py
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_directory_has_one_process(write_recipe, tmp_path):
    recipe = write_recipe("sft")
    hold = (
        "import sys; from open_r1.system.locks import lock_directory; from pathlib import Path; "
        "lock_directory(Path(sys.argv[1])); print(1); input()"
    )
    (tmp_path / "run").mkdir()
    holder = warm.Popen(["-c", hold, tmp_path / "run"], stdin=warm.PIPE, stdout=warm.PIPE)
    assert holder.stdout.readline() == "1\n"
    with pytest.raises(RecipeError, match=r"another process \(\d+\) is running in"):
        prepared(recipe)
    holder.communicate("\n")
    prepared(recipe)


def test_a_run_is_resumed_by_as_many_processes(write_recipe, tmp_path, monkeypatch):
    recipe = load_recipe(write_recipe("sft"))
    checkpoint = tmp_path / "run" / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    monkeypatch.setattr(checkpoints, "world_size", lambda: 2)
    checkpoints.seal_checkpoint(checkpoint, seconds=1.0)
    monkeypatch.undo()
    files.write_text(tmp_path / "run" / "recipe.yaml", json.dumps(recipe.given))
    with pytest.raises(RecipeError, match="was written by 2 processes, and there are now 1"):
        lifecycle.start_run(recipe)


def test_overwrite_leaves_other_directories_alone(write_recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    with pytest.raises(RecipeError, match="holds other files and no recipe"):
        prepared(write_recipe("sft"), "--overwrite")
    assert (tmp_path / "run" / "thesis.txt").read_text() == "precious"


def test_an_unwritable_or_full_disk_is_found_before_training(write_recipe, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(RecipeError, match=r"output_dir: .* cannot be written"):
        prepared(write_recipe("sft", output_dir=str(blocked / "run")))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10 * 2**20))
    with pytest.raises(RecipeError, match=r"10 MiB are free at .*, and this run's checkpoints need about 200"):
        prepared(write_recipe("sft"))


def test_a_run_that_fails_says_so_and_makes_no_model(write_recipe, tmp_path):
    done = command("train", write_recipe("sft", datasets=[{"path": str(tmp_path / "none.jsonl")}]))
    assert done.returncode == 2 and "there is no file or folder" in done.stderr and "Traceback" not in done.stderr
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"
    assert not (tmp_path / "run" / "init").exists()


def test_a_finished_run_is_shown_not_repeated(write_recipe, tmp_path):
    recipe = write_recipe("sft", max_steps=1)
    first = command("train", recipe)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == str(tmp_path / "run")
    weights = (tmp_path / "run" / "model" / "model.safetensors").stat().st_mtime_ns
    second = command("train", recipe)
    assert second.returncode == 0 and "this run is finished already" in second.stdout
    assert second.stdout.splitlines()[-1] == str(tmp_path / "run")
    assert (tmp_path / "run" / "model" / "model.safetensors").stat().st_mtime_ns == weights
