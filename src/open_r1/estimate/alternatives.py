"""Changes of a recipe that take less memory or time on its hardware."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from ..config.sharded_tasks import find_args_class
from .workload import Workload

LORA = {"use_peft": True, "lora_r": 32, "lora_alpha": 64, "lora_target_modules": ["all-linear"]}


@dataclass(frozen=True)
class Alternative:
    """A change of a recipe.

    Args:
        title: name in a table.
        changes: new values of recipe keys.
        same: the result stays the same, except for rounding.
    """

    title: str
    changes: dict[str, Any]
    same: bool = True


def find_alternatives(work: Workload) -> Iterator[Alternative]:
    """Changes that apply to a training; those that keep the result come first."""
    given, gpus = work.recipe.given, work.gpus
    lora, sharding = work.lora is not None, work.sharding
    batch, accumulation = int(work.get("per_device_train_batch_size")), work.accumulation
    known = {f.name for f in fields(find_args_class(work.recipe.task))}
    if not work.checkpointing:
        yield Alternative("recompute activations", {"gradient_checkpointing": True})
    if batch > 1:
        halved = {"per_device_train_batch_size": batch // 2, "gradient_accumulation_steps": 2 * accumulation}
        if batch % 2 == 0 and not given.get("steps_per_generation"):
            yield Alternative("half as many rows at a time", halved)
    if gpus > 1 and not work.four_bit:
        for name in ("zero2", "zero3", "fsdp2", "zero2_offload", "fsdp2_offload", "zero3_offload"):
            whole = given.get("merge_adapter") and name.startswith("zero3")
            if name != sharding.name and sharding.sequence_parallel == 1 and not whole:
                yield Alternative(name, {"accelerate_config": name})
    if gpus == 1 and not lora and sharding.kind == "none":
        yield Alternative("optimizer in the host's memory", {"accelerate_config": "zero2_offload"})
    if work.recipe.task == "sft" and gpus % 8 == 0 and gpus and not work.four_bit and sharding.sequence_parallel == 1:
        spread = {"accelerate_config": "zero3_sp8", "packing": False, "gradient_accumulation_steps": 8 * accumulation}
        if not given.get("merge_adapter"):
            yield Alternative("8 GPUs for each sequence", spread)
    if "activation_offloading" in known and not given.get("activation_offloading"):
        yield Alternative("activations in the host's memory", {"activation_offloading": True})
    if given.get("use_vllm") and work.get("vllm_mode") == "colocate":
        share = float(work.get("vllm_gpu_memory_utilization"))
        if not given.get("vllm_enable_sleep_mode"):
            yield Alternative("vLLM asleep while it trains", {"vllm_enable_sleep_mode": True})
        if share > 0.15:
            yield Alternative("half the share for vLLM", {"vllm_gpu_memory_utilization": round(share / 2, 2)})
    if gpus and accumulation % 2 == 0:
        yield Alternative("twice the GPUs", {"gpus": 2 * gpus, "gradient_accumulation_steps": accumulation // 2})
    if sharding.kind != "deepspeed" and not lora and "8bit" not in str(work.get("optim")):
        yield Alternative("8-bit optimizer", {"optim": "adamw_8bit"}, same=False)
    if not lora:
        yield Alternative("LoRA", LORA, same=False)
    if not work.four_bit:
        ddp = {"accelerate_config": "ddp"} if gpus > 1 else {}
        ddp |= {"use_vllm": False} if given.get("use_vllm") else {}
        yield Alternative("QLoRA", LORA | {"load_in_4bit": True, "use_bnb_nested_quant": True} | ddp, same=False)
    key = "max_completion_length" if work.samples else "max_length"
    if int(work.get(key) or 0) >= 2048:
        yield Alternative("half the length", {key: int(work.get(key)) // 2}, same=False)
