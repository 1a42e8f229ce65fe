"""This machine among others: its name, its addresses, a free port."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil

from ..errors import RecipeError
from .files import write_json

START = "OPEN_R1_START"  # environment variable: a folder for what processes of one start of a job tell each other
JOB_LOG = "OPEN_R1_LOG"  # environment variable: of the Slurm job that this process is the whole of
RUN = "run"  # of a start's folder: names the run directory in which it is at work
SERVED = "served"  # of a start's folder: its server was healthy
JOBS = ".slurm.json"  # of a run's directory: the jobs that are of it
VLLM_SERVER = "OPEN_R1_VLLM_SERVER"  # environment variable: its address, and a port for the weights that it is sent
PORTS = "OPEN_R1_PORTS"  # environment variable: the ports that a site leaves open between nodes, as in 20000-20100


_given: set[int] = set()  # of the site's ports, those that this process has handed out


def find_node_name() -> str:
    """Of this machine, as Slurm calls it."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def find_free_port() -> int:
    """A port that nobody listens on, of those that the site leaves open if it says so.

    Raises:
        RecipeError: all of them are taken.
    """
    told = os.environ.get(PORTS)
    if not told:
        with socket.socket() as free:
            free.bind(("", 0))
            return free.getsockname()[1]
    try:
        first, last = (int(port) for port in told.split("-"))
    except ValueError:
        raise RecipeError(f"{PORTS}: a range of ports such as 20000-20100, got {told!r}") from None
    # Two jobs that share a node begin at different ones.
    count = last - first + 1
    begin = int(os.environ.get("SLURM_JOB_ID", "0")) * 7
    for i in range(count):
        port = first + (begin + i) % count
        if port in _given:  # and perhaps not yet listened on
            continue
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                free.bind(("", port))
            except OSError:
                continue
            _given.add(port)
            return port
    raise RecipeError(
        f"{PORTS}: every port of {told} is taken on {find_node_name()}; give more, or wait for other jobs"
    )


def list_addresses() -> list[str]:
    """By which other nodes may reach this one: its names, then its addresses but for the loopback."""
    names = [find_node_name(), os.uname().nodename, socket.getfqdn()]
    found = [
        address.address
        for of_interface in psutil.net_if_addrs().values()
        for address in of_interface
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    ]
    return list(dict.fromkeys([*names, *found]))


def find_reachable(candidates: list[str]) -> str:
    """The first of a node's addresses that this one can resolve to more than itself.

    Raises:
        RecipeError: none can.
    """
    for candidate in candidates:
        try:
            address = socket.gethostbyname(candidate)
        except OSError:
            continue
        # Debian's hosts file gives a machine's own name an address of the loopback.
        if not address.startswith("127.") or candidate in (find_node_name(), os.uname().nodename):
            return candidate
    raise RecipeError(
        f"{find_node_name()} can resolve none of {', '.join(candidates)}, the names and addresses of the first node; "
        "check the site's name server or /etc/hosts"
    )


def write_job_note(directory: Path) -> None:
    """Leave in a run's directory which job is of it, if this is all of one."""
    if JOB_LOG in os.environ:
        write_json(directory / JOBS, {"jobs": [{"id": os.environ["SLURM_JOB_ID"], "log": os.environ[JOB_LOG]}]})
