"""Pieces of transformers' `generate` for draws that do not depend on what else is in the batch."""

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

BLOCK = 128  # uniforms drawn ahead for each row; most completions end long before max_tokens


def build_warpers(sampling: Sampling) -> LogitsProcessorList:
    """transformers' own, in the order in which its sampling applies them."""
    found = LogitsProcessorList()
    if sampling.temperature not in (0.0, 1.0):
        found.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        found.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        found.append(TopPLogitsWarper(sampling.top_p))
    return found


class Draw(LogitsProcessor):
    """Draws each row's next token with that row's own random numbers, and leaves no other to choose from.

    `generate` itself would draw from one stream for the whole batch, so that every row would depend on the others. The
    draw is the inverse of the cumulative distribution at a uniform number.

    Args:
        seeds: of the rows.
    """

    def __init__(self, seeds: list[int]):
        # RandomState's stream is frozen for good; that of numpy's and torch's newer generators may change.
        self.streams = [numpy.random.RandomState(seed) for seed in seeds]
        self.step = 0
        self.uniforms: torch.Tensor | None = None  # rows x BLOCK

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        exact = scores.cpu() if scores.device.type == "mps" else scores  # which has no float64
        token = inverse_cdf(exact, self._next().to(exact.device)).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(1, token[:, None], 0.0)

    def _next(self) -> torch.Tensor:
        """One uniform number in [0, 1) for each row."""
        column = self.step % BLOCK
        if column == 0:
            self.uniforms = torch.from_numpy(numpy.stack([stream.random_sample(BLOCK) for stream in self.streams]))
        self.step += 1
        assert self.uniforms is not None
        return self.uniforms[:, column]


def inverse_cdf(scores: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The token of each row (rows x vocabulary) at which the cumulative probability passes its uniform number."""
    # In float64: over a vocabulary of 150,000 a sum in float32 is wrong in the fourth digit.
    mass = torch.softmax(scores.double(), dim=-1).cumsum(dim=-1)
    # A uniform number is at most 1 - 2^-53, so the product is below the total after rounding too, and no token of
    # probability 0 is ever drawn.
    return torch.searchsorted(mass, (uniforms * mass[:, -1])[:, None], right=True).squeeze(1)


class Ends(StoppingCriteria):
    """Notes where each row ends and why, which the padded output does not tell.

    Args:
        start: length of the padded prompts.
        limits: the most tokens of each row.
        end_tokens: ids that end a row.
        stop: texts that end a row. transformers' own `stop_strings` also match in the prompt, and fail on a tokenizer
            that splits at spaces, as the miniature's does.
        tokenizer: of the completions.
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
        # A token has at least a byte, unless it is special; some more, so that none is cut off at its front.
        self.tail = max((len(text.encode()) for text in stop), default=0) + 8
        self.lengths = torch.zeros_like(limits)  # tokens of each row that has ended, its end token included
        self.stopped = torch.zeros_like(limits, dtype=torch.bool)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        length = input_ids.shape[1] - self.start
        stops = torch.isin(input_ids[:, -1], self.end_tokens)
        if self.stop:
            stops |= self._says_stop(input_ids[:, self.start :][:, -self.tail :])
        ends = (stops | (length >= self.limits)) & (self.lengths == 0)
        self.lengths[ends] = length
        self.stopped |= ends & stops
        return self.lengths > 0

    def _says_stop(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows that have not ended and whose last tokens hold a stop text."""
        says = torch.zeros_like(self.stopped)
        going = (self.lengths == 0).nonzero().squeeze(1)
        tails = self.tokenizer.batch_decode(ids[going], skip_special_tokens=True)
        says[going] = torch.tensor([any(text in tail for text in self.stop) for tail in tails], device=says.device)
        return says
