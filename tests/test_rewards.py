"""Scorers by table, and the adapter that withholds what is no evidence."""

from __future__ import annotations

import json
import pickle

import pytest
from conftest import shared
from hypothesis import given
from hypothesis import strategies as st

from open_r1 import rewards
from open_r1.rewards import RewardConfig
from open_r1.rewards.format import think_format
from open_r1.rewards.language import language_share
from open_r1.rewards.math import accuracy, final_answer, numeral
from open_r1.rewards.verdict import Verdict


@pytest.mark.parametrize(
    ("completion", "solution", "outcome"),
    [
        ("<think>1+1</think>2", "2", "correct"),
        ("<think>1+1</think><answer>2</answer>", "2", "correct"),
        ("<think>1+1</think>So \\boxed{2}.", "2", "correct"),
        ("<think>x</think>\\boxed{\\frac{1}{2}}", "0.5", "correct"),
        ("<think>x</think>\\boxed{\\frac12}", "\\frac{1}{2}", "correct"),
        ("<think>x</think>\\boxed{1{,}234}", "1234", "correct"),
        ("<think>x</think>$1,234$", "1234", "correct"),
        ("<think>x</think>\\boxed{(3, \\frac{\\pi}{2})}", "\\left( 3, \\frac{\\pi}{2} \\right)", "correct"),
        ("7", "7", "correct"),
        ("7.0", "7", "correct"),
        ("<think>x</think>3", "2", "wrong"),
        ("<think>x</think>\\boxed{2}\\boxed{3}", "2", "wrong"),
        ("<think>x</think>\\boxed{}", "2", "wrong"),
        ("<think>so it is \\boxed{2}</think>I do not know.", "2", "wrong"),
        ("<think>it is 2", "2", "wrong"),
        ("<think>x</think><answer>2", "2", "wrong"),
        ("", "2", "wrong"),
        ("<think>x</think>-2", "2", "wrong"),
        ("<think>x</think>2", 2, "correct"),
        ("<think>x</think>0.5", 0.5, "correct"),
        ("<think>x</think>0", 0, "correct"),
        ("<think>x</think>2", None, "unknown"),
        ("<think>x</think>2", "", "unknown"),
        ("<think>x</think>2", "   ", "unknown"),
    ],
)
def test_accuracy(completion, solution, outcome):
    assert accuracy(completion, solution).outcome == outcome


def test_a_gold_that_cannot_be_parsed_is_unknown_not_wrong():
    verdict = accuracy("<think>x</think>\\boxed{7}", "\\text{}")
    assert verdict.outcome == "unknown" and "gold" in verdict.reason


def test_numerals_are_exact():
    assert numeral("0.1") * 3 == numeral("0.3")
    assert numeral("1,234") == 1234 and numeral("-.5") == numeral("-0.50")
    assert numeral("1,23") is None and numeral("2x") is None and numeral("9^9") is None


def test_answer_is_never_taken_from_the_reasoning():
    assert final_answer("<think>\\boxed{1}</think> \\boxed{2}") == "2"
    assert final_answer("<think>\\boxed{1}</think> <think>3</think>4") == "4"
    assert final_answer("\\boxed{a{b}c}") == "a{b}c"
    assert final_answer("<think>\\boxed{1}") == ""


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("<think>a</think>b", 1.0),
        ("  <think>\na\n</think>\n<answer>b</answer>\n", 1.0),
        ("<think></think>b", 0.0),
        ("<think> \n</think>b", 0.0),
        ("<think>a</think>", 0.0),
        ("a<think>b</think>c", 0.0),
        ("</think>a<think>b", 0.0),
        ("<think>a</think>b</think>c", 0.0),
        ("<think>a<think>b</think>c", 0.0),
        ("<think>a", 0.0),
        ("a</think>b", 0.0),
        ("", 0.0),
    ],
)
def test_think_format(completion, score):
    assert think_format(completion) == score


def test_think_format_against_labelled_cases():
    rows = [json.loads(line) for line in shared("oracle", "format.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["format"] == "<think>..</think>answer"]
    # One convention apart: empty reasoning is not reasoning.
    differ = [row["completion"] for row in rows if bool(think_format(row["completion"])) != row["valid"]]
    assert len(rows) == 14 and differ == ["<think></think>\nThis is my answer."]


@pytest.mark.parametrize(
    ("completion", "language", "share"),
    [
        ("<think>a 2 then b 3 makes 5</think>", "en", 1.0),
        ("<think>a 2 然后 b 3 得 5</think>", "en", 0.0),
        ("<think>then 得</think>完", "zh", 0.5),
        ("<think>1 + 2 = 3, x</think>", "en", None),
    ],
)
def test_language_share(completion, language, share):
    assert language_share(completion, language) == share


@given(st.text(), st.text(alphabet="<>/thinkanswer0123456789\\boxed{}$. ", max_size=60))
def test_scorers_are_total_and_deterministic(text, shaped):
    for completion in (text, shaped, f"<think>{text}</think>{shaped}"):
        assert think_format(completion) in (0.0, 1.0) and think_format(completion) == think_format(completion)
        assert final_answer(completion) == final_answer(completion)
        share = language_share(completion, "en")
        assert share is None or 0.0 <= share <= 1.0


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**6))
def test_a_right_number_is_right_and_its_neighbour_wrong(number, off):
    completion = f"<think>so</think>\\boxed{{{number}}}"
    assert accuracy(completion, str(number)).outcome == "correct"
    assert accuracy(completion, str(number + off)).outcome == "wrong"


def call(functions, completions, **columns):
    logged: dict = {"metrics": {}, "extra": {}}
    batch = columns | {"log_metric": logged["metrics"].__setitem__, "log_extra": logged["extra"].__setitem__}
    scores = {f.__name__: f(prompts=[""] * len(completions), completions=completions, **batch) for f in functions}
    return scores, logged


BOTH = [RewardConfig("accuracy"), RewardConfig("think_format")]


def test_adapter_takes_text_and_chat():
    texts = ["<think>a</think>2", "2", "<think>a</think>3"]
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    expected = {"accuracy": [1.0, 1.0, 0.0], "think_format": [1.0, 0.0, 1.0]}
    for completions in (texts, chats):
        assert call(rewards.build(BOTH), completions, solution=["2"] * 3)[0] == expected


def test_no_evidence_withholds_every_reward_and_is_counted():
    completions = ["<think>a</think>2", "<think>a</think>2"]
    scores, logged = call(rewards.build(BOTH), completions, solution=["2", ""])
    assert scores == {"accuracy": [1.0, None], "think_format": [1.0, None]}
    assert logged["metrics"] == {"verdict/unknown": 0.5, "verdict/error": 0.0}
    assert logged["extra"]["verdict"] == ["correct", "unknown: no gold answer"]


def test_a_prompt_that_opened_the_reasoning():
    functions = rewards.build(BOTH, opens_think=True)
    assert call(functions, ["a</think>2", "a"], solution=["2", "2"])[0] == {
        "accuracy": [1.0, 0.0],
        "think_format": [1.0, 0.0],
    }


def test_ones_own_scorer_in_trls_form(monkeypatch):
    def own(completion: str, prompt: str, sharp: float = 1.0, **kwargs: object) -> float | None:
        return None if completion == "?" else sharp * len(prompt)

    monkeypatch.setitem(rewards.REWARDS, "own", own)
    entries = [RewardConfig("own", parameters={"sharp": 2.0})]
    rewards.check(entries)
    function = rewards.build(entries)[0]
    assert function(prompts=["ab", "abc"], completions=["x", "?"], solution=["", ""]) == [4.0, None]


def test_a_scorer_that_raises_is_not_a_score(monkeypatch):
    def broken(completion: str) -> float:
        raise RuntimeError("the judge is down")

    monkeypatch.setitem(rewards.REWARDS, "think_format", broken)
    with pytest.raises(RuntimeError, match="the judge is down"):
        call(rewards.build(BOTH), ["x"], solution=["2"])


def test_a_batch_is_scored_once(monkeypatch):
    seen = []
    monkeypatch.setitem(rewards.REWARDS, "think_format", lambda completion: float(seen.append(completion) is None))
    call(rewards.build(BOTH), ["x", "y"], solution=["2", "2"])
    assert seen == ["x", "y"]


def test_rewards_can_be_sent_to_another_process():
    functions = pickle.loads(pickle.dumps(rewards.build(BOTH)))
    assert call(functions, ["<think>a</think>2"], solution=["2"])[0]["accuracy"] == [1.0]


def test_verdict_scores():
    assert [Verdict(o).score for o in ("correct", "wrong", "unknown", "error")] == [1.0, 0.0, None, None]


def test_columns_that_rewards_need():
    assert rewards.columns(BOTH) == ["solution"]
