"""What a check says of data, rewards and prompt before training, and when it refuses."""

from __future__ import annotations

import json
import sys
import types

import pytest
from conftest import ROOT, command

from open_r1.config.loading import load_recipe
from open_r1.errors import RecipeError
from open_r1.launch.local import run_recipe
from open_r1.rewards.verdict import Verdict
from open_r1.tiny.problems import problems
from open_r1.training import preflight
from open_r1.training.preflight import compute_signal, corrupt_answer


def check(path, *overrides):
    return preflight.check_recipe(load_recipe(path, list(overrides), planned=True))


def rows_file(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [{"path": str(path)}]


def test_a_healthy_recipe(write_recipe):
    findings = check(write_recipe("grpo", num_generations=8))
    assert not findings.fatal and not findings.warnings
    assert any(line.split() == ["accuracy", "1.00", "1.00", "0.00", "0.00", "0.00"] for line in findings.table)
    assert any("<user>" in line for line in findings.table), "the prompt as the model reads it"


def test_golds_that_cannot_be_judged_are_listed_and_stop_if_they_are_most(write_recipe, tmp_path):
    good, bad = {"prompt": "p", "solution": "7"}, {"prompt": "p", "solution": "as the reader will show"}
    some = check(write_recipe("grpo", datasets=rows_file(tmp_path, [good] * 9 + [bad])))
    assert not some.fatal and any("1 of 10 gold answers cannot be judged" in w for w in some.warnings)
    most = check(write_recipe("grpo", datasets=rows_file(tmp_path, [good] * 3 + [bad] * 7)))
    assert any("7 of 10 gold answers cannot be judged" in told and "the reader will" in told for told in most.fatal)


@pytest.fixture
def own_reward(monkeypatch):
    module = types.ModuleType("preflight_rewards")
    monkeypatch.setitem(sys.modules, "preflight_rewards", module)

    def offer(function):
        setattr(module, function.__name__, function)
        return [{"name": f"preflight_rewards:{function.__name__}"}]

    return offer


def test_a_constant_reward_is_called_out(write_recipe, own_reward):
    def generous(completion: str) -> float:
        return 1.0

    findings = check(write_recipe("grpo", rewards=own_reward(generous)))
    assert any("generous is 1 on every try" in warning for warning in findings.warnings)


def test_a_verifier_that_accepts_anything_is_pointless(write_recipe, own_reward):
    def lenient(completion: str, solution: str) -> Verdict:
        return Verdict("correct")

    findings = check(write_recipe("grpo", rewards=own_reward(lenient)))
    assert any("corrupted completions are judged correct" in told for told in findings.fatal)
    assert any("empty completions are judged correct" in told for told in findings.fatal)


def test_a_verifier_that_refuses_the_gold_is_pointless(write_recipe, own_reward):
    def strict(completion: str, solution: str) -> Verdict:
        return Verdict("wrong")

    assert any(
        "although they are the gold" in told for told in check(write_recipe("grpo", rewards=own_reward(strict))).fatal
    )


def test_a_broken_judge_is_pointless_and_training_refuses(write_recipe, own_reward):
    def broken(completion: str, solution: str) -> Verdict:
        return Verdict("error", "the sandbox does not start")

    path = write_recipe("grpo", rewards=own_reward(broken))
    assert any("failed on 100% of the tries (the sandbox does not start)" in told for told in check(path).fatal)
    with pytest.raises(RecipeError, match="check: the judge itself failed on 100%"):
        run_recipe(str(path), [])


def test_a_small_group(write_recipe):
    findings = check(write_recipe("grpo", num_generations=2))
    assert any("a group of 2 seldom has a signal" in warning for warning in findings.warnings)
    assert (
        compute_signal(2, 0.5) == 0.5
        and compute_signal(16, 0.0) == 0.0
        and compute_signal(8, 0.05) == pytest.approx(0.3366, abs=1e-4)
    )


def test_rows_that_would_be_cut(write_recipe):
    findings = check(write_recipe("sft", max_length=8))
    assert any("longer than 8 tokens" in warning for warning in findings.warnings)
    assert any("the first row, as the model reads it" in line for line in findings.table)


@pytest.mark.parametrize(
    ("gold", "other"),
    [
        ("18", "19"),
        ("x^2", "x^3"),
        ("0.9", "0.0"),
        ("B", "C"),
        ("(E)", "(A)"),
        ("\\pi", "\\pi+1"),
        ("east", "something else"),
        ("\\text{even}", "something else"),
    ],
)
def test_corrupted_golds(gold, other):
    assert corrupt_answer(gold) == other


def test_the_command_shows_and_exits(write_recipe, tmp_path):
    good = command("check", write_recipe("grpo", num_generations=8))
    assert good.returncode == 0 and "can be run" in good.stdout and not good.stderr
    bad = rows_file(tmp_path, [{"prompt": "p", "solution": "as the reader will show"}])
    refused = command("check", write_recipe("grpo", datasets=bad))
    assert refused.returncode == 1 and "pointless: 1 of 1 gold answers" in refused.stdout
    unknown = command("check", write_recipe("grpo", rewards=[{"name": "acuracy"}]))
    assert unknown.returncode == 1 and "did you mean 'accuracy'" in unknown.stderr


def test_a_recipe_for_gpus_can_be_checked_without_them():
    """Its data is on the hub, so it comes as far as that."""
    with pytest.raises(RecipeError, match="nor a dataset that the hub returns"):
        check(ROOT / "recipes/Qwen2.5-32B/grpo/r1_zero.yaml")


@pytest.fixture
def leaky(tmp_path):
    """A gate against an evaluation set that holds one of the training problems."""
    problem = problems(0, 32)[5]["prompt"][0]["content"]
    (tmp_path / "exam.jsonl").write_text(json.dumps({"question": problem.upper().replace(" ", "  ")}) + "\n")
    return {"against": [{"path": str(tmp_path / "exam.jsonl"), "columns": {"prompt": "question"}}], "ngram": 40}


@pytest.mark.parametrize("task", ["grpo", "sample"])
def test_contaminated_prompts_are_found_before_anything_runs(write_recipe, leaky, task):
    (fatal,) = check(write_recipe(task, num_generations=8 if task == "grpo" else ..., contamination=leaky)).fatal
    assert "1 of 32 rows" in fatal and "exam.jsonl" in fatal and "contamination.action" in fatal
    dropped = check(write_recipe(task, contamination=leaky | {"action": "drop"}))
    assert not dropped.fatal and any("1 of 32 rows" in told for told in dropped.warnings)


@pytest.mark.parametrize("task", ["sft", "grpo", "dpo", "reward"])
def test_a_training_does_not_start_on_contaminated_prompts(write_recipe, leaky, task, tmp_path):
    path = write_recipe(task, contamination=leaky | {"ngram": 2})
    with pytest.raises(RecipeError, match=r"contamination: \d+ of \d+ rows .* 2-gram with"):
        run_recipe(str(path), [])
    assert (tmp_path / "run" / "contaminated.jsonl").is_file() and not (tmp_path / "run" / "model").exists()


def test_a_training_without_the_contaminated_prompts(write_recipe, leaky, tmp_path):
    run_recipe(str(write_recipe("grpo", contamination=leaky | {"action": "drop"}, report=True)), [])
    found = json.loads((tmp_path / "run" / "contamination.json").read_text())
    assert found["contaminated"] == 1 and found["rows"] == 32 and (tmp_path / "run" / "model").is_dir()
    assert "Contamination" in (tmp_path / "run" / "report.html").read_text()


def test_the_benchmarks_of_an_evaluation_are_tried(write_recipe):
    findings = check(write_recipe("evaluate"))
    assert not findings.fatal and not findings.warnings
    assert "tiny: 8 problems, 32 completions of at most 8 tokens, pass@1, maj@k" in findings.said
    assert "tiny: k is 4, and 16 by its protocol" in findings.said
    assert any("last digit ?" in line for line in findings.table)  # the prompt as the model reads it
    assert any(line.startswith("accuracy") and "1.00" in line for line in findings.table)


def test_a_benchmark_that_cannot_be_had_is_named(write_recipe):
    findings = check(write_recipe("evaluate", benchmarks=["tiny", "aime24"]))
    (told,) = findings.fatal
    assert told.startswith("benchmarks.aime24: HuggingFaceH4/aime_2024") and "A local copy goes in its place" in told
