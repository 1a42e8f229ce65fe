"""accelerate's launcher for the processes of one machine: `python -m open_r1.launch.agent ARGUMENTS`.

accelerate exits with code 1 and prints a long report about itself. This launcher exits with the code of the process
that failed first; if a signal ended that process, it prints its rank and the signal.
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
        sys.exit(report_exit(rank, failure.exitcode))
    except Exception as error:  # the machines did not find each other
        failures.record_error(error)
        raise


def report_exit(rank: int, code: int) -> int:
    """Report a process that a signal has ended, because it could not report itself. Returns the exit code."""
    if code > 0:
        return code
    message = failures.describe_signal(-code)
    print(f"rank {rank}: {message}", file=sys.stderr, flush=True)
    failures.write_failure(failures.Failure(message, find_node_name(), rank, time.time(), 128 - code))
    return 128 - code


if __name__ == "__main__":
    main()
