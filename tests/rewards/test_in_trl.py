"""What TRL makes of a score that is missing: in a group's advantages, and in the loss."""

from __future__ import annotations

import math
import sys
import types
import zlib

import pyarrow.parquet
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, LlamaConfig
from trl import GRPOConfig, GRPOTrainer

from open_r1.launch.local import run_recipe
from open_r1.tiny.tokenizer import build


def test_none_from_one_of_two_scorers_counts_as_zero(write_recipe, tmp_path, monkeypatch):
    module = types.ModuleType("scorers_of_trl")
    module.sometimes = lambda completion: 1.0 if zlib.crc32(completion.encode()) % 2 else None
    module.always = lambda completion: 1.0
    monkeypatch.setitem(sys.modules, "scorers_of_trl", module)
    rewards = [{"name": "scorers_of_trl:sometimes"}, {"name": "scorers_of_trl:always"}]
    run_recipe(str(write_recipe("grpo", rewards=rewards, preflight=False)), [])
    rows = [
        row
        for path in sorted((tmp_path / "run" / "completions").glob("*.parquet"))
        for row in pyarrow.parquet.read_table(path).to_pylist()
    ]
    missing = [row["sometimes"] is None or math.isnan(row["sometimes"]) for row in rows]
    assert 0 < sum(missing) < len(rows)
    for start in range(0, len(rows), 4):  # the groups
        reward = torch.tensor([1.0 if left_out else 2.0 for left_out in missing[start : start + 4]])
        expected = (reward - reward.mean()) / (reward.std() + 1e-4)
        assert [row["advantage"] for row in rows[start : start + 4]] == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_withheld_sample_counts_in_the_divisor_and_in_the_kl(tmp_path):
    torch.manual_seed(0)
    tokenizer = build()
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **shape)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")  # TRL loads the reference from it
    args = GRPOConfig(
        output_dir=str(tmp_path), loss_type="grpo", beta=0.5, use_bias_correction_kl=False, report_to="none",
        use_cpu=True, bf16=False, num_generations=2, per_device_train_batch_size=2, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=str(tmp_path / "model"), reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=args, train_dataset=Dataset.from_list([{"prompt": "1 + 1"}] * 2), processing_class=tokenizer,
    )  # fmt: skip
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    ids, ones = torch.tensor([[3, 4, 5], [3, 4, 5]]), torch.ones(2, 3, dtype=torch.long)
    with torch.no_grad():
        logps = trainer._get_per_token_logps_and_entropies(
            trainer.model, torch.cat([ids, ids], 1), torch.cat([ones, ones], 1), 3
        )[0]

    def loss(scored: float, withheld: float, away: float) -> float:
        """Loss of two like samples with these advantages; the second's reference is `away` in log probability."""
        reference = logps + torch.tensor([[0.0], [away]])
        inputs = {"prompt_ids": ids, "prompt_mask": ones, "completion_ids": ids, "completion_mask": ones}
        inputs |= {"advantages": torch.tensor([scored, withheld]), "ref_per_token_logps": reference}
        return trainer._compute_loss(trainer.model, inputs).item()

    assert loss(1.0, 0.0, 0.0) == pytest.approx(-1 / 2, abs=1e-5)  # the mean is over both samples
    kl = math.exp(1.0) - 1.0 - 1.0
    assert loss(1.0, 0.0, 1.0) == pytest.approx(-1 / 2 + 0.5 * kl / 2, abs=1e-5)
