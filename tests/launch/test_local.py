"""A recipe and those it starts from, run one after another on this machine."""

from __future__ import annotations

import importlib
from collections import Counter

import pytest
import yaml

from open_r1.config import recipe as recipe_files
from open_r1.config.recipe import read_recipe
from open_r1.launch import local
from open_r1.system.files import write_json


@pytest.fixture
def reads(monkeypatch) -> Counter[str]:
    """How often each YAML file of a recipe is read."""
    count: Counter[str] = Counter()
    read = recipe_files.read_yaml

    def counted(path):
        count[str(path)] += 1
        return read(path)

    monkeypatch.setattr(recipe_files, "read_yaml", counted)
    return count


def test_every_recipe_is_read_once(write_recipe, tmp_path, monkeypatch, reads):
    def finish(recipe):
        recipe.run_dir.mkdir(parents=True)
        (recipe.run_dir / "recipe.yaml").write_text(yaml.safe_dump(recipe.given))
        write_json(recipe.run_dir / "status.json", {"state": "finished"})
        ran.append(recipe.path.stem)
        return recipe

    ran = []
    for task in ("sft", "grpo", "sample"):
        monkeypatch.setattr(importlib.import_module(f"open_r1.{task}"), "main", finish)
    base = write_recipe("sft", "base", output_dir=str(tmp_path / "base"))
    prompts = write_recipe("sample", "prompts", output_dir=str(tmp_path / "prompts"), base_recipe=str(base))
    own = {"random_init": ..., "base_recipe": str(base), "datasets": [str(prompts)]}
    path = write_recipe("grpo", "zero", **own)
    done = local.run_recipe(str(path), ["--learning_rate", "1e-5"])
    assert ran == ["base", "prompts", "zero"] and done.args.learning_rate == 1e-5
    assert done.model.model_name_or_path == str(tmp_path / "base" / "model")
    # The prompts start from the same base, which they read on their own.
    assert reads == {str(path): 1, str(prompts): 1, str(base): 2}


@pytest.mark.parametrize(
    ("task", "keys", "processes"),
    [
        ("grpo", {}, 1),
        ("grpo", {"gpus": 8}, 8),
        ("grpo", {"gpus": 8, "toy": True}, 1),
        ("sample", {"gpus": 4}, 4),
        ("sample", {"gpus": 4, "engine": {"name": "vllm"}}, 1),
        ("sample", {"gpus": 4, "engine": "server"}, 1),
    ],
)
def test_processes_of_a_recipe(write_recipe, task, keys, processes):
    assert read_recipe(write_recipe(task, **keys)).processes == processes
