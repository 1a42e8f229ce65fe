"""The table of rewards by name, and the columns, context and parameters that each of them reads."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ..errors import RecipeError, suggest_nearest
from ..system import registry
from ..system.registry import import_place
from ..system.source_digest import digest_modules, find_libraries


@dataclass
class Findings:
    """Results of a check before training.

    Args:
        fatal: findings that make training pointless.
        warnings: findings that may be mistakes.
        said: the sandboxes and endpoints that the rewards use.
        table: lines for the terminal.
    """

    fatal: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    table: list[str] = field(default_factory=list)


def check_ready(entries: list[RewardConfig], findings: Findings) -> None:
    """Try the sandboxes and endpoints of the rewards whose scorers have a function `ready`."""
    for reward in entries:
        ready = getattr(find_reward(reward.name), "ready", None)
        if ready is None:
            continue
        try:
            findings.said.append(f"{reward.metric}: {ready(**reward.parameters)}")
        except RecipeError as error:
            findings.fatal.append(f"{reward.metric}: {error}")


# name -> place of its scorer. The name in the recipe, the function's name and the metric's name are the same.
REWARDS: dict[str, str] = {
    "accuracy": "open_r1.rewards.math.scorers:accuracy",
    "code": "open_r1.rewards.code.scorers:code",
    "code_fraction": "open_r1.rewards.code.scorers:code_fraction",
    "code_subtasks": "open_r1.rewards.code.scorers:code_subtasks",
    "think_format": "open_r1.rewards.format:think_format",
    "think_answer_format": "open_r1.rewards.format:think_answer_format",
    "tag_count": "open_r1.rewards.format:tag_count",
    "language_consistency": "open_r1.rewards.language:language_consistency",
    "soft_overlong": "open_r1.rewards.length:soft_overlong",
    "cosine_length": "open_r1.rewards.length:cosine_length",
    "kimi_length": "open_r1.rewards.length:kimi_length",
    "repetition": "open_r1.rewards.repetition:repetition",
    "reasoning_steps": "open_r1.rewards.repetition:reasoning_steps",
    "llm_judge": "open_r1.rewards.llm_judge:llm_judge",
    "llm_pairwise": "open_r1.rewards.llm_judge:llm_pairwise",
    "llm_quality": "open_r1.rewards.llm_judge:llm_quality",
    # By name only: it needs torch, which nothing here imports.
    "reward_model": "open_r1.engines.reward_model:RewardModel",
}
ENTRY_POINTS = "open_r1.rewards"  # the group under which other packages offer scorers by name
# The same scorers for a bare answer, which is not extracted from a completion (`open-r1 judge`).
BARE: dict[str, str] = {
    "accuracy": "open_r1.rewards.math.scorers:equal",
    "code": "open_r1.rewards.code.scorers:run_program",
}
# For `second_opinion`: an independent scorer of the same question, called with the same columns.
SECOND_OPINIONS: dict[str, str] = {"accuracy": "open_r1.rewards.math.scorers:math_verify_alone"}
# A completion's vote for majority voting: `(completion, <columns>) -> (answer, key)`, None if it has no answer; equal
# answers have equal keys. A user's scorer may have such a function as its attribute `ballot`.
BALLOTS: dict[str, str] = {"accuracy": "open_r1.rewards.math.scorers:ballot"}
# Arguments of a scorer that are not dataset columns: the question's text, the prompt as the dataset has it (a text or
# messages), the completion's length in tokens and its limit, the verdict of the recipe's verifiers on the sample, and
# the number of its prompt's group in the batch.
CONTEXT = ("prompt", "conversation", "tokens", "max_tokens", "verdict", "group")
# Column -> parameter that it sets for its row, unless the recipe sets it. A scorer may have another such table as its
# attribute `row_parameters`.
ROW_PARAMETERS = {"language": "language"}


@dataclass
class RewardConfig:
    """One entry of a recipe's `rewards`; the reward's own parameters stand beside these keys.

    Args:
        name: a name in `REWARDS`, an entry point of another package, or `package.module:function`.
        weight: its weight in the sum.
        label: name of its metric, where one reward is listed twice.
        kinds: the `kind` of the rows it applies to; None for all. Other rows get no score from it.
        second_opinion: share of samples that an independent scorer judges too, only to count disagreements.
        parameters: keyword arguments of the scorer.
    """

    name: str
    weight: float = 1.0
    label: str | None = None
    kinds: list[str] | None = None
    second_opinion: float = 0.0
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        return self.label or self.name.rpartition(":")[2]

    def applies(self, kind: str | None) -> bool:
        return self.kinds is None or kind in self.kinds


ENTRY_KEYS = ("name", "weight", "label", "kinds", "second_opinion")


@dataclass(frozen=True)
class Signature:
    """The arguments of a scorer.

    Args:
        columns: dataset columns that it needs.
        context: values of `CONTEXT` that it needs.
        parameters: parameters that a recipe may set.
        by_row: optional column -> parameter that it sets for its row.
        batch: it is called once with lists of all samples, not once for each sample.
    """

    columns: tuple[str, ...]
    context: tuple[str, ...]
    parameters: tuple[str, ...]
    by_row: dict[str, str]
    batch: bool


def find_reward(name: str, key: str = "rewards") -> Callable[..., Any]:
    """The scorer of a name in `REWARDS`, of an entry point, or of `package.module:function`.

    Args:
        name: of the reward.
        key: the recipe's key that names it, for the message.

    Raises:
        RecipeError: unknown name; suggests the nearest.
    """
    return import_place(locate(name, key), f"{key}: {name}")


def locate(name: str, key: str = "rewards") -> str:
    """The place of a scorer, as `package.module:function`; see `find_reward`."""
    return registry.locate(name, REWARDS, key, "reward", group=ENTRY_POINTS)


def read_signature(scorer: Callable[..., Any]) -> Signature:
    """Columns, context and parameters of a scorer, read from its signature."""
    call = _named(scorer.__call__)[1:] if inspect.isclass(scorer) else _named(scorer)
    made = _named(scorer.__init__)[1:] if inspect.isclass(scorer) else call[1:]
    wanted = [a.name for a in call[1:] if a.default is inspect.Parameter.empty]
    parameters = tuple(a.name for a in made if a.default is not inspect.Parameter.empty or inspect.isclass(scorer))
    by_row = getattr(scorer, "row_parameters", ROW_PARAMETERS)
    return Signature(
        columns=tuple(name for name in wanted if name not in CONTEXT),
        context=tuple(name for name in wanted if name in CONTEXT),
        parameters=parameters,
        by_row={column: parameter for column, parameter in by_row.items() if parameter in parameters},
        batch=call[0].name == "completions",
    )


def _named(function: Callable[..., Any]) -> list[inspect.Parameter]:
    several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [a for a in inspect.signature(function).parameters.values() if a.kind not in several]


def check_rewards(rewards: list[RewardConfig]) -> None:
    """Refuse wrong entries of `rewards`, and two of them that share a metric.

    Raises:
        RecipeError: names the entry and what to do.
    """
    metrics = [reward.metric for reward in rewards]
    for i, reward in enumerate(rewards):
        if metrics.index(metrics[i]) != i:
            raise RecipeError(
                f"rewards.{i}: {metrics[i]!r} is listed twice, and both write the same metric; give one a `label`"
            )
        check_reward(reward, f"rewards.{i}")


def check_reward(reward: RewardConfig, at: str) -> None:
    """Refuse an unknown name, unknown or missing parameters, and values that the scorer itself refuses.

    Args:
        reward: an entry of the recipe.
        at: its place in the recipe.

    Raises:
        RecipeError: names the entry and what to do.
    """
    scorer = find_reward(reward.name, at)
    known = read_signature(scorer).parameters
    for key in reward.parameters:
        if key not in known:
            nearest = suggest_nearest(key, [*known, *ENTRY_KEYS])
            raise RecipeError(f"{at}: {reward.name} has no parameter {key!r}{nearest}")
    for key in missing_parameters(scorer, reward.parameters):
        raise RecipeError(f"{at}: {reward.name} needs `{key}`")
    if hasattr(scorer, "check"):
        try:
            scorer.check(**reward.parameters)
        except RecipeError as error:
            raise RecipeError(f"{at}: {reward.name}: {error}") from error
    if not 0 <= reward.second_opinion <= 1:
        raise RecipeError(f"{at}.second_opinion: a share from 0 to 1, got {reward.second_opinion}")
    if reward.second_opinion and reward.name not in SECOND_OPINIONS:
        raise RecipeError(
            f"{at}.second_opinion: {reward.name} has no second judge; these have: {', '.join(SECOND_OPINIONS)}"
        )


def missing_parameters(scorer: Callable[..., Any], given: dict[str, Any]) -> list[str]:
    """Parameters of a scorer class that have no default and are not given."""
    if not inspect.isclass(scorer):
        return []
    return [
        a.name for a in _named(scorer.__init__)[1:] if a.default is inspect.Parameter.empty and a.name not in given
    ]


def find_ballot(name: str) -> Callable[..., tuple[str, Hashable] | None] | None:
    """The function that gives a completion's vote for majority voting; None if the reward's answers have none."""
    if name in BALLOTS:
        return import_place(BALLOTS[name], f"rewards: {name}")
    return getattr(find_reward(name), "ballot", None)


@cache
def version(name: str) -> str:
    """The version of a scorer: a digest of all source that its verdicts depend on, and the libraries it imports.

    Only verdicts of the same version can be compared. The digest covers the modules that the scorer's module imports,
    directly or not, and `scoring`, which calls it. A changed comment or another scorer does not change it.

    It reads `2f9c1e5ab340, math-verify 0.9.0, sympy 1.14.0`.
    """
    found = _digest_scorer(name, f"{__package__}.scoring")
    digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()[:12]
    return ", ".join([digest, *map(" ".join, list_libraries(name).items())])


def list_libraries(name: str) -> dict[str, str]:
    """Versions of the installed packages that a scorer imports, in its own module or in those that it imports."""
    own = locate(name).partition(":")[0]
    ours = f"{__name__.partition('.')[0]}."
    reached = [m for m in _digest_scorer(name) if m.startswith(f"{__package__}.") or not m.startswith(ours)]
    return find_libraries([own, *reached])


def _digest_scorer(name: str, *others: str) -> dict[str, str]:
    # Without this module, which names all scorers.
    return digest_modules([locate(name).partition(":")[0], *others], leave_out=re.escape(__name__))


def list_needed_columns(rewards: list[RewardConfig], kind: str | None = None) -> list[str]:
    """Dataset columns that the rewards need in a row of this kind."""
    applying = [reward for reward in rewards if reward.applies(kind)]
    return sorted({column for reward in applying for column in read_signature(find_reward(reward.name)).columns})


def list_used_columns(rewards: list[RewardConfig]) -> set[str]:
    """Dataset columns that these rewards read, needed or optional."""
    signatures = [read_signature(find_reward(reward.name)) for reward in rewards]
    return {column for wanted in signatures for column in (*wanted.columns, *wanted.by_row)}


def needs_context(rewards: list[RewardConfig], context: str) -> bool:
    """True if a reward asks for this value of `CONTEXT`."""
    return any(context in read_signature(find_reward(reward.name)).context for reward in rewards)
