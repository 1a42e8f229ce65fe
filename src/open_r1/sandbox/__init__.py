"""Runs untrusted programs and judges them by tests.

`judge(program, tests)` is the whole of it. The program runs in a sandbox of this machine (pool.py), isolated as
well as the kernel allows, or on any other `Runner`. Weaker isolation than asked for is refused, never used silently;
`describe()` says what is in force.
"""

from .cases import AssertTest, CallTest, Language, Level, Limits, Outcome, Program, StdinTest, Test
from .judging import NOT_RUN, judge
from .pool import describe, level
from .runner import Execution, Runner

__all__ = [
    "NOT_RUN",
    "AssertTest",
    "CallTest",
    "Execution",
    "Language",
    "Level",
    "Limits",
    "Outcome",
    "Program",
    "Runner",
    "StdinTest",
    "Test",
    "describe",
    "judge",
    "level",
]
