"""A recipe is right, or says what is wrong with it before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from open_r1.config.loading import load_recipe
from open_r1.config.overrides import apply_overrides, parse_overrides
from open_r1.config.recipe import derive_output_dir
from open_r1.errors import RecipeError


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as error:
        load_recipe(path, list(overrides))
    return str(error.value)


def test_values_reach_trl_and_our_configs(write_recipe):
    recipe = load_recipe(write_recipe("grpo", learning_rate="1e-6", use_peft=True, lora_r=4))
    assert recipe.task == "grpo"
    assert recipe.args.learning_rate == 1e-6, "YAML reads 1e-6 as text"
    assert recipe.model.lora_r == 4
    assert [r.name for r in recipe.run.rewards] == ["accuracy", "think_format"]
    assert recipe.data.datasets[0].args["rows"] == 32


def test_defaults_are_the_papers(write_recipe):
    args = load_recipe(write_recipe("grpo", num_generations=..., per_device_train_batch_size=16)).args
    assert (args.loss_type, args.scale_rewards, args.beta, args.num_generations) == ("grpo", "group", 0.001, 16)
    assert args.use_bias_correction_kl is False


def test_unknown_key_names_the_nearest(write_recipe):
    assert "'learning_rte'; did you mean 'learning_rate'?" in refused(write_recipe("sft", learning_rte=1e-5))
    assert "did you mean 'num_generations'" in refused(write_recipe("grpo"), "--num_generation", "8")


def test_unknown_key_of_a_dataset_names_the_nearest(write_recipe):
    message = refused(write_recipe("sft", datasets=[{"path": "x.jsonl", "colums": {}}]))
    assert "datasets.0: unknown key 'colums'; did you mean 'columns'?" in message


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("learning_rate", "fast", "learning_rate: expected float"),
        ("learning_rate", True, "learning_rate: expected float"),
        ("max_steps", 2.5, "max_steps: expected int"),
        ("use_peft", "perhaps", "use_peft: expected bool"),
        ("datasets", {"path": "x"}, "datasets: expected a list"),
        ("dtype", "float8", "dtype: 'float8' is not one of auto, bfloat16"),
    ],
)
def test_wrong_type_names_key_and_value(write_recipe, key, value, told):
    message = refused(write_recipe("sft", **{key: value}))
    assert told in message and repr(value) in message


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"num_generations": 3}, "num_generations: groups of 3 do not divide the 8 completions"),
        ({"num_generations": 3}, "the nearest num_generations that does is 2"),
        ({"num_generations": 1}, "a group of 1 has no spread"),
        ({"use_vllm": True}, "use_vllm: vLLM generates on a GPU and this machine has none"),
        ({"load_in_4bit": True}, "load_in_4bit: quantized weights cannot be trained themselves; add `use_peft: true`"),
        ({"merge_adapter": True}, "merge_adapter: there is no adapter"),
        ({"rewards": []}, "rewards: the list is empty"),
        ({"rewards": [{"name": "acuracy"}]}, "there is no reward named 'acuracy'; did you mean 'accuracy'?"),
        ({"rewards": [{"name": "accuracy"}] * 2}, "'accuracy' is listed twice"),
        ({"rewards": [{"name": "accuracy", "strict": 1}]}, "accuracy has no parameter 'strict'"),
        ({"reward_weights": [1.0, 1.0]}, "reward_weights: weights stand beside each reward"),
        ({"sync_ref_model": True, "beta": 0.0}, "sync_ref_model: with `beta: 0`"),
        ({"datasets": []}, "datasets: the list is empty"),
        ({"streaming": True, "max_steps": ...}, "streaming: a stream has no known length"),
        ({"prompt": "r1zero"}, "prompt: no prompt is named 'r1zero'; did you mean 'r1_zero'?"),
        ({"chat_template": "chatml_thnk"}, "did you mean 'chatml_think'"),
        ({"attn_implementation": "flash_attention_2"}, "flash_attention_2 needs a GPU"),
        ({"gpus": 8}, "written for 8 GPUs and this machine has none"),
        ({"gpus": 8}, "add --toy"),
        ({"random_init": ...}, "model_name_or_path: no model is named"),
        ({"save_total_limit": 1}, "save_total_limit: keep at least 2"),
        ({"save_total_limit": "two"}, "save_total_limit: expected int"),
        ({"num_generations": None}, "num_generations: a group of None"),
        ({"num_generations": "many"}, "num_generations: expected int"),
        ({"accelerate_config": "zero3"}, "random_init: loads a whole model on one process"),
        ({"save_only_model": True}, "save_only_model: without optimizer"),
        ({"hub_token": "hf_secret"}, "hub_token: a recipe is written to disk"),
    ],
)
def test_impossible_combinations(write_recipe, keys, told):
    import torch

    if torch.cuda.is_available() and ("gpus" in keys or "use_vllm" in keys):
        pytest.skip("this machine has a GPU")
    assert told in refused(write_recipe("grpo", **keys))


def test_the_batch_is_counted_over_all_processes(write_recipe, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    message = refused(write_recipe("grpo", num_generations=16))
    assert "do not divide the 24 completions" in message and "is 12" in message


def test_rewards_belong_to_grpo(write_recipe):
    assert "rewards: sft has no rewards" in refused(write_recipe("sft", rewards=[{"name": "accuracy"}]))


def test_trls_own_refusals_name_the_recipe(write_recipe):
    message = refused(write_recipe("sft", lr_scheduler_type="cosinus"))
    assert "lr_scheduler_type" in message or "cosinus" in message


def test_task_comes_from_the_folder(tmp_path):
    path = tmp_path / "recipes" / "m" / "training" / "x.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("seed: 1\n")
    assert "'training' is not one of sft, grpo, rloo, dpo" in refused(path)


def test_missing_and_malformed_files(tmp_path):
    assert "no recipe at" in refused(tmp_path / "none.yaml")
    assert "did you mean 'recipes/tiny/grpo/r1_zero.yaml'" in refused(Path("recipes/tiny/grpo/r1_zer.yaml"))
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1\n")
    assert "not valid YAML" in refused(bad)
    bad.write_text("- a\n")
    assert "must be a mapping" in refused(bad)


def test_overrides():
    words = [
        "--seed",
        "7",
        "--lr=1e-3",
        "--overwrite",
        "--modules",
        "q",
        "v",
        "--rewards.1.weight",
        "0.5",
        "--new.inner",
        "x",
    ]
    changes = parse_overrides(words)
    assert changes["modules"] == ["q", "v"] and changes["overwrite"] is True
    given = apply_overrides({"seed": 1, "rewards": [{"name": "a"}, {"name": "b"}]}, changes)
    assert (
        given["seed"] == 7 and given["rewards"][1] == {"name": "b", "weight": 0.5} and given["new"] == {"inner": "x"}
    )


def test_overrides_of_lists_reach_the_configs(write_recipe):
    words = [
        "--lora_target_modules",
        "q_proj",
        "v_proj",
        "--use_peft",
        "--datasets.0.args.rows",
        "7",
        "--rewards.0.weight",
        "3",
    ]
    recipe = load_recipe(write_recipe("grpo"), words)
    assert recipe.model.lora_target_modules == ["q_proj", "v_proj"]
    assert recipe.data.datasets[0].args["rows"] == 7 and recipe.run.rewards[0].weight == 3.0


def test_words_that_yaml_would_turn_into_something_else():
    words = [
        "--system_prompt",
        "Answer: yes",
        "--a",
        "@you",
        "--b",
        "#### (.+)",
        "--save_strategy",
        "no",
        "--c",
        "null",
    ]
    changes = parse_overrides(words)
    assert changes == {"system_prompt": "Answer: yes", "a": "@you", "b": "#### (.+)", "save_strategy": "no", "c": None}


def test_a_bare_no_in_a_file_is_a_strategy(write_recipe):
    path = write_recipe("sft")
    path.write_text(path.read_text().replace("save_strategy: 'no'", "save_strategy: no"))
    assert load_recipe(path).args.save_strategy == "no"


def test_the_launcher_counts_the_processes_it_will_start(write_recipe):
    path = write_recipe("grpo", num_generations=16)
    assert load_recipe(path, processes=2).args is None
    assert "do not divide the 8 completions" in refused(path)


def test_an_override_of_nothing_is_refused(write_recipe):
    assert "'9' is not an index of a list with 1 entries" in refused(write_recipe("sft"), "--datasets.9.path", "x")
    assert "expected an override" in refused(write_recipe("sft"), "seed")


def test_the_same_command_means_the_same_directory():
    path = Path("recipes/tiny/grpo/r1_zero.yaml")
    assert derive_output_dir(path, "grpo", {}) == "runs/tiny/grpo/r1_zero"
    assert derive_output_dir(path, "grpo", {"seed": 7}) == "runs/tiny/grpo/r1_zero--seed=7"
    assert derive_output_dir(path, "grpo", {"seed": 7, "report_to": "wandb"}) == "runs/tiny/grpo/r1_zero--seed=7"
    long = derive_output_dir(path, "grpo", {f"key{i}": "x" * 20 for i in range(20)})
    assert len(long) < 80


def test_toy_shrinks_what_the_command_line_leaves_open():
    words = ["--toy", "--max_steps", "5", "--gpus", "4"]
    recipe = load_recipe("recipes/Qwen2.5-32B/grpo/r1_zero.yaml", words)
    assert recipe.args.max_steps == 5 and recipe.run.gpus == 0 and recipe.args.use_vllm is False
    assert recipe.args.max_completion_length == 16 and recipe.run.random_init["model_type"] == "qwen2"
    assert recipe.args.beta == 0.001 and recipe.data.prompt == "r1_zero", "what the recipe does stays"


def test_the_resolved_recipe_resolves_to_itself(write_recipe, tmp_path):
    first = load_recipe(write_recipe("grpo"), ["--seed", "5", "--rewards.1.weight", "2"])
    again = tmp_path / "elsewhere" / "recipe.yaml"
    again.parent.mkdir()
    again.write_text(yaml.safe_dump(first.given))
    second = load_recipe(again)
    assert second.given == first.given and second.run.rewards == first.run.rewards
    assert second.args.to_dict() == first.args.to_dict()


def test_a_base_is_made_with_the_seed_of_the_run():
    recipe = load_recipe("recipes/tiny/grpo/r1_zero.yaml", ["--seed", "7"])
    assert recipe.model.model_name_or_path == "runs/tiny/sft/base--seed=7/model"
    assert recipe.base.command == "recipes/tiny/sft/base.yaml --seed 7"
    assert load_recipe("recipes/tiny/grpo/r1_zero.yaml").base.command == "recipes/tiny/sft/base.yaml"
