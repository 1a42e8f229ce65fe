"""Scores a batch of completions with all rewards of a recipe."""

from __future__ import annotations

import inspect
import json
import math
import os
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

from ..errors import RecipeError
from ..system.registry import import_place
from .registry import SECOND_OPINIONS, RewardConfig, find_reward, read_signature
from .verdict import Verdict


def build_rewards(rewards: list[RewardConfig], **settings: Any) -> list[Reward]:
    """One TRL reward function for each entry, in order.

    Args:
        rewards: entries of the recipe.
        settings: of `ScoredBatch`.
    """
    scored = ScoredBatch(rewards, **settings)
    return [Reward(reward.metric, scored) for reward in rewards]


Completion = str | list[dict[str, Any]]
Result = Verdict | float | None

THREADS = 32  # samples scored at a time: most scorers wait for worker pools, sandboxes or judges over HTTP
MOST_RECORDS = 32 << 20  # bytes of each file of records


class ScoredBatch:
    """Scores a batch with all rewards of a recipe at once, and withholds them together.

    A sample that any verifier calls unknown or error gets None from every reward. TRL then leaves it out of the mean
    and spread of its group and sets its advantage to 0. Its tokens stay in the loss: they have a KL term if `beta` is
    not 0, and the sample counts in the divisor. Lists carry their axes: R rewards, S samples.

    Args:
        rewards: entries of the recipe.
        opens_think: the prompt already ends in `<think>`; scorers then get it back before the completion.
        max_tokens: the recipe's limit for a completion, in tokens.
        max_error_share: the run stops if more than this share of a batch has the verdict error, counted over all
            processes.
        records: folder for `withheld.jsonl` (samples without evidence, which can be judged again) and
            `second_opinions.jsonl` (disagreements); None keeps no records.
        gather: joins lists of all processes (`accelerate.utils.gather_object`), so they stop together; every process
            must then score its part of each batch.
    """

    def __init__(
        self,
        rewards: list[RewardConfig],
        *,
        opens_think: bool = False,
        max_tokens: int = 0,
        max_error_share: float = 1.0,
        records: Path | None = None,
        gather: Callable[[list[Any]], list[Any]] = list,
    ):
        self.rewards = rewards
        self.opens_think = opens_think
        self.max_tokens = max_tokens
        self.max_error_share = max_error_share
        self.records = records
        self.gather = gather
        self.reasons: Counter[str] = Counter()  # why samples had no evidence, since the last `drain_reasons`
        self.signatures = [read_signature(find_reward(reward.name)) for reward in rewards]
        self.seconds: list[float] = []  # wall time of scoring, for each sample of the last batch
        self._calls: list[Callable[..., Any]] | None = None  # the scorers with their parameters
        self._completions: list[Completion] | None = None  # that `_scores` belong to
        self._scores: dict[str, list[float | None]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_completions": None, "_scores": {}, "_calls": None}

    def scores(self, completions: list[Completion], batch: dict[str, Any]) -> dict[str, list[float | None]]:
        """Scores by metric name. TRL calls each reward with the same list, which is scored on the first call.

        Raises:
            RecipeError: more than `max_error_share` of the batch have the verdict error.
        """
        if self._completions is not completions:
            results_RS = self.results(completions, batch)
            verdict_S = self._combine_verdicts(results_RS)
            self._scores = {
                reward.metric: [
                    None if verdict is not None and verdict.score is None else read_score(result)
                    for result, verdict in zip(results_S, verdict_S, strict=True)
                ]
                for reward, results_S in zip(self.rewards, results_RS, strict=True)
            }
            self._completions = completions
            self._report(completions, results_RS, verdict_S, batch)
        return self._scores

    def results(self, completions: list[Completion], batch: dict[str, Any]) -> list[list[Result]]:
        """The result of every reward for every sample; None if it does not apply. Nothing is withheld or logged."""
        texts = [self._extract_text(completion) for completion in completions]
        values = batch | self._build_context(completions, batch)
        self._make_calls()
        results_RS: list[list[Result]] = [[None] * len(texts) for _ in self.rewards]
        self.seconds = [0.0] * len(texts)
        needs_verdict = ["verdict" in signature.context for signature in self.signatures]
        for late in (False, True):
            chosen = [r for r in range(len(self.rewards)) if needs_verdict[r] == late]
            if chosen:
                values["verdict"] = self._combine_verdicts(results_RS)
                self._score_rewards(chosen, texts, values, results_RS)
        return results_RS

    def _extract_text(self, completion: Completion) -> str:
        text = completion if isinstance(completion, str) else completion[-1]["content"] if completion else ""
        return "<think>" + text if self.opens_think else text

    def _build_context(self, completions: list[Completion], batch: dict[str, Any]) -> dict[str, list[Any]]:
        prompts = batch.get("prompt") or [""] * len(completions)
        context: dict[str, list[Any]] = {
            "prompt": [prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in prompts],
            "conversation": prompts,
            "group": _number_groups(prompts),
            "max_tokens": [self.max_tokens] * len(completions),
        }
        if "completion_ids" in batch:
            context["tokens"] = [len(ids) for ids in batch["completion_ids"]]
        return context

    def _score_rewards(
        self, chosen: list[int], texts: list[str], values: dict[str, list[Any]], results_RS: list[list[Result]]
    ) -> None:
        kinds = values.get("kind") or [None] * len(texts)
        applying_R = [[i for i, kind in enumerate(kinds) if reward.applies(kind)] for reward in self.rewards]
        single = [r for r in chosen if not self.signatures[r].batch]
        columns_R = {r: self._select_arguments(r, values) for r in chosen if applying_R[r]}

        def one_sample(i: int) -> None:
            began = time.perf_counter()
            for r in single:
                if self.rewards[r].applies(kinds[i]):
                    arguments = {name: column[i] for name, column in columns_R[r].items()}
                    # A row that leaves a parameter's column empty takes the default.
                    own = self.signatures[r].parameters
                    arguments = {k: v for k, v in arguments.items() if v is not None or k not in own}
                    results_RS[r][i] = self._call_reward(r, texts[i], arguments, 1)[0]
            self.seconds[i] += time.perf_counter() - began

        if single:
            list(_get_threads().map(one_sample, range(len(texts))))
        for r in set(chosen) - set(single):
            rows = applying_R[r]
            if rows:
                arguments = {name: [column[i] for i in rows] for name, column in columns_R[r].items()}
                began = time.perf_counter()
                found = self._call_reward(r, [texts[i] for i in rows], arguments, len(rows))
                share = (time.perf_counter() - began) / len(rows)
                for i, result in zip(rows, found, strict=True):
                    results_RS[r][i] = result
                    self.seconds[i] += share

    def _select_arguments(self, r: int, values: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """The columns that a reward takes.

        Raises:
            RecipeError: the rows lack one.
        """
        wanted = self.signatures[r]
        names = [*wanted.columns, *wanted.context]
        missing = [name for name in names if name not in values]
        if missing:
            raise RecipeError(f"rewards: {self.rewards[r].metric} needs {', '.join(missing)}, and the rows have none")
        given = {name: values[name] for name in names}
        for column, parameter in wanted.by_row.items():
            if column in values and parameter not in self.rewards[r].parameters:
                given[parameter] = values[column]
        return given

    def _call_reward(self, r: int, texts: str | list[str], arguments: dict[str, Any], count: int) -> list[Result]:
        """A reward's results; the verdict error if the scorer raises or returns something else.

        Raises:
            RecipeError: from the scorer, for a mistake in the recipe; a mistake in a row is a verdict unknown.
        """
        name = self.rewards[r].metric
        try:
            found = self._calls[r](texts, **arguments)
        except RecipeError as error:
            own = {k: v for k, v in arguments.items() if k not in self.signatures[r].parameters}
            if own.keys() == arguments.keys():
                raise
            self._call_reward(r, texts, own, count)  # raises if the mistake is not the row's
            return [Verdict("unknown", f"a value of the row: {error}")] * count
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__} in {name} ({Path(where.filename).name}:{where.lineno})"
            return [Verdict("error", f"{reason}: {error}")] * count
        results = found if self.signatures[r].batch else [found]
        if not isinstance(results, list | tuple) or len(results) != count:
            return [Verdict("error", f"{name} returned no list of {count} results: {str(results)[:100]}")] * count
        return [_check_result(result, name) for result in results]

    def _make_calls(self) -> None:
        """Bind the scorers' parameters and construct classes, once, before any thread needs them."""
        if self._calls is None:
            found = [(find_reward(reward.name), reward.parameters) for reward in self.rewards]
            self._calls = [
                scorer(**parameters) if inspect.isclass(scorer) else partial(scorer, **parameters)
                for scorer, parameters in found
            ]

    def _combine_verdicts(self, results_RS: list[list[Result]]) -> list[Verdict | None]:
        """The gravest verdict on each sample; None without a verifier."""
        return [pick_gravest(results_R) for results_R in zip(*results_RS, strict=True)]

    def _report(
        self,
        completions: list[Completion],
        results_RS: list[list[Result]],
        verdict_S: list[Verdict | None],
        batch: dict[str, Any],
    ) -> None:
        withheld = [i for i, verdict in enumerate(verdict_S) if verdict is not None and verdict.score is None]
        # A reason is the cause and, after a colon, the case.
        self.reasons.update(": ".join(str(verdict_S[i]).split(": ", 2)[:2]) for i in withheld)
        for i in withheld:
            self._record("withheld.jsonl", completions[i], i, batch, verdict_S[i])
        if "log_metric" in batch:
            # Even without verifiers: TRL matches the column with the completions by position.
            for outcome in ("unknown", "error"):
                share = sum(v is not None and v.outcome == outcome for v in verdict_S) / len(verdict_S)
                batch["log_metric"](f"verdict/{outcome}", share)
            batch["log_extra"]("verdict", ["" if verdict is None else str(verdict) for verdict in verdict_S])
        for r, reward in enumerate(self.rewards):
            if reward.second_opinion:
                self._compare_second_opinion(r, completions, results_RS[r], batch)
        failed = [verdict.reason for verdict in verdict_S if verdict is not None and verdict.outcome == "error"]
        parts = self.gather([(failed, len(verdict_S))])
        reasons, samples = Counter(reason for part, _ in parts for reason in part), sum(count for _, count in parts)
        if reasons.total() > self.max_error_share * samples:
            reason, times = reasons.most_common(1)[0]
            raise RecipeError(
                f"rewards: the judge itself failed on {reasons.total()} of {samples} completions, more than "
                f"max_error_share: {self.max_error_share:g} allows. {times} times: {reason}. The run stops instead of "
                "training on the rest; remove the cause, then run the same command again to continue from the last "
                "checkpoint"
            )

    def _compare_second_opinion(
        self, r: int, completions: list[Completion], results_S: list[Result], batch: dict[str, Any]
    ) -> None:
        reward = self.rewards[r]
        second = import_place(SECOND_OPINIONS[reward.name], f"rewards.{r}.second_opinion")
        wanted = read_signature(second).columns
        texts = [self._extract_text(completion) for completion in completions]
        # By a hash of the text: a repeated run compares the same samples.
        chosen = [
            i
            for i, result in enumerate(results_S)
            if isinstance(result, Verdict)
            and result.score is not None
            and zlib.crc32(texts[i].encode("utf-8", "surrogatepass")) < reward.second_opinion * 2**32
        ]
        opinions = _get_threads().map(lambda i: second(texts[i], **{name: batch[name][i] for name in wanted}), chosen)
        compared = [(i, opinion) for i, opinion in zip(chosen, opinions, strict=True) if opinion.score is not None]
        differing = [(i, opinion) for i, opinion in compared if opinion.score != read_score(results_S[i])]
        if compared and "log_metric" in batch:
            batch["log_metric"](f"second_opinion/{reward.metric}", len(differing) / len(compared))
        for i, opinion in differing:
            more = {"second_opinion": str(opinion)}
            self._record("second_opinions.jsonl", completions[i], i, batch, results_S[i], more)

    def _record(
        self, name: str, completion: Completion, i: int, batch: dict[str, Any], verdict: Any, more: Any = None
    ) -> None:
        """Append one sample with its columns, in the format that `open-r1 judge` reads."""
        path = self.records and self.records / name
        if path is None or (path.exists() and path.stat().st_size > MOST_RECORDS):
            return
        state = batch.get("trainer_state")
        columns = {name for wanted in self.signatures for name in wanted.columns if name in batch}
        row = {
            "step": None if state is None else state.global_step + 1,
            "completion": self._extract_text(completion),
            **{column: batch[column][i] for column in sorted(columns)},
            "prompt": (batch.get("prompt") or [None] * (i + 1))[i],
            "verdict": verdict.outcome,
            "reason": verdict.reason,
            **(more or {}),
        }
        # One write to a file opened for appending: lines of several processes do not mix.
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, (json.dumps(row, default=str) + "\n").encode())
        finally:
            os.close(file)

    def drain_reasons(self) -> dict[str, int]:
        """The number of samples without evidence for each reason, since the last call."""
        drained, self.reasons = dict(self.reasons), Counter()
        return drained


class Reward:
    """One reward in TRL's signature: `(prompts, completions, **columns) -> list of float or None`."""

    def __init__(self, name: str, scored: ScoredBatch):
        self.__name__ = name
        self.scored = scored

    def __call__(self, prompts: list[Any], completions: list[Completion], **batch: Any) -> list[float | None]:
        return self.scored.scores(completions, batch | {"prompt": prompts})[self.__name__]


def pick_gravest(results: tuple[Result, ...]) -> Verdict | None:
    """The verdict that decides among several on one sample: any error, any unknown, any wrong, else correct."""
    verdicts = [result for result in results if isinstance(result, Verdict)]
    order = ("error", "unknown", "wrong", "correct")
    return min(verdicts, key=lambda verdict: order.index(verdict.outcome), default=None)


def _check_result(result: Any, name: str) -> Result:
    """The result; a verdict error unless it is a verdict, None or a finite number."""
    if result is None or isinstance(result, Verdict):
        return result
    try:
        if math.isfinite(score := float(result)):
            return score
    except (TypeError, ValueError, OverflowError):
        pass
    return Verdict("error", f"{name} returned no number: {str(result)[:100]}")


def read_score(result: Result) -> float | None:
    return result.score if isinstance(result, Verdict) else result


def _number_groups(prompts: list[Any]) -> list[int]:
    """Number of each sample's group: in TRL the completions of one prompt are adjacent."""
    numbers: list[int] = []
    for i, prompt in enumerate(prompts):
        numbers.append(0 if i == 0 else numbers[-1] + (prompt != prompts[i - 1]))
    return numbers


@cache
def _get_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="reward")


os.register_at_fork(after_in_child=_get_threads.cache_clear)  # a forked child has none of the threads
