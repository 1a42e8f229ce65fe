"""TRL under our default settings computes the formulas of the papers; an upgrade that changes them is caught here.

DeepSeekMath (arXiv 2402.03300) eq. 3-4, by token. R1 (2501.12948) eq. 1-3 has the same advantages, with rho and the KL
of a whole completion and without 1/|o_i|.
J = 1/G sum_i 1/|o_i| sum_t [ min(rho A, clip(rho, 1-eps, 1+eps) A) - beta (pi_ref/pi - log(pi_ref/pi) - 1) ],
A_i = (r_i - mean r) / std r over a group.
"""

from __future__ import annotations

import math

import pytest
import torch
from trl import GRPOTrainer

from open_r1 import models
from open_r1.config.loading import load_recipe
from open_r1.data import presenting
from open_r1.rewards import scoring

P, G, T = 2, 4, 3  # prompts, completions each, tokens of the longest


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    import yaml
    from conftest import SMALL, TASKS

    path = tmp_path_factory.mktemp("paper") / "recipes" / "m" / "grpo" / "r.yaml"
    path.parent.mkdir(parents=True)
    content = SMALL | TASKS["grpo"] | {"output_dir": str(path.parent / "run"), "epsilon": 0.2}
    path.write_text(yaml.safe_dump(content))
    recipe = load_recipe(path)
    recipe.run_dir.mkdir()
    tokenizer = models.load_tokenizer(recipe)
    return GRPOTrainer(
        model=models.prepare_weights(recipe, tokenizer),
        args=recipe.args,
        train_dataset=presenting.load_datasets(recipe.data.datasets, "grpo", recipe.data, 0, recipe.run.rewards),
        processing_class=tokenizer,
        reward_funcs=scoring.build_rewards(recipe.run.rewards),
    )


def test_advantages_are_normalised_within_each_group(trainer, monkeypatch):
    scores_PG = [[2.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]
    flat = [score for scores_G in scores_PG for score in scores_G]
    per_reward = torch.tensor([[min(s, 1.0), max(s - 1.0, 0.0)] for s in flat])
    monkeypatch.setattr(trainer, "_calculate_rewards", lambda *a: per_reward)
    rows = [trainer.train_dataset[i // G] for i in range(P * G)]
    trainer.model.train()
    inputs = trainer._generate_and_score_completions(rows)
    for i, score in enumerate(flat):
        group = scores_PG[i // G]
        mean = sum(group) / G
        std = math.sqrt(sum((s - mean) ** 2 for s in group) / (G - 1))  # the sample's, which TRL takes
        assert inputs["advantages"][i].item() == pytest.approx((score - mean) / (std + 1e-4), abs=1e-5)


def test_withheld_rewards_leave_the_group(trainer, monkeypatch):
    """An unscorable sample has no advantage, and the others are normalised as if it were not there."""
    nan = math.nan
    per_reward = torch.tensor([[1.0, 1.0], [0.0, 0.0], [nan, nan], [0.0, 1.0]] * P)
    monkeypatch.setattr(trainer, "_calculate_rewards", lambda *a: per_reward)
    trainer.model.train()
    inputs = trainer._generate_and_score_completions([trainer.train_dataset[i // G] for i in range(P * G)])
    std = 1.0  # of 2, 0, 1
    expected = [(2 - 1) / (std + 1e-4), (0 - 1) / (std + 1e-4), 0.0, 0.0]
    assert inputs["advantages"][:G].tolist() == pytest.approx(expected, abs=1e-5)


def test_the_loss_clips_adds_the_kl_and_averages_over_tokens(trainer, monkeypatch):
    torch.manual_seed(0)
    logps = torch.randn(P * G, T) - 2.0
    old = logps + torch.tensor([-0.5, 0.5, 0.05, 0.0] * P)[:, None]  # ratios beyond and within the clip range
    ref = logps + 0.3 * torch.randn(P * G, T)
    advantages = torch.tensor([1.0, -1.0, 0.7, -0.3, 1.2, 0.4, -0.9, 0.0])
    mask = torch.ones(P * G, T, dtype=torch.long)
    mask[::2, 2] = 0
    given = logps.clone().requires_grad_(True)
    monkeypatch.setattr(
        trainer, "_get_per_token_logps_and_entropies", lambda *a, **k: (given, torch.zeros(P * G, T), None)
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    ones = torch.ones(P * G, 1, dtype=torch.long)
    loss = trainer._compute_loss(
        trainer.model,
        {
            "prompt_ids": ones, "prompt_mask": ones, "completion_ids": torch.ones(P * G, T, dtype=torch.long),
            "completion_mask": mask, "advantages": advantages, "old_per_token_logps": old,
            "ref_per_token_logps": ref, "num_items_in_batch": mask.sum(),
        },
    )  # fmt: skip

    epsilon, beta = 0.2, 0.001
    total = 0.0
    for i in range(P * G):
        terms = []
        for t in range(T):
            if not mask[i, t]:
                continue
            rho = math.exp(logps[i, t] - old[i, t])
            surrogate = min(rho * advantages[i], min(max(rho, 1 - epsilon), 1 + epsilon) * advantages[i])
            ratio = math.exp(ref[i, t] - logps[i, t])
            terms.append(surrogate - beta * (ratio - math.log(ratio) - 1))
        total += sum(terms) / len(terms)
    assert loss.item() == pytest.approx(-(total / (P * G)).item(), abs=1e-6)

    # Every token's gradient: the KL's, and the advantage's times the ratio unless the ratio is clipped.
    loss.backward()
    ratio = torch.exp(logps - old)
    sides = advantages[:, None].expand_as(ratio)
    clipped = ((ratio > 1 + epsilon) & (sides > 0)) | ((ratio < 1 - epsilon) & (sides < 0))
    policy = torch.where(clipped, 0.0, ratio * sides)
    expected = -(policy - beta * (1 - torch.exp(ref - logps))) * mask / mask.sum(1, keepdim=True) / (P * G)
    assert (clipped & mask.bool()).any() and (~clipped & mask.bool()).any()
    torch.testing.assert_close(given.grad, expected, atol=1e-7, rtol=1e-5)


def test_rewards_are_added_with_equal_weight(trainer):
    """R1 eq. 4: accuracy plus format, "combined with the same weight"."""
    assert trainer.reward_func_names == ["accuracy", "think_format"]
    assert trainer.reward_weights.tolist() == [1.0, 1.0]
