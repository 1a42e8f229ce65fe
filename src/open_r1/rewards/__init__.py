"""Rewards: pure scorers over strings, and the adapter that gives them TRL's batch signature.

Nothing here imports torch or trl.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..errors import RecipeError
from .format import think_format
from .math import accuracy
from .verdict import Verdict

# name -> scorer `(completion, <dataset columns>, <parameters>) -> Verdict | float`. The name in the recipe, the
# function's name and the metric's name are the same. A recipe names one's own as `package.module:function`.
REWARDS: dict[str, Callable[..., Verdict | float]] = {
    "accuracy": accuracy,
    "think_format": think_format,
}


@dataclass
class RewardConfig:
    """One entry of a recipe's `rewards`: a name in `REWARDS`, its weight, and its own parameters beside them."""

    name: str
    weight: float = 1.0
    parameters: dict[str, Any] = field(default_factory=dict)


Completion = str | list[dict[str, Any]]


def scorer(name: str) -> Callable[..., Verdict | float]:
    """The scorer of a name in `REWARDS`, or of `package.module:function` for one's own.

    Raises:
        RecipeError: there is none; names the nearest.
    """
    if name in REWARDS:
        return REWARDS[name]
    if ":" in name:
        module, _, function = name.partition(":")
        try:
            return getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise RecipeError(f"rewards: {name} cannot be imported ({error})") from error
    close = difflib.get_close_matches(name, REWARDS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(REWARDS)}"
    raise RecipeError(f"rewards: there is no reward named {name!r}; {hint}")


def check(rewards: list[RewardConfig]) -> None:
    """Refuse unknown names, repeated names (they would share a metric) and unknown parameters.

    Raises:
        RecipeError: naming the entry and the nearest valid one.
    """
    names = [metric_name(reward.name) for reward in rewards]
    for i, reward in enumerate(rewards):
        _, known = arguments(scorer(reward.name))
        if names.index(names[i]) != i:
            raise RecipeError(f"rewards.{i}: {names[i]!r} is listed twice")
        for key in reward.parameters:
            if key not in known:
                raise RecipeError(
                    f"rewards.{i}: {reward.name} has no parameter {key!r}; known: {', '.join(known) or 'none'}"
                )


def metric_name(name: str) -> str:
    return name.rpartition(":")[2]


def arguments(scorer: Callable[..., Verdict | float]) -> tuple[list[str], list[str]]:
    """The dataset columns (arguments without a default) and the parameters (with one) of a scorer."""
    several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    arguments = [a for a in list(inspect.signature(scorer).parameters.values())[1:] if a.kind not in several]
    columns = [a.name for a in arguments if a.default is inspect.Parameter.empty]
    return columns, [a.name for a in arguments if a.default is not inspect.Parameter.empty]


def columns(rewards: list[RewardConfig]) -> list[str]:
    """Dataset columns that these rewards need."""
    return sorted({column for reward in rewards for column in arguments(scorer(reward.name))[0]})


def build(rewards: list[RewardConfig], opens_think: bool = False) -> list[Reward]:
    """One TRL reward function for each entry, in order.

    Args:
        rewards: entries of the recipe.
        opens_think: the prompt already ends in `<think>`; scorers then see it put back before the completion.
    """
    scored = ScoredBatch(rewards, opens_think)
    return [Reward(metric_name(reward.name), scored) for reward in rewards]


class ScoredBatch:
    """Scores a batch with all rewards of a recipe at once, and withholds them together.

    A sample that any verifier calls unknown or error gets None from every reward: TRL then leaves it out of its
    group's mean and spread and gives it no advantage.
    """

    def __init__(self, rewards: list[RewardConfig], opens_think: bool):
        self.rewards = rewards
        self.opens_think = opens_think
        self._of: list[Completion] | None = None
        self._scores: dict[str, list[float | None]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_of": None, "_scores": {}}

    def scores(self, completions: list[Completion], batch: dict[str, Any]) -> dict[str, list[float | None]]:
        """Scores by reward name; TRL calls each reward with the same list, which is scored on the first call."""
        if self._of is not completions:
            results_SR = [self._score(completion, i, batch) for i, completion in enumerate(completions)]
            self._scores = {
                metric_name(reward.name): [None if withheld(results) else _value(results[r]) for results in results_SR]
                for r, reward in enumerate(self.rewards)
            }
            self._of = completions
            _log_verdicts(results_SR, batch)
        return self._scores

    def _score(self, completion: Completion, i: int, batch: dict[str, Any]) -> list[Verdict | float]:
        opener = "<think>" if self.opens_think else ""
        text = opener + (completion if isinstance(completion, str) else completion[-1]["content"])
        results = []
        for reward in self.rewards:
            score = scorer(reward.name)
            values = {column: batch[column][i] for column in arguments(score)[0]}
            results.append(score(text, **values, **reward.parameters))
        return results


class Reward:
    """One reward in TRL's signature: `(prompts, completions, **columns) -> list of float or None`."""

    def __init__(self, name: str, scored: ScoredBatch):
        self.__name__ = name
        self.scored = scored

    def __call__(self, prompts: list[Any], completions: list[Completion], **batch: Any) -> list[float | None]:
        return self.scored.scores(completions, batch | {"prompt": prompts})[self.__name__]


def withheld(results: list[Verdict | float]) -> bool:
    """True if a verdict among a sample's results is no evidence."""
    return any(isinstance(result, Verdict) and result.score is None for result in results)


def _value(result: Verdict | float | None) -> float | None:
    """A reward that says None leaves itself out of the sample's sum; a verdict without evidence withholds them all."""
    return result.score if isinstance(result, Verdict) else result if result is None else float(result)


def _log_verdicts(results_SR: list[list[Verdict | float]], batch: dict[str, Any]) -> None:
    """Shares of unknown and error as metrics, and each sample's verdict beside its completion."""
    verdicts_S = [[r for r in results if isinstance(r, Verdict)] for results in results_SR]
    if "log_metric" not in batch or not any(verdicts_S):
        return
    for outcome in ("unknown", "error"):
        share = sum(any(v.outcome == outcome for v in verdicts) for verdicts in verdicts_S) / len(verdicts_S)
        batch["log_metric"](f"verdict/{outcome}", share)
    said = [
        "; ".join(f"{v.outcome}: {v.reason}" if v.reason else v.outcome for v in verdicts) for verdicts in verdicts_S
    ]
    batch["log_extra"]("verdict", said)
