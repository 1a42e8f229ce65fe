"""The workload of a recipe: the facts from which memory and time are computed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from ..config import architectures
from ..config.loading import find_accelerate_config, load_recipe, type_recipe
from ..config.overrides import format_overrides
from ..config.recipe import Recipe, read_yaml
from ..config.schema import RL_TASKS, TRAINERS
from ..config.sharded_tasks import find_args_class
from ..errors import RecipeError, suggest_nearest
from ..models import list_config_changes, load_tokenizer

# Mean length of a completion over the longest: R1-Zero's mean over its 8,400 steps (arXiv 2501.12948v1, Figure 3) is
# 5,000 tokens of 32,768.
MEAN_SHARE = 0.15
PROMPT_TOKENS = 1024  # assumed length of a long prompt
# Tokens of a row that is not packed. Of the students' data: the paper's mean over its 800k (arXiv 2501.12948v2, Table
# 5). Of pairs: two answers of UltraFeedback with their question, in round figures.
MEAN_TOKENS = {"sft": 5355.3, "dpo": 600.0, "reward": 600.0}


@dataclass(frozen=True)
class Sharding:
    """How the model's state is divided among the GPUs.

    Args:
        name: name of the accelerate config.
        kind: `none` (one GPU), `ddp`, `fsdp2` or `deepspeed`.
        stage: ZeRO stage.
        offload_optimizer: the optimizer's state is in the host's memory.
        offload_parameters: the parameters are in the host's memory.
        sequence_parallel: number of GPUs that share a sequence.
    """

    name: str
    kind: str
    stage: int = 0
    offload_optimizer: bool = False
    offload_parameters: bool = False
    sequence_parallel: int = 1

    def shards(self, what: str, gpus: int) -> int:
        """The number of shards of `parameters`, `gradients` or `optimizer`."""
        split = {"parameters": self.stage >= 3, "gradients": self.stage >= 2, "optimizer": self.stage >= 1}[what]
        return gpus if split or self.kind == "fsdp2" else 1


@dataclass(frozen=True)
class Workload:
    """A training, sampling or evaluation on its hardware.

    Args:
        recipe: the recipe.
        config: configuration of the model.
        gpus: number of GPUs; 0 is a CPU.
        sharding: how the model's state is divided.
    """

    recipe: Recipe
    config: PretrainedConfig
    gpus: int
    sharding: Sharding

    def get(self, key: str) -> Any:
        """The value of a recipe key, or its default."""
        given = self.recipe.given.get(key)
        return self.defaults[key] if given is None else given

    @property
    def defaults(self) -> dict[str, Any]:
        classes = [find_args_class(self.recipe.task), type(self.recipe.model)]
        return {f.name: f.default for cls in classes for f in fields(cls)}

    @property
    def trains(self) -> bool:
        return self.recipe.task in TRAINERS

    @property
    def samples(self) -> bool:
        """True of a training that generates completions."""
        return self.recipe.task in RL_TASKS

    @property
    def on_gpu(self) -> bool:
        return self.gpus > 0

    @property
    def processes(self) -> int:
        return max(1, self.gpus)

    @property
    def server_gpus(self) -> int:
        """GPUs of a vLLM server that is started for the training."""
        return self.recipe.run.vllm_server_gpus

    @property
    def vllm_share(self) -> float:
        """Share of a GPU's memory that vLLM takes; 0.9 by default if the GPU is the server's."""
        given = self.recipe.given.get("vllm_gpu_memory_utilization")
        return float(given or (0.9 if self.server_gpus else self.get("vllm_gpu_memory_utilization")))

    @property
    def dtype(self) -> str:
        """Type of the loaded weights; DeepSpeed converts all to bfloat16."""
        dtype = str(self.recipe.model.dtype or "float32")
        if self.sharding.kind == "deepspeed" and self.bf16:
            return "bfloat16"
        return "float32" if dtype == "auto" else dtype

    @property
    def bf16(self) -> bool:
        """True if it computes in bfloat16: TRL's default on a GPU; on a CPU this project's default is `false`."""
        given = self.recipe.given.get("bf16")
        return bool(self.on_gpu and not self.recipe.given.get("fp16")) if given is None else bool(given)

    @property
    def rounds_updates(self) -> bool:
        """True if all weights are trained in bfloat16 without a float32 copy."""
        copied = self.sharding.kind in ("deepspeed", "fsdp2")
        return self.dtype == "bfloat16" and self.lora is None and not copied

    @property
    def lora(self) -> tuple[tuple[str, Any], ...] | None:
        model = self.recipe.model
        if not model.use_peft:
            return None
        targets = model.lora_target_modules  # TRL turns a list of one into a string
        values = {
            "r": model.lora_r,
            "lora_alpha": model.lora_alpha,
            "lora_dropout": model.lora_dropout,
            "target_modules": tuple(targets) if isinstance(targets, list) else targets,
        }
        if model.lora_modules_to_save:
            values["modules_to_save"] = tuple(model.lora_modules_to_save)
        if model.use_dora:
            values["use_dora"] = True
        return tuple(sorted(values.items()))

    @property
    def four_bit(self) -> bool:
        return bool(self.recipe.model.load_in_4bit)

    @property
    def rows(self) -> int:
        """Sequences that go through the model at once; a pair is two of them."""
        batch = int(self.get("per_device_train_batch_size"))
        return 2 * batch if self.recipe.task in ("dpo", "reward") else batch

    @property
    def tokens(self) -> int:
        """Tokens of the longest sequence with its prompt, for each GPU if several share a sequence."""
        if self.samples:
            longest = int(self.get("max_completion_length")) + self.prompt_tokens
        else:
            longest = int(self.get("max_length") or self.config.max_position_embeddings)
        return -(-longest // self.sharding.sequence_parallel)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the longest prompt: what the context leaves beside the completion, at most PROMPT_TOKENS."""
        completion = int(self.get("max_completion_length"))
        contexts = (self.recipe.given.get("vllm_max_model_length"), self.config.max_position_embeddings)
        return min([PROMPT_TOKENS, *(tokens - completion for tokens in contexts if tokens and tokens > completion)])

    @property
    def mean_tokens(self) -> float:
        """Mean tokens of a sequence: packed rows are full, the length of others is assumed."""
        if self.samples:
            return self.mean_completion + min(self.prompt_tokens, 256)
        longest = float(self.get("max_length") or self.config.max_position_embeddings)
        packed = self.recipe.task == "sft" and self.get("packing")
        return longest if packed else min(longest, MEAN_TOKENS[self.recipe.task])

    @property
    def mean_completion(self) -> float:
        return max(16.0, MEAN_SHARE * int(self.get("max_completion_length")))

    @property
    def accumulation(self) -> int:
        return int(self.get("gradient_accumulation_steps"))

    @property
    def replicas(self) -> int:
        """Number of groups of GPUs that work on different rows."""
        return max(1, self.processes // self.sharding.sequence_parallel)

    @property
    def rows_per_step(self) -> int:
        """Sequences of an optimizer step on all GPUs."""
        return self.rows * self.accumulation * self.replicas

    @property
    def rollout(self) -> int:
        """Completions sampled at once on all GPUs: those of one step, unless `steps_per_generation` says otherwise."""
        steps = int(self.recipe.given.get("steps_per_generation") or self.accumulation)
        return int(self.recipe.given.get("generation_batch_size") or self.rows * self.processes * steps)

    @property
    def iterations(self) -> int:
        """Number of times that a rollout is trained on."""
        return int(self.get("num_iterations")) if self.samples else 1

    @property
    def checkpointing(self) -> bool:
        return bool(self.get("gradient_checkpointing"))

    @property
    def reference(self) -> bool:
        """True if a second model is held as the reference; with an adapter, the base model is the reference."""
        if self.lora is not None:
            return False
        if self.recipe.task == "dpo":
            return not self.get("precompute_ref_log_probs")
        return self.samples and float(self.get("beta")) != 0.0


def build_workload(recipe: Recipe, config: PretrainedConfig | None = None) -> Workload:
    """The workload of a recipe.

    Args:
        recipe: loaded with `planned`.
        config: configuration of its model, if another stage makes the model.

    Raises:
        RecipeError: the model's configuration is not known, or there is no such accelerate config.
    """
    gpus = recipe.run.gpus
    return Workload(recipe, config or load_model_config(recipe), gpus, read_sharding(recipe, gpus))


def read_sharding(recipe: Recipe, gpus: int) -> Sharding:
    """How a recipe's accelerate config divides the model's state."""
    name = recipe.run.accelerate_config or ("ddp" if gpus > 1 else None)
    if gpus < 1 or name is None or recipe.task not in TRAINERS:
        return Sharding("none", "none")
    written = read_yaml(find_accelerate_config(name))
    deepspeed, fsdp = written.get("deepspeed_config") or {}, written.get("fsdp_config") or {}
    parallel = written.get("parallelism_config") or {}
    kinds = {"DEEPSPEED": "deepspeed", "FSDP": "fsdp2"}
    return Sharding(
        name,
        kinds.get(str(written.get("distributed_type")), "ddp"),
        int(deepspeed.get("zero_stage", 0)),
        deepspeed.get("offload_optimizer_device", "none") != "none" or bool(fsdp.get("fsdp_offload_params")),
        deepspeed.get("offload_param_device", "none") != "none" or bool(fsdp.get("fsdp_offload_params")),
        int(parallel.get("parallelism_config_sp_size", 1)) * int(parallel.get("parallelism_config_cp_size", 1)),
    )


def load_model_config(recipe: Recipe) -> PretrainedConfig:
    """The configuration of a recipe's model, from `random_init`, its base recipe, or `find_model_config`.

    Raises:
        RecipeError: it is not known.
    """
    if recipe.run.random_init is not None:
        values = dict(recipe.run.random_init)
        if "vocab_size" not in values:
            values["vocab_size"] = len(load_tokenizer(recipe))
        return AutoConfig.for_model(values.pop("model_type"), **values)
    name = str(recipe.model.model_name_or_path or "")
    if recipe.base is not None and not Path(name, "config.json").is_file():
        return load_model_config(type_recipe(recipe.base, planned=True))
    trusted = bool(recipe.given.get("trust_remote_code"))
    return find_model_config(name, recipe.model.model_revision, trusted, list_config_changes(recipe))


def load_planned_recipe(path: str | Path, changes: dict[str, Any]) -> Recipe:
    """Load a recipe for inspection, for as many processes as it has GPUs."""
    return load_recipe(path, format_overrides(changes), planned=True)


def find_model_config(
    name: str, revision: str = "main", trusted: bool = False, changes: Any = None
) -> PretrainedConfig:
    """The configuration of a model in a folder, the hub's cache, architectures.yaml, or on the hub, with `changes`.

    Raises:
        RecipeError: none of them has it.
    """
    changes = changes or {}
    options = {"revision": revision, "trust_remote_code": trusted}
    if Path(name).is_dir():
        try:
            return AutoConfig.from_pretrained(name, **options, **changes)
        except (OSError, ValueError) as error:
            raise RecipeError(f"model_name_or_path: the config.json of {name} cannot be read: {error}") from error
    try:
        return AutoConfig.from_pretrained(name, local_files_only=True, **options, **changes)
    except (OSError, ValueError):
        known = architectures.find_architecture(name)
    if known is not None:
        return AutoConfig.for_model(known.pop("model_type"), **known | changes)
    try:
        return AutoConfig.from_pretrained(name, **options, **changes)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"model_name_or_path: the shape of {name} is not known: it is neither a folder nor in architectures.yaml"
            f"{suggest_nearest(name, architectures.list_architectures())}, and the hub does not give its config.json. "
            "Download that file and name its folder: --model_name_or_path FOLDER"
        ) from error
