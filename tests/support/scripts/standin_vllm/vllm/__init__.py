"""A stand-in for vLLM: `vllm serve` without a model, and the names that TRL imports. It loads nothing heavy.

Tests that ask for it put the folder above on PYTHONPATH: a vLLM that can be imported changes what other code chooses.
"""

from __future__ import annotations


class LLM:
    def __init__(self, *args: object, **kwargs: object):
        raise NotImplementedError("the stand-in for vLLM generates as a server only (vllm_mode: server)")


class SamplingParams:
    """Of LLM alone."""


class RequestOutput:
    """Of LLM alone."""
