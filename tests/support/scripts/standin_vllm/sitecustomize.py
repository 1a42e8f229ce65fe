"""The one change to TRL without which the stand-in for vLLM could not serve a machine that has no GPU.

Python imports this in every process that has the folder on its path, light launchers among them: it loads nothing, and
waits until TRL's client has been imported.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

CLIENT = "trl.generation.vllm_client"


def take_weights_from_a_cpu(client: ModuleType) -> None:
    """TRL refuses to send weights from any device but CUDA, before it has asked vLLM for a group to send them in.

    `cuda` without an index is the one that passes and that it does not then set in torch.
    """
    join = client.VLLMClient.init_communicator

    def init_communicator(self: Any, device: object = 0) -> None:
        join(self, "cuda")

    client.VLLMClient.init_communicator = init_communicator


class ClientFinder:
    """Finds TRL's client where it is, and has it changed once it is loaded."""

    @staticmethod
    def find_spec(name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == CLIENT else None
        if spec is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                take_weights_from_a_cpu(module)

            spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, ClientFinder)
