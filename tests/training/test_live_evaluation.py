"""Evaluation inside a training: the engines' sampling, the training's judge, and nothing else is changed by it."""

from __future__ import annotations

import pytest
import yaml
from conftest import PROBLEMS, SMALL, TASKS, command, group
from transformers import AutoModelForCausalLM

from open_r1 import grpo
from open_r1.benchmarks import registry
from open_r1.config.loading import load_recipe
from open_r1.engines.registry import Sampling
from open_r1.engines.transformers import LoadedModel
from open_r1.system import files
from open_r1.tiny import tokenizer
from open_r1.training import live_evaluation

HELD_OUT = PROBLEMS | {"args": {"rows": 6, "split": "test"}}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """The directory of a training with an evaluation before every step, and its recipe."""
    folder = tmp_path_factory.mktemp("live")
    path = folder / "recipes" / "small" / "grpo" / "recipe.yaml"
    path.parent.mkdir(parents=True)
    evaluation = {"datasets": [HELD_OUT], "k": 3, "every": 1, "live_rows": 4}
    path.write_text(yaml.safe_dump(SMALL | TASKS["grpo"] | {"max_steps": 3, "evaluation": evaluation}))
    done = command("train", path, "--output_dir", folder / "run")
    assert done.returncode == 0, done.stderr
    return path, folder / "run", done


def test_before_and_after_are_whole_evaluations(evaluated):
    _, directory, done = evaluated
    for name, step in (("before", 0), ("after", 3)):
        told = files.read_json(directory / "evaluations" / f"{name}.json")
        assert (told["name"], told["step"], told["problems"], told["samples"]) == (name, step, 6, 18)
        assert set(told["metrics"]) == {"pass@1", "maj@3"} and told["level"] == 0.95
        assert (
            told["protocol"]["k"] == 3 and told["protocol"]["max_tokens"] == 8 and told["protocol"]["prompt"] == "chat"
        )
        assert len(told["by_problem"]) == 6 and len({problem["id"] for problem in told["by_problem"]}) == 6
        assert all(len(example["samples"]) == 2 for example in told["examples"])
    summary = files.read_json(directory / "summary.json")
    assert set(summary["before"]) == {"pass@1", "maj@3", "mean_length", "format", "language"}
    assert summary["after"]["mean_length"]["value"] == told["tokens"]["mean"]["value"]
    assert "before" in done.stdout and "maj@3" in done.stdout


def test_the_curve_is_logged_on_the_live_subset(evaluated):
    rows = files.read_jsonl(evaluated[1] / "metrics.jsonl")
    by_step = {row["step"]: row for row in rows if "evaluation/mean_length" in row}
    assert sorted(by_step) == [0, 1, 2, 3]
    assert {"evaluation/pass@1", "evaluation/maj@3", "evaluation/format", "evaluation/unknown"} <= by_step[1].keys()


def test_a_step_that_is_evaluated_logs_its_own_figures_too(evaluated):
    rows = files.read_jsonl(evaluated[1] / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3]


def test_two_processes_see_the_same_samples_as_one(evaluated, tmp_path):
    path, directory, _ = evaluated
    batch = ["--per_device_train_batch_size", "4"]
    group("-m", "open_r1.grpo", "--config", path, "--output_dir", tmp_path / "run", *batch)
    one, two = (files.read_json(folder / "evaluations" / "before.json") for folder in (directory, tmp_path / "run"))
    assert one["by_problem"] == two["by_problem"] and one["examples"] == two["examples"]


def test_steps_are_sampled_with_other_random_numbers(evaluated):
    before, after = (files.read_json(evaluated[1] / "evaluations" / f"{name}.json") for name in ("before", "after"))
    assert before["identity"] == after["identity"] and before["grader"] == after["grader"]
    assert [e["samples"] for e in before["examples"]] != [e["samples"] for e in after["examples"]]


def test_a_borrowed_model_comes_back_as_it_was(evaluated):
    model = AutoModelForCausalLM.from_pretrained(evaluated[1] / "model").eval()
    published = model.generation_config
    engine = LoadedModel(model, tokenizer.build(), "", 4)
    assert model.generation_config is not published and model._forward_pre_hooks
    prompt = [{"role": "user", "content": "add a 4 b 5 last digit ?"}]
    first = engine.generate([prompt], 2, Sampling(max_tokens=8))
    assert len(first[0]) == 2
    engine.close()
    engine.close()
    assert model.generation_config is published and not model._forward_pre_hooks


def test_repeated_prompts_have_ids_of_their_own():
    prompts = [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}, {"prompt": "a", "id": 7}]
    names = live_evaluation.list_ids(prompts)
    assert len(set(names)) == 4 and names[2] == f"{names[0]}-2" and names[3] == "7"


def test_one_sample_has_no_vote(write_recipe):
    assert live_evaluation.list_metrics(1) == ["pass@1"] and [
        registry.resolve_metric(name, 2) for name in live_evaluation.list_metrics(2)
    ] == ["pass@1", "maj@2"]
    recipe = load_recipe(write_recipe("grpo", evaluation={"datasets": [HELD_OUT], "k": 1}))
    done = grpo.main(recipe)
    assert set(files.read_json(done.dir / "evaluations" / "after.json")["metrics"]) == {"pass@1"}
