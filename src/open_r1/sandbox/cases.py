"""What a program is judged by: programs, tests, limits and the outcome of each test, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Language = Literal["python", "cpp", "javascript"]
# From the strongest to the weakest; what each keeps out is said in `zygotes.MEANING`.
Level = Literal["namespaces", "landlock", "seccomp"]


@dataclass(frozen=True)
class Program:
    """Source text and its language."""

    source: str
    language: Language = "python"


@dataclass(frozen=True)
class StdinTest:
    """Text in, text out.

    Args:
        stdin: what the program reads.
        expected: what it must print; lines are compared without trailing white space.
        checker: a Python program that decides instead, where several outputs are right. It is run as
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
        arguments: positional ones.
        expected: its value.
        keywords: other arguments.
        points: the test's share in a weighted score.
        subtask: tests of one subtask earn its points together.
        exact: compare as `==` does in Python, instead of taking floats that are nearly equal, and a tuple for a list.
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
    """What one test may use; more ends it."""

    seconds: float = 4.0  # CPU time
    wall_seconds: float = 10.0
    memory_mb: int = 512
    output_bytes: int = 1 << 20
    file_mb: int = 16
    processes: int = 32


@dataclass(frozen=True)
class Outcome:
    """One test's result. `unknown` and `error` are no evidence against the program."""

    status: Literal["passed", "failed", "unknown", "error"]
    reason: str = ""
    seconds: float = 0.0
    score: float | None = None  # a checker's part score, 0 to 1
