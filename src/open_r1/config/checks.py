"""Combinations of keys that no library refuses, or only once a model is loaded; each message names the key."""

from __future__ import annotations

import importlib.util
import re
from typing import TYPE_CHECKING, Any

from .. import prompts
from ..benchmarks import registry
from ..errors import RecipeError, suggest_nearest
from ..filters.registry import check_filters
from ..rewards.registry import check_rewards, find_ballot, needs_context
from ..system import hardware
from ..system.hardware import has_flash_attention
from . import protocol
from .schema import RL_TASKS

if TYPE_CHECKING:
    from .schema import (
        BenchmarkConfig,
        ContaminationConfig,
        DataConfig,
        DeduplicateConfig,
        EvaluateConfig,
        MixConfig,
        RunConfig,
        SampleConfig,
        SamplingConfig,
        SelectConfig,
        ShardedConfig,
    )


MOST_SAMPLES = 10_000  # of a problem: more would be a slip, and are held in memory together


def check_recipe(task: str, given: dict[str, Any], run: RunConfig, data: DataConfig, model: Any) -> None:
    """Combinations that no library checks, or checks only once the model is loaded."""
    has = given.get
    if task == "evaluate":
        if data.datasets:
            raise RecipeError("datasets: an evaluation measures `benchmarks`, each of which names its own")
    elif not data.datasets:
        raise RecipeError(
            "datasets: the list is empty; name at least one source, e.g. `datasets: [{path: rows.jsonl}]`"
        )
    if data.prompt not in prompts.PROMPTS:
        raise RecipeError(
            f"prompt: no prompt is named {data.prompt!r}{suggest_nearest(data.prompt, list(prompts.PROMPTS))}"
        )
    templates = list(prompts.CHAT_TEMPLATES)
    if data.chat_template is not None and data.chat_template not in templates:
        raise RecipeError(
            f"chat_template: none is named {data.chat_template!r}{suggest_nearest(data.chat_template, templates)}"
        )
    _check_weights(data)
    if data.contamination is not None:
        _check_contamination(data.contamination)
    hardware.find_gpu(run.gpu_type)
    if not 0 <= run.max_error_share <= 1:
        raise RecipeError(f"max_error_share: a share from 0 to 1, got {run.max_error_share}")
    if task not in (*RL_TASKS, "select") and run.rewards:
        raise RecipeError(f"rewards: {task} has no rewards; they belong to grpo, rloo and select recipes")
    if model is not None and not (model.model_name_or_path or run.random_init or run.base_recipe):
        engine = has("engine")
        if has("completions"):
            return
        if task not in ("sample", "evaluate") or engine is None or engine.name != "server":
            raise RecipeError("model_name_or_path: no model is named (nor base_recipe or random_init)")
    for key in ("epochs", "license"):
        if task != "mix" and any(getattr(source, key) is not None for source in data.datasets):
            raise RecipeError(f"datasets: {key} is a key of mix recipes; {task} does not use it")
    if model is None or task in ("sample", "evaluate"):
        return
    _check_trainer(task, given, run, data, model)


def _check_trainer(task: str, given: dict[str, Any], run: RunConfig, data: DataConfig, model: Any) -> None:
    has = given.get
    if data.streaming and not has("max_steps"):
        raise RecipeError("streaming: a stream has no known length, so set max_steps as well")
    for key in ("hub_token", "push_to_hub_token"):
        if has(key):
            raise RecipeError(f"{key}: a recipe is written to disk and shown in reports; set HF_TOKEN instead")
    if has("save_only_model"):
        raise RecipeError("save_only_model: without optimizer and random state a run cannot be resumed; remove it")
    if has("save_total_limit") is not None and given["save_total_limit"] < 2:
        raise RecipeError(
            "save_total_limit: keep at least 2; with 1 the old checkpoint is deleted before the new one is whole"
        )
    if (model.load_in_4bit or model.load_in_8bit) and not model.use_peft:
        bits = "load_in_4bit" if model.load_in_4bit else "load_in_8bit"
        raise RecipeError(f"{bits}: quantized weights cannot be trained themselves; add `use_peft: true` for QLoRA")
    if run.merge_adapter and not model.use_peft:
        raise RecipeError("merge_adapter: there is no adapter to merge without `use_peft: true`")
    if (run.accelerate_config or "").startswith("zero3") and (run.merge_adapter or run.random_init):
        key = "merge_adapter" if run.merge_adapter else "random_init"
        raise RecipeError(f"{key}: loads a whole model on one process, which ZeRO-3 cannot; use zero2 or ddp")
    sharded = (run.accelerate_config or "").startswith(("zero3", "fsdp2")) and not model.bnb_4bit_quant_storage
    if sharded and model.load_in_4bit and run.gpus > 1:
        raise RecipeError(f"load_in_4bit: {run.accelerate_config} does not shard 4-bit weights; use ddp")
    if model.load_in_4bit and has("use_vllm"):
        raise RecipeError(
            "use_vllm: TRL hands vLLM the packed 4-bit weights without their scales; set `use_vllm: false`, or train "
            "the adapter on whole weights"
        )
    if run.vllm_server_gpus:
        _check_server(task, given, model)
    target = model.lora_target_modules
    if model.use_peft and isinstance(target, str) and target != "all-linear" and target.isidentifier():
        raise RecipeError(
            f"lora_target_modules: TRL reads a single name as a pattern of whole names; write ['.*{target}']"
        )
    if run.accelerate_config == "zero3_sp8":
        _check_sequence_parallel(task, given, run)
    if task == "reward":
        _check_reward(data, model)


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


def _check_weights(data: DataConfig) -> None:
    weights = [source.weight for source in data.datasets]
    given = [weight for weight in weights if weight is not None]
    if not given:
        return
    if len(given) < len(weights):
        raise RecipeError("datasets: give a weight to every source or to none")
    if min(given) <= 0:
        raise RecipeError("datasets: weights must be above 0; remove a source instead of giving it weight 0")
    total = sum(given)
    if abs(total - 1) > 1e-6:
        shares = ", ".join(f"{weight / total:.4g}" for weight in given)
        raise RecipeError(f"datasets: the weights sum to {total:g}, not to 1; in the same proportions: {shares}")


def _check_contamination(config: ContaminationConfig) -> None:
    at = "contamination"
    if not config.against:
        raise RecipeError(f"{at}.against: name at least one evaluation set, e.g. `against: [math500, aime24]`")
    if config.ngram < 1:
        raise RecipeError(f"{at}.ngram: a number of words, 1 or more, got {config.ngram}")
    if config.near is not None and not 0 < config.near < 1:
        raise RecipeError(f"{at}.near: a similarity between 0 and 1, got {config.near:g}")
    if not 0 <= config.overlap <= 1:
        raise RecipeError(f"{at}.overlap: a share from 0 to 1, got {config.overlap:g}")
    if config.action not in ("fail", "drop", "waive"):
        raise RecipeError(f"{at}.action: {config.action!r} is not one of fail, drop, waive")
    if config.action == "waive" and not (config.reason or "").strip():
        raise RecipeError(f"{at}.reason: say why contaminated rows may stay; it is kept with the run")


def check_sharded_task(task: str, args: ShardedConfig, run: RunConfig, data: DataConfig) -> None:
    """Combinations of sample, select, mix and evaluate recipes."""
    if run.evaluation is not None or run.merge_adapter:
        key = "merge_adapter" if run.merge_adapter else "evaluation"
        raise RecipeError(f"{key}: {task} does not train a model, so it has no use for this key")
    if data.streaming:
        raise RecipeError(f"streaming: {task} always reads rows as they are needed; remove the key")
    if not 0 <= args.seed < 2**32:
        raise RecipeError(f"seed: a number from 0 to {2**32 - 1:,}, got {args.seed}")
    if args.shard_rows < 1:
        raise RecipeError(f"shard_rows: a number of rows, 1 or more, got {args.shard_rows}")
    if args.parts < 1 or not 0 <= args.part < args.parts:
        raise RecipeError(f"part: {args.part} of {args.parts} parts; the first is 0, the last {args.parts - 1}")
    if args.parts > 1 and run.overwrite:
        raise RecipeError("overwrite: each part would delete what the others wrote; delete the run directory instead")
    if args.parts > 1 and task == "mix":
        raise RecipeError("parts: a mix is one job; it reads and writes, and computes nothing")
    if task != "evaluate" and args.deduplicate is not None:
        _check_deduplicate(args.deduplicate)
    {"sample": _check_sample, "select": _check_select, "mix": _check_mix, "evaluate": _check_evaluate}[task](
        args, run, data
    )


def _check_deduplicate(config: DeduplicateConfig) -> None:
    if config.near is not None and not 0 < config.near < 1:
        raise RecipeError(f"deduplicate.near: a similarity between 0 and 1, got {config.near:g}")
    if not config.exact and config.near is None:
        raise RecipeError("deduplicate: neither `exact` nor `near` is asked for; remove the key, or set one")


def _check_sample(args: SampleConfig, run: RunConfig, data: DataConfig) -> None:
    _check_sampling("sampling", args.sampling, "n")


def _check_sampling(at: str, sampling: SamplingConfig | BenchmarkConfig, number: str) -> None:
    """Values of sampling; `number` is the key that says how many completions of each prompt."""
    for key, fits, meaning in (
        (number, lambda n: n >= 1, "1 or more"),
        ("temperature", lambda t: t >= 0, "0 or above"),
        ("top_p", lambda p: 0 < p <= 1, "above 0 and at most 1"),
        ("top_k", lambda k: k >= 0, "0 (off) or above"),
        ("max_tokens", lambda n: n >= 1, "1 or more"),
        ("stop", all, "without empty texts"),
    ):
        if getattr(sampling, key, None) is not None and not fits(getattr(sampling, key)):
            raise RecipeError(f"{at}.{key}: {meaning}, got {getattr(sampling, key)!r}")
    n = getattr(sampling, number)
    if sampling.temperature == 0 and n > 1:
        raise RecipeError(f"{at}.{number}: at temperature 0 all {n} completions would be the same; use {number}: 1")


def _check_evaluate(args: EvaluateConfig, run: RunConfig, data: DataConfig) -> None:
    names = [benchmark.name for benchmark in args.benchmarks]
    if not names:
        raise RecipeError(f"benchmarks: name at least one of {', '.join(registry.list_benchmarks())}, or one's own")
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"benchmarks: {name!r} is listed twice; give one of them another `name`")
    if not 0.5 <= args.level < 1:
        raise RecipeError(f"level: of the intervals, such as 0.95, got {args.level:g}")
    for benchmark in protocol.apply_protocol(args):
        at = f"benchmarks.{benchmark.name}"
        if not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,99}", benchmark.name):
            raise RecipeError(f"{at}: a name of at most 100 letters, digits, - and _, as files are called by it")
        if not benchmark.datasets:
            raise RecipeError(f"{at}.datasets: the list is empty; where are its problems?")
        if benchmark.prompt is not None and benchmark.prompt not in prompts.PROMPTS:
            known = suggest_nearest(benchmark.prompt, list(prompts.PROMPTS))
            raise RecipeError(f"{at}.prompt: no prompt is named {benchmark.prompt!r}{known}")
        if benchmark.problems is not None and benchmark.problems < 1:
            raise RecipeError(f"{at}.problems: 1 or more, got {benchmark.problems}")
        _check_sampling(at, benchmark, "k")
        if benchmark.k > MOST_SAMPLES:
            raise RecipeError(f"{at}.k: at most {MOST_SAMPLES:,}, got {benchmark.k:,}")
        check_rewards([benchmark.verifier])
        if not benchmark.metrics:
            raise RecipeError(f"{at}.metrics: the list is empty, e.g. `metrics: [pass@1]`")
        for name in benchmark.metrics:
            try:
                metric = registry.resolve_metric(name, benchmark.k)
            except RecipeError as error:
                raise RecipeError(f"{at}: {error}") from error
            if metric.startswith("maj@") and find_ballot(benchmark.verifier.name) is None:
                raise RecipeError(
                    f"{at}.metrics: {name} is a vote over answers, and {benchmark.verifier.name} gives none to count"
                )


def _check_select(args: SelectConfig, run: RunConfig, data: DataConfig) -> None:
    if run.rewards:
        check_rewards(run.rewards)
    check_filters(args.filters, [reward.metric for reward in run.rewards] or None)
    for key, choices in (
        ("output", ("messages", "pairs")),
        ("reasoning", ("keep", "drop", "auto")),
        ("no_reasoning", ("plain", "empty_think")),
    ):
        if getattr(args, key) not in choices:
            raise RecipeError(f"{key}: {getattr(args, key)!r} is not one of {', '.join(choices)}")
    pairs = args.pairs
    # Samples that were judged before bring their scores; their names are known once the data is read.
    if run.rewards and pairs.by not in ("verdict", *(reward.metric for reward in run.rewards)):
        raise RecipeError(f"pairs.by: {pairs.by!r} is neither `verdict` nor a reward of this recipe")
    if pairs.max_length_ratio < 1:
        raise RecipeError(f"pairs.max_length_ratio: longer over shorter, so at least 1, got {pairs.max_length_ratio}")
    if pairs.per_prompt < 1 or pairs.min_margin < 0:
        raise RecipeError("pairs: per_prompt is 1 or more, and min_margin 0 or above")
    if args.examples < 0:
        raise RecipeError(f"examples: rejected samples of each reason, 0 or more, got {args.examples}")
    columns = ("prompt", "completion") if args.output == "messages" else ("prompt", "chosen", "rejected")
    if args.deduplicate is not None and args.deduplicate.column not in columns:
        raise RecipeError(
            f"deduplicate.column: {args.deduplicate.column!r} is not one of {', '.join(columns)}, with "
            f"`output: {args.output}`"
        )
    bounds = args.curriculum
    if bounds is not None and (sorted(set(bounds)) != bounds or not all(0 < bound < 1 for bound in bounds)):
        raise RecipeError(f"curriculum: bounds between 0 and 1, each above the one before it, got {bounds}")


def _check_mix(args: MixConfig, run: RunConfig, data: DataConfig) -> None:
    if args.rows is not None and args.rows < 1:
        raise RecipeError(f"rows: a number of rows, 1 or more, got {args.rows}")
    weighted = any(source.weight is not None for source in data.datasets)
    if args.rows is not None and not weighted:
        raise RecipeError("rows: without weights the sources' own rows and epochs say how large the mixture is")
    for i, source in enumerate(data.datasets):
        if source.epochs is not None and source.epochs <= 0:
            raise RecipeError(f"datasets.{i}.epochs: above 0, got {source.epochs:g}")
        if source.rows is not None and (source.epochs is not None or weighted):
            other = "weight" if weighted else "epochs"
            raise RecipeError(f"datasets.{i}: rows and {other} both say how much of it to take; keep one of them")


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
    """What this machine lacks for the recipe."""
    import torch

    cuda = torch.cuda.device_count()
    has = given.get
    served = has("engine") is not None and has("engine").name == "server"
    if run.gpus and not cuda and not served:
        raise RecipeError(
            f"gpus: this recipe is written for {run.gpus} GPU{'s' if run.gpus > 1 else ''} and this machine has none; "
            "its header says which memory it needs. To see it work here at toy size, add --toy"
        )
    if has("packing") and not cuda:
        raise RecipeError(
            "packing: on a CPU packed rows have a mask of the whole batch, up to three times slower than padding "
            "where rows are short and alike (benchmarks/packing.py); set `packing: false`, and where their lengths "
            "differ much `train_sampling_strategy: group_by_length`"
        )
    attention = (model and model.attn_implementation) or ""
    if attention.startswith("flash_attention") and not (cuda and has_flash_attention()):
        lacks = "needs the package flash-attn or kernels, which is not installed" if cuda else "needs a GPU"
        raise RecipeError(
            f"attn_implementation: {attention} {lacks}; remove the key, and the fastest that is there is taken"
        )
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
    """Combinations of grpo and rloo recipes."""
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
