"""Runs untrusted programs and judges them by tests.

`judge_program(program, tests)` is the entry point. The program runs in a sandbox of this machine (pool.py), isolated
as well as the kernel allows, or on any other `Runner`. Weaker isolation than asked for is refused, never used
silently; `describe_isolation()` says what is in force.
"""

from .cases import AssertTest, CallTest, Language, Level, Limits, Outcome, Program, StdinTest, Test
from .judging import NOT_RUN, judge_program
from .pool import describe_isolation, find_level
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
    "describe_isolation",
    "find_level",
    "judge_program",
]
