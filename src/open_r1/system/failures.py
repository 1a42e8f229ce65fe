"""Find the first failure among many processes: each process that fails writes a file, and the earliest is the cause.

A process that fails takes its whole group with it, and the tracebacks about lost connections hide the reason. In a
Slurm job every process therefore writes its failure to a folder that all of them share (OPEN_R1_START).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from ..errors import RecipeError, Unavailable
from .files import read_json, write_json
from .network import START, find_node_name

FOLDER = "errors"  # in the folder of a start
# Errors that report no more than the end of another process.
ECHOES = re.compile(
    r"Connection (closed by peer|reset by peer|was likely closed)|Broken pipe|connection closed|"
    r"failed to recv, got 0 bytes|remote process exited|NCCL Error 6|ncclRemoteError|ncclInternalError|"
    r"DistNetworkError|store->get|TCPStore",
    re.IGNORECASE,
)
# Errors that may not occur again: of the network, of the hardware of a node, of a file system that was away.
PASSING = re.compile(
    r"NCCL|\bECC\b|\bXid\b|SIGABRT|unspecified launch failure|illegal memory access|Bus error|SIGBUS|"
    r"Connection|timed? ?out|Temporary failure|Name or service not known|Network is unreachable|"
    r"Stale file handle|Input/output error|Remote I/O error|Communication error|"
    r"Too Many Requests|Bad Gateway|Service Unavailable",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Failure:
    """The failure of a process.

    Args:
        message: the error in one line.
        node: name of the node.
        rank: rank of the process in its process group; None outside a group.
        when: Unix time.
        code: exit code.
        final: the error will occur at every start, so there is no point in another one.
        details: the error with its traceback.
    """

    message: str
    node: str
    rank: int | None = None
    when: float = 0.0
    code: int = 1
    final: bool = False
    details: str = ""

    @property
    def passing(self) -> bool:
        """True if another start may succeed."""
        return not self.final and (self.code == Unavailable.CODE or bool(PASSING.search(self.message)))

    @property
    def echo(self) -> bool:
        """True if this failure only follows from the end of another process."""
        return bool(ECHOES.search(self.message))

    @property
    def line(self) -> str:
        """`n2, rank 3, 12:30:05: error: ...`"""
        who = self.node + ("" if self.rank is None else f", rank {self.rank}")
        return f"{who}, {time.strftime('%H:%M:%S', time.localtime(self.when))}: {self.message}"


def record_error(error: BaseException) -> None:
    """Write the exception that ends this process to the folder of this start; outside a job, do nothing."""
    message, details = f"error: {error}", ""
    if isinstance(error, RecipeError):
        code = 2
    elif isinstance(error, Unavailable):
        code = Unavailable.CODE
    else:
        # CUDA's errors end with advice; their first line says what happened.
        message = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
        details, code = "".join(traceback.format_exception(error)).rstrip(), 1
    rank = int(os.environ["RANK"]) if "RANK" in os.environ else None
    write_failure(Failure(message, find_node_name(), rank, time.time(), code, isinstance(error, RecipeError), details))


def write_failure(failure: Failure) -> None:
    """Write a failure to the folder of this start, unless this process has already written one."""
    if START not in os.environ:
        return
    path = Path(os.environ[START], FOLDER, f"{failure.node}-{os.getpid()}-{int(psutil.Process().create_time())}.json")
    # An error here, such as a full disk, must not hide the error of the process.
    with contextlib.suppress(OSError, RecipeError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_json(path, asdict(failure))


def describe_signal(number: int) -> str:
    """The message for a process that a signal has ended.

    >>> describe_signal(9)
    'error: the process was ended by SIGKILL, by the system if the memory of the node was used up'
    """
    name = signal.Signals(number).name
    by_system = ", by the system if the memory of the node was used up" if name == "SIGKILL" else ""
    return f"error: the process was ended by {name}{by_system}"


def find_first(start: Path) -> Failure | None:
    """The earliest failure of a start; failures that only follow from another one come last."""
    found = [Failure(**read_json(path)) for path in (start / FOLDER).glob("*.json")]
    return min(found, key=lambda failure: (failure.echo, failure.when), default=None)
