"""Models, tokenizers and machines that do not go together are refused by the key's name, before any training."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from transformers import AutoConfig, PreTrainedTokenizerFast

from open_r1 import models
from open_r1.config.checks import check_machine
from open_r1.config.loading import load_recipe
from open_r1.errors import RecipeError
from open_r1.estimate import estimate
from open_r1.rewards import registry
from open_r1.training import preflight


def saved(tmp_path, **special):
    """A folder with a word-level tokenizer of these special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<s>", "</s>", "<unk>", "<end>", "a", "b"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(tmp_path)
    return str(tmp_path)


def padding(path: str, task: str = "sft", write_recipe=None, **keys) -> str:
    recipe = load_recipe(write_recipe(task, tokenizer_name_or_path=path, **keys))
    return models.load_tokenizer(recipe).pad_token


def test_padding_is_never_the_end(write_recipe, tmp_path):
    """Padded with the end token, a model never learns to stop (huggingface/open-r1, issue 603)."""
    path = saved(tmp_path, eos_token="</s>", pad_token="</s>")
    with pytest.raises(RecipeError, match=r"pad_token: .* has no token for padding but its end token </s>"):
        padding(path, write_recipe=write_recipe)
    assert padding(path, write_recipe=write_recipe, pad_token="<unk>") == "<unk>"
    with pytest.raises(RecipeError, match=r"pad_token: </s> is the end token"):
        padding(path, write_recipe=write_recipe, pad_token="</s>")
    with pytest.raises(RecipeError, match=r"'<unq>' is no token of .*did you mean '<unk>'"):
        padding(path, write_recipe=write_recipe, pad_token="<unq>")


def test_what_is_only_read_may_be_padded_with_the_end(write_recipe, tmp_path):
    assert padding(saved(tmp_path, eos_token="</s>"), "sample", write_recipe) == "</s>"


def test_a_turn_that_does_not_end_with_the_end_token(write_recipe, tmp_path):
    template = "{% for m in messages %}{{ m.content }} <end> {% endfor %}"
    path = saved(tmp_path, eos_token="</s>", pad_token="<s>", chat_template=template)
    tokenizer = models.load_tokenizer(load_recipe(write_recipe("sft", tokenizer_name_or_path=path)))
    with pytest.raises(RecipeError, match=r"ends with '<end>', and generation with </s>.*chatml"):
        models.check_turns_end(tokenizer)
    tokenizer.eos_token = "<end>"
    models.check_turns_end(tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(RecipeError, match=r"chat_template: the tokenizer has none"):
        models.check_turns_end(tokenizer)


def test_a_training_on_such_turns_is_refused_and_its_check_says_so(write_recipe, tmp_path):
    template = "{% for m in messages %}{{ m.content }} <end> {% endfor %}"
    path = saved(tmp_path, eos_token="</s>", pad_token="<s>", chat_template=template)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n' * 8)
    recipe = write_recipe("sft", tokenizer_name_or_path=path, datasets=[{"path": str(rows)}])
    from open_r1 import sft

    with pytest.raises(RecipeError, match=r"never stops"):
        sft.main(load_recipe(recipe))
    assert any("never stops" in told for told in preflight.check_recipe(load_recipe(recipe, planned=True)).fatal)


@pytest.mark.parametrize("key", ["max_length", "max_completion_length"])
def test_a_context_longer_than_the_models(write_recipe, key):
    task = "sft" if key == "max_length" else "grpo"
    recipe = load_recipe(write_recipe(task, **{key: 512}))
    with pytest.raises(RecipeError, match=rf"{key}: 512 tokens, and the model has 256 positions"):
        models.prepare_weights(recipe, models.load_tokenizer(recipe))


def test_a_context_is_held_against_the_stretched_model(write_recipe, tmp_path):
    folder = tmp_path / "model"
    AutoConfig.for_model("qwen2", vocab_size=200, max_position_embeddings=64).save_pretrained(folder)
    keys = {"random_init": None, "model_name_or_path": str(folder), "max_length": 128}
    recipe = load_recipe(write_recipe("sft", **keys))
    with pytest.raises(RecipeError, match=r"max_length: 128 tokens, and .* has 64 positions"):
        models.prepare_weights(recipe, models.load_tokenizer(recipe))
    stretched = load_recipe(write_recipe("sft", **keys, model_init_kwargs={"max_position_embeddings": 128}))
    assert models.prepare_weights(stretched, models.load_tokenizer(stretched)) == str(folder)


def test_a_tokenizer_with_more_tokens_than_the_model(write_recipe, tmp_path):
    folder = tmp_path / "model"
    AutoConfig.for_model("qwen2", vocab_size=10).save_pretrained(folder)
    recipe = load_recipe(write_recipe("sft", random_init=None, model_name_or_path=str(folder)))
    with pytest.raises(RecipeError, match=r"tokens and the model 10; they do not belong together"):
        models.prepare_weights(recipe, models.load_tokenizer(recipe))


class OldGPU:
    """A machine with GPUs that lack bfloat16."""

    def __init__(self, monkeypatch, bf16: bool = False):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: "Tesla T4")
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)


def machine(recipe) -> None:
    check_machine(recipe.given, recipe.run, recipe.model)


def test_bfloat16_on_a_gpu_without_it(write_recipe, monkeypatch):
    recipe = load_recipe(write_recipe("sft", gpus=1), planned=True)
    OldGPU(monkeypatch)
    with pytest.raises(RecipeError, match=r"bf16: Tesla T4 has no bfloat16.*--fp16 true"):
        machine(recipe)
    for keys in ({"bf16": False}, {"fp16": True}):
        machine(load_recipe(write_recipe("sft", gpus=1, **keys), planned=True))


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is not None, reason="DeepSpeed is installed here")
def test_sharding_without_deepspeed(write_recipe, monkeypatch):
    recipe = load_recipe(write_recipe("sft", gpus=8, accelerate_config="zero2"), planned=True)
    OldGPU(monkeypatch, bf16=True)
    with pytest.raises(RecipeError, match=r"accelerate_config: zero2 needs DeepSpeed"):
        machine(recipe)


FOUR_BIT = {"use_peft": True, "load_in_4bit": True}


@pytest.mark.parametrize(
    ("task", "keys", "told"),
    [
        ("grpo", FOUR_BIT | {"accelerate_config": "ddp", "use_vllm": True}, "without their scales"),
        ("sft", {"use_peft": True, "lora_target_modules": ["q_proj"]}, r"write \['\.\*q_proj'\]"),
        ("sft", {"packing": True}, "packing: with zero3_sp8"),
        ("sft", {"gpus": 12}, "gpus: with zero3_sp8 a multiple of 8"),
        ("dpo", {}, "shares a sequence among GPUs in SFT only"),
        ("sft", FOUR_BIT | {"accelerate_config": "zero3"}, "does not shard 4-bit weights"),
    ],
)
def test_what_a_sharding_cannot_do(write_recipe, task, keys, told):
    given = {"random_init": None, "model_name_or_path": "Qwen/Qwen2.5-7B", "gpus": 8, "accelerate_config": "zero3_sp8"}
    with pytest.raises(RecipeError, match=told):
        load_recipe(write_recipe(task, **given | keys), planned=True)


def test_the_check_tells_memory_and_warns_of_what_does_not_fit(write_recipe):
    given = {"random_init": None, "model_name_or_path": "Qwen/Qwen2.5-7B", "gpus": 1, "dtype": "bfloat16"}
    findings = registry.Findings()
    recipe = load_recipe(write_recipe("sft", **given, max_length=2048), planned=True)
    estimate.note_memory(recipe, findings)
    assert any("bfloat16 weights are updated in bfloat16" in told for told in findings.warnings)
    findings = registry.Findings()
    keys = given | {"gpu_type": "RTX3090", "dtype": "float32", "max_length": 200_000}
    estimate.note_memory(load_recipe(write_recipe("sft", **keys), planned=True), findings)
    assert any("DOES NOT FIT" in told for told in findings.warnings)
    assert any("131,072 positions" in told for told in findings.warnings)
    findings = registry.Findings()
    unknown = given | {"model_name_or_path": "no/such-model"}
    estimate.note_memory(load_recipe(write_recipe("sft", **unknown), planned=True), findings)
    assert any("shape of no/such-model is not known" in told for told in findings.warnings) and not findings.fatal
