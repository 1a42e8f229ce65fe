"""The memory of each GPU, part by part.

The model's state is computed from the numbers of parameters and the documented buffers of DeepSpeed, FSDP2 and DDP,
with their defaults, which the accelerate configs keep. The memory of a step beside it is traced (tracing.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..system.hardware import GPU
from . import tracing
from .tracing import Parameters, Setting
from .workload import Workload

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Bytes of optimizer state for each trained parameter, besides a float32 copy. Optimizers that are not listed keep two
# moments of the parameter's type.
OPTIMIZER_BYTES = {
    "adamw_8bit": 2, "adamw_bnb_8bit": 2, "paged_adamw_8bit": 0, "paged_adamw_32bit": 0, "sgd": 0, "adafactor": 0,
}  # fmt: skip
CONTEXT = 1.2 * GIB  # CUDA, cuBLAS and NCCL; our choice, from round figures that others report
FRAGMENTATION = 0.05  # share of the memory allocated in a step; our choice
# DeepSpeed's defaults: elements of a bucket to reduce (there are two, as communication overlaps), and parameters that
# may be gathered at a time.
REDUCE_BUCKET = 5e8
LIVE_PARAMETERS = 1e9
SUB_GROUP = 1e9
# bitsandbytes: half a byte, and a float32 scale for each 64 weights, in 8 bits with `use_bnb_nested_quant`.
FOUR_BIT = {False: 0.5 + 4 / 64, True: 0.5 + 1 / 64 + 4 / (64 * 256)}


@dataclass
class Memory:
    """Memory of a GPU, or of a process on a CPU, in bytes.

    Args:
        state: memory that is always in use, by name.
        step: peak memory of a training step beside the state, by name.
        generation: memory of generation beside the state, by name.
        cache_tokens: tokens that fit vLLM's key-value cache; below 1 its share does not hold the weights.
        asleep: the memory of generation is free during the step.
        host: bytes of host memory for each GPU.
        notes: assumptions.
    """

    state: dict[str, float] = field(default_factory=dict)
    step: dict[str, float] = field(default_factory=dict)
    generation: dict[str, float] = field(default_factory=dict)
    cache_tokens: float = math.inf
    asleep: bool = True
    host: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def peak(self) -> float:
        """Peak memory in bytes."""
        state, step, generation = (sum(part.values()) for part in (self.state, self.step, self.generation))
        return state + (max(step, generation) if self.asleep else step + generation)


def estimate_memory(work: Workload, gpu: GPU | None) -> Memory:
    """The memory of a workload on a model of GPU; None for a CPU."""
    return _estimate_training(work, gpu) if work.trains else _estimate_engine(work, gpu)


def _estimate_training(work: Workload, gpu: GPU | None) -> Memory:
    counts = tracing.count_parameters(work.config, work.lora, head=work.recipe.task != "reward")
    memory = Memory(state=_count_state(work, counts))
    memory.host = memory.state.pop("host", 0.0)
    if gpu is not None:
        memory.state["CUDA and NCCL"] = CONTEXT
    step = tracing.trace_step(work.config, build_setting(work, gpu))
    peak = _find_step_peak(work, step, memory.state.get("gradients", 0.0))
    kept = step.layer * work.config.num_hidden_layers
    if work.checkpointing and work.recipe.given.get("activation_offloading"):
        peak -= kept - 2 * step.layer  # the next layer is fetched while one is in use
        memory.host += kept
        kept = 2 * step.layer
    memory.step = {
        "activations kept for the backward pass": min(kept, peak),
        "at work on a layer or the head": peak - min(kept, peak),
    }
    if gpu is not None:
        memory.step["fragmentation"] = FRAGMENTATION * peak
    if work.samples:
        _add_generation(memory, work, counts, gpu)
    return memory


def _find_step_peak(work: Workload, step: tracing.Step, gradients: float) -> float:
    """Peak bytes of a step beside the gradients.

    Without gradient accumulation, gradients are freed after every step, and are allocated again as activations go.
    """
    config = work.config
    embedding = 0 if work.lora is not None else config.vocab_size * config.hidden_size * BYTES[work.dtype]
    tied = embedding if config.tie_word_embeddings else 0
    if work.accumulation > 1 or work.sharding.kind == "deepspeed":
        return max(step.head, step.backward, embedding + tied)
    begun = step.backward + embedding - tied
    ended = step.backward - step.layer * config.num_hidden_layers + gradients - tied
    return max(0.0, max(step.head, begun, ended, gradients + tied) - gradients)


def build_setting(work: Workload, gpu: GPU | None) -> Setting:
    """The settings with which a workload's trainer takes a step."""
    task, on_gpu = work.recipe.task, gpu is not None
    deepspeed = work.sharding.kind == "deepspeed" and work.bf16
    heads = {"sft": ("entropy", "is_top1"), "grpo": ("entropy",), "rloo": ("entropy",), "dpo": (), "reward": None}
    return Setting(
        rows=work.rows,
        tokens=work.tokens,
        dtype="bfloat16" if work.sharding.kind == "fsdp2" and work.bf16 else work.dtype,
        # DeepSpeed computes in the weights' type; FSDP2 casts them to bfloat16 when it gathers them.
        autocast=work.bf16 and work.sharding.kind in ("none", "ddp"),
        checkpointing=work.checkpointing,
        lora=work.lora,
        four_bit=work.four_bit,
        # peft makes an adapter float32; TRL rounds one on 4-bit weights, and DeepSpeed rounds the whole model.
        adapter_dtype="bfloat16" if work.four_bit or deepspeed else "float32",
        outputs=heads[task],
        attention="flash" if on_gpu else (work.recipe.model.attn_implementation or "sdpa"),
        fused=on_gpu,
        reentrant=True if work.sharding.stage >= 3 and work.lora is not None else None,
    )


def _count_state(work: Workload, counts: Parameters) -> dict[str, float]:
    """Bytes of weights, gradients, optimizer state and the buffers of sharding, by name."""
    shard, gpus, width = work.sharding, work.processes, BYTES[work.dtype]
    frozen, trained = counts.total - counts.trained, counts.trained
    master = shard.kind == "deepspeed" and work.bf16
    adapter = 2 if work.four_bit or master else 4
    state: dict[str, float] = {}
    if work.four_bit:
        packed = FOUR_BIT[bool(work.recipe.model.use_bnb_nested_quant)] * counts.linear
        state["weights, 4-bit"] = packed + width * (frozen - counts.linear)
    elif work.recipe.model.load_in_8bit:
        state["weights, 8-bit"] = counts.linear + width * (frozen - counts.linear)
    else:
        if shard.kind == "fsdp2" and work.bf16:
            width = 4 if work.lora is None else width
        state["weights"] = width * (frozen if work.lora else counts.total) / shard.shards("parameters", gpus)
    if work.lora is not None:
        state["adapter"] = adapter * trained / shard.shards("parameters", gpus)
        width = adapter
    state["gradients"] = width * trained / shard.shards("gradients", gpus)
    if master:
        state["float32 copy of the weights"] = 4 * trained / shard.shards("optimizer", gpus)
    moments = OPTIMIZER_BYTES.get(str(work.get("optim")), 2 * (4 if master else width))
    state["optimizer"] = moments * trained / shard.shards("optimizer", gpus)
    if shard.kind == "ddp":
        state["DDP's buckets"] = width * trained
    elif shard.kind == "deepspeed":
        state["DeepSpeed's buckets"] = 2 * 2 * min(REDUCE_BUCKET, trained)
        if shard.stage >= 3:
            state["gathered weights"] = 2 * min(max(LIVE_PARAMETERS, counts.layer), counts.total)
            state["float32 gradients of a group"] = 4 * min(SUB_GROUP, trained / gpus)
        else:
            state["float32 gradients"] = 4 * trained / shard.shards("optimizer", gpus)
    elif shard.kind == "fsdp2":
        if work.accumulation > 1:
            # accelerate reduces and shards gradients only after the last accumulation step.
            state["whole gradients"] = 2 * trained
        outside = 2 * (counts.total - counts.layer * work.config.num_hidden_layers)
        state["gathered weights"] = 2 * 2 * counts.layer + outside
    if work.reference:
        state["reference model"] = BYTES[work.dtype] * counts.total / shard.shards("parameters", gpus)
    offloaded = ["weights"] if work.sharding.offload_parameters else []
    if work.sharding.offload_optimizer:
        offloaded += ["optimizer", "float32 copy of the weights", "gradients", "float32 gradients"]
        offloaded += ["float32 gradients of a group"]
    return state | {"host": sum(state.pop(name, 0.0) for name in offloaded)}


def _add_generation(memory: Memory, work: Workload, counts: Parameters, gpu: GPU | None) -> None:
    given = work.recipe.given
    if given.get("use_vllm"):
        if work.get("vllm_mode") != "colocate":
            beside = f" ({work.server_gpus} beside these)" if work.server_gpus else ""
            memory.notes.append(f"vLLM is a server on other GPUs{beside}")
            if gpu is not None and work.server_gpus:
                memory.cache_tokens = count_vllm_tokens(work, gpu, work.vllm_share, work.server_gpus)
            return
        share = work.vllm_share
        memory.asleep = bool(given.get("vllm_enable_sleep_mode"))
        if work.sharding.stage >= 3 and work.lora is not None:
            # TRL gathers all weights on every GPU to merge the adapter before it sends them to vLLM.
            memory.generation["weights gathered to merge the adapter"] = 2 * counts.total
        if gpu is not None:
            memory.generation["vLLM"] = share * gpu.memory * GIB
            memory.cache_tokens = count_vllm_tokens(work, gpu, share, int(given.get("vllm_tensor_parallel_size") or 1))
        return
    sequences = work.rollout / work.processes
    if work.sharding.stage >= 3:
        memory.generation["weights gathered to generate"] = 2 * counts.total
    memory.notes.append(f"{sequences:,.0f} completions are generated at once, counted as if each were of full length")
    width = 2 if work.bf16 else BYTES[work.dtype]
    memory.generation["key-value cache"] = sequences * work.tokens * count_kv_bytes(work, width)
    # The last logits of each sequence: in the model's type, in float32, and two more copies for sampling.
    memory.generation["logits"] = sequences * work.config.vocab_size * (width + 3 * 4)


def count_kv_bytes(work: Workload, width: int = 2) -> float:
    """Bytes of the key-value cache for each token."""
    config = work.config
    if getattr(config, "kv_lora_rank", None):  # multi-head latent attention caches one compressed vector
        return config.num_hidden_layers * (config.kv_lora_rank + config.qk_rope_head_dim) * width
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * size * width


def count_vllm_tokens(work: Workload, gpu: GPU, share: float, tensor_parallel: int) -> float:
    """Tokens that fit the key-value cache of one vLLM engine; below 0 the weights do not fit."""
    counts = tracing.count_parameters(work.config)
    # vLLM uses about a tenth of its share for activations.
    room = tensor_parallel * 0.9 * share * gpu.memory * GIB - 2 * counts.total
    return room / count_kv_bytes(work)


def _estimate_engine(work: Workload, gpu: GPU | None) -> Memory:
    """The memory of a model that only generates."""
    counts = tracing.count_parameters(work.config)
    engine = work.recipe.args.engine
    parameters = engine.parameters
    tensor = int(parameters.get("tensor_parallel_size", 1))
    memory = Memory(state={"weights": 2 * counts.total / tensor})
    if gpu is not None:
        memory.state["CUDA and NCCL"] = CONTEXT
        if engine.name == "vllm":
            share = float(parameters.get("gpu_memory_utilization", 0.9))
            memory.cache_tokens = count_vllm_tokens(work, gpu, share, tensor)
            memory.generation["vLLM's cache"] = max(0.0, share * gpu.memory * GIB - sum(memory.state.values()))
    return memory
