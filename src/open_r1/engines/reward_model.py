"""A reward model as a reward: a sequence-classification model scores every completion of a batch.

It is not in `rewards`, which never imports torch; the table of rewards there names it.
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
    """Scores completions with a trained reward model; a batch scorer for a recipe's `rewards`.

    The chat template of the model's own tokenizer renders the conversation, as in its training; without a template the
    model reads prompt and completion as plain text. The first call loads the weights, if `load` has not.

    Args:
        model: folder or hub name of a sequence-classification model with one label.
        revision: its revision on the hub.
        dtype: of the weights; auto keeps the dtype they were saved in.
        batch_size: texts scored at once.
        max_length: limit in tokens; a longer text keeps its end. None takes the model's number of positions.
        summary_only: score only the text after the reasoning, as the paper does for helpfulness.
        scale: factor of every score.
        tanh: bound the scaled score to (-1, 1) with the hyperbolic tangent.

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
        self.config = self._load_config()
        self.max_length = max_length or getattr(self.config.get_text_config(), "max_position_embeddings", None)
        self._loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": None}

    def __call__(self, completions: list[str], conversation: list[str | Messages]) -> list[float | Verdict]:
        """Scores of completions (S) after their prompts (S); a score that is not finite becomes a verdict error."""
        pairs = zip(conversation, completions, strict=True)
        logits = self.compute_logits([self._tokenize(prompt, completion) for prompt, completion in pairs])
        return [self._scale_logit(logit) for logit in logits]

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model in evaluation mode on this process's device, and its tokenizer; loaded once.

        Raises:
            RecipeError: the weights cannot be loaded, or lack the reward head.
        """
        if self._loaded is None:
            tokenizer = load_named_tokenizer(self.name, self.revision)
            with disable_zero3_loading():
                try:
                    model, info = AutoModelForSequenceClassification.from_pretrained(
                        self.name, revision=self.revision, dtype=self.dtype, num_labels=1, output_loading_info=True
                    )
                except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                    raise RecipeError(f"reward_model: {self.name} cannot be loaded: {error}") from error
            if info["missing_keys"]:
                raise RecipeError(
                    f"reward_model: the weights of {self.name} lack {', '.join(sorted(info['missing_keys']))}, so its "
                    "scores would be random; train it with a recipe of the task reward"
                )
            model.requires_grad_(False)
            self._loaded = model.eval().to(PartialState().device), tokenizer
        return self._loaded

    @torch.no_grad()
    def compute_logits(self, ids: list[list[int]]) -> list[float]:
        """The model's raw scores of token sequences, in order."""
        model, tokenizer = self.load()
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        # The model takes its score from the last token that is not the padding token.
        model.config.get_text_config().pad_token_id = pad
        logits = [0.0] * len(ids)
        # Texts of similar length share a batch, which saves padding.
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            longest = len(ids[chosen[-1]])
            # Padding on the right, as in training: no token attends to it, and positions start at the first token.
            rows = torch.tensor([ids[i] + [pad] * (longest - len(ids[i])) for i in chosen], device=model.device)
            mask = torch.tensor([[1] * len(ids[i]) + [0] * (longest - len(ids[i])) for i in chosen])
            scores = model(input_ids=rows, attention_mask=mask.to(model.device), use_cache=False).logits
            for i, score in zip(chosen, scores[:, 0].float().tolist(), strict=True):
                logits[i] = score
        return logits

    def _tokenize(self, prompt: str | Messages, completion: str) -> list[int]:
        _, tokenizer = self.load()
        response = extract_summary(completion) if self.summary_only else completion
        for token in tokenizer.all_special_tokens:
            # As text in a completion it would end the turn, and the policy could write the next one.
            response = response.replace(token, " ")
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if tokenizer.chat_template is None:
            text = "".join(message["content"] for message in messages) + response + (tokenizer.eos_token or "")
            ids = tokenizer(_replace_surrogates(text))["input_ids"]
        else:
            messages = [*messages, {"role": "assistant", "content": response}]
            messages = [message | {"content": _replace_surrogates(message["content"])} for message in messages]
            ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        return ids[-self.max_length :] if self.max_length else ids

    def _scale_logit(self, logit: float) -> float | Verdict:
        score = logit * self.scale
        if not math.isfinite(score):
            return Verdict("error", f"the reward model {self.name} gave no number: {score}")
        return math.tanh(score) if self.tanh else score

    def _load_config(self) -> transformers.PretrainedConfig:
        path = Path(self.name)
        if path.is_dir() and not (path / "config.json").is_file():
            adapter = " (it holds an adapter: train with `merge_adapter: true`)"
            hint = adapter if (path / "adapter_config.json").is_file() else ""
            raise RecipeError(f"reward_model: {self.name} is a folder without config.json, not a model{hint}")
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


def _replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which UTF-8, and so a tokenizer, cannot carry."""
    return text.encode("utf-8", "replace").decode("utf-8")
