"""Variants of GRPO by one key: TRL's own keys, what stands beside them, and two steps of each."""

from __future__ import annotations

import importlib
import json

import pytest
import yaml
from conftest import ROOT

from open_r1.config.algorithms import ALGORITHMS
from open_r1.config.loading import load_recipe
from open_r1.config.schema import find_task_module
from open_r1.errors import RecipeError

ZERO = ROOT / "recipes" / "Qwen2.5-7B" / "grpo" / "r1_zero.yaml"


def given(*words: str) -> dict:
    return load_recipe(ZERO, list(words), processes=8, planned=True).given


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "rloo"])
def test_a_name_stands_for_trls_own_keys(name):
    changed = given("--algorithm", name)
    assert {key: changed[key] for key in ALGORITHMS[name]} == ALGORITHMS[name]


def test_dapo_adds_its_punishment_of_overlong_answers_once():
    names = [reward["name"] for reward in given("--algorithm", "dapo")["rewards"]]
    assert names == ["accuracy", "think_format", "soft_overlong"]
    own = '[{"name": "accuracy"}, {"name": "soft_overlong", "cache": 0.1}]'
    assert given("--algorithm", "dapo", "--rewards", own)["rewards"][1] == {"name": "soft_overlong", "cache": 0.1}


def test_what_is_written_beside_it_stands(write_recipe):
    path = write_recipe("grpo", algorithm="dapo", epsilon_high=0.4)
    recipe = load_recipe(path)
    assert (recipe.args.loss_type, recipe.args.epsilon, recipe.args.epsilon_high) == ("dapo", 0.2, 0.4)
    assert recipe.args.beta == 0.0
    assert [reward.name for reward in recipe.run.rewards] == ["accuracy", "think_format", "soft_overlong"]
    assert load_recipe(path, ["--epsilon", "0.1"]).args.epsilon == 0.1
    assert load_recipe(path, ["--algorithm", "dr_grpo"]).args.loss_type == "dr_grpo"


def test_a_name_that_is_none():
    with pytest.raises(RecipeError, match=r"algorithm: 'dapoo' is not one of .*did you mean 'dapo'"):
        given("--algorithm", "dapoo")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_two_steps(name, write_recipe, tmp_path):
    path = write_recipe("grpo", output_dir=str(tmp_path / "run"))
    recipe = load_recipe(path, ["--algorithm", name])
    importlib.import_module(find_task_module(recipe.task)).main(recipe)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum("loss" in row for row in rows) == 2
    # The run's own recipe says the same once more.
    written = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    again = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert again.task == recipe.task == ("rloo" if name == "rloo" else "grpo")
    assert {key: again.given[key] for key in ALGORITHMS[name]} == {key: written[key] for key in ALGORITHMS[name]}
