"""Programs, tests, limits and the outcomes of tests, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Language = Literal["python", "cpp", "javascript"]
# From the strongest to the weakest; `pool.MEANING` describes them.
Level = Literal["namespaces", "landlock", "seccomp"]


@dataclass(frozen=True)
class Program:
    """Source text and its language."""

    source: str
    language: Language = "python"


@dataclass(frozen=True)
class StdinTest:
    """A text to read and the text to print.

    Args:
        stdin: the input.
        expected: the output; lines are compared without trailing white space.
        checker: a Python program that decides instead, if several outputs are right. It runs as
            `checker.py input.txt expected.txt output.txt` and prints a score from 0 to 1 (1 is right).
        points: the test's share in a weighted score.
        subtask: tests of one subtask earn its points together.
    """

    stdin: str
    expected: str
    checker: str | None = None
    points: float = 1.0
    subtask: str | None = None


@dataclass(frozen=True)
class CallTest:
    """A call of a function, or of a method of `Solution`, and the value it must return (plain data).

    Args:
        function: its name.
        arguments: positional arguments.
        expected: the value that it must return.
        keywords: keyword arguments.
        points: the test's share in a weighted score.
        subtask: tests of one subtask earn its points together.
        exact: compare by Python's `==`; otherwise nearly equal floats pass, and a tuple for a list.
    """

    function: str
    arguments: tuple[Any, ...]
    expected: Any
    keywords: dict[str, Any] = field(default_factory=dict)
    points: float = 1.0
    subtask: str | None = None
    exact: bool = False


@dataclass(frozen=True)
class AssertTest:
    """Test code that uses the program's names and raises if it is wrong (HumanEval, MBPP, LeetCode).

    Args:
        source: the code.
        points: the test's share in a weighted score.
        subtask: tests of one subtask earn its points together.
        helpers: code that runs before it, whose names the program cannot redefine for the test.
    """

    source: str
    points: float = 1.0
    subtask: str | None = None
    helpers: str = ""


Test = StdinTest | CallTest | AssertTest


@dataclass(frozen=True)
class Limits:
    """The most that one test may use; a test that uses more ends."""

    seconds: float = 4.0  # CPU time
    wall_seconds: float = 10.0
    memory_mb: int = 512
    output_bytes: int = 1 << 20
    file_mb: int = 16
    processes: int = 32


@dataclass(frozen=True)
class Outcome:
    """The result of one test. `unknown` and `error` are no evidence against the program."""

    status: Literal["passed", "failed", "unknown", "error"]
    reason: str = ""
    seconds: float = 0.0
    score: float | None = None  # a checker's part score, 0 to 1
