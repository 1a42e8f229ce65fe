"""`open-r1 submit` and `open-r1 status` on a real Slurm: recipes, arrays, pipelines, servers."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import PROBLEMS
from support import cluster

from open_r1.data import shards
from open_r1.system import files

pytest_plugins = ["support.login"]
pytestmark = pytest.mark.skipif(cluster.missing() is not None, reason=f"no Slurm here: {cluster.missing()}")


def ids_in(said: str) -> list[str]:
    return re.findall(r"\bjob +(\d+)", said)


@pytest.fixture
def pipeline(write_recipe, tmp_path):
    """A base model, its samples and its measurement, with a seed that nothing has been made with yet."""
    recipes = {
        "base": write_recipe("sft", "base", output_dir=...),
        "sampled": write_recipe("sample", "sampled", output_dir=..., random_init=...),
        "measured": write_recipe("evaluate", "measured", output_dir=..., random_init=...),
    }
    wires = {"base": {}, "sampled": {"model": "base"}, "measured": {"model": ["base"]}}
    stages = [{"name": name, "recipe": str(recipe), **wires[name]} for name, recipe in recipes.items()]
    path = tmp_path / "recipes" / "pipelines" / "small.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump({"title": "small", "seeds": [tmp_path.stat().st_ino % 2**31], "stages": stages}))
    return path


def test_a_recipe_is_shown_tried_and_submitted(site, write_recipe, tmp_path):
    recipe = write_recipe("sft")
    log = tmp_path / "logs" / "%x-%j.log"
    words = ("submit", recipe, "--slurm.output", log)
    shown = site.command(*words, "--dry-run")
    line = f"sbatch --job-name={tmp_path.parent.name}-{tmp_path.name}-run --nodes=1 --gpus-per-node=0 --mincpus=2 "
    assert shown.returncode == 0 and shown.stdout.startswith(line + "--time=01:00:00"), shown
    assert f"slurm/train.slurm {recipe}\n" in shown.stdout and "#SBATCH --requeue" in shown.stdout
    assert "--time=2:00:00 " in site.command(*words, "--slurm.time", "2:00:00", "--dry-run").stdout
    tried = site.command(*words, "--test-only")
    assert tried.returncode == 0 and "to start at" in tried.stdout and not (tmp_path / "run").exists()
    done = site.command(*words)
    assert done.returncode == 0, done
    (id,) = ids_in(done.stdout)
    again = site.command(*words)
    assert f"output_dir: job {id} (" in again.stderr and f"already works on {tmp_path}/run" in again.stderr
    assert site.slurm.wait(id)["JobState"] == "COMPLETED"
    assert files.is_finished(tmp_path / "run")
    lines = site.command("status", tmp_path / "run").stdout
    assert site.command("status", id).stdout == lines, "a job's id names its run"
    assert "state   finished, step 2" in lines and f"job     {id} COMPLETED 0:0" in lines
    assert "holds a finished run" in site.command(*words).stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--slurm.partition", "lwo"], "partition: there is none named 'lwo'; did you mean 'low'?"),
        (["--slurm.nodelist", "n3"], "Slurm refuses this request"),
        (
            ["--gpus", "3", "--gpu_type", "H100"],
            "and the partition low has 2 with 2; choose another (--slurm.partition)",
        ),
        (["--slurm.gpus-per-node", "4", "--gpus", "4"], "no node of the partition low has 4 GPUs; the most is 2"),
        (
            ["--slurm.gpus-per-node", "h100", "--gpus", "4"],
            "a number, or a type and a number as in h100:8, got",
        ),
        (["--array", "3"], "--array: an array shares the work of sampling or evaluation, and "),
    ],
)
def test_what_slurm_cannot_give_is_refused_before_it_is_queued(site, write_recipe, words, message):
    done = site.command("submit", write_recipe("sft"), *words)
    assert done.returncode == 1 and message in done.stderr, done


def test_a_pipeline_is_jobs_that_wait_for_each_other(site, pipeline, tmp_path):
    """One that fails holds up those that need it; the same command then goes on with what is missing."""
    out = tmp_path / "pipeline"
    rows = tmp_path / "rows.jsonl"
    words = ("submit", pipeline, "--output_dir", out, "--array", 2, "--base.datasets.0", rows)
    first = site.command(*words)
    assert first.returncode == 0 and len(re.findall(r"job \d+ after \d+", first.stdout)) == 2, first
    site.slurm.wait(ids_in(first.stdout)[-1])
    lines = site.command("status", out).stdout
    assert re.search(r"base .*failed.*rows\.jsonl", lines), lines
    assert len(re.findall(r"(?:sampled|measured\.base) .*blocked .*needs base", lines)) == 2, lines
    rows.write_text("".join(json.dumps({"text": f"a {i % 10}"}) + "\n" for i in range(64)))
    second = site.command(*words)
    assert second.returncode == 0, second
    running = site.command("status", out).stdout
    assert re.search(r"sampled .*waiting .*for base", running), running
    again = site.command(*words)
    assert again.stdout.count("is queued already") == 3, again
    # The report of an earlier start would have summed up too early.
    assert site.slurm.job(ids_in(second.stdout)[-1])["JobState"] == "CANCELLED"
    site.slurm.wait(ids_in(again.stdout)[-1], timeout=240)
    state = files.read_json(out / "state.json")
    assert state["state"] == "finished" and {stage["state"] for stage in state["stages"]} == {"finished"}
    assert (out / "report.html").is_file()
    of_stage = {stage["name"]: Path(stage["dir"]) for stage in state["stages"]}
    assert shards.count_rows(of_stage["sampled"] / "data") == 2 * PROBLEMS["args"]["rows"]
    made = files.read_jsonl(of_stage["sampled"] / "shards.jsonl")
    assert len({row["process"] for row in made}) == 2, "each job of the array made some of the files"
    for directory in of_stage.values():
        shutil.rmtree(directory)


def test_a_pipeline_as_one_job(site, pipeline, tmp_path):
    out = tmp_path / "pipeline"
    done = site.command("submit", pipeline, "--output_dir", out, "--one-job")
    assert done.returncode == 0, done
    (id,) = ids_in(done.stdout)
    site.until((out / "state.json").is_file, id)
    site.slurm.run("scancel", id)
    assert site.slurm.wait(id)["JobState"] == "CANCELLED"
    lines = site.command("status", out).stdout
    assert re.search(r"base .*interrupted", lines) and f"job     {id} CANCELLED" in lines, lines


def test_stages_that_were_cancelled(site, pipeline, tmp_path):
    """The same command submits them again."""
    out = tmp_path / "pipeline"
    words = ("submit", pipeline, "--output_dir", out, "--slurm.begin", "now+1hour")
    shown = site.command(*words, "--dry-run").stdout
    assert re.findall(r"slurm/(\w+)\.slurm .*    # after (base|all of them)", shown) == [
        ("sample", "base"), ("sample", "base"), ("report", "all of them"),
    ]  # fmt: skip
    assert shown.count("\nsbatch ") == 4 and not list(out.glob("slurm.json"))
    ids = ids_in(site.command(*words).stdout)
    site.slurm.run("scancel", *ids)
    lines = site.command("status", out).stdout
    assert len(re.findall(r"interrupted .*CANCELLED before it began", lines)) == 3, lines
    again = ids_in(site.command(*words).stdout)
    assert len(again) == 4 and not set(again) & set(ids)
    site.slurm.run("scancel", *again)
