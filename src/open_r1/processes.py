"""What processes of one job owe each other."""

from __future__ import annotations

import ctypes
import os
import signal
import sys


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when its parent is killed (Linux).

    torchrun gives its processes sessions of their own: after `kill -9` of the launcher they would train on unseen.

    Args:
        parent: its process id, where the caller knows it: it may have died already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
