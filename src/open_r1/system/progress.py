"""The progress of a long job, in lines that are readable in a log file too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

EVERY = 10.0  # seconds between two lines


class Progress:
    """Counts completions and tokens, from any thread, and reports every ten seconds.

    Args:
        total: number of completions of this job.
        say: prints a line.
        clock: returns seconds; tests replace it.
    """

    def __init__(self, total: int, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        self.total, self.completions, self.tokens = total, 0, 0
        self.say, self.clock = say, clock
        self.began = self.reported = clock()
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        return self.clock() - self.began

    def add(self, completions: int, tokens: int) -> None:
        with self._lock:
            self.completions += completions
            self.tokens += tokens
            now = self.clock()
            if now - self.reported < EVERY:
                return
            self.reported = now
        self.say(self.line())

    def line(self) -> str:
        """`512 of 8,000 completions (6%), 3,412 tokens/s, about 12 min left`"""
        seconds = max(self.seconds, 1e-9)
        left = seconds * (self.total - self.completions) / self.completions if self.completions else None
        share = f"{self.completions / self.total:.0%}" if self.total else "all"
        done = f"{self.completions:,} of {self.total:,} completions ({share})"
        return f"{done}, {self.tokens / seconds:,.0f} tokens/s" + (
            f", about {format_duration(left)} left" if left else ""
        )


def format_duration(seconds: float) -> str:
    """A duration in its largest unit: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
