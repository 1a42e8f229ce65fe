"""What the benchmarks of training write beside what they print: results with the machine that they are of, as JSON."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
NVIDIA_SMI = "name,driver_version,memory.total,power.limit,clocks.max.sm"


def machine() -> dict[str, Any]:
    """Commit, versions and hardware as a run has them; of a GPU also its driver, and of any machine its load."""
    import torch

    from open_r1.run import environment

    found = environment.describe_environment()
    found["date"] = datetime.now(UTC).isoformat(timespec="seconds")
    found["load"] = round(os.getloadavg()[0], 1)
    if torch.cuda.is_available():
        found["packages"] |= environment.find_versions("flash-attn", "kernels", "triton", "deepspeed", "liger-kernel")
        found["cuda"] = torch.version.cuda
        found["gpu_memory_bytes"] = torch.cuda.get_device_properties(0).total_memory
        found["nvidia_smi"] = _nvidia_smi()
    return found


def _nvidia_smi() -> str | None:
    command = ["nvidia-smi", f"--query-gpu={NVIDIA_SMI}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None


def device_name() -> str:
    """Of the first GPU, as part of a file's name; `cpu` without one."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    name = torch.cuda.get_device_name(0).lower().removeprefix("nvidia ")
    return "".join(c if c.isalnum() else "_" for c in name)


def write(name: str, content: dict[str, Any], output: Path | None = None) -> Path:
    """Write a result, replacing it at once; `output` takes the place of results/<name>_<gpu>.json."""
    path = output or RESULTS / f"{name}_{device_name()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.rename(path)
    return path


def store(name: str, **values: Any) -> None:
    """Write values beside the machine that they were measured on, and print where."""
    print(write(name, {"machine": machine()} | values))


def told(values: Iterable[float]) -> dict[str, Any]:
    """The median and what it is of."""
    values = list(values)
    return {"median": statistics.median(values), "of": values}
