"""Engines that generate completions: transformers, vLLM, and OpenAI-compatible servers."""
