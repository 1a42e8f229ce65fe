"""Logits processors and stopping criteria for transformers' `generate`: draws do not depend on the batch."""

from __future__ import annotations

import numpy
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .registry import Sampling

BLOCK = 128  # uniform numbers drawn ahead for each row; most completions end long before max_tokens


def build_warpers(sampling: Sampling) -> LogitsProcessorList:
    """transformers' warpers of a sampling, in the order in which `generate` applies them."""
    warpers = LogitsProcessorList()
    if sampling.temperature not in (0.0, 1.0):
        warpers.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return warpers


class SeededDraw(LogitsProcessor):
    """Draws each row's next token with the row's own random numbers, and sets all other logits to -inf.

    `generate` would draw from one stream for the whole batch, which makes every row depend on the others. The token is
    the inverse of the cumulative distribution at a uniform number.

    Args:
        seeds: one for each row.
    """

    def __init__(self, seeds: list[int]):
        # numpy guarantees RandomState's stream; that of its and torch's newer generators may change.
        self.streams = [numpy.random.RandomState(seed) for seed in seeds]
        self.step = 0
        self.uniforms: torch.Tensor | None = None  # rows x BLOCK

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        exact = scores.cpu() if scores.device.type == "mps" else scores  # mps has no float64
        token = invert_cdf(exact, self._draw_uniforms().to(exact.device)).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(1, token[:, None], 0.0)

    def _draw_uniforms(self) -> torch.Tensor:
        """One uniform number in [0, 1) for each row."""
        column = self.step % BLOCK
        if column == 0:
            self.uniforms = torch.from_numpy(numpy.stack([stream.random_sample(BLOCK) for stream in self.streams]))
        self.step += 1
        assert self.uniforms is not None
        return self.uniforms[:, column]


def invert_cdf(scores: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The token of each row (rows x vocabulary) at which the cumulative probability passes its uniform number."""
    # float64, because a float32 sum over a vocabulary of 150,000 is wrong in the fourth digit.
    mass = torch.softmax(scores.double(), dim=-1).cumsum(dim=-1)
    # A uniform number is at most 1 - 2^-53, so even the rounded product is below the total, and no token of
    # probability 0 is drawn.
    return torch.searchsorted(mass, (uniforms * mass[:, -1])[:, None], right=True).squeeze(1)


class EndRecorder(StoppingCriteria):
    """Records where each row ends and why; the padded output does not show it.

    Args:
        start: length of the padded prompts.
        limits: maximum number of tokens of each row.
        end_tokens: ids that end a row.
        stop: texts that end a row. transformers' own `stop_strings` also match in the prompt, and fail with a
            tokenizer that splits at spaces, like the miniature's.
        tokenizer: decodes the completions.
    """

    def __init__(
        self,
        start: int,
        limits: torch.Tensor,
        end_tokens: torch.Tensor,
        stop: tuple[str, ...],
        tokenizer: PreTrainedTokenizerBase,
    ):
        self.start, self.limits, self.end_tokens = start, limits, end_tokens
        self.stop, self.tokenizer = stop, tokenizer
        # A token has at least one byte, unless it is special; 8 more, so that no stop text is cut at its front.
        self.tail = max((len(text.encode()) for text in stop), default=0) + 8
        self.lengths = torch.zeros_like(limits)  # tokens of each row that has ended, including its end token
        self.stopped = torch.zeros_like(limits, dtype=torch.bool)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        length = input_ids.shape[1] - self.start
        stops = torch.isin(input_ids[:, -1], self.end_tokens)
        if self.stop:
            stops |= self._find_stop_texts(input_ids[:, self.start :][:, -self.tail :])
        ends = (stops | (length >= self.limits)) & (self.lengths == 0)
        self.lengths[ends] = length
        self.stopped |= ends & stops
        return self.lengths > 0

    def _find_stop_texts(self, ids: torch.Tensor) -> torch.Tensor:
        """True for rows that have not ended and whose last tokens contain a stop text."""
        found = torch.zeros_like(self.stopped)
        active = (self.lengths == 0).nonzero().squeeze(1)
        tails = self.tokenizer.batch_decode(ids[active], skip_special_tokens=True)
        found[active] = torch.tensor([any(text in tail for text in self.stop) for tail in tails], device=found.device)
        return found
