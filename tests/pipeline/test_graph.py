"""A pipeline's file: what it says, and what is refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from open_r1.errors import RecipeError
from open_r1.pipeline import graph

PIPELINES = sorted((ROOT / "recipes" / "pipelines").glob("*.yaml"))


@pytest.fixture
def read(write_recipe, tmp_path):
    """`read(stages, key=value, changes={...})`: a pipeline file of these stages, read."""
    for task in ("sft", "sample", "select", "grpo", "reward", "evaluate", "mix"):
        write_recipe(task, "some")
    write_recipe("sft", "based", random_init=..., base_recipe="recipes/tiny/sft/base.yaml")
    write_recipe("select", "chained", datasets=["recipes/tiny/sample/zero.yaml"])
    write_recipe("sft", "pretrained", random_init=..., model_name_or_path="some/model")
    write_recipe("grpo", "judged", rewards=["accuracy", {"name": "reward_model", "model": "some/judge"}])

    def do(stages: Any, changes: dict[str, Any] | None = None, **keys: Any) -> graph.Pipeline:
        path = tmp_path / "made.yaml"
        path.write_text(yaml.safe_dump({"stages": stages} | keys))
        return graph.read_pipeline(path, changes)

    do.recipe = lambda task, name="some": str(tmp_path / "recipes" / "small" / task / f"{name}.yaml")
    return do


def stage(name: str, recipe: str, **keys: Any) -> dict[str, Any]:
    return {"name": name, "recipe": recipe} | keys


def a_graph(read) -> list[dict[str, Any]]:
    return [
        stage("base", read.recipe("sft")),
        stage("samples", read.recipe("sample", "some"), model="base", overrides={"random_init": None}),
        stage("chosen", read.recipe("select", "chained"), data="samples"),
        stage("judge", read.recipe("reward")),
        stage("trained", read.recipe("grpo", "judged"), model="base", reward_model="judge",
              overrides={"random_init": None}),
        stage("measured", read.recipe("evaluate"), model=["base", "trained"], overrides={"random_init": None}),
    ]  # fmt: skip


def test_stages_and_wires(read):
    made = read(a_graph(read), title="A title", seeds=[3, 1], jobs=2)
    assert (made.title, made.seeds, made.jobs, str(made.dir)) == ("A title", [3, 1], 2, "runs/pipelines/made")
    tasks = {one.name: one.task for one in made.stages}
    assert tasks == {"base": "sft", "samples": "sample", "chosen": "select", "judge": "reward", "trained": "grpo",
                     "measured.base": "evaluate", "measured.trained": "evaluate"}  # fmt: skip
    upstream = {one.name: one.upstream for one in made.stages}
    assert upstream["trained"] == ["base", "judge"] and upstream["measured.trained"] == ["trained"]
    assert made.after(["samples"]) == {"samples", "chosen"}
    assert made.after(["base"]) == set(tasks) - {"judge"}
    plain = read(a_graph(read))
    assert (plain.title, plain.seeds, plain.jobs, plain.toy) == ("made", [None], 1, False)


def test_the_order_is_the_file_s_but_for_the_wires(read):
    stages = a_graph(read)
    made = read([stages[2], stages[5], *stages[:2], *stages[3:5]])
    order = [one.name for one in graph.sort_stages(made.stages)]
    assert order == ["base", "measured.base", "samples", "chosen", "judge", "trained", "measured.trained"]


def test_the_command_line(read):
    changes = {"seeds": 7, "jobs": 3, "output_dir": "elsewhere", "toy": True}
    made = read(a_graph(read), changes | {"base.max_steps": 9, "measured.seed": 5, "measured.base.seed": 6})
    assert (made.seeds, made.jobs, str(made.dir), made.toy) == ([7], 3, "elsewhere", True)
    overrides = {one.name: one.overrides for one in made.stages}
    assert overrides["base"] == {"max_steps": 9}
    assert overrides["measured.base"]["seed"] == 6 and overrides["measured.trained"]["seed"] == 5


SFT, SELECT = "{sft}", "{select}"
REFUSED = {
    "no stages": ([], "stages: expected a list"),
    "no list": ("base", "stages: expected a list"),
    "no mapping": (["base"], r"stages\.0: expected a mapping"),
    "no name": ([{"recipe": SFT}], r"stages\.0: `name` is missing"),
    "no recipe": ([{"name": "a"}], r"stages\.0: `recipe` is missing"),
    "a bad name": ([stage("A-1", SFT)], "small letters, digits and _"),
    "an unknown key": ([stage("a", SFT, modle="b")], r"unknown key 'modle'; did you mean 'model'.*under `overrides`"),
    "the recipe's key": ([stage("a", SFT, max_steps=3)], "unknown key 'max_steps'.*under `overrides`"),
    "overrides of no mapping": ([stage("a", SFT, overrides=["x"])], "overrides: expected a mapping"),
    "one name twice": ([stage("a", SFT), stage("a", SFT)], "two stages are named 'a'"),
    "no such stage": ([stage("base", SFT), stage("a", SFT, model="bse")],
                      r"stages \(a\): model: no stage is named 'bse'; did you mean 'base'"),
    "a wire of a number": ([stage("a", SFT, model=3)], "model: expected the name of a stage"),
    "a directory of its own": ([stage("a", SFT, overrides={"output_dir": "x"})], "output_dir: the pipeline sets"),
    "no model at all": ([stage("a", SFT), stage("b", "{evaluate}", model=[])], "model: expected the name of a stage"),
    "a model that is none": ([stage("a", SFT, model=None), stage("b", SFT, model=[None])], "model: expected the name"),
    "a cycle": ([stage("a", SFT, data="b"), stage("b", SELECT, data="c"), stage("c", SELECT, data="b")],
                "these wait for one another: b -> c -> b"),
    "waiting for itself": ([stage("a", SFT, model="a")], "these wait for one another: a -> a"),
    "no such recipe": ([stage("a", "recipes/tiny/sft/bse.yaml")], r"stages \(a\): no recipe at recipes/tiny/sft/bse"),
    "data as a model": ([stage("a", SELECT), stage("b", "{pretrained}", model="a")],
                        r"stages \(b\): model: a is a select stage, which makes data"),
    "a model as data": ([stage("a", SFT), stage("b", SELECT, data="a")], "a is a sft stage, which makes model"),
    "an evaluation as data": ([stage("a", "{evaluate}"), stage("b", SELECT, data="a")], "which makes nothing"),
    "a model for a selection": ([stage("a", SFT), stage("b", SELECT, model="a")], "select does not use a model"),
    "a model for one that makes its own": ([stage("a", SFT), stage("b", SFT, model="a")], "random_init"),
    "a base that is no stage": ([stage("a", "{based}")], "starts from recipes/tiny/sft/base.yaml; make that a stage"),
    "a source that is no stage": ([stage("a", "{chained}")], r"datasets\.0 is made by recipes/tiny/sample/zero.yaml"),
    "more data than sources": ([stage("a", SELECT), stage("b", SELECT, data=["a", "a"])], "2 stages for the 1"),
    "a reward model without a reward": ([stage("a", "{reward}"), stage("b", "{grpo}", reward_model="a")],
                                        "has no reward named reward_model"),
    "more reward models than rewards": (
        [stage("a", "{reward}"), stage("b", "{judged}", reward_model=["a", "a"])], "2 stages for 1 such rewards"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, read, monkeypatch):
    monkeypatch.chdir(ROOT)
    stages, message = REFUSED[case]
    names = {"sft": ("sft",), "select": ("select",), "evaluate": ("evaluate",), "reward": ("reward",),
             "grpo": ("grpo",), "based": ("sft", "based"), "chained": ("select", "chained"),
             "pretrained": ("sft", "pretrained"), "judged": ("grpo", "judged")}  # fmt: skip
    for one in stages:
        if isinstance(one, dict) and one.get("recipe", "").startswith("{"):
            one |= {"recipe": read.recipe(*names[one["recipe"].strip("{}")])}
    with pytest.raises(RecipeError, match=message):
        read(stages)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"stage": []}, "unknown key 'stage'; did you mean 'stages'"),
        ({"seeds": "one"}, "seeds: expected a list of whole numbers"),
        ({"seeds": []}, "seeds: expected a list of whole numbers"),
        ({"seeds": [1, 1]}, "names one twice"),
        ({"seeds": [True]}, "seeds: expected a list of whole numbers"),
        ({"seeds": True}, "seeds: expected a list of whole numbers"),
        ({"jobs": 0}, "jobs: expected the number of stages"),
        ({"table": [{"shows": []}]}, r"table\.0\.says"),
        ({"table": [{"says": "x", "shows": [{"figure": "pass@1", "of": "measurd.base"}]}]}, "did you mean"),
        (
            {"table": [{"says": "x", "shows": [{"figure": "pass@1", "of": "samples"}]}]},
            "samples is of the task sample",
        ),
        (
            {"table": [{"says": "x", "shows": [{"figure": "pass@1", "of": "measured.base", "benchmark": "tinny"}]}]},
            "'tinny' is not a benchmark of measured.base; did you mean 'tiny'",
        ),
    ],
)
def test_settings_that_are_refused(keys, message, read):
    with pytest.raises(RecipeError, match=message):
        read(a_graph(read), **keys)


@pytest.mark.parametrize(
    "flag, message",
    [("bas.seed", "did you mean 'base'"), ("max_steps", "name a stage"), ("dry_runn", "did you mean 'dry_run'")],
)
def test_overrides_that_name_no_stage(flag, message, read):
    with pytest.raises(RecipeError, match=message):
        read(a_graph(read), {flag: 1})


@pytest.mark.parametrize("path", PIPELINES, ids=[path.stem for path in PIPELINES])
def test_every_pipeline_is_one(path: Path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert graph.is_pipeline(str(path)) and not graph.is_pipeline("recipes/tiny/sft/base.yaml")
    made = graph.read_pipeline(path)
    assert len({one.name for one in made.stages}) == len(made.stages)
    head = path.read_text().split("\ntitle:")[0]
    assert "Hardware" in head and "Numbers" in head
