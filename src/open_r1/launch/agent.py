"""accelerate's launcher, for one machine: `python -m open_r1.launch.agent`, with its words.

It ends with the exit code of the process that failed first, and says in a line which one that was and what ended it,
where accelerate ends with 1 and a page about itself.
"""

from __future__ import annotations

import logging
import sys
import time

from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from ..system import failures
from ..system.network import find_node_name


def main() -> None:
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        launch_command(launch_command_parser().parse_args())
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        sys.exit(told(rank, failure.exitcode))
    except Exception as error:  # of the meeting of the machines
        failures.record_error(error)
        raise


def told(rank: int, code: int) -> int:
    """Say what ended a process that could not say it itself. Returns the exit code."""
    if code > 0:
        return code
    message = failures.describe_signal(-code)
    print(f"rank {rank}: {message}", file=sys.stderr, flush=True)
    failures.write_failure(failures.Failure(message, find_node_name(), rank, time.time(), 128 - code))
    return 128 - code


if __name__ == "__main__":
    main()
