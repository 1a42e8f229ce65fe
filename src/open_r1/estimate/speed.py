"""Arithmetic, time and GPU-hours of a workload, from rates that are assumed and told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.recipe import is_recipe, read_yaml
from ..config.schema import DatasetConfig
from ..data.sources import BUILDERS, load_source
from ..system.hardware import GPU
from . import memory, tracing
from .workload import MEAN_SHARE, MEAN_TOKENS, PROMPT_TOKENS, Workload

# Share of a GPU's dense rate that training reaches. Llama 3 was trained at 0.38 to 0.43 (arXiv 2407.21783, Table 4);
# this is a little less, for a stack that is less tuned.
UTILISATION = 0.35
# Of generation: shares of the memory's bandwidth and of the arithmetic that a decoding step reaches, and seconds that
# it takes at least. Ours, not measured on a GPU.
DECODE_BANDWIDTH, DECODE_ARITHMETIC = 0.7, 0.4
STEP_SECONDS = {"vllm": 0.002, "transformers": 0.03}
SEQUENCES_AT_ONCE = 256  # vLLM's default
HOST_LINK = 25e9  # bytes a second between host and GPU, PCIe 4; ours
HOST_ADAM = 1e9  # parameters a second that a host's Adam updates, for each 8 GPUs; ours
# Rows of the public datasets that the recipes name, as their cards state them (not counted here).
ROWS = {
    "open-r1/Mixture-of-Thoughts": 349_317,
    "open-r1/OpenR1-Math-220k": 93_733,
    "open-r1/codeforces-cots": 47_780,
    "agentica-org/DeepScaleR-Preview-Dataset": 40_315,
    "openai/gsm8k": 7_473,
    "HuggingFaceH4/ultrafeedback_binarized": 61_135,
    "HuggingFaceH4/ultrachat_200k": 207_865,
    "trl-lib/ultrafeedback_binarized": 62_135,
    # Made by recipes: as many as the paper's (arXiv 2501.12948v2, Table 5; of the cold start it says "thousands").
    "mix/r1_800k.yaml": 804_745,
    "select/cold_start.yaml": 5_000,
}


@dataclass
class Speed:
    """What a workload takes.

    Args:
        tokens: of an optimizer step; of all of it where nothing is trained.
        flops: of the same.
        seconds: of the same, by what takes them.
        steps: of the whole training; None if it is not known how many rows there are.
        notes: what was assumed.
    """

    tokens: float
    flops: float
    seconds: dict[str, float]
    steps: int | None
    notes: list[str] = field(default_factory=list)

    @property
    def step_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def hours(self) -> float | None:
        """Of all steps; None if their number is not known, or vLLM has no room to work."""
        return None if self.steps is None or math.isinf(self.step_seconds) else self.steps * self.step_seconds / 3600


def estimate_time(
    work: Workload, gpu: GPU, utilisation: float = UTILISATION, rows: int | None = None, mean: float | None = None
) -> Speed:
    """Time of a workload.

    Args:
        work: the workload.
        gpu: the kind of its GPUs.
        utilisation: share of the GPU's rate that training reaches.
        rows: of the data, if it is not to be found out.
        mean: tokens of a completion, or of a row that is not packed, on average.
    """
    return (_training if work.trains else _sampling)(work, gpu, utilisation, rows, mean)


def _training(work: Workload, gpu: GPU, utilisation: float, rows: int | None, mean: float | None) -> Speed:
    counts = tracing.count_parameters(work.config, work.lora, head=work.recipe.task != "reward")
    completion = mean or (work.mean_completion if work.samples else 0.0)
    length = completion + min(work.prompt_tokens, 256) if work.samples else (mean or work.mean_tokens)
    packed = bool(work.recipe.task == "sft" and work.get("packing"))
    span = min(length, MEAN_TOKENS["sft"]) if packed else length
    if packed:
        length = work.mean_tokens
    tokens = work.rows_per_step * length
    forward = 2 * counts.active + attention(work, span)
    backward = 2 * counts.active + 2.5 * attention(work, span) + 2 * min(counts.trained, counts.active)
    passes = forward + backward + (forward if work.checkpointing else 0.0)
    passes += forward * extra_passes(work)
    flops = tokens * passes
    seconds = {"forward and backward": flops / (work.processes * gpu.tflops * 1e12 * utilisation)}
    speed = Speed(tokens, flops, seconds, None)
    speed.notes.append(f"training reaches {utilisation:.0%} of the GPU's dense rate (--utilisation)")
    if work.sharding.offload_optimizer:
        shard = counts.trained / work.processes
        seconds["optimizer in the host"] = 6 * shard / HOST_LINK + counts.trained / (
            HOST_ADAM * max(1, work.processes / 8)
        )
    if work.sharding.offload_parameters:
        moved = 2 * counts.total / work.processes * (3 if work.checkpointing else 2)
        seconds["weights from the host"] = work.accumulation * moved / HOST_LINK
    if work.recipe.given.get("activation_offloading"):
        kept = 2 * work.config.hidden_size * work.config.num_hidden_layers * length / work.sharding.sequence_parallel
        # Both ways; half of it is hidden behind the arithmetic.
        seconds["activations to the host"] = 0.5 * 2 * work.rows * work.accumulation * kept / HOST_LINK
    if work.samples:
        speed.notes.append(f"{completion:,.0f} tokens a completion on average (--mean_tokens)")
        _add_generation(work, gpu, completion, seconds, speed.notes)
    speed.steps = steps(work, rows, span, packed, speed.notes)
    return speed


def attention(work: Workload, span: float) -> float:
    """FLOPs of causal attention for each token of a sequence of `span` tokens, forward."""
    config = work.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if getattr(config, "v_head_dim", None):
        size = (config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim) / 2
    return 2 * config.num_hidden_layers * config.num_attention_heads * size * span


def extra_passes(work: Workload) -> float:
    """Forward passes of each step for the reference and for the policy that sampled; once for each rollout."""
    if not work.samples:
        return float(work.recipe.task == "dpo")
    reference = float(work.get("beta")) != 0.0
    # TRL has the policy's own to correct for vLLM's, and where a rollout's steps do not end with an optimizer step.
    corrected = bool(work.recipe.given.get("use_vllm")) and bool(
        work.recipe.given.get("vllm_importance_sampling_correction", True)
    )
    cycle = work.rollout / (work.rows * work.processes) * work.iterations
    return (reference + (corrected or work.accumulation % cycle != 0)) / work.iterations


def _add_generation(work: Workload, gpu: GPU, mean: float, seconds: dict[str, float], notes: list[str]) -> None:
    given = work.recipe.given
    vllm = bool(given.get("use_vllm"))
    if vllm and work.get("vllm_mode") != "colocate" and not work.server_gpus:
        notes.append("generation is a server's, whose GPUs are not known: its time is left out")
        return
    tensor = work.server_gpus or (int(given.get("vllm_tensor_parallel_size") or 1) if vllm else 1)
    share = work.vllm_share if vllm else None
    replicas = 1 if work.server_gpus else max(1, work.processes // tensor)
    longest = int(work.get("max_completion_length"))
    spent = generation(work, gpu, work.rollout / replicas, mean, longest, share, tensor)
    seconds["generation"] = spent * work.rows_per_step / work.rollout / work.iterations


def generation(
    work: Workload, gpu: GPU, sequences: float, mean: float, longest: int, share: float | None, tensor: int
) -> float:
    """Seconds until one engine has generated so many sequences, the longest of them alone at the end.

    Args:
        work: the workload.
        gpu: the kind of its GPUs.
        sequences: in all.
        mean: tokens of each on average.
        longest: tokens of the longest.
        share: of a GPU's memory that vLLM has; None generates by transformers, all at once.
        tensor: GPUs that share the weights.

    Returns:
        Infinity if vLLM's share does not hold the weights.
    """
    counts, at_once, least = tracing.count_parameters(work.config), sequences, STEP_SECONDS["transformers"]
    if share is not None:
        room = memory.count_vllm_tokens(work, gpu, share, tensor) / (mean + PROMPT_TOKENS / 4)
        if room < 1:
            return math.inf
        at_once, least = min(sequences, room, SEQUENCES_AT_ONCE), STEP_SECONDS["vllm"]

    def step(running: float) -> float:
        read = 2 * counts.total / tensor + running * mean / 2 * memory.count_kv_bytes(work) / tensor
        arithmetic = 2 * counts.active * running / tensor
        rate = gpu.tflops * 1e12 * DECODE_ARITHMETIC
        return max(read / (gpu.bandwidth * 1e9 * DECODE_BANDWIDTH), arithmetic / rate) + least

    return sequences * mean / at_once * step(at_once) + (longest - mean) * step(1)


def steps(work: Workload, rows: int | None, span: float, packed: bool, notes: list[str]) -> int | None:
    """Optimizer steps of the whole training; None if it is not known how many rows there are."""
    given = work.recipe.given
    if given.get("max_steps") and int(given["max_steps"]) > 0:
        return int(given["max_steps"])
    rows = rows or rows_of(work.recipe.data.datasets)
    if rows is None:
        notes.append("how many rows there are is not known, so neither is the whole time (--rows N)")
        return None
    epochs = float(work.get("num_train_epochs"))
    if packed:
        notes.append(f"{rows:,} rows of {span:,.0f} tokens on average, packed (--rows, --mean_tokens)")
        rows = int(rows * span / work.mean_tokens) + 1
    else:
        notes.append(f"{rows:,} rows (--rows)")
    pairs = 2 if work.recipe.task in ("dpo", "reward") else 1
    per_step = work.rows_per_step / pairs / (int(work.get("num_generations")) if work.samples else 1)
    return max(1, round(epochs * rows * work.iterations / per_step))


def rows_of(sources: list[DatasetConfig]) -> int | None:
    """Rows of the sources together; None if one of them is not known."""
    counted = [_rows(source) for source in sources]
    known = [count for count in counted if count is not None]
    return sum(known) if len(known) == len(counted) else None


def _rows(source: DatasetConfig) -> int | None:
    if source.rows is not None:
        return source.rows
    for name, rows in ROWS.items():
        if source.path == name or (is_recipe(source.path) and source.path.endswith(f"/{name}")):
            return rows
    if is_recipe(source.path) and Path(source.path).is_file():
        return read_yaml(Path(source.path)).get("rows")
    if Path(source.path).suffix in BUILDERS and Path(source.path).is_file():
        return len(load_source(source, seed=0))
    given = source.args.get("rows")
    return int(given) if isinstance(given, int) else None


def _sampling(work: Workload, gpu: GPU, utilisation: float, rows: int | None, mean: float | None) -> Speed:
    recipe = work.recipe
    jobs: list[tuple[int | None, int, int]]  # prompts, samples of each, longest
    if recipe.task == "sample":
        sampling = recipe.args.sampling
        jobs = [(rows or rows_of(recipe.data.datasets), sampling.n, sampling.max_tokens)]
    else:
        jobs = [(benchmark.problems, benchmark.k, benchmark.max_tokens) for benchmark in recipe.args.benchmarks]
    parameters: dict[str, Any] = recipe.args.engine.parameters
    tensor = int(parameters.get("tensor_parallel_size", 1))
    vllm = recipe.args.engine.name == "vllm"
    share = float(parameters.get("gpu_memory_utilization", 0.9)) if vllm else None
    speed = Speed(0.0, 0.0, {"generation": 0.0}, 1)
    counts = tracing.count_parameters(work.config)
    for prompts, n, longest in jobs:
        if prompts is None:
            speed.steps = None
            speed.notes.append("how many prompts there are is not known, so neither is the time (--rows N)")
            continue
        length = mean or max(16.0, MEAN_SHARE * longest)
        tokens = prompts * n * length
        speed.tokens += tokens
        speed.flops += tokens * (2 * counts.active + attention(work, length / 2))
        replicas = max(1, work.processes // tensor)
        spent = generation(work, gpu, prompts * n / replicas, length, longest, share, tensor)
        speed.seconds["generation"] += spent
        speed.notes.append(f"{prompts * n:,} completions of {length:,.0f} tokens on average (--mean_tokens)")
    return speed
