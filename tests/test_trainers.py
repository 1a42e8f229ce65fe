"""Full, LoRA and QLoRA through each trainer; adapters merged; options of TRL reached."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from open_r1 import dpo, grpo, sft
from open_r1.config.loading import load_recipe

MAIN = {"sft": sft.main, "grpo": grpo.main, "dpo": dpo.main}
LORA = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["all-linear"], "learning_rate": 1e-2}
LIVELY = [{"name": "lively_reward:even_length"}]


@pytest.fixture(autouse=True)
def lively(monkeypatch):
    from conftest import ROOT

    monkeypatch.syspath_prepend(str(ROOT / "tests" / "support" / "scripts"))


def trained(write_recipe, task: str, **keys):
    if task == "grpo":
        keys["rewards"] = LIVELY
    return MAIN[task](load_recipe(write_recipe(task, **keys)))


def moved(run) -> float:
    before, after = (load_file(run.dir / part / "model.safetensors") for part in ("init", "model"))
    return max((before[name] - after[name]).abs().max().item() for name in before)


@pytest.mark.parametrize("task", MAIN)
def test_full(write_recipe, task):
    done = trained(write_recipe, task, learning_rate=1e-3, report=True)
    assert moved(done) > 1e-4
    assert json.loads((done.dir / "status.json").read_text())["state"] == "finished"
    for name in ("recipe.yaml", "environment.json", "metrics.jsonl", "report.html", "model/tokenizer.json"):
        assert (done.dir / name).is_file(), name
    assert f"{task.upper()} of a random model by recipe.yaml" in (done.dir / "model" / "README.md").read_text()


@pytest.mark.parametrize("task", MAIN)
def test_lora_merged_into_a_plain_model(write_recipe, task):
    done = trained(write_recipe, task, merge_adapter=True, **LORA)
    assert moved(done) > 1e-4
    assert not (done.dir / "model" / "adapter_config.json").exists()
    assert_merged_equals_adapter(done)


@pytest.mark.parametrize("task", MAIN)
def test_qlora_merged_onto_full_precision(write_recipe, task):
    done = trained(write_recipe, task, load_in_4bit=True, merge_adapter=True, **LORA)
    # Had the adapter been merged into 4-bit weights, they would have moved everywhere by the rounding.
    before, after = (load_file(done.dir / part / "model.safetensors") for part in ("init", "model"))
    untouched = [name for name in before if "norm" in name or "embed" in name]
    assert untouched and all(before[name].equal(after[name]) for name in untouched)
    assert moved(done) > 1e-4
    assert_merged_equals_adapter(done)


def assert_merged_equals_adapter(done) -> None:
    ids = torch.arange(10, 20)[None]
    merged = AutoModelForCausalLM.from_pretrained(done.dir / "model", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(done.dir / "init", dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, done.dir / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("task", ["sft", "grpo"])
def test_streaming(write_recipe, task):
    assert moved(trained(write_recipe, task, streaming=True, learning_rate=1e-3)) > 1e-4


def test_an_adapter_alone_is_kept_as_one(write_recipe):
    done = trained(write_recipe, "sft", **LORA)
    assert (done.dir / "model" / "adapter_config.json").is_file()


def test_the_saved_model_stops_and_reads_with_plain_transformers(write_recipe):
    done = trained(write_recipe, "grpo")
    tokenizer = AutoTokenizer.from_pretrained(done.dir / "model")
    model = AutoModelForCausalLM.from_pretrained(done.dir / "model")
    assert tokenizer.decode(tokenizer("<think> a 2 </think>")["input_ids"]) == "<think> a 2 </think>"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id != tokenizer.pad_token_id


def test_options_of_trl_are_reached(write_recipe):
    problems = {"path": "open_r1.tiny.problems:problems", "args": {"rows": 8, "split": "test"}}
    done = trained(
        write_recipe, "grpo", loss_type="dr_grpo", beta=0.0, epsilon_high=0.28, mask_truncated_completions=True,
        eval_strategy="steps", eval_steps=1, eval_datasets=[problems], per_device_eval_batch_size=8,
    )  # fmt: skip
    rows = [json.loads(line) for line in (done.dir / "metrics.jsonl").read_text().splitlines()]
    assert any("eval_rewards/even_length/mean" in row for row in rows)
    assert not any("kl" in row for row in rows)


def test_live_evaluation_changes_nothing_in_the_training(write_recipe):
    problems = {"path": "open_r1.tiny.problems:problems", "args": {"rows": 6, "split": "test"}}
    evaluation = {"datasets": [problems], "k": 4, "every": 1, "live_rows": 3}
    plain = trained(write_recipe, "grpo", max_steps=3, learning_rate=1e-3)
    weights = load_file(plain.dir / "model" / "model.safetensors")
    watched = trained(write_recipe, "grpo", max_steps=3, learning_rate=1e-3, evaluation=evaluation, overwrite=True)
    assert all(weights[k].equal(v) for k, v in load_file(watched.dir / "model" / "model.safetensors").items())
    summary = json.loads((watched.dir / "summary.json").read_text())
    assert set(summary) == {"seed", "seconds", "before", "after"}
    assert (
        list(summary["before"]) == list(summary["after"]) == ["pass@1", "maj@4", "mean_length", "format", "language"]
    )
    rows = [json.loads(line) for line in (watched.dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "evaluation/pass@1" in row] == [0, 1, 2, 3]


def test_a_model_that_is_none_is_named(write_recipe, tmp_path):
    from open_r1.errors import RecipeError

    empty = tmp_path / "empty"
    empty.mkdir()
    for path, told in ((empty, "without config.json"), (tmp_path / "none", "there is no folder")):
        with pytest.raises(RecipeError, match=told):
            trained(write_recipe, "sft", random_init=..., model_name_or_path=str(path), overwrite=True)
