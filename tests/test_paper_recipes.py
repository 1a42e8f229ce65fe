"""The recipes for GPUs have the paper's numbers (arXiv 2501.12948v2), and fit their base models and their hardware."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from open_r1.config.loading import load_recipe
from open_r1.config.recipe import Recipe, is_recipe
from open_r1.config.schema import TRAINERS

RECIPES = ROOT / "recipes"
FOR_GPUS = [path for path in sorted(RECIPES.glob("*/*/*.yaml")) if not {"tiny", "any"} & {*path.parts}]
TRAINED = [path for path in FOR_GPUS if path.parent.name in TRAINERS]
SEQUENCE_PARALLEL = {"zero3_sp8": 8}  # processes that share a row
OWN_MASTERS = ("zero2", "zero3", "zero2_offload", "zero3_offload", "zero3_sp8")  # float32 copies kept by DeepSpeed

# Table 6: initial learning rates.
STUDENTS = {
    "Qwen2.5-Math-1.5B": 1e-4, "Qwen2.5-Math-7B": 8e-5, "Qwen2.5-14B": 7e-5, "Qwen2.5-32B": 6e-5,
    "Llama-3.1-8B": 5e-5, "Llama-3.3-70B-Instruct": 2e-5,
}  # fmt: skip
# 2.1, and for 32B B.4.1: learning rates of R1-Zero. Ours: tokens of a completion; the paper's are 32,768.
ZERO = {
    "Qwen2.5-0.5B": (3e-6, 8192), "Qwen2.5-1.5B": (3e-6, 8192), "Qwen2.5-3B": (3e-6, 8192),
    "Qwen2.5-7B": (3e-6, 32768), "Qwen2.5-14B": (3e-6, 32768), "Qwen2.5-32B": (2e-6, 32768),
    "Qwen2.5-Math-1.5B": (3e-6, 3072), "Qwen2.5-Math-7B": (3e-6, 3072), "Llama-3.1-8B": (3e-6, 8192),
}  # fmt: skip
# `max_position_embeddings` of the models' config.json.
POSITIONS = {
    "Qwen/Qwen2.5-0.5B": 32768, "Qwen/Qwen2.5-1.5B": 32768, "Qwen/Qwen2.5-3B": 32768, "Qwen/Qwen2.5-7B": 131072,
    "Qwen/Qwen2.5-14B": 131072, "Qwen/Qwen2.5-32B": 131072, "Qwen/Qwen2.5-Math-1.5B": 4096,
    "Qwen/Qwen2.5-Math-7B": 4096, "Qwen/Qwen2.5-1.5B-Instruct": 32768, "Qwen/Qwen2.5-7B-Instruct": 32768,
    "Qwen/Qwen2.5-Coder-7B-Instruct": 32768, "meta-llama/Llama-3.1-8B": 131072,
    "meta-llama/Llama-3.3-70B-Instruct": 131072, "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 131072,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": 131072,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # recipes name one another from there


@cache
def recipe_of(path: Path) -> Recipe:
    return load_recipe(path, [], processes=yaml.safe_load(path.read_text()).get("gpus") or 1, planned=True)


def of_model(model: str, name: str) -> Recipe:
    return recipe_of(RECIPES / model / f"{name}.yaml")


def batch(recipe: Recipe) -> int:
    """Rows or completions of an optimizer step."""
    given = recipe.given
    shared = SEQUENCE_PARALLEL.get(given.get("accelerate_config"), 1)
    assert given["gpus"] % shared == 0
    return given["per_device_train_batch_size"] * given.get("gradient_accumulation_steps", 1) * given["gpus"] // shared


def decays_to_a_tenth(recipe: Recipe) -> bool:
    given = recipe.given
    return given["lr_scheduler_type"] == "cosine_with_min_lr" and given["lr_scheduler_kwargs"] == {"min_lr_rate": 0.1}


def named(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=[str(path.relative_to(RECIPES)) for path in paths])


@pytest.mark.parametrize("variant", ["", "_lora", "_qlora"])
@pytest.mark.parametrize("model", STUDENTS)
def test_students(model, variant):
    """B.4.3 and Table 6; an adapter's rate is ours: ten times as much, at most 2e-4."""
    recipe = of_model(model, f"sft/distill{variant}")
    given, rate = recipe.given, STUDENTS[model]
    assert given["learning_rate"] == (min(10 * rate, 2e-4) if variant else rate)
    assert decays_to_a_tenth(recipe) and given["num_train_epochs"] in (2, 3)
    assert (batch(recipe), given["max_length"]) == (64, 32768)
    assert given.get("packing", False) is (given.get("accelerate_config") not in SEQUENCE_PARALLEL)
    assert (recipe.model.use_peft, recipe.model.load_in_4bit) == (bool(variant), variant == "_qlora")
    assert [(source.path, source.name) for source in recipe.data.datasets] == [("open-r1/Mixture-of-Thoughts", "all")]


@pytest.mark.parametrize("kind", ["", "_code"])
@pytest.mark.parametrize("model", ZERO)
def test_r1_zero(model, kind):
    """2.1 and 2.2 (eq. 4); 32B: B.4.1."""
    recipe = of_model(model, f"grpo/r1_zero{kind}")
    given, (rate, length) = recipe.given, ZERO[model]
    assert (given["learning_rate"], given["max_completion_length"]) == (rate, length)
    assert (given["num_generations"], batch(recipe), given["beta"], given["temperature"]) == (16, 512, 0.001, 1.0)
    assert given["sync_ref_model"] is True
    assert (given["ref_model_sync_steps"], given["ref_model_mixup_alpha"]) == (400, 1.0)
    assert recipe.data.prompt == "r1_zero" and all(reward.weight == 1 for reward in recipe.run.rewards)
    kinds = {reward.name: reward.kinds for reward in recipe.run.rewards}
    if not kind:
        assert kinds == {"accuracy": None, "think_format": None}
        return
    assert kinds == {"accuracy": ["math"], "code": ["code"], "think_format": None}
    assert [(source.kind, source.weight) for source in recipe.data.datasets] == [("math", 0.5), ("code", 0.5)]


def test_supervised_stages_of_32b():
    """B.4.2."""
    for name in ("sft/cold_start", "sft/r1"):
        recipe = of_model("Qwen2.5-32B", name)
        assert (batch(recipe), recipe.given["max_length"], recipe.given["learning_rate"]) == (128, 32768, 5e-5)
        assert decays_to_a_tenth(recipe) and recipe.given["num_train_epochs"] in (2, 3)


def test_reinforced_stages_of_32b():
    """3.2.1, 3.2.2 and, for the learning rate, B.4.1."""
    for name, temperature in (("r1_reasoning", 1.0), ("r1_rules", 0.7), ("r1", 0.7)):
        recipe = of_model("Qwen2.5-32B", f"grpo/{name}")
        given = recipe.given
        assert (given["learning_rate"], given["temperature"], given["epsilon"]) == (2e-6, temperature, 10.0)
        assert (given["num_generations"], batch(recipe), given["generation_batch_size"]) == (16, 512, 8192)
        assert (given["beta"], given["ref_model_sync_steps"], given["max_completion_length"]) == (0.001, 400, 32768)
        assert {"accuracy", "think_format", "language_consistency"} <= {reward.name for reward in recipe.run.rewards}
    assert [of_model("Qwen2.5-32B", f"grpo/{of}").given["max_steps"] for of in ("r1_rules", "r1")] == [1300, 400]


def test_stages_of_32b_point_to_one_another():
    """But for the reward model, which is of 7B."""
    for path in FOR_GPUS:
        if path.parts[-3] == "Qwen2.5-32B":
            recipe = recipe_of(path)
            made = [recipe.run.base_recipe, *(source.path for source in recipe.data.datasets)]
            for other in filter(None, made):
                assert not is_recipe(other) or (other.startswith("recipes/Qwen2.5-32B/") and Path(other).is_file())


@named([path for path in FOR_GPUS if path.parent.name not in ("select", "mix")])
def test_the_header_says_hardware_and_sources(path):
    text = path.read_text()
    head = " ".join(re.match(r"(#.*\n)+", text)[0].replace("#", " ").split())
    given = recipe_of(path).given
    config = f", {given['accelerate_config']}" if given.get("accelerate_config") else ""
    assert re.search(rf"^# Hardware: {given['gpus']} GPUs? of \d+ GB{config} \(.+\)\.$", text, re.MULTILINE)
    assert "Numbers" in head
    for source in recipe_of(path).data.datasets:
        assert is_recipe(source.path) or source.path in head
    assert not {"attn_implementation", "use_liger_kernel"} & {*yaml.safe_load(text)}


@named(TRAINED)
def test_training_fits_its_hardware(path):
    recipe = recipe_of(path)
    given, config = recipe.given, recipe.run.accelerate_config
    assert (given["gpus"] > 1) is (config is not None)
    assert batch(recipe) >= 64 and given["save_total_limit"] == 2 and given["save_steps"]
    assert recipe.data.contamination.action == "drop"
    # Without float32 copies of the weights small updates are lost in bfloat16 ones.
    assert given["dtype"] == ("bfloat16" if recipe.model.use_peft or config in OWN_MASTERS else "float32")
    if recipe.model.load_in_4bit:
        assert config in (None, "ddp") and not given.get("use_vllm")


@named(TRAINED)
def test_the_context_is_within_the_model_s_positions(path):
    recipe = first = recipe_of(path)
    while first.run.base_recipe:
        first = recipe_of(ROOT / first.run.base_recipe)
    given = recipe.given
    stretched = (given.get("model_init_kwargs") or {}).get("max_position_embeddings")
    positions = stretched or POSITIONS[first.model.model_name_or_path]
    if recipe.task != "grpo":
        assert given["max_length"] <= positions
        return
    assert given["max_completion_length"] < positions
    if given.get("use_vllm"):
        assert given["max_completion_length"] + 1024 <= given["vllm_max_model_length"] <= positions
