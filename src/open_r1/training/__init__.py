"""Callbacks, exact resumption and evaluation during training, and the check before it."""
