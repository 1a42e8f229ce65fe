"""How a command ends: with a last line, a message, an exit code, and a status that says so."""

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
    """Run a task; end with its directory as the last line, or with a message and an exit code, and no traceback.

    Args:
        task: gives its run, or None if other processes have told of it.
    """
    code, message, state = 0, "", "failed"
    try:
        done = task()
        if done is not None:
            done.say(str(done.dir))
        return
    except RecipeError as error:
        code, message = 2, f"error: {error}"
        failures.record_error(error)
    except Unavailable as error:
        code, message = error.CODE, f"error: {error}"
        failures.record_error(error)
    except Stopped as stopped:
        # Our own launcher knows what it has sent; any other code it would take for a failure, and say so at length.
        code = 0 if processes.WORLD in os.environ else 128 + stopped.number
        message, state = str(stopped), "interrupted"
    except KeyboardInterrupt:
        code, state = 130, "interrupted"
        message = "interrupted; the same command goes on from the last whole checkpoint, or starts again without one"
    except Exception as error:
        failures.record_error(error)
        raise
    finally:
        end_held_runs(state)
    if os.environ.get("RANK", "0") == "0":
        print(message, file=sys.stderr)
    sys.exit(code)


def end_held_runs(state: str) -> None:
    """Say in the status of this process's unfinished runs how they ended."""
    for directory in list_held():
        known = read_status(directory)
        if known.get("state") == "running":
            # On a full disk this fails as well, and must not take the place of what the run has to say.
            with contextlib.suppress(RecipeError, OSError):
                write_json(directory / "status.json", known | {"state": state})


class Stopped(BaseException):
    """A signal ended the run where it can go on; the message says from where.

    No Exception: it can come in the middle of a library that catches those.
    """

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.number = number
