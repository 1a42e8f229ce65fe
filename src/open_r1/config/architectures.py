"""The configurations of the models that the recipes name (architectures.yaml)."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import yaml


@cache
def _models() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))["models"]


def list_architectures() -> list[str]:
    return list(_models())


def find_architecture(name: str) -> dict[str, Any] | None:
    """A model's configuration: a `model_type` and the arguments of its config class; None for a model not listed."""
    known = _models().get(name)
    return None if known is None else {k: copy.deepcopy(v) for k, v in known.items() if k != "parameters"}


def parameters(name: str) -> float:
    """Billions of parameters that the model's card states."""
    return float(_models()[name]["parameters"])
