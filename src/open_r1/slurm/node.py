"""One node of a job: `python -m open_r1.slurm.node VERB WORDS`, which srun starts once on each.

The first node runs `open-r1 VERB WORDS`; all nodes follow the orders that it leaves in the start's folder. A failure
on any node ends the job's step at once (`srun --kill-on-bad-exit`), and `outcome` then tells which one was first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from ..config.overrides import format_overrides, parse_overrides
from ..config.recipe import is_recipe, read_recipe
from ..config.schema import TRAINERS
from ..errors import RecipeError, Unavailable
from ..launch import nodes, process_group, vllm_server
from ..launch.nodes import Allocation
from ..system import failures, network
from ..system.files import write_json
from ..system.locks import find_holder

HEAD = "head.json"  # of a start's folder: how the first node's command ended
STOP = "stop"  # of a start's folder: asks for a checkpoint
PATIENCE = 60.0  # seconds that a node's processes may take to end after the first node's have
STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)


def main() -> None:
    verb, words = sys.argv[1], sys.argv[2:]
    # The first node's command stands for the tasks of all nodes, and launchers for those of theirs.
    os.environ["SLURM_STEP_NUM_TASKS"] = "1"
    try:
        where = nodes.find_allocation()
        if where is None:
            raise RecipeError(
                "this is what slurm/*.slurm start on a job's nodes; for one machine there is open-r1 train"
            )
        # Slurm gives all processes of a step notice by SIGTERM. Those that train act on it; this one waits for them.
        signal.signal(signal.SIGTERM, lambda *_: _stop(where.start))
        check(where, verb, words)
        code = Node(where).run(verb, words)
    except RecipeError as error:
        failures.record_error(error)
        print(f"error: {network.find_node_name()}: {error}", file=sys.stderr, flush=True)
        code = 2
    except Exception as error:
        failures.record_error(error)
        raise
    sys.exit(code)


def _stop(start: Path) -> None:
    """Ask for a checkpoint; not where something has failed, as srun then ends what is left by the same signal."""
    if failures.find_first(start) is None:
        (start / STOP).touch()


def check(where: Allocation, verb: str, words: list[str]) -> None:
    """Refuse a node that cannot write what the run leaves, before anything is loaded.

    Raises:
        RecipeError: naming the folder.
    """
    folders = [where.start]
    if verb == "train" and words and is_recipe(words[0]):
        from ..pipeline import graph

        if graph.is_pipeline(words[0]):
            if where.nodes > 1:
                raise RecipeError(
                    f"{words[0]} is a pipeline, of which one job runs on one node; open-r1 submit gives each stage a "
                    "job of its own, with as many nodes as it needs"
                )
        else:
            folders.append(_check_recipe(where, words[0], words[1:]))
    for folder in folders:
        mark = folder / f".node-{where.rank}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            mark.write_text("")
            mark.unlink()
        except OSError as error:
            raise RecipeError(
                f"{folder} cannot be written ({error.strerror}); all nodes need it: choose an --output_dir on a file "
                "system that they share, and submit from there"
            ) from error
    if where.rank == 0:
        for directory in folders[1:]:
            network.write_job_note(directory)  # at once, as it may first train what the recipe begins with


def _check_recipe(where: Allocation, path: str, words: list[str]) -> Path:
    """Refuse a recipe for other nodes than these, or another than was submitted; its run directory."""
    from ..pipeline import fingerprint

    changes = parse_overrides(words)
    processes = changes.pop("processes", None)
    file = read_recipe(path, format_overrides(changes))
    task, given = file.task, file.given
    planned = os.environ.get(fingerprint.DIGEST)
    if planned and fingerprint.fingerprint_stage(task, given)["digest"] != planned:
        raise RecipeError(f"{path}: the recipe, code or libraries changed since this was submitted; submit it again")
    if task in TRAINERS:
        gpus, server = (0 if given.get("toy") else int(given.get(key) or 0) for key in ("gpus", "vllm_server_gpus"))
        nodes.plan_layout(where, int(processes or file.processes), gpus, server)
    directory = Path(given["output_dir"])
    if where.rank == 0 and task in TRAINERS and (by := find_holder(directory)):
        raise RecipeError(f"output_dir: {by} is training in {directory}; wait for it, or choose another --output_dir")
    return directory


class Node:
    """What runs on this node, and what is still to come.

    Args:
        where: this node.
    """

    def __init__(self, where: Allocation):
        self.where = where
        self.head: subprocess.Popen[bytes] | None = None
        self.member: subprocess.Popen[bytes] | None = None  # of a group that trains
        self.server: subprocess.Popen[bytes] | None = None
        self.server_restarts = True
        self.done = 0  # orders
        self.told = False  # the head, to stop

    def run(self, verb: str, words: list[str]) -> int:
        """Until the first node's command ends, or something here fails. Returns the exit code."""
        if self.where.rank == 0:
            self.head = subprocess.Popen(
                [sys.executable, "-m", "open_r1.cli", verb, *words], preexec_fn=vllm_server.prepare_server
            )
        try:
            while True:
                code = self.look()
                if code is not None:
                    return code
                time.sleep(nodes.LOOK)
        finally:
            for process in (self.head, self.member, self.server):
                vllm_server.stop_server(process)

    def look(self) -> int | None:
        """What has happened since; an exit code if that is the end."""
        if self.head is not None:
            if not self.told and (self.where.start / STOP).exists():
                self.told = True
                self.head.send_signal(signal.SIGTERM)
            code = self.head.poll()
            if code is not None:
                said = failures.describe_signal(-code) if code < 0 else f"the command ended with exit code {code}"
                code = code if code >= 0 else 128 - code
                write_json(self.where.start / HEAD, {"code": code})
                if code == 0 or code in STOPPED:
                    nodes.send_order(self.where.start, list(range(self.where.nodes)), "end")
                    return 0
                return self.fail(said, code)
        for order in nodes.read_orders(self.where.start, self.where.rank, self.done):
            self.done += 1
            if order.get("kind") == "end":
                if self.member is not None:
                    with contextlib.suppress(subprocess.TimeoutExpired):  # all that it has done is written
                        self.member.wait(PATIENCE)
                return 0
            if order:
                self.follow(order)
        if self.member is not None and (code := self.member.poll()) is not None:
            self.member = None
            if code:
                return self.fail(f"the training's processes ended with exit code {code}", code)
        if self.server is not None and (code := self.server.poll()) is not None:
            self.server = None
            if (self.where.start / STOP).exists():
                return None  # it was told to stop as all were, and the training ends by itself
            return self.fail(
                f"error: {vllm_server.describe_end(code, self.where.start)}",
                2 if not self.server_restarts else Unavailable.CODE,
                final=not self.server_restarts,
            )
        return None

    def follow(self, order: dict[str, Any]) -> None:
        if order["kind"] == "serve":
            self.server_restarts = order["restarts"]
            self.server = vllm_server.start_server(order["words"], self.where.start, os.environ | order["environment"])
            return
        host = network.find_reachable(order["hosts"])
        place = process_group.Place(
            len(order["nodes"]) + 1, order["nodes"].index(self.where.rank) + 1, host, order["port"]
        )
        words = process_group.build_command(
            order["module"], order["words"], order["config"], order["processes"], place
        )
        around = process_group.build_environment(order["processes"], place.machines) | order["environment"]
        self.member = subprocess.Popen(words, env=around, preexec_fn=process_group.prepare_launcher, **self._said())

    def _said(self) -> dict[str, IO[bytes]]:
        """Where other nodes' processes write: beside the first one's they would hide its progress in the job's log."""
        log = (self.where.start / f"node-{self.where.rank}.log").open("ab")
        return {"stdout": log, "stderr": log}

    def fail(self, message: str, code: int, final: bool = False) -> int:
        """Say what failed here, if no process has left its own words, and end."""
        code = code if code > 0 else 128 - code
        name = network.find_node_name()
        if not list((self.where.start / failures.FOLDER).glob(f"{name}-*.json")):
            failures.write_failure(failures.Failure(message, name, None, time.time(), code, final))
        return code


if __name__ == "__main__":
    main()
