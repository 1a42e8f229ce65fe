"""The default engine: transformers in this process, on a CPU or one GPU."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from ..errors import RecipeError
from ..prompts import Messages
from .registry import Completion, Sampling, derive_seed, make_refusal

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..config.recipe import Recipe


_log = logging.getLogger(__name__)


class LoadedModel:
    """Runs transformers' `generate` on a loaded model, in batches of prompts of similar length.

    Every completion is drawn with its own random numbers, so it does not depend on its batch or on the order, except
    through rounding: another batch may change the last bit of a logit, which changes a draw that falls exactly there.
    That is rare in float32, and happens in long completions in bfloat16. With the same batch_size the same call gives
    the same completions in both.

    Args:
        weights: the model in evaluation mode; `close` restores what the engine changes in it.
        tokenizer: of the model.
        model: its name, for the `model` column.
        batch_size: completions generated at once; halved if they do not fit into the GPU's memory.
    """

    at_once = 1

    def __init__(self, weights: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, model: str, batch_size: int):
        from transformers import GenerationConfig

        self.weights: PreTrainedModel | None = weights
        self.tokenizer, self.model, self.batch_size = tokenizer, model, batch_size
        self.window: int | None = getattr(weights.config.get_text_config(), "max_position_embeddings", None)
        self.end_tokens = find_end_ids(weights.generation_config.eos_token_id, tokenizer.eos_token_id)
        self._published = weights.generation_config
        # `generate` would take the publisher's penalties and limits from it.
        weights.generation_config = GenerationConfig(
            eos_token_id=self.end_tokens or None, pad_token_id=tokenizer.pad_token_id
        )
        hooks = [] if self.window is None else [_clamp_positions(self.window)]
        self._hooks = [weights.register_forward_pre_hook(hook, with_kwargs=True) for hook in hooks]

    def generate(
        self,
        prompts: list[str | Messages],
        n: int,
        sampling: Sampling,
        rows: list[int] | None = None,
        done: Callable[[int, int], None] | None = None,
    ) -> list[list[Completion]]:
        rows = rows if rows is not None else list(range(len(prompts)))
        tokenized = [tokenize_prompt(prompt, self.tokenizer, self.window) for prompt in prompts]
        completions_PN: list[list[Any]] = [[make_refusal(p.refused) if p.refused else None] * n for p in tokenized]
        waiting = [(p, i) for p in range(len(prompts)) if not tokenized[p].refused for i in range(n)]
        if done and len(waiting) < len(prompts) * n:
            done(len(prompts) * n - len(waiting), 0)
        # Prompts of similar length share a batch, which saves padding. The longest come first, so that a lack of
        # memory shows at once.
        waiting.sort(key=lambda pair: -len(tokenized[pair[0]].ids))
        while waiting:
            batch = waiting[: self.batch_size]
            seeds = [derive_seed(sampling.seed, rows[p], i) for p, i in batch]
            completions = self._try_batch([tokenized[p] for p, _ in batch], seeds, sampling)
            if completions is None:
                continue
            for (p, i), completion in zip(batch, completions, strict=True):
                completions_PN[p][i] = completion
            del waiting[: len(batch)]
            if done:
                done(len(completions), sum(completion.tokens for completion in completions))
        return completions_PN

    def close(self) -> None:
        """Restore the model and release it; a batch that runs in another thread ends at its next token."""
        import torch

        if self.weights is None:
            return
        for hook in self._hooks:
            hook.remove()
        self.weights.generation_config = self._published
        self.weights = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _try_batch(
        self, tokenized: list[TokenizedPrompt], seeds: list[int], sampling: Sampling
    ) -> list[Completion] | None:
        """Completions of one batch; None if it does not fit into memory, after halving `batch_size`.

        Raises:
            RecipeError: not even one completion fits.
        """
        import torch

        try:
            return self._generate_batch(tokenized, seeds, sampling)
        except torch.OutOfMemoryError as error:
            if len(seeds) == 1:
                raise RecipeError(
                    f"engine: one completion of {sampling.max_tokens} tokens does not fit into the GPU's memory "
                    f"({str(error).partition('.')[0]}); lower max_tokens, or use the vllm engine"
                ) from error
        # Not in the except block: until it ends, the exception's frames keep their tensors.
        torch.cuda.empty_cache()
        self.batch_size = len(seeds) // 2
        _log.warning("out of memory with %d completions at once; continuing with %d", len(seeds), self.batch_size)
        return None

    def _generate_batch(
        self, tokenized: list[TokenizedPrompt], seeds: list[int], sampling: Sampling
    ) -> list[Completion]:
        """One completion of each prompt."""
        import torch

        from .decoding import EndRecorder, SeededDraw, build_warpers

        device = self.weights.device
        ids = {"input_ids": [prompt.ids for prompt in tokenized]}
        inputs = self.tokenizer.pad(ids, padding_side="left", return_tensors="pt").to(device)
        start = inputs["input_ids"].shape[1]
        limits = torch.tensor([min(prompt.room, sampling.max_tokens) for prompt in tokenized], device=device)
        end_tokens = torch.tensor(self.end_tokens, dtype=torch.long, device=device)
        ends = EndRecorder(start, limits, end_tokens, sampling.stop, self.tokenizer)
        processors = build_warpers(sampling)
        if sampling.temperature:
            processors.append(SeededDraw(seeds))
        with torch.no_grad():
            output = self.weights.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=int(limits.max()),
                do_sample=False,
                logits_processor=processors,
                stopping_criteria=[ends, self._stop_if_closed],
                disable_compile=True,
            )
        output, lengths, stopped = output[:, start:].tolist(), ends.lengths.tolist(), ends.stopped.tolist()
        return [
            self._build_completion(output[j][: lengths[j]], prompt.opener, stopped[j], sampling.stop)
            for j, prompt in enumerate(tokenized)
        ]

    def _stop_if_closed(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        """A criterion that ends no row, but aborts the batch of a closed engine; the process would wait for it."""
        if self.weights is None:
            raise CancelledError
        return input_ids.new_zeros(len(input_ids), dtype=bool)

    def _build_completion(self, ids: list[int], opener: str, stopped: bool, stop: tuple[str, ...]) -> Completion:
        text = cut_at_stop(self.tokenizer.decode(ids, skip_special_tokens=True), stop)
        return Completion(opener + text, len(ids), "stop" if stopped else "length")


class Transformers(LoadedModel):
    """Loads a recipe's model in this process.

    Args:
        recipe: names the model and its tokenizer.
        batch_size: completions generated at once; halved if they do not fit into the GPU's memory.
    """

    def __init__(self, recipe: Recipe, *, batch_size: int = 64):
        from accelerate import PartialState
        from transformers import AutoModelForCausalLM

        from .. import models

        tokenizer = models.load_tokenizer(recipe)
        path = models.prepare_weights(recipe, tokenizer)
        kwargs = models.build_model_kwargs(recipe)
        trusted = recipe.args.trust_remote_code
        loaded = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=trusted, **kwargs).eval()
        placed = loaded if "device_map" in kwargs else loaded.to(PartialState().device)
        super().__init__(placed, tokenizer, path, batch_size)

    @staticmethod
    def check(batch_size: int = 64) -> None:
        if type(batch_size) is not int or batch_size < 1:
            raise RecipeError(f"engine.batch_size: expected a number of completions above 0, got {batch_size!r}")


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt as the model reads it.

    Args:
        ids: its tokens.
        room: tokens that the model's window leaves for the completion; infinite without a window.
        opener: the text from the `<think>` that the prompt opens; empty if it opens none.
        refused: why it cannot be completed.
    """

    ids: list[int]
    room: float = math.inf
    opener: str = ""
    refused: str | None = None


def tokenize_prompt(prompt: str | Messages, tokenizer: Any, window: int | None) -> TokenizedPrompt:
    """Tokenize a prompt.

    A plain text gets the tokenizer's special tokens, as in training; a chat template writes its own.
    """
    from .. import models

    try:
        text = models.render_prompt(prompt, tokenizer)
    except TemplateError as error:  # some templates require alternating roles
        return TokenizedPrompt([], refused=f"the chat template refuses the prompt: {error}")
    ids = tokenizer(text, add_special_tokens=isinstance(prompt, str))["input_ids"]
    if not ids:
        return TokenizedPrompt([], refused="the prompt is empty")
    if window is not None and len(ids) > window:
        return TokenizedPrompt(ids, refused=f"the prompt has {len(ids)} tokens, and the model's window {window}")
    if len(ids) == window:
        reason = f"the prompt fills the model's window of {window} tokens and leaves no room for a completion"
        return TokenizedPrompt(ids, refused=reason)
    opener = text[text.rindex("<think>") :] if models.opens_think(prompt, tokenizer) else ""
    return TokenizedPrompt(ids, math.inf if window is None else window - len(ids), opener)


def cut_at_stop(text: str, stop: tuple[str, ...]) -> str:
    """The text up to the first stop text.

    >>> cut_at_stop("four STOP five", ("STOP",))
    'four '
    """
    return text[: min((text.find(end) for end in stop if end in text), default=len(text))]


def find_end_ids(*entries: int | list[int] | None) -> list[int]:
    """Ids that end a completion, without duplicates: the tokenizer's, and those of the model's generation_config.

    A chat model may end its turn with a token that is not its tokenizer's end token.

    >>> find_end_ids([151645, 151643], 151643)
    [151645, 151643]
    """
    ids = [i for entry in entries if entry is not None for i in (entry if isinstance(entry, list) else [entry])]
    return list(dict.fromkeys(ids))


def _clamp_positions(window: int) -> Callable[..., Any]:
    """A hook that keeps the positions of ended rows inside the window while the rest of their batch continues.

    A learned position embedding has no entries beyond the window.
    """

    def hook(model: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if kwargs.get("position_ids") is not None:
            kwargs["position_ids"] = kwargs["position_ids"].clamp(max=window - 1)
        return args, kwargs

    return hook
