"""The memory of a training step besides the model's state, traced on tensors without data.

The model is transformers', with peft's adapters and TRL's LM head; its tensors are PyTorch's fake tensors, with a
shape and no data. The sizes are therefore those of the installed libraries, for any architecture, and a layer of a 70B
model is traced as fast as a toy's. Two and three layers are traced, as every further layer adds the same memory.
"""

from __future__ import annotations

import contextlib
import gc
import types
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AutoModelForCausalLM, PretrainedConfig

from ..errors import RecipeError
from ..system.internals import (
    FakeTensor,
    FakeTensorMode,
    TorchDispatchMode,
    add_fused_lm_head,
    identify_storage,
    simulate_lm_head,
    tree_iter,
)


@dataclass(frozen=True)
class Setting:
    """Settings of a training step.

    Args:
        rows: sequences in the batch.
        tokens: tokens of each sequence.
        dtype: type of the weights.
        autocast: compute in bfloat16 whatever the type of the weights.
        checkpointing: keep only the layers' inputs and recompute the activations.
        lora: arguments of peft's LoraConfig as sorted items; None trains all weights.
        four_bit: frozen weights are 4-bit, and dequantized to bfloat16 for each use (bitsandbytes).
        adapter_dtype: type of the adapter's weights.
        outputs: outputs of TRL's LM head besides log-probabilities; None for a reward model's scores.
        attention: `flash`, or one of transformers' implementations (`sdpa` with its mask).
        fused: the LM head runs in a Triton kernel, as on a GPU, and not in tiles.
        reentrant: use reentrant checkpointing.
    """

    rows: int
    tokens: int
    dtype: str = "float32"
    autocast: bool = False
    checkpointing: bool = False
    lora: tuple[tuple[str, Any], ...] | None = None
    four_bit: bool = False
    adapter_dtype: str = "float32"
    outputs: tuple[str, ...] | None = ("entropy", "is_top1")
    attention: str = "flash"
    fused: bool = True
    reentrant: bool | None = None


@dataclass(frozen=True)
class Step:
    """Memory of a step beside weights, gradients and optimizer, in bytes.

    Args:
        head: peak of the forward pass and the head's backward pass, before the first layer's backward pass.
        backward: peak of the layers' backward pass, during which tied embeddings have half of their gradient.
        kept: activations that the forward pass keeps for the backward pass.
        layer: the part of `kept` that each layer adds.
    """

    head: int
    backward: int
    kept: int
    layer: int

    @property
    def peak(self) -> int:
        """Peak bytes."""
        return max(self.head, self.backward)


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters.

    Args:
        total: all parameters.
        trained: parameters with a gradient.
        linear: parameters of the layers' linear maps, which 4-bit loading compresses.
        layer: parameters of one layer.
        active: parameters that take part in a token's forward pass, without embeddings; fewer with experts.
    """

    total: int
    trained: int
    linear: int
    layer: int
    active: int


class _MemoryMeter(TorchDispatchMode):
    """Counts the bytes of all existing tensors, except those it ignores."""

    def __init__(self, ignored: Iterator[torch.Tensor]):
        super().__init__()
        self.now, self.peak = 0, 0
        self.known = {identify_storage(tensor.untyped_storage()) for tensor in ignored}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            key = identify_storage(storage)
            if key not in self.known:
                self.known.add(key)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, key, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size

    def read_peak(self) -> int:
        """The peak since the last call."""
        peak, self.peak = self.peak, self.now
        return peak


class _Flash(torch.autograd.Function):
    """The memory of flash attention: it keeps inputs, output and a row statistic; dq is accumulated in float32."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = q.new_empty((*q.shape[:-1], v.shape[-1]))
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, k, v, *_ = ctx.saved_tensors
        accumulated = torch.empty_like(q, dtype=torch.float32)
        grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        del accumulated
        return grads


def _flash(module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, **_: Any) -> Any:
    # transformers' attention functions return token-major tensors.
    return _Flash.apply(q, k, v).transpose(1, 2), None


AttentionInterface.register("open_r1_traced", _flash)


class _FourBit(torch.autograd.Function):
    """bitsandbytes' product with a 4-bit matrix, which dequantizes the matrix each time and keeps no input."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        ctx.shape = shape
        weight = x.new_empty(shape)
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        weight = grad.new_empty(ctx.shape)
        return grad @ weight, None


def _four_bit_forward(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", enabled=False):
        out = _FourBit.apply(x.to(torch.bfloat16), self.weight.shape)
        return (out if self.bias is None else out + self.bias.to(torch.bfloat16)).to(x.dtype)


class _Experts(nn.Module):
    """One dense layer with the hidden units of a token's experts, in place of all experts and the routing."""

    def __init__(self, experts: nn.Module, config: PretrainedConfig):
        super().__init__()
        width = getattr(config, "moe_intermediate_size", config.intermediate_size)
        width *= config.num_experts_per_tok
        self.up = nn.Linear(config.hidden_size, 2 * width, bias=False)
        self.down = nn.Linear(width, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        gate, up = self.up(x).chunk(2, dim=-1)
        return self.down(nn.functional.silu(gate) * up)


def set_layers(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    """The same architecture with another number of layers, all of the kind of the last one."""
    small = config.__class__.from_dict(config.to_dict())
    small.num_hidden_layers = layers
    if getattr(small, "layer_types", None):
        small.layer_types = [config.layer_types[-1]] * layers
    if hasattr(small, "first_k_dense_replace"):
        small.first_k_dense_replace = 0
    return small


def _build_model(config: PretrainedConfig, **kwargs: Any) -> nn.Module:
    """A model without data."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, **kwargs)


def _add_lora(model: nn.Module, lora: tuple[tuple[str, Any], ...]) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    with torch.device("meta"):
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **dict(lora)))


def _count_experts(config: PretrainedConfig) -> int:
    """Experts of a layer; their name differs between architectures."""
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    return next(getattr(config, name) for name in names if hasattr(config, name))


def count_parameters(
    config: PretrainedConfig, lora: tuple[tuple[str, Any], ...] | None = None, head: bool = True
) -> Parameters:
    """Count a model's parameters.

    Args:
        config: configuration of the model.
        lora: as in `Setting`.
        head: count the LM head, which a reward model lacks.

    Raises:
        RecipeError: the architecture has another structure than expected.
    """
    with _explain_failure(config):
        return _count(_Config(config), lora, head)


@cache
def _count(key: _Config, lora: tuple[tuple[str, Any], ...] | None, with_head: bool) -> Parameters:
    config = key.config
    base = _build_model(config)
    model = base if lora is None else _add_lora(base, lora)
    sizes = {name: (p.numel(), p.requires_grad) for name, p in model.named_parameters()}
    inner = base.get_decoder().layers
    linear = sum(m.weight.numel() for m in inner.modules() if isinstance(m, nn.Linear) and "lora" not in str(type(m)))
    if lora is not None:
        linear -= sum(n for name, (n, _) in sizes.items() if "lora_" in name)
    experts = sum(
        p.numel()
        for name, p in inner.named_parameters()
        if ".experts." in name and "lora_" not in name and p.dim() == 3
    )
    share = config.num_experts_per_tok / _count_experts(config) if experts else 0
    head = base.get_output_embeddings().weight.numel()
    if not with_head and not config.tie_word_embeddings:
        sizes = {name: size for name, size in sizes.items() if "lm_head" not in name}
    within = sum(p.numel() for p in inner.parameters())
    return Parameters(
        total=sum(n for n, _ in sizes.values()),
        trained=sum(n for n, trained in sizes.values() if trained),
        linear=linear + experts,
        layer=max(sum(p.numel() for p in layer.parameters()) for layer in inner),
        active=int(within - experts + share * experts + (head if with_head else 0)),
    )


def trace_step(config: PretrainedConfig, setting: Setting) -> Step:
    """Trace the memory of one forward and backward pass.

    Raises:
        RecipeError: the architecture has another structure than expected.
    """
    with _explain_failure(config):
        return _trace_step(_Config(config), setting)


@contextlib.contextmanager
def _explain_failure(config: PretrainedConfig) -> Iterator[None]:
    try:
        yield
    except RecipeError:
        raise  # a missing private name is no fault of the architecture
    except (AttributeError, TypeError, ValueError, RuntimeError, StopIteration) as error:
        raise RecipeError(f"estimate: a model of type {config.model_type} cannot be traced ({error})") from error


class _Config:
    """A hashable configuration, for caches."""

    def __init__(self, config: PretrainedConfig):
        self.config, self.text = config, config.to_json_string(use_diff=False)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Config) and self.text == other.text


@cache
def _trace_step(key: _Config, setting: Setting) -> Step:
    layers = key.config.num_hidden_layers
    two, three = _trace_layers(key.config, setting, 2), _trace_layers(key.config, setting, 3)

    def extrapolate(phase: str) -> float:
        return two[phase] + (layers - 2) * (three[phase] - two[phase])

    return Step(
        head=int(max(extrapolate("forward"), extrapolate("head"))),
        backward=int(max(extrapolate("last_layer"), extrapolate("backward"))),
        kept=int(extrapolate("kept")),
        layer=int(three["kept"] - two["kept"]),
    )


def _trace_layers(config: PretrainedConfig, setting: Setting, layers: int) -> dict[str, float]:
    """The peaks of a step's phases with a number of layers, in bytes."""
    dtype = getattr(torch, setting.dtype)
    attention = "open_r1_traced" if setting.attention == "flash" else setting.attention
    base = model = _build_model(set_layers(config, layers), dtype=dtype, attn_implementation=attention)
    for parent in [module for module in model.modules() if hasattr(module, "experts")]:
        with torch.device("meta"):
            parent.experts = _Experts(parent.experts, config).to(dtype)
    if setting.outputs is not None:
        add_fused_lm_head(base, outputs=("log_probs", *setting.outputs))
    if setting.lora is not None:
        model = _add_lora(model, setting.lora)
        model.enable_input_require_grads()
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(getattr(torch, setting.adapter_dtype))
    if setting.four_bit:
        for module in base.get_decoder().layers.modules():
            if isinstance(module, nn.Linear) and not module.weight.requires_grad:
                module.forward = types.MethodType(_four_bit_forward, module)
    model.train()
    if setting.checkpointing:
        model.gradient_checkpointing_enable(
            None if setting.reentrant is None else {"use_reentrant": setting.reentrant}
        )
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    _make_fake(model, fake)
    with fake:
        return _measure_phases(model, base, setting)


def _make_fake(model: nn.Module, fake: FakeTensorMode) -> None:
    """Replace all weights by fake tensors on the CPU, as the meta device has no autocast."""
    made: dict[int, torch.Tensor] = {}  # tied weights stay tied
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(parameter) not in made:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
                made[id(parameter)] = nn.Parameter(FakeTensor(fake, empty, "cpu"), parameter.requires_grad)
            setattr(module, name, made[id(parameter)])
        for name, buffer in list(module.named_buffers(recurse=False, remove_duplicate=False)):
            empty = torch.empty(buffer.shape, dtype=buffer.dtype, device="meta")
            setattr(module, name, FakeTensor(fake, empty, "cpu"))


def _measure_phases(model: nn.Module, base: nn.Module, setting: Setting) -> dict[str, float]:
    for parameter in model.parameters():
        if parameter.requires_grad:
            # Gradients are counted with the model's state. Real ones are added in place, fake ones are replaced.
            parameter.register_post_accumulate_grad_hook(_drop_grad)
    state = [*model.parameters(), *model.buffers()]
    ids = torch.zeros(setting.rows, setting.tokens, dtype=torch.long)
    inputs = {"input_ids": ids, "position_ids": torch.arange(setting.tokens).expand(setting.rows, -1)}
    if setting.attention != "flash":
        # Padded rows have a mask, with which `sdpa` repeats keys and values for all heads.
        inputs = {"input_ids": ids} | ({"attention_mask": torch.ones_like(ids)} if setting.rows > 1 else {})
    peaks: dict[str, float] = {}
    meter = _MemoryMeter(iter([*state, *inputs.values()]))
    decoder = base.get_decoder()

    def after_layers(module: nn.Module, args: Any, output: Any) -> None:
        peaks["forward"] = meter.read_peak()
        hidden = output[0] if isinstance(output, tuple) else output.last_hidden_state
        hidden.register_hook(lambda grad: peaks.__setitem__("head", meter.read_peak()))

    def record_at_input_gradient(layer: nn.Module, phase: str) -> None:
        def hook(module: nn.Module, args: Any) -> None:
            if args and args[0].requires_grad and phase not in hooked:
                hooked.add(phase)
                args[0].register_hook(lambda grad: peaks.__setitem__(phase, meter.read_peak()))

        layer.register_forward_pre_hook(hook)

    def after_layer(module: nn.Module, args: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            # Recomputing a layer leaves reference cycles, with fake tensors only.
            hidden.register_hook(_collect)

    hooked: set[str] = set()
    for layer in decoder.layers if setting.checkpointing else ():
        layer.register_forward_hook(after_layer)
    decoder.register_forward_hook(after_layers)
    record_at_input_gradient(decoder.layers[-1], "last_layer")
    # The embeddings' backward pass comes later; it does not grow with the layers, and is counted with the gradients.
    record_at_input_gradient(decoder.layers[0], "backward")
    with meter, _freeze_garbage(), simulate_lm_head(setting.fused, base.config.vocab_size):
        with torch.autocast("cpu", torch.bfloat16, enabled=setting.autocast):
            if setting.outputs is None:
                loss = decoder(**inputs, use_cache=False).last_hidden_state[:, -1].float().mean()
            else:
                loss = model(**inputs, labels=ids, fused_lm_head=True).loss
        peaks["kept"] = meter.now
        loss.backward()
    return peaks


@contextlib.contextmanager
def _freeze_garbage() -> Iterator[None]:
    """Let garbage collections look only at objects made meanwhile, as there is one for every layer."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _collect(grad: torch.Tensor) -> None:
    gc.collect()


def _drop_grad(parameter: torch.Tensor) -> None:
    parameter.grad = None
