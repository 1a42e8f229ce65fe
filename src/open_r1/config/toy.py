"""`--toy`: any recipe at toy size, on a CPU, in seconds, without a download.

The recipe keeps its code path (trainer, loss, LoRA or 4-bit, prompt, chat template, rewards); model, tokenizer, data
and batch shrink. Whatever needs a download is replaced: a hub model by a random one of its architecture, a hub
tokenizer that is not in the cache by a byte-level one, a hub dataset by the miniature's problems, a reward model by a
rule.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from ..benchmarks.registry import REPLACED
from . import architectures

MODEL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
# For a mixture of experts with latent attention (DeepSeek-V3), where each layer has the keys of all heads.
EXPERTS = {
    "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "moe_intermediate_size": 32, "first_k_dense_replace": 1, "kv_lora_rank": 16, "q_lora_rank": 16,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16,
}  # fmt: skip
# Keys that only make sense at the recipe's real size or on its hardware.
DROPPED = (
    "deepspeed", "fsdp", "fsdp_config", "attn_implementation", "use_liger_kernel", "use_vllm", "vllm_mode",
    "vllm_max_model_length", "packing", "padding_free", "generation_batch_size", "steps_per_generation",
    "warmup_steps", "gradient_accumulation_steps", "num_train_epochs", "push_to_hub", "gpus", "base_recipe",
    "accelerate_config", "model_init_kwargs", "use_transformers_continuous_batching", "activation_offloading",
    "hub_dataset_id", "deduplicate", "algorithm", "vllm_server_gpus", "vllm_server_restart",
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
    "rloo": {"num_generations": 4, "max_completion_length": 16},
    "sft": {"max_length": 512},
    "dpo": {"max_length": 512},
    "reward": {"max_length": 512},
}
DATA_SIZE: dict[str, dict[str, Any]] = {
    "sample": {"shard_rows": 4, "engine": {"name": "transformers"}},
    "select": {"shard_rows": 16},
    "mix": {},
    "evaluate": {"shard_rows": 2, "engine": {"name": "transformers"}},
}
SAMPLING = {"n": 2, "max_tokens": 16}
BENCHMARK = {"k": 2, "metrics": ["pass@1"], "max_tokens": 16, "problems": 4}
ROWS = {"sample": 8}  # others: 64
# Train and test problems of the miniature share long word sequences, but never a whole problem.
GATE = {"against": [{"path": "open_r1.tiny.problems:problems", "args": {"rows": 64, "split": "test"}}], "ngram": 40}
MAKERS = {
    "grpo": "problems", "rloo": "problems", "sft": "pretraining", "dpo": "preferences", "reward": "preferences",
    "sample": "problems", "select": "samples", "mix": "conversations",
}  # fmt: skip


def is_set_by_toy(key: str) -> bool:
    """True for a key whose value the toy size sets, whatever the recipe says."""
    of_tasks = {name for sizes in (*TASK_SIZE.values(), *DATA_SIZE.values()) for name in sizes}
    return key.partition(".")[0] in {*DROPPED, *SIZE, *of_tasks, "sampling", "benchmarks", "evaluation"}


def shrink_recipe(given: dict[str, Any]) -> dict[str, Any]:
    """A recipe's keys at toy size; keys that name local files are kept."""
    task = given["task"]
    small = {k: v for k, v in given.items() if k not in DROPPED}
    gate = given.get("contamination")
    if gate and not all(_local(str(_source(known).get("path", ""))) for known in gate.get("against") or []):
        small["contamination"] = gate | GATE
    if task in DATA_SIZE:
        small |= DATA_SIZE[task]
    else:
        small |= SIZE | TASK_SIZE[task]
        if "max_length" in small:
            positions = (given.get("random_init") or MODEL).get("max_position_embeddings", small["max_length"])
            small["max_length"] = min(small["max_length"], given.get("max_length") or positions, positions)
        for key in ("dataloader_num_workers", "dataset_num_proc"):
            if key not in given:
                del small[key]
    if task == "sample":
        small["sampling"] = (given.get("sampling") or {}) | SAMPLING
    if task == "evaluate":
        small = {key: value for key, value in small.items() if key not in REPLACED}
        small["benchmarks"] = [_small_benchmark(benchmark) for benchmark in given["benchmarks"]]
        if given.get("completions"):  # nothing to shrink, and completions belong to their problems
            small |= {key: given[key] for key in REPLACED if key in given} | {"benchmarks": given["benchmarks"]}
    if given.get("rewards"):
        small["rewards"] = [_small_reward(reward) for reward in given["rewards"]]
    if task == "mix" and "rows" in given:
        small["rows"] = min(64, given["rows"])
    tokenizer = str(given.get("tokenizer_name_or_path") or "")
    if task in ("select", "mix"):
        if tokenizer and not _local(tokenizer):
            small["tokenizer_name_or_path"] = "open_r1.models:byte_tokenizer"
        small["datasets"] = [_small_source(source, task) for source in given.get("datasets") or []]
        return small
    model = str(given.get("model_name_or_path") or "")
    if not _local(model) and "random_init" not in given:
        small["random_init"] = _small_model(model)
    tokenizer = tokenizer or (model if "random_init" not in given else "")
    if not _local(tokenizer):
        cached = isinstance(try_to_load_from_cache(tokenizer, "tokenizer.json"), str) if "/" in tokenizer else False
        small["tokenizer_name_or_path"] = tokenizer if cached else "open_r1.models:byte_tokenizer"
        if not cached:
            small.pop("pad_token", None)
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


def _small_model(name: str) -> dict[str, Any]:
    """A small model of the same architecture; for one that architectures.yaml lacks, of the family in its name."""
    family = architectures.find_architecture(name) or {"model_type": "llama" if "llama" in name.lower() else "qwen2"}
    kept = {key: value for key, value in family.items() if key not in ("vocab_size", "eos_token_id")}
    small = kept | MODEL | {key: value for key, value in EXPERTS.items() if "n_routed_experts" in family}
    # The RoPE base of a stretched context does not suit the toy's short one.
    return small | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}


def _small_reward(reward: dict[str, Any] | str) -> dict[str, Any] | str:
    """A rule in place and name of a reward model that would first have to be trained or downloaded."""
    if isinstance(reward, str) or reward.get("name") != "reward_model":
        return reward
    model = str(reward.get("model", ""))
    if _local(model):
        return reward
    kept = {key: reward[key] for key in ("weight", "kinds") if key in reward}
    return kept | {"name": "tag_count", "label": reward.get("label", "reward_model")}


def _small_benchmark(benchmark: dict[str, Any]) -> dict[str, Any]:
    """A benchmark at toy size; the miniature's problems replace those that need a download."""
    sources = [_source(source) for source in benchmark.get("datasets") or []]
    # A function may load the file at its argument `path`.
    read = [str((source.get("args") or {}).get("path") or source.get("path", "")) for source in sources]
    if not all(map(_local, read)):
        sources = [{"path": "open_r1.tiny.problems:problems", "args": {"rows": 8, "split": "test"}}]
        benchmark = benchmark | {"verifier": "accuracy"}
    return benchmark | BENCHMARK | {"datasets": sources}


def _local(path: str) -> bool:
    """True if a path needs no download and no recipe that runs first.

    Files under `runs/stages` are written by earlier stages of a pipeline.
    """
    return (
        ":" in path
        or path.startswith("runs/stages/")
        or (Path(path).exists() and path != "" and Path(path).suffix not in (".yaml", ".yml"))
    )


def _source(source: dict[str, Any] | str) -> dict[str, Any]:
    return {"path": source} if isinstance(source, str) else source


def _small_source(source: dict[str, Any] | str, task: str) -> dict[str, Any]:
    source, rows = _source(source), ROWS.get(task, 64)
    if not _local(str(source.get("path", ""))):
        kept = {key: source[key] for key in ("weight", "epochs", "kind", "license") if key in source}
        if source.get("kind") == "code":
            # The miniature has no programs; any program passes this test.
            kept["template"] = {"tests": '["assert True"]'}
        return kept | {"path": f"open_r1.tiny.problems:{MAKERS[task]}", "args": {"rows": rows}}
    if task == "mix":
        return source  # its `rows` is an amount to draw, and the toy's own `rows` bounds it
    return source | {"rows": min(rows, source.get("rows") or rows)}
