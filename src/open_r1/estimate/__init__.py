"""Estimates of the memory and time that a recipe takes, without its weights and without a GPU."""
