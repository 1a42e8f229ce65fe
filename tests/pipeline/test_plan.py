"""Which stages would run, and why: planned from directories that are made up, without running anything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from open_r1.errors import RecipeError
from open_r1.pipeline import fingerprint, graph, plan, text
from open_r1.pipeline.directory import link_runs
from open_r1.pipeline.execute import Execution


@pytest.fixture
def planned(write_recipe, tmp_path, monkeypatch):
    """`planned(changes, chosen)`: the plan of base -> samples -> chosen -> second, talk (its own seed), measured."""
    monkeypatch.chdir(tmp_path)
    write_recipe("sft")
    write_recipe("sft", "second", random_init=..., model_name_or_path="x", datasets=["y"])
    write_recipe("sample", random_init=..., model_name_or_path="x")
    write_recipe("select", datasets=["x"])
    write_recipe("select", "talk")
    write_recipe("evaluate", random_init=..., model_name_or_path="x")
    stages = [
        {"name": "base", "recipe": "recipes/small/sft/recipe.yaml"},
        {"name": "samples", "recipe": "recipes/small/sample/recipe.yaml", "model": "base"},
        {"name": "chosen", "recipe": "recipes/small/select/recipe.yaml", "data": "samples"},
        {"name": "second", "recipe": "recipes/small/sft/second.yaml", "model": "base", "data": "chosen"},
        {"name": "talk", "recipe": "recipes/small/select/talk.yaml", "overrides": {"seed": 9}},
        {"name": "measured", "recipe": "recipes/small/evaluate/recipe.yaml", "model": ["base", "second"]},
    ]
    file = tmp_path / "made.yaml"
    file.write_text(yaml.safe_dump({"seeds": [0, 1], "stages": stages}))

    def do(changes=None, only=None, start=None, overwrite=False):
        pipeline = graph.read_pipeline(file, changes)
        pipeline.dir.mkdir(parents=True, exist_ok=True)
        do.pipeline = pipeline
        return plan.plan_jobs(pipeline, plan.choose_stages(pipeline, start, only), overwrite)

    def change(overrides):
        stages[0]["overrides"] = overrides
        file.write_text(yaml.safe_dump({"seeds": [0, 1], "stages": stages}))

    do.change = change

    return do


def finish(job: plan.Job) -> None:
    """Leave behind what the run would."""
    folder = {"evaluate": "evaluations"}.get(
        job.stage.task, "data" if job.stage.task in ("sample", "select") else "model"
    )
    name = {"evaluations": "tiny.json", "data": "train-0.parquet", "model": "model.safetensors"}[folder]
    (job.dir / folder).mkdir(parents=True)
    (job.dir / folder / name).write_text("{}")
    (job.dir / "status.json").write_text(json.dumps({"state": "finished", "seconds": 5.0}))
    plan.save_fingerprint(job)


def states(jobs: list[plan.Job]) -> dict[str, str]:
    return {job.named: job.state for job in jobs}


def finish_all(planned) -> list[plan.Job]:
    jobs = planned()
    for job in jobs:
        finish(job)
    Execution(planned.pipeline, planned()).keep()
    return jobs


def test_a_new_pipeline(planned):
    jobs = planned()
    assert len(jobs) == 13  # 7 stages of 2 seeds; one has a seed of its own
    assert {job.state for job in jobs} == {"waiting"} and {job.why for job in jobs} == {"new"}
    talk = next(job for job in jobs if job.stage.name == "talk")
    assert [seed for _, seed in talk.places] == [0, 1] and talk.changes["seed"] == 9
    second = next(job for job in jobs if job.named == "second, seed 1")
    base, chosen = second.upstream
    assert (base.named, chosen.named) == ("base, seed 1", "chosen, seed 1")
    assert second.changes["model_name_or_path"] == f"{base.dir}/model"
    assert second.changes["datasets.0"] == f"{chosen.dir}/data" and second.changes["seed"] == 1
    assert second.dir.name.startswith("small-sft-second-") and second.dir.parent == Path("runs/stages")
    assert len({job.dir for job in jobs}) == 13


def test_all_there(planned):
    finish_all(planned)
    jobs = planned()
    assert {job.state for job in jobs} == {"cached"} and {job.seconds for job in jobs} == {5.0}
    assert text.count_states(jobs) == "13 runs: 13 cached"


def test_one_override_runs_what_depends_on_it(planned):
    finish_all(planned)
    jobs = planned({"chosen.filters": ["finished"]})
    again = {job.named: job.why for job in jobs if job.state == "waiting"}
    assert set(again) == {
        f"{name}, seed {seed}" for name in ("chosen", "second", "measured.second") for seed in (0, 1)
    }
    assert again["chosen, seed 0"] == "filters.0: nothing -> finished; filters.0.name: correct -> nothing"
    assert again["second, seed 0"] == "because of chosen"
    assert again["measured.second, seed 1"] == "because of second"
    assert {job.state for job in planned()} == {"cached"}


@pytest.mark.parametrize("written", ["1e-3", "0.001", "1.0e-3", 0.001])
def test_a_number_is_the_same_however_it_is_written(written, planned):
    planned.change({"learning_rate": 0.001})
    finish_all(planned)
    assert {job.state for job in planned({"base.learning_rate": written})} == {"cached"}
    again = [job.why for job in planned({"base.learning_rate": "2e-3"}) if job.named == "base, seed 0"]
    assert again == ["learning_rate: 0.001 -> 2e-3"]


def test_another_seed_is_new(planned):
    finish_all(planned)
    jobs = planned({"seeds": [1, 2]})
    assert {job.named for job in jobs if job.state == "waiting"} == {
        job.named for job in jobs if job.seed == 2 and job.stage.name != "talk"
    }
    assert {job.why for job in jobs if job.state == "waiting"} == {"new"}


def test_what_is_gone_is_made_again_and_nothing_else(planned):
    finish_all(planned)
    jobs = {job.named: job for job in planned()}
    shutil.rmtree(jobs["samples, seed 0"].dir)
    shutil.rmtree(jobs["base, seed 1"].dir / "model")
    shutil.rmtree(jobs["chosen, seed 1"].dir / "data")
    (jobs["second, seed 0"].dir / "status.json").write_text(json.dumps({"state": "interrupted"}))
    again = {job.named: job.why for job in planned() if job.state == "waiting"}
    assert again == {
        "samples, seed 0": "its directory is gone",
        "base, seed 1": "its model is gone",
        "chosen, seed 1": "its data is gone",
        "second, seed 0": "not finished yet",
    }


def test_a_part_of_a_dataset_is_not_all_of_it(planned):
    finish_all(planned)
    samples = next(job for job in planned() if job.named == "samples, seed 0")
    data = samples.dir / "data"
    (data / "train-0.parquet").unlink()
    for number in range(3):
        (data / f"train-{number:05d}-of-00003.parquet").write_text("")
    assert {job.state for job in planned()} == {"cached"}
    (data / "train-00001-of-00003.parquet").unlink()
    assert [job.why for job in planned() if job.state == "waiting"] == ["its data is gone"]


def test_what_never_ran_is_new(planned):
    """A stage that was blocked has left no directory, and nothing to say what has changed since."""
    for job in planned():
        if job.stage.name == "base":
            finish(job)
    jobs = planned()
    for job in jobs:
        job.state = {"cached": "finished", "waiting": "blocked"}[job.state]
    Execution(planned.pipeline, jobs).keep()
    assert {job.why for job in planned() if job.state == "waiting"} == {"new"}
    changed = {job.stage.name: job.why for job in planned({"base.max_steps": 3}) if job.state == "waiting"}
    assert changed["base"] == "max_steps: 2 -> 3" and changed["samples"] == changed["second"] == "new"


def test_again_what_is_there_but_not_what_this_has_made_again(planned):
    finish_all(planned)
    jobs = planned(only=["base", "talk"], overwrite=True)
    again = [job for job in jobs if job.again]
    assert [job.named for job in again] == ["base, seed 0", "talk, seed 0", "base, seed 1"]
    assert {job.state for job in jobs if not job.again} == {"cached"}
    # Killed after the first of them: it stands in the state as finished since.
    execution = Execution(planned.pipeline, jobs, overwriting=100.0)
    again[0].state, again[0].ended = "finished", 101.0
    execution.keep()
    left = [job.named for job in planned(only=["base", "talk"], overwrite=True) if job.again]
    assert left == ["talk, seed 0", "base, seed 1"]


def test_changed_code_is_named(planned, monkeypatch):
    finish_all(planned)
    really = fingerprint.digest_code

    def changed(task, given):
        return really(task, given) | ({"open_r1.filters.rules": "another"} if task == "select" else {})

    monkeypatch.setattr(fingerprint, "digest_code", changed)
    again = {job.stage.name: job.why for job in planned() if job.state == "waiting"}
    assert again["chosen"] == again["talk"] == "code changed: open_r1.filters.rules"
    assert set(again) == {"chosen", "talk", "second", "measured.second"}


def test_only_and_from(planned):
    jobs = planned(only=["base", "samples"])
    waiting = {job.stage.name for job in jobs if job.state == "waiting"}
    assert waiting == {"base", "samples"}
    assert {job.state for job in jobs if job.stage.name not in waiting} == {"skipped"}
    with pytest.raises(
        RecipeError, match="chosen, seed 0 needs samples, seed 0, which is not there; choose it as well"
    ):
        planned(start=["chosen"])
    with pytest.raises(RecipeError, match="--only: there is no stage named 'bas'; did you mean 'base'"):
        planned(only=["bas"])
    for job in jobs:
        if job.state == "waiting":
            finish(job)
    jobs = planned(start=["chosen"])
    assert {job.stage.name for job in jobs if job.state == "waiting"} == {"chosen", "second", "measured.second"}
    jobs = planned(only=["measured.base"])
    assert {job.stage.name for job in jobs if job.state == "waiting"} == {"measured.base"}
    with pytest.raises(RecipeError, match=r"measured\.second, seed 0 needs second, seed 0"):
        planned(only=["measured"])


def test_links_show_the_stages_of_the_plan(planned, tmp_path):
    jobs = finish_all(planned)
    link_runs(planned.pipeline, jobs)
    seen = planned.pipeline.dir / "seed=1" / "measured.second" / "evaluations" / "tiny.json"
    assert seen.is_file()
    link_runs(planned.pipeline, planned({"seeds": 0}))
    assert not seen.exists() and not (planned.pipeline.dir / "seed=1").exists()
    assert (planned.pipeline.dir / "seed=0" / "base" / "model").is_dir()


def test_the_plan_in_the_terminal(planned):
    finish_all(planned)
    jobs = planned({"base.max_steps": 5, "seeds": [0, 1, 2]})
    lines = text.format_plan(planned.pipeline, jobs).splitlines()
    assert lines[1].split(None, 5) == ["base", "0,", "1", "to", "run", "max_steps: 2 -> 5"]
    assert lines[2].split() == ["base", "2", "to", "run", "new"]
    assert any(line.split() == ["talk", "all", "cached"] for line in lines)
    assert lines[-1] == "19 runs: 18 to run, 1 cached"
