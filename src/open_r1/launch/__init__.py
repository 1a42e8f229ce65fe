"""Starts a recipe: in this process, as a process group, over several nodes, beside a vLLM server."""
