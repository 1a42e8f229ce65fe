"""Scorers by table."""

from __future__ import annotations

import json

import pytest
from conftest import shared
from hypothesis import given
from hypothesis import strategies as st

from open_r1.rewards.format import think_format
from open_r1.rewards.language import measure_language
from open_r1.rewards.math.extraction import extract_answer
from open_r1.rewards.math.scorers import accuracy


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


def test_answer_is_never_taken_from_the_reasoning():
    assert extract_answer("<think>\\boxed{1}</think> \\boxed{2}") == "2"
    assert extract_answer("<think>\\boxed{1}</think> <think>3</think>4") == "4"
    assert extract_answer("\\boxed{a{b}c}") == "a{b}c"
    assert extract_answer("<think>\\boxed{1}") == ""


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
    assert measure_language(completion, language) == share


@given(st.text(), st.text(alphabet="<>/thinkanswer0123456789\\boxed{}$. ", max_size=60))
def test_scorers_are_total_and_deterministic(text, shaped):
    for completion in (text, shaped, f"<think>{text}</think>{shaped}"):
        assert think_format(completion) in (0.0, 1.0) and think_format(completion) == think_format(completion)
        assert extract_answer(completion) == extract_answer(completion)
        share = measure_language(completion, "en")
        assert share is None or 0.0 <= share <= 1.0


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**6))
def test_a_right_number_is_right_and_its_neighbour_wrong(number, off):
    completion = f"<think>so</think>\\boxed{{{number}}}"
    assert accuracy(completion, str(number)).outcome == "correct"
    assert accuracy(completion, str(number + off)).outcome == "wrong"
