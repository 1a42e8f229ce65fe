"""The environment of a run: packages, hardware, threads, and wandb without a network."""

from __future__ import annotations

import netrc
import os
import platform
import socket
import sys
import urllib.parse
import uuid
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from ..config.loading import world_size
from ..config.recipe import Recipe
from ..errors import RecipeError
from ..system import processes
from ..system.files import find_commit, write_text
from ..system.processes import count_cores
from ..system.source_digest import find_version
from .run import Run

PACKAGES = (
    "torch", "transformers", "trl", "accelerate", "peft", "datasets", "bitsandbytes", "vllm", "math-verify", "wandb",
)  # fmt: skip


def check_processes() -> None:
    """Check that the processes of the launch form one group; if not, each would train alone and report success.

    Raises:
        RecipeError: saying how to launch them.
    """
    expected = int(os.environ.get(processes.WORLD) or world_size())
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))  # each task starts processes of the group
    if world_size() != expected or world_size() < tasks:
        raise RecipeError(
            f"launch: {max(expected, tasks)} processes were asked for, and this one belongs to a group of "
            f"{world_size()}, so each would train alone and report success; use slurm/train.slurm, or one "
            "`accelerate launch` a node with --num_machines and --machine_rank"
        )
    # A trainer's arguments have made the group already. A data task has none, and without a GPU asks for one on CPU.
    state = PartialState(cpu="LOCAL_RANK" in os.environ and not torch.cuda.is_available())
    if state.num_processes != world_size():
        raise RecipeError(
            f"launch: {world_size()} processes were started, but they do not form one group "
            f"({state.distributed_type.value}, {state.num_processes} process). On a machine without GPUs use "
            "--config_file recipes/accelerate_configs/cpu.yaml, which sets use_cpu"
        )
    # accelerate's simple launcher sets MASTER_ADDR for several processes and then starts only one.
    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ and "ACCELERATE_MIXED_PRECISION" in os.environ:
        raise RecipeError(
            "launch: accelerate was asked for several processes and started one (it does that with --cpu and with "
            "distributed_type MULTI_CPU); use --config_file recipes/accelerate_configs/cpu.yaml"
        )


def set_threads(recipe: Recipe) -> None:
    """Set torch's threads: the recipe's `threads`, else OMP_NUM_THREADS, else this process's share of the cores."""
    if recipe.run.threads is None and "OMP_NUM_THREADS" in os.environ:
        return
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(recipe.run.threads or max(1, count_cores() // local))


def configure_wandb(run: Run) -> None:
    """Give wandb its directory and run id, and log offline if there is no login or no network."""
    if "wandb" not in run.recipe.args.report_to:
        return
    import wandb

    os.environ.setdefault("WANDB_PROJECT", "open-r1")
    os.environ.setdefault("WANDB_DIR", str(run.dir))
    os.environ.setdefault("WANDB_SILENT", "true")
    # A resumed run continues its wandb run.
    known = run.dir / "wandb_id"
    if run.main and not known.is_file():
        write_text(known, uuid.uuid4().hex[:8])
    PartialState().wait_for_everyone()
    os.environ.setdefault("WANDB_RUN_ID", known.read_text())
    os.environ.setdefault("WANDB_RESUME", "allow")
    if os.environ.get("WANDB_MODE"):
        return
    # `wandb.setup()` would read the environment before WANDB_MODE is set, and never again.
    host = str(urllib.parse.urlparse(os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url).hostname)
    reason = None
    if not os.environ.get("WANDB_API_KEY") and not _has_login(host):
        reason = "there is no login"
    else:
        try:
            socket.create_connection((host, 443), timeout=3).close()
        except OSError:
            reason = f"{host} cannot be reached"
    if reason:
        os.environ["WANDB_MODE"] = "offline"
        run.say(
            f"wandb: {reason}, so this run is logged offline; "
            f"upload it later with: wandb sync {run.dir}/wandb/offline-run-*"
        )


def _has_login(host: str) -> bool:
    """True if `wandb login` has written a key for the host to the netrc file."""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def find_versions(*packages: str) -> dict[str, str]:
    """Versions of the packages that are installed."""
    return {package: version for package in packages if (version := find_version(package)) != "none"}


def describe_environment() -> dict[str, Any]:
    """Commit, package versions and hardware: the contents of environment.json."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "commit": find_commit(),
        "python": platform.python_version(),
        "packages": find_versions(*PACKAGES),
        "platform": platform.platform(),
        "cpu": _read_cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": world_size(),
        "gpus": gpus,
        "command": " ".join(["open-r1" if Path(sys.argv[0]).name == "open-r1" else sys.argv[0], *sys.argv[1:]]),
    }


def _read_cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
