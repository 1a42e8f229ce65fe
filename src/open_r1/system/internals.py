"""The private names of the libraries that this project depends on.

A library may rename a private attribute in any release. Every such name is written here, with the library it belongs
to, and nowhere else. A name that is missing raises a RecipeError, which names the release installed and the release
the name was read from. Nothing heavy is imported until a name is used.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch.utils.data import DataLoader
    from transformers import Trainer


# The releases in which these names were read; setup.py pins the same ones.
RELEASES = {"torch": "2.13.0", "transformers": "5.23.0", "trl": "1.16.0", "accelerate": "1.15.0"}

# `from .internals import FakeTensor` imports a name from the module given here.
MODULE_NAMES = {
    "FakeTensor": "torch._subclasses.fake_tensor",
    "FakeTensorMode": "torch._subclasses.fake_tensor",
    "TorchDispatchMode": "torch.utils._python_dispatch",
    "tree_iter": "torch.utils._pytree",
    "_hf_deepspeed_config_weak_ref": "transformers.integrations.deepspeed",
    "add_fused_lm_head": "trl.trainer.utils",
    "_CHUNKED_LOGPROB_CHUNK_SIZE": "trl.trainer.utils",
    "_forward_tile": "trl.kernels.chunked_logprob",
    "_backward_tile": "trl.kernels.chunked_logprob",
    "_addmm_fp32": "trl.kernels.chunked_logprob",
}

# A trainer's own attributes. `_step` and `_buffered_inputs` are the place in a generation cycle and its samples, which
# later steps log again from `_logs`; the sums are still to be logged.
_SUMS = ("_metrics", "_total_train_tokens")
_GENERATING = (*_SUMS, "_step", "_buffered_inputs", "_logs", "ref_model", "reward_funcs")
TRAINER_NAMES = {
    "Trainer": ("_tr_loss", "_globalstep_last_logged", "_load_from_checkpoint"),  # of transformers, the others of trl
    "SFTTrainer": _SUMS,
    "RewardTrainer": _SUMS,
    "DPOTrainer": (*_SUMS, "ref_model"),
    "GRPOTrainer": _GENERATING,
    "RLOOTrainer": _GENERATING,
}
NO_STEP_STATE = {"_load_from_checkpoint", "ref_model", "reward_funcs"}
WITHIN_A_CYCLE = {"_buffered_inputs", "_logs"}

# Samplers with a generator that lives from epoch to epoch, and those whose order follows from the epoch or the rows.
WITH_GENERATOR = {"RepeatSampler": "trl", "LengthGroupedSampler": "transformers", "RandomSampler": "torch"}
WITHOUT_GENERATOR = {"SeedableRandomSampler", "BatchRebalanceSampler", "SequentialSampler", "_InfiniteConstantSampler"}


def require(owner: object, name: str, library: str) -> Any:
    """An attribute of a library's object, class or module.

    Raises:
        RecipeError: it is missing.
    """
    try:
        return getattr(owner, name)
    except AttributeError as error:
        cls = getattr(owner, "__name__", type(owner).__name__)
        raise _missing(library, f"{cls} has no attribute {name!r}") from error


def _missing(library: str, what: str) -> RecipeError:
    return RecipeError(
        f"{library} {importlib.metadata.version(library)}: {what}, on which this project depends; it was written for "
        f"{library} {RELEASES[library]}. Install that release (`make install`), or correct "
        "src/open_r1/system/internals.py"
    )


def load_name(name: str) -> Any:
    """The value of a name of MODULE_NAMES.

    Raises:
        RecipeError: its module or the name is missing.
    """
    library = MODULE_NAMES[name].partition(".")[0]
    try:
        module = importlib.import_module(MODULE_NAMES[name])
    except ModuleNotFoundError as error:
        raise _missing(library, f"there is no module {MODULE_NAMES[name]!r}") from error
    return require(module, name, library)


def __getattr__(name: str) -> Any:
    if name not in MODULE_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load_name(name)


@contextlib.contextmanager
def _replace(values: dict[str, Any]) -> Iterator[None]:
    """Give names of MODULE_NAMES other values."""
    before = {name: load_name(name) for name in values}
    modules = {name: importlib.import_module(MODULE_NAMES[name]) for name in values}
    try:
        for name, value in values.items():
            setattr(modules[name], name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(modules[name], name, value)


def check_trainer(trainer: Trainer) -> None:
    """Check that a trainer has every name that is used of it; call it once `train` has begun, before the first step.

    Raises:
        RecipeError: one is missing, or the trainer is of an unknown kind.
    """
    for name, library in _names_of(trainer).items():
        require(trainer, name, library)


def _names_of(trainer: Trainer) -> dict[str, str]:
    """A trainer's own and inherited names, each with its library."""
    kinds = [cls.__name__ for cls in type(trainer).__mro__ if cls.__name__ in TRAINER_NAMES]
    if len(kinds) < 2 or kinds[-1] != "Trainer":
        raise _missing("trl", f"{type(trainer).__name__} is not one of {', '.join(TRAINER_NAMES)}")
    return {name: "transformers" if kind == "Trainer" else "trl" for kind in kinds for name in TRAINER_NAMES[kind]}


def read_step_state(trainer: Trainer) -> dict[str, Any]:
    """What a trainer keeps between two steps, by attribute, in types that `torch.load(weights_only=True)` reads.

    The samples of a generation cycle and their logs are left out where the next step begins another cycle.
    """
    names = {name: library for name, library in _names_of(trainer).items() if name not in NO_STEP_STATE}
    state = {name: require(trainer, name, library) for name, library in names.items()}
    state["_metrics"] = {mode: dict(values) for mode, values in state["_metrics"].items()}
    if "_step" in state:
        if state["_step"] % (trainer.args.steps_per_generation * trainer.args.num_iterations) == 0:
            state = {name: value for name, value in state.items() if name not in WITHIN_A_CYCLE}
        else:
            state["_logs"] = {
                key: {k: list(v) for k, v in kept.items()} if isinstance(kept, dict) else list(kept)
                for key, kept in state["_logs"].items()
            }
    return state


def restore_step_state(trainer: Trainer, state: dict[str, Any]) -> None:
    """Give a trainer the state that `read_step_state` returned; `train` has set its initial values.

    Raises:
        RecipeError: the checkpoint lacks a name.
    """
    if lacking := sorted(_names_of(trainer).keys() - NO_STEP_STATE - WITHIN_A_CYCLE - state.keys()):
        raise RecipeError(
            f"resume: the checkpoint lacks {', '.join(lacking)}, so another release of trl wrote it; start again with "
            "`--overwrite`"
        )
    for name, value in state.items():
        if name == "_metrics":
            for mode, values in value.items():
                trainer._metrics[mode].update(values)
        elif name == "_logs":
            for key, kept in value.items():
                queues = trainer._logs[key]
                for k, values in kept.items() if isinstance(kept, dict) else ():
                    queues[k].extend(values)
                if not isinstance(kept, dict):
                    queues.extend(kept)
        else:
            setattr(trainer, name, value)


def has_moving_reference(trainer: Trainer) -> bool:
    """True of a trainer whose reference model follows the policy."""
    return "ref_model" in _names_of(trainer) and require(trainer.args, "sync_ref_model", "trl")


def reward_functions(trainer: Trainer) -> list[Callable[..., Any]]:
    """GRPO's and RLOO's reward functions; empty for the other trainers."""
    return require(trainer, "reward_funcs", "trl") if "reward_funcs" in _names_of(trainer) else []


def completion_logs(trainer: Trainer) -> dict[str, Any]:
    """The step's `prompt`, `completion`, `advantages`, `rewards` and `extra` columns of GRPO or RLOO."""
    return require(trainer, "_logs", "trl")


def load_weights(trainer: Trainer, checkpoint: Path) -> None:
    """Load a checkpoint's weights into a trainer's model."""
    require(trainer, "_load_from_checkpoint", "transformers")(str(checkpoint))


def sampler_generator(dataloader: DataLoader) -> torch.Generator | None:
    """The generator from which a sampler draws every epoch's order.

    None if the order follows from the epoch's number, from the process's generator, or is that of the rows.

    Raises:
        RecipeError: the sampler is of an unknown class.
    """
    batches = dataloader.batch_sampler
    if type(batches).__name__ == "BatchSamplerShard":  # accelerate's, which takes one process's part
        batches = require(batches, "batch_sampler", "accelerate")
    # `batch_rebalance` draws whole batches.
    sampler = batches if type(batches).__name__ in WITHOUT_GENERATOR else require(batches, "sampler", "torch")
    kind = type(sampler).__name__
    if kind in WITHOUT_GENERATOR or (kind == "RepeatSampler" and not require(sampler, "shuffle", "trl")):
        return None
    if kind not in WITH_GENERATOR:
        raise _missing("transformers", f"the training rows are drawn by the unknown class {kind}")
    return require(sampler, "generator", WITH_GENERATOR[kind])


def storage_key(storage: torch.UntypedStorage) -> int:
    """A number that identifies a storage while it is alive."""
    return require(storage, "_cdata", "torch")


@contextlib.contextmanager
def disable_zero3_loading() -> Iterator[None]:
    """Load a model whole: under ZeRO-3 transformers would divide it among the processes, and it has no engine."""
    with _replace({"_hf_deepspeed_config_weak_ref": None}):
        yield


@contextlib.contextmanager
def simulate_lm_head(fused: bool, vocabulary: int) -> Iterator[None]:
    """Let TRL's LM head allocate on a CPU what it allocates on a GPU, or what it needs for whole tiles.

    Args:
        fused: a Triton kernel reads each tile of logits and makes no other tensors, as on a GPU. Otherwise each tile
            is worked on whole; the part of its buffer beyond a small vocabulary is never touched.
        vocabulary: tokens.
    """
    # On a CPU a product is added in float32 by way of copies.
    values: dict[str, Any] = dict.fromkeys(("_forward_tile", "_backward_tile", "_addmm_fp32"), _do_nothing)
    if not fused:
        name = "_CHUNKED_LOGPROB_CHUNK_SIZE"
        values = {name: min(load_name(name), vocabulary)}
    with _replace(values):
        yield


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    pass
