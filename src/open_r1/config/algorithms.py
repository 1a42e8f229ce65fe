"""Variants of GRPO by one key: `algorithm: dapo` stands for the TRL keys that make it.

They are resolved first, and a run's recipe.yaml has TRL's own keys. A recipe's keys beside `algorithm` override them,
and so do those of the command line.
"""

from __future__ import annotations

from typing import Any

from ..errors import RecipeError, suggest_nearest

WITHOUT_KL = {"beta": 0.0, "sync_ref_model": False}
# The keys in which each differs from the others, with its source. A part that TRL does not implement is left out:
# DAPO's dynamic sampling (3.2) draws new prompts for groups without a spread, which TRL keeps in the batch without a
# gradient. A selection by pass rate (`curriculum` of a select recipe) comes closest to it.
ALGORITHMS: dict[str, dict[str, Any]] = {
    # DeepSeekMath eq. 3-4 (arXiv 2402.03300), token by token; the KL's weight stays the recipe's.
    "grpo": {"loss_type": "grpo", "scale_rewards": "group"},
    # 2503.20783: neither the length of a completion nor the spread of its group divides.
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none", **WITHOUT_KL},
    # 2503.14476, 3.1, 3.3, 3.4: clip higher, loss averaged over all tokens, truncated completions masked; and the soft
    # penalty of overlong ones, eq. 13, which `add_algorithm_rewards` adds to the rewards.
    "dapo": {
        "loss_type": "dapo",
        "epsilon": 0.2,
        "epsilon_high": 0.28,
        "mask_truncated_completions": True,
        **WITHOUT_KL,
    },
    # 2507.18071, 5.1: ratios of whole sequences, and their clip range. Its four minibatches of a rollout are the
    # recipe's `steps_per_generation`.
    "gspo": {
        "loss_type": "grpo",
        "importance_sampling_level": "sequence",
        "epsilon": 3e-4,
        "epsilon_high": 4e-4,
        **WITHOUT_KL,
    },
    # 2506.13585: the weight is clipped, and every token keeps its gradient; the bound is ScaleRL's (2510.13786).
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0, **WITHOUT_KL},
    # 2402.14740: the mean of the other completions is the baseline, and the KL is part of the reward; a task of its
    # own, because TRL has a separate trainer.
    "rloo": {"task": "rloo"},
}
OVERLONG = {"name": "soft_overlong"}


def apply_algorithm(name: Any, given: dict[str, Any]) -> dict[str, Any]:
    """A recipe's keys, overridden by those of an algorithm.

    Args:
        name: name of the algorithm.
        given: the recipe's keys.

    Raises:
        RecipeError: no algorithm has that name.
    """
    if not isinstance(name, str) or name not in ALGORITHMS:
        raise RecipeError(
            f"algorithm: {name!r} is not one of {', '.join(ALGORITHMS)}{suggest_nearest(str(name), list(ALGORITHMS))}"
        )
    return add_algorithm_rewards(name, given | ALGORITHMS[name])


def add_algorithm_rewards(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """A recipe's keys with the reward that belongs to an algorithm, unless the recipe lists it."""
    rewards = given.get("rewards")
    if name != "dapo" or not isinstance(rewards, list) or "soft_overlong" in map(_named, rewards):
        return given
    return given | {"rewards": [*rewards, dict(OVERLONG)]}


def _named(reward: Any) -> Any:
    return reward.get("name") if isinstance(reward, dict) else reward
