"""What a step of training holds in memory besides the model's state, found by taking one on tensors without contents.

The model is transformers' own, with peft's adapters and the LM head that TRL puts in; its tensors are PyTorch's fake
ones, which have a shape and no data. So the sizes are those of the installed libraries, for any architecture, and take
no memory: a layer of a 70B model is as quick as a toy's. Two and three layers are run, since memory grows evenly with
every further one.
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
    simulate_lm_head,
    storage_key,
    tree_iter,
)


@dataclass(frozen=True)
class Setting:
    """How a step is taken.

    Args:
        rows: sequences that go through the model at once.
        tokens: of each.
        dtype: of the weights.
        autocast: compute in bfloat16 whatever their type.
        checkpointing: keep only the layers' inputs and compute the rest again.
        lora: rank, dropout, target modules and other arguments of peft's LoraConfig, as sorted items; None trains all.
        four_bit: the frozen weights are 4-bit and made bfloat16 for each use (bitsandbytes).
        adapter_dtype: of the adapter's weights.
        outputs: what TRL's head gives beside log-probabilities; None for a reward model's scores.
        attention: `flash`, or a name of transformers' (`sdpa` with its mask).
        fused: the head works in Triton's registers, as on a GPU, and not in whole tiles.
        reentrant: checkpointing of that kind.
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
    """What a step takes, beside weights, gradients and optimizer.

    Args:
        head: bytes at the fullest moment of the forward pass and the head's backward pass, before any layer's.
        backward: at that of the layers' backward pass; the gradient of tied embeddings waits there for its other half.
        kept: bytes that the forward pass leaves for the backward pass.
        layer: of those, bytes of each layer.
    """

    head: int
    backward: int
    kept: int
    layer: int

    @property
    def peak(self) -> int:
        """Bytes at the fullest moment."""
        return max(self.head, self.backward)


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters.

    Args:
        total: all.
        trained: those with a gradient.
        linear: in the layers' linear maps, which 4-bit loading compresses.
        layer: of one layer.
        active: that take part in a token's forward pass, embeddings left out; fewer than `total` with experts.
    """

    total: int
    trained: int
    linear: int
    layer: int
    active: int


class _Live(TorchDispatchMode):
    """Bytes of the tensors that are alive, but for those it was told to ignore."""

    def __init__(self, ignored: Iterator[torch.Tensor]):
        super().__init__()
        self.now, self.peak = 0, 0
        self.known = {storage_key(tensor.untyped_storage()) for tensor in ignored}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            key = storage_key(storage)
            if key not in self.known:
                self.known.add(key)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._gone, key, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size

    def lap(self) -> int:
        """The peak since the last call."""
        peak, self.peak = self.peak, self.now
        return peak


class _Flash(torch.autograd.Function):
    """Flash attention's footprint: inputs, output and a row statistic are kept; dq is gathered in float32."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = q.new_empty((*q.shape[:-1], v.shape[-1]))
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, k, v, *_ = ctx.saved_tensors
        gathered = torch.empty_like(q, dtype=torch.float32)
        grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        del gathered
        return grads


def _flash(module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, **_: Any) -> Any:
    # It takes token-major tensors, so transformers' own functions transpose on the way in and out.
    return _Flash.apply(q, k, v).transpose(1, 2), None


AttentionInterface.register("open_r1_traced", _flash)


class _FourBit(torch.autograd.Function):
    """bitsandbytes' product with a 4-bit matrix: the matrix is made bfloat16 each time, and the input is not kept."""

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
    """As many hidden units as a token's experts have together, in place of all experts and the sorting of tokens."""

    def __init__(self, experts: nn.Module, config: PretrainedConfig):
        super().__init__()
        width = getattr(config, "moe_intermediate_size", config.intermediate_size)
        several = config.num_experts_per_tok
        self.up = nn.Linear(config.hidden_size, 2 * width * several, bias=False)
        self.down = nn.Linear(width * several, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        gate, up = self.up(x).chunk(2, dim=-1)
        return self.down(nn.functional.silu(gate) * up)


def with_layers(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    """The same architecture with fewer layers, the usual kind of them."""
    small = config.__class__.from_dict(config.to_dict())
    small.num_hidden_layers = layers
    if getattr(small, "layer_types", None):
        small.layer_types = [config.layer_types[-1]] * layers
    if hasattr(small, "first_k_dense_replace"):
        small.first_k_dense_replace = 0
    return small


def build(config: PretrainedConfig, lora: tuple[tuple[str, Any], ...] | None = None, **kwargs: Any) -> nn.Module:
    """A model without weights, with peft's adapter if there is one."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, **kwargs)
        if lora is not None:
            model = _adapted(model, lora)
    return model


def _adapted(model: nn.Module, lora: tuple[tuple[str, Any], ...]) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **dict(lora)))


def _experts(config: PretrainedConfig) -> int:
    """Experts of a layer, which architectures call differently."""
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    return next(getattr(config, name) for name in names if hasattr(config, name))


def count_parameters(
    config: PretrainedConfig, lora: tuple[tuple[str, Any], ...] | None = None, head: bool = True
) -> Parameters:
    """Numbers of parameters of a model, and of what is trained; without its head of words for a reward model.

    Raises:
        RecipeError: an architecture that is built otherwise than is expected here.
    """
    with _refusing(config):
        return _count(_Config(config), lora, head)


@cache
def _count(key: _Config, lora: tuple[tuple[str, Any], ...] | None, with_head: bool) -> Parameters:
    config = key.config
    model = build(config, lora)
    base = model.get_base_model() if lora is not None else model
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
    share = config.num_experts_per_tok / _experts(config) if experts else 0
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
    """What one forward and backward pass takes.

    Raises:
        RecipeError: as `count`.
    """
    with _refusing(config):
        return _step(_Config(config), setting)


@contextlib.contextmanager
def _refusing(config: PretrainedConfig) -> Iterator[None]:
    try:
        yield
    except RecipeError:
        raise  # a release without a name is no fault of the architecture
    except (AttributeError, TypeError, ValueError, RuntimeError, StopIteration) as error:
        raise RecipeError(f"estimate: a model of type {config.model_type} cannot be traced ({error})") from error


class _Config:
    """A model's configuration that can be a key."""

    def __init__(self, config: PretrainedConfig):
        self.config, self.text = config, config.to_json_string(use_diff=False)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Config) and self.text == other.text


@cache
def _step(key: _Config, setting: Setting) -> Step:
    layers = key.config.num_hidden_layers
    two, three = _run(key.config, setting, 2), _run(key.config, setting, 3)

    def grown(of: str) -> float:
        return two[of] + (layers - 2) * (three[of] - two[of])

    return Step(
        head=int(max(grown("forward"), grown("head"))),
        backward=int(max(grown("last_layer"), grown("backward"))),
        kept=int(grown("kept")),
        layer=int(three["kept"] - two["kept"]),
    )


def _run(config: PretrainedConfig, setting: Setting, layers: int) -> dict[str, float]:
    """The peaks of a step's phases, in bytes, with so many layers."""
    attention = "open_r1_traced" if setting.attention == "flash" else setting.attention
    model = build(with_layers(config, layers), dtype=getattr(torch, setting.dtype), attn_implementation=attention)
    base = model
    for parent in [module for module in model.modules() if hasattr(module, "experts")]:
        with torch.device("meta"):
            parent.experts = _Experts(parent.experts, config).to(getattr(torch, setting.dtype))
    if setting.outputs is not None:
        add_fused_lm_head(base, outputs=("log_probs", *setting.outputs))
    if setting.lora is not None:
        with torch.device("meta"):
            model = _adapted(model, setting.lora)
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
    _without_contents(model, fake)
    with fake:
        return _measured(model, base, setting)


def _without_contents(model: nn.Module, fake: FakeTensorMode) -> None:
    """Give every weight a fake tensor on the CPU, where the meta device has no autocast."""
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


def _measured(model: nn.Module, base: nn.Module, setting: Setting) -> dict[str, float]:
    for parameter in model.parameters():
        if parameter.requires_grad:
            # It is counted with the model's state, where it is added to; a fake tensor would not be, but replaced.
            parameter.register_post_accumulate_grad_hook(_drop_grad)
    state = [*model.parameters(), *model.buffers()]
    ids = torch.zeros(setting.rows, setting.tokens, dtype=torch.long)
    inputs = {"input_ids": ids, "position_ids": torch.arange(setting.tokens).expand(setting.rows, -1)}
    if setting.attention != "flash":
        # Rows of different lengths are padded and have a mask, for which keys and values are repeated for their heads.
        inputs = {"input_ids": ids} | ({"attention_mask": torch.ones_like(ids)} if setting.rows > 1 else {})
    told: dict[str, float] = {}
    live = _Live(iter([*state, *inputs.values()]))
    decoder = base.get_decoder()

    def after_layers(module: nn.Module, args: Any, output: Any) -> None:
        told["forward"] = live.lap()
        hidden = output[0] if isinstance(output, tuple) else output.last_hidden_state
        hidden.register_hook(lambda grad: told.__setitem__("head", live.lap()))

    def at_the_gradient_of_its_input(layer: nn.Module, phase: str) -> None:
        def hook(module: nn.Module, args: Any) -> None:
            if args and args[0].requires_grad and phase not in hooked:
                hooked.add(phase)
                args[0].register_hook(lambda grad: told.__setitem__(phase, live.lap()))

        layer.register_forward_pre_hook(hook)

    def after_layer(module: nn.Module, args: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            # Recomputing a layer of fake tensors leaves cycles, which real ones do not.
            hidden.register_hook(_collect)

    hooked: set[str] = set()
    for layer in decoder.layers if setting.checkpointing else ():
        layer.register_forward_hook(after_layer)
    decoder.register_forward_hook(after_layers)
    at_the_gradient_of_its_input(decoder.layers[-1], "last_layer")
    # What the embeddings take after that does not grow with the layers, and is counted with the gradients.
    at_the_gradient_of_its_input(decoder.layers[0], "backward")
    with live, _quick_collections(), simulate_lm_head(setting.fused, base.config.vocab_size):
        with torch.autocast("cpu", torch.bfloat16, enabled=setting.autocast):
            if setting.outputs is None:
                loss = decoder(**inputs, use_cache=False).last_hidden_state[:, -1].float().mean()
            else:
                loss = model(**inputs, labels=ids, fused_lm_head=True).loss
        told["kept"] = live.now
        loss.backward()
    return told


@contextlib.contextmanager
def _quick_collections() -> Iterator[None]:
    """Collections at every layer look only at what is made meanwhile."""
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
