"""Rewards: pure scorers over strings, and the adapter that gives them TRL's batch signature.

A scorer is `(completion, <dataset columns>, <parameters>) -> Verdict | float | None`. Its arguments without a default
are dataset columns, or one of `CONTEXT`; those with a default are parameters that stand beside its name in the recipe.
A first argument named `completions` makes it a batch scorer: called once, with a list for each argument. A class is
made once with its parameters and then called.

Nothing here imports torch or trl.
"""

from .registry import CONTEXT, REWARDS, RewardConfig, Signature, check_rewards, find_reward
from .scoring import build_rewards
from .verdict import CORRECT, WRONG, Verdict

__all__ = [
    "CONTEXT",
    "CORRECT",
    "REWARDS",
    "WRONG",
    "RewardConfig",
    "Signature",
    "Verdict",
    "build_rewards",
    "check_rewards",
    "find_reward",
]
