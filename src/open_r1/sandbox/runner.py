"""Something that runs programs: the local sandbox, or a service. What comes out is judged in judging.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from .cases import Limits, Program


@dataclass(frozen=True)
class Execution:
    """How one run ended.

    Args:
        ended: `exit` by itself, with `exit_code`; `cpu`, `wall`, `output`: a limit reached; `compile`: the compiler
            refused the program (its message is in `stderr`); `starved`: the machine was too busy to judge its speed;
            `error`: the infrastructure failed, `cause` says how.
        exit_code: negative for a signal.
        seconds: CPU time where it is known, else wall time.
    """

    ended: Literal["exit", "cpu", "wall", "output", "compile", "starved", "error"]
    exit_code: int | None = None
    stdout: bytes = b""
    stderr: str = ""
    seconds: float = 0.0
    cause: str = ""


class Runner(Protocol):
    """Runs a program once for each stdin, each time as if it were the first, within the limits for each.

    The executions come in the order of the stdins and may be lazy: the judge stops reading them after a failure. It is
    called from many threads at once. It raises neither for a program's fault nor for its own: `Execution.ended` tells.
    """

    def run(self, program: Program, stdins: Sequence[bytes], limits: Limits) -> Iterable[Execution]: ...
