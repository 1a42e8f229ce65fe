"""GPUs: memory and speed from data sheets, and the GPUs of this machine."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass

from ..errors import RecipeError, suggest_nearest


def has_flash_attention() -> bool:
    """True if `attn_implementation: flash_attention_2` is available; the package `kernels` downloads it compiled."""
    return any(importlib.util.find_spec(package) is not None for package in ("flash_attn", "kernels"))


@dataclass(frozen=True)
class GPU:
    """A GPU model.

    Args:
        name: name as in `8xH100`.
        memory: GiB that a process can allocate, as nvidia-smi shows them.
        tflops: dense bfloat16 TFLOP/s (float16 without bfloat16) with float32 accumulation.
        bandwidth: memory bandwidth in GB/s.
        bf16: whether it has bfloat16 arithmetic.
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
    """A GPU by its name, in upper or lower case, also with a suffix such as `-80GB`.

    Raises:
        RecipeError: no GPU has that name.

    >>> find_gpu("h100-80gb").name
    'H100'
    """
    known = {gpu.name.lower(): gpu for gpu in GPUS.values()}
    key = re.sub(r"-(80gb|sxm\d?)$", "", name.lower().replace("_", "-").replace(" ", ""))
    if key not in known:
        raise RecipeError(f"gpu_type: no GPU is named {name!r}{suggest_nearest(name.upper(), list(GPUS))}")
    return known[key]


def parse_gpus(words: str) -> tuple[int | None, str | None]:
    """Split a GPU count and a GPU type; each is optional.

    Raises:
        RecipeError: the text has neither, or the GPU is unknown.

    >>> parse_gpus("8xH100"), parse_gpus("8"), parse_gpus("H100")
    ((8, 'H100'), (8, None), (None, 'H100'))
    """
    match = re.fullmatch(r"(?:(\d+)(?:[x*](?=.))?)?(.*)", words.strip())
    count, name = match.groups() if match else (None, words)
    if not (count or name) or (count == "0" and name):
        raise RecipeError(f"gpus: expected a number and a kind, such as 8xH100, got {words!r}")
    return (int(count) if count else None), (find_gpu(name).name if name else None)


def list_visible_gpus() -> list[str]:
    """The GPUs that this process may use, named as in CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return named[:count] if named != [""] else [f"{number}" for number in range(count)]
