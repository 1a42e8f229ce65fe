"""Rules between several dataclasses or with TRL's configs, which no library checks before a model is loaded.

Each message names the key and what to do. A rule about one dataclass is in its method `check`.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from .. import prompts
from ..errors import RecipeError, suggest_nearest
from ..filters.registry import check_filters
from ..rewards.registry import check_rewards, needs_context
from ..system.hardware import has_flash_attention
from .schema import RL_TASKS, SHARDED_TASKS

if TYPE_CHECKING:
    from .schema import DataConfig, RunConfig
    from .sharded_tasks import MixConfig, SelectConfig, ShardedConfig


def check_recipe(task: str, given: dict[str, Any], run: RunConfig, data: DataConfig, model: Any) -> None:
    """Rules for all tasks, and for trainers.

    Args:
        task: of the recipe.
        given: its keys, those of `args` converted.
        run, data, model: its other parts.

    Raises:
        RecipeError: an impossible combination.
    """
    if task == "evaluate":
        if data.datasets:
            raise RecipeError("datasets: an evaluation measures `benchmarks`, which name their own; remove the key")
    elif not data.datasets:
        raise RecipeError(
            "datasets: the list is empty; name at least one source, e.g. `datasets: [{path: rows.jsonl}]`"
        )
    if task not in (*RL_TASKS, "select") and run.rewards:
        raise RecipeError(f"rewards: {task} has no rewards; they belong to grpo, rloo and select recipes")
    if model is not None:
        _check_model_is_named(task, given, run, model)
    for key in ("epochs", "license"):
        if task != "mix" and any(getattr(source, key) is not None for source in data.datasets):
            raise RecipeError(f"datasets: {key} is a key of mix recipes; {task} does not use it")
    if task not in SHARDED_TASKS:
        _check_trainer(given, data)
        _check_weights(given, run, model)
        if run.vllm_server_gpus:
            _check_server(task, given, model)
        if run.accelerate_config == "zero3_sp8":
            _check_sequence_parallel(task, given, run)
        if task == "reward":
            _check_reward(data, model)


def _check_model_is_named(task: str, given: dict[str, Any], run: RunConfig, model: Any) -> None:
    if model.model_name_or_path or run.random_init or run.base_recipe or given.get("completions"):
        return
    engine = given.get("engine")
    if task not in ("sample", "evaluate") or engine is None or engine.name != "server":
        raise RecipeError("model_name_or_path: no model is named; set this key, base_recipe or random_init")


def _check_trainer(given: dict[str, Any], data: DataConfig) -> None:
    has = given.get
    if data.streaming and not has("max_steps"):
        raise RecipeError("streaming: a stream has no known length; set max_steps as well")
    for key in ("hub_token", "push_to_hub_token"):
        if has(key):
            raise RecipeError(f"{key}: a recipe is written to disk and shown in reports; set HF_TOKEN instead")
    if has("save_only_model"):
        raise RecipeError("save_only_model: without optimizer and random state a run cannot be resumed; remove it")
    if has("save_total_limit") is not None and given["save_total_limit"] < 2:
        raise RecipeError(
            "save_total_limit: keep at least 2; with 1 the old checkpoint is deleted before the new one is complete"
        )


def _check_weights(given: dict[str, Any], run: RunConfig, model: Any) -> None:
    """Adapters, quantized weights, and how they are sharded."""
    sharding = run.accelerate_config or ""
    if (model.load_in_4bit or model.load_in_8bit) and not model.use_peft:
        bits = "load_in_4bit" if model.load_in_4bit else "load_in_8bit"
        raise RecipeError(f"{bits}: quantized weights cannot be trained themselves; add `use_peft: true` for QLoRA")
    if run.merge_adapter and not model.use_peft:
        raise RecipeError("merge_adapter: there is no adapter to merge without `use_peft: true`")
    if sharding.startswith("zero3") and (run.merge_adapter or run.random_init):
        key = "merge_adapter" if run.merge_adapter else "random_init"
        raise RecipeError(f"{key}: loads a whole model on one process, which ZeRO-3 cannot; use zero2 or ddp")
    whole = sharding.startswith(("zero3", "fsdp2")) and not model.bnb_4bit_quant_storage
    if whole and model.load_in_4bit and run.gpus > 1:
        raise RecipeError(f"load_in_4bit: {sharding} does not shard 4-bit weights; use ddp")
    if model.load_in_4bit and given.get("use_vllm"):
        raise RecipeError(
            "use_vllm: TRL passes vLLM the packed 4-bit weights without their scales; set `use_vllm: false`, or train "
            "the adapter on unquantized weights"
        )
    target = model.lora_target_modules
    if model.use_peft and isinstance(target, str) and target != "all-linear" and target.isidentifier():
        raise RecipeError(
            f"lora_target_modules: TRL reads a single name as a pattern of whole names; write ['.*{target}']"
        )


def _check_server(task: str, given: dict[str, Any], model: Any) -> None:
    if task not in RL_TASKS or not given.get("use_vllm") or given.get("vllm_mode") != "server":
        raise RecipeError(
            "vllm_server_gpus: a server is started for grpo and rloo with `use_vllm: true` and `vllm_mode: server`"
        )
    for key in ("vllm_server_base_url", "vllm_server_host"):
        if given.get(key):
            raise RecipeError(f"{key}: vllm_server_gpus starts a server for this run; remove one of the two")
    if not model.model_name_or_path:
        raise RecipeError("vllm_server_gpus: the server loads `model_name_or_path`, and this recipe names none")


def _check_sequence_parallel(task: str, given: dict[str, Any], run: RunConfig) -> None:
    if task != "sft":
        raise RecipeError(f"accelerate_config: TRL shares a sequence among GPUs in SFT only, not in {task}; use zero3")
    if given.get("packing"):
        raise RecipeError(
            "packing: with zero3_sp8 samples of one row would attend to each other; set `packing: false`"
        )
    if run.gpus % 8:
        raise RecipeError(f"gpus: with zero3_sp8 a multiple of 8, got {run.gpus}")


def check_sharded_task(task: str, args: ShardedConfig, run: RunConfig, data: DataConfig) -> None:
    """Rules for sample, select, mix and evaluate recipes.

    Raises:
        RecipeError: an impossible combination.
    """
    if run.evaluation is not None or run.merge_adapter:
        key = "merge_adapter" if run.merge_adapter else "evaluation"
        raise RecipeError(f"{key}: {task} does not train a model; remove the key")
    if data.streaming:
        raise RecipeError(f"streaming: {task} always reads rows when they are needed; remove the key")
    if args.parts > 1 and run.overwrite:
        raise RecipeError("overwrite: each part would delete what the others wrote; delete the run directory instead")
    if task == "select":
        _check_select(args, run)
    if task == "mix":
        _check_mix(args, data)


def _check_select(args: SelectConfig, run: RunConfig) -> None:
    check_rewards(run.rewards)
    # The scores of samples that were judged before are known only once the data is read.
    metrics = [reward.metric for reward in run.rewards] or None
    check_filters(args.filters, metrics)
    by = args.pairs.by
    if metrics and by not in ("verdict", *metrics):
        raise RecipeError(
            f"pairs.by: {by!r} is neither `verdict` nor a reward of this recipe{suggest_nearest(by, metrics)}"
        )


def _check_mix(args: MixConfig, data: DataConfig) -> None:
    weighted = any(source.weight is not None for source in data.datasets)
    if args.rows is not None and not weighted:
        raise RecipeError(
            "rows: without weights the size of the mixture follows from the sources' own rows and epochs; give each "
            "source a `weight`, or remove the key"
        )
    for i, source in enumerate(data.datasets):
        if source.rows is not None and (source.epochs is not None or weighted):
            other = "weight" if weighted else "epochs"
            raise RecipeError(f"datasets.{i}: rows and {other} both set how much of it to take; keep one of them")


def _check_reward(data: DataConfig, model: Any) -> None:
    if prompts.PROMPTS[data.prompt].plain:
        raise RecipeError(
            f"prompt: {data.prompt} is for base models, and a reward model reads conversations; use `prompt: chat`"
        )
    if model.use_peft and model.lora_task_type != "SEQ_CLS":
        raise RecipeError(f"lora_task_type: a reward model's is SEQ_CLS, got {model.lora_task_type}; remove the key")
    if model.use_peft and "score" not in (model.lora_modules_to_save or []):
        raise RecipeError(
            "lora_modules_to_save: the reward head `score` is new and must be trained and saved whole; add it to the "
            "list, or remove the key"
        )


def check_machine(given: dict[str, Any], run: RunConfig, model: Any) -> None:
    """Refuse a recipe that this machine cannot run.

    Raises:
        RecipeError: a GPU, a library or bfloat16 is missing.
    """
    import torch

    cuda = torch.cuda.device_count()
    has = given.get
    served = has("engine") is not None and has("engine").name == "server"
    if run.gpus and not cuda and not served:
        raise RecipeError(
            f"gpus: this recipe is written for {run.gpus} GPU{'s' if run.gpus > 1 else ''} and this machine has none; "
            "its header states the memory it needs. To try it here at toy size, add --toy"
        )
    if has("packing") and not cuda:
        raise RecipeError(
            "packing: on a CPU packed rows have an attention mask of the whole batch, up to three times slower than "
            "padding for short rows of similar length (benchmarks/packing.py); set `packing: false`, and for rows of "
            "very different lengths `train_sampling_strategy: group_by_length`"
        )
    attention = (model and model.attn_implementation) or ""
    if attention.startswith("flash_attention") and not (cuda and has_flash_attention()):
        lacks = "needs the package flash-attn or kernels, which is not installed" if cuda else "needs a GPU"
        raise RecipeError(f"attn_implementation: {attention} {lacks}; remove the key to use the fastest one available")
    if cuda and has("bf16", not has("fp16")) and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise RecipeError(
            f"bf16: {torch.cuda.get_device_name(0)} has no bfloat16 arithmetic; set --bf16 false --fp16 true --dtype "
            "float32"
        )
    sharding = run.accelerate_config or ""
    if run.gpus and sharding.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        raise RecipeError(
            f"accelerate_config: {sharding} needs DeepSpeed, which is not installed; run `make install EXTRAS=gpu`, "
            "or set --accelerate_config fsdp2"
        )
    if has("use_vllm"):
        if not cuda and has("vllm_mode") != "server":
            raise RecipeError("use_vllm: vLLM generates on a GPU and this machine has none; set `use_vllm: false`")
        if importlib.util.find_spec("vllm") is None:
            raise RecipeError(
                "use_vllm: vllm is not installed; run `make install EXTRAS=gpu`, or set `use_vllm: false`"
            )


def check_rl(given: dict[str, Any], run: RunConfig, processes: int) -> None:
    """Rules for grpo and rloo recipes.

    Args:
        given: its keys, those of `args` converted.
        run: its rewards.
        processes: how many will run it.

    Raises:
        RecipeError: an impossible combination.
    """
    if not run.rewards:
        raise RecipeError("rewards: the list is empty; e.g. `rewards: [{name: accuracy}, {name: think_format}]`")
    if given.get("reward_weights") is not None:
        raise RecipeError(
            "reward_weights: weights stand beside each reward, `rewards: [{name: accuracy, weight: 1.0}]`"
        )
    check_rewards(run.rewards)
    if given.get("sync_ref_model") and not given["beta"]:
        raise RecipeError("sync_ref_model: with `beta: 0` there is no reference model; set beta above 0")
    group = given["num_generations"]
    if group is None or group < 2:
        raise RecipeError(f"num_generations: a group of {group} has no spread to learn from; use 2 or more")
    batch = given.get("per_device_train_batch_size", 8)
    steps = given.get("steps_per_generation") or given.get("gradient_accumulation_steps", 1)
    total = given.get("generation_batch_size") or batch * processes * steps
    if total % group:
        valid = [g for g in range(2, total + 1) if total % g == 0]
        nearest = min(valid, key=lambda g: abs(g - group)) if valid else None
        advice = f"the nearest num_generations that does is {nearest}" if nearest else "make the batch larger"
        raise RecipeError(
            f"num_generations: groups of {group} do not divide the {total} completions of a generation "
            f"(per_device_train_batch_size {batch} x {processes} processes x {steps} steps); {advice}"
        )
    if needs_context(run.rewards, "group") and (total // processes) % group:
        raise RecipeError(
            f"rewards: one of them compares the {group} completions of a prompt, and a process has only "
            f"{total // processes} at a time; raise per_device_train_batch_size to a multiple of num_generations"
        )
