"""One node of a Slurm job: `python -m open_r1.slurm.node VERB WORDS`, which srun starts once on each node.

The first node runs `open-r1 VERB WORDS`. Its command leaves orders in the folder of the start, and the other nodes
follow them: they start their processes of the training, or the vLLM server. A failure on any node ends the job's step
at once (`srun --kill-on-bad-exit`); `slurm.outcome` then finds the first one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ..config.overrides import format_overrides, parse_overrides
from ..config.recipe import is_recipe, read_recipe
from ..config.schema import TRAINERS
from ..errors import RecipeError, Unavailable
from ..launch import nodes, process_group, vllm_server
from ..launch.nodes import Allocation
from ..system import failures, network
from ..system.files import read_json, write_json
from ..system.locks import find_holder

HEAD = "head.json"  # in the folder of a start: the exit code of the first node's command
STOP = "stop"  # in the folder of a start: asks for a checkpoint
PATIENCE = 60.0  # seconds that the processes of a node may take to end after the first node's command
STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)  # exit codes of a command that was stopped
GOOD = (0, *STOPPED)


def main() -> None:
    verb, words = sys.argv[1], sys.argv[2:]
    # Libraries must not take the number of nodes for the number of their processes.
    os.environ["SLURM_STEP_NUM_TASKS"] = "1"
    try:
        where = nodes.find_allocation()
        if where is None:
            raise RecipeError("this command is part of the jobs of slurm/*.slurm; on one machine use open-r1 train")
        # Slurm sends SIGTERM to all processes of a step. The training stops at it; this process waits for that.
        signal.signal(signal.SIGTERM, lambda *_: _request_stop(where.start))
        check_node(where, verb, words)
        code = run_command(where, verb, words) if where.rank == 0 else follow_orders(where)
    except RecipeError as error:
        failures.record_error(error)
        print(f"error: {network.find_node_name()}: {error}", file=sys.stderr, flush=True)
        code = 2
    except Exception as error:
        failures.record_error(error)
        raise
    sys.exit(code)


def _request_stop(start: Path) -> None:
    """Ask for a checkpoint, unless a process has failed: then srun ends the others by SIGTERM too."""
    if failures.find_first(start) is None:
        (start / STOP).touch()


def check_node(where: Allocation, verb: str, words: list[str]) -> None:
    """Check a command on one node before anything is loaded.

    Raises:
        RecipeError: the recipe does not fit the nodes of the job, or this node cannot write the results.
    """
    folders = [where.start]
    if verb == "train" and words and is_recipe(words[0]):
        from ..pipeline import graph

        if not graph.is_pipeline(words[0]):
            folders.append(_check_recipe(where, words[0], words[1:]))
        elif where.nodes > 1:
            raise RecipeError(
                f"{words[0]} is a pipeline, and one job runs it on one node; open-r1 submit gives each stage a job of "
                "its own, with as many nodes as it needs"
            )
    for folder in folders:
        probe = folder / f".node-{where.rank}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise RecipeError(
                f"{folder} cannot be written ({error.strerror}), and all nodes must write to it: choose an "
                "--output_dir on a file system that they share, and submit from there"
            ) from error
    if where.rank == 0:
        for directory in folders[1:]:
            network.write_job_note(directory)  # at once, because the job may train the base model first


def _check_recipe(where: Allocation, path: str, words: list[str]) -> Path:
    """Check a recipe for the nodes of the job. Returns its run directory.

    Raises:
        RecipeError: the recipe is for other nodes, has changed since it was submitted, or another job trains it.
    """
    from ..pipeline import fingerprint

    changes = parse_overrides(words)
    processes = changes.pop("processes", None)
    file = read_recipe(path, format_overrides(changes))
    task, given = file.task, file.given
    planned = os.environ.get(fingerprint.DIGEST)
    if planned and fingerprint.fingerprint_stage(task, given)["digest"] != planned:
        raise RecipeError(f"{path}: the recipe, code or libraries changed since this was submitted; submit it again")
    directory = Path(given["output_dir"])
    if task in TRAINERS:
        nodes.plan_layout(where, int(processes or file.processes), *nodes.count_gpus(given))
        if where.rank == 0 and (holder := find_holder(directory)):
            raise RecipeError(
                f"output_dir: {holder} is training in {directory}; wait for it, or choose another --output_dir"
            )
    return directory


def run_command(where: Allocation, verb: str, words: list[str]) -> int:
    """Run `open-r1 VERB WORDS` on the first node, and forward a request to stop. Returns the node's exit code."""
    command = subprocess.Popen(
        [sys.executable, "-m", "open_r1.cli", verb, *words], preexec_fn=vllm_server.prepare_server
    )
    stop_sent = False
    try:
        while (code := command.poll()) is None:
            if not stop_sent and (where.start / STOP).exists():
                stop_sent = True
                command.send_signal(signal.SIGTERM)
            time.sleep(process_group.POLL_SECONDS)
    finally:
        vllm_server.stop_server(command)
    message = failures.describe_signal(-code) if code < 0 else f"the command ended with exit code {code}"
    code = code if code >= 0 else 128 - code
    write_json(where.start / HEAD, {"code": code})
    return 0 if code in GOOD else _fail(where, message, code)


def follow_orders(where: Allocation) -> int:
    """Start what the first node orders, until its command ends or a process here fails. Returns the exit code."""
    training: subprocess.Popen[bytes] | None = None
    server: subprocess.Popen[bytes] | None = None
    orders_read, restarts = 0, True
    try:
        while not _has_ended(where):
            orders = nodes.read_orders(where.start, where.rank, orders_read)
            orders_read += len(orders)
            for order in filter(None, orders):
                if order["kind"] == "serve":
                    environment, restarts = os.environ | order["environment"], order["restarts"]
                    server = vllm_server.start_server(order["words"], where.start, environment)
                else:
                    training = _start_training(where, order)
            if training is not None and (code := training.poll()) is not None:
                if code:
                    return _fail(where, f"the training's processes ended with exit code {code}", code)
                training = None
            if server is not None and (code := server.poll()) is not None:
                if not (where.start / STOP).exists():
                    message = f"error: {vllm_server.describe_exit(code, where.start)}"
                    return _fail(where, message, Unavailable.CODE if restarts else 2, final=not restarts)
                server = None  # stopped like all processes, while the training ends by itself
            time.sleep(process_group.POLL_SECONDS)
        if training is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # the first node has written all results
                training.wait(PATIENCE)
        return 0
    finally:
        vllm_server.stop_server(training)
        vllm_server.stop_server(server)


def _has_ended(where: Allocation) -> bool:
    """True once the first node's command has finished, or was stopped. After a failure srun ends this node."""
    head = where.start / HEAD
    return head.is_file() and read_json(head)["code"] in GOOD


def _start_training(where: Allocation, order: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start this node's launcher of a training, with its output in a file: the job's log shows the first node's."""
    rank, machines = order["nodes"].index(where.rank) + 1, len(order["nodes"]) + 1
    place = process_group.Place(machines, rank, network.find_reachable(order["hosts"]), order["port"])
    words = process_group.build_command(order["module"], order["words"], order["config"], order["processes"], place)
    environment = process_group.build_environment(order["processes"], machines) | order["environment"]
    with (where.start / f"node-{where.rank}.log").open("ab") as log:
        return subprocess.Popen(
            words, env=environment, preexec_fn=process_group.prepare_launcher, stdout=log, stderr=log
        )


def _fail(where: Allocation, message: str, code: int, final: bool = False) -> int:
    """Record a failure of this node, unless one of its processes has done so. Returns the exit code."""
    code = code if code > 0 else 128 - code
    name = network.find_node_name()
    if not list((where.start / failures.FOLDER).glob(f"{name}-*.json")):
        failures.write_failure(failures.Failure(message, name, None, time.time(), code, final))
    return code


if __name__ == "__main__":
    main()
