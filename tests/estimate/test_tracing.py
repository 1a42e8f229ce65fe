"""What is traced on tensors without contents is what real ones take, byte for byte, and counts are the models' own."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from open_r1.config import architectures
from open_r1.errors import RecipeError
from open_r1.estimate import tracing
from open_r1.estimate.tracing import Setting
from open_r1.estimate.workload import config_of
from open_r1.system.internals import add_fused_lm_head, simulate_lm_head

LORA = (("lora_alpha", 16), ("lora_dropout", 0.05), ("r", 8), ("target_modules", "all-linear"))
SMALL = AutoConfig.for_model(
    "qwen2", hidden_size=64, intermediate_size=256, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=500,
)  # fmt: skip


@pytest.mark.parametrize("name", architectures.list_architectures())
def test_a_shape_has_as_many_parameters_as_its_card_says(name):
    counts = tracing.count_parameters(config_of(name))
    assert counts.total / 1e9 == pytest.approx(architectures.parameters(name), rel=0.01)
    assert counts.trained == counts.total


def test_of_experts_a_token_uses_a_few():
    """DeepSeek-V3 activates 37 of 671 billion parameters for each token, embeddings included (arXiv 2412.19437)."""
    counts = tracing.count_parameters(config_of("deepseek-ai/DeepSeek-V3-Base"))
    assert counts.active / 1e9 == pytest.approx(37 - 129_280 * 7168 / 1e9, rel=0.02)


def test_an_adapter_is_counted_by_peft():
    counts = tracing.count_parameters(SMALL, LORA)
    layer = 2 * (64 + 64) + 2 * (64 + 32) + 2 * (64 + 256) + (256 + 64)  # in + out of q, o; k, v; gate, up; down
    assert counts.trained == 6 * 8 * layer
    assert counts.total == tracing.count_parameters(SMALL).total + counts.trained


def really(setting: Setting) -> tuple[int, int]:
    """Peak and kept bytes of the same step on real tensors."""
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_config(SMALL, dtype=torch.float32, attn_implementation=setting.attention)
    add_fused_lm_head(model, outputs=("log_probs", *(setting.outputs or ())))
    if setting.lora:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **dict(setting.lora)))
        model.enable_input_require_grads()
    model.train()
    if setting.checkpointing:
        model.gradient_checkpointing_enable()
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(tracing._drop_grad) if parameter.requires_grad else None
    ids = torch.zeros(setting.rows, setting.tokens, dtype=torch.long)
    inputs = {"input_ids": ids}
    if setting.rows > 1:
        inputs["attention_mask"] = torch.ones_like(ids)
        inputs["attention_mask"][0, -9:] = 0
    live = tracing._Live(iter([*model.parameters(), *model.buffers(), *inputs.values()]))
    with live, simulate_lm_head(False, SMALL.vocab_size):
        with torch.autocast("cpu", torch.bfloat16, enabled=setting.autocast):
            loss = model(**inputs, labels=ids, fused_lm_head=True).loss
        kept = live.now
        loss.backward()
    return live.peak, kept


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"checkpointing": True},
        {"checkpointing": True, "tokens": 640, "rows": 3},
        {"lora": LORA},
        {"lora": LORA, "checkpointing": True},
        {"autocast": True},
        {"outputs": ("entropy",)},
    ],
    ids=str,
)
def test_a_step_takes_what_real_tensors_take(keys):
    setting = Setting(**{"rows": 2, "tokens": 256, "attention": "sdpa", "fused": False} | keys)
    told, (peak, kept) = tracing.trace_step(SMALL, setting), really(setting)
    assert told.peak == pytest.approx(peak, rel=0.02)
    assert told.kept == pytest.approx(kept, rel=0.02)


def test_computing_again_and_a_fused_head_take_less():
    setting = Setting(rows=1, tokens=2048)
    wide = tracing.with_layers(SMALL, 6)
    wide.vocab_size = 40_000
    whole = tracing.trace_step(wide, setting)
    assert tracing.trace_step(wide, Setting(rows=1, tokens=2048, checkpointing=True)).kept < 0.1 * whole.kept
    assert tracing.trace_step(wide, Setting(rows=1, tokens=2048, fused=False)).peak > 2 * whole.peak


def test_a_four_bit_weight_is_made_whole_while_it_is_used():
    few = {"rows": 1, "tokens": 4, "dtype": "bfloat16", "autocast": True, "lora": LORA}
    plain, packed = tracing.trace_step(SMALL, Setting(**few)), tracing.trace_step(SMALL, Setting(**few, four_bit=True))
    # One of them at a time, of whichever size is in use at the fullest moment.
    assert 2 * 64 * 64 <= packed.backward - plain.backward <= 2 * 64 * 256


def test_an_architecture_that_is_built_otherwise_is_refused():
    with pytest.raises(RecipeError, match="a model of type gpt2 cannot be traced"):
        tracing.count_parameters(AutoConfig.for_model("gpt2", n_layer=2, n_embd=16, n_head=2))
