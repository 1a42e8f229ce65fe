"""Does the completion's program pass its tests?"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from ...errors import RecipeError
from ...sandbox import judging, pool
from ...sandbox.cases import CallTest, Language, Level, Limits, Outcome, Program, Test
from ...sandbox.judging import NOT_RUN
from ..verdict import Verdict
from .assert_tests import Malformed
from .call_tests import convert_to_calls, split_assertions
from .extraction import assemble_program, extract_program, find_prompt_code
from .suites import Suite, find_language, read_suite

Judge = Callable[..., list[Outcome]]  # (program, tests, stop_early=...)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters that all code scorers share. `tests` may override the language, the entry point and the checker.

    Args:
        language: of the program: python, cpp or javascript.
        entry_point: the function that tests of the form `check(candidate)` call.
        prefix: code that goes before the program where the program lacks it, such as a HumanEval prompt.
        prompt: the prefix, if that is empty and the prompt is code that ends in an unfinished function.
        setup: code that runs before each assert test.
        checker: a program that judges outputs where several are right (see `sandbox.cases.StdinTest`), or `numbers`
            for answers in real numbers. Without one, lines must be equal, except for white space at the end of lines
            and of the output, as on most judges: `2.0` is not `2`.
        seconds: CPU time of one test; None for the default, 4 s.
        memory_mb: memory of one test; None for the default, 512 MB.
        isolation: the weakest level of the local sandbox that is allowed.
        provider: `local`, `piston`, or a provider of another package (see `sandbox.runner.Runner`).
        url: address of the provider's service.
    """

    language: str = "python"
    entry_point: str = ""
    prefix: str = ""
    prompt: str = ""
    setup: str = ""
    checker: str = ""
    seconds: float | None = None
    memory_mb: int | None = None
    isolation: Level = "namespaces"
    provider: str = "local"
    url: str = ""

    def make_judge(self) -> Judge:
        """The function that runs a program and its tests, in the local sandbox or by a service.

        Raises:
            RecipeError: a limit, the level of isolation or the provider is impossible.
        """
        limits, runner = self._make_limits(), None
        if self.isolation not in get_args(Level):
            known = ", ".join(get_args(Level))
            raise RecipeError(f"isolation: there is no level {self.isolation!r}; known: {known}")
        if self.provider != "local":
            from ...sandbox import services

            runner = services.get_runner(self.provider, self.url)
        return partial(judging.judge_program, limits=limits, weakest=self.isolation, runner=runner)

    def _make_limits(self) -> Limits:
        defaults = Limits()
        seconds, memory_mb = self.seconds or defaults.seconds, self.memory_mb or defaults.memory_mb
        for name, value in (("seconds", seconds), ("memory_mb", memory_mb)):
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise RecipeError(f"{name}: a number above 0, got {value!r}")
        # A program that waits for the end of its input uses no CPU time, and on a loaded machine every program waits.
        wall_seconds = max(defaults.wall_seconds, 2.5 * seconds)
        return Limits(seconds=seconds, wall_seconds=wall_seconds, memory_mb=int(memory_mb))

    def read_suite(self, tests: Any) -> Suite:
        """The tests in the form in which they run best.

        Raises:
            Malformed: see `suites.read_suite`.
        """
        suite = read_suite(
            tests, language=self.language, entry_point=self.entry_point, setup=self.setup, checker=self.checker,
            prefix=self.prefix or find_prompt_code(self.prompt),
        )  # fmt: skip
        calls = convert_to_calls(suite)
        only_calls = all(isinstance(test, CallTest) for test in calls.tests)
        return calls if self.provider != "local" or only_calls else suite


# A program in each language that prints its input.
_ECHO: dict[Language, str] = {
    "python": "print(input())",
    "cpp": "#include <iostream>\nint main() { std::string word; std::cin >> word; std::cout << word; }",
    "javascript": "console.log(require('fs').readFileSync(0, 'utf8').trim())",
}


def ready(
    *, language: str = "python", isolation: Level = "namespaces", provider: str = "local", url: str = "", **_: Any
) -> str:
    """Run a program as the scorers would, and describe its isolation.

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


# The column `language` names the language of the prompt, so the program's has another name.
_ROW_PARAMETERS = {name: name for name in ("entry_point", "prefix", "prompt", "setup", "checker")}
_ROW_PARAMETERS |= {"seconds": "seconds", "memory_mb": "memory_mb", "programming_language": "language"}
Scorer = TypeVar("Scorer", bound=Callable[..., Any])


def _takes_settings(scorer: Scorer) -> Scorer:
    """Put the fields of `Settings` in place of `**settings` in a scorer's signature, which recipes are checked by."""
    own = list(inspect.signature(scorer).parameters.values())[:-1]
    parameters = [*own, *inspect.signature(Settings).parameters.values()]
    scorer.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    scorer.ready, scorer.row_parameters = ready, _ROW_PARAMETERS  # type: ignore[attr-defined]
    return scorer


@_takes_settings
def code(completion: str, tests: Any, *, max_tests: int | None = None, **settings: Any) -> Verdict:
    """Does the completion's program pass all tests? Stops at the first failure.

    Args:
        completion: the whole completion, reasoning included; `extract_program` finds the program.
        tests: in any form that `read_suite` reads.
        max_tests: the most tests to run, evenly spaced over all of them, because the first ones are easy examples.
        settings: fields of `Settings`.

    Returns:
        correct or wrong; unknown if the tests cannot be read (whatever the program does); error if the sandbox or the
        service failed, unless the program has certainly failed another test.

    Raises:
        RecipeError: a setting is impossible.
    """
    return _judge_all(_make_task(completion, tests, Settings(**settings)), max_tests)


@_takes_settings
def run_program(program: str, tests: Any, *, max_tests: int | None = None, **settings: Any) -> Verdict:
    """`code` for a bare program, without a completion around it."""
    return _judge_all(_make_task(program, tests, Settings(**settings), bare=True), max_tests)


@_takes_settings
def code_fraction(completion: str, tests: Any, *, max_tests: int | None = None, **settings: Any) -> float | Verdict:
    """Share of the tests that the completion's program passes, 0 to 1; arguments as for `code`.

    Each assertion of test code counts as a test if the code is a list of assertions.

    Returns:
        the share, 0 without a program; a verdict (unknown or error) if any test gave no evidence.
    """
    return _find_best(_score_tests, _make_task(completion, tests, Settings(**settings), split=True), max_tests)


@_takes_settings
def code_subtasks(completion: str, tests: Any, **settings: Any) -> float | Verdict:
    """Points of the subtasks that the completion's program solves, as a share of all points; arguments as for `code`.

    As in the IOI, a subtask earns the lowest score of its tests: a checker may give a part, every other test all or
    nothing. Its points are the sum of its tests' points. A test outside all subtasks is a subtask of its own. A
    subtask ends at its first failure.

    Returns:
        the share, 0 without a program; a verdict (unknown or error) if a subtask could not be decided.
    """
    return _find_best(_score_subtasks, _make_task(completion, tests, Settings(**settings)), None)


class _Task(NamedTuple):
    """A program and all that is needed to score it."""

    program: Program
    suite: Suite
    judge: Judge


def _make_task(text: str, tests: Any, settings: Settings, bare: bool = False, split: bool = False) -> _Task | Verdict:
    """The task of a completion (or a `bare` program), or the verdict if there is nothing to run.

    Each assertion is a test of its own if `split`.
    """
    judge = settings.make_judge()
    try:
        suite = settings.read_suite(tests)
    except Malformed as error:
        return Verdict("unknown", f"tests: {error}")
    source = text if bare else extract_program(text, suite.language)
    if source is None:
        return Verdict("wrong", f"no code block ({suite.language})")
    return _Task(assemble_program(source, suite), split_assertions(suite) if split else suite, judge)


def _choose_tests(suite: Suite, max_tests: int | None) -> Iterator[tuple[list[int], list[Test], int]]:
    """Choose at most `max_tests` evenly spaced tests for each reading.

    Returns their indices, the tests and their number. The first and the last test are among them.
    """
    if max_tests is not None and max_tests < 1:
        raise RecipeError(f"max_tests: a number above 0, or none; got {max_tests!r}")
    for tests in filter(None, (suite.tests, suite.otherwise)):
        count = len(tests)
        chosen = list(range(count))
        if max_tests is not None and max_tests < count:
            chosen = [i * (count - 1) // max(max_tests - 1, 1) for i in range(max_tests)]
        yield chosen, [tests[i] for i in chosen], count


def _judge_all(task: _Task | Verdict, max_tests: int | None) -> Verdict:
    """The verdict on a program; if the tests have two readings, it is correct by either."""
    if isinstance(task, Verdict):
        return task
    verdict = Verdict("unknown", "no tests")
    for chosen, tests, count in _choose_tests(task.suite, max_tests):
        verdict = combine_outcomes(task.judge(task.program, tests, stop_early=True), chosen, count)
        if verdict.outcome != "wrong":
            break
    return verdict


def combine_outcomes(outcomes: list[Outcome], numbers: list[int], total: int) -> Verdict:
    """One verdict from the outcomes of tests: wrong if any failed, else error or unknown if any was, else correct.

    Args:
        outcomes: one for each test that was chosen.
        numbers: index of each of them among all tests.
        total: number of all tests.
    """
    verdicts: tuple[tuple[str, Literal["wrong", "error", "unknown"]], ...]
    verdicts = (("failed", "wrong"), ("error", "error"), ("unknown", "unknown"))
    for status, verdict in verdicts:
        for number, outcome in zip(numbers, outcomes, strict=True):
            if outcome.status == status:
                return Verdict(verdict, f"test {number + 1} of {total}: {outcome.reason}")
    return Verdict("correct")


def _find_best(
    score: Callable[[Program, list[Test], Judge], float | Verdict], task: _Task | Verdict, max_tests: int | None
) -> float | Verdict:
    """A partial score; if the tests have two readings, the better one."""
    if isinstance(task, Verdict):
        return task if task.score is None else task.score
    best = 0.0
    for _, tests, _ in _choose_tests(task.suite, max_tests):
        found = score(task.program, tests, task.judge)
        if isinstance(found, Verdict):
            return found
        best = max(best, found)
        if best == 1:
            break
    return best


def _score_tests(program: Program, tests: list[Test], judge: Judge) -> float | Verdict:
    outcomes = judge(program, tests, stop_early=False)
    return _find_doubt(outcomes) or sum(outcome.status == "passed" for outcome in outcomes) / len(tests)


def _score_subtasks(program: Program, tests: list[Test], judge: Judge) -> float | Verdict:
    subtasks: dict[object, list[Test]] = {}
    for i, test in enumerate(tests):
        subtasks.setdefault(i if test.subtask is None else test.subtask, []).append(test)
    won = 0.0
    for name, of_subtask in subtasks.items():
        share = _score_subtask(program, of_subtask, judge)
        if isinstance(share, Verdict):
            return Verdict(share.outcome, f"subtask {name}: {share.reason}")
        won += share * math.fsum(test.points for test in of_subtask)
    points = math.fsum(test.points for test in tests)
    return min(1.0, won / points) if points else Verdict("unknown", "tests: there are no points to win")


def _score_subtask(program: Program, tests: list[Test], judge: Judge) -> float | Verdict:
    """The lowest score on any of these tests.

    A partial score does not stop the tests, because a later score may be lower.
    """
    lowest = 1.0
    while tests and lowest:
        outcomes = judge(program, tests, stop_early=True)
        done = [outcome for outcome in outcomes if outcome != NOT_RUN]
        lowest = min([lowest, *(_read_score(outcome) for outcome in done if outcome.status in ("passed", "failed"))])
        doubt = _find_doubt(done or outcomes)
        if lowest and doubt:
            return doubt
        tests = [test for test, outcome in zip(tests, outcomes, strict=True) if outcome == NOT_RUN]
    return lowest


def _read_score(outcome: Outcome) -> float:
    return float(outcome.status == "passed") if outcome.score is None else min(1.0, max(0.0, outcome.score))


def _find_doubt(outcomes: list[Outcome]) -> Verdict | None:
    """The verdict error or unknown if any test ended so, whatever failed beside it."""
    numbers = [i for i, outcome in enumerate(outcomes) if outcome.status != "failed"]
    verdict = combine_outcomes([outcomes[i] for i in numbers], numbers, len(outcomes))
    return None if verdict.outcome == "correct" else verdict
