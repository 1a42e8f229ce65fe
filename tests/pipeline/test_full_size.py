"""The pipelines at full size resolve, with the paper's numbers (arXiv 2501.12948v2) through recipes and overrides."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import yaml
from conftest import ROOT

from open_r1.config.loading import load_recipe, resolve_recipe
from open_r1.config.overrides import format_overrides
from open_r1.config.schema import DatasetConfig
from open_r1.errors import RecipeError
from open_r1.pipeline.claim_checks import check_claims

FULL_SIZE = ("r1_qwen2.5_7b", "r1_qwen2.5_32b", "r1_deepseek_v3")
COMPARISONS = ("cold_start_tiny", "language_tiny", "sft_or_rl_tiny", "algorithms_tiny")
every_size = pytest.mark.parametrize("name", FULL_SIZE)


@cache
def pipeline(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "recipes" / "pipelines" / f"{name}.yaml").read_text())


@cache
def resolved(name: str) -> dict[str, Any]:
    """Each stage's recipe by the stage's name; what other stages make is named by a folder."""
    recipes = {}
    for stage in pipeline(name)["stages"]:
        overrides = dict(stage.get("overrides") or {})
        for i, source in enumerate(listed(stage.get("data"))):
            overrides |= {f"datasets.{i}.path": f"runs/{source}/data"} if source else {}
        if "model" in stage:
            overrides |= {"model_name_or_path": f"runs/{listed(stage['model'])[0]}/model", "base_recipe": None}
        path = ROOT / stage["recipe"]
        gpus = resolve_recipe(path, overrides)[1].get("gpus") or 1
        recipes[stage["name"]] = load_recipe(path, format_overrides(overrides), processes=gpus, planned=True)
    return recipes


def listed(wire: str | list[str | None] | None) -> list[str | None]:
    return wire if isinstance(wire, list) else [wire] if wire else []


def batch(recipe) -> int:
    """Rows or completions of an optimizer step."""
    given = recipe.given
    # Sequence parallelism: 8 GPUs share a row.
    rows = max(1, given["gpus"]) // (8 if given.get("accelerate_config") == "zero3_sp8" else 1)
    return given["per_device_train_batch_size"] * given.get("gradient_accumulation_steps", 1) * rows


@pytest.mark.parametrize("name", FULL_SIZE + COMPARISONS)
def test_every_stage_resolves_and_every_wire_has_a_source(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    stages = pipeline(name)["stages"]
    before: set[str] = set()
    tasks = {}
    for stage in stages:
        wired = [*listed(stage.get("model")), *listed(stage.get("data")), *listed(stage.get("reward_model"))]
        assert {source for source in wired if source} <= before, stage["name"]
        assert stage["name"] not in before
        before.add(stage["name"])
        task = resolved(name)[stage["name"]].task
        several = isinstance(stage.get("model"), list)
        tasks |= {f"{stage['name']}.{of}": task for of in stage["model"]} if several else {stage["name"]: task}
    check_claims(pipeline(name)["table"], tasks, {})


@every_size
def test_reinforcement_learning_has_the_papers_numbers(name, monkeypatch):
    """v2 2.1, 3.2.1, 3.2.2 and, for 32B, B.4.1."""
    monkeypatch.chdir(ROOT)
    rate = 2e-6 if name == "r1_qwen2.5_32b" else 3e-6
    stages = [stage for stage in resolved(name).values() if stage.task == "grpo"]
    assert len(stages) >= 6
    for recipe in stages:
        given = recipe.given
        assert (given["num_generations"], given["beta"], batch(recipe)) == (16, 0.001, 512)
        assert (given["ref_model_sync_steps"], given["ref_model_mixup_alpha"]) == (400, 1.0)
    for of in ("zero", "reasoning", "r1_rules", "r1", "r1_rules_paper", "r1_paper"):
        recipe = resolved(name)[of]
        assert recipe.given["learning_rate"] == rate
        assert recipe.given["temperature"] == (0.7 if of.startswith("r1") else 1.0)
        if of != "zero":
            assert recipe.given["epsilon"] == 10.0 and recipe.given["generation_batch_size"] == 8192
            assert recipe.given["max_completion_length"] == 32768
            rewards = [reward.name for reward in recipe.run.rewards if reward.name != "reward_model"]
            assert rewards == ["accuracy", "think_format", "language_consistency"]
            assert all(reward.weight == 1 for reward in recipe.run.rewards)
    for first, last in (("r1_rules", "r1"), ("r1_rules_paper", "r1_paper")):
        given = [resolved(name)[of] for of in (first, last)]
        assert [recipe.given["max_steps"] for recipe in given] == [1300, 400]
        assert ["reward_model" in {r.name for r in recipe.run.rewards} for recipe in given] == [False, True]
        assert {source.kind for source in given[1].data.datasets} == {"math", "general"}


def test_r1_zero_is_as_long_as_the_papers(monkeypatch):
    monkeypatch.chdir(ROOT)
    stages = [resolved("r1_deepseek_v3")[of].given for of in ("zero_short", "zero")]
    assert sum(given["max_steps"] for given in stages) == 10_400
    assert [given["max_completion_length"] for given in stages] == [32_768, 65_536]


@every_size
def test_supervised_stages_have_the_papers_numbers(name, monkeypatch):
    """v2 B.4.2, B.4.3, Table 6 and 3.1."""
    monkeypatch.chdir(ROOT)
    rates = {
        "Qwen/Qwen2.5-Math-1.5B": 1e-4, "Qwen/Qwen2.5-Math-7B": 8e-5, "Qwen/Qwen2.5-14B": 7e-5,
        "Qwen/Qwen2.5-32B": 6e-5, "meta-llama/Llama-3.1-8B": 5e-5, "meta-llama/Llama-3.3-70B-Instruct": 2e-5,
    }  # fmt: skip
    students = 0
    for of, recipe in resolved(name).items():
        if recipe.task != "sft":
            continue
        given = recipe.given
        student = of.startswith("student")
        students += student
        assert batch(recipe) == (64 if student else 128), of
        assert given["learning_rate"] == (rates[given["model_name_or_path"]] if student else 5e-5), of
        assert (
            given["lr_scheduler_type"] == "cosine_with_min_lr" and given["lr_scheduler_kwargs"]["min_lr_rate"] == 0.1
        )
        assert given["max_length"] == 32768 and given["num_train_epochs"] in (2, 3)
    assert students == {"r1_qwen2.5_7b": 1, "r1_qwen2.5_32b": 3, "r1_deepseek_v3": 6}[name]
    judge = resolved(name)["preference_model"]
    assert (batch(judge), judge.given["learning_rate"], judge.given["num_train_epochs"]) == (256, 6e-6, 1)
    assert judge.given["max_length"] == 8192
    mixed = [(source.path, source.weight) for source in resolved(name)["sft_mix"].data.datasets]
    assert mixed == [("runs/reasoning_data/data", 0.75), ("runs/general_data/data", 0.25)]
    assert resolved(name)["zero_samples"].args.sampling.temperature == 1.0


@every_size
def test_step_4_has_both_variants_and_the_second_sft_begins_at_the_base(name):
    stages = {stage["name"]: stage for stage in pipeline(name)["stages"]}
    assert (stages["aligned"]["model"], stages["r1_rules"]["model"], stages["r1"]["model"]) == (
        "sft",
        "aligned",
        "r1_rules",
    )
    assert (stages["r1_rules_paper"]["model"], stages["r1_paper"]["model"]) == ("sft", "r1_rules_paper")
    assert "model" not in stages["sft"] and "model" not in stages["cold_start"]
    steps = list(dict.fromkeys(stage["step"] for stage in pipeline(name)["stages"] if "step" in stage))
    assert steps == ["0", "1", "2", "3a", "3b", "3c", "4", "5"]


@pytest.mark.parametrize("name", COMPARISONS)
def test_a_comparison_shares_what_it_can_with_the_miniature(name):
    """The same recipe, wires and overrides are one run."""
    miniature = {shared_part(stage) for stage in pipeline("r1_tiny")["stages"]}
    stages = {stage["name"]: stage for stage in pipeline(name)["stages"]}
    shared = {
        "cold_start_tiny": ["base", "zero", "zero_samples", "cold_start_data", "cold_start"],
        "language_tiny": ["base", "zero", "zero_language"],
        "sft_or_rl_tiny": ["base"],
        "algorithms_tiny": ["base", "grpo"],
    }[name]
    for of in shared:
        assert shared_part(stages[of]) in miniature, of
    assert pipeline(name)["seeds"] == pipeline("r1_tiny")["seeds"]


def shared_part(stage: dict[str, Any]) -> str:
    return yaml.safe_dump({key: stage.get(key) for key in ("recipe", "model", "data", "overrides")})


def test_the_algorithms_have_one_budget(monkeypatch):
    monkeypatch.chdir(ROOT)
    told = {"task", "output_dir", "loss_type", "scale_rewards", "beta", "epsilon", "epsilon_high", "rewards",
            "mask_truncated_completions", "use_bias_correction_kl"}  # fmt: skip
    one, *others = (resolved("algorithms_tiny")[of] for of in ("grpo", "dr_grpo", "dapo", "rloo"))
    for other in others:
        differing = {key for key in one.given | other.given if one.given.get(key) != other.given.get(key)}
        assert differing <= told, differing - told
        assert [r.name for r in other.run.rewards][:2] == [r.name for r in one.run.rewards]
    assert [recipe.task for recipe in (one, *others)] == ["grpo", "grpo", "grpo", "rloo"]


def test_neither_sft_nor_rl_sees_a_long_problem(monkeypatch):
    from open_r1.data import sources

    monkeypatch.chdir(ROOT)
    digits = {"sft_short": set(), "rl_short": set()}
    for of in digits:
        (source,) = resolved("sft_or_rl_tiny")[of].data.datasets
        for row in sources.load_source(source, seed=0):
            asked = row["messages"][0] if "messages" in row else row["prompt"][0]
            digits[of].add(sum(word.isdigit() for word in asked["content"].split()))
    assert digits == {"sft_short": {2, 3, 4}, "rl_short": {2, 3, 4}}
    measured = {b.name: b.datasets[0].args["steps"] for b in resolved("sft_or_rl_tiny")["measured"].args.benchmarks}
    assert measured == {"longer": [5, 6], "seen": [2, 4]}


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def test_pairs_of_one_s_own_and_public_ones_are_asked_once(tmp_path, monkeypatch):
    """UltraFeedback has the question as its prompt and again in both answers."""
    from open_r1.data import presenting

    monkeypatch.chdir(ROOT)
    own = {"prompt": said("2+2?"), "chosen": said("", "4")[1:], "rejected": said("", "5")[1:], "kind": "math"}
    public = {"prompt": "hello", "chosen": said("hello", "hi"), "rejected": said("hello", "no"), "score_chosen": 8.0}
    long = {
        "prompt": "hello",
        "chosen": said("hello", "hi", "well?", "yes"),
        "rejected": said("hello", "hi", "well?", "no"),
    }
    for name, rows in (("own", [own] * 4), ("public", [public] * 2), ("long", [long] * 2)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"--datasets.0.path={tmp_path}/own.jsonl", f"--datasets.1.path={tmp_path}/public.jsonl"]
    recipe = load_recipe("recipes/Qwen2.5-7B/dpo/r1.yaml", [*words, "--datasets.1.split=train"], 8, planned=True)
    rows = list(presenting.load_datasets(recipe.data.datasets, "dpo", recipe.data, 0))
    told = {row["prompt"][-1]["content"]: row for row in rows}
    assert set(told) == {"2+2?", "hello"}
    assert all(len(row[side]) == 1 for row in rows for side in ("prompt", "chosen", "rejected"))
    assert told["hello"]["chosen"] == said("", "hi")[1:] and told["hello"]["rejected"] == said("", "no")[1:]
    (longer,) = {
        json.dumps(row, sort_keys=True)
        for row in presenting.load_datasets([DatasetConfig(f"{tmp_path}/long.jsonl")], "reward", recipe.data, 0)
    }
    assert json.loads(longer)["prompt"] == said("hello", "hi", "well?")
    implicit = [{side: long[side] for side in ("chosen", "rejected")}]
    (tmp_path / "implicit.jsonl").write_text(json.dumps(implicit[0]) + "\n")
    recipe.data.datasets[1].path = f"{tmp_path}/implicit.jsonl"
    with pytest.raises(RecipeError, match="some sources have a column `prompt`"):
        presenting.load_datasets(recipe.data.datasets, "dpo", recipe.data, 0)
