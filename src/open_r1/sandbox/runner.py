"""The interface of what runs programs: the local sandbox or a service. judging.py judges the executions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from .cases import Limits, Program


@dataclass(frozen=True)
class Execution:
    """How one run ended.

    Args:
        ended: `exit`: the program ended by itself, with `exit_code`; `cpu`, `wall`, `output`: it reached that limit;
            `compile`: it does not compile, `stderr` has the compiler's message; `starved`: the machine was too busy to
            judge its speed; `error`: the infrastructure failed, for the reason in `cause`.
        exit_code: negative for a signal.
        seconds: CPU time if it is known, else wall time.
    """

    ended: Literal["exit", "cpu", "wall", "output", "compile", "starved", "error"]
    exit_code: int | None = None
    stdout: bytes = b""
    stderr: str = ""
    seconds: float = 0.0
    cause: str = ""


class Runner(Protocol):
    """Runs a program once for each stdin, in a fresh state and within the limits each time.

    The executions come in the order of the stdins and may be lazy: the judge stops reading them after a failure.
    Threads call it concurrently. It raises neither for a fault of the program nor for its own: `Execution.ended`
    says which it was.

    A provider is a class that is called with the recipe's `url` and makes a Runner. The recipe names it as
    `provider: package.module:Class`, or by an entry point in the group `open_r1.sandbox_providers`. `services.Service`
    sends the requests of a provider over HTTP, with retries:

    ```python
    class Cloud:
        def __init__(self, url: str):
            self.service = Service("cloud", url, "/run")

        def run(self, program, stdins, limits):
            for stdin in stdins:
                request = {"code": program.source, "language": program.language, "stdin": stdin.decode()}
                yield self.service.execute(request, self.read, limits)

        def read(self, answer, limits):
            if "exit_code" not in answer:
                raise Outage("cloud: an answer without exit_code")
            return Execution("exit", answer["exit_code"], answer["stdout"].encode())
    ```
    """

    def run(self, program: Program, stdins: Sequence[bytes], limits: Limits) -> Iterable[Execution]: ...
