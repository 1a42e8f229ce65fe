"""Repeated n-grams and explicit steps, in English and Chinese."""

from __future__ import annotations

import pytest
from conftest import shared
from hypothesis import given
from hypothesis import strategies as st

from open_r1.errors import RecipeError
from open_r1.rewards.repetition import reasoning_steps, repetition

TEXT = st.text(st.characters()) | st.text("ab 1.一二步第\n-", max_size=60)


@pytest.mark.parametrize(
    ("completion", "ngram", "score"),
    [
        ("", 3, 0.0),
        ("a b", 3, 0.0),
        ("a b c", 3, 0.0),
        ("a b c d e f", 3, 0.0),
        ("a b c a b c", 3, -0.25),
        ("so so so so so", 2, -0.75),
        ("so so so so", 1, -0.75),
        ("Go on, go  ON, go\non,", 2, -0.6),
        ("<think>a b c</think> a b c", 3, -0.25),
        ("今天天气很好", 3, 0.0),
        ("好的好的好的好的", 2, -2 / 3),
        ("我们再算一次，我们再算一次，我们再算一次，", 3, -0.6),
        ("もう一度計算します。もう一度計算します。もう一度計算します。", 3, -1 + 6 / 16),
        ("ลองอีกครั้งลองอีกครั้งลองอีกครั้งลองอีกครั้ง", 3, -0.45),
    ],
)
def test_repetition(completion, ngram, score):
    assert repetition(completion, ngram=ngram) == pytest.approx(score)


def test_a_loop_costs_nearly_all_in_every_language():
    for phrase in ("wait let me check that again ", "等等，让我再检查一遍。", "待って、もう一度確認します。", "嗯"):
        assert repetition("<think>" + phrase * 200) < -0.95
        assert repetition("<think>" + phrase * 200, max_penalty=-0.5) == pytest.approx(
            repetition("<think>" + phrase * 200) / 2
        )


def test_the_same_text_repeats_as_much_in_every_language():
    score = {}
    for language in ("en", "fr", "de", "zh", "ja"):
        rows = shared("multilingual", f"mgsm_{language}.tsv").read_text().splitlines()
        score[language] = repetition("\n".join(row.split("\t")[0] for row in rows))
    assert all(-0.15 < value < -0.02 for value in score.values()), score


def test_parameters_that_cannot_be():
    with pytest.raises(RecipeError, match="max_penalty"):
        repetition("a", max_penalty=0.5)
    with pytest.raises(RecipeError, match="ngram 0"):
        repetition("a", ngram=0)
    with pytest.raises(RecipeError, match="wanted 0"):
        reasoning_steps("a", wanted=0)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("Step 1: add.\nStep 2: take away.\nStep 3: check.", 3),
        ("**Step 1:** add.\n### Step 2: take away.\n- Step 3: check.", 3),
        ("1. add\n2. take away\n3) check\n(4) go home", 4),
        ("- add\n* take away\n• check", 3),
        ("First, add. Second, take away. Next, check. Finally, answer.", 4),
        ("1. First, add.\n2. Next, check.", 2),
        ("第一步：相加。第二步：相减。第三步：检查。", 3),
        ("首先相加。接下来相减。最后检查。", 3),
        ("一、相加\n二、相减\n① 检查", 3),
        ("1、首先相加\n2、其次相减", 2),
        ("步骤1：相加\n步骤 2：相减", 2),
        ("第一，相加。第二，相减。", 2),
        # near misses
        ("", 0),
        ("We add and take away and check.", 0),
        ("It has 2.5 litres.\n2.5 litres is\n3.14 or so", 0),
        ("The first number is in the next step, finally.", 0),
        ("First class is next door. Second hand is fine.", 0),
        ("A footstep 1 or two.", 0),
        ("-5 is less than 3\n*bold*", 0),
        ("这是首先要做的", 0),
        ("在第二步中", 0),
        ("1.\n2.\n3.\n- \n- ", 0),
        # one step said again is one step
        ("Step 1: add.\nStep 1: add.\nStep 1: add.", 1),
        ("- add\n- Add.\n* add", 1),
    ],
)
def test_reasoning_steps(text, steps):
    assert reasoning_steps(f"<think>{text}</think>4", wanted=5) == steps / 5
    assert reasoning_steps(f"<think>\n{text}\n</think>\n- one\n- two\n- three", wanted=5) == steps / 5
    assert reasoning_steps(text, wanted=1) == min(1, steps)


@given(TEXT, st.integers(1, 5))
def test_total_bounded_and_deterministic(completion, n):
    penalty, steps = repetition(completion, ngram=n), reasoning_steps(completion, wanted=n)
    assert -1.0 <= penalty <= 0.0 and 0.0 <= steps <= 1.0
    assert penalty == repetition(f" {completion}\n", ngram=n)
    assert steps == reasoning_steps(f"\n{completion}\n", wanted=n)


@given(st.text("abcde ", min_size=1), st.integers(1, 4))
def test_saying_it_again_is_never_better(text, n):
    once, thrice = repetition(text, ngram=n), repetition(f"{text} " * 3, ngram=n)
    assert thrice <= once
