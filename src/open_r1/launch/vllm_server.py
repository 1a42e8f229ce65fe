"""A vLLM server: start it on a free port, wait until it is healthy, stop it."""

from __future__ import annotations

import argparse
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

PLACE = "server.json"  # in the folder of a server: its node, addresses and port
LOG = "vllm.log"
PORT = "{port}"  # in the command of a server: replaced by a free port of its machine
GRACE = 10.0  # seconds between SIGTERM and SIGKILL


def start_server(words: list[str], folder: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a server on this machine, and write its address to `server.json`.

    Args:
        words: command, with `PORT` in place of the port.
        folder: folder for `server.json` and the log.
        environment: environment of the server; None for that of this process.

    Raises:
        RecipeError: no port is free.
    """
    port = find_free_port()
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            [word.replace(PORT, str(port)) for word in words],
            env=environment, stdout=log, stderr=log, preexec_fn=prepare_server,
        )  # fmt: skip
    write_json(folder / PLACE, {"hosts": list_addresses(), "port": port, "node": find_node_name()})
    return process


def prepare_server() -> None:
    """In a child process before it starts: it dies with its parent, and SIGTERM ends it as usual."""
    die_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def build_training_command(given: dict[str, Any], gpus: int) -> list[str]:
    """The command of a server from which a TRL trainer samples, and to which it sends its weights.

    Args:
        given: keys of the recipe.
        gpus: number of GPUs of the server.
    """
    from trl.scripts.vllm_serve import ScriptArguments, build_command

    arguments = ScriptArguments(
        model=given["model_name_or_path"],
        revision=given.get("model_revision"),
        tensor_parallel_size=gpus,
        gpu_memory_utilization=given.get("vllm_gpu_memory_utilization") or 0.9,
        dtype=given.get("dtype") or "auto",
        max_model_len=given.get("vllm_max_model_length"),
        trust_remote_code=bool(given.get("trust_remote_code")),
    )
    words = build_command(arguments)
    words[words.index("--port") + 1] = PORT
    return words


def serve_model(model: str, words: list[str]) -> int:
    """Serve a model by vLLM's OpenAI-compatible server until SIGTERM or SIGINT.

    Args:
        model: a hub name, a folder, or a run directory with a model.
        words: options of `vllm serve`, and `--deadline`, the seconds within which the server must be healthy.

    Returns:
        The signal that ended it.

    Raises:
        RecipeError: vLLM is not installed.
        Unavailable: the server is not healthy in time, or ends by itself.
    """
    if importlib.util.find_spec("vllm") is None:
        raise RecipeError("serve: vLLM is not installed; run `make install EXTRAS=gpu`")
    parser = argparse.ArgumentParser("open-r1 serve", "%(prog)s MODEL [options]", add_help=False, allow_abbrev=False)
    parser.add_argument("--deadline", type=float, default=1800.0)
    arguments, words = parser.parse_known_args(words)
    trained = Path(model, "model")
    gpus = os.environ.get("SLURM_GPUS_ON_NODE") or str(max(1, len(hardware.list_visible_gpus())))
    spread = [] if "--tensor-parallel-size" in words else ["--tensor-parallel-size", gpus]
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(trained) if trained.is_dir() else model]
    command += ["--host", "0.0.0.0", "--port", PORT, "--served-model-name", model, *spread, *words]
    folder = Path(os.environ.get(START) or tempfile.mkdtemp(prefix="open-r1-serve-"))
    process = start_server(command, folder)
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: received.append(number))
    require_server = build_watcher(process, folder)

    def watch() -> None:
        if received:
            raise KeyboardInterrupt
        require_server()

    try:
        print(f"loading {model}; the log of the server is {folder / LOG}", flush=True)
        address = wait_until_healthy(folder, arguments.deadline, watch)
        print(f"{model} is served at {address}/v1", flush=True)
        (folder / SERVED).touch()
        while True:
            watch()
            time.sleep(0.5)
    except KeyboardInterrupt:
        return received[0]
    finally:
        stop_server(process)


def wait_until_healthy(folder: Path, seconds: float, watch: Callable[[], None] | None = None) -> str:
    """Wait for a server, here or on another node. Returns its address.

    Args:
        folder: folder that `start_server` was given.
        seconds: how long to wait.
        watch: called at every try; raises once the server has ended.

    Raises:
        Unavailable: the server is not healthy in time; the message has the last line of its log.
    """
    deadline = time.monotonic() + seconds
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    reason = "it was not started"
    while time.monotonic() < deadline:
        if watch is not None:
            watch()
        if (folder / PLACE).is_file():
            place = read_json(folder / PLACE)
            address = f"http://{find_reachable(place['hosts'])}:{place['port']}"
            try:
                with opener.open(f"{address}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return address
            except (urllib.error.URLError, OSError) as error:
                reason = f"{address}/health: {getattr(error, 'reason', error)}"
        time.sleep(0.5)
    raise Unavailable(
        f"the vLLM server was not up within {seconds:g} s ({reason}); raise vllm_server_timeout if it needs longer to "
        f"load. {quote_log(folder)}"
    )


def build_watcher(process: subprocess.Popen[bytes], folder: Path) -> Callable[[], None]:
    """A function that raises `Unavailable` once the server has ended."""

    def watch() -> None:
        if process.poll() is not None:
            raise Unavailable(describe_exit(process.returncode, folder))

    return watch


def describe_exit(code: int, folder: Path) -> str:
    """The exit code of a server of this node, and the last line of its log."""
    return f"the vLLM server on {find_node_name()} ended with exit code {code}. {quote_log(folder)}"


def quote_log(folder: Path) -> str:
    """The path and the last line of a server's log."""
    log = folder / LOG
    text = log.read_text(errors="replace").rstrip() if log.is_file() else ""
    last = text.rpartition("\n")[2].strip()
    return f"Its log ({log}) ends with: {last[:300]}" if last else f"Its log ({log}) is empty."


def stop_server(process: subprocess.Popen[bytes] | None) -> None:
    """End a process and all its descendants, if it still runs."""
    if process is None or process.poll() is not None:
        return
    descendants: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        descendants = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    process.kill()
    for descendant in descendants:
        with contextlib.suppress(psutil.Error):
            descendant.kill()
    process.wait()
