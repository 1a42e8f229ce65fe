"""RLOO under our default settings computes its paper's formulas, and keeps the contracts that GRPO keeps.

Ahmadian et al. (arXiv 2402.14740): the reward of a completion is R - beta log(pi / pi_ref), and its advantage
that less the mean of its k - 1 siblings'.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import types
import zlib
from pathlib import Path

import conftest
import pyarrow.parquet
import pytest
import torch
import yaml
from conftest import MODEL, ROOT, SMALL, TASKS
from safetensors.torch import load_file
from trl import RLOOTrainer

from open_r1 import models, rloo
from open_r1.config.loading import load_recipe
from open_r1.data import presenting
from open_r1.errors import RecipeError
from open_r1.launch.local import run_recipe
from open_r1.rewards import scoring
from open_r1.rewards.verdict import Verdict

P, G, T = 2, 4, 3  # prompts, completions each, tokens of the longest
LIVELY = [{"name": "lively_reward:even_length"}]


@pytest.fixture(autouse=True)
def _lively(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "support" / "scripts"))


@pytest.fixture
def write_rloo(write_recipe, monkeypatch):
    monkeypatch.setitem(conftest.TASKS, "rloo", TASKS["grpo"])
    return lambda **keys: write_recipe("rloo", **keys)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    path = tmp_path_factory.mktemp("rloo") / "recipes" / "m" / "rloo" / "r.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(SMALL | TASKS["grpo"] | {"output_dir": str(path.parent / "run"), "beta": 0.5}))
    recipe = load_recipe(path)
    recipe.run_dir.mkdir()
    tokenizer = models.load_tokenizer(recipe)
    return RLOOTrainer(
        model=models.prepare_weights(recipe, tokenizer),
        args=recipe.args,
        train_dataset=presenting.load_datasets(recipe.data.datasets, "rloo", recipe.data, 0, recipe.run.rewards),
        processing_class=tokenizer,
        reward_funcs=scoring.build_rewards(recipe.run.rewards),
    )


def scored(trainer, monkeypatch, reward_S: list[float], kl_S: list[float], **settings) -> list[float]:
    """Advantages of completions (P groups of G) that earned these rewards, at these log-ratios to the reference."""
    for name, value in settings.items():
        monkeypatch.setattr(trainer, name, value)
    per_reward = torch.tensor([[reward / 2, reward / 2] for reward in reward_S])
    monkeypatch.setattr(trainer, "_calculate_rewards", lambda *a: per_reward)

    def logps(model, ids, mask, keep, *a, **k):
        # The whole log-ratio on the first token, which every completion has.
        first = torch.zeros(len(ids), keep)
        first[:, 0] = torch.tensor(kl_S) if model is trainer.model else 0.0
        return first, None, None

    monkeypatch.setattr(trainer, "_get_per_token_logps_and_entropies", logps)
    trainer.model.train()
    inputs = trainer._generate_and_score_completions([trainer.train_dataset[i // G] for i in range(P * G)])
    return inputs["advantages"].tolist()


def test_a_baseline_is_the_mean_of_the_siblings_and_the_kl_is_in_the_reward(trainer, monkeypatch):
    reward_S = [2.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    kl_S = [0.2, -0.1, 0.0, 0.4, 0.0, 0.0, 0.0, 0.3]
    net_S = [reward - 0.5 * kl for reward, kl in zip(reward_S, kl_S, strict=True)]
    expected = [
        net_S[i] - sum(net_S[j] for j in range(i // G * G, i // G * G + G) if j != i) / (G - 1) for i in range(P * G)
    ]
    assert scored(trainer, monkeypatch, reward_S, kl_S) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("normalize_advantages", [False, True])
def test_withheld_rewards_leave_the_group(trainer, monkeypatch, normalize_advantages):
    """The others are held against one another as if it were not there, whatever its own KL, and it has none."""
    nan = math.nan
    settings = {"beta": 0.5, "normalize_advantages": normalize_advantages}
    got = scored(trainer, monkeypatch, [2.0, 0.0, nan, 1.0] * P, [0.0, 0.0, 7.0, 0.0] * P, **settings)
    expected_G = [2.0 - 0.5, 0.0 - 1.5, 0.0, 1.0 - 1.0]
    if normalize_advantages:
        std = math.sqrt(sum(2 * a * a for a in expected_G) / (2 * 3 - 1))  # of the six that were judged
        expected_G = [a / (std + 1e-4) for a in expected_G]
    assert got == pytest.approx(expected_G * P, abs=1e-5)


def test_a_group_with_one_judged_sample_teaches_nothing(trainer, monkeypatch):
    nan = math.nan
    got = scored(trainer, monkeypatch, [1.0, nan, nan, nan, *[nan] * G], [0.0] * P * G)
    assert got == [0.0] * P * G


def test_the_loss_clips_one_ratio_for_each_completion(trainer, monkeypatch):
    torch.manual_seed(0)
    logps = torch.randn(P * G, T) - 2.0
    mask = torch.ones(P * G, T, dtype=torch.long)
    mask[::2, 2] = 0
    # Ratios beyond and within the clip range of 0.2, on either side.
    old = (logps * mask).sum(1) - torch.tensor([0.5, -0.5, 0.05, 0.0, -0.5, 0.5, -0.1, 0.0])
    advantages = torch.tensor([1.0, -1.0, 0.7, -0.3, 1.2, -0.4, -0.9, 0.0])
    given = logps.clone().requires_grad_(True)
    monkeypatch.setattr(
        trainer, "_get_per_token_logps_and_entropies", lambda *a, **k: (given, torch.zeros(P * G, T), None)
    )
    trainer.model.train()
    ones = torch.ones(P * G, 1, dtype=torch.long)
    loss = trainer._compute_loss(
        trainer.model,
        {
            "prompt_ids": ones, "prompt_mask": ones, "completion_ids": torch.ones(P * G, T, dtype=torch.long),
            "completion_mask": mask, "advantages": advantages, "old_logps": old,
        },
    )  # fmt: skip
    total, gradients = 0.0, []
    for i in range(P * G):
        rho = math.exp((logps[i] * mask[i]).sum() - old[i])
        clipped = min(max(rho, 0.8), 1.2)
        total += min(rho * advantages[i].item(), clipped * advantages[i].item())
        free = rho * advantages[i].item() <= clipped * advantages[i].item()
        gradients.append(-rho * advantages[i].item() / (P * G) if free else 0.0)
    assert loss.item() == pytest.approx(-total / (P * G), abs=1e-6)
    loss.backward()
    assert 0.0 in gradients[:2] and gradients[2] != 0.0
    torch.testing.assert_close(given.grad, torch.tensor(gradients)[:, None] * mask, atol=1e-6, rtol=1e-5)


def test_it_learns_and_leaves_what_a_grpo_run_leaves(write_rloo, tmp_path):
    held_out = {"path": "open_r1.tiny.problems:problems", "args": {"rows": 6, "split": "test"}}
    evaluation = {"datasets": [held_out], "k": 4, "every": 1, "live_rows": 3}
    keys = {"learning_rate": 1e-3, "evaluation": evaluation, "print_every": 1, "report": True}
    done = rloo.main(load_recipe(write_rloo(rewards=LIVELY, **keys)))
    before, after = (load_file(done.dir / part / "model.safetensors") for part in ("init", "model"))
    assert max((before[name] - after[name]).abs().max() for name in before) > 1e-4
    rows = [json.loads(line) for line in (done.dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "evaluation/pass@1" in row] == [0, 1, 2]
    steps = [row for row in rows if "loss" in row]
    wanted = {"reward", "rewards/even_length/mean", "completions/mean_length", "num_tokens", "kl", "entropy"}
    assert len(steps) == 2 and all(wanted <= row.keys() for row in steps)
    assert (done.dir / "evaluations" / "after.json").is_file()
    sampled = pyarrow.parquet.read_table(done.dir / "completions" / "completions_00002.parquet").to_pylist()
    assert len(sampled) == 8 and {row["step"] for row in sampled} == {2}
    assert sum(row["even_length"] for row in sampled) / 8 == pytest.approx(steps[-1]["reward"])
    assert "RLOO of a random model by recipe.yaml" in (done.dir / "model" / "README.md").read_text()
    assert "advantage" in (done.dir / "report.html").read_text()  # of the completions that the page shows


def test_an_adapter_is_trained_with_its_base_as_the_reference(write_rloo):
    lora = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["all-linear"], "merge_adapter": True}
    done = rloo.main(load_recipe(write_rloo(rewards=LIVELY, learning_rate=1e-2, max_steps=3, **lora)))
    before, after = (load_file(done.dir / part / "model.safetensors") for part in ("init", "model"))
    assert max((before[name] - after[name]).abs().max() for name in before) > 1e-4
    kl_T = [json.loads(line).get("kl") for line in (done.dir / "metrics.jsonl").read_text().splitlines()]
    assert kl_T[0] == pytest.approx(0.0, abs=1e-6) and max(abs(kl) for kl in kl_T[1:] if kl is not None) > 1e-5


def test_unjudged_samples_are_counted_everywhere_and_move_nothing(write_rloo, tmp_path, monkeypatch):
    module = types.ModuleType("rloo_verifier")
    monkeypatch.setitem(sys.modules, "rloo_verifier", module)

    def judged(completion: str, solution: str) -> Verdict:
        drawn = zlib.crc32(completion.encode()) % 2
        return Verdict("correct") if drawn else Verdict("unknown", "cannot tell: drawn")

    module.judged = judged
    both = [{"name": "rloo_verifier:judged"}, {"name": "think_format"}]
    run_recipe(str(write_rloo(rewards=both, preflight=False)), [])
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    shares = [row["verdict/unknown"] for row in rows if "reward" in row]
    assert len(shares) == 2 and 0 < sum(shares) < 2
    seen = set()
    for path in sorted((tmp_path / "run" / "completions").glob("*.parquet")):
        for row in pyarrow.parquet.read_table(path).to_pylist():
            left_out = row["verdict"] == "unknown: cannot tell: drawn"
            assert all(math.isnan(row[name]) for name in ("judged", "think_format")) == left_out
            assert not left_out or row["advantage"] == 0
            seen.add(left_out)
    assert seen == {True, False}


def test_killed_inside_a_generation_cycle_it_goes_on_bit_for_bit(write_rloo, tmp_path, capsys):
    # A batch of completions is made every 4 steps, so the checkpoint of step 2 lies inside a cycle.
    cycle = {"steps_per_generation": 2, "num_iterations": 2, "sync_ref_model": True, "ref_model_sync_steps": 1}
    saved = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}
    recipe = str(write_rloo(rewards=LIVELY, learning_rate=1e-3, **cycle, **saved))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for out in (whole, killed):
        run_recipe(recipe, ["--output_dir", str(out)])
    for gone in ("checkpoint-4", "checkpoint-6", "model"):
        shutil.rmtree(killed / gone)
    (killed / "status.json").unlink()
    capsys.readouterr()
    run_recipe(recipe, ["--output_dir", str(killed)])
    assert f"resuming from {killed / 'checkpoint-2'}" in capsys.readouterr().out
    weights = [load_file(out / "model" / "model.safetensors") for out in (whole, killed)]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    for step in range(1, 7):
        name = f"completions_{step:05d}.parquet"
        one, other = (pyarrow.parquet.read_table(out / "completions" / name) for out in (whole, killed))
        assert one.equals(other)
    assert figures(whole) == figures(killed)


def figures(out: Path) -> list[tuple]:
    """What is the same of a run and its repetition."""
    kept = ("step", "loss", "reward", "reward_std", "kl", "num_tokens", "grad_norm")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [tuple(row.get(key) for key in kept) for row in rows if "loss" in row]


def test_what_grpo_refuses_is_refused(write_rloo):
    for keys, told in (
        ({"rewards": []}, "rewards: the list is empty"),
        ({"num_generations": 16}, "num_generations: groups of 16 do not divide the 8 completions"),
        ({"reward_weights": [1.0]}, "weights stand beside each reward"),
        ({"sync_ref_model": True, "beta": 0.0}, "there is no reference model"),
        ({"loss_type": "dapo"}, "unknown key 'loss_type'"),
    ):
        with pytest.raises(RecipeError, match=told):
            load_recipe(write_rloo(**keys))


def test_defaults_are_r1_zeros(write_rloo):
    args = load_recipe(write_rloo(num_generations=..., per_device_train_batch_size=16, random_init=MODEL)).args
    assert (args.num_generations, args.beta, args.temperature, args.normalize_advantages) == (16, 0.001, 1.0, False)
