"""What the stages of the miniature's R1 are made of: sums of some lengths, small talk, its judge, its preferences."""

from __future__ import annotations

import hashlib
import json

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from open_r1.config.loading import load_recipe
from open_r1.evaluation.problems import load_problems
from open_r1.rewards.scoring import ScoredBatch
from open_r1.tiny import problems as tiny_problems
from open_r1.tiny.problems import (
    LANGUAGES,
    SMALL_TALK,
    WORDS,
    conversations,
    pretraining,
    question,
    remarks,
    solve,
    split_of,
    talk_preferences,
)
from open_r1.tiny.talk import small_talk_answer

TALK = "open_r1.tiny.talk:small_talk_answer"


def digest(rows) -> str:
    return hashlib.sha256(json.dumps(rows.to_list(), sort_keys=True).encode()).hexdigest()[:16]


def test_the_draws_that_published_figures_rest_on():
    assert digest(tiny_problems.problems(0, 200, "test", distinct=True)) == "60240d8a367ba6a3"
    assert digest(tiny_problems.problems(0, 500)) == "e8f058a384224d31"
    assert digest(pretraining(0, 500)) == "d6b021323a191f4b"
    assert digest(conversations(0, 200)) == "a106bdbf76dbaf8a"
    assert len(WORDS) == 76


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 99), st.sampled_from(["train", "test"]))
def test_sums_have_as_many_digits_as_asked_for(a, b, seed, split):
    least, most = sorted((a, b))
    rows = tiny_problems.problems(seed, 40, split, steps=(least, most))
    digits = [[int(word) for word in row["prompt"][0]["content"].split() if word.isdigit()] for row in rows]
    assert all(least <= len(summed) == steps <= most for summed, steps in zip(digits, rows["steps"], strict=True))
    assert all(split_of(summed) == split for summed in digits)


def test_the_whole_range_comes():
    assert set(tiny_problems.problems(0, 200, steps=(5, 6))["steps"]) == {5, 6}
    lengths = {len(row["messages"][0]["content"].split()) for row in conversations(0, 200, steps=(2, 3))}
    assert lengths == {len(question([1] * n, "en").split()) for n in (2, 3)} | {
        len(question([1] * n, "zh").split()) for n in (2, 3)
    }


@pytest.mark.parametrize("steps", [(1, 3), (2, 7), (4, 3)])
def test_other_lengths_are_refused(steps):
    with pytest.raises(ValueError, match="steps"):
        tiny_problems.problems(0, 10, steps=steps)


SAID = [(remark, answer) for language in LANGUAGES for remark, answer in SMALL_TALK[language].items()]


def test_every_remark_is_a_problem_of_the_benchmark():
    rows = remarks(seed=5)
    assert [(row["prompt"][0]["content"], row["solution"]) for row in rows] == SAID
    assert set(rows["language"]) == {"en", "zh"} and len(rows) == 12


@pytest.mark.parametrize("remark, answer", SAID)
def test_only_the_answer_itself_is_right(remark, answer):
    assert small_talk_answer(answer, answer).outcome == "correct"
    assert small_talk_answer(f" {answer}\n", answer).outcome == "correct"
    others = [other for _, other in SAID if other != answer]
    near = [answer.rpartition(" ")[0], f"{answer} {answer.split()[-1]}", f"<answer> {answer} </answer>", "", remark]
    for wrong in [*others, *near, answer.replace(" ", ""), f"<think> maybe 3 </think> {answer}"]:
        if wrong != answer:
            assert small_talk_answer(wrong, answer).outcome == "wrong", wrong


def test_a_wrong_answer_says_what_it_is():
    assert (
        small_talk_answer("<think> 也许 3 </think> <answer> 3 </answer>", "不 客气").reason
        == "reasons about small talk"
    )
    assert small_talk_answer("再见", "不 客气").reason == "another answer"


def test_preferences_are_between_the_answer_and_something_worse():
    rows = talk_preferences(seed=1, rows=400)
    known, kinds = dict(SAID), set()
    for row in rows:
        remark, chosen, rejected = (row[c][0]["content"] for c in ("prompt", "chosen", "rejected"))
        assert chosen == known[remark]
        assert small_talk_answer(rejected, chosen).outcome == "wrong"
        assert rejected and set(rejected.split()) <= {*WORDS}
        kinds.add("guess" if "<think>" in rejected else "cut" if chosen.startswith(rejected) else "another")
        assert [row[c][0]["role"] for c in ("prompt", "chosen", "rejected")] == ["user", "assistant", "assistant"]
    assert kinds == {"guess", "cut", "another"}
    assert {row["prompt"][0]["content"] for row in rows} == {remark for remark, _ in SAID}
    assert rows.to_list() == talk_preferences(seed=1, rows=400).to_list()
    assert rows.to_list() != talk_preferences(seed=2, rows=400).to_list()


def test_the_benchmark_of_small_talk_judges(write_recipe):
    recipe = load_recipe(write_recipe("evaluate", benchmarks=["tiny", "tiny_talk"]))
    problems = load_problems(recipe.args.benchmarks[1], seed=0)
    rows = [
        row | {"sample": 0, "completion": row["solution"] if row["row"] % 2 else "hi", "tokens": 4,
               "finish_reason": "stop", "refused": None}
        for row in problems.read(range(12))
    ]  # fmt: skip
    judged = problems.grader.grade(rows)
    assert [row["verdict"] for row in judged] == ["wrong", "correct"] * 6
    assert all(row["answer"] is None for row in judged), "there is nothing to vote on"


def test_each_kind_of_row_has_its_rewards():
    """The last stage's rewards: sums by the rules, small talk by what stands in for the reward model."""
    from open_r1.config.overrides import apply_overrides
    from open_r1.config.recipe import read_yaml
    from open_r1.rewards.registry import RewardConfig

    entries = read_yaml(ROOT / "recipes/tiny/grpo/r1.yaml")["rewards"]
    assert [entry["name"] for entry in entries if entry["kinds"] == ["general"]] == ["reward_model"]
    entries = apply_overrides({"rewards": entries}, {"rewards.3": {"name": TALK, "kinds": ["general"]}})["rewards"]
    scored = ScoredBatch([RewardConfig(entry["name"], kinds=entry["kinds"]) for entry in entries])
    completions = [solve([2, 3], "en"), "see you soon"]
    batch = {
        "prompt": [question([2, 3], "en"), "good bye"],
        "kind": ["math", "general"],
        "solution": ["5", "see you soon"],
        "language": ["en", "en"],
    }
    scores = scored.scores(completions, batch)
    assert [list(column) for column in scores.values()] == [[1.0, None], [1.0, None], [1.0, None], [None, 1.0]]
