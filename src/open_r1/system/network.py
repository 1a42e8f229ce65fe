"""The network of this machine: its name, its addresses, a free port; and what the processes of a Slurm job share."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil

from ..errors import RecipeError
from .files import write_json

# Environment variables.
START = "OPEN_R1_START"  # the folder of one start of a job, which its processes share
JOB_LOG = "OPEN_R1_LOG"  # the log of the Slurm job; not set in the jobs of an array
VLLM_SERVER = "OPEN_R1_VLLM_SERVER"  # the address of the vLLM server, and the port that receives its weights
PORTS = "OPEN_R1_PORTS"  # range of ports that are open between the nodes of a site, such as 20000-20100
# Files.
RUN = "run"  # in the folder of a start: the path of the run directory that it works on
SERVED = "served"  # in the folder of a start: its server was healthy
JOBS = ".slurm.json"  # in a run directory: the jobs that work on it

_given: set[int] = set()  # ports of the site's range that this process has handed out


def find_node_name() -> str:
    """The name of this machine, as Slurm knows it."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def find_free_port() -> int:
    """A port that nobody listens on; one from the range of OPEN_R1_PORTS if that is set.

    Raises:
        RecipeError: the range cannot be read, or all its ports are taken.
    """
    ports = os.environ.get(PORTS)
    if not ports:
        with socket.socket() as free:
            free.bind(("", 0))
            return free.getsockname()[1]
    try:
        first, last = (int(port) for port in ports.split("-"))
    except ValueError:
        raise RecipeError(f"{PORTS}: expected a range of ports such as 20000-20100, got {ports!r}") from None
    # Jobs that share a node begin at different ports.
    count = last - first + 1
    begin = int(os.environ.get("SLURM_JOB_ID", "0")) * 7
    for i in range(count):
        port = first + (begin + i) % count
        if port in _given:  # although nobody may listen on it yet
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
        f"{PORTS}: every port of {ports} is taken on {find_node_name()}; set a larger range, or wait for other jobs"
    )


def list_addresses() -> list[str]:
    """The names and IPv4 addresses by which other nodes may reach this machine, without the loopback."""
    names = [find_node_name(), os.uname().nodename, socket.getfqdn()]
    found = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    ]
    return list(dict.fromkeys([*names, *found]))


def find_reachable(candidates: list[str]) -> str:
    """The first name or address of another node that this machine can resolve.

    Raises:
        RecipeError: it can resolve none of them.
    """
    for candidate in candidates:
        try:
            address = socket.gethostbyname(candidate)
        except OSError:
            continue
        # In Debian's /etc/hosts the name of a machine has a loopback address.
        if not address.startswith("127.") or candidate in (find_node_name(), os.uname().nodename):
            return candidate
    raise RecipeError(
        f"{find_node_name()} can resolve none of {', '.join(candidates)}, the names and addresses of another node; "
        "check the name server of the site, or /etc/hosts"
    )


def write_job_note(directory: Path) -> None:
    """Write to a run directory which Slurm job works on it, unless this is a job of an array."""
    if JOB_LOG in os.environ:
        write_json(directory / JOBS, {"jobs": [{"id": os.environ["SLURM_JOB_ID"], "log": os.environ[JOB_LOG]}]})
