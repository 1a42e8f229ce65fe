"""Processes that train together: started by accelerate on one machine or on several, and stopped together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from ..config.loading import find_accelerate_config
from ..system.network import START
from ..system.processes import _STOPS, WORLD, die_with_parent

LOOK = 0.2  # seconds between two looks at what has ended
KILL_AFTER = 2  # signals beyond which the processes are killed


@dataclass(frozen=True)
class Place:
    """Where the first process of a group listens, and which machine of how many this one is."""

    machines: int = 1
    rank: int = 0
    host: str | None = None
    port: int = 0


def build_command(module: str, words: list[str], config: str, processes: int, place: Place | None = None) -> list[str]:
    """The words that start this machine's processes.

    Args:
        module: of the task.
        words: of its command line.
        config: a name in recipes/accelerate_configs.
        processes: of all machines together.
        place: None for one machine alone.
    """
    place = place or Place()
    path = find_accelerate_config(config)
    launch = [sys.executable, "-m", "open_r1.launch.agent", "--config_file", str(path)]
    launch += ["--num_processes", str(processes), "--main_process_port", str(place.port)]
    if place.machines > 1:
        launch += ["--num_machines", str(place.machines), "--machine_rank", str(place.rank)]
        launch += ["--main_process_ip", str(place.host)]
        if "distributed_type: DEEPSPEED" in Path(path).read_text(encoding="utf-8"):
            # Its own launcher would reach for the other machines by ssh.
            launch += ["--deepspeed_multinode_launcher", "standard"]
    return [*launch, "-m", module, *words]


def build_environment(processes: int, machines: int = 1) -> dict[str, str]:
    """What the processes of this machine find around them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = str(max(1, cores // max(1, processes // machines)))
    ours = {
        # accelerate's launcher would pass a signal on itself, and kill what has not ended half a minute later: in the
        # middle of a step, or of a checkpoint.
        "PET_SIGNALS_TO_HANDLE": "SIGQUIT",
        WORLD: str(processes),
    }
    return {"OMP_NUM_THREADS": threads, "PYTHONWARNINGS": "ignore"} | os.environ | ours


def run_launcher(
    words: list[str], around: dict[str, str], watch: Callable[[], None] | None = None
) -> tuple[int, int | None]:
    """Run a launcher to its end. Signals reach its processes, which stop together after their step.

    Args:
        words: of `command`.
        around: of `environment`.
        watch: called now and then; what it raises ends the processes.

    Returns:
        Its exit code, and the signal that was received, if one was.
    """
    launcher = subprocess.Popen(words, env=around, preexec_fn=prepare_launcher)
    received: list[int] = []
    before = {number: signal.signal(number, lambda n, _: received.append(n)) for number in _STOPS}
    told: dict[int, int] = {}  # process -> signals it was sent
    try:
        while launcher.poll() is None:
            if received:
                _pass_on(launcher, received, told)
            if watch is not None:
                watch()
            time.sleep(LOOK)
    except BaseException:
        launcher.kill()  # its processes go with it (`die_with_parent`)
        launcher.wait()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return launcher.returncode, received[0] if received else None


def prepare_launcher() -> None:
    """In the launcher's process, before it starts: only its own processes are to be told to stop."""
    die_with_parent()
    # Held back, not ignored: a stop that comes while a process loads reaches it in `restore_signals`.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)


def _pass_on(launcher: subprocess.Popen[bytes], received: list[int], told: dict[int, int]) -> None:
    """Send every process that the launcher has by now what it has not been sent yet; kill an impatient person's."""
    if len(received) > KILL_AFTER and START not in os.environ:  # Slurm kills by itself
        launcher.kill()
        return
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(launcher.pid).children():
            for number in received[told.get(process.pid, 0) :]:
                process.send_signal(number)
            told[process.pid] = len(received)
