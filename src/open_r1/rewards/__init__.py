"""Rewards: pure scorers over strings, and the adapter that gives them TRL's batch signature.

A scorer is `(completion, <dataset columns>, <parameters>) -> Verdict | float | None`. Arguments without a default are
dataset columns, or one of `CONTEXT`; arguments with a default are parameters, which a recipe sets beside its name. A
scorer whose first argument is named `completions` is called once for a batch, with a list for each argument. A class
is constructed once with its parameters and then called.

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
