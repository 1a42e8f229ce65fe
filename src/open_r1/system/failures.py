"""How processes tell each other what went wrong first: each leaves a file, and the earliest one is the cause.

Where many processes work together, one that fails takes the others with it, and their tracebacks about lost
connections bury the reason. With OPEN_R1_START naming a folder that all of them see, each leaves its own words there.
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

FOLDER = "errors"  # of a start's folder
# Words of errors that say no more than that another process has gone.
ECHOES = re.compile(
    r"Connection (closed by peer|reset by peer|was likely closed)|Broken pipe|connection closed|"
    r"failed to recv, got 0 bytes|remote process exited|NCCL Error 6|ncclRemoteError|ncclInternalError|"
    r"DistNetworkError|store->get|TCPStore",
    re.IGNORECASE,
)
# Words of errors that may not come again: of the network, of a node's hardware, of a file system that went away.
PASSING = re.compile(
    r"NCCL|\bECC\b|\bXid\b|SIGABRT|unspecified launch failure|illegal memory access|Bus error|SIGBUS|"
    r"Connection|timed? ?out|Temporary failure|Name or service not known|Network is unreachable|"
    r"Stale file handle|Input/output error|Remote I/O error|Communication error|"
    r"Too Many Requests|Bad Gateway|Service Unavailable",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Failure:
    """What a process said when it failed.

    Args:
        message: one line.
        node: where it ran.
        rank: of the process in its group; None for one that trains nothing.
        when: Unix time.
        code: exit code.
        final: it will come again however often it is tried.
        told: all of it, with its traceback.
    """

    message: str
    node: str
    rank: int | None = None
    when: float = 0.0
    code: int = 1
    final: bool = False
    told: str = ""

    @property
    def passing(self) -> bool:
        """True if another try may well succeed."""
        return not self.final and (self.code == Unavailable.CODE or bool(PASSING.search(self.message)))

    @property
    def echo(self) -> bool:
        """True if it is about another process's end."""
        return bool(ECHOES.search(self.message))

    @property
    def line(self) -> str:
        """`n2, rank 3, 12:30:05: error: ...`"""
        who = self.node + ("" if self.rank is None else f", rank {self.rank}")
        return f"{who}, {time.strftime('%H:%M:%S', time.localtime(self.when))}: {self.message}"


def record_error(error: BaseException) -> None:
    """Leave what this process failed with, if anybody has asked for it."""
    if isinstance(error, (RecipeError, Unavailable)):
        told, final = f"error: {error}", isinstance(error, RecipeError)
        return write_failure(
            Failure(told, find_node_name(), _rank(), time.time(), 2 if final else Unavailable.CODE, final, told)
        )
    told = "".join(traceback.format_exception(error)).rstrip()
    # CUDA's errors end with advice; what they are stands first.
    said = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
    write_failure(Failure(said, find_node_name(), _rank(), time.time(), 1, told=told))


def write_failure(failure: Failure) -> None:
    """Write a failure to this start's folder; the first of a process stands."""
    if START not in os.environ:
        return
    path = Path(os.environ[START], FOLDER, f"{failure.node}-{os.getpid()}-{int(psutil.Process().create_time())}.json")
    # Where this fails, as on a full disk, it must not take the place of what the process has to say.
    with contextlib.suppress(OSError, RecipeError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_json(path, asdict(failure))


def describe_signal(number: int) -> str:
    """What ended a process that could not say it itself.

    Args:
        number: of the signal.
    """
    name = signal.Signals(number).name
    by_system = ", by the system if the memory of the node was used up" if name == "SIGKILL" else ""
    return f"error: the process was ended by {name}{by_system}"


def find_first(start: Path) -> Failure | None:
    """The earliest of a start's failures; those that only echo another one come last."""
    found = [Failure(**read_json(path)) for path in (start / FOLDER).glob("*.json")]
    return min(found, key=lambda failure: (failure.echo, failure.when), default=None)


def _rank() -> int | None:
    rank = os.environ.get("RANK")
    return None if rank is None else int(rank)
