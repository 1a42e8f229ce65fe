"""The verdict on a program: what it printed or returned, against what was expected.

Expected values exist only here, and for assert tests in the tester's process; never where the program runs. A test
passes only by positive evidence: the right answer, and if one run is the test, its clean end. Exit codes alone prove
nothing. A limit that the program reached is a failure (too slow is wrong); a limit reached because the machine was
busy is unknown; an infrastructure that failed is an error.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from ..errors import RecipeError
from . import drivers, pool
from .cases import AssertTest, CallTest, Level, Limits, Outcome, Program, StdinTest, Test
from .guest import plain
from .local import BATCH, Sandbox, encode_text
from .runner import Execution, Runner

NOT_RUN = Outcome("unknown", "not run after the first failure")
_ERROR_LINE = re.compile(r"(?:Uncaught )?[\w.]*(?:Error|Exception|Interrupt)\b")
SLOWEST = 3  # tests of a program that may each use up their time; to wait for more would block other programs
STARVED = "the machine was too busy to judge the program's speed"
_SLOW = re.compile(rf"more than \S+ s of CPU time|waited for|{STARVED}")
Outcomes = dict[int, Outcome]  # by the number of the test


def judge_program(
    program: Program,
    tests: Sequence[Test],
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    *,
    weakest: Level = "namespaces",
    stop_early: bool = True,
    runner: Runner | None = None,
) -> list[Outcome]:
    """Run a program against its tests. May be called from many threads at once.

    Args:
        limits: for each test.
        weakest: the weakest isolation that is allowed; ignored with a `runner`.
        stop_early: skip tests after the first failure; their outcome is `NOT_RUN`.
        runner: runs the program in place of the local sandbox.

    Returns:
        One outcome per test, in order. `passed` and `failed` are evidence; `unknown` (it could not be judged) and
        `error` (the infrastructure failed, or the language's tools are missing) are none.

    Raises:
        RecipeError: this machine offers only weaker isolation than `weakest`.
    """
    runner = runner or find_local_sandbox(weakest)
    outcomes: Outcomes = {}
    for kind, judge_kind in JUDGES.items():
        chosen = {index: test for index, test in enumerate(tests) if isinstance(test, kind)}
        if chosen and not (stop_early and any(outcome.status == "failed" for outcome in outcomes.values())):
            outcomes |= judge_kind(runner, program, chosen, limits, stop_early)
    return [outcomes.get(index, NOT_RUN) for index in range(len(tests))]


def find_local_sandbox(weakest: Level) -> Sandbox:
    """The local sandbox at this machine's strongest level.

    Raises:
        RecipeError: that level is weaker than `weakest`.
    """
    strongest = pool.find_level()
    if pool.LEVELS.index(strongest) > pool.LEVELS.index(weakest):
        raise RecipeError(
            f"this machine isolates programs only by {strongest}: {pool.MEANING[strongest]}. To allow that, set "
            f"`isolation: {strongest}` beside the reward's name. Why not {weakest}: {pool.explain_level(weakest)}"
        )
    return Sandbox(strongest)


def judge_in_batches(indices: Iterable[int], run: Callable[[list[int]], Outcomes], stop_early: bool) -> Outcomes:
    """Judge many tests in one process, then each test that did not pass there in a process of its own.

    The second run decides, because in a shared process an earlier test may have left something behind. `run` judges
    some tests together; its `passed` must be sound. After `SLOWEST` tests that reached a time limit alone, the rest
    get the outcome of the last of them without a run.
    """
    outcomes: Outcomes = {}
    slow: list[Outcome] = []
    indices = list(indices)
    for start in range(0, len(indices), BATCH):
        batch = indices[start : start + BATCH]
        together = run(batch) if len(slow) < SLOWEST else {}
        final = {"passed", "error"} if len(batch) > 1 else {"passed", "error", "failed", "unknown"}
        outcomes |= {index: outcome for index, outcome in together.items() if outcome.status in final}
        doubtful = [index for index in batch if index not in outcomes]
        # First the test that failed among the others: it very likely fails alone too.
        doubtful.sort(key=lambda index: index not in together or together[index].status != "failed")
        for index in doubtful:
            if len(slow) >= SLOWEST:
                outcomes[index] = replace(slow[-1], reason=f"not run after {SLOWEST} like it: {slow[-1].reason}")
                continue
            outcomes |= run([index])
            if _SLOW.match(outcomes[index].reason):
                slow.append(outcomes[index])
            if stop_early and outcomes[index].status == "failed":
                return outcomes
        if stop_early and any(outcomes[index].status == "failed" for index in batch):
            return outcomes
    return outcomes


def judge_stdin(
    runner: Runner, program: Program, tests: dict[int, StdinTest], limits: Limits, stop_early: bool
) -> Outcomes:
    if isinstance(runner, Sandbox) and program.language == "python":

        def run_batch(indices: list[int]) -> Outcomes:
            stdins = [encode_text(tests[index].stdin) for index in indices]
            executions = runner.run_together(program, stdins, limits)
            outcomes = {
                index: judge_output(tests[index], execution, limits, runner)
                for index, execution in zip(indices, executions, strict=True)
            }
            # Empty output does not prove that the process reached this test.
            for index, execution in zip(indices, executions, strict=True):
                if len(indices) > 1 and outcomes[index].status == "passed" and not execution.stdout.strip():
                    outcomes[index] = NOT_RUN
            return outcomes

        return judge_in_batches(tests, run_batch, stop_early)
    outcomes: Outcomes = {}
    executions = runner.run(program, [encode_text(test.stdin) for test in tests.values()], limits)
    for (index, test), execution in zip(tests.items(), executions, strict=False):
        outcomes[index] = judge_output(test, execution, limits, runner)
        if stop_early and outcomes[index].status == "failed":
            break
    return outcomes


def judge_output(test: StdinTest, execution: Execution, limits: Limits, runner: Runner) -> Outcome:
    fault = find_fault(execution, limits)
    if fault:
        return fault
    if test.checker is not None:
        return run_checker(test, execution, limits, runner)
    if is_same_output(test.expected, execution.stdout):
        return Outcome("passed", "", execution.seconds)
    expected, got = shorten_text(test.expected), shorten_text(execution.stdout.decode(errors="replace"))
    return Outcome("failed", f"wrong output: expected {expected}, got {got}", execution.seconds)


def shorten_text(text: str, most: int = 60) -> str:
    """The start of a text, on one line."""
    text = text.strip()
    return ascii(text if len(text) <= most else text[:most] + "...")


def find_fault(execution: Execution, limits: Limits) -> Outcome | None:
    """The outcome of a run that did not end well, whatever its output; None if it did."""
    if execution.ended == "error":
        return Outcome("error", execution.cause)
    if execution.ended == "starved":
        return Outcome("unknown", STARVED, execution.seconds)
    reasons = {
        "cpu": f"more than {limits.seconds:g} s of CPU time",
        "wall": f"waited for more than {max(limits.wall_seconds, limits.seconds):g} s",
        "output": f"more than {limits.output_bytes} bytes of output",
        "compile": f"does not compile: {find_first_error(execution.stderr)}",
    }
    if execution.ended in reasons:
        return Outcome("failed", reasons[execution.ended], execution.seconds)
    if execution.exit_code:
        code = execution.exit_code
        reason = f"exit code {code}" if code > 0 else f"ended by signal {-code}"
        message = execution.stderr.strip()
        return Outcome("failed", f"{reason}: {shorten_message(message)}" if message else reason, execution.seconds)
    return None


def shorten_message(message: str, most: int = 300) -> str:
    """An interpreter's error message, up to the line that names the error (the last one in Python, not in node)."""
    lines = message.splitlines()
    named = [number for number, line in enumerate(lines) if _ERROR_LINE.match(line)]
    text = "\n".join(lines[: named[-1] + 1] if named else lines)
    return text if len(text) <= most else "..." + text[-most:]


def find_first_error(message: str, most: int = 300) -> str:
    """A compiler's first error; the others are mostly its consequences."""
    lines = message.strip().splitlines()
    start = next((number for number, line in enumerate(lines) if "error" in line), 0)
    return "\n".join(lines[start:])[:most]


def is_same_output(expected: str, output: bytes) -> bool:
    """True if all lines are equal, except for white space at the end of lines and of the text."""
    return _split_lines(encode_text(expected)) == _split_lines(output)


def _split_lines(text: bytes) -> list[bytes]:
    return [line.rstrip() for line in text.rstrip().split(b"\n")]


def run_checker(test: StdinTest, execution: Execution, limits: Limits, runner: Runner) -> Outcome:
    """The outcome by a test's checker.

    A checker that fails on the program's output is tried on the expected output: if it works there, the output was at
    fault, otherwise the checker.
    """
    assert test.checker is not None
    if not isinstance(runner, Sandbox):
        return Outcome("unknown", "checkers run only in the local sandbox")
    files = [encode_text(test.stdin), encode_text(test.expected)]
    given = runner.check(test.checker, [*files, execution.stdout], limits)
    score = read_score(given)
    if score is None and given.ended not in ("error", "starved"):
        if read_score(runner.check(test.checker, [*files, encode_text(test.expected)], limits)) == 1:
            return Outcome("failed", "the checker cannot read the output", execution.seconds, 0.0)
        fault = find_fault(given, limits)
        cause = fault.reason if fault else f"it prints no score from 0 to 1 but {given.stdout[:100]!r}"
        return Outcome("error", f"the checker fails even on the expected output: {cause}")
    if score is None:
        return find_fault(given, limits) or Outcome("error", "the checker gave no score")
    status = "passed" if score == 1 else "failed"
    return Outcome(status, "" if score == 1 else f"the checker gives {score:g}", execution.seconds, score)


def read_score(execution: Execution) -> float | None:
    """The last word that a checker printed, as a score from 0 to 1; None if it failed or printed no score."""
    words = execution.stdout.split()
    if execution.ended != "exit" or execution.exit_code or not words:
        return None
    try:
        score = float(words[-1])
    except ValueError:
        return {b"True": 1.0, b"False": 0.0}.get(words[-1])
    return score if 0 <= score <= 1 else None


def judge_calls(
    runner: Runner, program: Program, tests: dict[int, CallTest], limits: Limits, stop_early: bool
) -> Outcomes:
    if program.language not in drivers.CALLS:
        return dict.fromkeys(tests, Outcome("unknown", f"call tests of {program.language} programs are not supported"))
    data: dict[int, Any] = {}
    outcomes: Outcomes = {}
    for index, test in tests.items():
        try:
            data[index] = {
                "function": test.function,
                "arguments": plain.encode(tuple(test.arguments)),
                "keywords": plain.encode(test.keywords),
            }
        except plain.NotPlain as error:
            outcomes[index] = Outcome("unknown", f"the test's arguments are not plain data: {error}")

    def run_batch(indices: list[int]) -> Outcomes:
        calls = [data[index] for index in indices]
        execution, lines = run_calls(runner, program, calls, limits)
        return {
            index: judge_answer(tests[index], line, execution, limits)
            for index, line in zip(indices, [*lines, *[None] * len(indices)], strict=False)
        }

    return outcomes | judge_in_batches(data, run_batch, stop_early)


def run_calls(
    runner: Runner, program: Program, calls: list[dict[str, Any]], limits: Limits
) -> tuple[Execution, list[bytes]]:
    """Make the calls in one process; the execution, and a line of JSON for each call that it answered."""
    if isinstance(runner, Sandbox) and program.language == "python":
        execution = runner.call(program, json.dumps(calls).encode(), limits)
        return execution, execution.stdout.split(b"\n")[:-1]
    marker = secrets.token_hex(16)
    stdin = json.dumps({"marker": marker, "calls": calls}).encode()
    (execution,) = runner.run(drivers.CALLS[program.language](program), [stdin], limits)
    lines = [line.partition(marker.encode()) for line in execution.stdout.split(b"\n")]
    return execution, [answer for _, found, answer in lines if found]


def judge_answer(test: CallTest, line: bytes | None, execution: Execution, limits: Limits) -> Outcome:
    """A right answer is evidence, however the process ended later."""
    if execution.ended in ("error", "starved") and line is None:
        return find_fault(execution, limits) or Outcome("error", execution.cause)
    if line is None:
        fault = find_fault(execution, limits)
        return fault or Outcome("failed", "the program ended before it returned", execution.seconds)
    try:
        answer = json.loads(line)
        if "value" in answer:
            right = plain.matches(test.expected, answer["value"], test.exact)
            reason = "" if right else f"{test.function} returned {shorten_message(json.dumps(answer['value']), 200)}"
            return Outcome("passed" if right else "failed", reason, execution.seconds)
        return Outcome("failed", f"{answer['raised']}: {answer['text']}"[:300], execution.seconds)
    except (ValueError, TypeError, KeyError, RecursionError):
        return Outcome("failed", "a malformed answer", execution.seconds)


def judge_asserts(
    runner: Runner, program: Program, tests: dict[int, AssertTest], limits: Limits, stop_early: bool
) -> Outcomes:
    if not (isinstance(runner, Sandbox) and program.language == "python"):
        return judge_whole_programs(runner, program, tests, limits, stop_early)

    def run_batch(indices: list[int]) -> Outcomes:
        sources = [f"{tests[index].helpers}\n{tests[index].source}".lstrip("\n") for index in indices]
        program_end, tester_end = runner.run_asserts(program, sources, limits)
        lines = [*tester_end.stdout.split(b"\n")[:-1], *[None] * len(indices)]
        return {
            index: judge_report(line, program_end, tester_end, limits)
            for index, line in zip(indices, lines, strict=False)
        }

    return judge_in_batches(tests, run_batch, stop_early)


def judge_report(line: bytes | None, program: Execution, tester: Execution, limits: Limits) -> Outcome:
    """The outcome in the tester's report, which the program's process cannot reach."""
    seconds = program.seconds + tester.seconds
    status, reason = json.loads(line) if line else ("ended", "")
    if status in ("passed", "failed", "unknown"):
        return Outcome(status, reason, seconds)
    for execution in (tester, program):
        fault = find_fault(execution, limits)
        if fault:
            return fault
    return Outcome("failed", "the program ended before the test did", seconds)


def judge_whole_programs(
    runner: Runner, program: Program, tests: dict[int, AssertTest], limits: Limits, stop_early: bool
) -> Outcomes:
    """Run program and test code as one program, which passes if it ends well and prints a secret after the tests.

    This is weaker than the other ways: the expected values and the secret are in the program's process. It is used
    where the two cannot be separated: C++ and JavaScript, and runners that only run whole programs.
    """
    outcomes: Outcomes = {}
    for index, test in tests.items():
        secret = secrets.token_hex(16)
        whole = drivers.WHOLE[program.language](program, test, secret)
        stdin = b"" if program.language == "python" else secret.encode()
        (execution,) = runner.run(whole, [stdin], limits)
        fault = find_fault(execution, limits)
        if fault:
            outcomes[index] = fault
        elif secret.encode() in execution.stdout:
            outcomes[index] = Outcome("passed", "", execution.seconds)
        else:
            outcomes[index] = Outcome("failed", "the program ended before the test did", execution.seconds)
        if stop_early and outcomes[index].status == "failed":
            break
    return outcomes


JUDGES: dict[type, Callable[..., Outcomes]] = {
    StdinTest: judge_stdin,
    CallTest: judge_calls,
    AssertTest: judge_asserts,
}
