"""What GPUs can do, from their makers' data sheets."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass

from ..errors import RecipeError, suggest_nearest


def has_flash_attention() -> bool:
    """True if `attn_implementation: flash_attention_2` can be had; `kernels` takes it from the hub, compiled."""
    return any(importlib.util.find_spec(package) is not None for package in ("flash_attn", "kernels"))


@dataclass(frozen=True)
class GPU:
    """One GPU.

    Args:
        name: as in `8xH100`.
        memory: GiB that a process can allocate, as nvidia-smi tells it.
        tflops: dense bfloat16 (float16 where there is none) with float32 accumulation, without sparsity.
        bandwidth: of its memory, GB/s.
        bf16: has bfloat16 arithmetic.
    """

    name: str
    memory: float
    tflops: float
    bandwidth: float
    bf16: bool = True


# Data sheets of NVIDIA and AMD; a GeForce accumulates in float32 at half its float16 rate.
GPUS = {
    gpu.name: gpu
    for gpu in (
        GPU("B200", 179.0, 2250, 8000),
        GPU("H200", 140.4, 989, 4800),
        GPU("H100", 79.6, 989, 3350),
        GPU("H800", 79.6, 989, 3350),
        GPU("H100-PCIe", 79.6, 756, 2000),
        GPU("H20", 95.6, 148, 4000),
        GPU("A100", 80.0, 312, 2039),
        GPU("A100-40GB", 40.0, 312, 1555),
        GPU("A6000", 48.0, 155, 768),
        GPU("L40S", 45.0, 362, 864),
        GPU("L4", 22.5, 121, 300),
        GPU("A10G", 22.5, 70, 600),
        GPU("RTX5090", 31.8, 210, 1792),
        GPU("RTX4090", 24.0, 165, 1008),
        GPU("RTX3090", 24.0, 71, 936),
        GPU("V100", 32.0, 125, 900, bf16=False),
        GPU("T4", 15.0, 65, 320, bf16=False),
        GPU("MI300X", 191.7, 1307, 5300),
    )
}
DEFAULT = "H100"


def find_gpu(name: str) -> GPU:
    """A GPU by its name, whatever the case; `-80GB` is understood.

    Raises:
        RecipeError: none of that name.
    """
    known = {key.lower(): gpu for key, gpu in GPUS.items()}
    asked = re.sub(r"-(80gb|sxm\d?)$", "", name.lower().replace("_", "-").replace(" ", ""))
    if asked not in known:
        raise RecipeError(f"gpu_type: no GPU is named {name!r}{suggest_nearest(name.upper(), list(GPUS))}")
    return known[asked]


def parse_gpus(words: str) -> tuple[int | None, str | None]:
    """`8xH100` into 8 and H100; `8` leaves the kind open, `H100` the number.

    Raises:
        RecipeError: neither of these, or an unknown GPU.
    """
    match = re.fullmatch(r"(?:(\d+)(?:[x*](?=.))?)?(.*)", words.strip())
    count, name = match.groups() if match else (None, words)
    if not (count or name) or (count == "0" and name):
        raise RecipeError(f"gpus: a number and a kind, such as 8xH100, got {words!r}")
    return (int(count) if count else None), (find_gpu(name).name if name else None)


def list_visible_gpus() -> list[str]:
    """This machine's GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return named[:count] if named != [""] else [f"{number}" for number in range(count)]
