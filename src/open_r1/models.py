"""Tokenizers, models and adapters from a recipe's keys."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from .config.recipe import Recipe
from .config.schema import TRAINERS
from .errors import RecipeError, suggest_nearest
from .prompts import CHAT_TEMPLATES, Messages
from .system.hardware import has_flash_attention
from .system.registry import import_place

# Tokens that model families reserve for padding, tried if a tokenizer defines no padding token.
PAD_TOKENS = ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|vision_pad|>", "<|fim_pad|>")


def load_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    """Load the recipe's tokenizer with its chat template; it pads on the left, not with the end token.

    Raises:
        RecipeError: it cannot be loaded, or lacks a token that the chat template or the padding needs.
    """
    name = recipe.data.tokenizer_name_or_path or recipe.model.model_name_or_path
    if recipe.data.tokenizer_name_or_path is None and recipe.run.random_init is not None:
        raise RecipeError("tokenizer_name_or_path: name a tokenizer for the model made by random_init")
    trusted = bool(recipe.given.get("trust_remote_code"))
    tokenizer = load_named_tokenizer(str(name), recipe.model.model_revision, trusted)
    tokenizer.padding_side = "left"
    if recipe.data.chat_template is not None:
        template = CHAT_TEMPLATES[recipe.data.chat_template]
        tokenizer.chat_template = template.text
        if template.end_of_turn not in tokenizer.get_vocab():
            raise RecipeError(
                f"chat_template: {recipe.data.chat_template} ends a turn with {template.end_of_turn}, which is not "
                f"a token of {name}; choose the template of this model's family"
            )
        tokenizer.eos_token = template.end_of_turn
    _set_padding(recipe, tokenizer, str(name))
    return tokenizer


def _set_padding(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Set a padding token that is not the end token.

    A loss that masks padding by its token would mask the end as well, and the model would never learn to stop.

    Raises:
        RecipeError: `pad_token` is the end token or unknown, or a training has no other token.
    """
    vocabulary, pad_token = tokenizer.get_vocab(), recipe.data.pad_token
    if pad_token is not None:
        if pad_token not in vocabulary:
            nearest = suggest_nearest(pad_token, list(vocabulary))
            raise RecipeError(f"pad_token: {pad_token!r} is no token of {name}{nearest}")
        if pad_token == tokenizer.eos_token:
            raise RecipeError(
                f"pad_token: {pad_token} is the end token of {name}; padded with it, a model never learns to stop. "
                "Name another, or remove the key"
            )
        tokenizer.pad_token = pad_token
    if tokenizer.pad_token not in (None, tokenizer.eos_token):
        return
    free = next((token for token in PAD_TOKENS if token in vocabulary and token != tokenizer.eos_token), None)
    if free is None and recipe.task in TRAINERS:
        raise RecipeError(
            f"pad_token: {name} has no token for padding but its end token {tokenizer.eos_token}; padded with it, a "
            "model never learns to stop. Name a token that occurs in no text, e.g. --pad_token '<unk>'"
        )
    tokenizer.pad_token = free or tokenizer.eos_token


def check_turns_end(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that the chat template ends an assistant's turn with the token that ends generation.

    Raises:
        RecipeError: it does not, or there is no template.
    """
    messages = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "an answer"}]
    if tokenizer.chat_template is None:
        known = ", ".join(CHAT_TEMPLATES)
        raise RecipeError(f"chat_template: the tokenizer has none; name one of {known}")
    after = str(tokenizer.apply_chat_template(messages, tokenize=False)).rpartition("an answer")[2]
    if str(tokenizer.eos_token) not in after:
        raise RecipeError(
            f"chat_template: a turn of the tokenizer's template ends with {after.strip()[:40]!r}, and generation with "
            f"{tokenizer.eos_token}: a model trained on it never stops. Name the template of its family "
            f"({', '.join(CHAT_TEMPLATES)}), which also sets the end token"
        )


def load_named_tokenizer(
    name: str, revision: str = "main", trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load a tokenizer by hub name, folder, or `package.module:function`.

    Raises:
        RecipeError: it cannot be loaded.
    """
    if ":" in name and not Path(name).exists():
        return import_place(name, f"tokenizer_name_or_path: {name}")()
    try:
        # AutoTokenizer loads a Qwen2Tokenizer for every qwen2 model, also where the files declare the plain class.
        declared = get_tokenizer_config(name, revision=revision).get("tokenizer_class")
        if declared in ("TokenizersBackend", "PreTrainedTokenizerFast"):
            return PreTrainedTokenizerFast.from_pretrained(name, revision=revision)
        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise RecipeError(f"tokenizer: {name} cannot be loaded: {error}") from error


def render_prompt(prompt: str | Messages, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text that a completion continues."""
    if isinstance(prompt, str):
        return prompt
    return tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)


def opens_think(prompt: str | Messages, tokenizer: PreTrainedTokenizerBase) -> bool:
    """True if the prompt ends with `<think>`, and completions begin inside the reasoning."""
    return render_prompt(prompt, tokenizer).rstrip().endswith("<think>")


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer of bytes and the special tokens of our chat templates, for any text and without files."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    special = ["<pad>", "<eos>", "<|im_start|>", "<|start_header_id|>", "<|end_header_id|>"]
    special += ["<｜User｜>", "<｜Assistant｜>"]
    special = list(dict.fromkeys([*special, *(template.end_of_turn for template in CHAT_TEMPLATES.values())]))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token=CHAT_TEMPLATES["chatml"].end_of_turn,
        bos_token="<eos>",
        additional_special_tokens=special[2:],
        chat_template=CHAT_TEMPLATES["chatml"].text,
    )


def prepare_weights(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> str:
    """The path or hub name of the initial weights; with `random_init` they are drawn and written to `<run>/init`.

    TRL gets a path instead of a model, because it loads the model differently under ZeRO-3 and FSDP, and loads the
    reference model as well.

    Raises:
        RecipeError: there is no model at the path, or transformers refuses `random_init`.
    """
    if recipe.run.random_init is None:
        return _check_named(recipe, tokenizer)
    path = recipe.run_dir / "init"
    check_shape(recipe, build_random_config(recipe.run.random_init, tokenizer), tokenizer)
    with PartialState().main_process_first():
        if not (path / "config.json").is_file():
            config = build_random_config(recipe.run.random_init | _head(recipe), tokenizer)
            torch.manual_seed(recipe.args.seed)
            partial = path.with_name(f".init-{os.getpid()}.partial")
            _auto_class(recipe).from_config(config, dtype=torch.float32).save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            try:
                partial.rename(path)
            except OSError:
                # Another part of a job array has made the same model.
                if not (path / "config.json").is_file():
                    raise
                shutil.rmtree(partial)
    return str(path)


def ensure_model(recipe: Recipe) -> Recipe:
    """The recipe with its `random_init` replaced by the path of the model made from it; all processes call it."""
    if recipe.run.random_init is None:
        return recipe
    path = prepare_weights(recipe, load_tokenizer(recipe))
    return replace(
        recipe, model=replace(recipe.model, model_name_or_path=path), run=replace(recipe.run, random_init=None)
    )


def _auto_class(recipe: Recipe) -> type:
    return AutoModelForSequenceClassification if recipe.task == "reward" else AutoModelForCausalLM


def _head(recipe: Recipe) -> dict[str, Any]:
    """A reward model has one label, the score."""
    return {"num_labels": 1} if recipe.task == "reward" else {}


def build_random_config(values: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> transformers.PretrainedConfig:
    """The configuration that `random_init` describes.

    Raises:
        RecipeError: `model_type` is missing, or transformers refuses the values.
    """
    values = {"vocab_size": len(tokenizer)} | values
    model_type = values.pop("model_type", None)
    if model_type is None:
        raise RecipeError(
            "random_init: model_type is missing, e.g. `random_init: {model_type: qwen2, hidden_size: 64}`"
        )
    tokens = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    try:
        return AutoConfig.for_model(model_type, **values | tokens)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"random_init: {error}") from error


def _check_named(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> str:
    name = str(recipe.model.model_name_or_path)
    path = Path(name)
    if path.is_dir() and not (path / "config.json").is_file():
        adapter = " (it holds an adapter: merge it first)" if (path / "adapter_config.json").is_file() else ""
        raise RecipeError(f"model_name_or_path: {name} is a folder without config.json{adapter}")
    if not path.exists() and name.startswith((".", "/", "~", "runs/")):
        made = f"; make it with: open-r1 train {recipe.base.command}" if recipe.base else ""
        raise RecipeError(f"model_name_or_path: there is no folder {name}{made}")
    trusted = {"revision": recipe.model.model_revision, "trust_remote_code": recipe.args.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(name, **trusted, **list_config_changes(recipe))
    except (OSError, ValueError) as error:
        raise RecipeError(f"model_name_or_path: there is no model {name} here or on the hub: {error}") from error
    check_shape(recipe, config, tokenizer)
    return name


def check_shape(
    recipe: Recipe, config: transformers.PretrainedConfig, tokenizer: PreTrainedTokenizerBase | None = None
) -> None:
    """Check that the context is not longer than the model's, and that the model has all tokens of the tokenizer.

    Raises:
        RecipeError: naming the key.
    """
    positions = getattr(config, "max_position_embeddings", None)
    given = recipe.given
    wanted = {key: given.get(key) for key in ("max_length", "max_completion_length", "vllm_max_model_length")}
    if recipe.task == "evaluate":
        wanted = {}  # the engine checks each prompt
    for key, tokens in wanted.items():
        if positions is not None and isinstance(tokens, int) and tokens > positions:
            raise RecipeError(
                f"{key}: {tokens:,} tokens, and {recipe.model.model_name_or_path or 'the model'} has {positions:,} "
                f"positions; set --{key} {positions}, or stretch its rotary embeddings, as "
                "recipes/Qwen2.5-Math-7B/sft/distill.yaml does with `model_init_kwargs`"
            )
    if tokenizer is None:
        return
    largest = max(tokenizer.get_vocab().values()) + 1
    if largest > config.vocab_size:
        raise RecipeError(
            f"tokenizer_name_or_path: {tokenizer.name_or_path or 'the tokenizer'} has {largest:,} tokens and the "
            f"model {config.vocab_size:,}; they do not belong together"
        )


# Keys of `model_init_kwargs` that are not part of the model's configuration.
LOADING_KWARGS = ("use_kernels", "device_map", "dtype", "attn_implementation", "quantization_config", "max_memory")


def list_config_changes(recipe: Recipe) -> dict[str, Any]:
    """The keys of `model_init_kwargs` that change the model's configuration."""
    return {key: value for key, value in _parse_kwargs(recipe).items() if key not in LOADING_KWARGS}


def _parse_kwargs(recipe: Recipe) -> dict[str, Any]:
    given = recipe.given.get("model_init_kwargs") or {}
    try:
        return json.loads(given) if isinstance(given, str) else given
    except json.JSONDecodeError as error:
        raise RecipeError(f"model_init_kwargs: {given!r} is neither a mapping nor JSON: {error}") from error


def build_model_kwargs(recipe: Recipe) -> dict[str, Any]:
    """Keyword arguments for `from_pretrained`, as TRL's own scripts set them."""
    kwargs = {
        "revision": recipe.model.model_revision,
        "attn_implementation": recipe.model.attn_implementation or choose_attention(recipe),
        "dtype": recipe.model.dtype,
    }
    return kwargs | _parse_kwargs(recipe)


def choose_attention(recipe: Recipe) -> str | None:
    """The attention implementation of a recipe that names none; None is transformers' default, `sdpa`.

    On a GPU it is flash attention, if that is installed and the weights have half precision: flash attention requires
    it, and nothing casts float32 weights when a trainer samples. Otherwise packed rows use FlexAttention, as `sdpa`
    would build a mask over the whole packed row.
    """
    if not torch.cuda.is_available():
        return None
    if has_flash_attention() and recipe.model.dtype in ("bfloat16", "float16"):
        return "flash_attention_2"
    return "flex_attention" if recipe.given.get("packing") or recipe.given.get("padding_free") else None


def keep_head_precision(model: torch.nn.Module) -> None:
    """Keep a reward model's new head in fp32 under QLoRA, where TRL casts all trained weights to bf16.

    In bf16, small updates would be lost; and without autocast, as on a CPU, the head's input has another type.
    """
    if not (getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False)):
        return
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ".score." in name:
            parameter.data = parameter.data.float()


def save_merged_model(
    base: str, adapter: Path, target: Path, recipe: Recipe, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Merge an adapter into the base weights and write a plain model.

    The base is loaded again without quantization: merging into 4-bit weights would round the adapter (measured on a
    toy model: outputs change by 0.05, against 2e-7 this way).
    """
    from peft import PeftModel

    kwargs = {k: v for k, v in build_model_kwargs(recipe).items() if k != "quantization_config"}
    model = _auto_class(recipe).from_pretrained(base, **kwargs, **_head(recipe))
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    set_special_tokens(merged, tokenizer)
    merged.save_pretrained(target)


def set_special_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the token that ends a model's generation, or the padding token of a reward model."""
    if model.can_generate():
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    else:
        model.config.pad_token_id = tokenizer.pad_token_id
