"""Does the completion's program pass its tests?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

from ...errors import RecipeError
from ...sandbox import judging, pool
from ...sandbox.cases import CallTest, Language, Level, Limits, Outcome, Program, Test
from ...sandbox.judging import NOT_RUN
from ..verdict import Verdict
from .extraction import assemble_program, extract_program, find_prompt_code
from .suites import Malformed, Suite, convert_to_calls, find_language, read_suite, split_assertions


def code(
    completion: str,
    tests: Any,
    *,
    language: str = "python",
    entry_point: str = "",
    prefix: str = "",
    prompt: str = "",
    setup: str = "",
    checker: str = "",
    max_tests: int | None = None,
    seconds: float | None = None,
    memory_mb: int | None = None,
    isolation: Level = "namespaces",
    provider: str = "local",
    url: str = "",
) -> Verdict:
    """Does the completion's program pass all tests? Stops at the first that it fails.

    Args:
        completion: the whole completion, reasoning included; see `program_of`.
        tests: in any form that `code_tests` reads; what they say of the four arguments below them goes first.
        language: in which the program is to be written: python, cpp or javascript.
        entry_point: the function that tests of the form `check(candidate)` are about.
        prefix: code that belongs before the program where it lacks it, such as a HumanEval prompt.
        prompt: the prefix, if that is empty and this is code that ends in an unfinished function.
        setup: code that runs before each assert test.
        checker: a program that decides about outputs, where several are right (see `sandbox.cases.StdinTest`), or
            `numbers` for answers in real numbers. Without one, output must equal what is expected line by line, white
            space at the end of lines and of the text aside, as most judges have it: `2.0` is not `2`.
        max_tests: at most so many tests, evenly spaced over all of them: the first ones are the easy examples.
        seconds: CPU time of one test; None for the usual 4 s.
        memory_mb: memory of one test; None for the usual 512 MB.
        isolation: the weakest level of the local sandbox that is allowed.
        provider: `local`, or a service: `piston`, `sandboxfusion`, `e2b`.
        url: of the service.

    Returns:
        correct or wrong; unknown if the tests cannot be read (no matter what the program does); error if the sandbox
        or the service failed, unless the program already failed a test for certain.

    Raises:
        RecipeError: the sandbox or the service cannot be used as asked for.
    """
    judge = _judge(seconds, memory_mb, isolation, provider, url)
    read = _read(
        completion, tests, provider, language, entry_point, prefix or find_prompt_code(prompt), setup, checker
    )
    if isinstance(read, Verdict):
        return read
    return _pass_all(*read, max_tests, judge)


def code_fraction(
    completion: str,
    tests: Any,
    *,
    language: str = "python",
    entry_point: str = "",
    prefix: str = "",
    prompt: str = "",
    setup: str = "",
    checker: str = "",
    max_tests: int | None = None,
    seconds: float | None = None,
    memory_mb: int | None = None,
    isolation: Level = "namespaces",
    provider: str = "local",
    url: str = "",
) -> float | Verdict:
    """Share of the tests that the completion's program passes, 0 to 1; arguments as for `code`.

    Every assertion of test code counts as a test, where the code is a list of them.

    Returns:
        the share, 0 without a program; a verdict (unknown or error) if any test gave no evidence.
    """
    judge = _judge(seconds, memory_mb, isolation, provider, url)
    read = _read(
        completion, tests, provider, language, entry_point, prefix or find_prompt_code(prompt), setup, checker
    )
    if isinstance(read, Verdict):
        return read if read.score is None else read.score
    program, suite = read
    return _best(_fraction, program, split_assertions(suite), max_tests, judge)


def code_subtasks(
    completion: str,
    tests: Any,
    *,
    language: str = "python",
    entry_point: str = "",
    prefix: str = "",
    prompt: str = "",
    setup: str = "",
    checker: str = "",
    seconds: float | None = None,
    memory_mb: int | None = None,
    isolation: Level = "namespaces",
    provider: str = "local",
    url: str = "",
) -> float | Verdict:
    """Points of the subtasks that the completion's program solves, as a share of all points; arguments as for `code`.

    As in the IOI a subtask is worth the least that the program gets on any of its tests: a checker may give a part,
    everything else all or nothing. Its points are the sum of its tests' points; a test outside of any subtask is a
    subtask of its own. A subtask is left at its first failure.

    Returns:
        the share, 0 without a program; a verdict (unknown or error) if a subtask could not be decided.
    """
    judge = _judge(seconds, memory_mb, isolation, provider, url)
    read = _read(
        completion, tests, provider, language, entry_point, prefix or find_prompt_code(prompt), setup, checker
    )
    if isinstance(read, Verdict):
        return read if read.score is None else read.score
    return _best(_subtasks, *read, None, judge)


def run_program(
    program: str,
    tests: Any,
    *,
    language: str = "python",
    entry_point: str = "",
    prefix: str = "",
    prompt: str = "",
    setup: str = "",
    checker: str = "",
    max_tests: int | None = None,
    seconds: float | None = None,
    memory_mb: int | None = None,
    isolation: Level = "namespaces",
    provider: str = "local",
    url: str = "",
) -> Verdict:
    """The same as `code` for a bare program instead of a completion."""
    judge = _judge(seconds, memory_mb, isolation, provider, url)
    read = _suite(program, tests, provider, language, entry_point, prefix or find_prompt_code(prompt), setup, checker)
    if isinstance(read, Verdict):
        return read
    return _pass_all(*read, max_tests, judge)


# A program in each language that prints what it reads.
_ECHO: dict[Language, str] = {
    "python": "print(input())",
    "cpp": "#include <iostream>\nint main() { std::string word; std::cin >> word; std::cout << word; }",
    "javascript": "console.log(require('fs').readFileSync(0, 'utf8').trim())",
}


def ready(
    *, language: str = "python", isolation: Level = "namespaces", provider: str = "local", url: str = "", **_: Any
) -> str:
    """Run a program as the scorers would, and say what isolates it.

    Raises:
        RecipeError: it cannot be run; says what is missing.
    """
    known = find_language(language)
    if known is None:
        raise RecipeError(f"language: programs in {language!r} cannot be run; languages: {', '.join(_ECHO)}")
    test = [{"input": "ready", "output": "ready"}]
    verdict = run_program(_ECHO[known], test, language=known, isolation=isolation, provider=provider, url=url)
    if verdict.outcome != "correct":
        raise RecipeError(f"a program that prints what it reads could not be judged: {verdict}")
    return pool.describe_isolation() if provider == "local" else f"programs run by {provider} at {url}"


# A column `language` says what the prompt is written in.
_BY_ROW = {name: name for name in ("entry_point", "prefix", "prompt", "setup", "checker", "seconds", "memory_mb")}
_BY_ROW["programming_language"] = "language"
for _scorer in (code, code_fraction, code_subtasks, run_program):
    _scorer.ready, _scorer.row_parameters = ready, _BY_ROW  # type: ignore[attr-defined]


def _read(completion: str, tests: Any, provider: str, *told: str | None) -> tuple[Program, Suite] | Verdict:
    """The completion's program and its tests, or why there is nothing to run."""
    read = _suite("", tests, provider, *told)
    if isinstance(read, Verdict):
        return read
    _, suite = read
    source = extract_program(completion, suite.language)
    if source is None:
        return Verdict("wrong", f"no code block ({suite.language})")
    return assemble_program(source, suite), suite


def _suite(source: str, tests: Any, provider: str, *told: str | None) -> tuple[Program, Suite] | Verdict:
    language, entry_point, prefix, setup, checker = told
    try:
        suite = read_suite(
            tests, language=language, entry_point=entry_point, prefix=prefix, setup=setup, checker=checker
        )
    except Malformed as error:
        return Verdict("unknown", f"tests: {error}")
    calls = convert_to_calls(suite)
    if provider != "local" or (suite.tests and all(isinstance(test, CallTest) for test in calls.tests)):
        suite = calls
    return assemble_program(source, suite), suite


_Judge = Callable[[Program, list[Test], bool], list[Outcome]]


def _judge(seconds: float | None, memory_mb: int | None, isolation: Level, provider: str, url: str) -> _Judge:
    """`judge(program, tests, stop_early)`, in the local sandbox or by a service, with its limits.

    Raises:
        RecipeError: one of them is impossible.
    """
    limits = _limits(seconds, memory_mb)
    if isolation not in get_args(Level):
        raise RecipeError(f"isolation: there is no level {isolation!r}; known: {', '.join(get_args(Level))}")
    if provider == "local":
        runner = None
    else:
        from ...sandbox import services

        runner = services.get_runner(provider, url)
    return lambda program, tests, stop_early: judging.judge_program(
        program, tests, limits, weakest=isolation, stop_early=stop_early, runner=runner
    )


def _limits(seconds: float | None, memory_mb: int | None) -> Limits:
    """Limits of one test; a row that leaves its column empty has the usual ones."""
    usual = Limits()
    seconds, memory_mb = seconds or usual.seconds, memory_mb or usual.memory_mb
    for name, value in (("seconds", seconds), ("memory_mb", memory_mb)):
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise RecipeError(f"{name}: a number above 0, got {value!r}")
    # A program that waits for its input to end uses no CPU time; a loaded machine makes every program wait.
    return Limits(seconds=seconds, wall_seconds=max(usual.wall_seconds, 2.5 * seconds), memory_mb=int(memory_mb))


def _pass_all(program: Program, suite: Suite, max_tests: int | None, judge: _Judge) -> Verdict:
    """The verdict on a program; if the tests have two readings, either will do."""
    verdict = Verdict("unknown", "no tests")
    for tests in filter(None, (suite.tests, suite.otherwise)):
        chosen = _spread(len(tests), max_tests)
        verdict = folded(judge(program, [tests[i] for i in chosen], True), chosen, len(tests))
        if verdict.outcome != "wrong":
            break
    return verdict


def folded(outcomes: list[Outcome], numbers: list[int], total: int) -> Verdict:
    """One verdict out of the outcomes of tests: one certain failure is enough, one doubt is too much.

    Args:
        outcomes: one for each test that was chosen.
        numbers: index of each of them among all.
        total: number of tests that the row has.
    """
    verdicts: tuple[tuple[str, Literal["wrong", "error", "unknown"]], ...]
    verdicts = (("failed", "wrong"), ("error", "error"), ("unknown", "unknown"))
    for status, verdict in verdicts:
        for number, outcome in zip(numbers, outcomes, strict=True):
            if outcome.status == status:
                return Verdict(verdict, f"test {number + 1} of {total}: {outcome.reason}")
    return Verdict("correct")


def _spread(count: int, most: int | None) -> list[int]:
    """Indices of at most so many of `count` tests, evenly spaced, with the first and the last."""
    if most is not None and most < 1:
        raise RecipeError(f"max_tests: a number above 0, or none; got {most!r}")
    if most is None or most >= count:
        return list(range(count))
    return [0] if most == 1 else [i * (count - 1) // (most - 1) for i in range(most)]


def _best(
    score: Callable[..., float | Verdict],
    program: Program,
    suite: Suite,
    max_tests: int | None,
    judge: _Judge,
) -> float | Verdict:
    """A partial score; if the tests have two readings, the better of both."""
    best: float | Verdict = 0.0
    for tests in filter(None, (suite.tests, suite.otherwise)):
        chosen = _spread(len(tests), max_tests)
        found = score(program, [tests[i] for i in chosen], judge)
        if isinstance(found, Verdict):
            return found
        best = max(best, found)
        if best == 1:
            break
    return best


def _fraction(program: Program, tests: list[Test], judge: _Judge) -> float | Verdict:
    outcomes = judge(program, tests, False)
    return _doubt(outcomes) or sum(outcome.status == "passed" for outcome in outcomes) / len(tests)


def _subtasks(program: Program, tests: list[Test], judge: _Judge) -> float | Verdict:
    subtasks: dict[object, list[Test]] = {}
    for i, test in enumerate(tests):
        subtasks.setdefault(i if test.subtask is None else test.subtask, []).append(test)
    won = 0.0
    for name, of_subtask in subtasks.items():
        share = _least(program, of_subtask, judge)
        if isinstance(share, Verdict):
            return Verdict(share.outcome, f"subtask {name}: {share.reason}")
        won += share * math.fsum(test.points for test in of_subtask)
    points = math.fsum(test.points for test in tests)
    return min(1.0, won / points) if points else Verdict("unknown", "tests: there are no points to win")


def _least(program: Program, tests: list[Test], judge: _Judge) -> float | Verdict:
    """The least score on any of these tests. A part score does not end them: the next may be less."""
    least = 1.0
    while tests and least:
        outcomes = judge(program, tests, True)
        done = [outcome for outcome in outcomes if outcome != NOT_RUN]
        least = min([least, *(_score(outcome) for outcome in done if outcome.status in ("passed", "failed"))])
        doubt = _doubt(done or outcomes)
        if least and doubt:
            return doubt
        tests = [test for test, outcome in zip(tests, outcomes, strict=True) if outcome == NOT_RUN]
    return least


def _score(outcome: Outcome) -> float:
    return float(outcome.status == "passed") if outcome.score is None else min(1.0, max(0.0, outcome.score))


def _doubt(outcomes: list[Outcome]) -> Verdict | None:
    """The verdict without evidence that these outcomes force, if any."""
    verdict = folded(
        [outcome for outcome in outcomes if outcome.status != "failed"],
        [i for i, outcome in enumerate(outcomes) if outcome.status != "failed"],
        len(outcomes),
    )
    return None if verdict.outcome == "correct" else verdict
