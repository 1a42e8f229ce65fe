"""Rewards that a random model meets half of the time, so that tests have something to learn; and some that fail."""

import os
import signal
import time


def even_length(completion: str) -> float:
    return float(len(completion) % 2 == 0)


def even_length_after_a_while(completion: str) -> float:
    if os.path.exists(os.environ.get("SLOW_WHILE", "")):
        time.sleep(1)
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
