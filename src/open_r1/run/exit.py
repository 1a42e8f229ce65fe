"""The end of a command: its last line, exit code and status."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import RecipeError, Unavailable
from ..system import failures, processes
from ..system.files import read_status, write_json
from ..system.locks import list_held

if TYPE_CHECKING:
    from .run import Run


def run_guarded(task: Callable[[], Run | None]) -> None:
    """Run a task and print its run directory; on a known error print a message and exit, without a traceback.

    Args:
        task: returns its run, or None if its processes have printed the directory.
    """
    code, message, state = 0, "", "failed"
    try:
        done = task()
        if done is not None:
            done.say(str(done.dir))
        return
    except (RecipeError, Unavailable) as error:
        code, message = error.CODE if isinstance(error, Unavailable) else 2, f"error: {error}"
        failures.record_error(error)
    except Interruption as interruption:
        # Our launcher sent the signal itself, and reports every other code as a failure.
        code = 0 if processes.WORLD in os.environ else 128 + interruption.number
        message, state = str(interruption), "interrupted"
    except KeyboardInterrupt:
        code, state = 130, "interrupted"
        message = "interrupted; run the same command again to continue from the last whole checkpoint, if there is one"
    except Exception as error:
        failures.record_error(error)
        raise
    finally:
        end_held_runs(state)
    if os.environ.get("RANK", "0") == "0":
        print(message, file=sys.stderr)
    sys.exit(code)


def end_held_runs(state: str) -> None:
    """Write how they ended to status.json of the runs that this process has locked and not finished."""
    for directory in list_held():
        known = read_status(directory)
        if known.get("state") == "running":
            # A full disk fails here again, which must not replace the run's own error.
            with contextlib.suppress(RecipeError, OSError):
                write_json(directory / "status.json", known | {"state": state})


class Interruption(BaseException):
    """A signal ended a run that can be resumed; the message says from where.

    A BaseException, because it may be raised inside a library that catches every Exception.
    """

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.number = number
