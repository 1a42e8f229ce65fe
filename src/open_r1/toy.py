"""`--toy`: any recipe at toy size, on a CPU, in seconds, with nothing to download.

The code path stays the recipe's own (trainer, loss, LoRA or 4-bit, prompt, chat template, rewards); model, tokenizer,
data and batch shrink. What cannot be had without a download is replaced and said: a hub model by a random one of its
architecture, a hub tokenizer by a byte-level one, a hub dataset by the miniature's problems.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

MODEL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
# Keys that only make sense at the recipe's real size or on its hardware.
DROPPED = (
    "deepspeed", "fsdp", "fsdp_config", "attn_implementation", "use_liger_kernel", "use_vllm", "vllm_mode", "packing",
    "padding_free", "generation_batch_size", "steps_per_generation", "warmup_steps", "gradient_accumulation_steps",
    "num_train_epochs", "push_to_hub", "gpus", "base_recipe", "accelerate_config", "model_init_kwargs",
    "use_transformers_continuous_batching", "activation_offloading",
)  # fmt: skip
SIZE = {
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "max_steps": 2,
    "save_strategy": "no",
    "gradient_checkpointing": False,
    "dtype": "float32",
    "bf16": False,
    "fp16": False,
    "report_to": "none",
    "dataloader_num_workers": 0,
    "dataset_num_proc": None,
}
TASK_SIZE: dict[str, dict[str, Any]] = {
    "grpo": {"num_generations": 4, "max_completion_length": 16},
    "sft": {"max_length": 512},
    "dpo": {"max_length": 512},
    "reward": {"max_length": 512},
}
MAKERS = {"grpo": "problems", "sft": "pretraining", "dpo": "preferences", "reward": "preferences"}


def shrink(given: dict[str, Any]) -> dict[str, Any]:
    """A recipe's keys at toy size; keys of the recipe that name local files are kept."""
    task = given["task"]
    small = {k: v for k, v in given.items() if k not in DROPPED} | SIZE | TASK_SIZE[task]
    for key in ("dataloader_num_workers", "dataset_num_proc"):
        if key not in given:
            del small[key]
    model = str(given.get("model_name_or_path") or "")
    if not _local(model) and "random_init" not in given:
        family = "llama" if "llama" in model.lower() else "qwen2"
        small["random_init"] = {"model_type": family, **MODEL}
    tokenizer = str(given.get("tokenizer_name_or_path") or (model if "random_init" not in given else ""))
    if not _local(tokenizer):
        small["tokenizer_name_or_path"] = "open_r1.models:byte_tokenizer"
    for key in ("datasets", "eval_datasets"):
        if key in given:
            small[key] = [_small_source(source, task) for source in given[key]]
    if given.get("evaluation"):
        sources = [_small_source(source, "grpo") | {"rows": 4} for source in given["evaluation"].get("datasets") or []]
        small["evaluation"] = given["evaluation"] | {
            "datasets": sources,
            "k": 2,
            "every": 0,
            "max_completion_length": 16,
        }
    return small


def _local(path: str) -> bool:
    return ":" in path or (Path(path).exists() and path != "")


def _small_source(source: dict[str, Any] | str, task: str) -> dict[str, Any]:
    source = {"path": source} if isinstance(source, str) else source
    if not _local(str(source.get("path", ""))):
        return {"path": f"open_r1.tiny.problems:{MAKERS[task]}", "args": {"rows": 64}}
    return source | {"rows": min(64, source.get("rows") or 64)}
