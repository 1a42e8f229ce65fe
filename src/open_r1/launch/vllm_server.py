"""A vLLM server: started on a free port, waited for with a deadline, ended with what it served."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from ..errors import RecipeError, Unavailable
from ..system import hardware
from ..system.files import read_json, write_json
from ..system.network import SERVED, START, find_free_port, find_node_name, find_reachable, list_addresses
from ..system.processes import die_with_parent

PLACE = "server.json"  # of a server's folder: where it listens
LOG = "vllm.log"
PORT = "{port}"  # in a server's words: the one that is free where it starts
GRACE = 10.0  # seconds to end in


def start_server(words: list[str], folder: Path, around: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a server on this machine, and say where in `server.json`.

    Args:
        words: its command, with `PORT` in place of the port.
        folder: for that, and for its log.
        around: its environment; None for this process's.

    Raises:
        RecipeError: no port is free.
    """
    port = find_free_port()
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            [word.replace(PORT, str(port)) for word in words],
            env=around, stdout=log, stderr=log, preexec_fn=prepare_server,
        )  # fmt: skip
    write_json(folder / PLACE, {"hosts": list_addresses(), "port": port, "node": find_node_name()})
    return process


def prepare_server() -> None:
    """In a process that is started: it ends with this one, and by SIGTERM, which this one may ignore."""
    die_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def build_training_command(given: dict[str, Any], gpus: int) -> list[str]:
    """The command of a server that a trainer samples from and sends its weights to, as TRL wants it.

    Args:
        given: the recipe's keys.
        gpus: of the server.
    """
    from trl.scripts.vllm_serve import ScriptArguments, build_command

    asked = ScriptArguments(
        model=given["model_name_or_path"],
        revision=given.get("model_revision"),
        tensor_parallel_size=gpus,
        gpu_memory_utilization=given.get("vllm_gpu_memory_utilization") or 0.9,
        dtype=given.get("dtype") or "auto",
        max_model_len=given.get("vllm_max_model_length"),
        trust_remote_code=bool(given.get("trust_remote_code")),
    )
    words = build_command(asked)
    words[words.index("--port") + 1] = PORT
    return words


def serve_model(model: str, words: list[str]) -> int:
    """Serve a model by vLLM's OpenAI-compatible server until it is told to end.

    Args:
        model: a hub name, a folder, or a run directory with a model.
        words: options of `vllm serve`, and `--deadline`, the seconds until it has to be healthy.

    Returns:
        The signal that told it to end.

    Raises:
        RecipeError: vLLM is not installed.
        Unavailable: it is not healthy in time, or ends by itself.
    """
    if importlib.util.find_spec("vllm") is None:
        raise RecipeError("serve: vllm is not installed; run `make install EXTRAS=gpu`")
    deadline, words = _deadline(words)
    trained = Path(model, "model")
    gpus = os.environ.get("SLURM_GPUS_ON_NODE") or str(max(1, len(hardware.list_visible_gpus())))
    spread = [] if "--tensor-parallel-size" in words else ["--tensor-parallel-size", gpus]
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(trained) if trained.is_dir() else model]
    command += ["--host", "0.0.0.0", "--port", PORT, "--served-model-name", model, *spread, *words]
    folder = Path(os.environ.get(START) or tempfile.mkdtemp(prefix="open-r1-serve-"))
    process = start_server(command, folder)
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopped.append(number))

    alive = build_watcher(process, folder)

    def watch() -> None:
        if stopped:
            raise KeyboardInterrupt
        alive()

    try:
        print(f"{model} is being loaded; the server's log is {folder / LOG}", flush=True)
        address = wait_until_healthy(folder, deadline, watch)
        print(f"{model} is served at {address}/v1", flush=True)
        (folder / SERVED).touch()
        while True:
            watch()
            time.sleep(0.5)
    except KeyboardInterrupt:
        return stopped[0]
    finally:
        stop_server(process)


def _deadline(words: list[str]) -> tuple[float, list[str]]:
    if "--deadline" not in words:
        return 1800.0, words
    at = words.index("--deadline")
    try:
        return float(words[at + 1]), words[:at] + words[at + 2 :]
    except (IndexError, ValueError):
        raise RecipeError(
            "--deadline: the seconds until the server has to be healthy, as in --deadline 1800"
        ) from None


def wait_until_healthy(folder: Path, seconds: float, watch: Callable[[], None] | None = None) -> str:
    """The address of a server once it is healthy.

    Args:
        folder: of `start`, here or on another node.
        seconds: until it has to be.
        watch: called now and then; raises if there is nothing to wait for any more.

    Raises:
        Unavailable: it is not, with the last lines of its log.
    """
    deadline = time.monotonic() + seconds
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    reason = "it has not been started"
    while time.monotonic() < deadline:
        if watch is not None:
            watch()
        if (folder / PLACE).is_file():
            told = read_json(folder / PLACE)
            address = f"http://{find_reachable(told['hosts'])}:{told['port']}"
            try:
                with directly.open(f"{address}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return address
            except (urllib.error.URLError, OSError) as error:
                reason = f"{address}/health: {getattr(error, 'reason', error)}"
        time.sleep(0.5)
    raise Unavailable(
        f"the vLLM server was not up within {seconds:g} s ({reason}); raise vllm_server_timeout if it needs longer to "
        f"load. {last_words(folder)}"
    )


def build_watcher(process: subprocess.Popen[bytes], folder: Path) -> Callable[[], None]:
    """Raises `Unavailable` once a server has ended."""

    def watch() -> None:
        if process.poll() is not None:
            raise Unavailable(describe_end(process.returncode, folder))

    return watch


def describe_end(code: int, folder: Path) -> str:
    """That a server has ended, and what it said last."""
    return f"the vLLM server on {find_node_name()} ended with exit code {code}. {last_words(folder)}"


def last_words(folder: Path) -> str:
    """The last line of a server's log, and where the rest is."""
    log = folder / LOG
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    said = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    return f"Its log ({log}) ends with: {said[:300]}"


def stop_server(process: subprocess.Popen[bytes] | None) -> None:
    """End a process and all that it has started, if it still runs."""
    if process is None or process.poll() is not None:
        return
    family = [psutil.Process(process.pid)]
    with contextlib.suppress(psutil.Error):
        family += family[0].children(recursive=True)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    for one in family:
        with contextlib.suppress(psutil.Error):
            one.kill()
    process.wait()
