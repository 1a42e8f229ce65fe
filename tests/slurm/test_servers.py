"""Servers of vLLM as jobs have them: on a node of their own or beside the training, late, dying, and serving alone.

The stand-in of tests/support/scripts/standin_vllm plays vLLM's part.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, SMALL, TASKS, path_with
from support import cluster, warm

from open_r1.system import files

pytest_plugins = ["support.login"]
pytestmark = pytest.mark.skipif(cluster.missing() is not None, reason=f"no Slurm here: {cluster.missing()}")

TRAIN = "slurm/train.slurm"
STANDIN = (
    path_with(ROOT / "tests" / "support" / "scripts" / "standin_vllm") + f":{ROOT / 'tests' / 'support' / 'scripts'}"
)
KEYS = {
    "rewards": [{"name": "lively_reward:even_length"}],
    "use_vllm": True, "vllm_mode": "server", "vllm_server_gpus": 1, "vllm_server_timeout": 60,
    "random_init": ..., "save_strategy": "steps", "save_steps": 1, "max_steps": 4, "preflight": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A model for a server to load."""

    folder = tmp_path_factory.mktemp("base")
    path = folder / "sft" / "base.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(SMALL | TASKS["sft"] | {"output_dir": str(folder / "run")}))
    done = warm.run(["-m", "open_r1.cli", "train", path], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return folder / "run" / "model"


def test_a_server_on_its_own_node_that_dies_has_the_job_go_on(site, base, write_recipe, tmp_path):
    recipe = write_recipe("grpo", model_name_or_path=str(base), **KEYS)
    id = site.sbatch("--nodes=2", TRAIN, recipe, PYTHONPATH=STANDIN, STANDIN_VLLM_DIES_AFTER="3")
    job = site.done(id, seconds=240)
    log = site.log(id)
    assert job["Restarts"] == "1" and files.is_finished(tmp_path / "run"), log
    assert log.count("the vLLM server is up at http://n2:") == 2
    died = r"^n2, [\d:]+: error: the vLLM server on n2 ended with exit code 1\. Its log .*dying as asked"
    assert re.search(died, log, re.MULTILINE)
    assert "it may pass, so the job starts again" in log and "resuming from" in log
    kept = site.jobs / id / "start-1" / "vllm.log"
    assert "requests for completions" in kept.read_text(), "ended with the job, and its log kept"


def test_a_server_beside_the_training_that_dies_fails_the_job_if_the_recipe_says_so(site, base, write_recipe):
    recipe = write_recipe("grpo", model_name_or_path=str(base), vllm_server_restart=False, **KEYS)
    id = site.sbatch("--nodes=1", TRAIN, recipe, PYTHONPATH=STANDIN, STANDIN_VLLM_DIES_AFTER="1")
    job = site.done(id, "FAILED")
    assert job["Restarts"] == "0" and job["ExitCode"] == "2:0"
    assert "error: the vLLM server on n1 ended with exit code 1" in site.log(id).splitlines()[0]


def test_a_server_that_does_not_come_up_has_a_deadline(site, base, write_recipe):
    recipe = write_recipe("grpo", model_name_or_path=str(base), **KEYS | {"vllm_server_timeout": 2})
    id = site.sbatch("--nodes=2", TRAIN, recipe, PYTHONPATH=STANDIN, STANDIN_VLLM_DELAY="600", OPEN_R1_RETRIES="0")
    site.done(id, "FAILED")
    assert "error: the vLLM server was not up within 2 s" in site.log(id).splitlines()[0]


def test_serving_a_model(site, base):
    id = site.sbatch("--nodes=1", "slurm/serve.slurm", base, "--max-model-len", 64, PYTHONPATH=STANDIN)
    site.until(lambda: "is served at" in site.log(id), id)
    port = re.search(rf"{base} is served at http://n1:(\d+)/v1", site.log(id))[1]
    ask = f"import urllib.request as r; print(r.urlopen('http://n1:{port}/health').status)"
    said = site.slurm.run("srun", "--overlap", f"--jobid={id}", sys.executable, "-c", ask)
    assert "200" in said.stdout
    site.slurm.run("scancel", id)
    site.done(id, "CANCELLED")


def test_measuring_a_model(site, base, tmp_path):
    small = ("--benchmarks.0.problems", 4, "--benchmarks.0.k", 2, "--benchmarks.0.max_tokens", 8, "--report", "false")
    words = (base.parent, "tiny", *small, "--output_dir", tmp_path / "run")
    id = site.sbatch("--nodes=1", "slurm/evaluate.slurm", *words)
    site.done(id)
    assert files.read_json(tmp_path / "run" / "evaluations" / "tiny.json")["metrics"]["pass@1"]["value"] is not None
    assert "pass@1" in site.log(id)
