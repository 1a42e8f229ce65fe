"""Pipelines that really run: to the end, again, with a stage that fails, killed, stopped, and two at once."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml
from conftest import SHARDED_TASKS, SMALL, TASKS, path_with
from support import warm

from open_r1.pipeline.execute import Execution
from open_r1.pipeline.plan import read_state
from open_r1.system.network import START

# A judge that is slow enough to be killed at, and that a file can make fail or wait.
OWN = """
import time
from collections import Counter
from pathlib import Path
from open_r1.rewards import Verdict

def judge(completion, solution):
    while Path("wait").exists():
        time.sleep(0.05)
    if Path("fail").exists():
        raise SystemExit("made to fail")
    return Verdict("correct" if solution in completion else "wrong")
"""


class World:
    """A folder with recipes and a pipeline: base -> samples -> chosen -> second; talk; both models measured."""

    def __init__(self, folder: Path):
        self.dir = folder
        (folder / "own_judge.py").write_text(OWN)
        self.recipe("sft", "base", save_strategy="steps", save_steps=1, max_steps=4)
        self.recipe("sft", "second", random_init=..., model_name_or_path="x", datasets=["x"], report=True)
        self.recipe("sample", "samples", random_init=..., model_name_or_path="x")
        self.recipe(
            "select", "chosen", datasets=["x"], rewards=["own_judge:judge"], filters=["finished"], preflight=False
        )
        self.recipe("select", "talk", datasets=[{"path": "open_r1.tiny.problems:small_talk", "args": {"rows": 8}}],
                    rewards=..., filters=...)  # fmt: skip
        self.recipe("evaluate", "measured", random_init=..., model_name_or_path="x")
        self.stages: list[dict[str, Any]] = [
            {"name": "base", "recipe": "recipes/small/sft/base.yaml"},
            {"name": "samples", "recipe": "recipes/small/sample/samples.yaml", "model": "base"},
            {"name": "chosen", "recipe": "recipes/small/select/chosen.yaml", "data": "samples"},
            {"name": "second", "recipe": "recipes/small/sft/second.yaml", "model": "base", "data": "chosen"},
            {"name": "talk", "recipe": "recipes/small/select/talk.yaml", "overrides": {"seed": 0}},
            {"name": "measured", "recipe": "recipes/small/evaluate/measured.yaml", "model": ["base", "second"]},
        ]
        self.write()

    def recipe(self, task: str, name: str, **keys: object) -> None:
        path = self.dir / "recipes" / "small" / task / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = SHARDED_TASKS[task] if task in SHARDED_TASKS else SMALL | TASKS[task]
        path.write_text(yaml.safe_dump({k: v for k, v in (small | keys).items() if v is not ...}))

    def write(self, name: str = "made", **keys: object) -> None:
        shows = [{"figure": "pass@1", "of": "measured.second", "above": "measured.base"}]
        made = {"seeds": [0, 1], "jobs": 2, "stages": self.stages, "table": [{"says": "More.", "shows": shows}]}
        (self.dir / f"{name}.yaml").write_text(yaml.safe_dump(made | keys, sort_keys=False))

    def start(self, *words: str, name: str = "made", fresh: bool = False) -> subprocess.Popen[str]:
        command = ["-m", "open_r1.cli", "train", f"{name}.yaml", *words]
        environment = os.environ | {"PYTHONPATH": path_with(self.dir), "OMP_NUM_THREADS": "1"}
        return warm.Popen(command, cwd=self.dir, env=environment, stdout=warm.PIPE, stderr=warm.STDOUT, fresh=fresh)

    def run(self, *words: str, code: int = 0, name: str = "made", fresh: bool = False) -> str:
        process = self.start(*words, name=name, fresh=fresh)
        out, _ = process.communicate(timeout=600)
        assert process.returncode == code, out
        return out

    def state(self, name: str = "made") -> dict[str, Any]:
        return read_state(self.dir / "runs" / "pipelines" / name)

    def states(self, name: str = "made") -> dict[str, str]:
        """`chosen 1` -> its state"""
        return {f"{stage['name']} {stage['seed']}": stage["state"] for stage in self.state(name)["stages"]}

    def results(self) -> dict[str, str]:
        """Digests of everything that the stages came to, by place in the pipeline."""
        found = {}
        for view in sorted((self.dir / "runs" / "pipelines" / "made").glob("seed=*/*")):
            for pattern in ("model/*.safetensors", "data/*.parquet", "judged/*.parquet"):
                for path in sorted(view.glob(pattern)):
                    found[str(path.relative_to(self.dir))] = hashlib.sha256(path.read_bytes()).hexdigest()
            for path in view.glob("evaluations/*.json"):
                found[str(path.relative_to(self.dir))] = json.dumps(json.loads(path.read_text())["metrics"])
        return found

    def is_at_work(self, process: psutil.Process) -> bool:
        """True of a process of this world's pipeline."""
        try:
            return process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(self.dir)
        except psutil.Error:
            return False

    def until(self, process: subprocess.Popen[str], there: Any) -> None:
        deadline = time.monotonic() + 200
        while process.poll() is None and not there() and time.monotonic() < deadline:
            time.sleep(0.01)
        if process.poll() is not None or not there():
            process.kill()
            raise AssertionError(process.communicate()[0])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> World:
    """A world whose pipeline has been run to its end, with what was printed."""
    world = World(tmp_path_factory.mktemp("whole"))
    world.out = world.run(fresh=True)
    return world


def test_to_the_end(whole):
    state = whole.state()
    assert state["state"] == "finished" and set(whole.states().values()) == {"finished"}
    assert len(state["stages"]) == 14 and len({stage["dir"] for stage in state["stages"]}) == 13
    assert state["peak_memory"] > 100 << 20 and all(stage["seconds"] > 0 for stage in state["stages"])
    pipeline = whole.dir / "runs" / "pipelines" / "made"
    assert (pipeline / "report.html").stat().st_size > 10_000
    (line,) = json.loads((pipeline / "table.json").read_text())["lines"]
    assert len(line["shows"][0]["values"]) == 2
    assert [(pipeline / f"seed={n}" / "second" / "report.html").is_file() for n in (0, 1)] == [True, False]
    assert "13 runs: 13 to run" in whole.out and "13 runs: 13 finished" in whole.out
    assert whole.out.rstrip().endswith("runs/pipelines/made/report.html")
    kinds = Counter(Path(name).parent.name for name in whole.results())
    # Of each seed: 2 models, samples in 4 files, a selection, small talk; 2 evaluations, judged in 3 files each.
    assert kinds["model"] == kinds["evaluations"] == 4 and min(kinds["data"], kinds["judged"]) >= 12
    assert json.loads((pipeline / "seed=0" / "base" / "environment.json").read_text())["threads"] == 1


def test_again_without_a_change(whole):
    before, report = whole.results(), whole.dir / "runs" / "pipelines" / "made" / "report.html"
    written = report.stat().st_mtime_ns
    out = whole.run()
    assert "13 runs: 13 cached" in out and set(whole.states().values()) == {"cached"}
    assert whole.results() == before and report.stat().st_mtime_ns == written
    assert "More." in out


def test_where_it_all_comes_from(whole):
    command = ["-m", "open_r1.cli", "lineage", "runs/pipelines/made/seed=1/second/model"]
    told = warm.run(command, cwd=whole.dir, fresh=True).stdout
    files = [
        f"recipes/small/{name}.yaml, seed 1" for name in ("sft/second", "sft/base", "select/chosen", "sample/samples")
    ]
    assert all(file in told for file in files), told
    assert told.count("(above)") == 1 and "small-sft-base" in told


def test_a_deleted_intermediate_is_made_again_and_nothing_else(whole):
    before = whole.results()
    directory = whole.dir / next(stage["dir"] for stage in whole.state()["stages"] if stage["name"] == "samples")
    shutil.rmtree(directory)
    (line,) = [line for line in whole.run("--dry-run").splitlines() if "to run  " in line]
    assert line.split(None, 4) == ["samples", "0", "to", "run", "its directory is gone"]
    assert "13 runs: 12 cached, 1 to run" in whole.run()
    assert whole.results() == before


def test_another_pipeline_shares_what_is_the_same(whole):
    whole.write("other", stages=whole.stages[:2], table=[], seeds=[1])
    assert "2 runs: 2 cached" in whole.run(name="other")


def test_a_stage_that_fails_blocks_only_what_needs_it(tmp_path):
    world = World(tmp_path)
    (tmp_path / "fail").touch()
    out = world.run(code=1)
    states = world.states()
    assert {name for name, state in states.items() if state == "failed"} == {"chosen 0", "chosen 1"}
    assert {name for name, state in states.items() if state == "blocked"} == {
        f"{name} {seed}" for name in ("second", "measured.second") for seed in (0, 1)
    }
    assert all(states[f"{name} {seed}"] == "finished" for name in ("base", "talk", "measured.base") for seed in (0, 1))
    assert "failed: chosen, seed 0: " in out and "blocked: second, seed 1: needs chosen, seed 1" in out
    assert world.state()["state"] == "failed"
    assert "failed" in (tmp_path / "runs" / "pipelines" / "made" / "report.html").read_text()
    (tmp_path / "fail").unlink()
    out = world.run()
    assert "13 runs: 7 cached, 6 to run" in out and set(world.states().values()) == {"cached", "finished"}


def test_killed_at_any_moment_it_ends_the_same(whole, tmp_path):
    kill(World(tmp_path), whole, 2)


def kill(world: World, whole: World, times: int) -> None:
    """Kill it so often, at random moments, and compare what it then comes to."""
    chance = random.Random(0)
    for _ in range(times):
        finished = sum(state == "finished" for state in (world.states() if world.state() else {}).values())
        began = time.time()
        process = world.start()
        # Once this start, and not the one before, runs something; and then a moment more.
        world.until(
            process, lambda began=began: world.state().get("began", 0) > began and "running" in world.states().values()
        )
        time.sleep(chance.uniform(0, 4))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)  # which ends when the last process that holds its output has ended
        assert sum(state in ("finished", "cached") for state in world.states().values()) >= finished
        deadline = time.monotonic() + 10
        while at_work := [one for one in psutil.process_iter() if world.is_at_work(one)]:
            assert time.monotonic() < deadline, at_work
    world.run()
    assert world.results() == whole.results()


def test_stopped_it_goes_on(whole, tmp_path):
    world = World(tmp_path)
    (tmp_path / "wait").touch()
    process = world.start()
    world.until(process, lambda: world.state() and world.states().get("chosen 0") == "running")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline().startswith("made: ")
    while "the same command continues every stage" not in process.stdout.readline():
        assert process.poll() is None
    # A judge that is at work is waited for.
    (tmp_path / "wait").unlink()
    process.communicate(timeout=120)
    assert process.returncode == 143
    assert world.state()["state"] == "interrupted" and "waiting" in world.states().values()
    world.run()
    assert world.results() == whole.results()


@pytest.mark.parametrize(("of_slurm", "killed"), [(False, 1), (True, 0)])
def test_told_twice_it_ends_what_runs_but_for_slurm(monkeypatch, of_slurm, killed):
    """Slurm tells every process of a job, and node.py tells this one as well."""
    if of_slurm:
        monkeypatch.setenv(START, "start")
    said, kills, ended = [], [], []
    worker = SimpleNamespace(process=SimpleNamespace(terminate=lambda: ended.append(1)))
    execution = SimpleNamespace(
        pid=os.getpid(), stopping=0, say=said.append, workers=[worker], kill=lambda: kills.append(1)
    )
    with Execution.catching_signals(execution):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
    assert (len(said), len(ended), len(kills)) == (1, 1, killed)


def test_two_at_once(tmp_path):
    """Of one pipeline the second is refused; another one waits for the stages that it shares, and takes them."""
    world = World(tmp_path)
    world.write("other", table=[], stages=world.stages[:4])
    (tmp_path / "wait").touch()
    first = world.start()
    world.until(first, lambda: world.state() and world.states().get("chosen 0") == "running")
    assert "error: another process" in world.run(code=2)
    other = world.start(name="other")
    world.until(other, lambda: world.state("other") and world.states("other").get("samples 0") == "cached")
    (tmp_path / "wait").unlink()
    outs = [process.communicate(timeout=300)[0] for process in (first, other)]
    assert (first.returncode, other.returncode) == (0, 0), outs
    assert (
        set(world.states("other").values()) <= {"finished", "cached"} and world.state("other")["state"] == "finished"
    )
    assert "chosen, seed 0 is being made by another process" in outs[1]


def test_a_recipe_that_changes_while_others_run(tmp_path):
    world = World(tmp_path)
    (tmp_path / "wait").touch()
    process = world.start()
    world.until(process, lambda: world.state() and world.states().get("chosen 0") == "running")
    world.recipe("sft", "second", random_init=..., model_name_or_path="x", datasets=["x"], max_steps=3)
    (tmp_path / "wait").unlink()
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "second, seed 0: changed since the pipeline was started (max_steps: 2 -> 3)" in out
    (line,) = [line for line in world.run("--dry-run").splitlines() if line.startswith("second ")]
    assert line.split(None, 5)[-1] == "max_steps: 2 -> 3"
    world.run()


@pytest.mark.long
def test_killed_ten_times_it_ends_the_same(whole, tmp_path):
    kill(World(tmp_path), whole, 10)


def test_refused_before_anything_runs(tmp_path):
    world = World(tmp_path)
    world.recipe("sft", "second", random_init=..., model_name_or_path="x", datasets=["x"], learning_rat=1)
    for words in (("--dry-run",), ()):
        out = world.run(*words, code=2)
        assert "error: stages (second)" in out and "learning_rat" in out
    assert not (tmp_path / "runs" / "stages").exists()
    assert "--only: which stage?" in world.run("--only", code=2)
    assert "--overwrite takes no value" in world.run("--overwrite", "base", code=2)
    directory = tmp_path / "runs" / "pipelines" / "made"
    (directory / "notes.txt").write_text("somebody's")
    assert "holds files that are not a pipeline's" in world.run(code=2)


def test_chosen_ones_are_run_again_if_asked(whole):
    began = {path: path.stat().st_mtime_ns for path in (whole.dir / "runs" / "stages").glob("*/status.json")}
    before = whole.results()
    assert "3 to run" in whole.run("--only", "talk,samples", "--overwrite", "--dry-run")
    out = whole.run("--only", "talk,samples", "--overwrite")
    assert "13 runs: 10 cached, 3 to run" in out
    again = {path.parent.name.rpartition("-")[0] for path in began if path.stat().st_mtime_ns != began[path]}
    assert again == {"small-select-talk", "small-sample-samples"} and whole.results() == before
