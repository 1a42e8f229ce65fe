"""Filters of samples and prompts, by name."""
