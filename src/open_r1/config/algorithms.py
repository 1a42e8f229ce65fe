"""Variants of GRPO by one key: `algorithm: dapo` stands for the keys of TRL's that make it.

They are resolved before anything else, so a run's recipe.yaml has TRL's own keys. Keys that are written beside
`algorithm`, or after it on the command line, stand.
"""

from __future__ import annotations

from typing import Any

from ..errors import RecipeError, suggest_nearest

WITHOUT_KL = {"beta": 0.0, "sync_ref_model": False}
# What tells each from the others, and where that is said. TRL computes them; where it has no name for a part, the part
# is left out: DAPO's dynamic sampling (3.2) draws new prompts for groups without a spread, which TRL leaves in the
# batch with no gradient. A selection by pass rate (`curriculum` of a select recipe) is the nearest thing to it.
ALGORITHMS: dict[str, dict[str, Any]] = {
    # DeepSeekMath eq. 3-4 (arXiv 2402.03300), token by token; the KL's weight stays the recipe's.
    "grpo": {"loss_type": "grpo", "scale_rewards": "group"},
    # 2503.20783: neither the length of a completion nor the spread of its group divides.
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none", **WITHOUT_KL},
    # 2503.14476, 3.1, 3.3, 3.4: clip higher, loss over all tokens alike, truncated completions left out; and the soft
    # punishment of overlong ones, eq. 13, which `apply` adds to the rewards.
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
    # 2506.13585: the weight is clipped, and no token loses its gradient; the bound is ScaleRL's (2510.13786).
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0, **WITHOUT_KL},
    # 2402.14740: the siblings' mean is the baseline, and the KL part of the reward. Another trainer of TRL's.
    "rloo": {"task": "rloo"},
}
OVERLONG = {"name": "soft_overlong"}


def apply_algorithm(name: Any, given: dict[str, Any]) -> dict[str, Any]:
    """A recipe's keys with those of an algorithm in place of its own.

    Args:
        name: of the algorithm.
        given: the recipe's keys.

    Raises:
        RecipeError: no algorithm of that name.
    """
    if not isinstance(name, str) or name not in ALGORITHMS:
        raise RecipeError(
            f"algorithm: {name!r} is not one of {', '.join(ALGORITHMS)}{suggest_nearest(str(name), list(ALGORITHMS))}"
        )
    return add_algorithm_rewards(name, given | ALGORITHMS[name])


def add_algorithm_rewards(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """A recipe's keys with the reward that an algorithm brings, unless it is there."""
    rewards = given.get("rewards")
    if name != "dapo" or not isinstance(rewards, list) or "soft_overlong" in map(_named, rewards):
        return given
    return given | {"rewards": [*rewards, dict(OVERLONG)]}


def _named(reward: Any) -> Any:
    return reward.get("name") if isinstance(reward, dict) else reward
