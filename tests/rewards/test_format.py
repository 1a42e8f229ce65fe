"""The formats of R1 and R1-Zero: what passes, and what only nearly does."""

from __future__ import annotations

import json

import pytest
from conftest import shared
from hypothesis import given
from hypothesis import strategies as st

from open_r1.rewards.format import TAGS, extract_reasoning, tag_count, think_answer_format, think_format

TEXT = st.text(st.characters())  # surrogates and control characters too
SHAPED = st.lists(st.sampled_from([*TAGS, "a", "1 + 1", " ", "\n", "...", "<answer", "\ud800", "\u200b"])).map("".join)
ZERO = "<think>\na\n</think>\n<answer>b</answer>"


@pytest.mark.parametrize(
    ("completion", "r1", "zero", "tags"),
    [
        (ZERO, 1, 1, 1),
        (f" \n{ZERO}\n ", 1, 1, 1),
        ("<think>a</think><answer>b</answer>", 1, 1, 1),
        ("<think>a <b>bold</b></think> <answer>x < 2</answer>", 1, 1, 1),
        ("<think>a</think>b", 1, 0, 0.5),
        ("<think>a</think>b <answer>c</answer>", 1, 0, 0.75),
        ("<think>a</think><answer>b</answer>c", 1, 0, 0.75),
        ("<think>a</think><answer>b", 1, 0, 0.75),
        ("<think>a</think><answer>b</answ", 1, 0, 0.75),
        # empty reasoning is not reasoning, an empty answer no answer
        ("<think></think><answer>b</answer>", 0, 0, 0.75),
        ("<think> \n\u200b</think><answer>b</answer>", 0, 0, 0.75),
        ("<think>...</think><answer>b</answer>", 0, 0, 0.75),
        ("<think>a</think><answer> \n</answer>", 0, 0, 0.75),
        ("<think>a</think><answer>\u200b</answer>", 0, 0, 0.75),
        ("<think>a</think> ", 0, 0, 0.5),
        # a tag twice, or inside another pair
        ("<think>a<think>b</think><answer>c</answer>", 0, 0, 0.75),
        ("<think>a</think>b</think><answer>c</answer>", 0, 0, 0.75),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 1, 0, 0.5),
        ("<think>a <answer>b</answer></think>", 0, 0, 0.25),
        ("<think>a <answer>b</answer> c</think>d", 1, 0, 0.25),
        ("<answer><think>a</think>b</answer>", 0, 0, 0.25),
        # the wrong order
        ("<answer>b</answer><think>a</think>", 0, 0, 0),
        ("</answer>b<answer></think>a<think>", 0, 0, 0),
        ("<think>a</answer><answer>b</think>", 0, 0, 0.25),
        ("</think>a<think>b", 0, 0, 0),
        # missing or broken tags
        ("a<think>b</think><answer>c</answer>", 0, 0, 0.75),
        ("a</think><answer>b</answer>", 0, 0, 0.75),
        ("<think>a <answer>b</answer>", 0, 0, 0.75),
        ("<think>a</thi", 0, 0, 0.25),
        ("<think>a", 0, 0, 0.25),
        ("<thin", 0, 0, 0),
        ("<THINK>a</THINK><ANSWER>b</ANSWER>", 0, 0, 0),
        ("<think >a</think><answer>b</answer>", 0, 0, 0.75),
        ("a b", 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_formats(completion, r1, zero, tags):
    assert (think_format(completion), think_answer_format(completion), tag_count(completion)) == (r1, zero, tags)


@pytest.mark.parametrize(
    ("convention", "scorer", "rows", "apart"),
    [
        # TRL's own case that empty reasoning is valid is the one we differ on.
        ("<think>..</think>answer", think_format, 14, ["<think></think>\nThis is my answer."]),
        ("<think>\n..\n</think>\n<answer>\n..\n</answer>", think_answer_format, 7, []),
    ],
)
def test_labelled_cases(convention, scorer, rows, apart):
    cases = [json.loads(line) for line in shared("oracle", "format.jsonl").read_text().splitlines()]
    cases = [case for case in cases if case["format"] == convention]
    assert len(cases) == rows
    assert [case["completion"] for case in cases if bool(scorer(case["completion"])) != case["valid"]] == apart


@pytest.mark.parametrize(
    ("completion", "expected"),
    [("<think>a</think>b", "<think>a"), ("a</think>b</think>c", "a</think>b"), ("<think>a", "<think>a"), ("a", "a")],
)
def test_reasoning_is_before_the_last_closing_tag(completion, expected):
    assert extract_reasoning(completion) == expected


@given(TEXT | SHAPED)
def test_total_bounded_and_consistent(completion):
    r1, zero, tags = think_format(completion), think_answer_format(completion), tag_count(completion)
    assert r1 in (0.0, 1.0) and zero in (0.0, 1.0) and tags in (0.0, 0.25, 0.5, 0.75, 1.0)
    assert (tags == 1.0) == (zero == 1.0)
    assert zero <= r1
    assert (r1, zero, tags) == tuple(f(f"\n {completion}\t") for f in (think_format, think_answer_format, tag_count))


@given(st.text("ab <1\n", min_size=1), st.text("ab <1\n", min_size=1), st.data())
def test_what_is_cut_or_goes_on_is_not_whole(thought, answer, data):
    whole = f"<think>a{thought}</think>\n<answer>b{answer}</answer>"
    assert think_answer_format(whole) == tag_count(whole) == 1.0
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    assert think_answer_format(cut) == 0.0 and tag_count(cut) < 1.0
    for tag in TAGS:
        assert think_answer_format(whole.replace(tag, "")) == think_answer_format(whole.replace(tag, tag * 2)) == 0.0
        assert think_answer_format(whole + tag) == think_answer_format(whole + "c") == 0.0
