"""What only a GPU shows: half precision, its kernels and its memory, on the recipes of the other tests.

make test-gpu, or: python -m pytest -m gpu tests/gpu
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from conftest import MODEL, ROOT
from safetensors.torch import load_file

from open_r1.config.loading import load_recipe
from open_r1.config.schema import find_task_module

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU"),
]
LORA = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["all-linear"], "learning_rate": 1e-2}
# Lossy: an update must be larger than what bfloat16 rounds away.
HALF = {"dtype": "bfloat16", "bf16": True, "learning_rate": 1e-2}
TASKS = ("sft", "grpo", "dpo")
ENGINES = {
    "generate": {},
    "continuous batching": {
        "use_transformers_continuous_batching": True,
        "transformers_continuous_batching_config": {"max_memory_percent": 0.05},
    },
    "vllm": {
        "use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.2, "vllm_max_model_length": 128,
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def paths(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "support" / "scripts"))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def trained(path: Path, *words: str):
    recipe = load_recipe(path, list(words))
    return importlib.import_module(find_task_module(recipe.task)).main(recipe)


def with_rewards(task: str, **keys):
    # Rewards that differ, or nothing would be learned.
    return keys | ({"rewards": [{"name": "lively_reward:even_length"}]} if task == "grpo" else {})


def moved(run) -> float:
    before, after = (load_file(run.dir / part / "model.safetensors") for part in ("init", "model"))
    return max((before[name].float() - after[name].float()).abs().max().item() for name in before)


def losses(run) -> list[float]:
    rows = [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("keys", [{"bf16": True, "learning_rate": 1e-3}, HALF], ids=["autocast", "bfloat16 weights"])
def test_full(write_recipe, task, keys):
    done = trained(write_recipe(task, **with_rewards(task, gpus=1, **keys)))
    assert moved(done) > 1e-4
    assert losses(done) and all(map(math.isfinite, losses(done)))
    told = json.loads((done.dir / "environment.json").read_text())
    assert told["gpus"] == [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("bits", [16, 4])
def test_adapters_merged_into_a_plain_model(write_recipe, task, bits):
    if bits == 4:
        pytest.importorskip("bitsandbytes")
    keys = LORA | {"bf16": True, "gpus": 1, "merge_adapter": True, "load_in_4bit": bits == 4}
    done = trained(write_recipe(task, **with_rewards(task, **keys)))
    assert moved(done) > 1e-4 and all(map(math.isfinite, losses(done)))
    assert not (done.dir / "model" / "adapter_config.json").exists()
    before, after = (load_file(done.dir / part / "model.safetensors") for part in ("init", "model"))
    untouched = [name for name in before if "norm" in name or "embed" in name]
    assert untouched and all(before[name].equal(after[name]) for name in untouched)


@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_follows_the_weights(write_recipe, engine):
    """With a large step the second batch of completions is the new model's, so their log-probabilities agree."""
    if engine == "vllm":
        pytest.importorskip("vllm")
    wide = MODEL | {"hidden_size": 64, "tie_word_embeddings": False}  # vLLM's kernels want heads of 32
    keys = {"gpus": 1, "random_init": wide, "learning_rate": 1e-2, "max_steps": 3, **ENGINES[engine]}
    done = trained(write_recipe("grpo", **with_rewards("grpo", **keys)))
    assert moved(done) > 1e-3
    rows = [json.loads(line) for line in (done.dir / "metrics.jsonl").read_text().splitlines()]
    found = [value for row in rows for key, value in row.items() if key.endswith("sampling_logp_difference/mean")]
    assert len(found) == (3 if engine == "vllm" else 0) and all(value < 0.1 for value in found)


@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention", "sdpa"])
def test_rows_of_a_pack_have_the_losses_they_have_alone(attention):
    import packing

    if attention not in packing.attentions():
        pytest.skip(f"{attention} is not installed")
    rows = packing.short_rows(32, packing.SMALL["vocab_size"])
    half = attention.startswith("flash")
    dtype = torch.bfloat16 if half else torch.float32
    found = packing.separation(packing.SMALL, rows, attention, pack=256, dtype=dtype)
    assert found["packs"] >= 2 and found["without boundaries"] > 1.0
    assert found["packed"] < (2 * found["padded"] + 0.1 if half else 1e-3), found


def test_packed_training_takes_the_attention_there_is(write_recipe):
    done = trained(write_recipe("sft", gpus=1, packing=True, bf16=True, learning_rate=1e-3))
    assert moved(done) > 1e-4 and all(map(math.isfinite, losses(done)))


@pytest.mark.parametrize("task", ["sft", "grpo"])
def test_resumed_as_if_never_interrupted(write_recipe, tmp_path, task):
    keys = with_rewards(
        task, gpus=1, bf16=True, max_steps=4, save_strategy="steps", save_steps=2, save_total_limit=3,
        learning_rate=1e-3,
    )  # fmt: skip
    path = write_recipe(task, **keys)
    whole = trained(path)
    # As a kill after the third step leaves it.
    killed = tmp_path / "killed"
    shutil.copytree(whole.dir, killed)
    for name in ("model", "checkpoint-4"):
        shutil.rmtree(killed / name)
    (killed / "status.json").unlink()
    again = trained(path, "--output_dir", str(killed))
    assert again.checkpoint == killed / "checkpoint-2"
    before, after = (load_file(run.dir / "model" / "model.safetensors") for run in (whole, again))
    # Some of a GPU's sums are added in the order in which they come.
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", ["sft", "sft, LoRA", "sft, QLoRA", "grpo"])
def test_memory_is_what_is_estimated(case, tmp_path):
    import memory

    path = memory.recipe(tmp_path, memory.CPU_CASES[case], gpu=True)
    taken = memory.in_a_process(path, gpu=True)["bytes"]
    tensors, _ = memory.estimated(path, "H100")  # of no kind of GPU in particular: overheads are left out
    assert tensors == pytest.approx(taken, rel=0.1)
