"""Rewards that a random model meets half of the time, so that tests have something to learn; and some that fail."""

import os
import signal
import time
from pathlib import Path


def even_length(completion: str) -> float:
    return float(len(completion) % 2 == 0)


def even_length_after_a_while(completion: str) -> float:
    file = Path(os.environ.get("SLOW_WHILE", "absent"))
    if file.is_file():
        time.sleep(float(file.read_text()))  # seconds
    return even_length(completion)


def killed_on_n2(completion: str) -> float:
    if os.uname().nodename == "n2":
        os.kill(os.getpid(), signal.SIGKILL)
    return even_length(completion)


def rows_not_on_n2(rows: int, seed: int) -> list[dict[str, str]]:
    """A source of data that one of the nodes cannot read."""
    if os.uname().nodename == "n2":
        raise OSError("the disk of n2 is on fire")
    return [{"text": f"a {(i + seed) % 10}"} for i in range(rows)]
