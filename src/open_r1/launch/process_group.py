"""The process group of a training: one launcher of accelerate on each machine, started and stopped together."""

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
from ..system.processes import STOP_SIGNALS, WORLD, count_cores, die_with_parent

POLL_SECONDS = 0.2  # between two looks at a launcher
KILL_AFTER = 2  # signals; with one more the processes are killed


@dataclass(frozen=True)
class Place:
    """The number of machines, the rank of this one, and the address of the first process of the group."""

    machines: int = 1
    rank: int = 0
    host: str | None = None
    port: int = 0


def build_command(module: str, words: list[str], config: str, processes: int, place: Place | None = None) -> list[str]:
    """The command that starts this machine's processes.

    Args:
        module: module of the task, such as `open_r1.sft`.
        words: command-line words of the task.
        config: a name in recipes/accelerate_configs.
        processes: number of processes on all machines together.
        place: this machine among others; None for a single machine.
    """
    place = place or Place()
    path = find_accelerate_config(config)
    launch = [sys.executable, "-m", "open_r1.launch.agent", "--config_file", str(path)]
    launch += ["--num_processes", str(processes), "--main_process_port", str(place.port)]
    if place.machines > 1:
        launch += ["--num_machines", str(place.machines), "--machine_rank", str(place.rank)]
        launch += ["--main_process_ip", str(place.host)]
        if "distributed_type: DEEPSPEED" in Path(path).read_text(encoding="utf-8"):
            # DeepSpeed's own launcher connects to the other machines by ssh.
            launch += ["--deepspeed_multinode_launcher", "standard"]
    return [*launch, "-m", module, *words]


def build_environment(processes: int, machines: int = 1) -> dict[str, str]:
    """The environment of this machine's processes.

    Args:
        processes: number of processes on all machines together.
        machines: number of machines.
    """
    threads = str(max(1, count_cores() // max(1, processes // machines)))
    ours = {
        # accelerate's launcher would forward SIGTERM itself, and kill after half a minute what has not ended: in the
        # middle of a step or of a checkpoint.
        "PET_SIGNALS_TO_HANDLE": "SIGQUIT",
        WORLD: str(processes),
    }
    return {"OMP_NUM_THREADS": threads, "PYTHONWARNINGS": "ignore"} | os.environ | ours


def run_launcher(
    words: list[str], environment: dict[str, str], watch: Callable[[], None] | None = None
) -> tuple[int, int | None]:
    """Run a launcher until it ends. SIGTERM and SIGINT are forwarded to its processes, which stop after the same step.

    Args:
        words: command of `build_command`.
        environment: environment of `build_environment`.
        watch: called every `POLL_SECONDS`; an exception that it raises ends the processes.

    Returns:
        The exit code, and the first signal that was received, if any.
    """
    launcher = subprocess.Popen(words, env=environment, preexec_fn=prepare_launcher)
    received: list[int] = []
    handlers = {number: signal.signal(number, lambda n, _: received.append(n)) for number in STOP_SIGNALS}
    forwarded: dict[int, int] = {}  # process id -> number of signals that it was sent
    try:
        while launcher.poll() is None:
            if received:
                _forward_signals(launcher, received, forwarded)
            if watch is not None:
                watch()
            time.sleep(POLL_SECONDS)
    except BaseException:
        launcher.kill()  # its processes die with it (`die_with_parent`)
        launcher.wait()
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return launcher.returncode, received[0] if received else None


def prepare_launcher() -> None:
    """In the launcher's process before it starts: only the processes that it starts react to SIGTERM and SIGINT."""
    die_with_parent()
    # Blocked, not ignored: a signal that arrives while a process loads stays pending until `restore_signals`.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def _forward_signals(launcher: subprocess.Popen[bytes], received: list[int], forwarded: dict[int, int]) -> None:
    """Send every process of the launcher the signals it has not had yet; kill all after the third Ctrl-C."""
    if len(received) > KILL_AFTER and START not in os.environ:  # in a job, Slurm kills by itself
        launcher.kill()
        return
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(launcher.pid).children():
            for number in received[forwarded.get(process.pid, 0) :]:
                process.send_signal(number)
            forwarded[process.pid] = len(received)
