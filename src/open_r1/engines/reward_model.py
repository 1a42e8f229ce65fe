"""A reward model as a reward: a sequence-classification model scores every completion of a batch.

Not part of `rewards`, which never import torch; their table knows it by name only.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import RecipeError
from ..models import load_named_tokenizer
from ..prompts import Messages
from ..rewards.llm_judge import extract_summary
from ..rewards.verdict import Verdict
from ..system.internals import disable_zero3_loading


class RewardModel:
    """Scores completions by a trained reward model; a batch scorer for a recipe's `rewards`.

    A conversation is shown to the model as its own tokenizer's chat template renders it, as in its training; without
    a template it sees prompt and completion as plain text. The weights are loaded at the first call, or by `load`.

    Args:
        model: folder or hub name of a sequence-classification model with one label.
        revision: its revision on the hub.
        dtype: of the weights; auto takes the one they were saved in.
        batch_size: texts scored at once.
        max_length: tokens; of a longer text the end is kept. None takes what the model has positions for.
        summary_only: score only what follows the reasoning, as the paper does for helpfulness.
        scale: factor of every score.
        tanh: then bound it to (-1, 1) by the hyperbolic tangent.

    Raises:
        RecipeError: there is no such model, or it is no reward model.
    """

    def __init__(
        self,
        model: str,
        revision: str = "main",
        dtype: str = "auto",
        batch_size: int = 16,
        max_length: int | None = None,
        summary_only: bool = False,
        scale: float = 1.0,
        tanh: bool = False,
    ):
        self.name = str(model)
        self.revision = revision
        self.dtype = dtype
        self.batch_size = batch_size
        self.summary_only = summary_only
        self.scale = scale
        self.tanh = tanh
        self.config = self._checked_config()
        self.max_length = max_length or getattr(self.config.get_text_config(), "max_position_embeddings", None)
        self._loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": None}

    def __call__(self, completions: list[str], conversation: list[str | Messages]) -> list[float | Verdict]:
        """Scores of completions (S) after what was said before them (S); an error for each that is not finite."""
        asked = zip(conversation, completions, strict=True)
        logits = self.logits([self._ids(question, completion) for question, completion in asked])
        return [self._score(logit) for logit in logits]

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model in evaluation mode on this process's device, and its tokenizer; loaded once.

        Raises:
            RecipeError: the weights cannot be loaded, or lack the reward head.
        """
        if self._loaded is None:
            tokenizer = load_named_tokenizer(self.name, self.revision)
            with disable_zero3_loading():
                try:
                    model, told = AutoModelForSequenceClassification.from_pretrained(
                        self.name, revision=self.revision, dtype=self.dtype, num_labels=1, output_loading_info=True
                    )
                except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                    raise RecipeError(f"reward_model: {self.name} cannot be loaded: {error}") from error
            if told["missing_keys"]:
                raise RecipeError(
                    f"reward_model: the weights of {self.name} lack {', '.join(sorted(told['missing_keys']))}, so its "
                    "scores would be random; train it with a recipe of the task reward"
                )
            model.requires_grad_(False)
            self._loaded = model.eval().to(PartialState().device), tokenizer
        return self._loaded

    @torch.no_grad()
    def logits(self, ids: list[list[int]]) -> list[float]:
        """The model's raw scores of token sequences, in their order."""
        model, tokenizer = self.load()
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        # The model reads its score at the last token that is not this one.
        model.config.get_text_config().pad_token_id = pad
        found = [0.0] * len(ids)
        # Texts of like length share a batch, so that little is padded.
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            longest = len(ids[chosen[-1]])
            # On the right, as in training: then no token sees padding, and positions count from the first token.
            rows = torch.tensor([ids[i] + [pad] * (longest - len(ids[i])) for i in chosen], device=model.device)
            there = torch.tensor([[1] * len(ids[i]) + [0] * (longest - len(ids[i])) for i in chosen])
            scores = model(input_ids=rows, attention_mask=there.to(model.device), use_cache=False).logits
            for i, score in zip(chosen, scores[:, 0].float().tolist(), strict=True):
                found[i] = score
        return found

    def _ids(self, prompt: str | Messages, completion: str) -> list[int]:
        _, tokenizer = self.load()
        response = extract_summary(completion) if self.summary_only else completion
        for token in tokenizer.all_special_tokens:
            # Spelled out in a completion it would end the turn, and the policy could write the next one.
            response = response.replace(token, " ")
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if tokenizer.chat_template is None:
            text = "".join(message["content"] for message in messages) + response + (tokenizer.eos_token or "")
            ids = tokenizer(_sendable(text))["input_ids"]
        else:
            messages = [*messages, {"role": "assistant", "content": response}]
            messages = [message | {"content": _sendable(message["content"])} for message in messages]
            ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        return ids[-self.max_length :] if self.max_length else ids

    def _score(self, logit: float) -> float | Verdict:
        score = logit * self.scale
        if not math.isfinite(score):
            return Verdict("error", f"the reward model {self.name} gave no number: {score}")
        return math.tanh(score) if self.tanh else score

    def _checked_config(self) -> transformers.PretrainedConfig:
        path = Path(self.name)
        if path.is_dir() and not (path / "config.json").is_file():
            adapter = " (it holds an adapter: train with `merge_adapter: true`)"
            hint = adapter if (path / "adapter_config.json").is_file() else ""
            raise RecipeError(f"reward_model: {self.name} is a folder without config.json, so no model{hint}")
        if not path.exists() and self.name.startswith((".", "/", "~", "runs/")):
            raise RecipeError(f"reward_model: there is no folder {self.name}; train it first")
        try:
            config = AutoConfig.from_pretrained(self.name, revision=self.revision)
        except (OSError, ValueError) as error:
            raise RecipeError(f"reward_model: {self.name} is no model here or on the hub: {error}") from error
        heads = [name for name in config.architectures or () if name.endswith("ForSequenceClassification")]
        if not heads or config.num_labels != 1:
            raise RecipeError(
                f"reward_model: {self.name} is {', '.join(config.architectures or ['nameless'])} with "
                f"{config.num_labels} labels, and a reward model is a ...ForSequenceClassification with one"
            )
        return config


def _sendable(text: str) -> str:
    """Tokenizers read UTF-8, which has no lone surrogates."""
    return text.encode("utf-8", "replace").decode("utf-8")
