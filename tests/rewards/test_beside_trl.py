"""Our scorers beside TRL's rewards: the same where TRL's are right; where they are not, what differs and why."""

from __future__ import annotations

import pytest
from trl.rewards import (
    get_cosine_scaled_reward,
    get_repetition_penalty_reward,
    get_soft_overlong_punishment,
    think_format_reward,
)

from open_r1.errors import RecipeError
from open_r1.rewards.format import think_format
from open_r1.rewards.length import cosine_length, soft_overlong
from open_r1.rewards.repetition import repetition
from open_r1.rewards.verdict import Verdict

CORRECT, WRONG = Verdict("correct"), Verdict("wrong")


def chat(completion: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": completion}]


@pytest.mark.parametrize(
    "completion",
    [
        "<think>a</think>b",
        "<think>\na\n</think>\nb",
        "<think>a <b>bold</b></think>b",
        "<think>a",
        "a</think>b",
        "a",
        "",
        "a<think>b</think>c",
        "<think>a<think>b</think>c",
        "<think>a</think>b<think>c</think>",
        "</think>a<think>b",
        "<think>a</thi",
        "<Think>a</Think>b",
    ],
)
def test_think_format_is_the_same(completion):
    assert [think_format(completion)] == think_format_reward([chat(completion)])


@pytest.mark.parametrize(
    ("completion", "ours", "trls", "why"),
    [
        ("<think></think>b", 0.0, 1.0, "empty reasoning is not reasoning"),
        ("<think> \n</think>b", 0.0, 1.0, "nor is white space"),
        ("<think>...</think>b", 0.0, 1.0, "nor are dots"),
        ("<think>a</think>", 0.0, 1.0, "no answer"),
        ("<think>a</think> \n", 0.0, 1.0, "no answer but white space"),
        ("<think>a</think><answer></answer>", 0.0, 1.0, "no answer but its tags"),
        ("<think>a</think>b</think>c", 0.0, 1.0, "which </think> ends the reasoning?"),
        ("\n<think>a</think>b", 1.0, 0.0, "templates and tokenizers put a line break there; it means nothing"),
    ],
)
def test_think_format_differs(completion, ours, trls, why):
    assert (think_format(completion), think_format_reward([chat(completion)])) == (ours, [trls]), why


@pytest.mark.parametrize(("limit", "cache"), [(100, 20), (100, 100), (100, 0), (20480, 4096), (7, 3)])
def test_soft_overlong_is_the_same(limit, cache):
    trls = get_soft_overlong_punishment(limit, cache)
    for tokens in {0, 1, limit - cache, limit - cache + 1, limit - cache // 2, limit - 1, limit, limit + 1, 2 * limit}:
        assert [soft_overlong("", tokens, limit, cache=cache)] == pytest.approx(trls([range(tokens)])), tokens


@pytest.mark.parametrize(("cache", "trls"), [(-50, 0.0), (200, -0.6)])
def test_soft_overlong_differs(cache, trls):
    """A cache that cannot be moves the limit: 20 tokens too many cost nothing, or any completion is too long."""
    assert get_soft_overlong_punishment(100, cache)([range(120 if cache < 0 else 20)]) == pytest.approx([trls])
    with pytest.raises(RecipeError):
        soft_overlong("", 20, 100, cache=cache)


@pytest.mark.parametrize("tokens", [0, 1, 25, 50, 99, 100, 101, 150, 200, 1000])
def test_cosine_length_is_the_same(tokens):
    trls = get_cosine_scaled_reward(100)
    for boxed, verdict in ((r"\boxed{2}", CORRECT), (r"\boxed{3}", WRONG)):
        assert [cosine_length("", tokens, 100, verdict)] == pytest.approx(
            trls([chat(boxed)], ["$2$"], [list(range(tokens))])
        )


@pytest.mark.parametrize(
    ("completion", "solution", "verdict", "trls", "why"),
    [
        (r"<think>\boxed{2}</think>I do not know.", "$2$", WRONG, 1.0, "a box in the reasoning is no answer"),
        (r"<think>a</think>\boxed{x+1}", "x+1", CORRECT, None, "a gold without dollars is skipped, not judged"),
    ],
)
def test_cosine_length_differs(completion, solution, verdict, trls, why):
    """TRL's judges by itself, and so can say otherwise than the recipe's verifier; ours asks the verifier."""
    assert get_cosine_scaled_reward(100)([chat(completion)], [solution], [[]]) == [trls], why
    assert cosine_length(completion, 0, 100, verdict) == (1.0 if verdict is CORRECT else -1.0)


TEXTS = ["", "a", "a b", "a b c", "a b c a b c", "so so so so so so", "the cat sat and the cat sat and the dog sat"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(("ngram", "most"), [(1, -1.0), (2, -0.5), (3, -1.0), (5, -2.0)])
def test_repetition_is_the_same_where_a_word_is_a_token(text, ngram, most):
    vocabulary = {word: i for i, word in enumerate(sorted(set(text.split())))}
    trls = get_repetition_penalty_reward(ngram, most)([[vocabulary[word] for word in text.split()]])
    assert [repetition(text, ngram=ngram, max_penalty=most)] == pytest.approx(trls)


def test_repetition_differs():
    """TRL's counts tokens, so the same words in other letters, or behind a line break, are new to it."""
    said = ["Wait,", "ĠI", "Ġcheck.", "Ċwait,", "Ġi", "ĠCheck."]  # as a byte-level tokenizer would cut it
    assert get_repetition_penalty_reward(2)([[said.index(token) for token in said]]) == [0.0]
    assert repetition("Wait, I check.\nwait, i Check.", ngram=2) == pytest.approx(-0.4)


def test_what_both_refuse():
    with pytest.raises(ValueError):
        get_repetition_penalty_reward(max_penalty=0.1)
    with pytest.raises(RecipeError):
        repetition("a", max_penalty=0.1)
