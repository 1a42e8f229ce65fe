"""Tokenizer, model, adapter: what a recipe's model keys become."""

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

# Special tokens that model families reserve for padding, tried when a tokenizer has none of its own.
PAD_TOKENS = ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|vision_pad|>", "<|fim_pad|>")


def load_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    """The recipe's tokenizer with its chat template, a padding token that is not the end token, padded on the left.

    Raises:
        RecipeError: it cannot be found, or has no chat template where the prompt needs one.
    """
    name = recipe.data.tokenizer_name_or_path or recipe.model.model_name_or_path
    if recipe.data.tokenizer_name_or_path is None and recipe.run.random_init is not None:
        raise RecipeError("tokenizer_name_or_path: a model made by random_init needs a tokenizer to be named")
    trusted = bool(recipe.given.get("trust_remote_code"))
    tokenizer = load_named_tokenizer(str(name), recipe.model.model_revision, trusted)
    tokenizer.padding_side = "left"
    if recipe.data.chat_template is not None:
        template = CHAT_TEMPLATES[recipe.data.chat_template]
        tokenizer.chat_template = template.text
        if template.end_of_turn not in tokenizer.get_vocab():
            raise RecipeError(
                f"chat_template: {recipe.data.chat_template} ends a turn with {template.end_of_turn}, which is no "
                f"token of {name}; choose the template of this model's family"
            )
        tokenizer.eos_token = template.end_of_turn
    _settle_padding(recipe, tokenizer, str(name))
    return tokenizer


def _settle_padding(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Choose a padding token that is not the end token.

    Where padding is masked by its token, the end would be masked with it, and the model would never learn to stop.

    Raises:
        RecipeError: the recipe names the end token, or no token of the tokenizer; or a training finds none.
    """
    vocabulary, asked = tokenizer.get_vocab(), recipe.data.pad_token
    if asked is not None:
        if asked not in vocabulary:
            raise RecipeError(f"pad_token: {asked!r} is no token of {name}{suggest_nearest(asked, list(vocabulary))}")
        if asked == tokenizer.eos_token:
            raise RecipeError(
                f"pad_token: {asked} is the end token of {name}; padded with it, a model never learns to stop. Name "
                "another, or remove the key"
            )
        tokenizer.pad_token = asked
    if tokenizer.pad_token not in (None, tokenizer.eos_token):
        return
    free = next((token for token in PAD_TOKENS if token in vocabulary and token != tokenizer.eos_token), None)
    if free is None and recipe.task in TRAINERS:
        raise RecipeError(
            f"pad_token: {name} has no token for padding but its end token {tokenizer.eos_token}; padded with it, a "
            "model never learns to stop. Name a token of its that no text has, e.g. --pad_token '<unk>'"
        )
    tokenizer.pad_token = free or tokenizer.eos_token


def check_turns_end(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse to train on conversations whose turns end without the token that ends generation.

    Raises:
        RecipeError: the chat template leaves the end token out, or there is no template.
    """
    said = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "an answer"}]
    if tokenizer.chat_template is None:
        known = ", ".join(CHAT_TEMPLATES)
        raise RecipeError(f"chat_template: the tokenizer has none; name one of {known}")
    after = str(tokenizer.apply_chat_template(said, tokenize=False)).rpartition("an answer")[2]
    if str(tokenizer.eos_token) not in after:
        raise RecipeError(
            f"chat_template: a turn of the tokenizer's own template ends with {after.strip()[:40]!r}, and generation "
            f"with {tokenizer.eos_token}, so that a model trained on it never stops; name the template of its family "
            f"({', '.join(CHAT_TEMPLATES)}), which sets the end token too"
        )


def load_named_tokenizer(
    name: str, revision: str = "main", trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub name, a folder, or a `package.module:function`.

    Raises:
        RecipeError: there is none.
    """
    if ":" in name and not Path(name).exists():
        return import_place(name, f"tokenizer_name_or_path: {name}")()
    try:
        # AutoTokenizer gives every qwen2 model a Qwen2Tokenizer, whatever its files say. One that was saved as
        # "the tokenizer.json and nothing else" is loaded as that.
        declared = get_tokenizer_config(name, revision=revision).get("tokenizer_class")
        if declared in ("TokenizersBackend", "PreTrainedTokenizerFast"):
            return PreTrainedTokenizerFast.from_pretrained(name, revision=revision)
        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise RecipeError(f"tokenizer: {name} cannot be loaded: {error}") from error


def render_prompt(prompt: str | Messages, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text a completion continues."""
    if isinstance(prompt, str):
        return prompt
    return tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)


def opens_think(prompt: str | Messages, tokenizer: PreTrainedTokenizerBase) -> bool:
    """True if completions begin inside the reasoning."""
    return render_prompt(prompt, tokenizer).rstrip().endswith("<think>")


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer of bytes and the special tokens of our chat templates: reads any text, needs no file."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    special = [
        "<pad>",
        "<eos>",
        "<|im_start|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<｜User｜>",
        "<｜Assistant｜>",
    ]
    special += [t.end_of_turn for t in CHAT_TEMPLATES.values() if t.end_of_turn not in special]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*dict.fromkeys(special), *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token=CHAT_TEMPLATES["chatml"].end_of_turn,
        bos_token="<eos>",
        additional_special_tokens=list(dict.fromkeys(special[2:])),
        chat_template=CHAT_TEMPLATES["chatml"].text,
    )


def prepare_weights(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> str:
    """Where the initial weights lie; with `random_init` they are drawn and written to `<run>/init` first.

    TRL is given a path rather than a model, so that it can load it as its launcher (ZeRO-3, FSDP) and its reference
    model need it.

    Raises:
        RecipeError: a path that is no model, or a `random_init` that transformers refuses.
    """
    if recipe.run.random_init is None:
        return _checked(recipe, tokenizer)
    path = recipe.run_dir / "init"
    check_shape(recipe, random_config(recipe.run.random_init, tokenizer), tokenizer)
    with PartialState().main_process_first():
        if not (path / "config.json").is_file():
            config = random_config(recipe.run.random_init | _head(recipe), tokenizer)
            torch.manual_seed(recipe.args.seed)
            partial = path.with_name(f".init-{os.getpid()}.partial")
            _auto_class(recipe).from_config(config, dtype=torch.float32).save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            try:
                partial.rename(path)
            except OSError:
                # Another part of a job array has made the same one in the meantime.
                if not (path / "config.json").is_file():
                    raise
                shutil.rmtree(partial)
    return str(path)


def ensure_model(recipe: Recipe) -> Recipe:
    """A recipe whose model is there, also if it is a random one; for all processes of a launch to call together."""
    if recipe.run.random_init is None:
        return recipe
    path = prepare_weights(recipe, load_tokenizer(recipe))
    return replace(
        recipe, model=replace(recipe.model, model_name_or_path=path), run=replace(recipe.run, random_init=None)
    )


def _auto_class(recipe: Recipe) -> type:
    return AutoModelForSequenceClassification if recipe.task == "reward" else AutoModelForCausalLM


def _head(recipe: Recipe) -> dict[str, Any]:
    """A reward model's only label is its score."""
    return {"num_labels": 1} if recipe.task == "reward" else {}


def random_config(values: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> transformers.PretrainedConfig:
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


def _checked(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> str:
    name = str(recipe.model.model_name_or_path)
    path = Path(name)
    if path.is_dir() and not (path / "config.json").is_file():
        adapter = " (it holds an adapter: merge it first)" if (path / "adapter_config.json").is_file() else ""
        raise RecipeError(f"model_name_or_path: {name} is a folder without config.json, so no model{adapter}")
    if not path.exists() and name.startswith((".", "/", "~", "runs/")):
        made = f"; make it with: open-r1 train {recipe.base.command}" if recipe.base else ""
        raise RecipeError(f"model_name_or_path: there is no folder {name}{made}")
    trusted = {"revision": recipe.model.model_revision, "trust_remote_code": recipe.args.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(name, **trusted, **list_config_changes(recipe))
    except (OSError, ValueError) as error:
        raise RecipeError(f"model_name_or_path: {name} is no model here or on the hub: {error}") from error
    check_shape(recipe, config, tokenizer)
    return name


def check_shape(
    recipe: Recipe, config: transformers.PretrainedConfig, tokenizer: PreTrainedTokenizerBase | None = None
) -> None:
    """Refuse a context that is longer than the model's, and a tokenizer with more tokens than the model.

    Raises:
        RecipeError: naming the key.
    """
    positions = getattr(config, "max_position_embeddings", None)
    given = recipe.given
    wanted = {key: given.get(key) for key in ("max_length", "max_completion_length", "vllm_max_model_length")}
    if recipe.task == "evaluate":
        wanted = {}  # an engine says of each prompt whether it fits
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


# Of `model_init_kwargs`, what is for loading and no part of the model's configuration.
LOADING_KWARGS = ("use_kernels", "device_map", "dtype", "attn_implementation", "quantization_config", "max_memory")


def list_config_changes(recipe: Recipe) -> dict[str, Any]:
    """What a recipe's `model_init_kwargs` change of the model's configuration."""
    return {key: value for key, value in _given_kwargs(recipe).items() if key not in LOADING_KWARGS}


def _given_kwargs(recipe: Recipe) -> dict[str, Any]:
    given = recipe.given.get("model_init_kwargs") or {}
    try:
        return json.loads(given) if isinstance(given, str) else given
    except json.JSONDecodeError as error:
        raise RecipeError(f"model_init_kwargs: {given!r} is neither a mapping nor JSON: {error}") from error


def build_model_kwargs(recipe: Recipe) -> dict[str, Any]:
    """Keyword arguments for `from_pretrained`, as TRL's own scripts set them."""
    kwargs = {
        "revision": recipe.model.model_revision,
        "attn_implementation": recipe.model.attn_implementation or fastest_attention(recipe),
        "dtype": recipe.model.dtype,
    }
    return kwargs | _given_kwargs(recipe)


def fastest_attention(recipe: Recipe) -> str | None:
    """What computes attention where a recipe leaves it open; None is transformers' own choice, `sdpa`.

    On a GPU flash attention if it is installed and the weights are of half precision: it takes no other, and where a
    trainer samples from float32 weights nothing casts them. Without it packed rows take FlexAttention, which knows
    where one of them ends: `sdpa` would build a mask of the whole row.
    """
    if not torch.cuda.is_available():
        return None
    if has_flash_attention() and recipe.model.dtype in ("bfloat16", "float16"):
        return "flash_attention_2"
    return "flex_attention" if recipe.given.get("packing") or recipe.given.get("padding_free") else None


def keep_head_precision(model: torch.nn.Module) -> None:
    """Keep a reward model's new head in fp32 where TRL rounds all that it trains to bf16 (QLoRA).

    There small updates would be lost, and without autocast, as on a CPU, its input has another type.
    """
    if not (getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False)):
        return
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ".score." in name:
            parameter.data = parameter.data.float()


def save_merged_model(
    base: str, adapter: Path, target: Path, recipe: Recipe, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Write base weights plus adapter as a plain model.

    The base is loaded again unquantized: merging into 4-bit weights rounds the adapter away with the rest (measured on
    a toy model: outputs drift by 0.05, against 2e-7 this way).
    """
    from peft import PeftModel

    kwargs = {k: v for k, v in build_model_kwargs(recipe).items() if k != "quantization_config"}
    model = _auto_class(recipe).from_pretrained(base, **kwargs, **_head(recipe))
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    set_special_tokens(merged, tokenizer)
    merged.save_pretrained(target)


def set_special_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Tell a model what it must know of its tokenizer: where generation ends; a reward model, what is padding."""
    if model.can_generate():
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    else:
        model.config.pad_token_id = tokenizer.pad_token_id
