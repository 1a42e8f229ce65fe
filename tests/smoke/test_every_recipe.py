"""Every YAML under recipes/ parses, resolves, and takes two real steps, or makes real rows, at toy size."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from safetensors.torch import load_file

from open_r1.config.loading import load_recipe
from open_r1.config.schema import DATA_TASKS, TASKS, TRAINERS, find_task_module
from open_r1.data import shards
from open_r1.rewards.scoring import ScoredBatch
from open_r1.rewards.verdict import Verdict
from open_r1.system.files import read_json

RECIPES = sorted(ROOT.glob("recipes/*/*/*.yaml"))
OF_TRAINERS = [path for path in RECIPES if path.parent.name in TRAINERS]
OF_EVALUATION = [path for path in RECIPES if path.parent.name == "evaluate"]
# Pages of whatever recipe are drawn by the same code, which takes longer than the rest: one of each task.
DRAWN = {path.parent.name: path for path in RECIPES if "tiny" in path.parts}
OF_DATA = [path for path in RECIPES if path.parent.name in DATA_TASKS]


@pytest.fixture
def lively(monkeypatch):
    """Every scorer is really called, and then answers by chance: a random model would earn 0 and learn nothing."""
    called = set()
    really = ScoredBatch._call_reward

    def by_chance(self, r, texts, *rest):
        results = really(self, r, texts, *rest)
        assert not any(isinstance(result, Verdict) and result.outcome == "error" for result in results), results
        called.add(self.rewards[r].name)
        texts = [texts] if isinstance(texts, str) else texts
        return [float(hashlib.sha256(text.encode()).digest()[0] % 2) for text in texts]

    monkeypatch.setattr(ScoredBatch, "_call_reward", by_chance)
    return called


def test_there_are_recipes_for_every_task():
    assert {path.parent.name for path in RECIPES} == set(TASKS)


def named(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=[str(path.relative_to(ROOT / "recipes")) for path in paths])


def is_drawn(path: Path) -> bool:
    return path == DRAWN[path.parent.name]


def at_toy_size(path: Path) -> list[str]:
    return ["--toy"] if is_drawn(path) else ["--toy", "--report", "false"]


@named(OF_DATA)
def test_rows_at_toy_size(path: Path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    recipe = load_recipe(path, [*at_toy_size(path), "--output_dir", str(tmp_path)])
    importlib.import_module(find_task_module(recipe.task)).main(recipe)
    assert shards.count_rows(tmp_path / "data") > 0
    assert (tmp_path / "data" / "README.md").is_file()
    assert (tmp_path / "report.html").is_file() == is_drawn(path)


@named(OF_EVALUATION)
def test_figures_at_toy_size(path: Path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    recipe = load_recipe(path, [*at_toy_size(path), "--output_dir", str(tmp_path)])
    importlib.import_module(find_task_module(recipe.task)).main(recipe)
    for benchmark in recipe.args.benchmarks:
        told = read_json(tmp_path / "evaluations" / f"{benchmark.name}.json")
        assert told["samples"] == benchmark.k * told["problems"] > 0
        assert told["metrics"]["pass@1"]["problems"] > 0
    assert (tmp_path / "report.html").is_file() == is_drawn(path)


@named(OF_TRAINERS)
def test_two_steps_at_toy_size(path: Path, tmp_path, lively, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = ["--output_dir", str(tmp_path), "--learning_rate", "1e-3", "--print_every", "0"]
    recipe = load_recipe(path, [*at_toy_size(path), *words])
    done = importlib.import_module(find_task_module(recipe.task)).main(recipe)
    assert (tmp_path / "report.html").is_file() == is_drawn(path)
    metrics = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert sum('"loss"' in row for row in metrics) == 2
    if recipe.task == "grpo":
        assert lively == {reward.name for reward in recipe.run.rewards}
    before, after = load_file(done.dir / "init" / "model.safetensors"), _weights(done.dir / "model")
    if recipe.model.use_peft and not recipe.run.merge_adapter:
        # B of every low-rank pair starts at 0.
        assert any(after[name].abs().max() > 0 for name in after if "lora_B" in name)
    else:
        assert any(not before[name].equal(after[name]) for name in before)


def _weights(model: Path) -> dict:
    return load_file(next(model.glob("*.safetensors")))


@named(RECIPES)
def test_a_recipe_says_what_it_needs(path: Path):
    """Hardware and the source of its numbers, in the comment at its head."""
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert "Hardware:" in head and ("Numbers" in head or "tiny" in path.parts)
    if not {"tiny", "any"} & {*path.parts} and path.parent.name not in ("select", "mix"):
        assert yaml.safe_load(path.read_text())["gpus"] >= 1


def test_accelerate_configs_exist_for_every_recipe_that_names_one():
    for path in RECIPES:
        name = yaml.safe_load(path.read_text()).get("accelerate_config")
        assert name is None or (ROOT / "recipes" / "accelerate_configs" / f"{name}.yaml").is_file()
