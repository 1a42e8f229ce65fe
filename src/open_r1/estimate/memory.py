"""Memory of each GPU, part by part.

What is the model's state follows from counts of parameters and from what DeepSpeed, FSDP2 and DDP keep (their
documentation, and their defaults, which the accelerate configs leave as they are); what a step holds beside it is
traced (traced.py).
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
# Bytes of optimizer state for each trained parameter, beside a float32 copy where there is one; two moments as wide as
# the parameter unless said otherwise.
OPTIMIZER_BYTES = {
    "adamw_8bit": 2,
    "adamw_bnb_8bit": 2,
    "paged_adamw_8bit": 0,
    "paged_adamw_32bit": 0,
    "sgd": 0,
    "adafactor": 0,
}
CONTEXT = 1.2 * GIB  # of CUDA, cuBLAS and NCCL; ours, of round figures others report
FRAGMENTATION = 0.05  # of what is allocated in a step; ours
# DeepSpeed's defaults: elements that wait to be reduced (twice, as communication overlaps), and parameters that may be
# gathered at a time.
REDUCE_BUCKET = 5e8
LIVE_PARAMETERS = 1e9
SUB_GROUP = 1e9
# bitsandbytes: half a byte, and a float32 scale for each 64 weights, itself 8-bit with `use_bnb_nested_quant`.
FOUR_BIT = {False: 0.5 + 4 / 64, True: 0.5 + 1 / 64 + 4 / (64 * 256)}


@dataclass
class Memory:
    """Bytes of a GPU, or of a process on a CPU.

    Args:
        state: what is held all the time, by name.
        step: what a step of training takes at its fullest beside that, by name.
        generation: what generating takes beside the state, by name.
        cache_tokens: that fit vLLM's key-value cache; below 1 its share does not hold the weights.
        asleep: generation's memory is given back while the step is taken.
        host: bytes in the host's memory, for each GPU.
        notes: what was assumed.
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
        """Bytes at the fullest moment."""
        state, step, generation = (sum(part.values()) for part in (self.state, self.step, self.generation))
        return state + (max(step, generation) if self.asleep else step + generation)


def estimate_memory(work: Workload, gpu: GPU | None) -> Memory:
    """Memory of a workload on a kind of GPU; `None` is a CPU."""
    return _training(work, gpu) if work.trains else _engine(work, gpu)


def _training(work: Workload, gpu: GPU | None) -> Memory:
    counts = tracing.count_parameters(work.config, work.lora, head=work.recipe.task != "reward")
    memory = Memory(state=_state(work, counts))
    memory.host = memory.state.pop("host", 0.0)
    if gpu is not None:
        memory.state["CUDA and NCCL"] = CONTEXT
    step = tracing.trace_step(work.config, setting(work, gpu))
    peak, kept = _beside_gradients(work, step, memory.state.get("gradients", 0.0)), step.layer * _layers(work)
    if work.checkpointing and work.recipe.given.get("activation_offloading"):
        peak -= kept - 2 * step.layer  # the next one is fetched while one is used
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


def _layers(work: Workload) -> int:
    return work.config.num_hidden_layers


def _beside_gradients(work: Workload, step: tracing.Step, gradients: float) -> float:
    """Bytes of a step at its fullest moment, beside the gradients.

    Where rows are not added up, gradients are freed after every step, and come back one by one as activations go.
    """
    config = work.config
    embedding = 0 if work.lora is not None else config.vocab_size * config.hidden_size * BYTES[work.dtype]
    tied = embedding if config.tie_word_embeddings else 0
    if work.accumulation > 1 or work.sharding.kind == "deepspeed":
        return max(step.head, step.backward, embedding + tied)
    begun = step.backward + embedding - tied
    ended = step.backward - step.layer * _layers(work) + gradients - tied
    return max(0.0, max(step.head, begun, ended, gradients + tied) - gradients)


def setting(work: Workload, gpu: GPU | None) -> Setting:
    """How the trainer of a workload takes a step."""
    task, on_gpu = work.recipe.task, gpu is not None
    deepspeed = work.sharding.kind == "deepspeed" and work.bf16
    heads = {"sft": ("entropy", "is_top1"), "grpo": ("entropy",), "rloo": ("entropy",), "dpo": (), "reward": None}
    return Setting(
        rows=work.rows,
        tokens=work.tokens,
        dtype="bfloat16" if work.sharding.kind == "fsdp2" and work.bf16 else work.dtype,
        # DeepSpeed computes in the weights' type, FSDP2 casts them to bfloat16 as it gathers them.
        autocast=work.bf16 and work.sharding.kind in ("none", "ddp"),
        checkpointing=work.checkpointing,
        lora=work.lora,
        four_bit=work.four_bit,
        # TRL rounds an adapter on 4-bit weights, and DeepSpeed all of a model; peft makes it float32.
        adapter_dtype="bfloat16" if work.four_bit or deepspeed else "float32",
        outputs=heads[task],
        attention="flash" if on_gpu else (work.recipe.model.attn_implementation or "sdpa"),
        fused=on_gpu,
        reentrant=True if work.sharding.stage >= 3 and work.lora is not None else None,
    )


def _state(work: Workload, counts: Parameters) -> dict[str, float]:
    """Weights, gradients and optimizer, and what sharding adds to them."""
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
            # accelerate has them reduced and sharded only after the last of the rows that are added up.
            state["whole gradients"] = 2 * trained
        outside = 2 * (counts.total - counts.layer * work.config.num_hidden_layers)
        state["gathered weights"] = 2 * 2 * counts.layer + outside
    if work.reference:
        state["reference model"] = BYTES[work.dtype] * counts.total / shard.shards("parameters", gpus)
    return _offloaded(work, state)


def _offloaded(work: Workload, state: dict[str, float]) -> dict[str, float]:
    host = 0.0
    moved = []
    if work.sharding.offload_optimizer:
        moved += ["optimizer", "float32 copy of the weights", "gradients", "float32 gradients"]
        moved += ["float32 gradients of a group"]
    moved += ["weights"] if work.sharding.offload_parameters else []
    for name in moved:
        host += state.pop(name, 0.0)
    return state | {"host": host}


def _add_generation(memory: Memory, work: Workload, counts: Parameters, gpu: GPU | None) -> None:
    given = work.recipe.given
    if given.get("use_vllm"):
        if work.get("vllm_mode") != "colocate":
            beside = f" ({work.server_gpus} beside these)" if work.server_gpus else ""
            memory.notes.append(f"vLLM is a server, on GPUs of its own{beside}")
            if gpu is not None and work.server_gpus:
                memory.cache_tokens = count_vllm_tokens(work, gpu, work.vllm_share, work.server_gpus)
            return
        share = work.vllm_share
        memory.asleep = bool(given.get("vllm_enable_sleep_mode"))
        if work.sharding.stage >= 3 and work.lora is not None:
            # TRL merges an adapter with all weights gathered on every GPU, before it hands them over.
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
    # The last logits of each: as the model gives them, in float32, and twice more for sampling.
    memory.generation["logits"] = sequences * work.config.vocab_size * (width + 3 * 4)


def count_kv_bytes(work: Workload, width: int = 2) -> float:
    """Bytes of the key-value cache for each token."""
    config = work.config
    if getattr(config, "kv_lora_rank", None):  # multi-head latent attention keeps one compressed vector
        return config.num_hidden_layers * (config.kv_lora_rank + config.qk_rope_head_dim) * width
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * size * width


def count_vllm_tokens(work: Workload, gpu: GPU, share: float, tensor_parallel: int) -> float:
    """Tokens that fit the key-value cache of one vLLM; below 0 the weights alone do not fit."""
    counts = tracing.count_parameters(work.config)
    # What vLLM takes while it runs is about a tenth of its share.
    room = tensor_parallel * 0.9 * share * gpu.memory * GIB - 2 * counts.total
    return room / count_kv_bytes(work)


def _engine(work: Workload, gpu: GPU | None) -> Memory:
    """A model that only generates."""
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
