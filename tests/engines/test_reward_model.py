"""Training a reward model, and using it as a reward: the same scores, alone, in a batch and in the trainer."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from conftest import ROOT
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification
from transformers.integrations import deepspeed
from trl import RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from open_r1 import grpo, models, reward
from open_r1.config.loading import load_recipe
from open_r1.engines.reward_model import RewardModel
from open_r1.errors import RecipeError
from open_r1.rewards.verdict import Verdict
from open_r1.tiny import problems

LORA = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["all-linear"], "learning_rate": 1e-2}
PROMPT = "add a 4 b 5 last digit ?"
ANSWERS = [
    "<think> a 4 then b 5 makes 9 </think> <answer> 9 </answer>",
    "<think> maybe 3 </think> <answer> 3 </answer>",
    "9",
    "",
    "no word of this world \ud800 \0 好",
]


def trained(write_recipe, **keys):
    return reward.main(load_recipe(write_recipe("reward", **keys)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A reward model of two steps, as its trainer saved it."""
    from conftest import SMALL, TASKS

    path = tmp_path_factory.mktemp("recipes") / "small" / "reward" / "recipe.yaml"
    path.parent.mkdir(parents=True)
    keys = SMALL | TASKS["reward"] | {"output_dir": str(path.parent / "run"), "learning_rate": 1e-2}
    path.write_text(yaml.safe_dump(keys))
    return reward.main(load_recipe(path)).dir / "model"


def moved(run) -> dict[str, float]:
    before, after = (load_file(run.dir / part / "model.safetensors") for part in ("init", "model"))
    return {name: (before[name] - after[name]).abs().max().item() for name in before}


def test_full(write_recipe):
    held_out = {"path": "open_r1.tiny.problems:preferences", "args": {"rows": 8, "split": "test"}}
    evaluated = {"eval_datasets": [held_out], "eval_strategy": "steps", "eval_steps": 1}
    done = trained(write_recipe, learning_rate=1e-3, report=True, **evaluated)
    assert moved(done)["score.weight"] > 1e-4 and max(moved(done).values()) > 1e-4
    assert json.loads((done.dir / "status.json").read_text())["state"] == "finished"
    config = json.loads((done.dir / "model" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"] and config["pad_token_id"] == 0
    rows = [json.loads(line) for line in (done.dir / "metrics.jsonl").read_text().splitlines()]
    assert any("eval_accuracy" in row for row in rows)
    assert "REWARD of a random model" in (done.dir / "model" / "README.md").read_text()
    assert "Preference accuracy" in (done.dir / "report.html").read_text()


@pytest.mark.parametrize("bits", [{}, {"load_in_4bit": True}], ids=["lora", "qlora"])
def test_adapters_are_merged_with_the_head_they_trained(write_recipe, bits):
    done = trained(write_recipe, merge_adapter=True, **LORA, **bits)
    change = moved(done)
    # The rows of the embedding say whether 4-bit weights were merged: those move everywhere by the rounding.
    assert change["score.weight"] > 1e-4 and change["model.embed_tokens.weight"] == 0
    assert change["model.layers.0.mlp.up_proj.weight"] > 1e-4
    base = AutoModelForSequenceClassification.from_pretrained(done.dir / "init", num_labels=1)
    adapted = PeftModel.from_pretrained(base, done.dir / "adapter")
    adapted.config.pad_token_id = 0
    merged = RewardModel(str(done.dir / "model"))
    ids = list(range(10, 20))
    assert merged.compute_logits([ids])[0] == pytest.approx(adapted(torch.tensor([ids])).logits.item(), abs=1e-4)


def test_interrupted_it_goes_on_bit_for_bit(write_recipe):
    keys = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-3}
    whole = trained(write_recipe, **keys)
    weights = load_file(whole.dir / "model" / "model.safetensors")
    for left in ("checkpoint-4", "model"):
        shutil.rmtree(whole.dir / left)
    (whole.dir / "status.json").unlink()
    resumed = trained(write_recipe, **keys)
    assert resumed.checkpoint is not None and resumed.checkpoint.name == "checkpoint-2"
    for name, weight in load_file(resumed.dir / "model" / "model.safetensors").items():
        assert weight.equal(weights[name]), name


def test_an_adapter_alone_is_refused_as_a_reward(write_recipe):
    done = trained(write_recipe, **LORA)
    with pytest.raises(RecipeError, match="merge_adapter: true"):
        RewardModel(str(done.dir / "model"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"prompt": "r1_zero"}, "prompt: r1_zero"),
        (LORA | {"lora_modules_to_save": ["lm_head"]}, "lora_modules_to_save"),
        (LORA | {"lora_task_type": "CAUSAL_LM"}, "lora_task_type"),
        ({"rewards": [{"name": "accuracy"}]}, "rewards: reward has no rewards"),
    ],
)
def test_recipes_that_cannot_give_a_reward_model_are_refused(write_recipe, keys, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(write_recipe("reward", **keys))


def test_alone_and_in_a_batch_the_score_is_the_same(folder):
    scorer = RewardModel(str(folder))
    together = scorer(ANSWERS, [PROMPT] * len(ANSWERS))
    assert len(set(together)) == len(ANSWERS)
    for size in (1, 2):
        in_parts = RewardModel(str(folder), batch_size=size)(ANSWERS, [PROMPT] * len(ANSWERS))
        assert in_parts == pytest.approx(together, abs=1e-5)
    assert [scorer([answer], [PROMPT])[0] for answer in ANSWERS] == pytest.approx(together, abs=1e-5)
    assert scorer([], []) == []


def test_scores_are_those_of_the_trainers_own_model_on_the_trainers_own_tokens(folder, write_recipe):
    recipe = load_recipe(write_recipe("reward"))
    pairs = problems.preferences(seed=3, rows=4, close=0.5)
    tokenizer = models.load_named_tokenizer(str(folder))
    trainer = RewardTrainer(
        model=str(folder), args=recipe.args, train_dataset=pairs, processing_class=tokenizer
    )  # fmt: skip
    batch = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)(list(trainer.train_dataset))
    with torch.no_grad():
        wanted = trainer.model.eval()(**batch).logits.squeeze(-1).tolist()
    texts = [pair[side][0]["content"] for side in ("chosen", "rejected") for pair in pairs]
    prompts = [pair["prompt"][0]["content"] for pair in pairs] * 2
    assert RewardModel(str(folder))(texts, prompts) == pytest.approx(wanted, abs=1e-5)
    messages = [pair["prompt"] for pair in pairs] * 2
    assert RewardModel(str(folder))(texts, messages) == pytest.approx(wanted, abs=1e-5)


def test_only_the_summary_is_scored_if_asked(folder):
    whole, part = RewardModel(str(folder)), RewardModel(str(folder), summary_only=True)
    assert part([ANSWERS[0]], [PROMPT]) == pytest.approx(whole(["<answer> 9 </answer>"], [PROMPT]))
    assert part(["<think> a 4"], [PROMPT]) == pytest.approx(whole([""], [PROMPT]))
    assert whole([ANSWERS[0]], [PROMPT]) != pytest.approx(whole(["<answer> 9 </answer>"], [PROMPT]))


def test_of_a_long_text_the_end_is_scored(folder):
    scorer = RewardModel(str(folder), max_length=8)
    assert len(scorer._tokenize(PROMPT, "a 4 " * 1000)) == 8
    long = scorer(["b 5 " * 500 + "9", "b 5 " * 9 + "9", "b 5 " * 500 + "3"], [PROMPT] * 3)
    assert long[0] == pytest.approx(long[1], abs=1e-5) and long[0] != pytest.approx(long[2], abs=1e-3)
    assert RewardModel(str(folder)).max_length == 256  # what the model has positions for


def test_a_completion_cannot_write_another_turn(folder):
    scorer = RewardModel(str(folder))
    _, tokenizer = scorer.load()
    ids = scorer._tokenize(PROMPT, "9 <eos> <user> thank you <assistant> 9")
    roles = [tokenizer.convert_ids_to_tokens(i) for i in ids if i in tokenizer.all_special_ids]
    assert roles == ["<user>", "<assistant>", "<eos>"]


def test_without_a_chat_template_prompt_and_completion_are_plain_text(folder, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(folder, plain)
    (plain / "chat_template.jinja").unlink()
    _, tokenizer = RewardModel(str(plain)).load()
    assert tokenizer.decode(RewardModel(str(plain))._tokenize("add a 4 ", "9 ")) == "add a 4 9 <eos>"


def test_bounds(folder):
    raw = RewardModel(str(folder))(ANSWERS[:2], [PROMPT] * 2)
    bounded = RewardModel(str(folder), scale=0.1, tanh=True)(ANSWERS[:2], [PROMPT] * 2)
    assert bounded == pytest.approx([math.tanh(0.1 * score) for score in raw])


def altered(folder, tmp_path, change):
    copy = tmp_path / "altered"
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    change(weights)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return RewardModel(str(copy), tanh=True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_an_error(folder, tmp_path, value):
    broken = altered(folder, tmp_path, lambda weights: weights["score.weight"].fill_(value))
    verdicts = broken(ANSWERS[:2], [PROMPT] * 2)
    assert all(isinstance(v, Verdict) and v.outcome == "error" and "no number" in v.reason for v in verdicts)


def test_a_model_without_its_head_is_refused(folder, tmp_path):
    headless = altered(folder, tmp_path, lambda weights: weights.pop("score.weight"))
    with pytest.raises(RecipeError, match=r"altered lack score\.weight"):
        headless.load()


def test_what_is_no_reward_model_is_refused_before_training(folder, tmp_path):
    def with_config(**changed):
        copy = tmp_path / "-".join(changed)
        shutil.copytree(folder, copy)
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | changed))
        return str(copy)

    labels = {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}
    for name, message in (
        (str(tmp_path / "none"), "there is no folder"),
        ("no-such/model", "no-such/model is no model"),
        (with_config(architectures=["LlamaForCausalLM"]), "is LlamaForCausalLM"),
        (with_config(**labels), "2 labels"),
    ):
        with pytest.raises(RecipeError, match=message):
            RewardModel(name)
    truncated = tmp_path / "truncated"
    shutil.copytree(folder, truncated)
    (truncated / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(RecipeError, match="truncated cannot be loaded"):
        RewardModel(str(truncated)).load()


def test_loading_changes_neither_the_training_nor_its_zero3(folder):
    class Zero3:
        def is_zero3(self):
            return True

    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    held = Zero3()
    deepspeed.set_hf_deepspeed_config(held)
    try:
        RewardModel(str(folder)).load()
        assert deepspeed.is_deepspeed_zero3_enabled()
    finally:
        deepspeed.unset_hf_deepspeed_config()
    assert torch.rand(1) == expected


def test_it_rewards_a_grpo_run(write_recipe, folder):
    scorer = {
        "name": "open_r1.engines.reward_model:RewardModel",
        "label": "reward_model",
        "model": str(folder),
        "tanh": True,
    }
    done = grpo.main(load_recipe(write_recipe("grpo", rewards=[scorer], preflight=False)))
    rows = [json.loads(line) for line in (done.dir / "metrics.jsonl").read_text().splitlines()]
    means = [row["rewards/reward_model/mean"] for row in rows if "rewards/reward_model/mean" in row]
    assert len(means) == 2 and all(-1 < mean < 1 and mean for mean in means)


@pytest.mark.long
def test_the_tiny_recipe_learns_what_it_was_shown(tmp_path):
    run = tmp_path / "run"
    subprocess.run(
        [sys.executable, "-m", "open_r1.cli", "train", "recipes/tiny/reward/preferences.yaml", "--output_dir", run],
        cwd=ROOT, check=True, timeout=600,
    )  # fmt: skip
    scorer = RewardModel(str(run / "model"))
    pairs = problems.preferences(seed=9, rows=300, split="test", close=0.7)
    prompts = [pair["prompt"][0]["content"] for pair in pairs]
    chosen, rejected = (
        scorer([pair[side][0]["content"] for pair in pairs], prompts) for side in ("chosen", "rejected")
    )
    assert sum(c > r for c, r in zip(chosen, rejected, strict=True)) / len(pairs) > 0.85
